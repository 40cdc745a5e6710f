"""Every field of every map that a peer sends, with values its kind forbids.

The cases come out of the layouts themselves: a field added there is tested
here, and a kind added without bad values fails.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgpack
import pytest

from wesher_agent.wire import fields
from wesher_agent.wire.fields import Field, Kind, Layout
from wesher_agent.wire.messages import LAYOUTS, PUSH_NODE_STATE, State, Versions, decode
from wesher_agent.wire.packet import PacketFormat, open_packet
from wesher_agent.wire.stream import PUSH_PULL_HEADER, USER_HEADER, StreamReader
from wesher_common.errors import PeerMisbehaved

PLAIN = PacketFormat(None, compress=False)

LAYOUT_NAMES: dict[str, Layout] = {
    **{kind.name: layout for kind, layout in LAYOUTS.items()},
    "PUSH_NODE_STATE": PUSH_NODE_STATE,
    "PUSH_PULL_HEADER": PUSH_PULL_HEADER,
    "USER_HEADER": USER_HEADER,
}

GOOD: dict[Kind, Any] = {
    fields.u16: 7946,
    fields.u32: 1,
    fields.flag: True,
    fields.octets: b"bytes",
    fields.meta: b"meta",
    fields.address: bytes(4),
    fields.optional_address: bytes(16),
    fields.name: b"node-1.Example_x",
    fields.optional_name: b"node-2",
    fields.error_text: b"words",
}

BAD_NAMES = {
    "bad-name": [
        b"two words",
        b"a..b",
        b".a",
        b"a.",
        b"-a",
        b"a-",
        b"a\n",
        b"a" * 64,
        "größe".encode(),
        b"\xff",
        b"a/b",
        b"a\x00b",
    ],
    "name-too-long": [b".".join([b"a" * 49] * 5 + [b"abcd"])],
    "bad-bytes": [7, True, [b"a"]],
}
BAD_ADDRESSES = {"bad-address": [b"abc", bytes(5), bytes(17), bytes(300)], "bad-bytes": [7, True]}

BAD: dict[Kind, dict[str, list[Any]]] = {
    fields.u16: {"bad-integer": [-1, 1 << 16, 1 << 63, True, 1.5, b"1", [1]]},
    fields.u32: {"bad-integer": [-1, 1 << 32, 1 << 63, False, 1.0, b"1", {b"a": 1}]},
    fields.flag: {"bad-flag": [0, 1, b"true", []]},
    fields.octets: {"bad-bytes": [7, True, [1, 2]]},
    fields.meta: {"meta-too-long": [bytes(513)], "bad-bytes": [7]},
    fields.address: {**BAD_ADDRESSES, "bad-address": [*BAD_ADDRESSES["bad-address"], b"", None]},
    fields.optional_address: BAD_ADDRESSES,
    fields.name: {**BAD_NAMES, "bad-name": [*BAD_NAMES["bad-name"], b"", None]},
    fields.optional_name: BAD_NAMES,
    fields.error_text: {"error-too-long": [b"x" * 1025], "bad-bytes": [7]},
}

# The two kinds that belong to one field each are told by it, being private to `messages`.
GOOD_BY_KEY = {b"Vsn": bytes((1, 5, 2, 0, 0, 0)), b"State": int(State.SUSPECT)}
BAD_BY_KEY: dict[bytes, dict[str, list[Any]]] = {
    b"Vsn": {"bad-versions": [b"\x01", bytes(5)], "bad-bytes": [[1, 5, 2, 0, 0, 0], 7]},
    b"State": {"bad-state": [4, 255], "bad-integer": [-1, b"alive", True]},
}


def good(field: Field) -> Any:
    return GOOD_BY_KEY[field.key] if field.key in GOOD_BY_KEY else GOOD[field.kind]


def bad(field: Field) -> dict[str, list[Any]]:
    return BAD_BY_KEY[field.key] if field.key in BAD_BY_KEY else BAD[field.kind]


def all_fields() -> Iterator[tuple[Layout, Field, str]]:
    for name, layout in LAYOUT_NAMES.items():
        for field in layout.fields:
            yield layout, field, f"{name}.{field.key.decode()}"


def bad_fields() -> Iterator[Any]:
    for layout, field, name in all_fields():
        for reason, values in bad(field).items():
            for value in values:
                yield pytest.param(layout, field, value, reason, id=f"{name}-{reason}-{str(value)[:12]}")


def entries_of(layout: Layout) -> dict[bytes, Any]:
    return {field.key: good(field) for field in layout.fields}


def read(layout: Layout, entries: dict[bytes, Any]) -> Any:
    """Read a map that has been through msgpack, as a peer's has."""
    return layout.read(fields.unpack(msgpack.packb(entries, use_bin_type=False)))


