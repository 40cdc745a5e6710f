"""How often something may be said to one and the same."""

from __future__ import annotations

from collections.abc import Hashable


class Pauses:
    """Lets each through once in a while.

    Args:
        seconds: between two times for the same.
        limit: of those remembered at once; further ones have to wait.

    """

    def __init__(self, seconds: float, limit: int) -> None:
        self._seconds = seconds
        self._limit = limit
        self._last: dict[Hashable, float] = {}
        """Oldest first, and none older than the pause."""

    def __len__(self) -> int:
        return len(self._last)

    def allow(self, who: Hashable, *, now: float) -> bool:
        """Tell whether it may be said to ``who`` now; then it counts as said."""
        last = self._last
        while last and now - last[oldest := next(iter(last))] >= self._seconds:
            del last[oldest]
        if who in last or len(last) >= self._limit:
            return False
        last[who] = now
        return True
