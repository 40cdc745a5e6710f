"""What is said on streams: state exchanges, pings over TCP, user messages (`net.go`, handleConn).

Each stream carries one request, and back at most one answer. What a received
state changes is `membership`'s business.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from wesher_agent.swim import events
from wesher_agent.swim.address import Address
from wesher_agent.swim.admission import Admission, Held
from wesher_agent.swim.events import Event
from wesher_agent.swim.local_member import LocalMember
from wesher_agent.swim.members import MemberTable
from wesher_agent.swim.membership import Membership
from wesher_agent.swim.profile import Limits, Profile
from wesher_agent.swim.source import Source, Way
from wesher_agent.swim.streams import CloseStream, OpenStream, Purpose, StreamAction, StreamId, WriteStream
from wesher_agent.swim.timers import Kind, Timer, Timers
from wesher_agent.swim.tombstones import TOLD, Tombstones
from wesher_agent.swim.versions import verify_protocol
from wesher_agent.wire import limits as wire_limits
from wesher_agent.wire.messages import (
    AckResp,
    ErrResp,
    Knock,
    Message,
    Ping,
    PushNodeState,
    PushPull,
    State,
    User,
)
from wesher_agent.wire.packet import PacketFormat, Wrapper
from wesher_agent.wire.stream import StreamReader, knock, seal_stream
from wesher_common.errors import PeerMisbehaved

Porter = Callable[[bytes, Address, float], bytes | None]
"""Answers a `Knock`: takes its token, where it came from and the time; None to close without an answer."""


def closed_door(token: bytes, sender: Address, now: float) -> bytes | None:  # noqa: ARG001 - a `Porter`
    """Answer no `Knock`."""
    return None


_SCALE_THRESHOLD = 32
_REQUESTS = Timer(Kind.REQUESTS)
_READ_ON = 1.0
"""Seconds that a request gets when its time is over while its bytes wait for us."""


def push_pull_scale(interval: float, n: int) -> float:
    """Return the time between state exchanges among ``n`` members (`util.go`)."""
    if n <= _SCALE_THRESHOLD:
        return interval
    return (math.ceil(math.log2(n) - math.log2(_SCALE_THRESHOLD)) + 1.0) * interval


@dataclass(slots=True)
class _Stream:
    remote: Address
    reader: StreamReader
    purpose: Purpose | None
    """Why we dialled it; None when the other side did."""
    join: bool = False
    since: float = 0.0
    """When it was accepted, or the state exchange on it began."""
    seq_no: int | None = None
    """Of the ping that was sent on it."""
    ended: str | None = None
    """What was said when it ended with bytes still to be read."""
    answer: bytearray | None = None
    """What has come so far in answer to a `Knock`; None on other streams."""


@dataclass(kw_only=True, slots=True)
class Exchange:
    """The streams under way."""

    profile: Profile
    """Deadlines."""
    limits: Limits
    """How many streams other members may open."""
    timers: Timers
    """For requests that do not come."""
    table: MemberTable
    """The state to exchange."""
    tombstones: Tombstones
    """Sent with the state, as members that are dead or have left."""
    local: LocalMember
    """The addressee of pings. Tombstones are sent with its versions."""
    membership: Membership
    """Judges the state that is received."""
    packet_format: PacketFormat
    """How streams are sealed."""
    nonce: Callable[[int], bytes]
    """Returns that many fresh bytes for encryption."""
    wrappers: Counter[Wrapper]
    """Counts the wrappers round received messages."""
    emit: Callable[[Event], None]
    """Takes what happened."""
    porter: Porter = closed_door
    user_state: bytes = field(default=b"", init=False)
    """The application's part of the state to exchange."""
    admission: Admission = field(init=False)
    """Says which accepted stream is ended for another one."""
    _ids: count[int] = field(default_factory=lambda: count(1), init=False)
    _streams: dict[StreamId, _Stream] = field(default_factory=dict, init=False)
    _unread: deque[StreamId] = field(default_factory=deque, init=False)
    _actions: list[StreamAction] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        """Apply the limits."""
        self.admission = Admission(self.limits, self.table)

    @property
    def is_busy(self) -> bool:
        """Whether bytes wait to be read; `work` reads some, so that no one call takes long."""
        return bool(self._unread)

    @property
    def open_streams(self) -> int:
        """How many streams are under way, dialled and accepted."""
        return len(self._streams)

    def drain(self) -> list[StreamAction]:
        """Take what is to be done with connections."""
        actions, self._actions = self._actions, []
        return actions

    def push_pull(self, address: Address, *, join: bool, now: float) -> None:
        """Exchange state with whoever is at ``address``."""
        state = self._own_state(join=join, now=now)
        self._open("push-pull", address, state, self.profile.tcp_timeout, join=join, since=now)

    def ping(self, address: Address, ping: Ping, timeout: float) -> None:
        """Ping over TCP."""
        self._open("ping", address, ping, timeout, seq_no=ping.seq_no)

    def send_user(self, address: Address, payload: bytes) -> None:
        """Deliver bytes to the application at ``address``."""
        self._open("user", address, User(payload), self.profile.tcp_timeout)

    def knock(self, address: Address, token: bytes) -> None:
        """Ask for what needs no key; ends in `KnockAnswered`, or nothing comes."""
        stream = next(self._ids)
        reader = StreamReader(self.packet_format, answer=True)
        self._streams[stream] = _Stream(address, reader, "knock", answer=bytearray())
        self._actions.append(OpenStream(stream, address, knock(token), self.profile.tcp_timeout, "knock"))

    def accepted(self, remote: Address, *, now: float) -> StreamId:
        """Name a stream that another host opened; where the limits are reached, end another one for it."""
        held = self._held()
        if (least := self.admission.to_end(remote.ip, held, now=now)) is not None:
            holder, most = self.admission.most(held)
            holders = len({self.admission.holder(one.ip) for one in held})
            self.emit(events.StreamsFull(holder, most, holders))
            self._drop(least.id, "too-many-streams")
        stream = next(self._ids)
        reader = StreamReader(self.packet_format, limit=self._request_limit())
        self._streams[stream] = _Stream(remote, reader, None, since=now)
        if _REQUESTS not in self.timers:
            self.timers.set(_REQUESTS, now + self.limits.request_timeout)
        return stream

    def end_overdue(self, *, now: float) -> None:
        """End the accepted streams that have not delivered a whole request in time."""
        next_look = math.inf
        for one in self._held():
            deadline = self.admission.deadline(one)
            if deadline > now:
                next_look = min(next_look, deadline)
            elif one.is_being_read:
                next_look = min(next_look, now + _READ_ON)
            else:
                self._drop(one.id, "request-timed-out")
        if next_look < math.inf:
            self.timers.set(_REQUESTS, next_look)

    def _held(self) -> list[Held]:
        return [
            Held(name, stream.remote.ip, stream.since, stream.reader.received, name in self._unread)
            for name, stream in self._streams.items()
            if stream.purpose is None
        ]

    def _drop(self, stream: StreamId, reason: str) -> None:
        """End an accepted stream without an answer."""
        self.emit(events.PacketRejected(reason, self._streams[stream].remote))
        if stream in self._unread:
            self._unread.remove(stream)
        self._close(stream)

    def received(self, stream: StreamId, data: bytes, *, now: float) -> AckResp | None:
        """Take bytes that arrived; return the answer to a ping over TCP if they end one."""
        known = self._streams.get(stream)
        if known is None:
            return None
        try:
            if known.answer is not None:
                known.answer += data
                wire_limits.KNOCK_ANSWER.check(len(known.answer))
                return None
            known.reader.feed(data)
        except PeerMisbehaved as misbehaved:
            self._refuse(stream, known, misbehaved)
            return None
        if known.purpose is None:
            self._make_room()
        if stream in self._streams and stream not in self._unread:
            return self._read(stream, now)
        return None

    def work(self, *, now: float) -> AckResp | None:
        """Read on in the stream that has waited longest; return what `received` does."""
        return self._read(self._unread.popleft(), now) if self._unread else None

    def closed(self, stream: StreamId, error: str | None) -> None:
        """Give up on a stream that is no more."""
        known = self._streams.get(stream)
        if known is None:
            return
        if stream in self._unread:
            # All may be here and only wait for its turn: memberlist hangs up once it has answered.
            known.ended = error or "connection closed without an answer"
            return
        self._give_up(stream, known, error)

    def _make_room(self) -> None:
        """Refuse the longest requests while all together are too long: to begin one nobody needs the key."""
        theirs = {name: stream for name, stream in self._streams.items() if stream.purpose is None}
        held = sum(stream.reader.received for stream in theirs.values())
        while held > self.limits.accepted_bytes:
            longest = max(theirs, key=lambda name: theirs[name].reader.received)
            stream = theirs.pop(longest)
            held -= stream.reader.received
            self._refuse(longest, stream, PeerMisbehaved("too-many-bytes"))

    def _give_up(self, stream: StreamId, known: _Stream, error: str | None) -> None:
        self._forget(stream)
        match known.purpose:
            case "push-pull":
                unanswered = error is None and not known.reader.received
                error = error or "connection closed without an answer"
                self.emit(events.PushPullFailed(known.remote, known.join, error, unanswered))
            case "user" if error is not None:
                self.emit(events.UserMessageFailed(known.remote, error))
            case "knock" if error is None and known.answer is not None:
                self.emit(events.KnockAnswered(known.remote, bytes(known.answer)))
            case _:
                pass

    def _open(
        self,
        purpose: Purpose,
        address: Address,
        request: Message,
        timeout: float,
        *,
        join: bool = False,
        since: float = 0.0,
        seq_no: int | None = None,
    ) -> None:
        stream = next(self._ids)
        # Who joins knows of nobody yet, and may be told of thousands.
        limit = wire_limits.LARGEST_FRAME if purpose == "push-pull" else wire_limits.FRAME.most
        reader = StreamReader(self.packet_format, limit=limit, answer=True)
        self._streams[stream] = _Stream(address, reader, purpose, join, since, seq_no)
        data = seal_stream(request, self.packet_format, nonce=self.nonce)
        self._actions.append(OpenStream(stream, address, data, timeout, purpose))

    def _request_limit(self) -> int:
        """Return how long a request may be: others know about as many members as we do."""
        known = wire_limits.NODE_BYTES * (len(self.table) + TOLD)
        return min(max(wire_limits.FRAME.most, known), wire_limits.LARGEST_FRAME)

    def _read(self, stream: StreamId, now: float) -> AckResp | None:
        known = self._streams[stream]
        try:
            message = known.reader.step()
            if message is None:
                if not known.reader.hungry:
                    self._unread.append(stream)
                elif known.ended is not None:
                    self._give_up(stream, known, known.ended)
                return None
            self.wrappers.update(known.reader.wrappers)
            for reason in sorted(set(known.reader.rejected)):
                self.emit(events.PacketRejected(reason, known.remote))
            if known.purpose is None:
                self._serve(stream, known, message, now)
            elif not isinstance(message, Knock):
                return self._conclude(stream, known, message, now)
        except PeerMisbehaved as misbehaved:
            self._refuse(stream, known, misbehaved)
        return None

    def _serve(self, stream: StreamId, known: _Stream, request: Message | Knock, now: float) -> None:
        match request:
            case PushPull():
                self._answer(stream, self._own_state(join=request.join, now=now))
                self._merge(known.remote, request, now, Way.REQUEST)
                self.emit(
                    events.PushPullAnswered(
                        known.remote,
                        request.join,
                        len(request.nodes),
                        now - known.since,
                        request.user_state,
                    )
                )
            case Ping():
                self.local.check_addressee(request)
                self._answer(stream, AckResp(request.seq_no))
            case User():
                self._close(stream)
                self.emit(events.UserMessageReceived(request.payload, known.remote, Way.REQUEST))
            case Knock():
                answer = self.porter(request.token, known.remote, now)
                if answer is None:
                    raise PeerMisbehaved("knock-refused")
                self._actions.append(WriteStream(stream, answer))
                self._close(stream)
            case _:
                raise PeerMisbehaved("unexpected-type", type(request).__name__)

    def _conclude(self, stream: StreamId, known: _Stream, answer: Message, now: float) -> AckResp | None:
        match answer:
            case PushPull() if known.purpose == "push-pull":
                self._merge(known.remote, answer, now, Way.ANSWER)
                self._close(stream)
                self.emit(
                    events.PushPullDone(
                        known.remote, known.join, len(answer.nodes), now - known.since, answer.user_state
                    )
                )
            case AckResp() if answer.seq_no == known.seq_no:
                self._close(stream)
                return answer
            case ErrResp():
                raise PeerMisbehaved("refused-by-peer", answer.error)
            case _:
                raise PeerMisbehaved("unexpected-type", type(answer).__name__)
        return None

    def _merge(self, remote: Address, state: PushPull, now: float, way: Way) -> None:
        verify_protocol(self.table.view.values(), state.nodes)
        source = Source(self.admission.holder(remote.ip), way)
        for reason in self.membership.merge(state.nodes, source=source, now=now):
            self.emit(events.PacketRejected(reason, remote))

    def _own_state(self, *, join: bool, now: float) -> PushPull:
        members = [
            PushNodeState(
                member.name,
                member.addr,
                member.address.port,
                member.meta,
                member.incarnation,
                member.state,
                member.versions,
            )
            for member in self.table.view.values()
        ]
        # All versions in an exchange have to fit each other's, so nobody's former ones may stay for a day.
        versions = self.local.me.versions
        gone = [
            PushNodeState(
                tombstone.name,
                tombstone.address.packed,
                tombstone.address.port,
                b"",
                tombstone.incarnation,
                State.LEFT if tombstone.left else State.DEAD,
                versions,
            )
            for tombstone in self.tombstones.told(most=wire_limits.NODES.most - len(members), now=now)
        ]
        return PushPull((*members, *gone), join, self.user_state)

    def _answer(self, stream: StreamId, message: Message) -> None:
        data = seal_stream(message, self.packet_format, nonce=self.nonce, answer=True)
        self._actions.append(WriteStream(stream, data))
        self._close(stream)

    def _close(self, stream: StreamId) -> None:
        self._forget(stream)
        self._actions.append(CloseStream(stream))

    def _forget(self, stream: StreamId) -> None:
        self._streams.pop(stream).reader.close()

    def _refuse(self, stream: StreamId, known: _Stream, misbehaved: PeerMisbehaved) -> None:
        """Count what was wrong, and end the stream unless it has ended already."""
        self.emit(events.PacketRejected(misbehaved.reason, known.remote))
        if stream in self._unread:
            # Its turn to be read on would come after its end.
            self._unread.remove(stream)
        if stream not in self._streams:
            return
        if known.purpose is None:
            if known.reader.is_authenticated:
                self._answer(stream, ErrResp(misbehaved.reason))
            else:
                # A scanner without the key learns nothing, and costs no nonce.
                self._close(stream)
        else:
            self.closed(stream, str(misbehaved))
            self._actions.append(CloseStream(stream))
        if misbehaved.reason == "wrong-key":
            # Last: it is the reason for what was reported before.
            self.emit(events.UnreadableStream(known.remote, asked_for=known.purpose is not None))
