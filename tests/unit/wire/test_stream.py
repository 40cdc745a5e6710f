"""Streams: every message in every wrapping, however its bytes arrive, and what is refused."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from wesher_agent.wire.fields import pack
from wesher_agent.wire.keyring import Keyring
from wesher_agent.wire.lzw import compress
from wesher_agent.wire.messages import (
    AckResp,
    ErrResp,
    Message,
    NackResp,
    Ping,
    PushNodeState,
    PushPull,
    State,
    User,
    Versions,
    encode,
)
from wesher_agent.wire.packet import PacketFormat, Wrapper
from wesher_agent.wire.stream import StreamReader, seal_stream
from wesher_common.errors import PeerMisbehaved

KEYRING = Keyring(bytes(range(32)))
PLAIN = PacketFormat(None, compress=False)
NODE = PushNodeState("node-a", bytes((10, 0, 0, 1)), 7946, b"meta" * 20, 3, State.LEFT, Versions())
PUSH_PULL = PushPull(
    tuple(replace(NODE, name=f"node-{number}") for number in range(40)), join=True, user_state=b"state"
)
MESSAGES: tuple[Message, ...] = (
    PUSH_PULL,
    PushPull((), join=False),
    User(b"some words " * 9),
    User(b""),
    Ping(1, "node-b", bytes(4), 7946, "node-a"),
    AckResp(1),
    ErrResp("node names are required, and yours is none, and yours is none"),
)
FORMATS = [
    PacketFormat(keyring, label, version, compress)
    for (keyring, version), label, compress in itertools.product(
        [(None, 1), (KEYRING, 0), (KEYRING, 1)], [b"", b"label"], [False, True]
    )
]


def nonce(size: int) -> bytes:
    return bytes(size)


def reason_for(data: bytes, fmt: PacketFormat = PLAIN) -> str:
    reader = StreamReader(fmt)
    reader.feed(data)
    with pytest.raises(PeerMisbehaved) as refusal:
        reader.message()
    return refusal.value.reason


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
@pytest.mark.parametrize("answer", [False, True], ids=["request", "answer"])
def test_a_message_comes_back_whole_and_byte_by_byte(
    *, message: Message, fmt: PacketFormat, answer: bool
) -> None:
    data = seal_stream(message, fmt, nonce=nonce, answer=answer)
    at_once = StreamReader(fmt, answer=answer)
    at_once.feed(data)
    assert at_once.message() == message
    trickling = StreamReader(fmt, answer=answer)
    for place in range(len(data)):
        assert trickling.message() is None
        assert trickling.hungry
        trickling.feed(data[place : place + 1])
    assert trickling.message() == message
    assert not trickling.hungry
    assert trickling.wrappers == at_once.wrappers


def test_a_reader_says_what_it_unwrapped() -> None:
    fmt = PacketFormat(KEYRING, b"label", 0)
    reader = StreamReader(fmt)
    reader.feed(seal_stream(PUSH_PULL, fmt, nonce=nonce))
    assert reader.message() == PUSH_PULL
    assert reader.wrappers == {Wrapper.LABEL, Wrapper.ENCRYPTION_0, Wrapper.COMPRESSION}


def test_an_answer_has_no_label_header_but_authenticates_the_label() -> None:
    fmt = PacketFormat(KEYRING, b"label", compress=False)
    answer = seal_stream(AckResp(1), fmt, nonce=nonce, answer=True)
    assert seal_stream(AckResp(1), fmt, nonce=nonce) == b"\xf4\x05label" + answer
    reader = StreamReader(PacketFormat(KEYRING, b"other"), answer=True)
    reader.feed(answer)
    with pytest.raises(PeerMisbehaved, match="wrong-key"):
        reader.message()


def test_a_large_push_pull_comes_in_slices() -> None:
    """A driver may look after its other connections between them."""
    large = PushPull(tuple(replace(NODE, name=f"n{number}") for number in range(2000)), join=False)
    reader = StreamReader(PLAIN)
    reader.feed(encode(large))
    slices = 0
    while (message := reader.step()) is None:
        assert not reader.hungry
        slices += 1
    assert message == large
    assert slices >= 7


def test_a_small_message_takes_one_step() -> None:
    """Slices are for large ones; a small one should not wait for its turn again."""
    for fmt in FORMATS:
        reader = StreamReader(fmt)
        reader.feed(seal_stream(PUSH_PULL, fmt, nonce=nonce))
        assert reader.step() == PUSH_PULL


def test_bytes_behind_the_message_are_dropped() -> None:
    reader = StreamReader(PLAIN)
    reader.feed(encode(AckResp(1)) + bytes(10))
    assert reader.message() == AckResp(1)
    reader.feed(bytes(10))
    assert reader.message() == AckResp(1)


def test_a_node_that_cannot_be_costs_only_itself() -> None:
    """One odd member that others put up with must not keep us from all of them."""
    nodes = (NODE, replace(NODE, name="two words"), replace(NODE, name="b"), replace(NODE, addr=b"abc"))
    reader = StreamReader(PLAIN)
    reader.feed(encode(PushPull(nodes, join=False, user_state=b"state")))
    assert reader.message() == PushPull((nodes[0], nodes[2]), join=False, user_state=b"state")
    assert reader.rejected == ["bad-name", "bad-address"]


def test_an_error_is_raised_again_at_every_call() -> None:
    reader = StreamReader(PLAIN)
    reader.feed(b"\xff")
    for _ in range(2):
        with pytest.raises(PeerMisbehaved, match="unknown-type"):
            reader.message()
        reader.feed(encode(AckResp(1)))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\xf4\x00", "bad-label"),
        (b"\xf4\x01x\x02", "wrong-label"),
        (b"\x0a\x00\x00\x00\x1d", "unexpected-type"),
        (b"\x00\x90", "malformed-body"),
        (b"\x00\xc1", "malformed-body"),
        (b"\x09\x90", "malformed-body"),
        (b"\x06\x81\xa5Nodes\x01\x05", "malformed-body"),
        (b"\x07\x01", "unexpected-type"),
        (b"\x03\x80", "unexpected-type"),
        (b"\x0b\x80", "unexpected-type"),
        (b"\x0c\x00\x00\x00\x00", "unexpected-type"),
        (b"\x7b", "unknown-type"),
    ],
    ids=lambda value: value.hex() if isinstance(value, bytes) else str(value),
)
def test_what_is_wrong_with_a_stream_has_a_name(data: bytes, reason: str) -> None:
    assert reason_for(data) == reason


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (encode(AckResp(1)), "not-encrypted"),
        (b"\x0a\x00\x00\x00\x00", "truncated"),
        (b"\x0a\x00\x00\x00\x1c\x01" + bytes(27), "truncated"),
        (b"\x0a\x00\x00\x00\x1d\x01" + bytes(28), "wrong-key"),
        (b"\x0a\x00\x00\x00\x1d\x02" + bytes(28), "unknown-encryption"),
    ],
    ids=lambda value: value.hex()[:14] if isinstance(value, bytes) else value,
)
def test_what_is_wrong_with_an_encrypted_stream_has_a_name(data: bytes, reason: str) -> None:
    assert reason_for(data, PacketFormat(KEYRING)) == reason


@pytest.mark.parametrize(
    ("inner", "reason"),
    [
        (b"", "empty"),
        (b"\x00", "truncated"),
        (b"\x08\x81\xaaUserMsgLen\x05abc", "truncated"),
        (encode(PUSH_PULL)[:-1], "truncated"),
        (b"\x0a", "unexpected-type"),
        (b"\xf4\x01x", "unexpected-type"),
        (encode(NackResp(1)), "unexpected-type"),
    ],
    ids=lambda value: value.hex()[:14] or "nothing" if isinstance(value, bytes) else value,
)
def test_what_is_wrong_inside_an_encrypted_frame_has_a_name(inner: bytes, reason: str) -> None:
    """A frame's length is known, so what is cut off within it will never come."""
    size = (len(inner) + 29).to_bytes(4, "big")
    sealed = KEYRING.seal(inner, b"\x0a" + size, version=1, nonce=nonce)
    assert reason_for(b"\x0a" + size + sealed, PacketFormat(KEYRING)) == reason


def test_compression_inside_compression_is_refused() -> None:
    """Go unwraps one layer on a stream, and so do we."""
    body = encode(AckResp(1))
    for _ in range(2):
        body = b"\x09" + pack({b"Algo": 0, b"Buf": compress(body)})
    assert reason_for(body) == "unexpected-type"


def test_a_decompressed_body_that_is_cut_off_is_refused() -> None:
    body = b"\x09" + pack({b"Algo": 0, b"Buf": compress(encode(PUSH_PULL)[:-1])})
    assert reason_for(body) == "truncated"


def test_large_bodies_go_uncompressed() -> None:
    """Compressing one would hold up an event loop for longer than sending it takes."""
    large = User(bytes(200_000))
    assert len(seal_stream(large, PacketFormat(None), nonce=nonce)) > 200_000
