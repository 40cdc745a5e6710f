"""This host as the network sees it: addresses, gateways and nameservers. Blocking, but short."""

from __future__ import annotations

import fcntl
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from types import MappingProxyType

from wesher_agent.mesh.host import HostAddress, HostNetwork
from wesher_agent.netlink.errors import MalformedReply
from wesher_agent.netlink.messages import parse_attributes
from wesher_agent.netlink.netlink_socket import NETLINK_ROUTE, NetlinkSocket
from wesher_agent.netlink.route_messages import RTM_GETROUTE, Route, parse_route
from wesher_common.overlay import IPAddress

RESOLV_CONF = Path("/etc/resolv.conf")

_RTM_GETADDR = 22
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_ADDRESS_HEADER = struct.Struct("=BBBBI")
_ROUTE_HEADER = bytes(12)
_SIOCGIFFLAGS = 0x8913
_IFREQ = struct.Struct("16sH22x")
_IFF_UP = 1


@dataclass(frozen=True, slots=True)
class LinkAddress:
    """What the kernel says of one address."""

    link: int
    """Its link's index."""
    address: IPAddress | None
    prefix_length: int


def look_at_host(names: Mapping[int, str] = MappingProxyType({})) -> HostNetwork:
    """Ask the kernel, and the resolver's file.

    Args:
        names: what to call the links of these indexes, whatever their names are now.

    Raises:
        WesherError: what the kernel says makes no sense, or is refused.
        OSError: it cannot be asked.

    """
    with NetlinkSocket(NETLINK_ROUTE) as kernel:
        routes = [parse_route(body) for body in kernel.dump(RTM_GETROUTE, _ROUTE_HEADER)]
        bodies = kernel.dump(_RTM_GETADDR, bytes(_ADDRESS_HEADER.size))
    defaults = {route.device for route in routes if _is_default(route)}
    return HostNetwork(
        addresses=tuple(_addresses(map(parse_address, bodies), defaults, names)),
        gateways=frozenset(route.gateway for route in routes if route.gateway is not None),
        nameservers=frozenset(_nameservers()),
    )


def parse_address(body: memoryview) -> LinkAddress:
    """Read one address.

    Raises:
        MalformedReply: it is cut off, or no address of any length.

    """
    if len(body) < _ADDRESS_HEADER.size:
        raise MalformedReply("kernel addresses: a message without its header")
    _, prefix_length, _, _, index = _ADDRESS_HEADER.unpack_from(body)
    attributes = dict(parse_attributes(body[_ADDRESS_HEADER.size :]))
    # On a point-to-point link the plain address is the other end's.
    packed = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS)
    try:
        address = ip_address(bytes(packed)) if packed is not None else None
    except ValueError as error:
        raise MalformedReply("kernel addresses: an address that makes no sense") from error
    return LinkAddress(index, address, prefix_length)


def _is_default(route: Route) -> bool:
    return route.destination.prefixlen == 0 and route.gateway is not None and route.is_in_main_table


def _addresses(
    listed: Iterable[LinkAddress], defaults: set[int | None], names: Mapping[int, str]
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
                    link_up=_is_up(name),
                    has_default_route=entry.link in defaults,
                )


def _is_up(link: str) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        answer = fcntl.ioctl(any_socket, _SIOCGIFFLAGS, _IFREQ.pack(link.encode(), 0))
    return bool(_IFREQ.unpack(answer)[1] & _IFF_UP)


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
