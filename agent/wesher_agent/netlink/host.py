"""This host as the network sees it: addresses, gateways and nameservers. Blocking, but short."""

from __future__ import annotations

import fcntl
import socket
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from types import MappingProxyType

from wesher_agent.mesh.host import HostAddress, HostNetwork
from wesher_agent.netlink.errors import MalformedReply
from wesher_agent.netlink.messages import AF_INET6, parse_attributes
from wesher_agent.netlink.netlink_socket import NETLINK_ROUTE, NetlinkSocket
from wesher_agent.netlink.route_messages import (
    ANYWHERE,
    LOCAL,
    RTM_GETROUTE,
    Route,
    pack_next_hop,
    parse_route,
)
from wesher_common.overlay import IPAddress

RESOLV_CONF = Path("/etc/resolv.conf")

_RTM_GETLINK, _RTM_GETADDR = 18, 22
_LINK_HEADER = struct.Struct("=BBHiII")
_IFLA_MASTER, _IFLA_LINKINFO, _IFLA_INFO_KIND = 10, 18, 1
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_U32_BYTES = 4
# linux/if_addr.h
_TEMPORARY, _OPTIMISTIC, _DUPLICATE, _DEPRECATED, _TENTATIVE = 0x01, 0x04, 0x08, 0x20, 0x40
_ADDRESS_HEADER = struct.Struct("=BBBBI")
_ROUTE_HEADER = bytes(12)
_SIOCGIFFLAGS = 0x8913
_IFREQ = struct.Struct("16sH22x")
_IFF_UP, _IFF_RUNNING = 0x1, 0x40


@dataclass(frozen=True, slots=True)
class LinkAddress:
    """What the kernel says of one address."""

    link: int
    """Its link's index."""
    address: IPAddress | None
    prefix_length: int
    flags: int = 0
    """``IFA_F_…``."""


def look_at_host(
    seeds: Iterable[IPAddress] = (), *, names: Mapping[int, str] = MappingProxyType({})
) -> HostNetwork:
    """Ask the kernel, and the resolver's file.

    Args:
        seeds: the addresses for which the kernel is asked how it would reach them.
        names: what to call the links of these indexes, whatever their names are now.

    Raises:
        WesherError: what the kernel says makes no sense, or is refused.
        OSError: it cannot be asked.

    """
    with NetlinkSocket(NETLINK_ROUTE) as kernel:
        routes = [parse_route(body) for body in kernel.dump(RTM_GETROUTE, _ROUTE_HEADER)]
        bodies = kernel.dump(_RTM_GETADDR, bytes(_ADDRESS_HEADER.size))
        empty_bridges = _bridges_without_ports(kernel.dump(_RTM_GETLINK, bytes(_LINK_HEADER.size)))
        towards_seeds, by_default = _sources(kernel, seeds), _sources(kernel, ANYWHERE)
    defaults = {route.device for route in routes if _is_default(route)}
    return HostNetwork(
        addresses=tuple(_addresses(map(parse_address, bodies), defaults, empty_bridges, names)),
        gateways=frozenset(route.gateway for route in routes if route.gateway is not None),
        nameservers=frozenset(_nameservers()),
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
        raise MalformedReply("kernel addresses: an address that makes no sense") from error
    # The header holds the lower eight flags only. In IPv4 the lowest means another thing.
    known = struct.unpack("=I", flags)[0] if flags is not None and len(flags) == _U32_BYTES else short_flags
    return LinkAddress(index, address, prefix_length, known if family == AF_INET6 else 0)


def _is_default(route: Route) -> bool:
    return route.destination.prefixlen == 0 and route.gateway is not None and route.is_in_main_table


def _bridges_without_ports(links: Iterable[memoryview]) -> set[int]:
    """Return the indexes of bridges that lead nowhere.

    The kernel gives a new bridge a carrier and takes it away with the last port, so that one
    that never had a port, such as libvirt's, has one.
    """
    bridges, masters = set(), set()
    for body in links:
        if len(body) < _LINK_HEADER.size:
            raise MalformedReply("kernel links: a message without its header")
        attributes = dict(parse_attributes(body[_LINK_HEADER.size :]))
        info = dict(parse_attributes(attributes.get(_IFLA_LINKINFO, memoryview(b""))))
        if bytes(info.get(_IFLA_INFO_KIND, b"")).rstrip(b"\0") == b"bridge":
            bridges.add(_LINK_HEADER.unpack_from(body)[3])
        if _IFLA_MASTER in attributes:
            masters.add(int.from_bytes(attributes[_IFLA_MASTER], sys.byteorder))
    return bridges - masters


def _addresses(
    listed: Iterable[LinkAddress],
    defaults: set[int | None],
    empty_bridges: set[int],
    names: Mapping[int, str],
) -> Iterator[HostAddress]:
    for entry in listed:
        # A link that went meanwhile takes its addresses along.
        with suppress(OSError):
            name = socket.if_indextoname(entry.link)
            if entry.address is not None:
                yield HostAddress(
                    address=entry.address,
                    prefix_length=entry.prefix_length,
                    link=names.get(entry.link, name),
                    link_up=_is_up(name) and entry.link not in empty_bridges,
                    has_default_route=entry.link in defaults,
                    is_tentative=entry.flags & (_TENTATIVE | _OPTIMISTIC) == _TENTATIVE,
                    is_duplicate=bool(entry.flags & _DUPLICATE),
                    is_temporary=bool(entry.flags & _TEMPORARY),
                    is_deprecated=bool(entry.flags & _DEPRECATED),
                )


def _sources(kernel: NetlinkSocket, destinations: Iterable[IPAddress]) -> tuple[IPAddress, ...]:
    """Return the local addresses from which packets would leave, those to this host itself left out."""
    answers = kernel.ask_all(RTM_GETROUTE, [pack_next_hop(address) for address in destinations])
    routes = [parse_route(answer) for answer in answers if answer is not None]
    sources = [route.source for route in routes if route.kind != LOCAL and route.source is not None]
    return tuple(dict.fromkeys(sources))


def _is_up(link: str) -> bool:
    """Tell whether a link is up and has a carrier."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        answer = fcntl.ioctl(any_socket, _SIOCGIFFLAGS, _IFREQ.pack(link.encode(), 0))
    up = _IFF_UP | _IFF_RUNNING
    return bool(_IFREQ.unpack(answer)[1] & up == up)


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
