"""Runs rings of tests one after the other and adds up what happened.

Owns how a ring is run: its set-up, its time share, root by sudo, Ctrl-C, what counts
as passed, failed and skipped, and the closing line. Which rings there are is
`wesher_testing.rings`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree as ET

from wesher_testing.cache import ToolUnavailable, report
from wesher_testing.system_packages import become_root
from wesher_testing.toolbox import REPOSITORY, as_root

_LENIENCE = 1.5
"""A ring may take this many times its share; beyond, it is ended and has failed."""
_GRACE = 30.0
"""Seconds a ring that was told to end has for cleaning up after itself."""
_NO_TESTS = 5
"""pytest's exit status when it found nothing to run."""


@dataclass(frozen=True, slots=True)
class Step:
    """One command of a ring."""

    name: str
    argv: tuple[str, ...]
    counts_itself: bool = False
    """Whether it is pytest and tells how many tests it ran; any other command counts as one."""


@dataclass(frozen=True, slots=True)
class Ring:
    """One ring: what it proves, what it costs, what it needs."""

    name: str
    proves: str
    minutes: float
    """Its share of the time budget on two cores, set-up not counted."""
    steps: tuple[Step, ...]
    """Run side by side when there is more than one, each one's words shown when it ends."""
    needs_root: bool = False
    prepare: tuple[Callable[[], object], ...] = ()
    """What the toolbox must have ready; may raise `ToolUnavailable`."""


