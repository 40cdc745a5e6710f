"""Our routes in the kernel: listed, added without displacing anybody's, removed.

Blocking, over a netlink socket of the caller's. The bytes are left to
`route_messages`, which routes there should be to `plan`.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from wesher_agent.netlink import route_messages
from wesher_agent.netlink.errors import WireGuardUnavailable
from wesher_agent.netlink.messages import AF_INET, AF_INET6, NLM_F_CREATE, NLM_F_EXCL
from wesher_agent.netlink.netlink_socket import NetlinkSocket
from wesher_agent.netlink.route_messages import (
    PROTOCOL,
    RTM_DELROUTE,
    RTM_GETROUTE,
    RTM_NEWROUTE,
    Route,
    parse_route,
)
from wesher_common.overlay import IPNetwork

_PROTOCOL_NAMES = {1: "redirect", 2: "kernel", 3: "boot", 4: "static", 9: "ra", 16: "dhcp"}


@dataclass(frozen=True, slots=True)
class RouteConflict:
    """A foreign route has the destination of one that we need; it is never replaced."""

    destination: IPNetwork
    holder: str
    """The foreign route in words, as ``ip route`` would say it."""


def list_into(kernel: NetlinkSocket, device: int) -> list[Route]:
    """Return the main table's routes into the interface of that index, ours and those of other programs."""
    return [
        route
        for family in (AF_INET, AF_INET6)
        for route in _list(kernel, route_messages.pack_list_into(device, family))
        if route.device == device and route.kind == route_messages.UNICAST
    ]


def list_unreachable(kernel: NetlinkSocket, interface: str) -> list[IPNetwork]:
    """Return the networks under our ``unreachable`` routes.

    Host routes are the interface's only; a wider network may be another mesh's.
    """
    return [
        route.destination
        for family in (AF_INET, AF_INET6)
        for route in _list(kernel, route_messages.pack_list_unreachable(family))
        if route.kind == route_messages.UNREACHABLE
        and route.protocol == PROTOCOL
        and route.metric == route_messages.unreachable_metric(route.destination, interface)
    ]


def add_peer_routes(
    kernel: NetlinkSocket, device: int, networks: Sequence[IPNetwork]
) -> tuple[RouteConflict, ...]:
    """Route networks into the interface of that index.

    Ours would win over a foreign route of a worse metric, so each place is
    looked at first.

    Returns:
        What was not added because a foreign route holds the place.

    Raises:
        WireGuardUnavailable: the kernel refused for another reason.

    """
    lookups = [route_messages.pack_lookup(network.network_address) for network in networks]
    answers = kernel.ask_all(RTM_GETROUTE, lookups)
    conflicts: list[RouteConflict] = []
    free: list[IPNetwork] = []
    for network, answer in zip(networks, answers, strict=True):
        holder = None if answer is None else parse_route(answer)
        if holder is None or holder.destination != network or holder.device == device:
            free.append(network)
        else:
            conflicts.append(RouteConflict(network, route_in_words(holder)))
    taken = _add(kernel, [route_messages.pack_peer_route(network, device) for network in free])
    conflicts += (RouteConflict(free[number], "another route of the same metric") for number in taken)
    return tuple(conflicts)


def remove_peer_routes(kernel: NetlinkSocket, device: int, networks: Iterable[IPNetwork]) -> None:
    """Remove our routes into the interface of that index; those gone already are fine."""
    _remove(kernel, [route_messages.pack_peer_route(network, device, remove=True) for network in networks])


def add_unreachable(kernel: NetlinkSocket, interface: str, networks: Iterable[IPNetwork]) -> None:
    """Let what has no better route to these networks fail at once, rather than leave in clear."""
    _add(kernel, [route_messages.pack_unreachable(network, interface) for network in networks])


def remove_unreachable(kernel: NetlinkSocket, interface: str, networks: Iterable[IPNetwork]) -> None:
    """Remove the interface's ``unreachable`` routes, which do not go with it."""
    bodies = [route_messages.pack_unreachable(network, interface, remove=True) for network in networks]
    _remove(kernel, bodies)


def _list(kernel: NetlinkSocket, body: bytes) -> list[Route]:
    try:
        answers = kernel.dump(RTM_GETROUTE, body)
    except OSError as error:
        # A kernel without IPv6 has no such table.
        if error.errno in {errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.ENOENT}:
            return []
        raise WireGuardUnavailable(f"could not list routes: {error.strerror}") from error
    return [route for route in map(parse_route, answers) if route.is_in_main_table]


def _add(kernel: NetlinkSocket, bodies: Sequence[bytes]) -> list[int]:
    """Add routes and return the positions of those whose place is taken."""
    results = kernel.send_all(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, bodies)
    _raise_first("could not add a route", results, fine={errno.EEXIST})
    return [number for number, result in enumerate(results) if result == errno.EEXIST]


def _remove(kernel: NetlinkSocket, bodies: Sequence[bytes]) -> None:
    results = kernel.send_all(RTM_DELROUTE, 0, bodies)
    _raise_first("could not remove a route", results, fine={errno.ESRCH, errno.ENOENT})


def _raise_first(what: str, results: Iterable[int], *, fine: set[int]) -> None:
    for result in results:
        if result and result not in fine:
            raise WireGuardUnavailable(f"{what}: {os.strerror(result)}")


def route_in_words(route: Route) -> str:
    """Return a route much as ``ip route`` shows it."""
    words = ["local"] if route.kind == route_messages.LOCAL else []
    words.append(str(route.destination))
    for gateway in route.gateways:
        words += ["via", str(gateway)]
    if route.device is not None:
        words += ["dev", _interface_name(route.device)]
    words += ["proto", _PROTOCOL_NAMES.get(route.protocol, str(route.protocol))]
    if route.metric:
        words += ["metric", str(route.metric)]
    return " ".join(words)


def _interface_name(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError:
        return str(index)
