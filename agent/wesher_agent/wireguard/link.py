"""The interface as the network stack sees it: its kind, MTU, address and routes.

The same for both backends. Blocking, since the kernel works while it is asked:
everything here is called in a thread. What to change is left to `plan`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection
from ipaddress import IPv6Interface, ip_interface
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from wesher_agent.netlink import ipv6
from wesher_agent.netlink.errors import WireGuardUnavailable
from wesher_agent.netlink.netlink_socket import NETLINK_ROUTE, NetlinkSocket
from wesher_agent.netlink.route_messages import PROTOCOL
from wesher_agent.wireguard import routes
from wesher_agent.wireguard.ownership import FoundLink
from wesher_agent.wireguard.plan import IPInterface, LinkChange, ObservedLink
from wesher_agent.wireguard.routes import RouteConflict
from wesher_common.overlay import IPNetwork

_IFF_UP = 1


def link_kind(interface: str) -> str | None:
    """Return what kind of network device bears the name, ``wireguard`` or ``tun`` say.

    None where there is none; empty for hardware, which has no kind.
    """
    with IPRoute() as kernel:
        found = _find(kernel, interface)
    return None if found is None else _kind_of(found)


def link_index(interface: str) -> int | None:
    """Return the kernel's number of the network device; None where there is none."""
    with IPRoute() as kernel:
        found = _find(kernel, interface)
    return None if found is None else int(found["index"])


def find_link(interface: str) -> FoundLink | None:
    """Return what bears the name; None where nothing does."""
    with IPRoute(strict_check=True) as kernel, NetlinkSocket(NETLINK_ROUTE) as fast:
        found = _find(kernel, interface)
        if found is None:
            return None
        index = found["index"]
        addresses = _addresses(kernel, index)
        into = routes.list_into(fast, index)
    return FoundLink(
        index,
        _kind_of(found),
        frozenset(address for address in addresses if not _is_link_local(address)),
        any(route.protocol == PROTOCOL for route in into),
    )


def restore_name(index: int, interface: str) -> str:
    """Give the network device of that index its name again; return the one it had, empty if none was changed.

    Raises:
        WireGuardUnavailable: the kernel refused.

    """
    with IPRoute() as kernel:
        try:
            (found,) = kernel.link("get", index=index)
        except NetlinkError as error:
            if error.code == errno.ENODEV:
                return ""
            raise WireGuardUnavailable(f"could not query {interface}: {_explain(error.code)}") from error
        former: str = found.get("ifname")
        if former == interface:
            return ""
        what = f"could not rename {former} to {interface}"
        try:
            kernel.link("set", index=index, ifname=interface)
        except NetlinkError as error:
            if error.code != errno.EBUSY:
                raise WireGuardUnavailable(f"{what}: {_explain(error.code)}") from error
            # Before Linux 6.2 only a device that is down can be renamed.
            _do(what, lambda: kernel.link("set", index=index, state="down"))
            _do(what, lambda: kernel.link("set", index=index, ifname=interface))
    return former


def create_link(interface: str, kind: str) -> None:
    """Make a network device.

    Raises:
        WireGuardUnavailable: the kernel knows no such kind, or forbids it.

    """
    with IPRoute() as kernel:
        _do(f"could not create {interface}", lambda: kernel.link("add", ifname=interface, kind=kind))


def delete_link(interface: str, kind: str) -> None:
    """Remove a network device of that kind and whatever hangs on it; none of it there is fine.

    With a thousand peers in the kernel this takes many seconds.
    """
    with IPRoute() as kernel:
        found = _find(kernel, interface)
        if found is not None and _kind_of(found) == kind:
            _do(
                f"could not remove {interface}",
                lambda: kernel.link("del", index=found["index"]),
                fine={errno.ENODEV},
            )


def observe_link(interface: str) -> ObservedLink:
    """Look at the interface, its addresses, the routes into it and our unreachable ones.

    Raises:
        WireGuardUnavailable: there is no such interface.

    """
    with IPRoute(strict_check=True) as kernel, NetlinkSocket(NETLINK_ROUTE) as fast:
        found = _existing(kernel, interface)
        index = found["index"]
        addresses = _addresses(kernel, index)
        into = routes.list_into(fast, index)
        unreachable = routes.list_unreachable(fast, interface)
    return ObservedLink(
        mtu=found.get("mtu"),
        up=bool(found["flags"] & _IFF_UP),
        addresses=frozenset(address for address in addresses if not _is_link_local(address)),
        routes=frozenset(route.destination for route in into),
        own_routes=frozenset(route.destination for route in into if route.protocol == PROTOCOL),
        unreachable=frozenset(unreachable),
    )


