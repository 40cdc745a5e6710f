"""Sequence numbers that tie acks to pings."""

from __future__ import annotations


class SequenceNumbers:
    """Counts up from 1; wraps at 32 bits, long after an answer could still come."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last = 0

    def next(self) -> int:
        """Return a number not used lately."""
        self._last = (self._last + 1) & 0xFFFFFFFF
        return self._last
