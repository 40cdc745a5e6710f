"""What is known of each member, and in which order they get their turn.

Values and their table only; which news changes them is `membership`'s business.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from types import MappingProxyType

from wesher_agent.swim.address import Address
from wesher_agent.swim.random_set import RandomSet
from wesher_agent.wire.messages import State, Versions

_MAPPED = bytes(10) + b"\xff\xff"

MAX_INCARNATION = 2**32 - 1

DEFAULT_VERSIONS = Versions(delegate_max=1)
"""Protocol 2 of [1, 5], as memberlist 0.6 speaks it; delegate 0 of [0, 1].

An application decides what delegate versions mean. Members with a delegate version of 1 accept
another port of a member without a leave. The Go program has 0 of [0, 0].
"""


@dataclass(frozen=True, slots=True)
class Member:
    """One member as this engine believes it to be."""

    name: str
    address: Address
    meta: bytes
    incarnation: int
    state: State
    versions: Versions
    state_change: float
    """When ``state`` was entered, on the engine's clock."""
    is_mapped: bool = False
    """Whether it writes its IPv4 address in 16 bytes, as memberlist does that listens on 0.0.0.0."""

    @property
    def addr(self) -> bytes:
        """What it calls its ``Addr``, byte for byte: memberlist takes another form for another address."""
        packed = self.address.packed
        return _MAPPED + packed if self.is_mapped else packed

    @property
    def is_gone(self) -> bool:
        """Whether it is dead or has left (`state.go`, DeadOrLeft)."""
        return self.state >= State.DEAD

    @property
    def follows_to_other_ports(self) -> bool:
        """Whether it accepts another port of a member that has not left before."""
        return self.versions.delegate_min == 0 < self.versions.delegate_max

    @property
    def reads_checksums(self) -> bool:
        """Whether datagrams to it carry one (protocol 5)."""
        return self.versions.protocol_max >= 5  # noqa: PLR2004 - the version that brought them


@dataclass(frozen=True, slots=True)
class LocalNode:
    """This member as it presents itself."""

    name: str
    address: Address
    """Where others reach it, which need not be where it listens."""
    meta: bytes = b""
    versions: Versions = DEFAULT_VERSIONS


class MemberTable:
    """Every known member by name, and the shuffled ring in which they are probed.

    Args:
        own_name: this member's, which is never probed, picked or dropped.
        rng: for the ring's order and for `pick`.

    """

    def __init__(self, own_name: str, rng: Random) -> None:
        self._own_name = own_name
        self._rng = rng
        self._members: dict[str, Member] = {}
        self._ring: list[str] = []
        self._next = 0
        self._ips: Counter[str] = Counter()
        """How many members each IP address has, this one excluded."""
        self.view: Mapping[str, Member] = MappingProxyType(self._members)
        self.proven = RandomSet(rng)
        """The names of those whose standing is above 0."""

    def __len__(self) -> int:
        """Return how many are known, this one and dead ones included (`state.go`, estNumNodes)."""
        return len(self._members)

    def get(self, name: str) -> Member | None:
        """Return the member of that name."""
        return self._members.get(name)

    @property
    def is_crowded(self) -> bool:
        """Whether more than half of the members are not proven, while others are.

        Anyone with the key can invent names. Random choices would then hardly ever fall on a real member.
        """
        return 0 < 2 * len(self.proven) < len(self._members)

    def has_other_at(self, ip: str) -> bool:
        """Tell whether another member, in whatever state, has this IP address."""
        return ip in self._ips

    def put(self, member: Member) -> None:
        """Add a member, or replace what was known of it."""
        former = self._members.get(member.name)
        if member.name != self._own_name and (former is None or former.address.ip != member.address.ip):
            if former is not None:
                self._leave_ip(former)
            self._ips[member.address.ip] += 1
        if former is None:
            # A random place keeps the time until a newcomer's first probe low on average.
            ring = self._ring
            ring.append(member.name)
            place = int(self._rng.random() * len(ring))
            ring[place], ring[-1] = ring[-1], ring[place]
        self._members[member.name] = member

    def drop(self, name: str) -> Member:
        """Forget a member, and return what was known of it.

        Raises:
            KeyError: there is none of that name.

        """
        member = self._members.pop(name)
        self.proven.discard(name)
        place = self._ring.index(name)
        del self._ring[place]
        self._next -= place < self._next
        self._leave_ip(member)
        return member

    def next_to_probe(self, forget: Callable[[Member], bool]) -> tuple[Member | None, list[Member]]:
        """Return the next member to probe, and those that were dropped (`state.go`, probe and resetNodes).

        When the ring wraps, gone members for which ``forget`` is true are dropped and the
        rest are shuffled, so that each member is probed once a round, at an unpredictable time.
        """
        forgotten: list[Member] = []
        for _ in range(len(self._ring) + 1):
            if self._next >= len(self._ring):
                forgotten += self._reset(forget)
            if not self._ring:
                break
            member = self._members[self._ring[self._next]]
            self._next += 1
            if member.name != self._own_name and not member.is_gone:
                return member, forgotten
        return None, forgotten

    def pick(self, k: int, eligible: Callable[[Member], bool]) -> list[Member]:
        """Return up to ``k`` different random members other than this one (`util.go`, kRandomNodes)."""
        ring, random, n = self._ring, self._rng.random, len(self._ring)
        # Among few, luck would miss some; among many, trying everyone would take long.
        names = self._rng.sample(ring, n) if n < 3 * k else (ring[int(random() * n)] for _ in range(3 * n))
        picked: dict[str, Member] = {}
        for name in names:
            if len(picked) == k:
                break
            if name != self._own_name and eligible(self._members[name]):
                picked[name] = self._members[name]
        return list(picked.values())

    def pick_proven(self, k: int, eligible: Callable[[Member], bool]) -> list[Member]:
        """Return up to ``k`` more random members, of those that are proven, where `is_crowded`."""
        if not self.is_crowded:
            return []
        names = dict.fromkeys(self.proven.draw() for _ in range(3 * k))
        found = [self._members[name] for name in names if eligible(self._members[name])]
        return found[:k]

    def _reset(self, forget: Callable[[Member], bool]) -> list[Member]:
        forgotten = [
            member
            for member in self._members.values()
            if member.is_gone and member.name != self._own_name and forget(member)
        ]
        for member in forgotten:
            del self._members[member.name]
            self.proven.discard(member.name)
            self._leave_ip(member)
        self._ring = list(self._members)
        self._rng.shuffle(self._ring)
        self._next = 0
        return forgotten

    def _leave_ip(self, member: Member) -> None:
        self._ips[member.address.ip] -= 1
        if not self._ips[member.address.ip]:
            del self._ips[member.address.ip]
