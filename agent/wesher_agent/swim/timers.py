"""Deadlines as a table: what is due next, and what is due now.

Each deadline has a key; setting it again moves it. Nothing here calls anything,
so what a deadline means stays with whoever set it.
"""

from __future__ import annotations

from enum import Enum, auto
from heapq import heapify, heappop, heappush
from typing import NamedTuple


class Kind(Enum):
    """What a deadline is for."""

    PROBE = auto()
    """The next member's turn to be probed."""
    PROBE_TIMEOUT = auto()
    """The direct ping went unanswered: ask others, and try TCP."""
    PROBE_DEADLINE = auto()
    """The whole probe went unanswered."""
    GOSSIP = auto()
    PUSH_PULL = auto()
    SUSPICION = auto()
    """A suspected member's time to deny is over; ``subject`` is its name."""
    RELAY = auto()
    """A ping for somebody else went unanswered; ``subject`` is its sequence number."""
    DEPARTURE = auto()
    """A leave or a move has waited long enough for its broadcast to go out."""
    REQUESTS = auto()
    """An accepted stream's time to deliver its request is over."""
    ANEW = auto()
    """Others hold us at the last incarnation: go away, to return with another."""


class Timer(NamedTuple):
    """A deadline's key."""

    kind: Kind
    subject: str | int = ""


class Timers:
    """The table. Moved and cancelled deadlines are skipped when they surface."""

    def __init__(self) -> None:
        self._due: dict[Timer, tuple[float, int]] = {}
        self._heap: list[tuple[float, int, Timer]] = []
        self._count = 0

    def __contains__(self, timer: Timer) -> bool:
        return timer in self._due

    def set(self, timer: Timer, at: float) -> None:
        """Let ``timer`` be due at ``at``, and at no other time."""
        # The count breaks ties, so that equal deadlines come in the order they were set.
        self._count += 1
        self._due[timer] = (at, self._count)
        heappush(self._heap, (at, self._count, timer))
        if len(self._heap) > 64 + 2 * len(self._due):
            self._heap = [(at, count, timer) for timer, (at, count) in self._due.items()]
            heapify(self._heap)

    def cancel(self, timer: Timer) -> None:
        """Forget ``timer`` if it is set."""
        self._due.pop(timer, None)

    def clear(self) -> None:
        """Forget every deadline."""
        self._due.clear()
        self._heap.clear()

    def next(self) -> float | None:
        """When the earliest deadline is due."""
        heap = self._heap
        while heap:
            at, count, timer = heap[0]
            if self._due.get(timer) == (at, count):
                return at
            heappop(heap)
        return None

    def pop_due(self, now: float) -> Timer | None:
        """Take the earliest deadline that is due at ``now``; it is no longer set."""
        at = self.next()
        if at is None or at > now:
            return None
        timer = heappop(self._heap)[2]
        del self._due[timer]
        return timer
