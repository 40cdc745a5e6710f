"""Answering pings, and pinging on others' behalf (`net.go`, handlePing and handleIndirectPing)."""

from __future__ import annotations

from dataclasses import dataclass

from wesher_agent.swim.address import Address
from wesher_agent.swim.local_member import LocalMember
from wesher_agent.swim.outbox import Outbox
from wesher_agent.swim.profile import Limits, Profile
from wesher_agent.swim.sequence import SequenceNumbers
from wesher_agent.swim.timers import Kind, Timer, Timers
from wesher_agent.wire.messages import AckResp, IndirectPing, NackResp, Ping
from wesher_common.errors import PeerMisbehaved


@dataclass(frozen=True, slots=True)
class _Request:
    """Somebody's wish to hear of a third member."""

    asker: Address
    asker_name: str
    seq_no: int
    """The asker's."""
    nack: bool


class Relay:
    """What this member does for others' probes.

    Args:
        profile: for how long an answer is awaited.
        limits: for how many at once.
        local: to say who we are.
        outbox: takes pings and answers.
        timers: for each awaited answer.
        sequence: numbers for pings of our own.

    """

    def __init__(
        self,
        profile: Profile,
        limits: Limits,
        *,
        local: LocalMember,
        outbox: Outbox,
        timers: Timers,
        sequence: SequenceNumbers,
    ) -> None:
        self._profile = profile
        self._limits = limits
        self._local = local
        self._outbox = outbox
        self._timers = timers
        self._sequence = sequence
        self._pending: dict[int, _Request] = {}

    def check_addressee(self, ping: Ping) -> None:
        """Pass a ping that is for us.

        Raises:
            PeerMisbehaved: it is for another name: we may have taken over somebody's address.

        """
        if ping.node and ping.node != self._local.name:
            raise PeerMisbehaved("ping-for-another", ping.node)

    def ping(self, ping: Ping, sender: Address) -> None:
        """Answer a ping.

        Raises:
            PeerMisbehaved: it is not for us, or its return address cannot be.

        """
        self.check_addressee(ping)
        answer_to = _return_address(ping, sender)
        self._outbox.send_to_named(ping.source_node, answer_to, AckResp(ping.seq_no))

    def indirect_ping(self, request: IndirectPing, sender: Address, *, now: float) -> None:
        """Ping a third member for somebody.

        Raises:
            PeerMisbehaved: an address in it cannot be, or too many answers are awaited already.

        """
        if len(self._pending) >= self._limits.pending_acks:
            raise PeerMisbehaved("too-many-indirect-pings")
        me = self._local.me
        target = Address.from_wire(
            request.target, request.port, me.address.port, protocol=me.versions.protocol_current
        )
        asker = _return_address(request, sender)
        seq_no = self._sequence.next()
        self._pending[seq_no] = _Request(asker, request.source_node, request.seq_no, request.nack)
        self._timers.set(Timer(Kind.RELAY, seq_no), now + self._profile.probe_timeout)
        ping = Ping(seq_no, request.node, me.address.packed, me.address.port, me.name)
        self._outbox.send_to_named(request.node, target, ping)

    def ack(self, seq_no: int) -> None:
        """Hand an answer on to whoever asked for it."""
        request = self._pending.pop(seq_no, None)
        if request is not None:
            self._timers.cancel(Timer(Kind.RELAY, seq_no))
            self._outbox.send_to_named(request.asker_name, request.asker, AckResp(request.seq_no))

    def unanswered(self, seq_no: int) -> None:
        """Give up on an answer; the asker learns that at least we are well."""
        request = self._pending.pop(seq_no, None)
        if request is not None and request.nack:
            self._outbox.send_to_named(request.asker_name, request.asker, NackResp(request.seq_no))


def _return_address(request: Ping | IndirectPing, sender: Address) -> Address:
    if request.source_addr and request.source_port:
        return Address.from_wire(request.source_addr, request.source_port)
    return sender