def change_link(interface: str, change: LinkChange) -> tuple[RouteConflict, ...]:
    """Make a change; an empty one asks the kernel nothing.

    Returns:
        The routes that were not added because a foreign one holds their place.

    Raises:
        WireGuardUnavailable: there is no such interface, or the kernel refused.

    """
    if not change:
        return ()
    with IPRoute() as kernel, NetlinkSocket(NETLINK_ROUTE) as fast:
        index = _existing(kernel, interface)["index"]
        if (
            any(isinstance(address, IPv6Interface) for address in change.add_addresses)
            and not ipv6.kernel_has_ipv6()
        ):
            raise WireGuardUnavailable(ipv6.without_kernel_support())
        # First, so that no packet for the overlay leaves in clear while the rest is on its way.
        routes.add_unreachable(fast, interface, change.add_unreachable)
        _change_interface(kernel, interface, index, change)
        conflicts = routes.add_peer_routes(fast, index, change.add_routes)
        routes.remove_peer_routes(fast, index, change.remove_routes)
        routes.remove_unreachable(fast, interface, change.remove_unreachable)
    return conflicts


def remove_own_unreachable(interface: str, overlay: IPNetwork | None) -> int:
    """Remove this device's ``unreachable`` routes, which do not go with it; return how many there were.

    Args:
        interface: the device. Its routes are host routes, which name it, and those that cover its addresses.
        overlay: the network, where it is known though the device may be gone.

    """
    with IPRoute(strict_check=True) as kernel, NetlinkSocket(NETLINK_ROUTE) as fast:
        found = _find(kernel, interface)
        hosts = [] if found is None else [address.ip for address in _addresses(kernel, found["index"])]
        networks = [
            network
            for network in routes.list_unreachable(fast, interface)
            if network.prefixlen == network.max_prefixlen
            or network == overlay
            or any(host in network for host in hosts)
        ]
        routes.remove_unreachable(fast, interface, networks)
    return len(networks)


def _change_interface(kernel: IPRoute, interface: str, index: int, change: LinkChange) -> None:
    settings: dict[str, Any] = {}
    if change.mtu is not None:
        settings["mtu"] = change.mtu
    if change.up:
        settings["state"] = "up"
    if settings:
        _do(f"could not set {interface} up", lambda: kernel.link("set", index=index, **settings))
    for address in change.add_addresses:
        _change_address(kernel, interface, index, "add", address)
    for address in change.remove_addresses:
        _change_address(kernel, interface, index, "del", address)


def _change_address(kernel: IPRoute, interface: str, index: int, verb: str, address: IPInterface) -> None:
    try:
        _do(
            f"could not {verb} the address {address} of {interface}",
            lambda: kernel.addr(
                verb, index=index, address=str(address.ip), prefixlen=address.network.prefixlen
            ),
            fine={errno.EEXIST, errno.EADDRNOTAVAIL},
        )
    except WireGuardUnavailable as error:
        # The kernel says "Permission denied" then, to root too.
        if isinstance(address, IPv6Interface) and ipv6.is_switched_off(interface):
            raise WireGuardUnavailable(ipv6.switched_off(interface)) from error
        raise


def _addresses(kernel: IPRoute, index: int) -> list[IPInterface]:
    try:
        return [_address_of(entry) for entry in kernel.get_addr(index=index)]
    except NetlinkError as error:
        raise WireGuardUnavailable(f"could not list addresses: {_explain(error.code)}") from error


def _address_of(entry: Any) -> IPInterface:
    # Of a point-to-point pair, the kernel calls the far end `address`.
    return ip_interface(f"{entry.get('local') or entry.get('address')}/{entry['prefixlen']}")


def _is_link_local(address: IPInterface) -> bool:
    return isinstance(address, IPv6Interface) and address.is_link_local


def _find(kernel: IPRoute, interface: str) -> Any:
    try:
        (found,) = kernel.link("get", ifname=interface)
    except NetlinkError as error:
        if error.code == errno.ENODEV:
            return None
        raise WireGuardUnavailable(f"could not query {interface}: {_explain(error.code)}") from error
    return found


def _kind_of(found: Any) -> str:
    return found.get(("linkinfo", "kind")) or ""


def _existing(kernel: IPRoute, interface: str) -> Any:
    found = _find(kernel, interface)
    if found is None:
        raise WireGuardUnavailable(f"there is no network device {interface}")
    return found


def _do(what: str, action: Callable[[], object], *, fine: Collection[int] = ()) -> None:
    try:
        action()
    except NetlinkError as error:
        if error.code not in fine:
            raise WireGuardUnavailable(f"{what}: {_explain(error.code)}") from error


def _explain(number: int) -> str:
    match number:
        case errno.EPERM:
            return "not permitted: run as root or with CAP_NET_ADMIN"
        case errno.EOPNOTSUPP:
            return "the kernel does not support it"
        case _:
            return os.strerror(number)
