"""Whatever a peer sends, the engine neither raises, nor grows past its limits, nor is led astray."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import inf
from random import Random

import pytest

from wesher_agent.swim.address import Address
from wesher_agent.swim.events import (
    MemberDisplaced,
    MemberJoined,
    NameConflict,
    PacketRejected,
    PushPullDone,
    PushPullFailed,
    StreamsFull,
    UnreadableStream,
)
from wesher_agent.swim.profile import DEFAULT_LIMITS, LAN
from wesher_agent.swim.streams import CloseStream, OpenStream, StreamId, WriteStream
from wesher_agent.wire import limits
from wesher_agent.wire.keyring import Keyring
from wesher_agent.wire.messages import (
    AckResp,
    Alive,
    Dead,
    ErrResp,
    IndirectPing,
    Message,
    MessageType,
    NackResp,
    Ping,
    PushNodeState,
    PushPull,
    State,
    Suspect,
    User,
    Versions,
    encode,
)
from wesher_agent.wire.packet import PacketFormat, seal
from wesher_agent.wire.stream import StreamReader, seal_stream
from wesher_testing.virtual.mesh import SEALED
from wesher_testing.virtual.network import PLAIN, PORT, Node, VirtualNetwork, messages_in

MALLORY = Address("10.66.6.6", PORT)
VSN = Versions()
OTHER_KEY = replace(SEALED, keyring=Keyring(b"x" * 32))


def packet(*messages: Message) -> bytes:
    """Return a datagram with these messages."""
    return seal([encode(m) for m in messages], PLAIN, checksum=False, nonce=bytes)


def alive(
    name: str, *, ip: str = "10.50.0.1", port: int = PORT, incarnation: int = 1, vsn: Versions = VSN
) -> Alive:
    """Return an alive message in anybody's name."""
    return Alive(incarnation, name, Address(ip, PORT).packed, port, b"", vsn)


def rejections(node: Node) -> list[str]:
    """Return why packets and streams were dropped."""
    return [e.reason for e in node.happened(PacketRejected)]


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (Ping(1, "somebody-else"), "ping-for-another"),
        (Ping(1, "a", bytes(4), PORT), "bad-address"),
        (Ping(1, "a", bytes([224, 0, 0, 1]), PORT), "bad-address"),
        (IndirectPing(1, bytes(16), PORT, "b", nack=True), "bad-address"),
        (alive("x", vsn=Versions(0, 5, 2, 0, 0, 0)), "bad-versions"),
        (alive("x", vsn=Versions(1, 0, 2, 0, 0, 0)), "bad-versions"),
        (alive("x", vsn=Versions(4, 3, 2, 0, 0, 0)), "bad-versions"),
        (Alive(1, "x", bytes(4), PORT, b"", VSN), "bad-address"),
    ],
)
def test_a_message_that_breaks_a_rule_is_dropped_and_counted(
    net: VirtualNetwork, message: Message, reason: str
) -> None:
    a = net.add("a")
    net.record = True

    net.inject(a, packet(message), MALLORY)

    assert a.happened(PacketRejected) == [PacketRejected(reason, MALLORY)]
    assert a.alive == {"a"}
    assert not a.sent


def test_the_rest_of_a_compound_counts_when_one_part_is_bad(net: VirtualNetwork) -> None:
    a = net.add("a")

    net.inject(a, packet(alive("x", vsn=Versions(0, 0, 0, 0, 0, 0)), alive("y"), Ping(1, "z")), MALLORY)

    assert a.alive == {"a", "y"}
    assert rejections(a) == ["bad-versions", "ping-for-another"]


def test_messages_about_unknown_names_change_nothing(net: VirtualNetwork) -> None:
    a = net.add("a")

    net.inject(a, packet(Suspect(1, "x", "y"), Dead(1, "x", "y"), AckResp(7), NackResp(7)), MALLORY)
    net.run(5.0)

    assert a.events == []
    assert a.alive == {"a"}


