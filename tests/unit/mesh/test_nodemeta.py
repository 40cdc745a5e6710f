"""What the fields of a member's metadata may hold."""

from collections.abc import Sequence
from dataclasses import fields, replace
from ipaddress import ip_address, ip_network

import pytest

from wesher_agent.mesh.device import Endpoint
from wesher_agent.mesh.gob import Field, Marshalled, decode_struct, encode_struct
from wesher_agent.mesh.nodemeta import Flag, NodeMeta, changed_fields
from wesher_agent.wire.limits import META
from wesher_common.errors import InvalidSpec, PeerMisbehaved
from wesher_common.keys import WireGuardPublicKey

KEY = WireGuardPublicKey(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdef")
ADDRESS = ip_address("10.221.153.165")
TWO_FIELDS = [Field("OverlayAddr", Marshalled(ADDRESS.packed), "Addr"), Field("PubKey", str(KEY))]
WESHER_0_2 = bytes.fromhex(
    "317f030101086e6f64654d65746101ff80000102010b4f7665726c61794164647201ff820001065075624b6579010c000000"
    "23ff810301010549504e657401ff8200010201024950010a0001044d61736b010a000000"
    "3fff800101040add99a50104ffffffff00012c"
    "51554a44524556475230684a536b744d545535505546465355315256566c645957567068596d4e6b5a57593d00"
)
FULL = NodeMeta(
    overlay_address=ADDRESS,
    public_key=KEY,
    version=1,
    internal_address=ip_address("10.0.0.5"),
    wireguard_endpoint=Endpoint(ip_address("192.0.2.1"), 51820),
    location="berlin",
    networks=(ip_network("10.9.0.0/16"), ip_network("2001:db8:1::/64")),
    flags=Flag.IN_KUBERNETES | Flag.MOVABLE,
)


def with_fields(*fields: Field) -> bytes:
    return encode_struct("nodeMeta", [*TWO_FIELDS, *fields])


def refusal_of(stream: bytes) -> str:
    with pytest.raises(PeerMisbehaved) as refusal:
        NodeMeta.decode(stream)
    return refusal.value.reason


@pytest.mark.parametrize(
    "meta",
    [
        FULL,
        NodeMeta(overlay_address=ADDRESS, public_key=KEY),
        NodeMeta(overlay_address=ip_address("2001:db8::1"), public_key=KEY, location="x"),
        NodeMeta(overlay_address=None, public_key=None),
        NodeMeta(overlay_address=None, public_key=KEY, flags=Flag.BEHIND_NAT),
    ],
)
def test_what_is_written_is_read(meta: NodeMeta) -> None:
    assert NodeMeta.decode(meta.encode()) == meta


def test_a_go_member_is_version_0_and_keeps_its_address() -> None:
    meta = NodeMeta.decode(with_fields())
    assert (meta.version, meta.is_movable) == (0, False)


def test_the_two_fields_take_as_much_room_as_in_go() -> None:
    assert len(NodeMeta(overlay_address=ADDRESS, public_key=KEY).encode()) == 123
    assert len(NodeMeta(overlay_address=ip_address("2001:db8::1"), public_key=KEY).encode()) == 135


def test_all_our_fields_leave_room_for_a_certificate() -> None:
    assert len(FULL.encode()) < 260


def test_flags_of_a_later_release_are_ignored() -> None:
    assert NodeMeta.decode(with_fields(Field("Fl", 0xFFFF))).flags == Flag(7)


def test_fields_of_a_later_release_are_ignored() -> None:
    assert NodeMeta.decode(with_fields(Field("Later", b"x"), Field("Loc", "berlin"))).location == "berlin"


def test_wesher_0_2_is_named_for_what_it_is() -> None:
    """It sends its address as a net.IPNet, and could not read ours."""
    assert refusal_of(WESHER_0_2) == "metadata-of-wesher-0.2"


def test_a_member_that_has_published_nothing_yet_is_told_from_a_broken_one() -> None:
    assert refusal_of(b"") == "metadata-missing"


def test_more_than_memberlist_carries_is_not_read() -> None:
    assert refusal_of(bytes(META.most + 1)) == "metadata-too-long"


BAD_FIELDS = [
    ([Field("OverlayAddr", Marshalled(b"12345"), "Addr")], "metadata-address"),
    ([Field("OverlayAddr", b"1234")], "metadata-field-type"),
    ([Field("OverlayAddr", "10.0.0.1")], "metadata-field-type"),
    ([Field("PubKey", "not base64!")], "metadata-public-key"),
    ([Field("PubKey", "c2hvcnQ=")], "metadata-public-key"),
    ([Field("PubKey", str(WireGuardPublicKey(bytes(32))))], "metadata-public-key"),
    ([Field("PubKey", b"x")], "metadata-field-type"),
    ([Field("V", "1")], "metadata-field-type"),
    ([Field("Int", b"123")], "metadata-address"),
    ([Field("Int", bytes(4))], "metadata-address"),
    ([Field("Int", bytes([224, 0, 0, 1]))], "metadata-address"),
    ([Field("WG", "host.example:51820")], "metadata-endpoint"),
    ([Field("WG", "192.0.2.1")], "metadata-endpoint"),
    ([Field("WG", "192.0.2.1:0")], "metadata-endpoint"),
    ([Field("WG", "0.0.0.0:51820")], "metadata-endpoint"),
    ([Field("WG", "[ff02::1]:51820")], "metadata-endpoint"),
    ([Field("Loc", "x" * 64)], "metadata-location"),
    ([Field("Loc", "line\nbreak")], "metadata-location"),
    ([Field("Net", [b""])], "metadata-network"),
    ([Field("Net", [bytes([10, 0, 0, 0, 33])])], "metadata-network"),
    ([Field("Net", [bytes([10, 0, 0, 1, 8])])], "metadata-network"),
    ([Field("Net", [bytes([10, 0, 0, 8])])], "metadata-network"),
    ([Field("Net", b"x")], "metadata-field-type"),
    ([Field("Fl", "5")], "metadata-field-type"),
]


def test_every_field_has_a_bad_value_above() -> None:
    assert decode_struct(FULL.encode()).keys() == {field.name for fields, _ in BAD_FIELDS for field in fields}


@pytest.mark.parametrize(("fields", "reason"), BAD_FIELDS)
def test_a_field_that_breaks_its_rule_is_refused(fields: Sequence[Field], reason: str) -> None:
    assert refusal_of(encode_struct("nodeMeta", fields)) == reason


def test_too_much_to_announce_says_what_to_do() -> None:
    networks = tuple(ip_network(f"10.{number}.0.0/16") for number in range(60))
    meta = NodeMeta(overlay_address=ADDRESS, public_key=KEY, networks=networks)
    with pytest.raises(InvalidSpec, match=r"^gossip metadata: holds at most 512 bytes, not 5\d\d: announce"):
        meta.encode()


def test_a_location_too_long_is_refused_before_it_is_sent() -> None:
    meta = NodeMeta(overlay_address=ADDRESS, public_key=KEY, location="é" * 32)
    with pytest.raises(InvalidSpec, match=r"location .*: must be at most 63 bytes"):
        meta.encode()


def test_what_changed_is_named_by_field() -> None:
    moved = replace(FULL, overlay_address=ip_address("10.9.0.7"), location="")
    assert changed_fields(FULL.encode(), moved.encode()) == ["overlay_address", "location"]
    assert changed_fields(FULL.encode(), FULL.encode()) == []


@pytest.mark.parametrize("unreadable", [b"", b"nonsense", WESHER_0_2], ids=["none", "no gob", "wesher 0.2"])
def test_a_change_from_or_to_unreadable_metadata_names_every_field_there_is(unreadable: bytes) -> None:
    names = [field.name for field in fields(NodeMeta)]
    assert changed_fields(unreadable, FULL.encode()) == changed_fields(FULL.encode(), unreadable) == names
