"""Answering pings, and pinging on others' behalf (`net.go`, handlePing and handleIndirectPing)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from wesher_agent.swim.address import Address
from wesher_agent.swim.local_member import LocalMember
from wesher_agent.swim.outbox import Outbox
from wesher_agent.swim.profile import Limits, Profile
from wesher_agent.swim.timers import Kind, Timer, Timers
from wesher_agent.wire.messages import AckResp, IndirectPing, NackResp, Ping
from wesher_common.errors import PeerMisbehaved


@dataclass(frozen=True, slots=True)
class _Request:
    """Another member's request to ping a third."""

    asker: Address
    asker_name: str
    seq_no: int
    """The asker's."""
    nack: bool


@dataclass(kw_only=True, slots=True)
class Relay:
    """What this member does for others' probes."""

    profile: Profile
    """How long an answer is awaited."""
    limits: Limits
    """How many answers are awaited at once."""
    local: LocalMember
    """The source of pings, and the addressee of those to answer."""
    outbox: Outbox
    """Takes pings and answers."""
    timers: Timers
    """Holds a deadline for each awaited answer."""
    sequence: Iterator[int]
    """Numbers pings."""
    _pending: dict[int, _Request] = field(default_factory=dict, init=False)

    def ping(self, ping: Ping, sender: Address) -> None:
        """Answer a ping.

        Raises:
            PeerMisbehaved: it is for another member, or its return address is invalid.

        """
        self.local.check_addressee(ping)
        answer_to = _return_address(ping, sender)
        self.outbox.send_to_named(ping.source_node, answer_to, AckResp(ping.seq_no))

    def indirect_ping(self, request: IndirectPing, sender: Address, *, now: float) -> None:
        """Ping a third member for the member that asks.

        Raises:
            PeerMisbehaved: an address in it is invalid, or too many answers are awaited already.

        """
        if len(self._pending) >= self.limits.pending_acks:
            raise PeerMisbehaved("too-many-indirect-pings")
        asker = _return_address(request, sender)
        me = self.local.me
        target = Address.from_wire(
            request.target, request.port, me.address.port, protocol=me.versions.protocol_current
        )
        seq_no = next(self.sequence)
        self._pending[seq_no] = _Request(asker, request.source_node, request.seq_no, request.nack)
        self.timers.set(Timer(Kind.RELAY, seq_no), now + self.profile.probe_timeout)
        ping = Ping(seq_no, request.node, me.address.packed, me.address.port, me.name)
        self.outbox.send_to_named(request.node, target, ping)

    def ack(self, seq_no: int) -> None:
        """Forward an ack to the member that asked for the ping."""
        request = self._pending.pop(seq_no, None)
        if request is not None:
            self.timers.cancel(Timer(Kind.RELAY, seq_no))
            self.outbox.send_to_named(request.asker_name, request.asker, AckResp(request.seq_no))

    def unanswered(self, seq_no: int) -> None:
        """Give up on an answer; a nack shows the asker that this member is well."""
        request = self._pending.pop(seq_no, None)
        if request is not None and request.nack:
            self.outbox.send_to_named(request.asker_name, request.asker, NackResp(request.seq_no))


def _return_address(request: Ping | IndirectPing, sender: Address) -> Address:
    if request.source_addr and request.source_port:
        return Address.from_wire(request.source_addr, request.source_port)
    return sender