def test_outdated_messages_change_nothing(net: VirtualNetwork) -> None:
    a = net.add("a")
    net.inject(a, packet(alive("x", incarnation=10)), MALLORY)
    known = a.engine.members["x"]

    for message in (
        Suspect(9, "x", "y"),
        Dead(9, "x", "y"),
        alive("x", incarnation=10),
        alive("x", incarnation=3),
    ):
        net.inject(a, packet(message), MALLORY)

    assert a.engine.members["x"] == known


def test_an_address_cannot_be_taken_over_by_a_higher_incarnation(net: VirtualNetwork) -> None:
    a, b = net.start("a", "b")

    net.inject(a, packet(alive("b", ip="10.66.6.6", incarnation=1000)), MALLORY)

    assert a.knows(b).address == b.address
    assert a.happened(NameConflict) == [NameConflict(a.knows(b), MALLORY)]


def test_a_port_counts_as_part_of_the_address(net: VirtualNetwork) -> None:
    a, b = net.start("a", "b")

    net.inject(a, packet(alive("b", ip=b.address.ip, port=1, incarnation=1000)), MALLORY)

    assert a.knows(b).address == b.address
    assert a.happened(NameConflict)


def test_confirmations_by_one_accuser_count_once(net: VirtualNetwork) -> None:
    """Shouting does not bring a suspicion down to its shortest, 4 s."""
    nodes = net.start(*(f"n{i}" for i in range(8)))
    a, b = nodes[0], nodes[1]
    net.cut(a)
    for _ in range(50):
        net.inject(a, packet(Suspect(1, b.name, "mallory")), MALLORY)

    net.run(10.0)

    assert a.sees(b) is State.SUSPECT


def test_a_missing_port_is_taken_to_be_ours(net: VirtualNetwork) -> None:
    """Protocol 1 had none in its messages."""
    a = net.add("a", address=Address("10.0.0.1", 1234))

    net.inject(a, packet(alive("x", port=0)), MALLORY)

    assert a.engine.members["x"].address == Address("10.50.0.1", 1234)


def test_accusations_of_a_gone_member_change_nothing(net: VirtualNetwork) -> None:
    a = net.add("a")
    net.inject(a, packet(alive("x"), Dead(1, "x", "x")), MALLORY)
    left = a.engine.members["x"]
    assert left.state is State.LEFT

    net.inject(a, packet(Suspect(5, "x", "y"), Dead(5, "x", "y")), MALLORY)

    assert a.engine.members["x"] == left


def test_a_forged_ack_saves_nobody_without_the_number(net: VirtualNetwork) -> None:
    a, b = net.start("a", "b")
    net.cut(b)
    for _ in range(40):
        net.run(0.25)
        net.inject(a, packet(AckResp(0), AckResp(2**31), AckResp(2**32 - 1)), b.address)

    assert a.sees(b) is State.DEAD


def test_nacks_are_worth_no_more_than_were_asked_for(net: VirtualNetwork) -> None:
    nodes = net.start(*(f"n{i}" for i in range(5)))
    net.cut(nodes[0])
    net.record = True
    net.run_until(lambda: nodes[0].engine.health_score >= 3, deadline=10.0)
    for _ in range(20):
        net.run(0.5)
        pings = {m.seq_no for _, _, d in nodes[0].sent for m in messages_in(d) if isinstance(m, Ping)}
        net.inject(nodes[0], packet(*(NackResp(n) for n in pings for _ in range(4))), MALLORY)

    assert nodes[0].engine.health_score >= 3, "no probe succeeded, so health cannot have improved"


def test_names_are_kept_up_to_the_limit_and_further_ones_take_the_place_of_others(
    net: VirtualNetwork,
) -> None:
    """Otherwise invented names would keep real members out."""
    a = net.add("a", limits=replace(DEFAULT_LIMITS, members=100))

    for i in range(500):
        net.inject(a, packet(alive(f"x{i}", ip=f"10.{50 + i // 250}.0.{i % 250 + 1}")), MALLORY)

    assert len(a.engine.members) == 100
    assert len(a.happened(MemberJoined)) == 500
    assert len(a.happened(MemberDisplaced)) == 401


