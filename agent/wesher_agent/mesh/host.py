"""This host as a value, and which of its addresses to listen on and to announce.

The kernel's choice comes first: the address from which it would send to the seeds, or
along its best default route. Without an answer of the kernel, the order is the Go
program's (hashicorp/go-sockaddr): public addresses first, the default route's link
before others, IPv4 before IPv6, the smaller network first. Asking the kernel is left to
`netlink.host`, resolving names to `net.resolver`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_network

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
    """Whether its link is up and has a carrier."""
    has_default_route: bool
    """Whether its link leads to a default gateway."""
    is_tentative: bool = False
    """Whether IPv6's duplicate detection still goes on: it cannot be used yet."""
    is_duplicate: bool = False
    """Whether duplicate detection found another machine with it: it cannot be used."""
    is_temporary: bool = False
    """Whether IPv6 privacy replaces it within days (RFC 8981)."""
    is_deprecated: bool = False
    """Whether its preferred lifetime has ended: it works, but is about to go."""
    on_tunnel: bool = False
    """Whether its link is a tunnel, such as another mesh's."""

    @property
    def is_fleeting(self) -> bool:
        """Whether it is about to be replaced by another one."""
        return self.is_temporary or self.is_deprecated

    def replaces(self, other: HostAddress) -> bool:
        """Tell whether it is the lasting address beside a fleeting one, on the same link and network."""
        if self.is_fleeting or self.link != other.link:
            return False
        return other.address in ip_network((self.address, self.prefix_length), strict=False)


@dataclass(frozen=True, slots=True)
class HostNetwork:
    """The host's addresses, gateways and nameservers at one moment."""

    addresses: tuple[HostAddress, ...]
    gateways: frozenset[IPAddress]
    nameservers: frozenset[IPAddress]
    towards_seeds: tuple[IPAddress, ...] = ()
    """The addresses from which the kernel would send to the seeds, in their order."""
    by_default: tuple[IPAddress, ...] = ()
    """The addresses from which it would send along its best default route: IPv4's, then IPv6's."""

    def has(self, address: IPAddress) -> bool:
        """Tell whether an address is listed as one of this host's, and not as another machine's too."""
        return any(entry.address == address and not entry.is_duplicate for entry in self.addresses)

    def is_deprecated(self, address: IPAddress) -> bool:
        """Tell whether an address is one of this host's that is about to go."""
        return any(entry.address == address and entry.is_deprecated for entry in self.addresses)

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
    host: HostNetwork,
    *,
    bind_addr: IPAddress | None,
    bind_iface: str,
    advertise_addr: IPAddress | None,
    own_link: str,
    everywhere: bool = False,
) -> Listening:
    """Decide what to bind and what to advertise.

    Args:
        host: this host; its addresses are in the kernel's order.
        bind_addr: as given by flag; overrides everything.
        bind_iface: a link whose first address is meant; empty for none.
        advertise_addr: as given by flag or object; what other members dial.
        own_link: our WireGuard link, which cannot carry its own packets.
        everywhere: whether to listen on all addresses when no flag names one, even with a public one.

    Raises:
        InvalidSpec: the link does not exist or has no address, or there is nothing to advertise,
            or several addresses and no way to tell which.

    """
    others = [entry for entry in host.addresses if entry.link != own_link]
    usable = _in_order(others)
    bind: tuple[IPAddress, ...] = ()
    local: IPAddress | None = None
    if bind_iface:
        bind = (_first_on(bind_iface, others),)
    elif bind_addr is not None:
        bind = (bind_addr,)
    elif advertise_addr is None and not everywhere:
        chosen = _chosen(host, usable)
        bind = (chosen,) if chosen is not None and chosen.is_global else ()
        local = chosen
    if bind and not bind[0].is_unspecified:
        local = bind[0]
    elif local is None:
        local = _reachable(host, usable, {address.version for address in bind or ALL_ADDRESSES})
    advertise = advertise_addr or local
    if advertise is None:
        raise InvalidSpec("--advertise-addr", "this host has no address that other members can dial: set one")
    is_ours = any(entry.address == advertise for entry in others)
    return Listening(bind or ALL_ADDRESSES, advertise, None if is_ours else local)


def _first_on(link: str, host: Iterable[HostAddress]) -> IPAddress:
    on_link = [entry for entry in host if entry.link == link]
    lasting = sorted(on_link, key=lambda e: (e.is_duplicate, e.is_tentative, e.is_fleeting))
    if lasting:
        return lasting[0].address
    raise InvalidSpec("--bind-iface", "no such interface, or it has no address", value=link)


def _chosen(host: HostNetwork, usable: Sequence[HostAddress]) -> IPAddress | None:
    """Return the address to announce when no flag says anything."""
    if towards_seeds := _lasting(host.towards_seeds, usable):
        return towards_seeds[0]
    if by_default := _lasting(host.by_default, usable):
        return min(by_default, key=lambda address: not address.is_global)
    public = [entry for entry in usable if entry.address.is_global and not entry.is_deprecated]
    candidates = public or [entry for entry in usable if not entry.address.is_loopback]
    # Another mesh's overlay address leads to that mesh only.
    candidates = [entry for entry in candidates if not entry.on_tunnel] or candidates
    if not candidates:
        return None
    if not candidates[0].has_default_route and len({entry.link for entry in candidates}) > 1:
        listed = ", ".join(f"{entry.address} ({entry.link})" for entry in candidates)
        raise InvalidSpec(
            "--advertise-addr",
            f"this host has several addresses and no default route: choose one of {listed}",
        )
    return candidates[0].address


def _reachable(host: HostNetwork, usable: Sequence[HostAddress], families: set[int]) -> IPAddress | None:
    """Return the address of some families to announce when the choice is not left to this host."""
    addresses = [*_lasting(host.by_default, usable), *(entry.address for entry in usable)]
    fit = (a for a in addresses if a.version in families and not a.is_loopback)
    return next(fit, None)


def _lasting(sources: Iterable[IPAddress], usable: Sequence[HostAddress]) -> list[IPAddress]:
    """Return the kernel's choices that can be announced, or the lasting address beside a fleeting one.

    The kernel sends from the temporary address, if there is one.
    """
    found = []
    for source in sources:
        entry = next((entry for entry in usable if entry.address == source), None)
        if entry is None or source.is_loopback:
            continue
        if entry.is_fleeting:
            entry = next((other for other in usable if other.replaces(entry)), entry)
        found.append(entry.address)
    return found


def _in_order(host: Iterable[HostAddress]) -> list[HostAddress]:
    usable = [
        entry
        for entry in host
        if entry.link_up
        and not (entry.is_tentative or entry.is_duplicate)
        and not (entry.address.is_link_local or entry.address.is_multicast)
    ]
    return sorted(
        usable,
        key=lambda entry: (
            entry.address.is_loopback,
            entry.is_fleeting,
            not entry.has_default_route,
            entry.address.version,
            -entry.prefix_length,
        ),
    )
