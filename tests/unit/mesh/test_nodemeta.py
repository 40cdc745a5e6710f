"""What the fields of a member's metadata may hold, in both forms."""

import json
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from wesher_agent.mesh.device import Endpoint
from wesher_agent.mesh.gob import Field, Marshalled, encode_struct
from wesher_agent.mesh.nodemeta import ENROLMENT_BYTES, META_VERSION, Flag, NodeMeta, changed_fields
from wesher_agent.wire.limits import META
from wesher_common.byte_reader import ByteReader
from wesher_common.certificate import CERTIFICATE_BYTES, Authority, Certificate, Subject, Trust, refusal
from wesher_common.errors import InvalidSpec, PeerMisbehaved
from wesher_common.keys import WireGuardPublicKey

KEY = WireGuardPublicKey(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdef")
ADDRESS = ip_address("10.221.153.165")
TWO_FIELDS = [Field("OverlayAddr", Marshalled(ADDRESS.packed), "Addr"), Field("PubKey", str(KEY))]
VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "common/identity_vectors.json").read_text(encoding="utf-8")
)
WESHER_0_2 = bytes.fromhex(
    "317f030101086e6f64654d65746101ff80000102010b4f7665726c61794164647201ff820001065075624b6579010c000000"
    "23ff810301010549504e657401ff8200010201024950010a0001044d61736b010a000000"
    "3fff800101040add99a50104ffffffff00012c"
    "51554a44524556475230684a536b744d545535505546465355315256566c645957567568596d4e6b5a57593d00"
)
CERTIFICATE = Certificate.read(ByteReader(bytes.fromhex(VECTORS["certificate"]), "metadata"))
VECTOR = NodeMeta(
    overlay_address=ip_address(VECTORS["address"]),
    public_key=WireGuardPublicKey(bytes.fromhex(VECTORS["wireguard_public"])),
    version=META_VERSION,
    internal_address=ip_address("192.168.1.1"),
    location=VECTORS["location"],
    networks=tuple(map(ip_network, VECTORS["networks"])),
    flags=Flag.IN_KUBERNETES,
    ring=3,
    certificate=CERTIFICATE,
)
FULL = replace(
    VECTOR,
    internal_address=ip_address("fd00::1:2:3:4"),
    wireguard_endpoint=Endpoint(ip_address("192.0.2.1"), 51820),
    networks=(ip_network("10.9.0.0/16"), ip_network("2001:db8:1::/64")),
)


def of_wesher(**changes: Any) -> NodeMeta:
    return NodeMeta(**{"overlay_address": ADDRESS, "public_key": KEY, "version": META_VERSION, **changes})


def refusal_of(stream: bytes) -> str:
    with pytest.raises(PeerMisbehaved) as refusal:
        NodeMeta.decode(stream)
    return refusal.value.reason


def with_block(block: bytes) -> bytes:
    return encode_struct("nodeMeta", [*TWO_FIELDS, Field("W", block)])


def test_both_forms_are_the_vectors_byte_for_byte() -> None:
    assert VECTOR.encode().hex() == VECTORS["gob"]
    assert VECTOR.encode(compact=True).hex() == VECTORS["compact"]


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize(
    "meta",
    [
        FULL,
        VECTOR,
        of_wesher(),
        of_wesher(overlay_address=ip_address("2001:db8::1"), location="x"),
        of_wesher(
            wireguard_endpoint=Endpoint(ip_address("2001:db8::9"), 1), enrolment=bytes(ENROLMENT_BYTES)
        ),
        of_wesher(overlay_address=None, flags=Flag.BEHIND_NAT),
        of_wesher(overlay_address=None, public_key=None),
    ],
)
def test_what_is_written_is_read(meta: NodeMeta, *, compact: bool) -> None:
    """Without key or address there is only the gob form."""
    assert NodeMeta.decode(meta.encode(compact=compact)) == meta


@pytest.mark.parametrize(
    "meta",
    [
        NodeMeta(overlay_address=ADDRESS, public_key=KEY),
        NodeMeta(overlay_address=None, public_key=KEY),
        NodeMeta(overlay_address=None, public_key=None),
    ],
)
def test_a_go_member_has_no_block(meta: NodeMeta) -> None:
    read = NodeMeta.decode(meta.encode())
    assert read == meta
    assert (read.version, read.is_movable) == (0, False)


