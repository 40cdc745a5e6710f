"""One member's SWIM state machine: what comes in, what goes out, and when to wake.

`Engine` only dispatches; the rules live in the modules beside it. It owns no
socket, clock or random source. A driver calls one of its inputs, then picks up
`datagrams_to_send`, `stream_actions` and every `next_event`, and arranges to call
`handle_timer` at `next_timer`, in that order, after every input.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from random import Random

from wesher_agent.swim.address import Address
from wesher_agent.swim.awareness import Awareness
from wesher_agent.swim.broadcasts import Broadcasts
from wesher_agent.swim.departure import Departure
from wesher_agent.swim.events import Event, PacketRejected, UserMessageReceived
from wesher_agent.swim.exchange import Exchange, Porter, closed_door, push_pull_scale
from wesher_agent.swim.gossip import Gossip
from wesher_agent.swim.local_member import LocalMember
from wesher_agent.swim.members import LocalNode, Member, MemberTable
from wesher_agent.swim.membership import Membership, Standing, tombstone_of, unproven
from wesher_agent.swim.outbox import Outbox
from wesher_agent.swim.probe import Prober
from wesher_agent.swim.profile import DEFAULT_LIMITS, Limits, Profile
from wesher_agent.swim.relay import Relay
from wesher_agent.swim.sequence import sequence_numbers
from wesher_agent.swim.source import Source, Vet, Way, take_all
from wesher_agent.swim.streams import StreamAction, StreamId
from wesher_agent.swim.timers import Kind, Timer, Timers
from wesher_agent.swim.tombstones import Tombstone, Tombstones
from wesher_agent.wire.keyring import PADDED
from wesher_agent.wire.limits import META, USER_MESSAGE, USER_STATE
from wesher_agent.wire.messages import (
    AckResp,
    Alive,
    Dead,
    ErrResp,
    IndirectPing,
    Message,
    NackResp,
    Ping,
    PushPull,
    State,
    Suspect,
    User,
)
from wesher_agent.wire.packet import PacketFormat, Wrapper, message_types, open_packet
from wesher_common.errors import PeerMisbehaved

_PERIODIC = Timer(Kind.PUSH_PULL)
"""Of the exchange with a random member, once each interval."""


class Engine:
    """A member of one gossip cluster, compatible with hashicorp/memberlist.

    Args:
        me: this member as it presents itself.
        profile: memberlist's timing constants.
        packet_format: keys, label, encryption version and compression of all that is sent and read.
        incarnation: the first to use, lower than the last one, higher than any this name had before.
        rng: for schedules and choices; seeded, it makes a run repeatable.
        nonce: returns that many fresh bytes for AES-GCM; unpredictable in production.
        standing: tells how well it is proven that a member has a name, metadata and address;
            of two claims of one name the higher wins. Called for each alive that says something new.
        vet: drops alives that say something new before they are judged.
        limits: caps on what other members can make this one keep.
        porter: answers requests that need no key.

    Times (``now``) are seconds on any monotonic clock, never going back.

    """

    def __init__(
        self,
        me: LocalNode,
        profile: Profile,
        *,
        packet_format: PacketFormat,
        incarnation: int,
        rng: Random,
        nonce: Callable[[int], bytes],
        standing: Standing = unproven,
        vet: Vet = take_all,
        limits: Limits = DEFAULT_LIMITS,
        porter: Porter = closed_door,
    ) -> None:
        self._profile = profile
        self._rng = rng
        self._protocol = me.versions.protocol_current
        self._events: deque[Event] = deque()
        self._timers = Timers()
        self._table = MemberTable(me.name, rng)
        self._tombstones = Tombstones(limits.tombstones, rng)
        self._awareness = Awareness(profile.awareness_max_multiplier)
        self.wrappers: Counter[Wrapper] = Counter()
        """How often each kind of wrapper was met in what arrived."""

        fmt = self._for_our_protocol(packet_format)
        emit = self._events.append
        broadcasts = Broadcasts(profile.retransmit_mult)
        self._outbox = Outbox(self._table, broadcasts, fmt, nonce, limits.outbox)
        self._gossip = Gossip(
            profile,
            table=self._table,
            broadcasts=broadcasts,
            outbox=self._outbox,
            timers=self._timers,
            rng=rng,
        )
        self._local = LocalMember(
            me,
            limits,
            incarnation=incarnation,
            table=self._table,
            gossip=self._gossip,
            timers=self._timers,
            awareness=self._awareness,
            emit=emit,
        )
        self._membership = Membership(
            self._local,
            profile,
            limits,
            table=self._table,
            tombstones=self._tombstones,
            gossip=self._gossip,
            timers=self._timers,
            rng=rng,
            standing=standing,
            vet=vet,
            emit=emit,
        )
        sequence = sequence_numbers(after=rng.getrandbits(32))
        self._relay = Relay(
            profile=profile,
            limits=limits,
            local=self._local,
            outbox=self._outbox,
            timers=self._timers,
            sequence=sequence,
        )
        self._exchange = Exchange(
            profile=profile,
            limits=limits,
            timers=self._timers,
            table=self._table,
            tombstones=self._tombstones,
            local=self._local,
            membership=self._membership,
            packet_format=fmt,
            nonce=nonce,
            wrappers=self.wrappers,
            emit=emit,
            porter=porter,
        )
        self._prober = Prober(
            profile=profile,
            table=self._table,
            local=self._local,
            membership=self._membership,
            awareness=self._awareness,
            outbox=self._outbox,
            exchange=self._exchange,
            timers=self._timers,
            sequence=sequence,
            emit=emit,
        )
        self._departure = Departure(
            profile,
            table=self._table,
            local=self._local,
            gossip=self._gossip,
            outbox=self._outbox,
            timers=self._timers,
            emit=emit,
        )

    @property
    def members(self) -> Mapping[str, Member]:
        """Every known member by name, this one included, whatever its state; a live view."""
        return self._table.view

    @property
    def me(self) -> Member:
        """This member."""
        return self._local.me

    @property
    def health_score(self) -> int:
        """Lifeguard's local health: 0 is healthy, below ``awareness_max_multiplier``."""
        return self._awareness.score

    @property
    def open_streams(self) -> int:
        """How many TCP connections are under way, dialled and accepted."""
        return self._exchange.open_streams

    def bury(self, gone: Iterable[Tombstone], *, now: float) -> None:
        """Remember members that were gone in an earlier run; before `start`."""
        for tombstone in sorted(gone, key=lambda tombstone: -tombstone.age):
            if tombstone.name != self.me.name:
                self._tombstones.bury(tombstone, now=now)

    def tombstones(self, *, now: float) -> tuple[Tombstone, ...]:
        """Return what `bury` takes: everyone that is gone, forgotten or not yet, by name."""
        gone = [
            tombstone_of(member, now=now)
            for member in self._table.view.values()
            if member.is_gone and member.name != self.me.name
        ]
        return tuple(sorted([*gone, *self._tombstones.ours(now=now)], key=lambda tombstone: tombstone.name))

    def start(self, *, now: float) -> None:
        """Become alive and begin probing, gossiping and exchanging state."""
        self._local.announce(now=now)
        # Members started together must not probe and exchange in step.
        self._prober.start(phase=self._rng.random() * self._profile.probe_interval, now=now)
        if self._profile.push_pull_interval > 0:
            phase = self._rng.random() * self._profile.push_pull_interval
            self._timers.set(_PERIODIC, now + phase)

    def next_timer(self) -> float | None:
        """When `handle_timer` wants to be called, maybe a time past; None before start and after leaving."""
        return -math.inf if self._exchange.is_busy else self._timers.next()

    def handle_timer(self, *, now: float) -> None:
        """Do everything that was due at or before ``now``."""
        self._receive_tcp_ack(self._exchange.work(now=now))
        while timer := self._timers.pop_due(now):
            self._fire(timer, now)

    def next_event(self) -> Event | None:
        """Take the oldest event that was not taken yet."""
        return self._events.popleft() if self._events else None

    def receive_datagram(self, data: bytes, sender: Address, *, now: float) -> None:
        """Take one UDP payload as it came. Never raises for what a peer sent."""
        try:
            packet = open_packet(data, self._outbox.packet_format)
        except PeerMisbehaved as misbehaved:
            self._events.append(PacketRejected(misbehaved.reason, sender))
            return
        self.wrappers.update(packet.wrappers)
        for reason in sorted(set(packet.rejected)):
            self._events.append(PacketRejected(reason, sender))
        for message in packet.messages:
            try:
                self._receive(message, sender, now)
            except PeerMisbehaved as misbehaved:
                self._events.append(PacketRejected(misbehaved.reason, sender))

    def message_types(self, data: bytes) -> list[str]:
        """Return the types of the messages in a UDP payload, for the log: this opens it once more."""
        return message_types(data, self._outbox.packet_format)

    def datagrams_to_send(self) -> list[tuple[bytes, Address]]:
        """Take the UDP payloads to send now."""
        return self._outbox.drain()

    def stream_actions(self) -> list[StreamAction]:
        """Take what is to be done with TCP connections now, in order."""
        return self._exchange.drain()

    def set_expected(self, ips: frozenset[str]) -> None:
        """Replace the addresses that have room of their own beside members': those that the caller dials."""
        self._exchange.admission.expected = ips

    def set_most_unproven(self, most: int) -> None:
        """Keep at most that many members of standing 0; those that are too many go as others come."""
        self._membership.most_unproven = most

    def set_user_state(self, state: bytes) -> None:
        """Replace the application's part of the state that is exchanged, empty at first.

        That of the other side is in `PushPullDone` and `PushPullAnswered`.

        Raises:
            ValueError: longer than other members take.

        """
        if len(state) > USER_STATE.most:
            raise ValueError(f"user state is at most {USER_STATE.most} bytes, not {len(state)}")
        self._exchange.user_state = state

    def weigh_again(self, *, now: float) -> None:
        """Ask for the standing of each member again: what is proven has changed."""
        self._membership.weigh_again(now=now)

    def stream_accepted(self, remote: Address, *, now: float) -> StreamId:
        """Name a connection that another host opened; when there are too many, another one is ended for it.

        The driver closes it, and says so, after ``Limits.accepted_stream_timeout``.
        """
        return self._exchange.accepted(remote, now=now)

    def stream_received(self, stream: StreamId, data: bytes, *, now: float) -> None:
        """Take bytes that arrived on a stream. Never raises for what a peer sent."""
        self._receive_tcp_ack(self._exchange.received(stream, data, now=now))

    def stream_closed(self, stream: StreamId, *, now: float, error: str | None = None) -> None:  # noqa: ARG002 - every input tells the time
        """Say that a stream is no more; ids that are not known any more are ignored.

        Args:
            stream: which.
            now: the time.
            error: one line when it could not be opened, broke or timed out; None when
                the other side ended it in order.

        """
        self._exchange.closed(stream, error)

    def join(self, addresses: Iterable[Address], *, now: float) -> None:
        """Exchange state with each address as a joiner; each ends in PushPullDone or PushPullFailed."""
        for address in addresses:
            self._exchange.push_pull(address, join=True, now=now)

    def push_pull_with(self, address: Address, *, now: float, join: bool = True) -> None:
        """Exchange state with one address, at any time, whether a member is known there or not."""
        self._exchange.push_pull(address, join=join, now=now)

    def leave(self, *, now: float, timeout: float = 10.0) -> None:
        """Tell the others that this member goes; ends in LeaveDone within ``timeout`` seconds."""
        self._departure.begin(going_to=None, timeout=timeout, now=now)

    def update_meta(self, meta: bytes, *, now: float) -> None:
        """Announce new metadata for this member.

        Raises:
            ValueError: longer than 512 bytes.

        """
        if len(meta) > META.most:
            raise ValueError(f"metadata is at most {META.most} bytes, not {len(meta)}")
        self._local.update_meta(meta, now=now)

    def change_address(self, address: Address, *, now: float, timeout: float = 10.0) -> None:
        """Move this member: leave from the old address, then come back from the new one.

        memberlist accepts a new address only for a name that has left. The leave is omitted
        if only the port changes and every member follows (`Member.follows_to_other_ports`).
        Use it too when `NameConflict` names the local member with an address that it had before.
        Ends in AddressChanged within ``timeout`` seconds, unless a leave comes between.
        """
        self._departure.begin(going_to=address, timeout=timeout, now=now)

    def set_packet_format(self, packet_format: PacketFormat) -> None:
        """Seal and read with other keys, label or versions from now on; open streams keep theirs."""
        self._outbox.packet_format = self._exchange.packet_format = self._for_our_protocol(packet_format)

    @property
    def most_in_datagram(self) -> int:
        """Bytes of the longest user message that fits into a datagram."""
        return self._outbox.room - 1

    def send_user_message(self, address: Address, payload: bytes, *, now: float, reliable: bool) -> None:  # noqa: ARG002 - every input tells the time
        """Send bytes to the application at ``address``.

        Args:
            address: where to; best a known member's.
            payload: the bytes.
            now: the time.
            reliable: over a stream (may end in UserMessageFailed), else as one datagram.

        Raises:
            ValueError: too long for a datagram, or for the other side's limit on a stream.

        """
        most = USER_MESSAGE.most if reliable else self.most_in_datagram
        if len(payload) > most:
            raise ValueError(f"a user message is at most {most} bytes here, not {len(payload)}")
        if reliable:
            self._exchange.send_user(address, payload)
        else:
            self._outbox.send(address, User(payload), checksum=False)

    def knock(self, address: Address, token: bytes, *, now: float) -> None:  # noqa: ARG002 - every input tells the time
        """Ask a host for what it gives without a key; ends in `KnockAnswered` if it answers."""
        self._exchange.knock(address, token)

    def inject(self, claim: Alive | Suspect | Dead, *, now: float, sender: Address | None = None) -> None:
        """Judge a claim about a member as if a peer had just gossiped it.

        Args:
            claim: the claim.
            now: the time.
            sender: where it came from, if from a datagram.

        Raises:
            PeerMisbehaved: it is an alive with invalid versions or an invalid address, or one that
                the application refuses.

        """
        if claim.node == self.me.name:
            self._local.judge(claim, sender=sender, now=now)
            return
        match claim:
            case Alive():
                source = Source(sender.ip if sender is not None else "", Way.DATAGRAM)
                self._membership.alive(claim, source=source, now=now)
            case Suspect():
                self._membership.suspect(claim, now=now)
            case Dead():
                self._membership.dead(claim, now=now)

    def _receive(self, message: Message, sender: Address, now: float) -> None:
        match message:
            case Alive() | Suspect() | Dead():
                self.inject(message, sender=sender, now=now)
            case Ping():
                self._relay.ping(message, sender)
            case AckResp():
                self._prober.ack(message.seq_no, now=now)
                self._relay.ack(message.seq_no)
            case NackResp():
                self._prober.nack(message.seq_no)
            case IndirectPing():
                self._relay.indirect_ping(message, sender, now=now)
            case User():
                self._events.append(UserMessageReceived(message.payload, sender))
            case PushPull() | ErrResp():
                raise PeerMisbehaved("unexpected-type", type(message).__name__)

    def _receive_tcp_ack(self, ack: AckResp | None) -> None:
        if ack is not None:
            self._prober.tcp_ack(ack.seq_no)

    def _fire(self, timer: Timer, now: float) -> None:  # noqa: C901 - one arm per kind is the plainest table
        match timer.kind:
            case Kind.PROBE:
                self._prober.turn(now=now)
            case Kind.PROBE_TIMEOUT:
                self._prober.timed_out(now=now)
            case Kind.PROBE_DEADLINE:
                self._prober.over(now=now)
            case Kind.GOSSIP:
                self._gossip.tick(now=now)
                self._departure.check(now=now)
            case Kind.PUSH_PULL:
                if timer == _PERIODIC:
                    self._set_next_push_pull(now)
                self._push_pull(now)
            case Kind.SUSPICION:
                self._membership.suspicion_over(str(timer.subject), now=now)
            case Kind.REQUESTS:
                self._exchange.end_overdue(now=now)
            case Kind.RELAY:
                self._relay.unanswered(int(timer.subject))
            case Kind.DEPARTURE:
                self._departure.finish(now=now)
            case Kind.ANEW:
                self._departure.begin_anew(now=now)

    def _push_pull(self, now: float) -> None:
        def eligible(member: Member) -> bool:
            return member.state is State.ALIVE

        for member in [*self._table.pick(1, eligible), *self._table.pick_proven(1, eligible)]:
            self._exchange.push_pull(member.address, join=False, now=now)

    def _set_next_push_pull(self, now: float) -> None:
        table = self._table
        count = len(table.proven) if table.is_crowded else len(table)
        self._timers.set(_PERIODIC, now + push_pull_scale(self._profile.push_pull_interval, count))

    def _for_our_protocol(self, packet_format: PacketFormat) -> PacketFormat:
        """Encrypt as protocol 1 does when we speak it (`net.go`, encryptionVersion)."""
        return replace(packet_format, encryption_version=PADDED) if self._protocol == 1 else packet_format