def test_indirect_pings_are_taken_on_up_to_the_limit(net: VirtualNetwork) -> None:
    a = net.add("a", limits=replace(DEFAULT_LIMITS, pending_acks=10))
    net.record = True
    target = Address("10.50.0.1", PORT).packed
    for i in range(30):
        net.inject(a, packet(IndirectPing(i, target, PORT, "x", nack=True)), MALLORY)

    assert rejections(a) == ["too-many-indirect-pings"] * 20
    net.run(1.0)
    nacks = [m for _, to, d in a.sent if to == MALLORY for m in messages_in(d) if isinstance(m, NackResp)]
    assert [n.seq_no for n in nacks] == list(range(10))

    net.inject(a, packet(IndirectPing(99, target, PORT, "x", nack=False)), MALLORY)
    assert len(rejections(a)) == 20, "room again once the first were given up"
    a.sent.clear()
    net.run(1.0)
    assert not [to for _, to, _ in a.sent if to == MALLORY], "who asks for no nack gets none"


def test_one_datagram_cannot_make_us_send_more_than_the_limit(net: VirtualNetwork) -> None:
    a = net.add("a", limits=replace(DEFAULT_LIMITS, outbox=50))
    net.record = True

    net.inject(a, packet(*(Ping(i, "a") for i in range(200))), MALLORY)

    assert len(a.sent) == 50


def test_a_flood_of_news_about_few_names_does_not_grow_the_queue(net: VirtualNetwork) -> None:
    a = net.add("a")
    for i in range(1, 3000):
        net.inject(a, packet(alive(f"x{i % 5}", incarnation=i)), MALLORY)

    assert len(a.engine._outbox._broadcasts) <= 6
    assert len(a.engine._timers._heap) < 300


def test_streams_are_kept_up_to_the_limits_and_a_new_one_is_never_refused(net: VirtualNetwork) -> None:
    a = net.add("a")
    engine = a.engine

    same = [engine.stream_accepted(Address("10.66.6.6", 1000 + i), now=0.0) for i in range(6)]
    assert held(a) == same[-DEFAULT_LIMITS.accepted_streams_per_ip :]

    others = [engine.stream_accepted(Address(f"10.66.7.{i}", 1000), now=0.0) for i in range(40)]
    room = DEFAULT_LIMITS.accepted_streams - DEFAULT_LIMITS.accepted_streams_kept
    assert held(a) == others[-room:]

    engine.set_expected(frozenset(f"10.66.8.{i}" for i in range(40)))
    known = [engine.stream_accepted(Address(f"10.66.8.{i}", 1000), now=0.0) for i in range(40)]
    assert held(a) == known[-DEFAULT_LIMITS.accepted_streams :]

    newcomer = engine.stream_accepted(MALLORY, now=0.0)
    assert held(a) == [*known[1 - DEFAULT_LIMITS.accepted_streams :], newcomer]
    ended = sum(isinstance(action, CloseStream) for action in engine.stream_actions())
    a.pump()
    assert rejections(a) == ["too-many-streams"] * ended
    assert len(a.happened(StreamsFull)) == ended


def held(node: Node) -> list[StreamId]:
    """Return the streams that a node has open."""
    return list(node.engine._exchange._streams)


FRAME = bytes((MessageType.ENCRYPT, 0, 15, 0, 0))
"""How an encrypted request of almost a megabyte begins."""


