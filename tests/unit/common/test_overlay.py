"""Overlay addresses: the Go program's by hash, the next free one after it."""

from ipaddress import ip_address, ip_network

import pytest

from wesher_common.overlay import (
    allocate_address,
    candidate_address,
    fnv1a_128,
    is_reserved,
)


def test_the_hash_is_go_wesher_s() -> None:
    assert fnv1a_128(b"test") == 0x69D061A9C5757277B806E99413DD99A5
    assert fnv1a_128(b"") == 0x6C62272E07BB014262B821756295C58D


@pytest.mark.parametrize(
    ("network", "address"),
    [
        ("10.0.0.0/8", "10.221.153.165"),
        ("10.0.0.0/24", "10.0.0.165"),
        ("10.1.0.0/16", "10.1.153.165"),
        ("2001:db8::/32", "2001:db8:c575:7277:b806:e994:13dd:99a5"),
        ("10.0.0.0/28", "10.0.0.5"),
        ("10.0.0.7/32", "10.0.0.7"),
    ],
)
def test_the_candidate_is_the_go_programs(network: str, address: str) -> None:
    """Where the prefix is no multiple of eight Go has none; ours takes the low bits."""
    assert candidate_address("test", ip_network(network)) == ip_address(address)


@pytest.mark.parametrize(
    ("address", "network", "reserved"),
    [
        ("10.0.0.0", "10.0.0.0/24", True),
        ("10.0.0.255", "10.0.0.0/24", True),
        ("10.0.0.1", "10.0.0.0/24", False),
        ("10.0.0.0", "10.0.0.0/31", False),
        ("10.0.0.0", "10.0.0.0/32", False),
        ("2001:db8::", "2001:db8::/64", True),
        ("2001:db8::ffff:ffff:ffff:ffff", "2001:db8::/64", False),
    ],
)
def test_network_and_broadcast_addresses_are_reserved(address: str, network: str, *, reserved: bool) -> None:
    assert is_reserved(ip_address(address), ip_network(network)) is reserved


def test_a_free_candidate_is_given() -> None:
    assert allocate_address("test", ip_network("10.0.0.0/24"), ()) == ip_address("10.0.0.165")


def test_the_next_free_one_is_given_round_the_end_and_past_what_is_reserved() -> None:
    network = ip_network("10.0.0.160/29")
    assert candidate_address("test", network) == ip_address("10.0.0.165")
    taken = {ip_address("10.0.0.165"), ip_address("10.0.0.166"), ip_address("10.0.0.161")}
    assert allocate_address("test", network, taken) == ip_address("10.0.0.162")


def test_a_full_network_gives_none() -> None:
    network = ip_network("10.0.0.0/30")
    assert allocate_address("test", network, {ip_address("10.0.0.1"), ip_address("10.0.0.2")}) is None


def test_an_ipv6_network_is_not_walked_to_its_end() -> None:
    network = ip_network("2001:db8::/32")
    first = candidate_address("test", network)
    assert allocate_address("test", network, {first}) == first + 1