@dataclass(slots=True)
class Tally:
    """What happened in one ring, or in all of them."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    """Why things were skipped, and how many."""

    def __add__(self, other: Tally) -> Tally:
        """Add two tallies up."""
        return Tally(
            self.passed + other.passed,
            self.failed + other.failed,
            self.skipped + other.skipped,
            self.reasons + other.reasons,
        )

    def __str__(self) -> str:
        """Say it as the closing line does."""
        text = f"{self.passed} passed, {self.failed} failed"
        return f"{text}, {self.skipped} skipped" if self.skipped else text


def run(rings: Sequence[Ring], *, set_up_minutes: float, all_minutes: float) -> int:
    """Run rings in order, print what each did and the closing line; return the exit status.

    Args:
        rings: to run.
        set_up_minutes: the share of getting every tool that the rings need.
        all_minutes: what rings and set-up may take together, without any lenience.

    """
    strict = os.environ.get("CI") == "true"
    began = time.monotonic()
    total = Tally()
    lines: list[str] = []
    set_up_seconds = 0.0
    try:
        for ring in rings:
            _say(f"━━ {ring.name}: {ring.proves}")
            started = time.monotonic()
            lacking = _prepare(ring)
            prepared = time.monotonic()
            set_up_seconds += prepared - started
            tally = _run_ring(ring) if lacking is None else Tally(skipped=1, reasons=Counter([lacking]))
            took = time.monotonic() - prepared
            if tally == Tally():
                tally = Tally(skipped=1, reasons=Counter([f"{ring.name} has no tests"]))
            verdict = str(tally)
            if strict and tally.skipped:
                verdict += "; nothing may be skipped in CI"
                tally.failed, tally.skipped = tally.failed + tally.skipped, 0
            if took > ring.minutes * 60 * _LENIENCE:
                verdict += f"; over {_LENIENCE} x its share of {ring.minutes:g} min"
                tally.failed += 1
            lines.append(f"{ring.name:<10} {took:6.1f} s  {verdict}")
            total += tally
        if set_up_seconds > set_up_minutes * 60 * _LENIENCE:
            lines.append(
                f"set-up took {set_up_seconds:.0f} s, over {_LENIENCE} x its share of {set_up_minutes:g} min"
            )
            total.failed += 1
        if (took := time.monotonic() - began) > all_minutes * 60:
            lines.append(f"everything took {took:.0f} s, over {all_minutes:g} min")
            total.failed += 1
    except KeyboardInterrupt:
        _say("━━ interrupted")
        total.failed += 1
    _say("━━ summary")
    for line in (*lines, f"{'set-up':<10} {set_up_seconds:6.1f} s"):
        _say(line)
    for reason, count in sorted(total.reasons.items()):
        _say(f"not run: {reason} ({count})")
    _say(str(total))
    return 1 if total.failed or not total.passed else 0


def _say(line: str) -> None:
    print(line, flush=True)


def _prepare(ring: Ring) -> str | None:
    """Get what the ring needs; return why it cannot run here, if so."""
    if ring.needs_root and (prefix := become_root()):
        report(f"{ring.name} needs root: running it with sudo")
        # Asked now, since the ring itself runs where it could not read a password.
        if subprocess.call([*prefix, "-v"]) != 0:
            return f"{ring.name} needs root, and sudo refused"
    elif ring.needs_root and prefix is None:
        return f"{ring.name} needs root or sudo"
    try:
        for prepare in ring.prepare:
            prepare()
    except ToolUnavailable as error:
        return f"{ring.name} needs a tool: {error}"
    return None


def _run_ring(ring: Ring) -> Tally:
    started = time.monotonic()
    deadline = started + ring.minutes * 60 * _LENIENCE
    alone = len(ring.steps) == 1
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="wesher-ring-") as scratch:
        with _noted_signals() as told_to_end:
            running = [_start(ring, step, Path(scratch), alone=alone) for step in ring.steps]
            while running:
                if told_to_end or time.monotonic() > deadline:
                    why = "told to end" if told_to_end else "out of time"
                    _say(f"{ring.name}: {why}, ending {', '.join(one.step.name for one in running)}")
                    _end(running)
                for one in [one for one in running if one.child.poll() is not None]:
                    running.remove(one)
                    tally += _finish(one, time.monotonic() - started, alone=alone)
                time.sleep(0.05)
        if told_to_end:
            raise KeyboardInterrupt
    return tally


@contextmanager
def _noted_signals() -> Iterator[list[int]]:
    """Collect the signals that end a run, which as exceptions could lose a child just started."""
    noted: list[int] = []
    signals = (signal.SIGINT, signal.SIGTERM)
    handlers = [signal.signal(number, lambda received, _frame: noted.append(received)) for number in signals]
    try:
        yield noted
    finally:
        for number, handler in zip(signals, handlers, strict=True):
            signal.signal(number, handler)


@dataclass(frozen=True, slots=True)
class _Running:
    step: Step
    child: subprocess.Popen[bytes]
    words: Path
    results: Path


def _start(ring: Ring, step: Step, scratch: Path, *, alone: bool) -> _Running:
    words, results = scratch / f"{step.name}.txt", scratch / f"{step.name}.xml"
    argv = [*step.argv, f"--junit-xml={results}"] if step.counts_itself else list(step.argv)
    if ring.needs_root:
        argv = as_root([*argv, "-p", "no:cacheprovider"] if step.counts_itself else argv)
    with words.open("wb") as file:
        output = None if alone else file
        # In a group of its own: a Ctrl-C at the terminal then reaches it once, through us. A second
        # one would end pytest in the middle of its clean-up.
        child = subprocess.Popen(
            argv, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=output, stderr=output, process_group=0
        )
    return _Running(step, child, words, results)


def _finish(one: _Running, took: float, *, alone: bool) -> Tally:
    status = one.child.returncode
    if one.step.counts_itself:
        tally = _count(one.results, status)
    else:
        tally = Tally(passed=1) if status == 0 else Tally(failed=1)
    if not alone:
        _say(f"{one.step.name:<14} {took:6.1f} s  {'FAILED' if tally.failed else 'ok'}")
        if tally.failed:
            _say(one.words.read_text(errors="replace").rstrip())
    return tally


def _end(running: Sequence[_Running]) -> None:
    """Let commands clean up after themselves, as after a Ctrl-C, before they are killed."""
    for how in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        for one in running:
            if one.child.poll() is None:
                one.child.send_signal(how)
        patience = time.monotonic() + _GRACE
        while any(one.child.poll() is None for one in running) and time.monotonic() < patience:
            time.sleep(0.05)


def _count(results: Path, status: int) -> Tally:
    """Add up pytest's own report; a status its counts do not explain is one more failure."""
    tally = Tally()
    cases = ET.parse(results).iter("testcase") if results.exists() else ()  # noqa: S314 - our own
    for case in cases:
        skipped = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            tally.failed += 1
        elif skipped is not None:
            tally.skipped += 1
            tally.reasons[skipped.get("message", "no reason given")] += 1
        else:
            tally.passed += 1
    if status not in (0, _NO_TESTS) and not tally.failed:
        tally.failed += 1
    return tally
