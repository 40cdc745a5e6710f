"""Which accepted stream is ended when another host dials and the limits are reached.

Anyone can open a connection, without the key. So a new one is never refused for those
that are held already: the held one that has delivered least is ended for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv6Network, ip_address
from typing import Final

from wesher_agent.swim.members import MemberTable
from wesher_agent.swim.profile import Limits
from wesher_agent.swim.streams import StreamId

GRACE: Final = 0.5
"""Seconds in which a new stream is ended only after all older ones: its bytes may be on their way."""


@dataclass(frozen=True, slots=True)
class Held:
    """An accepted stream without a whole request."""

    id: StreamId
    ip: str
    since: float
    """When it was accepted."""
    received: int
    """Bytes that it delivered."""
    is_being_read: bool
    """Whether the bytes that it delivered wait for us."""


@dataclass(slots=True)
class Admission:
    """The rules, and the addresses that the caller expects to dial."""

    limits: Limits
    table: MemberTable
    """Its members have room of their own."""
    expected: frozenset[str] = field(default=frozenset())
    """Further addresses that have room of their own: those of seeds, and of members that are away."""

    def holder(self, ip: str) -> str:
        """Return whose connections are counted together: an address, or an IPv6 /64 of unknown hosts."""
        return ip if self._is_known(ip) else _network(ip)

    def most(self, held: Iterable[Held]) -> tuple[str, int]:
        """Return the holder that has the most streams, and how many."""
        return Counter(self.holder(stream.ip) for stream in held).most_common(1)[0]

    def to_end(self, ip: str, held: list[Held], *, now: float) -> Held | None:
        """Return the stream to end before one from ``ip`` is accepted; None while there is room."""
        holder = self.holder(ip)
        same = [stream for stream in held if self.holder(stream.ip) == holder]
        if len(same) >= self.limits.accepted_streams_per_ip:
            return _least(same, now)
        strangers = [stream for stream in held if not self._is_known(stream.ip)]
        room = self.limits.accepted_streams - self.limits.accepted_streams_kept
        if len(held) >= self.limits.accepted_streams or (not self._is_known(ip) and len(strangers) >= room):
            return _least(strangers or held, now)
        return None

    def deadline(self, stream: Held) -> float:
        """Return when a stream must have delivered its whole request: later for one that delivers much."""
        earned = self.limits.request_timeout + stream.received / self.limits.request_rate
        return stream.since + min(earned, self.limits.accepted_stream_timeout)

    def _is_known(self, ip: str) -> bool:
        return ip in self.expected or self.table.has_other_at(ip)


def _least(streams: list[Held], now: float) -> Held:
    """Return the stream that has delivered least, the oldest of equals."""

    def rank(stream: Held) -> tuple[bool, bool, bool, int, float]:
        is_new = stream.since > now - GRACE
        # Where others dial all the time each stream is new, but a byte has come on most of them.
        may_arrive = is_new and not stream.received
        return stream.is_being_read, may_arrive, is_new, stream.received, stream.since

    return min(streams, key=rank)


@lru_cache(maxsize=4096)
def _network(ip: str) -> str:
    address = ip_address(ip)
    if address.version == 4:  # noqa: PLR2004 - IPv4
        return ip
    return str(IPv6Network((address.packed[:8] + bytes(8), 64)))
