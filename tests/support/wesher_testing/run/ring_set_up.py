"""Gets the tools of rings in the background.

Owns the process that does it, which runs at a low priority so that the tests come first,
and the state of each tool.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from wesher_testing.run.rings import Ring
from wesher_testing.run.toolbox import REPOSITORY

GetTools = Callable[[Sequence[str]], Sequence[str]]
"""Takes names of tools and returns the command that gets them; see `wesher_testing.run.ring_tools`."""

_GRACE = 30.0


class SetUp:
    """Gets the tools of rings from the moment it is made.

    Attributes:
        seconds: how long it has taken, or took.

    """

    def __init__(self, rings: Sequence[Ring], get_tools: GetTools) -> None:
        self._waiting = list(dict.fromkeys(tool for ring in rings for tool in ring.tools))
        self._problems: dict[str, str] = {}
        self._broken: set[str] = set()
        self._pending = b""
        self._child: subprocess.Popen[bytes] | None = None
        self._started = time.monotonic()
        self.seconds = 0.0
        if self._waiting:
            self._child = subprocess.Popen(
                ["nice", *get_tools(self._waiting)],
                cwd=REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                process_group=0,
            )

    @property
    def remaining(self) -> tuple[str, ...]:
        """The tools that are still to be got."""
        return tuple(self._waiting)

    def look(self) -> None:
        """Read which tools have been got."""
        if self._child is None or self._child.stdout is None:
            return
        os.set_blocking(self._child.stdout.fileno(), False)
        self.seconds = time.monotonic() - self._started
        while more := self._child.stdout.read():
            *lines, self._pending = (self._pending + more).split(b"\n")
            for line in lines:
                self._settle(**json.loads(line))
        if more == b"":
            status = self._child.wait()
            self._child.stdout.close()
            self._child = None
            for tool in [*self._waiting]:
                self._settle(tool, broken=f"set-up ended with status {status}")

    def is_settled(self, ring: Ring) -> bool:
        """Return whether all tools of a ring are there, or one of them cannot be had."""
        return bool(self.problem_of(ring)) or not set(ring.tools) & set(self._waiting)

    def problem_of(self, ring: Ring) -> str:
        """Return why a ring cannot run; empty if no problem is known."""
        return next((self._problems[tool] for tool in ring.tools if tool in self._problems), "")

    def has_failed(self, ring: Ring) -> bool:
        """Return whether set-up itself failed, rather than this machine lacking something."""
        return not self._broken.isdisjoint(ring.tools)

    def end(self) -> None:
        """End it, unless it is done."""
        if self._child is None or self._child.stdout is None:
            return
        for how in (signal.SIGINT, signal.SIGKILL):
            self._child.send_signal(how)
            with suppress(subprocess.TimeoutExpired):
                self._child.wait(_GRACE)
                break
        self._child.stdout.close()
        self._child = None

    def _settle(self, tool: str, *, lacking: str = "", broken: str = "") -> None:
        self._waiting.remove(tool)
        if problem := lacking or broken:
            self._problems[tool] = problem
        if broken:
            self._broken.add(tool)
