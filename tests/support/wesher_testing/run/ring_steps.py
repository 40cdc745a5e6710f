"""One step of a ring as a process: its start, its output, its end, and what it counted.

The output goes into a file, so that steps side by side do not mix theirs; a step that
runs alone is followed on the terminal meanwhile.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree as ET

from wesher_testing.run.rings import Step
from wesher_testing.run.system_packages import become_root
from wesher_testing.run.toolbox import REPOSITORY, as_root

_GRACE = 30.0
"""Seconds that a step has for cleaning up once it has been asked to end."""
_NO_TESTS = 5
"""pytest's exit status when it found nothing to run."""
_LOOK_SECONDS = 0.05


@dataclass(slots=True)
class Tally:
    """What happened in one step, in one ring, or in all of them."""

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
        """Return it as the closing line prints it."""
        text = f"{self.passed} passed, {self.failed} failed"
        return f"{text}, {self.skipped} skipped" if self.skipped else text


class StepRun:
    """One running step.

    Args:
        step: to run.
        scratch: an empty directory for its output and its counts.
        needs_root: whether to run it as root.
        live: whether its output is shown while it runs, rather than at its end.

    Attributes:
        step: the same.
        seconds: how long it has run, or ran.
        cpu_seconds: what it and its children used, once it has ended.

    """

    def __init__(self, step: Step, scratch: Path, *, needs_root: bool, live: bool) -> None:
        self.step = step
        self.cpu_seconds = 0.0
        self._live = live
        self._words, self._results = scratch / "words.txt", scratch / "results.xml"
        self._shown = self._size = 0
        self._started = self._grown = time.monotonic()
        self._took: float | None = None
        argv = list(step.argv)
        if step.counts_itself:
            argv.append(f"--junit-xml={self._results}")
            if live and sys.stdout.isatty():
                argv.append("--color=yes")
        if needs_root:
            argv = as_root([*argv, "-p", "no:cacheprovider"] if step.counts_itself else argv)
        with self._words.open("wb") as file:
            # In a group of its own: a Ctrl-C at the terminal then reaches it once, through us. A second
            # one would end pytest in the middle of its clean-up.
            self._child = subprocess.Popen(
                argv, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=file, stderr=file, process_group=0
            )

    @property
    def seconds(self) -> float:
        """How long it has run, or ran."""
        return time.monotonic() - self._started if self._took is None else self._took

    @property
    def silent_seconds(self) -> float:
        """Seconds since its last output."""
        return time.monotonic() - self._grown

    def has_ended(self) -> bool:
        """Follow its output, and return whether it has ended."""
        if self._took is None:
            # Only this call tells what processors it used.
            ended, status, used = os.wait4(self._child.pid, os.WNOHANG)
            if ended:
                self._child.returncode = os.waitstatus_to_exitcode(status)
                self.cpu_seconds = used.ru_utime + used.ru_stime
                self._took = time.monotonic() - self._started
        size = self._words.stat().st_size
        if size > self._size:
            self._size, self._grown = size, time.monotonic()
            if self._live:
                self._show_more()
        return self._took is not None

    def output(self) -> str:
        """Return its output so far."""
        return self._words.read_text(errors="replace").rstrip()

    def tally(self) -> Tally:
        """Return what an ended step counted."""
        status = self._child.returncode
        if not self.step.counts_itself:
            return Tally(passed=1) if status == 0 else Tally(failed=1)
        return _count(self._results, status)

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        if self.has_ended():
            return
        try:
            # Not Popen's own: it may take note of an end, which is for has_ended() to do.
            os.kill(self._child.pid, number)
        except PermissionError:
            # What runs through sudo takes signals only from root.
            prefix = become_root() or []
            command = [*prefix, "-n", "sh", "-c", f"kill -{number.value} {self._child.pid}"]
            subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def _show_more(self) -> None:
        with self._words.open("rb") as file:
            file.seek(self._shown)
            more = file.read()
        self._shown += len(more)
        sys.stdout.buffer.write(more)
        sys.stdout.buffer.flush()


def end(running: Sequence[StepRun]) -> None:
    """Let steps clean up after themselves, as after a Ctrl-C, before they are killed."""
    for how in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        for one in running:
            one.send(how)
        patience = time.monotonic() + _GRACE
        while [one for one in running if not one.has_ended()] and time.monotonic() < patience:
            time.sleep(_LOOK_SECONDS)


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
