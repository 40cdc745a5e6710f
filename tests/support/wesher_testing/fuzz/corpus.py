"""Grows the kept corpus: ``python -m wesher_testing.fuzz.corpus INPUTS [DECODER ...]``.

Tries that many inputs a decoder, then keeps the shortest that take a step between two lines which
none before took. Those with a name stay whatever they reach.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from wesher_testing.fuzz.fuzzer import CORPUS, INSTRUMENTED, fuzz, kept
from wesher_testing.fuzz.targets import TARGETS, Target

_TIMEOUT = 6 * 3600.0
_FOUND = re.compile(r"[0-9a-f]{40}")

Steps = set[tuple[CodeType, int, int]]
"""From which line to which, and in what function."""


def main(argv: Sequence[str]) -> int:
    """Grow the corpus of the named decoders, or of all; return the exit status."""
    runs, names = int(argv[0]), argv[1:] or [*TARGETS]
    for name in names:
        before = kept(name)
        seed = 1 + secrets.randbelow(2**31 - 1)
        with tempfile.TemporaryDirectory() as scratch:
            outcome = fuzz(name, Path(scratch), runs=runs + len(before), seed=seed, timeout=_TIMEOUT)
        if outcome.complaint:
            print(f"{name}: seed {seed}: {outcome.complaint}")
            print(f"input: {(outcome.culprit or b'').hex()}")
            return 1
        named = {file: data for file, data in before.items() if not _FOUND.fullmatch(file)}
        chosen = worth_keeping(TARGETS[name], [*named.values()], {*before.values(), *outcome.new})
        for file in before.keys() - named.keys():
            (CORPUS / name / file).unlink()
        for data in chosen:
            (CORPUS / name / hashlib.sha1(data, usedforsecurity=False).hexdigest()).write_bytes(data)
        print(f"{name}: {len(named)} named and {len(chosen)} found inputs, seed {seed}", flush=True)
    return 0


def worth_keeping(target: Target, always: Sequence[bytes], others: set[bytes]) -> list[bytes]:
    """Return those of the others that reach what none before them does, the shortest first."""
    reached: Steps = set()
    for data in always:
        reached |= _steps(target, data)
    chosen = []
    for data in sorted(others - {*always}, key=lambda data: (len(data), data)):
        further = _steps(target, data) - reached
        if further:
            chosen.append(data)
            reached |= further
    return chosen


def _steps(target: Target, data: bytes) -> Steps:
    steps: Steps = set()
    last: dict[FrameType, int] = {}

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        if not frame.f_globals.get("__name__", "").startswith(INSTRUMENTED):
            return None
        if event == "line":
            steps.add((frame.f_code, last.get(frame, 0), frame.f_lineno))
            last[frame] = frame.f_lineno
        return trace

    sys.settrace(trace)
    try:
        with suppress(AssertionError):
            target.take(data, lambda: None)
    finally:
        sys.settrace(None)
    return steps


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
