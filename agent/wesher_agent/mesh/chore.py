"""One kind of work that a member has its shell do: when it is due, and what became of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf


@dataclass(slots=True)
class Chore:
    """At most one at a time, a pause between two, and another try after one that failed."""

    pause: float
    """Seconds between the end of one and the next."""
    retry: float
    """Seconds after which one that failed is tried again without any news."""
    problem: str = ""
    """Why the last one failed; empty when it did not."""
    is_wanted: bool = False
    """Whether there is something new to do it for."""
    is_running: bool = False
    _earliest: float = -inf
    """When news may be acted on: a failure does not hold them up."""
    _retry_at: float = inf

    @property
    def due(self) -> float:
        """When to begin the next one; infinite when there is no reason to, or one is still running."""
        if self.is_running:
            return inf
        return min(self._earliest if self.is_wanted else inf, self._retry_at)

    @property
    def is_under_way(self) -> bool:
        """Whether one is running or wanted."""
        return self.is_running or self.is_wanted

    def want(self) -> None:
        """Have it done once more, from now on."""
        self.is_wanted = True

    @contextmanager
    def beginning(self, *, now: float) -> Iterator[None]:
        """Begin one in a ``with`` block: a `want` from then on means one more.

        What the block raises ends it as a failure, so that it is tried again: otherwise it
        would never end, or begin again at once.
        """
        self.is_wanted, self.is_running, self._retry_at = False, True, inf
        try:
            yield
        except BaseException:
            self.end("internal error of the agent: its log has a traceback", now=now)
            raise

    def end(self, problem: str, *, now: float) -> None:
        """Take note of how it went; no problem means well."""
        self.is_running, self.problem = False, problem
        self._earliest = now + self.pause
        self._retry_at = now + self.retry if problem else inf