def test_a_request_that_does_not_come_ends_soon_and_one_that_comes_slowly_later(
    make_net: Callable[..., VirtualNetwork],
) -> None:
    net = make_net(packet_format=SEALED)
    a = net.add("a")
    idle = a.engine.stream_accepted(Address("10.66.6.6", 1), now=net.now)
    slow = a.engine.stream_accepted(Address("10.66.6.7", 1), now=net.now)
    began = net.now
    lives: dict[StreamId, float] = {}
    a.act(lambda engine, now: engine.stream_received(idle, FRAME, now=now))
    a.act(lambda engine, now: engine.stream_received(slow, FRAME, now=now))
    piece = bytes(DEFAULT_LIMITS.request_rate // 10)
    while held(a):
        a.act(lambda engine, now: engine.stream_received(slow, piece, now=now))
        net.run(0.1)
        lives |= dict.fromkeys(held(a), net.now - began)

    assert lives[idle] == pytest.approx(DEFAULT_LIMITS.request_timeout, abs=0.2)
    assert DEFAULT_LIMITS.request_timeout < lives[slow] <= DEFAULT_LIMITS.accepted_stream_timeout
    assert {"request-timed-out"} <= set(rejections(a))


class Idlers:
    """Hosts that hold as many connections as they can for good, saying a byte a second on each."""

    def __init__(self, net: VirtualNetwork, victim: Node, addresses: Sequence[str]) -> None:
        self._net = net
        self._victim = victim
        self._slots: dict[tuple[str, int], StreamId] = {
            (ip, number): 0 for ip in addresses for number in range(DEFAULT_LIMITS.accepted_streams_per_ip)
        }
        self._say()

    @property
    def count(self) -> int:
        """How many connections they hold."""
        return len({*self._slots.values()} & {*held(self._victim)})

    def _say(self) -> None:
        for slot, stream in self._slots.items():
            if stream not in self._victim.engine._exchange._streams:
                remote = Address(slot[0], 40_000 + slot[1])
                self._slots[slot] = self._victim.engine.stream_accepted(remote, now=self._net.now)
            if stream != self._slots[slot] or self._net.now % 1.0 < REDIAL:
                said = self._victim.engine._exchange._streams[self._slots[slot]].reader.received
                byte = FRAME[said : said + 1] or b"x"
                self._victim.engine.stream_received(self._slots[slot], byte, now=self._net.now)
        self._victim.pump()
        self._net.at(self._net.now + REDIAL, self._say)


REDIAL = 0.05
"""Seconds in which the idlers notice that a connection was ended."""
EIGHT = [f"10.66.6.{number}" for number in range(8)]
ONE_NETWORK = [f"2001:db8:6:6::{number}" for number in range(1, 9)]
LOCAL_USER = [f"127.0.1.{number}" for number in range(1, 9)]


@pytest.mark.parametrize(
    "addresses", [EIGHT, ONE_NETWORK, LOCAL_USER], ids=["eight addresses", "one /64", "a local user"]
)
@pytest.mark.parametrize("at", ["10.0.0.99", "2001:db8:6:6::99"], ids=["elsewhere", "in their network"])
def test_a_member_joins_while_idle_connections_hold_all_there_is_for_them(
    make_net: Callable[..., VirtualNetwork], addresses: list[str], at: str
) -> None:
    net = make_net(packet_format=SEALED)
    a = net.add("a")
    idlers = Idlers(net, a, addresses)
    net.run(5.0)
    per_holder = DEFAULT_LIMITS.accepted_streams_per_ip
    room = DEFAULT_LIMITS.accepted_streams - DEFAULT_LIMITS.accepted_streams_kept
    assert idlers.count == (per_holder if addresses is ONE_NETWORK else room)

    newcomer = net.add("newcomer", address=Address(at, PORT))
    net.join(newcomer, a)
    net.run_until(lambda: newcomer.alive == a.alive == {"a", "newcomer"}, deadline=10.0)

    assert {event.sender.ip for event in a.happened(PacketRejected)} <= set(addresses)
    assert {event.holder for event in a.happened(StreamsFull)} <= {*addresses, "2001:db8:6:6::/64"}


def test_members_exchange_state_while_idle_connections_hold_each_of_them(
    make_net: Callable[..., VirtualNetwork],
) -> None:
    net = make_net(packet_format=SEALED)
    nodes = net.start("a", "b", "c")
    for node in nodes:
        Idlers(net, node, EIGHT)
    net.run(5.0)
    assert all(node.alive == {"a", "b", "c"} for node in nodes)
    for node in nodes:
        exchanged = len(node.happened(PushPullDone))
        for other in nodes:
            if other is not node:
                net.join(node, other)
        net.run(1.0)
        assert len(node.happened(PushPullDone)) >= exchanged + 2


def answer_of(node: Node, *chunks: bytes, packet_format: PacketFormat = PLAIN) -> tuple[Message | None, bool]:
    """Write on a stream to a node; return what it answered and whether it closed."""
    engine = node.engine
    stream = engine.stream_accepted(MALLORY, now=0.0)
    assert stream is not None
    for chunk in chunks:
        engine.stream_received(stream, chunk, now=0.0)
    reader, closed = StreamReader(packet_format, answer=True), False
    for action in engine.stream_actions():
        match action:
            case WriteStream(data=data):
                reader.feed(data)
            case CloseStream():
                closed = True
    node.pump()
    return reader.message(), closed


def stream(message: Message) -> bytes:
    """Return the bytes of a message on a stream."""
    return seal_stream(message, PLAIN, nonce=bytes)


def test_a_ping_over_a_stream_is_answered_in_whatever_pieces_it_comes(net: VirtualNetwork) -> None:
    a = net.add("a")

    answer, closed = answer_of(a, *(bytes([byte]) for byte in stream(Ping(77, "a"))))

    assert answer == AckResp(77)
    assert closed


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (stream(Ping(1, "b")), "ping-for-another"),
        (stream(AckResp(1)), "unexpected-type"),
        (stream(ErrResp("no")), "unexpected-type"),
        (b"\xff" * 100, "unknown-type"),
        (bytes([6, 0xC1]) + b"x" * 50, "malformed-body"),
    ],
    ids=["ping for another", "unasked ack", "unasked error", "no type", "no map"],
)
def test_a_stream_that_says_something_wrong_is_told_so_and_closed(
    net: VirtualNetwork, data: bytes, reason: str
) -> None:
    a = net.add("a")

    answer, closed = answer_of(a, data)

    assert answer == ErrResp(reason)
    assert closed
    assert rejections(a) == [reason]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (stream(Ping(1, "a")), "not-encrypted"),
        (seal_stream(Ping(1, "a"), OTHER_KEY, nonce=bytes), "wrong-key"),
        (seal_stream(Ping(1, "a"), replace(SEALED, label=b"x"), nonce=bytes), "wrong-label"),
        (bytes((MessageType.ENCRYPT, 255, 0, 0, 0)), "frame-too-large"),
        (b"GET / HTTP/1.1\r\n\r\n", "not-encrypted"),
        (b"\xff" * 100, "not-encrypted"),
    ],
    ids=["in clear", "another key", "another label", "too large", "http", "junk"],
)
def test_a_stream_that_shows_no_key_gets_no_byte(
    make_net: Callable[..., VirtualNetwork], data: bytes, reason: str
) -> None:
    a = make_net(packet_format=SEALED).add("a")

    assert answer_of(a, data, packet_format=SEALED) == (None, True)
    assert rejections(a) == [reason]