def test_the_two_fields_take_as_much_room_as_in_go() -> None:
    assert len(NodeMeta(overlay_address=ADDRESS, public_key=KEY).encode()) == 123
    assert len(NodeMeta(overlay_address=ip_address("2001:db8::1"), public_key=KEY).encode()) == 135


WORST = of_wesher(
    overlay_address=ip_address("2001:db8:c575:7277:b806:e994:13dd:99a5"),
    internal_address=ip_address("fd00::1:2:3:4"),
    wireguard_endpoint=Endpoint(ip_address("2001:db8:9::1"), 51820),
    location="x" * 63,
    networks=(
        ip_network("10.189.3.7/32"),
        *(ip_network(f"2001:db8:{number}:1:2:3:4:0/124") for number in range(1, 5)),
    ),
    certificate=CERTIFICATE,
)
SIZES = {
    "IPv4, as most members are": (of_wesher(certificate=CERTIFICATE), 214, 120),
    "IPv4, with an internal address and a location": (replace(VECTOR, networks=()), 235, 141),
    "everything that a certificate may list, in IPv6": (WORST, 399, 303),
}
"""Bytes in gob form and in compact form; small metadata makes joins fast."""


@pytest.mark.parametrize("case", SIZES)
def test_metadata_stays_small_and_within_memberlists_limit(case: str) -> None:
    meta, gob, compact = SIZES[case]
    assert (len(meta.encode()), len(meta.encode(compact=True))) == (gob, compact)
    assert gob < META.most


def test_flags_of_a_later_release_are_ignored() -> None:
    meta = VECTOR.encode(compact=True)
    at = len(meta) - len(bytes.fromhex(VECTORS["block"])) + 1
    assert NodeMeta.decode(meta[:at] + b"\xff" + meta[at + 1 :]).flags == Flag(7)


def test_fields_of_a_later_release_are_ignored() -> None:
    stream = encode_struct(
        "nodeMeta", [*TWO_FIELDS, Field("Later", b"x"), Field("W", bytes.fromhex(VECTORS["block"]))]
    )
    assert NodeMeta.decode(stream).location == VECTORS["location"]


def test_wesher_0_2_is_named_for_what_it_is() -> None:
    """It sends its address as a net.IPNet, and could not read ours."""
    assert refusal_of(WESHER_0_2) == "metadata-of-wesher-0.2"


def test_a_member_that_has_published_nothing_yet_is_told_from_a_broken_one() -> None:
    assert refusal_of(b"") == "metadata-missing"


def test_more_than_memberlist_carries_is_not_read() -> None:
    assert refusal_of(bytes(META.most + 1)) == "metadata-too-long"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ([Field("OverlayAddr", Marshalled(b"12345"), "Addr")], "metadata-address"),
        ([Field("OverlayAddr", b"1234")], "metadata-field-type"),
        ([Field("OverlayAddr", "10.0.0.1")], "metadata-field-type"),
        ([Field("PubKey", "not base64!")], "metadata-public-key"),
        ([Field("PubKey", "c2hvcnQ=")], "metadata-public-key"),
        ([Field("PubKey", str(WireGuardPublicKey(bytes(32))))], "metadata-public-key"),
        ([Field("PubKey", b"x")], "metadata-field-type"),
        ([Field("W", "x")], "metadata-field-type"),
    ],
)
def test_a_gob_field_that_breaks_its_rule_is_refused(fields: Sequence[Field], reason: str) -> None:
    assert refusal_of(encode_struct("nodeMeta", fields)) == reason


BLOCKS = [
    ("02000000" + "00", "metadata-version"),
    ("010000", "metadata-truncated"),
    ("01000000", "metadata-truncated"),
    ("01000000" + "0000", "metadata-trailing-bytes"),
    ("01000080" + "00", "metadata-parts"),
    ("01000003" + "00" * 20, "metadata-parts"),
    ("0100000c" + "00" * 20, "metadata-parts"),
    ("01000060" + "00" * 142, "metadata-parts"),
    ("01000001" + "0a0000", "metadata-truncated"),
    ("01000001" + "00000000" + "00", "metadata-address"),
    ("01000001" + "e0000001" + "00", "metadata-address"),
    ("01000004" + "00000000" + "ca6c" + "00", "metadata-address"),
    ("01000004" + "c0000201" + "0000" + "00", "metadata-endpoint"),
    ("01000008" + "ff02" + "00" * 13 + "01" + "ca6c" + "00", "metadata-address"),
    ("01000010" + "00" + "00", "metadata-location"),
    ("01000010" + "40" + "78" * 64 + "00", "metadata-location"),
    ("01000010" + "02" + "780a" + "00", "metadata-location"),
    ("01000010" + "01" + "ff" + "00", "metadata-location"),
    ("01000000" + "01" + "21", "metadata-network-prefix"),
    ("01000020" + "00" + "00" * 76, "metadata-certificate-hours"),
    ("01000040" + "00" + "00" * 63, "metadata-truncated"),
]


