"""Datagrams: each wrapper, all of them at once, and what is wrong with a bad one."""

from __future__ import annotations

import itertools
import zlib

import pytest

from wesher_agent.wire.keyring import Keyring
from wesher_agent.wire.messages import AckResp, Message, NackResp, Suspect, User, encode
from wesher_agent.wire.packet import (
    COMPOUND_ENTRY,
    COMPOUND_HEADER,
    PacketFormat,
    Wrapper,
    message_types,
    open_packet,
    overhead,
    seal,
)
from wesher_common.errors import PeerMisbehaved

KEYRING = Keyring(bytes(range(32)))
PLAIN = PacketFormat(None, compress=False)
MESSAGES: tuple[Message, ...] = (
    Suspect(7, "node-b", "node-a"),
    AckResp(3, b"payload"),
    User(b"the same words, " * 9),
)


def nonce(size: int) -> bytes:
    return bytes(size)


def reason_for(data: bytes, fmt: PacketFormat = PLAIN) -> str:
    with pytest.raises(PeerMisbehaved) as refusal:
        open_packet(data, fmt)
    return refusal.value.reason


ENCRYPTIONS = {None: set(), 0: {Wrapper.ENCRYPTION_0}, 1: {Wrapper.ENCRYPTION_1}}


@pytest.mark.parametrize(
    ("version", "label", "compress", "checksum"),
    list(itertools.product(ENCRYPTIONS, [b"", b"label"], [False, True], [False, True])),
)
def test_messages_come_back_out_of_every_combination_of_wrappers(
    *, version: int | None, label: bytes, compress: bool, checksum: bool
) -> None:
    fmt = PacketFormat(None if version is None else KEYRING, label, version or 0, compress)
    opened = open_packet(seal([encode(m) for m in MESSAGES], fmt, checksum=checksum, nonce=nonce), fmt)
    assert opened.messages == MESSAGES
    assert opened.rejected == ()
    assert opened.wrappers == ENCRYPTIONS[version] | {Wrapper.COMPOUND} | (
        ({Wrapper.LABEL} if label else set())
        | ({Wrapper.COMPRESSION} if compress else set())
        | ({Wrapper.CHECKSUM} if checksum else set())
    )


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("checksum", [False, True])
@pytest.mark.parametrize("size", range(100, 117))
def test_overhead_is_never_less_than_what_wrapping_adds(*, version: int, checksum: bool, size: int) -> None:
    fmt = PacketFormat(KEYRING, b"label", version, compress=False)
    parts = [encode(User(bytes(size))), encode(NackResp(1))]
    inner = COMPOUND_HEADER + sum(COMPOUND_ENTRY + len(part) for part in parts)
    assert len(seal(parts, fmt, checksum=checksum, nonce=nonce)) <= inner + overhead(fmt, checksum)


def test_the_types_of_messages_are_counted_under_memberlists_names() -> None:
    parts = [encode(m) for m in (AckResp(3, b""), *MESSAGES, *MESSAGES[:1], User(b""))]
    fmt = PacketFormat(KEYRING, b"label")
    data = seal(parts, fmt, checksum=True, nonce=nonce)
    assert message_types(data, fmt) == ["ackResp*2", "suspect*2", "user*2"]
    assert message_types(data[:-1], fmt) == []
    assert message_types(seal([encode(NackResp(1))], PLAIN, checksum=False, nonce=nonce), PLAIN) == [
        "nackResp"
    ]


def test_a_single_message_is_no_compound() -> None:
    assert seal([encode(NackResp(1))], PLAIN, checksum=False, nonce=nonce) == encode(NackResp(1))


def test_what_compression_would_lengthen_goes_as_it_is() -> None:
    part = encode(User(bytes(range(256))))
    assert seal([part], PacketFormat(None), checksum=False, nonce=nonce) == part


@pytest.mark.parametrize("count", [0, 256])
def test_a_compound_of_no_or_too_many_parts_is_our_own_mistake(count: int) -> None:
    with pytest.raises(ValueError, match="1 to 255 parts"):
        seal([encode(NackResp(1))] * count, PLAIN, checksum=False, nonce=nonce)


