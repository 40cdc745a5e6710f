"""Sequence numbers that tie acks to pings."""

from __future__ import annotations


class SequenceNumbers:
    """Counts up and wraps at 32 bits, long after an answer could still come.

    Args:
        last: where to begin after; never the same twice, or an answer to an earlier
            run, recorded and sent again, would answer for a member that is dead.

    """

    __slots__ = ("_last",)

    def __init__(self, last: int) -> None:
        self._last = last

    def next(self) -> int:
        """Return a number not used lately."""
        self._last = (self._last + 1) & 0xFFFFFFFF
        return self._last
