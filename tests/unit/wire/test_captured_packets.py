"""Two packets off the wire of Go's memberlist 0.6, without key and compression."""

from __future__ import annotations

import pytest

from wesher_agent.wire.messages import Alive, Ping, PushNodeState, PushPull, State, Versions, encode
from wesher_agent.wire.packet import PacketFormat, Wrapper, open_packet, seal
from wesher_agent.wire.stream import StreamReader, seal_stream

PLAIN = PacketFormat(None, compress=False)

PUSH_PULL = bytes.fromhex(
    "0683a44a6f696ec3a54e6f64657301ac5573657253746174654c656e0087a441646472a47f000001ab496e6361726e6174"
    "696f6e01a44d657461a4000102ffa44e616d65a56e6f646541a4506f7274cd1b59a5537461746500a356736ea601050200"
    "0000"
)
PING_AND_ALIVE = bytes.fromhex(
    "0702004300410085a44e6f6465a56e6f646542a55365714e6f01aa536f7572636541646472a47f000001aa536f75726365"
    "4e6f6465a56e6f646541aa536f75726365506f7274cd1b590486a441646472a47f000001ab496e6361726e6174696f6e01"
    "a44d657461a4000102ffa44e6f6465a56e6f646541a4506f7274cd1b59a356736ea6010502000000"
)

ADDR = bytes((127, 0, 0, 1))
META = bytes.fromhex("000102ff")


def no_nonce(size: int) -> bytes:
    pytest.fail("nothing here is encrypted")


def test_gos_push_pull_reads_as_its_one_node() -> None:
    reader = StreamReader(PLAIN)
    reader.feed(PUSH_PULL)
    node = PushNodeState("nodeA", ADDR, 7001, META, 1, State.ALIVE, Versions())
    assert reader.message() == PushPull((node,), join=True)


def test_gos_ping_brings_its_alive_along() -> None:
    opened = open_packet(PING_AND_ALIVE, PLAIN)
    assert opened.messages == (
        Ping(1, "nodeB", ADDR, 7001, "nodeA"),
        Alive(1, "nodeA", ADDR, 7001, META, Versions()),
    )
    assert opened.wrappers == {Wrapper.COMPOUND}
    assert opened.rejected == ()


def test_our_push_pull_is_gos_byte_for_byte() -> None:
    reader = StreamReader(PLAIN)
    reader.feed(PUSH_PULL)
    message = reader.message()
    assert message is not None
    assert seal_stream(message, PLAIN, nonce=no_nonce) == PUSH_PULL


def test_our_ping_is_gos_byte_for_byte() -> None:
    parts = [encode(message) for message in open_packet(PING_AND_ALIVE, PLAIN).messages]
    assert seal(parts, PLAIN, checksum=False, nonce=no_nonce) == PING_AND_ALIVE