def test_a_member_that_is_refused_is_told_why(make_net: Callable[..., VirtualNetwork]) -> None:
    """As memberlist does, whose log then has the reason."""
    a = make_net(packet_format=SEALED).add("a")

    for request, reason in [(Ping(1, "b"), "ping-for-another"), (AckResp(1), "unexpected-type")]:
        data = seal_stream(request, SEALED, nonce=bytes)
        assert answer_of(a, data, packet_format=SEALED) == (ErrResp(reason), True)


def test_a_stream_that_grows_too_long_while_it_waits_for_its_turn_is_ended_once(net: VirtualNetwork) -> None:
    """In clear only: a frame tells its size beforehand."""
    a = net.add("a")
    many = [
        PushNodeState(f"x{i}", bytes([10, 50, i >> 8, i & 255]), PORT, b"", 1, State.ALIVE, VSN)
        for i in range(1000)
    ]
    request = stream(PushPull(tuple(many), join=False, user_state=b"cut off"))

    answer, closed = answer_of(a, request[:-1], bytes(limits.FRAME.most))

    assert answer == ErrResp(limits.FRAME.reason)
    assert closed
    assert rejections(a) == [limits.FRAME.reason]
    assert a.engine.next_timer() != -inf, "nothing is left to be read"
    assert not a.engine._exchange._streams


