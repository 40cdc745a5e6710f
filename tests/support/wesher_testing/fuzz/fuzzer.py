"""Coverage-guided fuzzing of one decoder, by atheris: ``python -m wesher_testing.fuzz.fuzzer TARGET FOUND``.

A process of its own for each decoder: libFuzzer ends the process that it ran in, and the decoders'
code has to be instrumented before anything imports it. What the parent needs to know is left in
the directory ``FOUND``. It owns the loop and its measurements; `fuzz.targets` has the decoders.
"""

from __future__ import annotations

import argparse
import functools
import gc
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from heapq import heappush, heappushpop
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from wesher_testing.run.toolbox import REPOSITORY

if TYPE_CHECKING:
    # At run time only after the instrumentation was put in place.
    from wesher_testing.fuzz.targets import Target

CORPUS = REPOSITORY / "tests/fuzz/corpus"
STALL = 0.05
"""Seconds of processor time for which one input, or one slice of it, may keep the event loop."""

INSTRUMENTED = ("wesher_agent", "wesher_common")
"""The packages whose code is to be reached."""

_REPORT = "report.json"
_NEW = "new"
_SLOW_KEPT = 20
_RESIDENT_MIB = 1024
_HANG_SECONDS = 120
_TRIES = 5
_STRUCTURED = 0.7
"""Share of changes to JSON that leave it JSON."""


@dataclass(frozen=True, slots=True)
class Report:
    """What one run has measured."""

    runs: int
    blocks_grown: int
    """Python's memory blocks at the end, less those at half time."""
    resident_grown_kib: int
    """The same of the largest resident size."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one run ended."""

    complaint: str
    """What libFuzzer and Python said at the end, when it failed; else empty."""
    culprit: bytes | None
    """The input that raised, hung or took all memory."""
    new: tuple[bytes, ...]
    """Inputs that reached code no kept one had reached."""
    slow: tuple[bytes, ...]
    """Those inputs that took longest in instrumented code, and may or may not without."""
    report: Report | None


def kept(name: str) -> dict[str, bytes]:
    """Return a target's kept inputs by the names of their files."""
    return {path.name: path.read_bytes() for path in sorted((CORPUS / name).iterdir())}


def is_quick(target: Target, data: bytes) -> bool:
    """Tell whether no slice of reading an input takes long."""
    # On a busy machine anything is slow once.
    for _ in range(_TRIES):
        watch = _Stopwatch()
        target.take(data, watch.lap)
        watch.lap()
        if watch.longest < STALL:
            return True
    return False


class _Stopwatch:
    """Measures this thread's processor time between laps, so that others' work does not count."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._began = time.thread_time()

    def lap(self) -> None:
        """End a slice and begin the next."""
        now = time.thread_time()
        self.longest = max(self.longest, now - self._began)
        self._began = now


def fuzz(name: str, directory: Path, *, runs: int, seed: int, timeout: float) -> Outcome:
    """Fuzz one target in a process of its own.

    Args:
        name: a key of `fuzz.targets.TARGETS`.
        directory: empty; where everything found is left.
        runs: inputs to try, the kept ones included.
        seed: of libFuzzer's dice; the same inputs follow from the same seed and code.
        timeout: seconds until it is killed.

    """
    (directory / _NEW).mkdir()
    command = [sys.executable, "-m", "wesher_testing.fuzz.fuzzer", name, str(directory)]
    done = subprocess.run(
        [*command, f"--runs={runs}", f"--seed={seed}"],
        capture_output=True,
        check=False,
        timeout=timeout,
        # Sets must be walked in the same order when a seed is tried again.
        env={**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": str(REPOSITORY / "tests/support")},
    )
    said = (done.stdout + done.stderr).decode(errors="replace")
    culprits = [path for path in directory.iterdir() if path.name.startswith(("crash-", "timeout-", "oom-"))]
    report = directory / _REPORT
    return Outcome(
        said[-4000:] if done.returncode else "",
        culprits[0].read_bytes() if culprits else None,
        tuple(path.read_bytes() for path in sorted((directory / _NEW).iterdir())),
        tuple(path.read_bytes() for path in sorted(directory.glob("slow-*"))),
        Report(**json.loads(report.read_text())) if report.exists() else None,
    )


class _Watch:
    """Gives inputs to a target, and measures."""

    def __init__(self, take: Callable[[bytes, Callable[[], None]], None], directory: Path, runs: int) -> None:
        self._take = take
        self._directory = directory
        self._runs = runs
        self._done = 0
        self._slow: list[tuple[float, Path]] = []
        """The slowest so far and where they are kept; the quickest of them first."""
        self._half_time = (0, 0)

    def give(self, data: bytes) -> None:
        """Read one input, note it when it is slow, and measure at half time and at the end."""
        watch = _Stopwatch()
        self._take(data, watch.lap)
        watch.lap()
        self._done += 1
        if watch.longest > STALL:
            self._keep_slow(watch.longest, data)
        if self._done == self._runs // 2:
            self._half_time = _memory()
        elif self._done == self._runs:
            blocks, resident = _memory()
            report = Report(self._done, blocks - self._half_time[0], resident - self._half_time[1])
            (self._directory / _REPORT).write_text(json.dumps(asdict(report)))

    def _keep_slow(self, seconds: float, data: bytes) -> None:
        kept = (seconds, self._directory / f"slow-{self._done}")
        kept[1].write_bytes(data)
        if len(self._slow) < _SLOW_KEPT:
            heappush(self._slow, kept)
        else:
            heappushpop(self._slow, kept)[1].unlink()


def _memory() -> tuple[int, int]:
    """Return Python's memory blocks without what caches hold, and the resident size in KiB."""
    gc.collect()
    for found in gc.get_objects():
        # Each has its own bound.
        if isinstance(found, functools._lru_cache_wrapper) and found.__module__.startswith(INSTRUMENTED):
            found.cache_clear()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return sys.getallocatedblocks(), pages * os.sysconf("SC_PAGE_SIZE") // 1024


def main(argv: Sequence[str]) -> None:
    """Fuzz until done, which ends the process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("target")
    parser.add_argument("found", type=Path)
    parser.add_argument("--runs", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    given = parser.parse_args(argv)
    # Imported only here: without it, on machines that have no wheel of it, all else can be used.
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=list(INSTRUMENTED)):
        targets: Any = importlib.import_module("wesher_testing.fuzz.targets")
    target = targets.TARGETS[given.target]
    watch = _Watch(target.take, given.found, given.runs)
    options = {
        "runs": given.runs,
        "seed": given.seed,
        "max_len": target.most,
        # From the first input on: short ones alone would never be whole messages.
        "len_control": 0,
        "artifact_prefix": f"{given.found}/",
        "rss_limit_mb": _RESIDENT_MIB,
        "timeout": _HANG_SECONDS,
        "print_final_stats": 1,
    }
    flags = [f"-{name}={value}" for name, value in options.items()]

    def mutate(data: bytes, most: int, dice: int) -> bytes:
        rng = Random(dice)
        changed = targets.mutate_json(data, rng) if rng.random() < _STRUCTURED else None
        return changed if changed and len(changed) <= most else bytes(atheris.Mutate(data, most))

    # New ones go into the first directory.
    arguments = ["fuzzing", *flags, str(given.found / _NEW), str(CORPUS / given.target)]
    atheris.Setup(arguments, watch.give, **({"custom_mutator": mutate} if target.json else {}))
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