def test_a_part_too_long_for_its_length_is_our_own_mistake() -> None:
    with pytest.raises(ValueError, match="at most 65535 bytes"):
        seal([b"\x08" + bytes(65535), b"\x08"], PLAIN, checksum=False, nonce=nonce)


@pytest.mark.parametrize(
    ("settings", "what"),
    [({"label": bytes(256)}, "label"), ({"encryption_version": 2}, "version 2")],
)
def test_a_format_that_cannot_be_is_our_own_mistake(settings: dict[str, bytes], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        PacketFormat(None, **settings)


def test_a_truncated_compound_loses_only_the_parts_that_are_cut() -> None:
    data = seal([encode(m) for m in MESSAGES], PLAIN, checksum=False, nonce=nonce)
    opened = open_packet(data[:-1], PLAIN)
    assert opened.messages == MESSAGES[:2]
    assert opened.rejected == ("truncated",)


def test_a_bad_part_costs_only_itself() -> None:
    parts = [encode(MESSAGES[0]), b"\x63what", encode(MESSAGES[1]), b"", encode(MESSAGES[2])]
    opened = open_packet(seal(parts, PLAIN, checksum=False, nonce=nonce), PLAIN)
    assert opened.messages == MESSAGES
    assert opened.rejected == ("unknown-type", "empty")


def test_the_wrappers_of_another_mesh_are_refused_by_name() -> None:
    ours = PacketFormat(KEYRING, b"ours")
    theirs = {
        "wrong-label": PacketFormat(KEYRING, b"theirs"),
        "wrong-key": PacketFormat(Keyring(bytes(32)), b"ours"),
    }
    for reason, fmt in theirs.items():
        assert reason_for(seal([encode(NackResp(1))], fmt, checksum=True, nonce=nonce), ours) == reason


def test_a_label_where_none_is_set_is_refused() -> None:
    labelled = seal([encode(NackResp(1))], PacketFormat(None, b"x"), checksum=False, nonce=nonce)
    assert reason_for(labelled) == "wrong-label"


def test_a_missing_label_is_refused() -> None:
    assert reason_for(encode(NackResp(1)), PacketFormat(None, b"x")) == "wrong-label"


def test_nothing_in_clear_is_read_where_there_is_a_key() -> None:
    for kind in range(256):
        data = bytes((kind,)) + encode(User(bytes(80)))
        assert reason_for(data, PacketFormat(KEYRING)) in {"unknown-encryption", "wrong-key", "wrong-label"}


def test_one_wrong_bit_is_seen_by_the_checksum() -> None:
    data = bytearray(seal([encode(m) for m in MESSAGES], PLAIN, checksum=True, nonce=nonce))
    data[-1] ^= 1
    assert reason_for(bytes(data)) == "bad-checksum"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"\xf4", "bad-label"),
        (b"\xf4\x00\x0b", "bad-label"),
        (b"\xf4\x05abc", "truncated"),
        (b"\x0c", "truncated"),
        (b"\x0c\x00\x00\x00", "truncated"),
        (b"\x0c\x00\x00\x00\x01", "bad-checksum"),
        (b"\x0c\x00\x00\x00\x00", "empty"),
        (b"\x07", "truncated"),
        (b"\x07\x00", "truncated"),
        (b"\x07\x02\x00\x01\x00", "truncated"),
        (b"\x07\x01\x00\x05\x08", "truncated"),
        (b"\x09", "malformed-body"),
        (b"\x06\x80", "unexpected-type"),
        (b"\x0d\x80", "unexpected-type"),
        (b"\x0a\x80", "unexpected-type"),
        (b"\x07\x01\x00\x05\x0c" + bytes(4), "unexpected-type"),
        (b"\x0e\x80", "unknown-type"),
        (b"\xff", "unknown-type"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[:8].hex() or "nothing",
)
def test_what_is_wrong_with_a_datagram_has_a_name(data: bytes, reason: str) -> None:
    assert reason_for(data) == reason


def test_the_checksum_is_over_what_follows_it() -> None:
    body = encode(NackResp(5))
    assert open_packet(b"\x0c" + zlib.crc32(body).to_bytes(4, "big") + body, PLAIN).messages == (NackResp(5),)
