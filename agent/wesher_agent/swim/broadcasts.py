"""News waiting to be gossiped, each piece a limited number of times (`queue.go`).

At most one piece per name: a newer one replaces the older. So the queue cannot
grow past the number of members.
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


class Broadcasts:
    """The transmit-limited queue.

    Fewest transmits go first, then the longest that fits, then the newest.
    """

    def __init__(self, retransmit_mult: int) -> None:
        self._mult = retransmit_mult
        self._tiers: list[list[_Entry]] = []
        """By number of transmits, each sorted."""
        self._by_name: dict[str, tuple[int, _Entry]] = {}
        self._next_id = 0

    def __len__(self) -> int:
        return len(self._by_name)

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def queue(self, name: str, message: bytes) -> None:
        """Begin to spread ``message``, and stop spreading what was queued under that name."""
        self.discard(name)
        self._next_id += 1
        self._insert(0, _Entry(len(message), self._next_id, name, message))

    def discard(self, name: str) -> None:
        """Stop spreading what is queued under ``name``, if anything is."""
        found = self._by_name.pop(name, None)
        if found is not None:
            transmits, entry = found
            tier = self._tiers[transmits]
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
        again: list[tuple[int, _Entry]] = []
        most = retransmit_limit(self._mult, n)
        for transmits, tier in enumerate(self._tiers):
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
                    again.append((transmits + 1, entry))
        for transmits, entry in again:
            self._insert(transmits, entry)
        return taken

    def _insert(self, transmits: int, entry: _Entry) -> None:
        while len(self._tiers) <= transmits:
            self._tiers.append([])
        insort(self._tiers[transmits], entry)
        self._by_name[entry.name] = (transmits, entry)
