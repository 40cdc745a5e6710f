"""This host as the network sees it: addresses, gateways and nameservers. Blocking, but short.

The kernel is asked for the routes to some addresses, never for its whole routing table, which
on a border router has a million routes.
"""

from __future__ import annotations

import fcntl
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from types import MappingProxyType

from wesher_agent.mesh.host import HostAddress, HostNetwork
from wesher_agent.netlink.errors import MalformedReply
from wesher_agent.netlink.messages import AF_INET6, pack_attribute, parse_attributes
from wesher_agent.netlink.netlink_socket import NETLINK_ROUTE, NetlinkSocket
from wesher_agent.netlink.route_messages import (
    ANYWHERE,
    LOCAL,
    RTM_GETROUTE,
    Route,
    pack_lookup,
    pack_next_hop,
    parse_route,
)
from wesher_common.overlay import IPAddress

RESOLV_CONF = Path("/etc/resolv.conf")

_RTM_GETLINK, _RTM_GETADDR = 18, 22
_LINK_HEADER = struct.Struct("=BBHiII")
_IFLA_MASTER, _IFLA_LINKINFO, _IFLA_EXT_MASK, _IFLA_INFO_KIND = 10, 18, 29, 1
_SKIP_STATS = 8
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_U32_BYTES = 4
# linux/if_addr.h
_TEMPORARY, _OPTIMISTIC, _DUPLICATE, _DEPRECATED, _TENTATIVE = 0x01, 0x04, 0x08, 0x20, 0x40
_ADDRESS_HEADER = struct.Struct("=BBBBI")
_WITHOUT_STATS = pack_attribute(_IFLA_EXT_MASK, struct.pack("=I", _SKIP_STATS))
_SIOCGIFFLAGS = 0x8913
_IFREQ = struct.Struct("16sH22x")
# linux/if.h: up with a carrier; point-to-point without ARP, as WireGuard's and TUN devices are.
_UP, _TUNNEL = 0x1 | 0x40, 0x10 | 0x80


@dataclass(frozen=True, slots=True)
class LinkAddress:
    """What the kernel says of one address."""

    link: int
    """Its link's index."""
    address: IPAddress | None
    prefix_length: int
    flags: int = 0
    """``IFA_F_…``."""


@dataclass(frozen=True, slots=True)
class _Link:
    """What is true of every address of one link."""

    name: str
    is_up: bool
    is_tunnel: bool
    has_default_route: bool


def look_at_host(
    seeds: Iterable[IPAddress] = (),
    *,
    endpoints: Iterable[IPAddress] = (),
    names: Mapping[int, str] = MappingProxyType({}),
) -> HostNetwork:
    """Ask the kernel, and the resolver's file.

    Of the host's gateways, those count through which a default route, a seed, an endpoint or a
    nameserver is reached.

    Args:
        seeds: the addresses for which the kernel is asked how it would reach them.
        endpoints: where members are reached in the underlay.
        names: what to call the links of these indexes, whatever their names are now.

    Raises:
        WesherError: what the kernel says makes no sense, or is refused.
        OSError: it cannot be asked.

    """
    seeds, nameservers = tuple(seeds), frozenset(_nameservers())
    with NetlinkSocket(NETLINK_ROUTE) as kernel:
        bodies = kernel.dump(_RTM_GETADDR, bytes(_ADDRESS_HEADER.size))
        listed = [entry for entry in map(parse_address, bodies) if entry.address is not None]
        in_use = {entry.link for entry in listed if _can_be_dialled(entry.address)}
        defaults = _default_routes(kernel, in_use)
        links = _links(
            {entry.link for entry in listed},
            {link for link, _ in defaults},
            _empty_bridges(kernel, in_use),
            names,
        )
        reached = {*ANYWHERE, *seeds, *endpoints, *nameservers}
        routes = _routes(kernel, [pack_lookup(address) for address in reached])
        routes += [route for _, route in defaults]
        towards_seeds, by_default = _sources(kernel, seeds), _sources(kernel, ANYWHERE)
    return HostNetwork(
        addresses=tuple(_addresses(listed, links)),
        gateways=frozenset(gateway for route in routes for gateway in route.gateways),
        nameservers=nameservers,
        towards_seeds=towards_seeds,
        by_default=by_default,
    )


def parse_address(body: memoryview) -> LinkAddress:
    """Read one address.

    Raises:
        MalformedReply: it is cut off, or no address of any length.

    """
    if len(body) < _ADDRESS_HEADER.size:
        raise MalformedReply("kernel addresses: a message without its header")
    family, prefix_length, short_flags, _, index = _ADDRESS_HEADER.unpack_from(body)
    attributes = dict(parse_attributes(body[_ADDRESS_HEADER.size :]))
    flags = attributes.get(_IFA_FLAGS)
    # On a point-to-point link the plain address is the other end's.
    packed = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS)
    try:
        address = ip_address(bytes(packed)) if packed is not None else None
    except ValueError as error:
        raise MalformedReply("kernel addresses: an invalid address") from error
    # The header holds the lower eight flags only. In IPv4 the lowest means another thing.
    known = struct.unpack("=I", flags)[0] if flags is not None and len(flags) == _U32_BYTES else short_flags
    return LinkAddress(index, address, prefix_length, known if family == AF_INET6 else 0)


