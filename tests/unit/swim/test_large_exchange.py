"""State exchanges of meshes larger than a stranger's request may be."""

from __future__ import annotations

import gc
import weakref
from random import Random

from wesher_agent.swim.address import Address
from wesher_agent.swim.engine import Engine
from wesher_agent.swim.events import PacketRejected, PushPullDone, PushPullFailed
from wesher_agent.swim.members import LocalNode
from wesher_agent.swim.profile import DEFAULT_LIMITS, LAN
from wesher_agent.swim.streams import CloseStream, OpenStream, WriteStream
from wesher_agent.wire import limits
from wesher_agent.wire.keyring import Keyring
from wesher_agent.wire.messages import Alive, Versions
from wesher_agent.wire.packet import PacketFormat
from wesher_agent.wire.stream import StreamReader

ENCRYPTED = PacketFormat(Keyring(bytes(32)), compress=False)
MANY = 3_000
META = bytes(400)


def engine(number: int) -> Engine:
    """Return a started engine that knows nobody."""
    engine = Engine(
        LocalNode(f"n{number}", Address(f"10.0.0.{number}", 7946), META),
        LAN,
        packet_format=ENCRYPTED,
        incarnation=1,
        rng=Random(number),
        nonce=bytes,
    )
    engine.start(now=0.0)
    return engine


def exchange(asking: Engine, asked: Engine) -> int:
    """Let one exchange state with the other; return the bytes of its request."""
    asking.join([asked.me.address], now=0.0)
    [request] = [action for action in asking.stream_actions() if isinstance(action, OpenStream)]
    accepted = asked.stream_accepted(asking.me.address, now=0.0)
    assert accepted is not None
    deliver(asked, accepted, request.data)
    [answer] = [action for action in asked.stream_actions() if isinstance(action, WriteStream)]
    deliver(asking, request.id, answer.data)
    return len(request.data)


def deliver(engine: Engine, stream: int, data: bytes) -> None:
    """Hand over bytes and let the engine read all of them."""
    engine.stream_received(stream, data, now=0.0)
    while engine.next_timer() == float("-inf"):
        engine.handle_timer(now=0.0)


def faults(engine: Engine) -> list[object]:
    """Return what went wrong."""
    return [e for e in iter(engine.next_event, None) if isinstance(e, PacketRejected | PushPullFailed)]


def test_a_newcomer_is_told_of_a_large_mesh_and_tells_of_it_in_turn() -> None:
    old, newcomer = engine(1), engine(2)
    for number in range(MANY):
        addr = bytes((10, 1, number >> 8, number & 255))
        old.inject(Alive(1, f"m{number}", addr, 7946, META, Versions()), now=0.0)

    exchange(newcomer, old)
    told = exchange(newcomer, old)

    assert told > limits.FRAME.most
    assert len(newcomer.members) == len(old.members) == MANY + 2
    assert faults(old) == []
    assert [e.members for e in iter(newcomer.next_event, None) if isinstance(e, PushPullDone)] == [
        MANY + 1,
        MANY + 2,
    ]


def test_unfinished_requests_share_a_bounded_memory_and_the_longest_gives_way() -> None:
    asked, newcomer = engine(1), engine(2)
    longest = b"\x0a" + limits.FRAME.most.to_bytes(4, "big") + bytes(limits.FRAME.most - 1)
    begun = 2 * DEFAULT_LIMITS.accepted_bytes // len(longest)
    for number in range(begun):
        stream = asked.stream_accepted(Address(f"10.9.{number}.1", 1), now=0.0)
        assert stream is not None
        asked.stream_received(stream, longest, now=0.0)
    refused = [action for action in asked.stream_actions() if isinstance(action, CloseStream)]
    left = begun - len(refused)
    assert left * len(longest) <= DEFAULT_LIMITS.accepted_bytes < (left + 1) * len(longest)
    assert {fault.reason for fault in faults(asked) if isinstance(fault, PacketRejected)} == {
        "too-many-bytes"
    }

    exchange(newcomer, asked)

    assert [type(event) for event in iter(newcomer.next_event, None)][-1] is PushPullDone


def test_nothing_of_an_unfinished_request_stays_behind_its_stream() -> None:
    """Python's collector would come for it late: it counts objects, not their bytes."""
    reader = StreamReader(ENCRYPTED)
    reader.feed(b"\x0a" + limits.FRAME.most.to_bytes(4, "big") + bytes(1000))
    assert reader.message() is None
    reading = weakref.ref(reader)
    gc.disable()
    try:
        reader.close()
        del reader
        assert reading() is None
    finally:
        gc.enable()
