"""A set of names from which one can be drawn at random in constant time."""

from __future__ import annotations

from random import Random


class RandomSet:
    """Names, each once.

    Args:
        rng: for `draw`.

    """

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._names: list[str] = []
        self._places: dict[str, int] = {}

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._names)

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def add(self, name: str) -> None:
        """Have ``name`` in the set."""
        if name not in self._places:
            self._places[name] = len(self._names)
            self._names.append(name)

    def discard(self, name: str) -> None:
        """Have ``name`` not in the set."""
        place = self._places.pop(name, None)
        if place is None:
            return
        last = self._names.pop()
        if last != name:
            self._names[place] = last
            self._places[last] = place

    def draw(self) -> str:
        """Return one of the names, each with the same chance.

        Raises:
            IndexError: there is none.

        """
        return self._rng.choice(self._names)
