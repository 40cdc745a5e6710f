"""One kind of work that a member has its shell do: when it is due, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf


@dataclass(slots=True)
class Chore:
    """At most one at a time, a pause between two, and another try after one that failed."""

    pause: float
    """Seconds between the end of one and the next."""
    retry: float
    """Seconds after which one that failed is tried again."""
    problem: str = ""
    """Why the last one failed; empty when it did not."""
    is_wanted: bool = False
    is_running: bool = False
    _earliest: float = -inf

    @property
    def due(self) -> float:
        """When to begin the next one; infinite when none is wanted or one is still running."""
        return self._earliest if self.is_wanted and not self.is_running else inf

    def want(self) -> None:
        """Have it done once more, from now on."""
        self.is_wanted = True

    def begin(self) -> None:
        """Take note that it is being done: a `want` from now on means one more."""
        self.is_wanted, self.is_running = False, True

    def end(self, problem: str, *, now: float) -> None:
        """Take note of how it went; no problem means well."""
        self.is_running, self.problem = False, problem
        self.is_wanted = self.is_wanted or bool(problem)
        self._earliest = now + (self.retry if problem else self.pause)
