"""Whatever a member can say comes back as it was said, in every wrapping."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from wesher_agent.wire.keyring import Keyring
from wesher_agent.wire.limits import DECOMPRESSED
from wesher_agent.wire.lzw import compress, decompress
from wesher_agent.wire.messages import (
    AckResp,
    Alive,
    Dead,
    ErrResp,
    IndirectPing,
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
from wesher_agent.wire.packet import PacketFormat, open_packet, overhead, seal
from wesher_agent.wire.stream import StreamReader, seal_stream

u8 = st.integers(0, 255)
u16 = st.integers(0, 65535)
u32 = st.integers(0, 2**32 - 1)
labels = st.builds(
    "{}{}{}".format, st.sampled_from("aZ9_"), st.text("b-_0", max_size=9), st.sampled_from("aZ9_")
)
names = st.lists(labels, min_size=1, max_size=3).map(".".join)
no_names = names | st.just("")
addresses = st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16)
metas = st.binary(max_size=512)
versions = st.builds(Versions, u8, u8, u8, u8, u8, u8)
source = {
    "source_addr": addresses | st.just(b""),
    "source_port": u16,
    "source_node": no_names,
}

printable = st.text(st.characters(exclude_categories=["C", "Z"], include_characters=" "), max_size=200)
"""What comes out of the decoder as it went in: other letters do not reach the log."""

pings = st.builds(Ping, u32, no_names, **source)
acks = st.builds(AckResp, u32, st.binary(max_size=200))
users = st.builds(User, st.binary(max_size=300))
datagram_messages = st.one_of(
    pings,
    st.builds(IndirectPing, u32, addresses, u16, no_names, st.booleans(), **source),
    acks,
    st.builds(NackResp, u32),
    st.builds(Suspect, u32, names, no_names),
    st.builds(Alive, u32, names, addresses, u16, metas, versions),
    st.builds(Dead, u32, names, no_names),
    users,
)
nodes = st.builds(PushNodeState, names, addresses, u16, metas, u32, st.sampled_from(State), versions)
stream_messages = st.one_of(
    st.builds(
        PushPull, st.lists(nodes, max_size=5).map(tuple), join=st.booleans(), user_state=st.binary(max_size=9)
    ),
    pings,
    acks,
    users,
    st.builds(ErrResp, printable),
)
keyrings = (
    st.builds(Keyring, st.binary(min_size=16, max_size=16) | st.binary(min_size=32, max_size=32)) | st.none()
)
formats = st.builds(
    PacketFormat,
    keyrings,
    label=st.binary(max_size=20),
    encryption_version=st.integers(0, 1),
    compress=st.booleans(),
)


def nonce(size: int) -> bytes:
    return b"n" * size


@settings(max_examples=100, deadline=None)
@given(st.lists(datagram_messages, min_size=1, max_size=5), formats, st.booleans())
def test_messages_on_a_datagram(messages: list[User], fmt: PacketFormat, checksum: bool) -> None:  # noqa: FBT001
    parts = [encode(message) for message in messages]
    data = seal(parts, fmt, checksum=checksum, nonce=nonce)
    opened = open_packet(data, fmt)
    assert opened.messages == tuple(messages)
    assert opened.rejected == ()
    assert len(data) <= 2 + sum(2 + len(part) for part in parts) + overhead(fmt, checksum)


@settings(max_examples=150, deadline=None)
@given(stream_messages, formats, st.booleans(), st.lists(st.integers(0, 2000), max_size=4))
def test_a_message_on_a_stream_however_it_is_cut(
    message: User | PushPull,
    fmt: PacketFormat,
    answer: bool,  # noqa: FBT001
    cuts: list[int],
) -> None:
    data = seal_stream(message, fmt, nonce=nonce, answer=answer)
    reader = StreamReader(fmt, answer=answer)
    for begin, end in pairwise(sorted({0, len(data), *(min(cut, len(data)) for cut in cuts)})):
        assert reader.message() is None
        reader.feed(data[begin:end])
    assert reader.message() == message
    assert reader.rejected == []


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=3000) | st.text("ab", max_size=9000).map(str.encode))
def test_bytes_through_lzw(data: bytes) -> None:
    assert decompress(compress(data), DECOMPRESSED) == data
