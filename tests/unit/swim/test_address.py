"""Addresses between wire, text and socket."""

from __future__ import annotations

import pytest

from wesher_agent.swim.address import Address
from wesher_common.errors import PeerMisbehaved


@pytest.mark.parametrize(
    ("packed", "ip", "text"),
    [
        (bytes([192, 0, 2, 1]), "192.0.2.1", "192.0.2.1:7946"),
        (bytes.fromhex("20010db8" + "0" * 23 + "1"), "2001:db8::1", "[2001:db8::1]:7946"),
    ],
)
def test_an_address_survives_the_wire(packed: bytes, ip: str, text: str) -> None:
    address = Address.from_wire(packed, 7946)

    assert address == (ip, 7946)
    assert address.packed == packed
    assert str(address) == text


def test_an_ipv4_address_in_sixteen_bytes_is_the_same_address() -> None:
    """Go's net.IP often holds IPv4 so."""
    mapped = bytes(10) + b"\xff\xff" + bytes([192, 0, 2, 1])

    assert Address.from_wire(mapped, 7946) == Address("192.0.2.1", 7946)


@pytest.mark.parametrize(
    ("packed", "port"),
    [
        (b"", 1),
        (bytes(3), 1),
        (bytes(5), 1),
        (bytes(4), 1),
        (bytes(16), 1),
        (bytes([224, 0, 0, 1]), 1),
        (bytes([10, 0, 0, 1]), 0),
        (bytes([10, 0, 0, 1]), 65536),
    ],
)
def test_an_address_nobody_can_have_is_misbehaviour(packed: bytes, port: int) -> None:
    with pytest.raises(PeerMisbehaved, match="bad-address"):
        Address.from_wire(packed, port)


@pytest.mark.parametrize(
    ("port", "protocol", "expected"),
    [(7000, 2, 7000), (0, 2, 7946), (7000, 1, 7946), (0, 1, 7946), (7000, 5, 7000)],
)
def test_a_message_without_a_port_means_the_default_port(port: int, protocol: int, expected: int) -> None:
    """Messages of protocol 1 never have one."""
    address = Address.from_wire(bytes([192, 0, 2, 1]), port, 7946, protocol=protocol)

    assert address == Address("192.0.2.1", expected)