@pytest.mark.parametrize(("layout", "field", "value", "reason"), list(bad_fields()))
def test_a_value_the_field_cannot_have_is_refused(
    layout: Layout, field: Field, value: Any, reason: str
) -> None:
    with pytest.raises(PeerMisbehaved) as refusal:
        read(layout, {**entries_of(layout), field.key: value})
    assert refusal.value.reason == reason


@pytest.mark.parametrize("layout", LAYOUT_NAMES.values(), ids=LAYOUT_NAMES)
def test_str_raw_and_bin_read_alike(layout: Layout) -> None:
    entries = entries_of(layout)
    old = layout.read(fields.unpack(msgpack.packb(entries, use_bin_type=False)))
    as_bin = layout.read(fields.unpack(msgpack.packb(entries, use_bin_type=True)))
    as_str = {
        key.decode(): value.decode() if isinstance(value, bytes) else value for key, value in entries.items()
    }
    assert as_bin == old == layout.read(fields.unpack(msgpack.packb(as_str, use_bin_type=True)))


@pytest.mark.parametrize("layout", LAYOUT_NAMES.values(), ids=LAYOUT_NAMES)
def test_keys_that_a_newer_library_adds_are_skipped(layout: Layout) -> None:
    more = {b"Zone": b"a", b"Nested": {b"deep": [1, 2, {b"x": None}]}}
    assert read(layout, {**entries_of(layout), **more}) == read(layout, entries_of(layout))


@pytest.mark.parametrize(
    ("layout", "field"),
    [pytest.param(layout, field, id=name) for layout, field, name in all_fields()],
)
def test_a_missing_key_reads_as_a_nil(layout: Layout, field: Field) -> None:
    """Go writes nil for an empty slice; both mean the zero value, where that is one."""
    without = {key: value for key, value in entries_of(layout).items() if key != field.key}
    outcomes = []
    for entries in (without, {**without, field.key: None}):
        try:
            outcomes.append(read(layout, entries))
        except PeerMisbehaved as error:
            outcomes.append(error.reason)
    assert outcomes[0] == outcomes[1]
    assert outcomes[0] != read(layout, entries_of(layout))
    assert isinstance(outcomes[0], str) == (field.kind in {fields.name, fields.address})


def test_versions_beyond_the_six_are_left_alone() -> None:
    entries = {**entries_of(PUSH_NODE_STATE), b"Vsn": bytes((1, 5, 2, 0, 0, 0, 9))}
    assert read(PUSH_NODE_STATE, entries).vsn == Versions(1, 5, 2, 0, 0, 0)


def test_no_versions_are_all_zero() -> None:
    entries = {**entries_of(PUSH_NODE_STATE), b"Vsn": b""}
    assert read(PUSH_NODE_STATE, entries).vsn == Versions(0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"\x90",
        b"\xc0",
        b"\x07",
        b"\xa3abc",
        b"\x81\xa5SeqNo",
        b"\x81\x01\x02",
        b"\x81\x90\x02",
        b"\x81\xc0\x02",
        b"\x81\xa1a\xc6\xff\xff\xff\xff",
        b"\x81\xa1a\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\x81\xa1a" + b"\x91" * 5000,
        b"\x81\xa1a\xd4\x00\x00",
        b"\x81\xa1a\xc7\x0c\xff" + bytes(12),
    ],
    ids=lambda body: body[:9].hex() or "nothing",
)
def test_bytes_that_are_no_small_map_are_refused(body: bytes) -> None:
    with pytest.raises(PeerMisbehaved) as refusal:
        decode(b"\x00" + body)
    assert refusal.value.reason == "malformed-body"


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({b"Algo": 1, b"Buf": b"\x00\x03\x02"}, "unknown-compression"),
        ({b"Algo": -1, b"Buf": b""}, "bad-integer"),
        ({b"Algo": b"lzw", b"Buf": b""}, "bad-integer"),
        ({b"Algo": 0, b"Buf": 7}, "bad-bytes"),
        ({b"Algo": 0}, "bad-compression"),
        ({b"Buf": b"\x00\x03\x02"}, "empty"),
        ({}, "bad-compression"),
    ],
)
def test_a_bad_field_of_the_compression_wrapper_is_refused_in_packet_and_stream(
    entries: dict[bytes, Any], reason: str
) -> None:
    data = b"\x09" + msgpack.packb(entries, use_bin_type=False)
    reader = StreamReader(PLAIN)
    reader.feed(data)
    with pytest.raises(PeerMisbehaved) as of_stream:
        reader.message()
    with pytest.raises(PeerMisbehaved) as of_packet:
        open_packet(data, PLAIN)
    assert [of_stream.value.reason, of_packet.value.reason] == [reason, reason]


def test_a_peers_words_are_one_line_whatever_it_says() -> None:
    said = fields.error_text(b"no\n2026-01-01 ERROR wesher: forged\x1b[31m \xff", b"Error")
    assert said == "no\ufffd2026-01-01 ERROR wesher: forged\ufffd[31m \ufffd"
