"""Whose a device is that bears our interface's name."""

from __future__ import annotations

from ipaddress import ip_interface, ip_network

import pytest

from wesher_agent.wireguard.ownership import FoundLink, Owner, why_foreign
from wesher_agent.wireguard.plan import ObservedDevice, ObservedPeer
from wesher_common.keys import WireGuardPrivateKey, WireGuardPublicKey


def key(number: int) -> WireGuardPublicKey:
    return WireGuardPrivateKey.from_random(number.to_bytes(32)).public


OWNER = Owner(key(1), ip_network("10.0.0.0/8"))


def found(*addresses: str, has_own_routes: bool = False) -> FoundLink:
    return FoundLink(7, "wireguard", frozenset(map(ip_interface, addresses)), has_own_routes)


def device(*peers: str, number: int = 2) -> ObservedDevice:
    """Return a device with that key, and a peer for each of these allowed IPs, given with commas."""
    return ObservedDevice(
        public_key=key(number),
        peers={
            key(10 + at): ObservedPeer(
                key(10 + at), allowed_ips=frozenset(ip_network(net) for net in peer.split(",") if net)
            )
            for at, peer in enumerate(peers)
        },
    )


@pytest.mark.parametrize(
    ("link", "holds"),
    [
        pytest.param(found("172.31.7.1/24"), device("172.31.7.0/24", number=1), id="our key"),
        pytest.param(found("172.31.7.1/32", has_own_routes=True), device("172.31.7.2/32"), id="our routes"),
        pytest.param(found("10.1.2.3/32"), device("10.1.2.4/32"), id="a leftover after a lost state"),
        pytest.param(found("10.1.2.3/32"), device("10.1.2.4/32,192.168.9.0/24"), id="a peer with routes"),
        pytest.param(found("10.1.2.3/32"), None, id="a leftover without its program"),
        pytest.param(found("10.1.2.3/32"), device(), id="a leftover without peers"),
        pytest.param(found(), device(), id="nothing on it yet"),
        pytest.param(found(), None, id="an empty TUN"),
        pytest.param(found(), ObservedDevice(), id="without a key"),
    ],
)
def test_a_device_of_this_mesh_or_an_empty_one_is_taken(
    link: FoundLink, holds: ObservedDevice | None
) -> None:
    assert why_foreign(OWNER, link, holds) == ""


@pytest.mark.parametrize(
    ("link", "holds", "why"),
    [
        pytest.param(
            found("172.31.7.1/24"),
            device("172.31.7.0/24"),
            "its address 172.31.7.1/24 is not a host address of the overlay 10.0.0.0/8",
            id="a VPN elsewhere",
        ),
        pytest.param(
            found("10.8.0.1/24"),
            device("10.8.0.2/32"),
            "its address 10.8.0.1/24 is not a host address of the overlay 10.0.0.0/8",
            id="a VPN inside the overlay's range",
        ),
        pytest.param(
            found("10.64.1.2/32"),
            device("0.0.0.0/0"),
            "it has a peer with the allowed IPs 0.0.0.0/0, outside the overlay 10.0.0.0/8",
            id="a VPN provider's",
        ),
        pytest.param(
            found("10.1.2.3/32", "172.31.7.1/24"),
            device(),
            "its address 172.31.7.1/24 is not a host address of the overlay 10.0.0.0/8",
            id="one foreign address among ours",
        ),
        pytest.param(
            found(),
            device("172.31.7.0/24"),
            "it has a peer with the allowed IPs 172.31.7.0/24, outside the overlay 10.0.0.0/8",
            id="a VPN without an address yet",
        ),
        pytest.param(
            found(),
            device(""),
            "it has a peer with the allowed IPs (none), outside the overlay 10.0.0.0/8",
            id="a peer without allowed IPs",
        ),
        pytest.param(
            found(),
            device("10.1.2.4/32"),
            "it has peers, but no address in the overlay 10.0.0.0/8",
            id="peers alone prove nothing",
        ),
        pytest.param(
            found("fd00::1/128"),
            None,
            "its address fd00::1/128 is not a host address of the overlay 10.0.0.0/8",
            id="a foreign TUN without a WireGuard",
        ),
    ],
)
def test_a_device_of_another_program_is_refused_with_what_shows_it(
    link: FoundLink, holds: ObservedDevice | None, why: str
) -> None:
    assert why_foreign(OWNER, link, holds) == why
