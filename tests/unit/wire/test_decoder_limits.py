"""Every limit of the decoders: what reaches it is taken, one more is refused under its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

import msgpack
import pytest

from wesher_agent.swim.address import Address
from wesher_agent.swim.engine import Engine
from wesher_agent.swim.events import PacketRejected
from wesher_agent.swim.members import LocalNode
from wesher_agent.swim.profile import LAN
from wesher_agent.wire import limits
from wesher_agent.wire.compress import compress_body
from wesher_agent.wire.fields import pack
from wesher_agent.wire.keyring import Keyring
from wesher_agent.wire.lzw import compress
from wesher_agent.wire.messages import Alive, PushPull, User, Versions, decode, encode
from wesher_agent.wire.packet import PacketFormat, open_packet, seal
from wesher_agent.wire.stream import StreamReader
from wesher_common.errors import PeerMisbehaved

PLAIN = PacketFormat(None, compress=False)
ENCRYPTED = PacketFormat(Keyring(bytes(32)), compress=False)
ALIVE = Alive(1, "node", bytes(4), 7946, b"", Versions())
LIMITS = {name: value for name, value in vars(limits).items() if isinstance(value, limits.Limit)}
"""Every one by its name; the next that is added is tried too, or fails here."""


def no_nonce(size: int) -> bytes:
    pytest.fail("nothing here is encrypted")


def open_datagram(data: bytes) -> tuple[str, ...]:
    return open_packet(data, PLAIN).rejected


def read_stream(data: bytes, fmt: PacketFormat = PLAIN) -> None:
    reader = StreamReader(fmt)
    reader.feed(data)
    reader.message()


def datagram(size: int) -> None:
    open_datagram(encode(User(bytes(size - 1))))


def parts(count: int) -> tuple[str, ...]:
    """Open a compound of five compounds of empty user messages, each compound itself a part."""
    each, rest = divmod(count - 5, 5)
    user = encode(User(b""))
    sizes = [each + (number < rest) for number in range(5)]
    inner = [seal([user] * size, PLAIN, checksum=False, nonce=no_nonce) for size in sizes]
    return open_datagram(seal(inner, PLAIN, checksum=False, nonce=no_nonce))


def nested_compounds(depth: int) -> None:
    body = encode(User(b"core"))
    for _ in range(depth):
        body = b"\x07\x01" + len(body).to_bytes(2, "big") + body
    open_datagram(body)


def encrypted_frame(size: int) -> None:
    """Give only a frame's header: its length alone must decide."""
    read_stream(b"\x0a" + size.to_bytes(4, "big"), ENCRYPTED)


def unpacked_stream(size: int) -> None:
    """Unpack an empty user message and what Go would leave lying behind it."""
    body = b"\x08" + pack({b"UserMsgLen": 0})
    read_stream(b"\x09" + pack({b"Algo": 0, b"Buf": compress(body.ljust(size, b"\x00"))}))


def knock_answer(size: int) -> None:
    """Give it to an engine, which reads such an answer as it comes."""
    engine = Engine(
        LocalNode("a", Address("192.0.2.1", 7946), b""),
        LAN,
        packet_format=PLAIN,
        incarnation=1,
        rng=Random(1),
        nonce=no_nonce,
    )
    engine.knock(Address("192.0.2.2", 7946), bytes(16), now=0.0)
    (opened,) = engine.stream_actions()
    engine.stream_received(opened.id, bytes(size), now=0.0)
    while (event := engine.next_event()) is not None:
        if isinstance(event, PacketRejected):
            raise PeerMisbehaved(event.reason)


def push_pull_header(*, nodes: int = 0, user_state: int = 0) -> None:
    read_stream(b"\x06" + pack({b"Nodes": nodes, b"UserStateLen": user_state}))


def name(size: int) -> None:
    letters = ("abcdefghi." * 26)[: size - 1]
    decode(encode(replace(ALIVE, node=letters + "z")))


def meta(size: int) -> None:
    decode(encode(replace(ALIVE, meta=bytes(size))))


def user_message(size: int) -> None:
    read_stream(b"\x08" + pack({b"UserMsgLen": size}))


def error_text(size: int) -> None:
    read_stream(b"\x0d" + pack({b"Error": b"e" * size}))


def container(entries: int) -> None:
    more = {str(number): list(range(entries)) for number in range(entries - 1)}
    decode(b"\x0b" + msgpack.packb({"SeqNo": 1, **more}))


REACHING: dict[str, Callable[[int], tuple[str, ...] | None]] = {
    "DATAGRAM": datagram,
    "DATAGRAM_PARTS": parts,
    "NESTING": nested_compounds,
    "FRAME": encrypted_frame,
    "DECOMPRESSED": unpacked_stream,
    "KNOCK_ANSWER": knock_answer,
    "NODES": lambda count: push_pull_header(nodes=count),
    "USER_STATE": lambda size: push_pull_header(user_state=size),
    "USER_MESSAGE": user_message,
    "NAME": name,
    "META": meta,
    "ERROR_TEXT": error_text,
    "CONTAINER": container,
}
"""What to send for each limit, given the amount."""


def refusals(limit: str, amount: int) -> list[str]:
    try:
        return list(REACHING[limit](amount) or ())
    except PeerMisbehaved as error:
        return [error.reason]


@pytest.mark.parametrize("limit", LIMITS)
def test_what_reaches_the_limit_is_taken(limit: str) -> None:
    assert refusals(limit, LIMITS[limit].most) == []


@pytest.mark.parametrize("limit", LIMITS)
def test_one_more_than_the_limit_is_refused_under_its_name(limit: str) -> None:
    assert refusals(limit, LIMITS[limit].most + 1) == [LIMITS[limit].reason]


def test_compression_counts_as_a_nested_wrapper() -> None:
    body = encode(User(bytes(2000)))
    for _ in range(limits.NESTING.most + 1):
        body = b"\x09" + pack({b"Algo": 0, b"Buf": compress(body)})
    with pytest.raises(PeerMisbehaved, match="nested-too-deep"):
        open_packet(body, PLAIN)


def test_compressed_parts_of_a_datagram_share_its_limit() -> None:
    """Otherwise many small bombs in one compound are one large one."""
    bomb = compress_body(encode(User(bytes(limits.DATAGRAM.most // 2))))
    assert bomb is not None
    opened = open_packet(seal([bomb] * 200, PLAIN, checksum=False, nonce=no_nonce), PLAIN)
    assert len(opened.messages) == 1
    assert set(opened.rejected) == {limits.DATAGRAM.reason}


def test_a_stream_without_frames_is_cut_at_the_same_size() -> None:
    reader = StreamReader(PLAIN, limit=1000)
    reader.feed(b"\x08" + pack({b"UserMsgLen": 5000}))
    reader.feed(bytes(980))
    assert reader.message() is None
    with pytest.raises(PeerMisbehaved) as refusal:
        reader.feed(bytes(1000))
    assert refusal.value.reason == limits.FRAME.reason


def test_a_reader_takes_the_frame_it_was_told_to_expect() -> None:
    """After authentication the engine knows how large its mesh is, and raises the limit by that."""
    large = PushPull((), join=False, user_state=bytes(limits.USER_STATE.most))
    data = encode(large)
    assert len(data) > limits.FRAME.most
    reader = StreamReader(PLAIN, limit=2 * limits.FRAME.most)
    reader.feed(data)
    assert reader.message() == large
