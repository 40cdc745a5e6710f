"""Runs rings of tests in two lanes and adds up what happened.

Owns the order: one ring that computes and one that waits run side by side, the steps of a
ring too, and the tools of later rings are got meanwhile. Owns the limits, Ctrl-C, what is
shown and the closing line. Which rings there are is `wesher_testing.run.rings`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from wesher_testing.run.ring_set_up import GetTools, SetUp
from wesher_testing.run.ring_steps import StepRun, Tally, end
from wesher_testing.run.rings import Lane, Ring, Step
from wesher_testing.run.system_packages import become_root

LENIENCE = 1.5
"""In CI a ring may take this many times its share; beyond, it is ended and has failed."""
HANG_MINUTES = 30.0
"""A ring hangs if none of its steps prints anything for this long: it is ended everywhere, and has failed."""

_LOOK_SECONDS = 0.05
_PROGRESS_SECONDS = 60.0
_SUDO_SECONDS = 120.0
"""How often sudo's permission is renewed; it lapses after 5 minutes at the earliest."""


def run(
    rings: Sequence[Ring], *, get_tools: GetTools, all_minutes: float, hang_minutes: float = HANG_MINUTES
) -> int:
    """Run rings, print what each did and the closing line; return the exit status.

    Args:
        rings: to run. Those of a lane run in this order, except that a ring whose tools are
            missing lets the next one go first.
        get_tools: returns the command that gets tools; it runs beside the rings.
        all_minutes: what everything may take in CI.
        hang_minutes: how long a ring may print nothing.

    """
    with ExitStack() as stack:
        told_to_end = stack.enter_context(_noted_signals())
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wesher-rings-")))
        sudo = _Sudo(rings)
        set_up = SetUp(rings, get_tools)
        stack.callback(set_up.end)
        runner = _Runner(rings, set_up, sudo, scratch, all_minutes=all_minutes, hang_minutes=hang_minutes)
        while not runner.is_done:
            if told_to_end:
                runner.interrupt()
                break
            runner.look()
            time.sleep(_LOOK_SECONDS)
        return runner.close()


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


def _say(line: str) -> None:
    print(line, flush=True)


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


class _Sudo:
    """Root through sudo for the rings that need it: the password is asked for once."""

    def __init__(self, rings: Sequence[Ring]) -> None:
        needy = [ring.name for ring in rings if ring.needs_root]
        self._prefix = become_root() if needy else []
        self._asked = time.monotonic()
        self.refusal = ""
        if self._prefix is None:
            self.refusal = "needs root or sudo"
        elif self._prefix:
            _say(f"· with sudo: {', '.join(needy)}")
            # Asked now, since the rings themselves run where they could not read a password.
            if subprocess.call([*self._prefix, "-v"]) != 0:
                self.refusal = "needs root, and sudo refused"

    def keep(self) -> None:
        """Renew sudo's permission, so that it lasts until the end of the run."""
        if self._prefix and not self.refusal and time.monotonic() > self._asked + _SUDO_SECONDS:
            self._asked = time.monotonic()
            subprocess.call([*self._prefix, "-n", "-v"], stderr=subprocess.DEVNULL)


@dataclass(slots=True)
class _RingRun:
    """A ring that has begun."""

    ring: Ring
    waiting: list[Step]
    started: float = field(default_factory=time.monotonic)
    running: list[StepRun] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    cpu_seconds: float = 0.0
    verdict: str = ""
    """Why it was ended or not run, if so."""

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started


