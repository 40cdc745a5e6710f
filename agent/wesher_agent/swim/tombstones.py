"""The last incarnations of members that gossip has forgotten, so that their old news stays old.

memberlist forgets the dead within a minute or two. Whoever recorded a packet of theirs
could then send it again, and they would be back. A tombstone outlives the member by a
day: only a higher incarnation passes it, which the member itself reaches by a denial
and a replay never does. What is said to whoever meets one is `membership`'s.

Tombstones travel in state exchanges, as members that are dead or have left do: whoever
could not hear a member leave learns it that way, and expects it no longer. What others
say of names unknown here counts as well, but is not told on: two members would else
remind each other of it for ever. There is none of the last incarnation, which nobody
could pass, not even the member.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from random import Random
from typing import Final

from wesher_agent.swim.address import Address
from wesher_agent.swim.members import MAX_INCARNATION

KEPT_SECONDS: Final = 24 * 3600.0
TOLD: Final = 512
"""Tombstones in one state exchange; of more, each exchange tells others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tombstone:
    """A member that is gone."""

    name: str
    incarnation: int
    """Its last."""
    address: Address
    """Its last. Nothing follows from it here, but memberlist wants every entry to have one."""
    age: float = 0.0
    """Seconds since it was found gone; those in which we were down do not count."""
    left: bool = False
    """Whether it said itself that it goes."""


@dataclass(slots=True)
class _Grave:
    incarnation: int
    since: float
    address: Address | None
    """None when it is only known from others."""
    left: bool


class Tombstones:
    """Those that count.

    Args:
        limit: how many are kept at most; those of others go first, then the oldest.
        rng: chooses which are told when there are many.

    """

    def __init__(self, limit: int, rng: Random) -> None:
        self._limit = limit
        self._rng = rng
        self._own: dict[str, _Grave] = {}
        self._heard: dict[str, _Grave] = {}

    def __len__(self) -> int:
        return len(self._own) + len(self._heard)

    def __contains__(self, name: str) -> bool:
        return name in self._own or name in self._heard

    def last_incarnation(self, name: str, *, now: float) -> int:
        """Return the incarnation that a gone member has to exceed; 0 for all others."""
        grave = self._grave(name)
        if grave is None:
            return 0
        if self._is_over(grave, now):
            self.remove(name)
            return 0
        return grave.incarnation

    def bury(self, gone: Tombstone, *, now: float) -> None:
        """Remember a member that we have seen go."""
        if gone.incarnation == MAX_INCARNATION:
            return
        incarnation, left = gone.incarnation, gone.left
        last = self.last_incarnation(gone.name, now=now)
        if (known := self._grave(gone.name)) is not None and incarnation <= last:
            left = known.left or (left and incarnation == last)
            incarnation = last
        self.remove(gone.name)
        while len(self) >= self._limit:
            oldest_first = self._heard or self._own
            del oldest_first[next(iter(oldest_first))]
        self._own[gone.name] = _Grave(incarnation, now - gone.age, gone.address, left)

    def hear(self, name: str, incarnation: int, *, left: bool, now: float) -> bool:
        """Take another's word for it that a member unknown here is gone, or has even left.

        Returns:
            Whether that is news.

        """
        last = self.last_incarnation(name, now=now)
        if not max(last, 1) <= incarnation < MAX_INCARNATION:
            return False
        grave = self._grave(name)
        if grave is None:
            if len(self) < self._limit:
                self._heard[name] = _Grave(incarnation, now, None, left)
            return True
        if incarnation == last and (grave.left or not left):
            return False
        grave.incarnation, grave.left = incarnation, left
        return True

    def remove(self, name: str) -> None:
        """Let a member live again."""
        self._own.pop(name, None)
        self._heard.pop(name, None)

    def ours(self, *, now: float) -> Iterator[Tombstone]:
        """Yield those of members that we have seen go, and drop what is over."""
        for name in [
            name for name, grave in chain(self._own.items(), self._heard.items()) if self._is_over(grave, now)
        ]:
            self.remove(name)
        for name, grave in self._own.items():
            if grave.address is not None:
                yield Tombstone(
                    name=name,
                    incarnation=grave.incarnation,
                    address=grave.address,
                    age=now - grave.since,
                    left=grave.left,
                )

    def told(self, *, most: int, now: float) -> list[Tombstone]:
        """Return what a state exchange has room for."""
        ours = list(self.ours(now=now))
        room = max(0, min(most, TOLD))
        return ours if len(ours) <= room else self._rng.sample(ours, room)

    def _grave(self, name: str) -> _Grave | None:
        return self._own.get(name) or self._heard.get(name)

    def _is_over(self, grave: _Grave, now: float) -> bool:
        return now - grave.since >= KEPT_SECONDS
