"""Which overlay addresses ``unreachable`` routes cover, so that packets to them never leave in clear.

Pure. A peer's own route is better, so a packet meets the ``unreachable`` one only where no peer has
its destination: a member that left, or a device that is gone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Final, Literal

from wesher_common.overlay import IPAddress, IPNetwork, host_network

UnreachableRoute = Literal["auto", "on", "off"]
"""``--unreachable-route``: on covers the whole overlay, off nothing."""
Extent = Literal["Overlay", "Members", "Nothing"]
"""The whole overlay, the addresses of members known within the last day, or none."""

PRIVATE_RANGES: Final[tuple[IPNetwork, ...]] = (
    IPv4Network("10.0.0.0/8"),
    IPv4Network("100.64.0.0/10"),
    IPv4Network("172.16.0.0/12"),
    IPv4Network("192.168.0.0/16"),
    IPv6Network("fd00::/8"),
)
"""RFC 1918, RFC 6598 and the half of RFC 4193 in use: sites behind a router have addresses in them."""


@dataclass(frozen=True, slots=True)
class Cover:
    """What is covered."""

    extent: Extent
    reason: str = ""
    """Why the overlay is not covered as a whole, and how to have it so; empty when it is."""

    def networks(self, overlay: IPNetwork, members: Iterable[IPAddress]) -> tuple[IPNetwork, ...]:
        """Return the networks to put under ``unreachable`` routes, sorted.

        Args:
            overlay: the mesh's network.
            members: the addresses to cover when they are covered one by one, all inside the overlay.

        """
        if self.extent == "Overlay":
            return (overlay,)
        if self.extent == "Nothing":
            return ()
        return tuple(host_network(address) for address in sorted(members, key=int))


NO_COVER: Final = Cover("Nothing", "the device has not been set up yet")


def choose_cover(
    mode: UnreachableRoute,
    *,
    in_kubernetes: bool,
    overlay: IPNetwork,
    host: Collection[IPAddress],
    endpoints: Collection[IPAddress],
) -> Cover:
    """Decide what to cover.

    In Kubernetes the overlay overlaps nothing. Elsewhere a route under the whole overlay would cut off
    those of its addresses that are reached through the underlay, even behind a router.

    Args:
        mode: ``--unreachable-route``.
        in_kubernetes: whether the operator checked the overlay.
        overlay: the mesh's network.
        host: underlay addresses that this host uses.
        endpoints: where members are reached in the underlay.

    """
    if mode == "off":
        return Cover("Nothing", "--unreachable-route=off")
    if mode == "on" or in_kubernetes:
        return Cover("Overlay")
    if is_wide(overlay):
        return Cover(
            "Members",
            "the overlay is at least as large as a private address range, so a site may use its addresses: "
            "give all members a smaller --overlay-net, or use --unreachable-route=on if no site uses them",
        )
    if used := [address for address in host if address in overlay]:
        return Cover("Members", f"this host uses {min(used)} outside the overlay: {_ELSEWHERE}")
    if any(address in overlay for address in endpoints):
        return Cover("Members", f"members have underlay addresses inside the overlay: {_ELSEWHERE}")
    return Cover("Overlay")


def is_wide(overlay: IPNetwork) -> bool:
    """Tell whether a network is or contains a whole private range."""
    return any(_contains(overlay, private) for private in PRIVATE_RANGES)


_ELSEWHERE = "give all members an --overlay-net that the underlay does not use"


def _contains(network: IPNetwork, other: IPNetwork) -> bool:
    return network.prefixlen <= other.prefixlen and other.network_address in network