@pytest.mark.parametrize(("block", "reason"), BLOCKS)
def test_a_block_that_no_writer_makes_is_refused_in_both_forms(block: str, reason: str) -> None:
    raw = bytes.fromhex(block)
    assert refusal_of(with_block(raw)) == reason
    assert refusal_of(b"\0\4" + ADDRESS.packed + KEY.raw + raw) == reason


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\0", "metadata-truncated"),
        (b"\0\5" + bytes(5) + KEY.raw, "metadata-address"),
        (b"\0\4" + ADDRESS.packed + KEY.raw[:31], "metadata-truncated"),
        (b"\0\4" + ADDRESS.packed + bytes(32) + bytes.fromhex("0100000000"), "metadata-public-key"),
    ],
)
def test_a_compact_form_without_address_or_key_is_refused(data: bytes, reason: str) -> None:
    assert refusal_of(data) == reason


def flips(data: bytes) -> list[bytes]:
    return [
        data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
        for at in range(len(data))
        for bit in range(8)
    ]


@pytest.mark.parametrize("encode", [NodeMeta.encode, lambda meta: meta.encode(compact=True)])
def test_each_flipped_bit_is_refused_or_changes_a_hint_only(encode: Callable[[NodeMeta], bytes]) -> None:
    """A hint is where a member is to be reached; what it has, and whether encrypted, is signed."""
    authority = Authority(bytes.fromhex(VECTORS["authority_seed"]))
    trusted = {authority.key.id: Trust(key=authority.key, newest=VECTORS["serial"])}
    hints = 0
    for flipped in flips(encode(VECTOR)):
        try:
            meta = NodeMeta.decode(flipped)
        except PeerMisbehaved:
            continue
        subject = meta.subject(VECTORS["name"])
        if (
            subject is None
            or refusal(meta.certificate, subject, trusted, clock=VECTORS["serial"]) is not None
        ):
            continue
        hints += 1
        hint = {"flags": VECTOR.flags, "ring": VECTOR.ring, "internal_address": VECTOR.internal_address}
        assert replace(meta, **hint) == VECTOR
    assert hints > 0


def test_what_a_certificate_is_about_is_what_the_member_announces() -> None:
    assert VECTOR.subject("a") == Subject(
        name="a",
        public_key=WireGuardPublicKey(bytes.fromhex(VECTORS["wireguard_public"])),
        address=ip_address(VECTORS["address"]),
        location=VECTORS["location"],
        networks=VECTOR.networks,
    )
    assert of_wesher(overlay_address=None).subject("a") is None
    assert len(CERTIFICATE.packed()) == CERTIFICATE_BYTES


def test_too_much_to_announce_says_what_to_do() -> None:
    networks = tuple(ip_network(f"10.{number}.0.0/16") for number in range(130))
    meta = of_wesher(networks=networks)
    with pytest.raises(InvalidSpec, match=r"^gossip metadata: holds at most 512 bytes, not 5\d\d: announce"):
        meta.encode()


def test_a_location_too_long_is_refused_before_it_is_sent() -> None:
    meta = of_wesher(location="é" * 32)
    with pytest.raises(InvalidSpec, match=r"location .*: must be at most 63 bytes"):
        meta.encode()


def test_what_changed_is_named_by_field() -> None:
    moved = replace(FULL, overlay_address=ip_address("10.9.0.7"), location="")
    assert changed_fields(FULL.encode(), moved.encode()) == ["overlay_address", "location"]
    assert changed_fields(FULL.encode(), FULL.encode()) == []


@pytest.mark.parametrize("unreadable", [b"", b"nonsense", WESHER_0_2], ids=["none", "no gob", "wesher 0.2"])
def test_a_change_from_or_to_unreadable_metadata_names_every_field_there_is(unreadable: bytes) -> None:
    names = [field.name for field in fields(NodeMeta) if getattr(FULL, field.name)]
    assert len(names) == len(fields(NodeMeta)) - 1  # a certificate and an enrolment exclude each other
    assert changed_fields(unreadable, FULL.encode()) == changed_fields(FULL.encode(), unreadable) == names
