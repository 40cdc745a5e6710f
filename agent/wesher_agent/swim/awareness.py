"""How healthy this member is itself: Lifeguard's local health multiplier.

A member that misses answers it should have got, or has to deny its own death, is
probably slow itself, so it gives others more time (`awareness.go`; Dadgar et al.,
"Lifeguard: Local Health Awareness for More Accurate Failure Detection", 2018).
"""

from __future__ import annotations


class Awareness:
    """A score from 0, healthy, to ``max_multiplier - 1``."""

    __slots__ = ("_max", "score")

    def __init__(self, max_multiplier: int) -> None:
        self._max = max_multiplier
        self.score = 0

    def apply_delta(self, delta: int) -> None:
        """Worsen (positive) or better (negative) the score, within its bounds."""
        self.score = max(0, min(self._max - 1, self.score + delta))

    def scale_timeout(self, timeout: float) -> float:
        """Stretch a time by the score: unchanged when healthy."""
        return timeout * (self.score + 1)
