"""The gob codec against streams that Go 1.26 wrote, and against broken ones.

The same cases run against Go itself in ``tests/interop/test_gob.py``.
"""

import pytest

from wesher_agent.mesh.gob import Field, Marshalled, decode_struct, encode_struct
from wesher_common.errors import PeerMisbehaved

KEY = "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY="
ADDRESS = Marshalled([10, 221, 153, 165])

TYPES = bytes.fromhex(
    "317f030101086e6f64654d65746101ff80000102010b4f7665726c61794164647201ff820001065075624b6579010c000000"
    "10ff81060101044164647201ff82000000"
)
PLAIN = TYPES + bytes.fromhex(
    "37ff8001040add99a5012c51554a44524556475230684a536b744d545535505546465355315256566c645957567068596d4e6b5a57593d00"
)
UNSET = TYPES + bytes.fromhex(
    "31ff80022c51554a44524556475230684a536b744d545535505546465355315256566c645957567068596d4e6b5a57593d00"
)
EVERY_KIND = bytes.fromhex(
    "797f030101056c6174657201ff800001090105466c61677301ff820001055461626c6501ff8800010b4f7665726c6179416464"
    "7201ff8a000105466978656401ff8c000105526174696f010800010653706972616c010e0001065075624b6579010c00010549"
    "6e6e657201ff8e0001054f74686572010c00000014ff81020101065b5d626f6f6c01ff82000102000028ff87040101176d6170"
    "5b737472696e675d5b5d6d61696e2e706f696e7401ff8800010c01ff8600000dff85020102ff860001ff8400001fff83030101"
    "05706f696e7401ff84000102010158010400010159010400000010ff89060101044164647201ff8a00000018ff8b010101085b"
    "335d696e74313601ff8c0001040106000046ff8d0301012e737472756374207b204465657020737472756374207b20506f696e"
    "7473205b5d6d61696e2e706f696e74207d207d01ff8e00010101044465657001ff9000000038ff8f0301011e73747275637420"
    "7b20506f696e7473205b5d6d61696e2e706f696e74207d01ff900001010106506f696e747301ff8600000063ff800102010001"
    "0101610201020103000001040add99a5010301000201fee03f01fef03fffc0012c51554a44524556475230684a536b744d5455"
    "35505546465355315256566c645957567068596d4e6b5a57593d010101010106010800000001017800"
)


def message(*parts: bytes) -> bytes:
    body = b"".join(parts)
    return bytes([len(body)]) + body


EMPTY = message(b"\xff\x80\x00")
"""A struct of type 64 without a field, whatever that type is."""


def self_containing() -> bytes:
    """Return the definition of type 64 as a slice of itself; 128 and 127 are how gob writes 64 and -64."""
    return message(bytes([0x7F, 2, 1, 2, 0xFF, 128, 0, 1, 0xFF, 128, 0, 0]))


def struct_of(type_id: int) -> bytes:
    """Return the definition of type 65 as a struct with one field of that type (below 64)."""
    field = b"\x01\x01x\x01" + bytes([type_id << 1]) + b"\0"
    return message(b"\xff\x81\x03\x01\x02\xff\x82\x00\x01\x01" + field + b"\0\0")


def test_a_struct_is_read_by_the_names_in_the_stream() -> None:
    assert decode_struct(PLAIN) == {"OverlayAddr": ADDRESS, "PubKey": KEY}


def test_a_zero_field_is_absent() -> None:
    assert decode_struct(UNSET) == {"PubKey": KEY}


def test_a_value_that_wrote_itself_is_told_from_plain_bytes() -> None:
    assert type(decode_struct(PLAIN)["OverlayAddr"]) is Marshalled


def test_every_kind_of_field_is_read() -> None:
    assert decode_struct(EVERY_KIND) == {
        "Flags": [True, False],
        "Table": ["a", [{"X": 1, "Y": -2}, {}]],
        "OverlayAddr": ADDRESS,
        "Fixed": [-1, 0, 1],
        "Ratio": 0.5,
        "Spiral": 1 - 2j,
        "PubKey": KEY,
        "Inner": {"Deep": {"Points": [{"X": 3, "Y": 4}]}},
        "Other": "x",
    }


