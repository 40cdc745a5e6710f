"""What a demo will take, said before anything is fetched: time, disk space, downloads."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Cost:
    """What one part of the demo takes."""

    time: str
    """In words."""
    megabytes: int = 0
    """Of disk that is not in use yet; 0 where everything is there."""
    how: str = ""
    """What is fetched or built, as a sentence."""


@dataclass(slots=True)
class Plan:
    """The parts of a demo in their order, and where they put what they fetch."""

    cache: Path
    parts: list[tuple[str, Cost]] = field(default_factory=list)
    elsewhere: str = ""
    """What else uses disk space."""

    def lines(self) -> Iterator[str]:
        """Yield the plan line by line."""
        for number, (part, cost) in enumerate(self.parts, start=1):
            yield f"Part {number}, {part}: {cost.time}." if len(self.parts) > 1 else f"Time: {cost.time}."
            if cost.how:
                yield cost.how
        if wanted := sum(cost.megabytes for _, cost in self.parts):
            there = next(path for path in (self.cache, *self.cache.parents) if path.exists())
            free = shutil.disk_usage(there).free // 10**6
            places = f"{self.cache} and {self.elsewhere}" if self.elsewhere else f"{self.cache}"
            yield f"Disk space: {_size(wanted)} in {places} ({_size(free)} free)."
        else:
            yield "Nothing has to be fetched."


def _size(megabytes: int) -> str:
    return f"{megabytes} MB" if megabytes < 1000 else f"{megabytes / 1000:.1f} GB"
