"""Metadata both ways between our codec and Go's ``encoding/gob`` itself."""

import base64
from ipaddress import ip_address, ip_network

import pytest

from wesher_agent.mesh.device import Endpoint
from wesher_agent.mesh.nodemeta import Flag, NodeMeta
from wesher_common.certificate import Authority, Subject
from wesher_common.errors import PeerMisbehaved
from wesher_common.keys import WireGuardPublicKey
from wesher_testing.peers.gob_peer import GobPeer

KEY = WireGuardPublicKey(bytes(range(1, 33)))
CERTIFICATE = Authority(bytes(range(32))).issue(
    Subject(name="a", public_key=KEY, address=ip_address("10.0.0.1")), serial=1_790_000_000_000
)
ADDRESSES = ["10.221.153.165", "2001:db8:c575:7277:b806:e994:13dd:99a5"]


@pytest.fixture(scope="module")
def go() -> GobPeer:
    return GobPeer()


def ours(address: str) -> NodeMeta:
    return NodeMeta(
        overlay_address=ip_address(address),
        public_key=KEY,
        version=1,
        internal_address=ip_address("10.0.0.5"),
        wireguard_endpoint=Endpoint(ip_address("2001:db8::1"), 51820),
        location="berlin",
        networks=(ip_network("10.9.0.0/16"), ip_network("2001:db8:1::/64")),
        flags=Flag.IN_KUBERNETES | Flag.MOVABLE,
        certificate=CERTIFICATE,
    )


@pytest.mark.parametrize("address", ADDRESSES)
def test_the_plain_struct_is_byte_for_byte_what_go_writes(go: GobPeer, address: str) -> None:
    meta = NodeMeta(overlay_address=ip_address(address), public_key=KEY)
    assert meta.encode() == go.encode("go", addr=address, key=str(KEY))
    assert NodeMeta.decode(meta.encode()) == meta


def test_a_member_without_address_yet_is_byte_for_byte_what_go_writes(go: GobPeer) -> None:
    meta = NodeMeta(overlay_address=None, public_key=KEY)
    assert meta.encode() == go.encode("go", addr="", key=str(KEY))


@pytest.mark.parametrize("address", ADDRESSES)
def test_our_further_field_is_byte_for_byte_what_go_would_write(go: GobPeer, address: str) -> None:
    # What stands before the block in compact form: a zero, the address with its length, the key.
    block = ours(address).encode(compact=True)[2 + len(ip_address(address).packed) + 32 :]
    written = go.encode("ours", addr=address, key=str(KEY), W=base64.b64encode(block).decode())
    assert ours(address).encode() == written
    assert NodeMeta.decode(written) == ours(address)


@pytest.mark.parametrize("address", ADDRESSES)
def test_go_reads_its_two_fields_out_of_all_of_ours(go: GobPeer, address: str) -> None:
    assert go.decode(ours(address).encode()) == {"addr": address, "key": str(KEY)}


def test_we_read_our_fields_between_every_kind_of_field_that_gob_knows(go: GobPeer) -> None:
    """A later release may add any of them, and the two must still be found."""
    stream = go.encode("future", addr=ADDRESSES[0], key=str(KEY), other="x")
    assert NodeMeta.decode(stream) == NodeMeta(overlay_address=ip_address(ADDRESSES[0]), public_key=KEY)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("go-0.2", "metadata-of-wesher-0.2"),
        ("other-marshaler", "metadata-address"),
        ("not-a-struct", "gob-not-a-struct"),
    ],
)
def test_other_structs_are_refused_with_a_reason(go: GobPeer, kind: str, reason: str) -> None:
    with pytest.raises(PeerMisbehaved) as refusal:
        NodeMeta.decode(go.encode(kind, addr=ADDRESSES[0], key=str(KEY)))
    assert refusal.value.reason == reason