def test_an_exchange_counts_apart_from_its_bad_entries(net: VirtualNetwork) -> None:
    a = net.add("a")
    good = PushNodeState("good", bytes([10, 50, 0, 1]), PORT, b"", 1, State.ALIVE, VSN)
    bad = replace(good, name="bad", addr=bytes(4))

    answer, _ = answer_of(a, stream(PushPull((bad, good), join=True)))

    assert isinstance(answer, PushPull)
    assert [n.name for n in answer.nodes] == ["a"]
    assert a.alive == {"a", "good"}
    assert rejections(a) == ["bad-address"]


def test_an_exchange_cannot_declare_anybody_dead_but_those_who_left(net: VirtualNetwork) -> None:
    a, b, c = net.start("a", "b", "c")
    entry = PushNodeState("b", b.address.packed, PORT, b"", 1, State.DEAD, VSN)
    left = PushNodeState("c", c.address.packed, PORT, b"", 1, State.LEFT, VSN)

    answer_of(a, stream(PushPull((entry, left), join=False)))

    assert a.sees(b) is State.SUSPECT
    assert a.sees(c) is State.LEFT
    # c is told by nobody, since it is held to have left; it finds out when it next exchanges state.
    net.run_until(lambda: a.sees(b) is a.sees(c) is State.ALIVE, deadline=2 * LAN.push_pull_interval)


def test_an_exchange_cannot_bury_more_names_than_are_kept(net: VirtualNetwork) -> None:
    a, b = net.start("a", "b")
    net.crash(b)
    net.run_until(lambda: a.sees(b) is None, deadline=90.0)
    invented = (
        PushNodeState(f"x{i}", bytes([10, 50, 0, 1]), PORT, b"", 1, State.DEAD, VSN) for i in range(9_000)
    )

    answer_of(a, stream(PushPull(tuple(invented), join=False)))
    net.run(1.0)

    assert len(a.engine._tombstones) == DEFAULT_LIMITS.tombstones
    answer, _ = answer_of(a, stream(PushPull((), join=False)))
    assert isinstance(answer, PushPull)
    told = {n.name: n.state for n in answer.nodes}
    assert told == {"a": State.ALIVE, "b": State.DEAD}, "what others say of strangers is not told on"


def test_an_accuser_is_told_that_we_live_once_a_second(net: VirtualNetwork) -> None:
    """Whatever address it shows: one packet for many would make us a tool against that address."""
    a = net.add("a", incarnation=9)
    net.record = True

    for _ in range(50):
        net.inject(a, packet(Suspect(9, "a", "x"), Suspect(1, "a", "y"), Dead(1, "a", "z")), MALLORY)
        net.run(0.05)

    answers = [messages_in(data) for _, to, data in a.sent if to == MALLORY]
    assert len(answers) == 3
    assert {type(m) for answer in answers for m in answer} == {Alive}


def test_an_exchange_about_ourselves_is_denied(net: VirtualNetwork) -> None:
    a = net.add("a")
    for state in (State.SUSPECT, State.DEAD, State.LEFT):
        before = a.engine.me.incarnation
        entry = PushNodeState("a", a.address.packed, PORT, b"", before, state, VSN)
        answer_of(a, stream(PushPull((entry,), join=False)))
        assert a.engine.me.incarnation == before + 1
        assert a.engine.me.state is State.ALIVE