def test_type_ids_come_from_the_stream() -> None:
    """Older Go releases began at 65; here both ids of the plain struct are one higher."""
    shifted = PLAIN.replace(b"\xff\x82", b"\xff\x84").replace(b"\xff\x80", b"\xff\x82")
    shifted = shifted.replace(b"\x10\xff\x81\x06", b"\x10\xff\x83\x06").replace(b"\x31\x7f", b"\x32\xff\x81")
    assert decode_struct(shifted) == decode_struct(PLAIN)
    assert shifted != PLAIN


def test_what_follows_the_first_value_is_ignored_as_go_ignores_it() -> None:
    assert decode_struct(PLAIN + b"\xff\xff\xff") == decode_struct(PLAIN)


def test_the_plain_struct_is_written_byte_for_byte_as_go_writes_it() -> None:
    fields = [Field("OverlayAddr", ADDRESS, "Addr"), Field("PubKey", KEY)]
    assert encode_struct("nodeMeta", fields) == PLAIN
    unset = [Field("OverlayAddr", Marshalled(), "Addr"), Field("PubKey", KEY)]
    assert encode_struct("nodeMeta", unset) == UNSET


@pytest.mark.parametrize("length", range(len(PLAIN)))
def test_a_stream_cut_anywhere_is_refused(length: int) -> None:
    with pytest.raises(PeerMisbehaved):
        decode_struct(PLAIN[:length])


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        (b"", "gob-truncated"),
        (b"\xf7" + bytes(9), "gob-number-too-long"),
        (TYPES + TYPES + EMPTY, "gob-type-id"),
        (message(b"\x0b\x03\0\0") + EMPTY, "gob-type-id"),
        (message(b"\x7f\x00") + EMPTY, "gob-type-form"),
        (message(b"\x7f\x09\x00\x00") + EMPTY, "gob-type-form"),
        (message(b"\x7f\x03\x04\x00\x00") + EMPTY, "gob-type-form"),
        (message(b"\x7f\x01\x01\x03\x02\x00\x00\x00") + EMPTY, "gob-type-form"),
        (message(b"\xff\x80\x00"), "gob-not-a-struct"),
        (self_containing() + message(b"\xff\x80\x00"), "gob-not-a-struct"),
        (TYPES + message(b"\xff\x80\x03\x00\x00"), "gob-field-number"),
        (TYPES + message(b"\xff\x80\x02\x02\xc3\x28\x00"), "gob-text"),
        (struct_of(8) + message(b"\xff\x82\x01\x00\x00"), "gob-type-id"),
        (struct_of(30) + message(b"\xff\x82\x01\x00\x00"), "gob-type-id"),
    ],
)
def test_a_malformed_stream_is_refused_with_its_reason(stream: bytes, reason: str) -> None:
    with pytest.raises(PeerMisbehaved) as refusal:
        decode_struct(stream)
    assert refusal.value.reason == reason


def test_values_nested_in_themselves_end_at_a_depth() -> None:
    field = b"\x01\x01x\x01\xff\x80\0"
    holder = message(b"\xff\x81\x03\x01\x02\xff\x82\x00\x01\x01" + field + b"\0\0")
    with pytest.raises(PeerMisbehaved) as refusal:
        decode_struct(self_containing() + holder + message(b"\xff\x82\x01" + b"\x01" * 100))
    assert refusal.value.reason == "gob-too-deep"


def test_a_count_larger_than_the_stream_allocates_nothing() -> None:
    """Every element takes a byte, so reading ends with the stream however many are announced."""
    field = b"\x01\x01x\x01\xff\x80\0"
    holder = message(b"\xff\x81\x03\x01\x02\xff\x82\x00\x01\x01" + field + b"\0\0")
    with pytest.raises(PeerMisbehaved) as refusal:
        decode_struct(self_containing() + holder + message(b"\xff\x82\x01\xf8" + b"\x7f" * 8))
    assert refusal.value.reason == "gob-truncated"
