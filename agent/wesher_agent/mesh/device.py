"""The whole desired state of one WireGuard device, as values.

`desired` makes a `DeviceConfig` from the members; the `wireguard` package brings
a real device to it. Applying the same one twice changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv6Address

from wesher_common.keys import WireGuardPrivateKey, WireGuardPublicKey
from wesher_common.overlay import IPAddress, IPNetwork
from wesher_common.traffic import Transport


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """Where a peer's WireGuard socket listens."""

    address: IPAddress
    port: int

    def __str__(self) -> str:
        """Return ``1.2.3.4:51820`` or ``[2001:db8::1]:51820``."""
        host = f"[{self.address}]" if isinstance(self.address, IPv6Address) else str(self.address)
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Peer:
    """One ``[Peer]`` as WireGuard understands it."""

    public_key: WireGuardPublicKey
    endpoint: Endpoint | None
    allowed_ips: tuple[IPNetwork, ...]
    """Sorted, no network in two peers of one device."""
    persistent_keepalive: int = 0
    """Seconds; 0 is off."""
    proven: Endpoint | None = None
    """Where its last handshake proved it to be, if ``endpoint`` is another one."""

    @property
    def first_endpoint(self) -> Endpoint | None:
        """Where to send to before a handshake has shown where it is."""
        return self.proven or self.endpoint


@dataclass(frozen=True, slots=True)
class CarriedRoute:
    """Packets of the cluster itself that go into the device, by destination."""

    network: IPNetwork
    source: IPAddress | None
    """What this host's own packets to it have as source; None leaves that to the kernel."""


@dataclass(frozen=True, slots=True, order=True)
class DirectRule:
    """Packets that never go into the device, although a carried route leads there."""

    transport: Transport
    sources: IPNetwork | None = None
    destinations: IPNetwork | None = None
    source_port: int | None = None
    destination_port: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Carrying:
    """How the device carries packets of nodes and pods, beside those to overlay addresses."""

    mark: int
    """One bit; WireGuard's own packets have it set, and no carried route applies to them."""
    table: int
    """The routing table of the carried routes."""
    priority: int
    """Of the first routing rule."""
    routes: tuple[CarriedRoute, ...] = ()
    """Sorted by network, each network once. Below each is an ``unreachable`` route. Empty while packets are
    accepted and none is sent."""
    sources: tuple[IPNetwork, ...] = ()
    """The carried routes apply to packets from these, which are this node's certified networks and its
    overlay address, and to packets whose source is not chosen yet; sorted. Empty if ``routes`` is."""
    direct: tuple[DirectRule, ...] = ()
    """Sorted. Empty if ``routes`` is."""
    loose_links: tuple[str, ...] = ()
    """Links on which reverse-path filtering must not be strict, beside the device itself; sorted."""


@dataclass(frozen=True, slots=True)
class DeviceConfig:
    """Everything about the device that is ours to decide."""

    interface: str
    private_key: WireGuardPrivateKey = field(repr=False)
    listen_port: int
    address: IPAddress
    """Ours in the overlay, set as a host address (/32 or /128)."""
    overlay: IPNetwork
    mtu: int
    """Bytes; 0 while it is still to be taken from the underlay (`tunnel` decides it before it applies)."""
    peers: tuple[Peer, ...]
    """Sorted by public key, each key once."""
    unreachable: tuple[IPNetwork, ...]
    """Networks under ``unreachable`` routes, which lie below the peers' routes; sorted. Either the
    whole overlay or host addresses in it."""
    carrying: Carrying | None = None
    """None if the mesh carries nothing but the overlay's own packets."""

    @property
    def mark(self) -> int:
        """What WireGuard's own packets are marked with; 0 is nothing."""
        return 0 if self.carrying is None else self.carrying.mark

    @property
    def is_routing(self) -> bool:
        """Whether packets of the cluster itself are sent into the device, and not only accepted."""
        return self.carrying is not None and bool(self.carrying.routes)

    @property
    def routes(self) -> tuple[IPNetwork, ...]:
        """Networks in the overlay to be routed into the device, of every peer, sorted.

        A peer's other allowed IPs have a carried route, or none while they are only accepted.
        """
        networks = (net for peer in self.peers for net in peer.allowed_ips)
        return tuple(sorted((net for net in networks if net.network_address in self.overlay), key=_order))


def _order(network: IPNetwork) -> tuple[int, int, int]:
    return network.version, int(network.network_address), network.prefixlen
