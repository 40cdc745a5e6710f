"""Whether a network device that bears our interface's name is this mesh's; pure.

An agent finds its device again after a restart, and takes over one of Go wesher's. A
device that another program made under the same name is left alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from wesher_agent.wireguard.plan import IPInterface, ObservedDevice, ObservedPeer
from wesher_common.keys import WireGuardPublicKey
from wesher_common.overlay import IPNetwork


@dataclass(frozen=True, slots=True)
class Owner:
    """What tells this node's device."""

    public_key: WireGuardPublicKey
    overlay: IPNetwork


@dataclass(frozen=True, slots=True)
class FoundLink:
    """A network device as it is found, before anything is done to it."""

    index: int
    """The kernel's number of it: another device of the same name has another."""
    kind: str
    addresses: frozenset[IPInterface]
    """Without IPv6 link-local ones."""
    has_own_routes: bool
    """Whether a route into it carries wesher's protocol number."""


def why_foreign(owner: Owner, link: FoundLink, device: ObservedDevice | None) -> str:
    """Return what shows that a device belongs to another program; empty when it can be taken.

    wesher and Go wesher give a device one host address of the overlay, and each peer the
    one of its member. A device that has nothing yet can be taken too.

    Args:
        owner: this node.
        link: the network device.
        device: what its WireGuard holds; None when no WireGuard answers.

    """
    if link.has_own_routes or (device is not None and device.public_key == owner.public_key):
        return ""
    overlay = owner.overlay
    for address in sorted(link.addresses, key=str):
        if not _is_member(address.network, overlay):
            return f"its address {address} is not a host address of the overlay {overlay}"
    peers = () if device is None else device.peers.values()
    if (foreign := _foreign_networks(peers, overlay)) is not None:
        return f"it has a peer with the allowed IPs {_listed(foreign)}, outside the overlay {overlay}"
    if peers and not link.addresses:
        return f"it has peers, but no address in the overlay {overlay}"
    return ""


def _foreign_networks(peers: Iterable[ObservedPeer], overlay: IPNetwork) -> Collection[IPNetwork] | None:
    for peer in peers:
        if not any(_is_member(network, overlay) for network in peer.allowed_ips):
            return peer.allowed_ips
    return None


def _is_member(network: IPNetwork, overlay: IPNetwork) -> bool:
    return network.prefixlen == network.max_prefixlen and network.network_address in overlay


def _listed(networks: Collection[IPNetwork]) -> str:
    return ", ".join(sorted(map(str, networks))[:3]) or "(none)"