def _can_be_dialled(address: IPAddress | None) -> bool:
    """Tell whether an address may be announced, so that its link matters."""
    return address is not None and not (address.is_loopback or address.is_link_local or address.is_multicast)


def _default_routes(kernel: NetlinkSocket, links: Iterable[int]) -> list[tuple[int, Route]]:
    """Return the main table's default routes with a gateway, each with its link's index.

    Asked link by link: another link may have the better one.
    """
    found = []
    for link in links:
        routes = _routes(kernel, [pack_lookup(address, device=link) for address in ANYWHERE])
        found += [
            (link, route)
            for route in routes
            if route.destination.prefixlen == 0 and route.gateways and route.is_in_main_table
        ]
    return found


def _empty_bridges(kernel: NetlinkSocket, links: Iterable[int]) -> set[int]:
    """Return the indexes of those links that are bridges without a port, which lead nowhere.

    The kernel gives a new bridge a carrier and takes it away with the last port, so that one
    that never had a port, such as libvirt's, has one.
    """
    questions = [_LINK_HEADER.pack(0, 0, 0, link, 0, 0) + _WITHOUT_STATS for link in links]
    answers = kernel.ask_all(_RTM_GETLINK, questions)
    kinds = dict(_kind(answer) for answer in answers if answer is not None)
    return {link for link, kind in kinds.items() if kind == b"bridge" and not _has_port(kernel, link)}


def _kind(body: memoryview) -> tuple[int, bytes]:
    attributes = _link_attributes(body)
    info = dict(parse_attributes(attributes.get(_IFLA_LINKINFO, memoryview(b""))))
    return _LINK_HEADER.unpack_from(body)[3], bytes(info.get(_IFLA_INFO_KIND, b"")).rstrip(b"\0")


def _has_port(kernel: NetlinkSocket, bridge: int) -> bool:
    master = struct.pack("=I", bridge)
    question = bytes(_LINK_HEADER.size) + pack_attribute(_IFLA_MASTER, master) + _WITHOUT_STATS
    # Old kernels list every link, whatever was asked.
    listed = kernel.dump(_RTM_GETLINK, question)
    return any(bytes(_link_attributes(body).get(_IFLA_MASTER, b"")) == master for body in listed)


def _link_attributes(body: memoryview) -> dict[int, memoryview]:
    if len(body) < _LINK_HEADER.size:
        raise MalformedReply("kernel links: a message without its header")
    return dict(parse_attributes(body[_LINK_HEADER.size :]))


def _links(
    indexes: Iterable[int], defaults: set[int], empty_bridges: set[int], names: Mapping[int, str]
) -> dict[int, _Link]:
    links = {}
    for index in indexes:
        # A link that went meanwhile takes its addresses along.
        with suppress(OSError):
            name = socket.if_indextoname(index)
            flags = _flags(name)
            links[index] = _Link(
                names.get(index, name),
                is_up=flags & _UP == _UP and index not in empty_bridges,
                is_tunnel=flags & _TUNNEL == _TUNNEL,
                has_default_route=index in defaults,
            )
    return links


def _addresses(listed: Iterable[LinkAddress], links: Mapping[int, _Link]) -> Iterator[HostAddress]:
    for entry in listed:
        link = links.get(entry.link)
        if link is not None and entry.address is not None:
            yield HostAddress(
                address=entry.address,
                prefix_length=entry.prefix_length,
                link=link.name,
                link_up=link.is_up,
                on_tunnel=link.is_tunnel,
                has_default_route=link.has_default_route,
                is_tentative=entry.flags & (_TENTATIVE | _OPTIMISTIC) == _TENTATIVE,
                is_duplicate=bool(entry.flags & _DUPLICATE),
                is_temporary=bool(entry.flags & _TEMPORARY),
                is_deprecated=bool(entry.flags & _DEPRECATED),
            )


def _sources(kernel: NetlinkSocket, destinations: Iterable[IPAddress]) -> tuple[IPAddress, ...]:
    """Return the local addresses from which packets would leave, those to this host itself left out."""
    routes = _routes(kernel, [pack_next_hop(address) for address in destinations])
    sources = [route.source for route in routes if route.kind != LOCAL and route.source is not None]
    return tuple(dict.fromkeys(sources))


def _routes(kernel: NetlinkSocket, questions: Sequence[bytes]) -> list[Route]:
    """Return the routes that the kernel answers with, in order, each once."""
    answers = kernel.ask_all(RTM_GETROUTE, questions)
    # Most members are reached by the same route.
    return [parse_route(memoryview(answer)) for answer in dict.fromkeys(bytes(a) for a in answers if a)]


def _flags(link: str) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        answer = fcntl.ioctl(any_socket, _SIOCGIFFLAGS, _IFREQ.pack(link.encode(), 0))
    flags: int = _IFREQ.unpack(answer)[1]
    return flags


def _nameservers() -> Iterator[IPAddress]:
    try:
        lines = RESOLV_CONF.read_text(errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver":
            with suppress(ValueError):
                yield ip_address(words[1].partition("%")[0])
