"""How large an overlay packet may be, so that its envelope fits the underlay. Blocking, but short."""

from __future__ import annotations

import fcntl
import socket
import struct
from collections.abc import Iterable

from wesher_agent.netlink.netlink_socket import NETLINK_ROUTE, NetlinkSocket
from wesher_agent.netlink.route_messages import ANYWHERE, LOCAL, RTM_GETROUTE, pack_next_hop, parse_route
from wesher_common.mesh_document import MIN_MTU
from wesher_common.overlay import IPAddress

OVERHEAD = 80
"""Bytes: IPv6 40, UDP 8, WireGuard 32, as wg-quick reckons."""

_ETHERNET = 1500
_SIOCGIFMTU = 0x8921
_IFREQ = struct.Struct("16si20x")


def overlay_mtu(endpoints: Iterable[IPAddress] = ()) -> int:
    """Return the MTU to use when none is set: the underlay's less 80 bytes, at least 1280.

    Args:
        endpoints: where peers are reached; the narrowest way to any of them
            counts. None given, or no way to any: the default route's, otherwise 1500.

    """
    with NetlinkSocket(NETLINK_ROUTE) as kernel:
        narrowest = _narrowest(kernel, set(endpoints)) or _narrowest(kernel, ANYWHERE) or _ETHERNET
    return max(narrowest - OVERHEAD, MIN_MTU)


def _narrowest(kernel: NetlinkSocket, addresses: Iterable[IPAddress]) -> int | None:
    answers = kernel.ask_all(RTM_GETROUTE, [pack_next_hop(address) for address in addresses])
    routes = [parse_route(answer) for answer in answers if answer is not None]
    # The route to the local node has the largest MTU and says nothing about the others.
    ways = {(route.device, route.mtu) for route in routes if route.kind != LOCAL}
    return min((mtu for device, known in ways if (mtu := known or _interface_mtu(device))), default=None)


def _interface_mtu(index: int | None) -> int | None:
    if index is None:
        return None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            request = _IFREQ.pack(socket.if_indextoname(index).encode(), 0)
            return int(_IFREQ.unpack(fcntl.ioctl(any_socket, _SIOCGIFMTU, request))[1])
        except OSError:
            return None