class _Runner:
    def __init__(
        self,
        rings: Sequence[Ring],
        set_up: SetUp,
        sudo: _Sudo,
        scratch: Path,
        *,
        all_minutes: float,
        hang_minutes: float,
    ) -> None:
        self._waiting = list(rings)
        self._set_up = set_up
        self._sudo = sudo
        self._scratch = scratch
        self._all_minutes = all_minutes
        self._hang_minutes = hang_minutes
        self._strict = os.environ.get("CI") == "true"
        # The output of a single step cannot mix with another's, so it is shown while it runs.
        self._live = [len(ring.steps) for ring in rings] == [1]
        self._lanes: dict[Lane, _RingRun | None] = dict.fromkeys(Lane)
        self._started = self._told = time.monotonic()
        self._numbers = iter(range(1 << 30))
        self._total = Tally()
        self._lines: list[str] = []

    @property
    def is_done(self) -> bool:
        return not self._waiting and not any(self._lanes.values())

    def look(self) -> None:
        """Start what can start, finish what has ended, and end what is over its limit."""
        self._set_up.look()
        self._sudo.keep()
        for lane, ring_run in self._lanes.items():
            if ring_run is None:
                self._begin_ring(lane)
            else:
                self._go_on(ring_run)
                if not ring_run.running and not ring_run.waiting:
                    self._lanes[lane] = None
                    self._finish_ring(ring_run)
        if self._strict and time.monotonic() > self._started + self._all_minutes * 60:
            self._give_up(f"all rings together took longer than {self._all_minutes:g} min", show=True)
        elif not self._live and time.monotonic() > self._told + _PROGRESS_SECONDS:
            self._told = time.monotonic()
            self._say_progress()

    def interrupt(self) -> None:
        """End everything after a Ctrl-C, without the output of the steps it ends."""
        self._give_up("interrupted", show=False)

    def close(self) -> int:
        """Print the summary and the closing line; return the exit status."""
        took = time.monotonic() - self._started
        _say("━━ summary")
        for line in (
            *self._lines,
            f"{'set-up':<12}{self._set_up.seconds:7.1f} s  (runs beside the rings)",
            f"{'everything':<12}{took:7.1f} s",
        ):
            _say(line)
        for reason, count in sorted(self._total.reasons.items()):
            _say(f"not run: {reason} ({count})")
        _say(str(self._total))
        return 1 if self._total.failed or not self._total.passed else 0

    def _begin_ring(self, lane: Lane) -> None:
        ring = self._next(lane)
        if ring is None:
            return
        self._waiting.remove(ring)
        ring_run = _RingRun(ring, list(ring.steps))
        if problem := self._problem_of(ring):
            ring_run.waiting.clear()
            if self._set_up.has_failed(ring):
                ring_run.tally, ring_run.verdict = Tally(failed=1), problem
            else:
                ring_run.tally = Tally(skipped=1, reasons=Counter([f"{ring.name} {problem}"]))
            self._finish_ring(ring_run)
            return
        _say(f"━━ {ring.name}: {ring.proves}")
        self._lanes[lane] = ring_run
        self._go_on(ring_run)

    def _next(self, lane: Lane) -> Ring | None:
        """Return the ring to begin in a free lane; a ring that waits may run in either."""
        own = [ring for ring in self._waiting if ring.lane is lane]
        if not own and lane is Lane.COMPUTES:
            own = self._waiting
        return next((ring for ring in own if self._problem_of(ring) or self._set_up.is_settled(ring)), None)

    def _problem_of(self, ring: Ring) -> str:
        if ring.needs_root and self._sudo.refusal:
            return self._sudo.refusal
        problem = self._set_up.problem_of(ring)
        return f"needs a tool: {problem}" if problem else ""

    def _go_on(self, ring_run: _RingRun) -> None:
        """Finish the steps that have ended, and start as many as there are workers."""
        ring = ring_run.ring
        for one in [one for one in ring_run.running if one.has_ended()]:
            ring_run.running.remove(one)
            self._finish_step(ring_run, one)
        while ring_run.waiting and len(ring_run.running) < ring.workers:
            place = self._scratch / str(next(self._numbers))
            place.mkdir()
            step = ring_run.waiting.pop(0)
            ring_run.running.append(StepRun(step, place, needs_root=ring.needs_root, live=self._live))
        if self._strict and ring_run.seconds > ring.minutes * 60 * LENIENCE:
            self._end_ring(ring_run, f"took longer than {LENIENCE} x its limit of {ring.minutes:g} min")
        elif ring_run.running and all(
            one.silent_seconds > self._hang_minutes * 60 for one in ring_run.running
        ):
            self._end_ring(ring_run, f"hangs: no output for {self._hang_minutes:g} min")

    def _end_ring(self, ring_run: _RingRun, why: str) -> None:
        names = ", ".join(one.step.name for one in ring_run.running)
        _say(f"{ring_run.ring.name}: {why}; stopping {names}")
        end(ring_run.running)
        for one in ring_run.running:
            self._finish_step(ring_run, one)
        ring_run.running.clear()
        ring_run.waiting.clear()
        ring_run.tally.failed += 1
        ring_run.verdict = why

    def _give_up(self, why: str, *, show: bool) -> None:
        _say(f"━━ {why}")
        begun = [ring_run for ring_run in self._lanes.values() if ring_run]
        end([one for ring_run in begun for one in ring_run.running])
        self._set_up.end()
        for ring_run in begun:
            for one in ring_run.running if show else ():
                self._finish_step(ring_run, one)
            self._add_line(ring_run, f"{ring_run.tally}; {why}")
            self._total += ring_run.tally
        if self._waiting:
            self._lines.append(f"{'not started':<12}{', '.join(ring.name for ring in self._waiting)}")
        self._lanes = dict.fromkeys(Lane)
        self._waiting.clear()
        self._total.failed += 1

    def _finish_step(self, ring_run: _RingRun, one: StepRun) -> None:
        tally = one.tally()
        ring_run.tally += tally
        ring_run.cpu_seconds += one.cpu_seconds
        if self._live:
            return
        counted = str(tally) if one.step.counts_itself and not tally.failed else ""
        result = "FAILED" if tally.failed else counted or "ok"
        times = f"{one.seconds:6.1f} s, {one.cpu_seconds:5.1f} s of CPU"
        _say(f"── {ring_run.ring.name}: {one.step.name:<20} {times}  {result}")
        if tally.failed or not one.step.quiet:
            _say(one.output())

    def _finish_ring(self, ring_run: _RingRun) -> None:
        ring, tally = ring_run.ring, ring_run.tally
        if tally == Tally():
            tally = Tally(skipped=1, reasons=Counter([f"{ring.name} has no tests"]))
        verdict = str(tally) if not ring_run.verdict else f"{tally}; {ring_run.verdict}"
        if self._strict and tally.skipped:
            verdict += "; nothing may be skipped in CI"
            tally.failed, tally.skipped = tally.failed + tally.skipped, 0
        self._total += tally
        self._add_line(ring_run, verdict)
        _say(f"━━ {self._lines[-1]}")

    def _add_line(self, ring_run: _RingRun, verdict: str) -> None:
        times = f"{ring_run.seconds:7.1f} s, {ring_run.cpu_seconds:6.1f} s of CPU"
        self._lines.append(f"{ring_run.ring.name:<12}{times}  {verdict}")

    def _say_progress(self) -> None:
        parts = [
            f"{ring_run.ring.name} {_minutes(ring_run.seconds)} "
            f"({', '.join(one.step.name for one in ring_run.running)})"
            for ring_run in self._lanes.values()
            if ring_run
        ]
        if tools := self._set_up.remaining:
            parts.append(f"set-up: {', '.join(tools)}")
        _say(f"· {_minutes(time.monotonic() - self._started)}  {'; '.join(parts)}")
