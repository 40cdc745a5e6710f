"""IPv4 addresses in 16 bytes: one address to us, another to memberlist, which compares bytes."""

from __future__ import annotations

from random import Random

import pytest

from wesher_agent.swim.address import Address
from wesher_agent.swim.engine import Engine
from wesher_agent.swim.events import MemberJoined
from wesher_agent.swim.members import LocalNode
from wesher_agent.swim.profile import LAN
from wesher_agent.swim.streams import WriteStream
from wesher_agent.wire.messages import Alive, Message, PushNodeState, PushPull, State, Versions
from wesher_agent.wire.packet import PacketFormat, open_packet
from wesher_agent.wire.stream import StreamReader, seal_stream

IN_CLEAR = PacketFormat(None, compress=False)
X, ASKER = Address("10.0.0.2", 7946), Address("10.0.0.9", 40000)
SHORT = X.packed
LONG = bytes(10) + b"\xff\xff" + X.packed


@pytest.fixture
def engine() -> Engine:
    """Return an engine that knows nobody."""
    engine = Engine(
        LocalNode("me", Address("10.0.0.1", 7946)),
        LAN,
        packet_format=IN_CLEAR,
        incarnation=1,
        rng=Random(1),
        nonce=bytes,
    )
    engine.start(now=0.0)
    return engine


def alive(incarnation: int, addr: bytes) -> Alive:
    """Return an alive message of x."""
    return Alive(incarnation, "x", addr, X.port, b"", Versions())


def told_to_others(engine: Engine) -> PushNodeState:
    """Return what the engine says of x to whoever exchanges state with it."""
    stream = engine.stream_accepted(ASKER, now=0.0)
    assert stream is not None
    request = seal_stream(PushPull((), join=False), IN_CLEAR, nonce=bytes)
    engine.stream_received(stream, request, now=0.0)
    [answer] = [action.data for action in engine.stream_actions() if isinstance(action, WriteStream)]
    reader = StreamReader(IN_CLEAR, answer=True)
    reader.feed(answer)
    state = reader.message()
    assert isinstance(state, PushPull)
    return next(node for node in state.nodes if node.name == "x")


@pytest.mark.parametrize("addr", [SHORT, LONG], ids=["4 bytes", "16 bytes"])
def test_a_members_address_is_passed_on_in_the_form_it_gave(engine: Engine, addr: bytes) -> None:
    """Else the next memberlist would hold the member's own words for another's claim, for ever."""
    engine.inject(alive(1, addr), now=0.0)

    assert engine.members["x"].address == X
    assert told_to_others(engine).addr == addr


@pytest.mark.parametrize(("first", "then"), [(SHORT, LONG), (LONG, SHORT)])
def test_a_member_that_changes_the_form_is_no_other_member(engine: Engine, first: bytes, then: bytes) -> None:
    """A Go member that is given an address to announce, instead of 0.0.0.0, writes it in 4 bytes."""
    engine.inject(alive(1, first), now=0.0)
    engine.inject(alive(2, then), now=1.0)

    events = list(iter(engine.next_event, None))
    assert [type(event) for event in events] == [MemberJoined]
    assert (told_to_others(engine).addr, told_to_others(engine).incarnation) == (then, 2)
    assert engine.members["x"].state is State.ALIVE


@pytest.mark.parametrize("state", State)
def test_we_write_our_address_as_its_former_holder_did(engine: Engine, state: State) -> None:
    """A Go member bound to 0.0.0.0 had our name before: memberlist would refuse us in another form."""
    me = engine.me
    entry = PushNodeState(
        me.name, bytes(10) + b"\xff\xff" + me.address.packed, 7946, b"", 1, state, Versions()
    )
    for _ in range(3):
        told_of(engine, entry)

    assert engine.me.is_mapped
    assert engine.me.address == me.address
    assert engine.me.incarnation == 2
    [alive] = [m for m in news(engine) if isinstance(m, Alive)]
    assert (alive.addr, alive.incarnation) == (entry.addr, engine.me.incarnation)


@pytest.mark.parametrize("new", [Address("2001:db8::1", 7946), Address("10.0.0.7", 7946)], ids=str)
def test_the_form_of_a_former_holder_stays_behind_when_we_move(engine: Engine, new: Address) -> None:
    """An IPv6 address has none, and nobody would read what we made of it."""
    me = engine.me
    long = bytes(10) + b"\xff\xff" + me.address.packed
    told_of(engine, PushNodeState(me.name, long, 7946, b"", 1, State.ALIVE, Versions()))
    engine.change_address(me.address, now=1.0)
    assert engine.me.addr == long, "here they still hold us for that"

    engine.change_address(new, now=2.0)

    assert engine.me.addr == new.packed


def test_another_address_of_that_length_is_not_ours(engine: Engine) -> None:
    other = PushNodeState("me", LONG, 7946, b"", 1, State.ALIVE, Versions())
    told_of(engine, other)

    assert (engine.me.is_mapped, engine.me.incarnation) == (False, 1)


def told_of(engine: Engine, entry: PushNodeState) -> None:
    """Have a peer exchange state with the engine, and say this."""
    stream = engine.stream_accepted(ASKER, now=0.0)
    assert stream is not None
    request = seal_stream(PushPull((entry,), join=False), IN_CLEAR, nonce=bytes)
    engine.stream_received(stream, request, now=0.0)
    engine.stream_actions()


def news(engine: Engine) -> list[Message]:
    """Return what the engine gossips, once it has met somebody."""
    engine.inject(alive(1, SHORT), now=0.0)
    at = engine.next_timer()
    while not (sent := engine.datagrams_to_send()):
        assert at is not None
        engine.handle_timer(now=at)
        at = engine.next_timer()
    own = [m for data, _ in sent for m in open_packet(data, IN_CLEAR).messages]
    return [m for m in own if isinstance(m, Alive) and m.node == "me"][:1]
