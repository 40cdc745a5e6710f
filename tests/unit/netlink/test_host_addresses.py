"""What the kernel says of addresses, read or refused."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest

from wesher_agent.netlink.errors import MalformedReply
from wesher_agent.netlink.host import LinkAddress, parse_address
from wesher_agent.netlink.messages import pack_attribute

HEADER = struct.pack("=BBBBI", 2, 24, 0x80, 0, 7)
ADDRESS, LOCAL = 1, 2


def test_on_a_point_to_point_link_the_local_address_is_ours() -> None:
    ours, theirs = ip_address("192.0.2.2"), ip_address("192.0.2.1")
    body = HEADER + pack_attribute(ADDRESS, theirs.packed) + pack_attribute(LOCAL, ours.packed)
    assert parse_address(memoryview(body)) == LinkAddress(7, ours, 24)


def test_a_link_without_an_address_has_none() -> None:
    assert parse_address(memoryview(HEADER)) == LinkAddress(7, None, 24)


@pytest.mark.parametrize(
    "body",
    [b"", HEADER[:-1], HEADER + b"\x08", HEADER + pack_attribute(ADDRESS, bytes(3))],
    ids=["nothing", "half a header", "half an attribute", "three bytes"],
)
def test_what_makes_no_sense_is_refused_in_the_one_way_that_a_running_agent_outlives(body: bytes) -> None:
    with pytest.raises(MalformedReply):
        parse_address(memoryview(body))


def test_ipv6_flags_are_read_whole_and_ipv4_has_none() -> None:
    """IFA_F_SECONDARY of IPv4 is IFA_F_TEMPORARY of IPv6, and the header holds eight flags of them all."""
    address = ip_address("2001:db8::1")
    header = struct.pack("=BBBBI", 10, 64, 0x80, 0, 7)
    plain = header + pack_attribute(ADDRESS, address.packed)
    assert parse_address(memoryview(plain)).flags == 0x80
    assert parse_address(memoryview(plain + pack_attribute(8, struct.pack("=I", 0x121)))).flags == 0x121
    secondary = struct.pack("=BBBBI", 2, 24, 0x81, 0, 7)
    ours = pack_attribute(LOCAL, ip_address("192.0.2.2").packed)
    assert parse_address(memoryview(secondary + ours)).flags == 0
