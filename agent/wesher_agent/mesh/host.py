"""This host as a value, and which of its addresses to listen on and to announce.

The order of preference is the Go program's (hashicorp/go-sockaddr): public addresses
first, the default route's link before others, IPv4 before IPv6, the smaller network
first. Asking the kernel is left to `netlink.host`, resolving names to `net.resolver`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from wesher_common.errors import InvalidSpec
from wesher_common.overlay import IPAddress

ALL_ADDRESSES: tuple[IPAddress, ...] = (IPv4Address(0), IPv6Address(0))


@dataclass(frozen=True, slots=True)
class HostAddress:
    """One address of this host."""

    address: IPAddress
    prefix_length: int
    link: str
    link_up: bool
    has_default_route: bool
    """Whether its link leads to a default gateway."""


@dataclass(frozen=True, slots=True)
class HostNetwork:
    """The host's addresses, gateways and nameservers at one moment."""

    addresses: tuple[HostAddress, ...]
    gateways: frozenset[IPAddress]
    nameservers: frozenset[IPAddress]

    def has(self, address: IPAddress) -> bool:
        """Tell whether an address is listed as one of this host's."""
        return any(entry.address == address for entry in self.addresses)

    def underlay(self, own_link: str) -> frozenset[IPAddress]:
        """Return every address that must stay reachable outside the overlay."""
        local = {entry.address for entry in self.addresses if entry.link != own_link}
        return frozenset(local | self.gateways | self.nameservers)


@dataclass(frozen=True, slots=True)
class Listening:
    """Where a member listens, and the address it announces."""

    bind: tuple[IPAddress, ...]
    """One address per family, or one address."""
    advertise: IPAddress
    """What other members dial."""
    internal: IPAddress | None
    """A local address for members nearby, when ``advertise`` is not an address of this host (1:1 NAT)."""


def choose_addresses(
    host: Iterable[HostAddress],
    *,
    bind_addr: IPAddress | None,
    bind_iface: str,
    advertise_addr: IPAddress | None,
    own_link: str,
    everywhere: bool = False,
) -> Listening:
    """Decide what to bind and what to advertise.

    Args:
        host: the addresses of this host, in the kernel's order.
        bind_addr: as given by flag; overrides everything.
        bind_iface: a link whose first address is meant; empty for none.
        advertise_addr: as given by flag or object; what other members dial.
        own_link: our WireGuard link, which cannot carry its own packets.
        everywhere: whether to listen on all addresses when no flag names one, even with a public one.

    Raises:
        InvalidSpec: the link does not exist or has no address, or there is nothing to advertise.

    """
    others = [entry for entry in host if entry.link != own_link]
    bind: tuple[IPAddress, ...] = ()
    if bind_iface:
        bind = (_first_on(bind_iface, others),)
    elif bind_addr is not None:
        bind = (bind_addr,)
    elif advertise_addr is None and not everywhere:
        public = [entry for entry in _in_order(others) if entry.address.is_global]
        bind = tuple(entry.address for entry in public[:1])
    families: set[int] = {address.version for address in bind or ALL_ADDRESSES}
    if bind and not bind[0].is_unspecified:
        local: IPAddress | None = bind[0]
    else:
        local = _reachable(others, families)
    advertise = advertise_addr or local
    if advertise is None:
        raise InvalidSpec("--advertise-addr", "this host has no address that others could dial: give one")
    is_ours = any(entry.address == advertise for entry in others)
    return Listening(bind or ALL_ADDRESSES, advertise, None if is_ours else local)


def _first_on(link: str, host: Iterable[HostAddress]) -> IPAddress:
    for entry in host:
        if entry.link == link:
            return entry.address
    raise InvalidSpec("--bind-iface", "no such interface, or it has no address", value=link)


def _reachable(host: Sequence[HostAddress], families: set[int]) -> IPAddress | None:
    for entry in _in_order(host):
        if entry.address.version in families and not entry.address.is_loopback:
            return entry.address
    return None


def _in_order(host: Iterable[HostAddress]) -> list[HostAddress]:
    usable = [e for e in host if e.link_up and not e.address.is_link_local and not e.address.is_multicast]
    return sorted(
        usable,
        key=lambda entry: (
            entry.address.is_loopback,
            not entry.has_default_route,
            entry.address.version,
            -entry.prefix_length,
        ),
    )