@pytest.mark.parametrize(
    "answer",
    [AckResp(1), User(b"x"), Ping(1, "a"), ErrResp("go away")],
    ids=["ack", "user message", "ping", "error"],
)
def test_a_wrong_answer_to_an_exchange_fails_it(net: VirtualNetwork, answer: Message) -> None:
    a = net.add("a")
    a.engine.push_pull_with(MALLORY, now=0.0)
    [request] = a.engine.stream_actions()
    assert isinstance(request, OpenStream)

    a.engine.stream_received(request.id, seal_stream(answer, PLAIN, nonce=bytes, answer=True), now=0.1)
    a.pump()

    assert len(a.happened(PushPullFailed)) == 1
    a.engine.stream_received(request.id, b"more", now=0.2)
    a.engine.stream_closed(request.id, now=0.2)
    a.pump()
    assert len(a.happened(PushPullFailed)) == 1


def test_an_answer_under_another_key_is_reported_as_such(make_net: Callable[..., VirtualNetwork]) -> None:
    """Memberlist seals its error even where it could not read the request."""
    a = make_net(packet_format=SEALED).add("a")
    a.engine.push_pull_with(MALLORY, now=0.0)
    [request] = a.engine.stream_actions()

    answer = seal_stream(ErrResp("no"), OTHER_KEY, nonce=bytes, answer=True)
    a.engine.stream_received(request.id, answer, now=0.1)
    a.pump()

    assert a.happened(UnreadableStream) == [UnreadableStream(MALLORY, asked_for=True)]
    [failed] = a.happened(PushPullFailed)
    assert not failed.unanswered


def test_an_ack_of_another_number_over_tcp_saves_nobody(net: VirtualNetwork) -> None:
    a = net.add("a")
    engine = a.engine
    net.inject(a, packet(alive("x")), MALLORY)
    requests: list[OpenStream] = []
    while not requests:
        at = engine.next_timer()
        assert at is not None
        net.now = at
        engine.handle_timer(now=at)
        requests = [r for r in engine.stream_actions() if isinstance(r, OpenStream) and r.purpose == "ping"]

    wrong = seal_stream(AckResp(4711), PLAIN, nonce=bytes, answer=True)
    engine.stream_received(requests[0].id, wrong, now=net.now)
    a.pump()
    net.run(1.0)

    assert a.engine.members["x"].state is State.SUSPECT
    assert "unexpected-type" in rejections(a)


def test_random_bytes_never_raise_nor_stay(net: VirtualNetwork) -> None:
    """Datagrams and streams of noise, of mutated and of truncated messages."""
    rng = Random(net.seed)
    a, b = net.start("a", "b")
    honest = [
        packet(alive("x"), Suspect(1, "b", "x"), Dead(1, "x", "y"), Ping(1, "a"), User(b"u")),
        stream(Ping(1, "a")),
    ]
    baseline = 0
    for i in range(4000):
        data = bytearray(rng.choice(honest) if rng.random() < 0.7 else rng.randbytes(rng.randrange(200)))
        for _ in range(rng.randrange(4)):
            if data:
                data[rng.randrange(len(data))] = rng.randrange(256)
        net.inject(a, bytes(data[: rng.randrange(len(data) + 1)]), MALLORY)
        if i % 4 == 0:
            accepted = a.engine.stream_accepted(MALLORY, now=net.now)
            assert accepted is not None
            a.engine.stream_received(accepted, bytes(data), now=net.now)
            a.engine.stream_closed(accepted, now=net.now)
        a.pump()
        a.events.clear()
        if i == 1000:
            gc.collect()
            baseline = sum(map(sys.getsizeof, gc.get_objects()))
    gc.collect()

    assert sum(map(sys.getsizeof, gc.get_objects())) < baseline + 500_000
    assert b.alive >= {"a", "b"}
