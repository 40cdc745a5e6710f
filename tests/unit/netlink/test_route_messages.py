"""Routes and netlink framing, byte by byte."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest

from wesher_agent.netlink import route_messages
from wesher_agent.netlink.errors import MalformedReply
from wesher_agent.netlink.messages import (
    NLMSG_DONE,
    NLMSG_ERROR,
    pack_attribute,
    pack_message,
    parse_messages,
)
from wesher_agent.netlink.route_messages import PROTOCOL, Route, parse_route


def test_a_route_of_ours_is_marked_and_reads_back() -> None:
    body = route_messages.pack_peer_route(IPv4Network("10.0.0.2/32"), 7)
    assert body[:12] == struct.pack("=BBBBBBBBI", 2, 32, 0, 0, 254, PROTOCOL, 253, 1, 0)
    assert parse_route(memoryview(body)) == Route(
        IPv4Network("10.0.0.2/32"),
        kind=route_messages.UNICAST,
        protocol=PROTOCOL,
        device=7,
        gateways=(),
        metric=0,
        table=254,
        mtu=None,
    )


def test_a_removal_asks_for_any_scope_but_only_ours() -> None:
    body = route_messages.pack_peer_route(IPv4Network("10.0.0.2/32"), 7, remove=True)
    assert (body[5], body[6]) == (PROTOCOL, 255)


def test_an_unreachable_route_comes_behind_all_others() -> None:
    route = parse_route(memoryview(route_messages.pack_unreachable(IPv6Network("fd00::/64"), "wg0")))
    assert (route.kind, route.metric, route.device) == (route_messages.UNREACHABLE, 1_000_000, None)


def test_the_unreachable_host_routes_of_two_interfaces_are_told_apart() -> None:
    address = IPv6Network("fd00::7/128")
    one, other = (route_messages.unreachable_metric(address, name) for name in ("wgoverlay", "wg7"))
    assert one != other
    assert min(one, other) > route_messages.UNREACHABLE_METRIC
    route = parse_route(memoryview(route_messages.pack_unreachable(address, "wg7")))
    assert (route.destination, route.metric) == (address, other)


def test_a_default_route_with_gateway_and_mtu_is_read() -> None:
    body = (
        struct.pack("=BBBBBBBBI", 2, 0, 0, 0, 254, 16, 0, 1, 0)
        + pack_attribute(4, struct.pack("=I", 2))
        + pack_attribute(5, bytes((192, 0, 2, 1)))
        + pack_attribute(6, struct.pack("=I", 100))
        + pack_attribute(8, pack_attribute(2, struct.pack("=I", 1450)))
        + pack_attribute(15, struct.pack("=I", 1000))
    )
    route = parse_route(memoryview(body))
    assert (route.destination, route.gateways) == (IPv4Network("0.0.0.0/0"), (IPv4Address("192.0.2.1"),))
    assert (route.metric, route.mtu, route.is_in_main_table) == (100, 1450, False)


def next_hop(*attributes: bytes) -> bytes:
    return struct.pack("=HBBi", 8 + len(b"".join(attributes)), 0, 0, 7) + b"".join(attributes)


def test_every_next_hop_of_a_route_is_read() -> None:
    first, second = (IPv4Address(f"192.0.2.{number}") for number in (1, 2))
    over_ipv6 = IPv6Address("fe80::1")
    next_hops = (
        next_hop(pack_attribute(5, first.packed))
        + next_hop()
        + next_hop(pack_attribute(18, struct.pack("=H", 10) + over_ipv6.packed))
        + next_hop(pack_attribute(5, second.packed))
    )
    body = struct.pack("=BBBBBBBBI", 2, 0, 0, 0, 254, 16, 0, 1, 0) + pack_attribute(9, next_hops)
    assert parse_route(memoryview(body)).gateways == (first, over_ipv6, second)


def test_a_lookup_can_be_for_one_link() -> None:
    body = route_messages.pack_lookup(IPv4Address("192.0.2.1"), device=7)
    assert body.endswith(pack_attribute(4, struct.pack("=I", 7)))
    assert body.startswith(route_messages.pack_lookup(IPv4Address("192.0.2.1")))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        struct.pack("=BBBBBBBBI", 2, 33, 0, 0, 254, 0, 0, 1, 0),
        struct.pack("=BBBBBBBBI", 2, 32, 0, 0, 254, 0, 0, 1, 0) + pack_attribute(1, bytes(3)),
        struct.pack("=BBBBBBBBI", 2, 8, 0, 0, 254, 0, 0, 1, 0) + pack_attribute(1, bytes((10, 1, 0, 0))),
        struct.pack("=BBBBBBBBI", 2, 0, 0, 0, 254, 0, 0, 1, 0) + pack_attribute(4, bytes(2)),
        struct.pack("=BBBBBBBBI", 2, 0, 0, 0, 254, 0, 0, 1, 0) + pack_attribute(5, bytes(5)),
        *(
            struct.pack("=BBBBBBBBI", 2, 0, 0, 0, 254, 0, 0, 1, 0) + pack_attribute(9, next_hops)
            for next_hops in (
                bytes(8),
                bytes(5),
                struct.pack("=HBBi", 12, 0, 0, 7),
                next_hop(b"\x09\0\x05\0"),
            )
        ),
        struct.pack("=BBBBBBBBI", 2, 0, 0, 0, 254, 0, 0, 1, 0) + pack_attribute(18, bytes(1)),
    ],
)
def test_a_malformed_route_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedReply):
        parse_route(memoryview(body))


def test_messages_are_taken_apart_at_their_padding() -> None:
    data = pack_message(24, 1, b"abcde", sequence=3) + pack_message(25, 2, b"", sequence=4)
    assert [(m.kind, m.flags, m.sequence, bytes(m.body)) for m in parse_messages(data)] == [
        (24, 1, 3, b"abcde"),
        (25, 2, 4, b""),
    ]


def test_an_error_number_is_positive_and_an_end_may_carry_none() -> None:
    (refused,) = parse_messages(pack_message(NLMSG_ERROR, 0, struct.pack("=i", -17)))
    (ended,) = parse_messages(pack_message(NLMSG_DONE, 0, b""))
    assert (refused.errno, ended.errno) == (17, 0)
    (cut,) = parse_messages(pack_message(NLMSG_ERROR, 0, b"\0"))
    with pytest.raises(MalformedReply):
        _ = cut.errno


@pytest.mark.parametrize("length", [0, 15, 17, 2**31])
def test_a_message_that_lies_about_its_length_is_refused(length: int) -> None:
    with pytest.raises(MalformedReply):
        list(parse_messages(struct.pack("=IHHII", length, 1, 0, 0, 0)))


def test_a_message_without_a_whole_header_is_refused() -> None:
    with pytest.raises(MalformedReply):
        list(parse_messages(b"\0" * 15))
