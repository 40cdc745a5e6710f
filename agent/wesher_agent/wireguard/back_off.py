"""When a program that failed is started again; pure.

A program that ran for a while is started again at once. One that cannot be started, or
keeps exiting, is started ever more rarely.
"""

from __future__ import annotations

STEADY_SECONDS = 60.0
"""After which a run counts as a success."""
FIRST_DELAY, LONGEST_DELAY = 0.5, 30.0
"""Seconds. The first failure after a steady run costs no delay."""


class BackOff:
    """The delays between the attempts to start one program."""

    def __init__(self) -> None:
        self.retry_at: float | None = None
        """When to start the program; None while it runs, and before the first attempt."""
        self._running_since: float | None = None
        self._delay = 0.0

    def running(self, *, now: float) -> None:
        """Take note that the program runs."""
        self.retry_at, self._running_since = None, now

    def failed(self, *, now: float) -> None:
        """Take note that the program exited, or could not be started."""
        since, self._running_since = self._running_since, None
        if since is not None and now - since >= STEADY_SECONDS:
            self._delay = 0.0
        self.retry_at = now + self._delay
        self._delay = min(max(2 * self._delay, FIRST_DELAY), LONGEST_DELAY)

    def remaining(self, *, now: float) -> float:
        """Return how many seconds to wait before the next attempt."""
        return 0.0 if self.retry_at is None else max(0.0, self.retry_at - now)
