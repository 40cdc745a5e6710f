"""Overlay addresses that members had within the last day, and no member has now.

Other programs may still send to them. With no peer's route left, such a packet would leave in clear,
so `desired` covers them. They are kept over restarts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from math import inf
from typing import Final

from wesher_agent.mesh.roster import MemberState, RosterMember
from wesher_agent.swim.profile import DEFAULT_LIMITS
from wesher_common.overlay import IPAddress

KEPT_SECONDS: Final = 24 * 3600.0
MOST: Final = DEFAULT_LIMITS.members
"""Addresses kept at once, as many as members are; of more, the oldest go first.

A holder of the key can make members up and have them leave."""


@dataclass(frozen=True, slots=True)
class FormerAddress:
    """An overlay address as the state file keeps it."""

    address: IPAddress
    age: float = 0.0
    """Seconds since a member had it; those in which this one was down do not count."""


class FormerAddresses:
    """Those that count.

    Args:
        saved: what `saved` returned in an earlier run.
        now: the time.

    """

    def __init__(self, saved: Iterable[FormerAddress], *, now: float) -> None:
        self._held: frozenset[IPAddress] = frozenset()
        """The addresses that members had at the last `note`."""
        oldest_first = sorted(saved, key=lambda former: -former.age)
        self._since = {former.address: now - former.age for former in oldest_first}
        """When each was last held, in the order of these times."""
        self._trim()

    @property
    def addresses(self) -> Collection[IPAddress]:
        """The addresses."""
        return self._since.keys()

    @property
    def next_timer(self) -> float:
        """When `forget` wants to be called; infinite while there is none."""
        return next(iter(self._since.values()), inf) + KEPT_SECONDS

    def note(self, members: Iterable[RosterMember], *, now: float) -> None:
        """Take the members as they are now; what one of them has given up since the last call is kept."""
        held: set[IPAddress] = set()
        left: set[IPAddress] = set()
        for member in members:
            if member.meta is not None and (address := member.meta.overlay_address) is not None:
                (left if member.state is MemberState.LEFT else held).add(address)
        for address in self._since.keys() & held:
            del self._since[address]
        # A member that has left is remembered for a while: its first moment counts.
        for address in sorted((self._held | left) - held - self._since.keys(), key=int):
            self._since[address] = now
        self._held = frozenset(held)
        self._trim()

    def forget(self, *, now: float) -> bool:
        """Drop what no member has had for a day; tell whether there was any."""
        over = [address for address, since in self._since.items() if since + KEPT_SECONDS <= now]
        for address in over:
            del self._since[address]
        return bool(over)

    def saved(self, *, now: float) -> tuple[FormerAddress, ...]:
        """Return what the next run starts with."""
        return tuple(FormerAddress(address, now - since) for address, since in self._since.items())

    def _trim(self) -> None:
        while len(self._since) > MOST:
            del self._since[next(iter(self._since))]
