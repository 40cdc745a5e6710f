"""When an agent reports: its own state at once, what it sees of others spread over time.

Pure. A thousand agents see the same member fail in the same second; were all to
report it at once, the API server would pay for every failure. So a change of the
view is written at a random moment of a window that grows with the mesh.
"""

from __future__ import annotations

from collections.abc import Hashable
from random import Random

WINDOW_SECONDS, WINDOW_PER_MEMBER = 10.0, 0.3
IDLE_SECONDS, IDLE_SPREAD = 300.0, 0.5
BURST, REFILL_SECONDS = 5.0, 30.0
"""Reports that may follow one another, and how long it takes to earn the next."""
ADMISSION_BURST = 3.0
"""Of those, reports at once for what other members announce: a holder of the cluster key can invent members,
and a change of this node must not wait for them. They are earned as slowly."""
FIRST_BACKOFF, LONGEST_BACKOFF = 1.0, 60.0
_MOST_DOUBLINGS = 10
"""More than it takes from the first to the longest; an unbounded power overflows a float one day."""


class ReportSchedule:
    """Decides when the next status is due.

    Args:
        rng: for the spread.
        now: seconds on the clock that every ``now`` is of.

    """

    def __init__(self, rng: Random, *, now: float) -> None:
        self._rng = rng
        self._own: Hashable = None
        self._admission: Hashable = None
        self._view: Hashable = None
        self._due = now
        self._tokens = BURST
        self._admission_tokens = ADMISSION_BURST
        self._counted = now
        self._failures = 0

    def observe(
        self, own: Hashable, view: Hashable, *, admission: Hashable = None, members: int, now: float
    ) -> None:
        """Take the present state.

        Args:
            own: what is about this node itself; a change is due at once.
            view: what is about others; a change is due within the window.
            admission: what the operator admits members by; a change is due at once, but not many times.
            members: how many there are.
            now: the time.

        """
        self._earn(now)
        if admission != self._admission and self._admission_tokens >= 1:
            self._admission_tokens -= 1
            self._due = min(self._due, now)
        if own != self._own:
            self._due = min(self._due, now)
        elif view != self._view:
            window = max(WINDOW_SECONDS, members * WINDOW_PER_MEMBER)
            self._due = min(self._due, now + self._rng.uniform(0, window))
        self._own, self._view, self._admission = own, view, admission

    def next_report(self, *, now: float) -> float:
        """Return when to report, given nothing changes; not before the allowance permits."""
        self._earn(now)
        missing = max(0.0, 1.0 - self._tokens)
        return max(self._due, now + missing * REFILL_SECONDS)

    def reported(self, *, now: float) -> None:
        """Say that the API server took a report."""
        self._earn(now)
        self._tokens -= 1.0
        self._failures = 0
        self._due = now + IDLE_SECONDS * self._rng.uniform(1 - IDLE_SPREAD, 1 + IDLE_SPREAD)

    def failed(self, *, now: float) -> None:
        """Say that a report did not get through: it is due again, later each time."""
        wait = min(LONGEST_BACKOFF, FIRST_BACKOFF * 2 ** min(self._failures, _MOST_DOUBLINGS))
        self._failures += 1
        self._due = now + wait * self._rng.uniform(0.5, 1.5)

    def _earn(self, now: float) -> None:
        earned = (now - self._counted) / REFILL_SECONDS
        self._tokens = min(BURST, self._tokens + earned)
        self._admission_tokens = min(ADMISSION_BURST, self._admission_tokens + earned)
        self._counted = now
