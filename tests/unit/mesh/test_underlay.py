"""What is reached through the underlay is never routed into the overlay."""

from ipaddress import ip_address, ip_network
from typing import Any

from wesher_agent.mesh.desired import LocalPeer, desired
from wesher_agent.mesh.device import Endpoint
from wesher_testing.virtual.members import local_peer, meta, peers, reasons, remembered

WIDE = ip_network("10.0.0.0/8")
"""Go's default, inside which many a LAN lies."""


def own_in_wide(**changes: Any) -> LocalPeer:
    return local_peer(overlay=WIDE, address=ip_address("10.200.0.1"), **changes)


def test_a_peer_whose_overlay_address_is_the_gateway_is_refused() -> None:
    own = own_in_wide(underlay=frozenset({ip_address("10.1.0.1")}))
    wish = desired(own, [remembered("b", announced=meta("b", overlay_address=ip_address("10.1.0.1")))])
    assert wish.device.peers == ()
    assert reasons(wish) == {"b": "UnderlayAddress"}


def test_a_peer_whose_overlay_address_is_anothers_endpoint_is_refused() -> None:
    wish = desired(
        own_in_wide(),
        [
            remembered("b", "10.1.0.2", announced=meta("b", overlay_address=ip_address("10.1.0.3"))),
            remembered("c", "10.1.0.3", announced=meta("c", overlay_address=ip_address("10.200.0.3"))),
        ],
    )
    assert reasons(wish) == {"b": "UnderlayAddress"}
    assert peers(wish) == {"10.200.0.3/32": "10.1.0.3:51820"}


def test_in_kubernetes_one_that_claims_to_be_reached_inside_the_overlay_takes_nobodys_tunnel() -> None:
    """Nothing of the underlay lies inside there; and its own packets would go round in circles."""
    honest = remembered("b", "192.0.2.2")
    assert honest.meta is not None
    assert honest.meta.overlay_address is not None
    claimed = str(honest.meta.overlay_address)

    wish = desired(local_peer(in_kubernetes=True, movable=False), [honest, remembered("c", claimed)])

    assert peers(wish) == {f"{claimed}/32": "192.0.2.2:51820"}
    assert reasons(wish) == {"c": "EndpointInsideOverlay"}
    elsewhere = meta("c", wireguard_endpoint=Endpoint(ip_address("192.0.2.3"), 7))
    wish = desired(
        local_peer(in_kubernetes=True, movable=False), [honest, remembered("c", claimed, announced=elsewhere)]
    )
    assert reasons(wish) == {}, "its gossip goes through the overlay, its tunnel does not"


def test_we_leave_an_address_that_the_underlay_has() -> None:
    own = own_in_wide(underlay=frozenset({ip_address("10.200.0.1")}))
    wish = desired(own, [])
    assert wish.device.address != own.address
    assert wish.device.address in WIDE
