"""Whatever a peer's metadata holds, reading it ends in a value or in PeerMisbehaved."""

import string
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_network

from hypothesis import example, given, settings
from hypothesis import strategies as st

from wesher_agent.mesh.device import Endpoint
from wesher_agent.mesh.gob import Field, Marshalled, decode_struct, encode_struct
from wesher_agent.mesh.nodemeta import META_VERSION, Flag, NodeMeta
from wesher_agent.wire.limits import META
from wesher_common.byte_reader import ByteReader, packed_networks
from wesher_common.certificate import MAX_HOURS, Certificate, Kind
from wesher_common.errors import PeerMisbehaved
from wesher_common.keys import WireGuardPublicKey
from wesher_common.overlay import IPNetwork

unicast = st.integers(1, 0xDFFFFFFF).map(IPv4Address) | st.integers(1, 0xFE << 120).map(IPv6Address)


def network(address: IPv4Address | IPv6Address, prefix: int) -> IPNetwork:
    return ip_network(
        (int(address) >> 32 << 32 if address.version == 6 else address.packed, prefix), strict=False
    )


def in_order(networks: list[IPNetwork]) -> tuple[IPNetwork, ...]:
    return ByteReader(packed_networks(networks), "metadata").networks()


of_go = st.builds(
    NodeMeta,
    overlay_address=st.none() | st.ip_addresses(),
    public_key=st.none() | st.binary(min_size=32, max_size=32).filter(any).map(WireGuardPublicKey),
)
certificates = st.builds(
    Certificate,
    authority=st.binary(min_size=4, max_size=4),
    serial=st.integers(0, 2**48 - 1),
    hours=st.integers(1, MAX_HOURS),
    kind=st.sampled_from(Kind),
    signature=st.binary(min_size=64, max_size=64),
)
parts = st.fixed_dictionaries(
    {
        "version": st.just(META_VERSION),
        "internal_address": st.none() | unicast,
        "wireguard_endpoint": st.none() | st.builds(Endpoint, unicast, st.integers(1, 65535)),
        "location": st.text(string.ascii_letters + "-é", max_size=15),
        "networks": st.lists(st.builds(network, st.ip_addresses(), st.integers(0, 32)), max_size=4).map(
            in_order
        ),
        "flags": st.integers(0, 7).map(Flag),
        "ring": st.integers(0, 255),
    }
)
proofs = (
    st.builds(dict)
    | st.builds(dict, certificate=certificates)
    | st.builds(dict, enrolment=st.binary(min_size=64, max_size=64))
)
of_wesher = st.builds(lambda meta, changes, proof: replace(meta, **changes, **proof), of_go, parts, proofs)
metas = of_go | of_wesher
forms = st.booleans()
anything = (
    st.integers(0, 2**64 - 1)
    | st.text(max_size=20)
    | st.binary(max_size=20)
    | st.lists(st.binary(max_size=6), max_size=4)
    | st.binary(max_size=20).map(Marshalled)
)
names = st.sampled_from(["OverlayAddr", "PubKey", "W", "Later"])
structs = st.lists(st.builds(Field, names, anything, st.just("Addr")), max_size=10)


def read(stream: bytes) -> None:
    """Read as a member would, and let nothing but the one error pass."""
    try:
        meta = NodeMeta.decode(stream)
    except PeerMisbehaved:
        return
    for compact in (False, True):
        assert NodeMeta.decode(meta.encode(compact=compact)) == meta


@settings(max_examples=200, deadline=None)
@given(metas, forms)
def test_what_is_encoded_is_decoded(meta: NodeMeta, compact: bool) -> None:  # noqa: FBT001 - hypothesis gives it
    assert NodeMeta.decode(meta.encode(compact=compact)) == meta


@settings(max_examples=100, deadline=None)
@given(structs)
def test_a_struct_of_any_fields_is_read_or_refused(fields: list[Field]) -> None:
    stream = encode_struct("nodeMeta", fields)
    last = {field.name: field.value for field in fields if field.value}
    if len({field.name for field in fields}) == len(fields):
        assert decode_struct(stream) == last
    read(stream)


@settings(max_examples=100, deadline=None)
@given(metas, st.lists(st.tuples(st.integers(0, META.most), st.integers(0, 255)), min_size=1, max_size=4))
def test_metadata_with_changed_bytes_is_read_or_refused(
    meta: NodeMeta, changes: list[tuple[int, int]]
) -> None:
    stream = bytearray(meta.encode())
    for position, byte in changes:
        stream[position % len(stream)] = byte
    read(bytes(stream))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=64))
@example(b"\xf8" + b"\xff" * 8)
@example(b"\x01\x7f")
def test_any_bytes_are_read_or_refused(stream: bytes) -> None:
    read(stream)
