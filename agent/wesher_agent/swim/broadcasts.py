"""News waiting to be gossiped, each piece a limited number of times (`queue.go`).

At most one piece per name: a newer one replaces the older. So the queue cannot
grow past the number of members.

Pieces that go first are sent before all others, however new those are. memberlist has no such
pieces: anyone who has its key can invent names so fast that no other news gets through.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from typing import NamedTuple


def retransmit_limit(retransmit_mult: int, n: int) -> int:
    """Return how often each piece is sent among ``n`` members (`util.go`)."""
    return retransmit_mult * math.ceil(math.log10(n + 1))


class _Entry(NamedTuple):
    """Sorts by length, then age; in a tier of equal transmits the last that fits goes first."""

    length: int
    id: int
    name: str
    message: bytes


_Tiers = list[list[_Entry]]
"""By number of transmits, each sorted."""


class Broadcasts:
    """The transmit-limited queue.

    What goes first is taken first; then fewest transmits, then the longest that fits, then the newest.
    """

    def __init__(self, retransmit_mult: int) -> None:
        self._mult = retransmit_mult
        self._first: _Tiers = []
        self._others: _Tiers = []
        self._by_name: dict[str, tuple[_Tiers, int, _Entry]] = {}
        self._next_id = 0

    def __len__(self) -> int:
        return len(self._by_name)

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def queue(self, name: str, message: bytes, *, goes_first: bool = False) -> None:
        """Begin to spread ``message``, and stop spreading what was queued under that name."""
        self.discard(name)
        self._next_id += 1
        tiers = self._first if goes_first else self._others
        self._insert(tiers, 0, _Entry(len(message), self._next_id, name, message))

    def discard(self, name: str) -> None:
        """Stop spreading what is queued under ``name``, if anything is."""
        found = self._by_name.pop(name, None)
        if found is not None:
            tiers, transmits, entry = found
            tier = tiers[transmits]
            del tier[bisect_left(tier, entry)]

    def take(self, *, overhead: int, limit: int, n: int) -> list[bytes]:
        """Return the messages to put into one packet, and count them as sent once more.

        Args:
            overhead: bytes that each message costs beyond its own.
            limit: bytes to fill.
            n: members known.

        """
        if not self._by_name:
            return []
        taken: list[bytes] = []
        again: list[tuple[_Tiers, int, _Entry]] = []
        most = retransmit_limit(self._mult, n)
        in_order = [(tiers, *each) for tiers in (self._first, self._others) for each in enumerate(tiers)]
        for tiers, transmits, tier in in_order:
            while tier and (free := limit - overhead) > 0:
                fitting = bisect_right(tier, (free, math.inf))
                if fitting == 0:
                    break
                entry = tier.pop(fitting - 1)
                del self._by_name[entry.name]
                limit = free - entry.length
                taken.append(entry.message)
                if transmits + 1 < most:
                    # Put back later, lest the next tier send it a second time.
                    again.append((tiers, transmits + 1, entry))
        for tiers, transmits, entry in again:
            self._insert(tiers, transmits, entry)
        return taken

    def _insert(self, tiers: _Tiers, transmits: int, entry: _Entry) -> None:
        while len(tiers) <= transmits:
            tiers.append([])
        insort(tiers[transmits], entry)
        self._by_name[entry.name] = (tiers, transmits, entry)
