"""Routes as the kernel's messages (rtnetlink(7)), and what ours look like.

Pure. The protocol number distinguishes ours from those of other programs; listing and
changing them is left to `link`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from zlib import crc32

from wesher_agent.netlink.errors import MalformedReply
from wesher_agent.netlink.messages import AF_INET, AF_INET6, pack_attribute, parse_attributes
from wesher_common.overlay import IPAddress, IPNetwork

PROTOCOL = 87
"""Marks our routes (``ip route show proto 87``); free in iproute2's rt_protos and the kernel's list."""
UNREACHABLE_METRIC = 1_000_000
"""Behind whatever else routes the overlay's network."""
HOST_METRICS = 1_000_000
"""How many metrics above `UNREACHABLE_METRIC` are for host routes: one for each interface."""

RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
UNICAST, LOCAL, UNREACHABLE = 1, 2, 7

_MAIN_TABLE = 254
_SCOPE_UNIVERSE, _SCOPE_LINK, _SCOPE_ANY = 0, 253, 255
_FIB_MATCH = 0x2000
# An IPv6 metric of 0 becomes 1024; IPv4's stays, and nothing is better.
_IPV6_METRIC = 1
_IPV4_AND_TCP, _IPV6_AND_TCP = 40, 60
"""Bytes of both headers without options."""

ANYWHERE = (IPv4Address("198.51.100.254"), IPv6Address("2001:db8:ffff::1"))
"""Documentation addresses (RFC 5737, RFC 3849): only the default route leads there, and nothing is sent."""

_HEADER = struct.Struct("=BBBBBBBBI")
_U32 = struct.Struct("=I")
_NEXT_HOP = struct.Struct("=HBBi")


class _Attribute:
    """``enum rtattr_type_t``."""

    DST, OIF, GATEWAY, PRIORITY, PREFSRC, METRICS, MULTIPATH, TABLE, VIA = 1, 4, 5, 6, 7, 8, 9, 15, 18
    METRIC_MTU, METRIC_ADVMSS = 2, 8


@dataclass(frozen=True, slots=True)
class Route:
    """One route, as far as it matters here."""

    destination: IPNetwork
    kind: int
    """`UNICAST`, `LOCAL`, `UNREACHABLE` or another ``RTN_`` number."""
    protocol: int
    device: int | None
    """Index of the interface it leads to; None where it leads to several or none."""
    gateways: tuple[IPAddress, ...]
    """One for each next hop that has one."""
    metric: int
    table: int
    mtu: int | None
    """Bytes, where the route has its own."""
    advmss: int | None = None
    """Bytes of TCP payload that this end announces, where the route says so."""
    source: IPAddress | None = None
    """The local address that this host's own packets come from, where the route has one. The answer to
    `pack_next_hop` always has it."""

    @property
    def is_in_main_table(self) -> bool:
        """Whether packets meet it without a rule of their own."""
        return self.table == _MAIN_TABLE


def pack_peer_route(network: IPNetwork, device: int, *, remove: bool = False) -> bytes:
    """Return the body that adds or removes the route of one network into the device."""
    metric = b"" if isinstance(network, IPv4Network) else _priority(_IPV6_METRIC)
    scope = _SCOPE_ANY if remove else _SCOPE_LINK if isinstance(network, IPv4Network) else _SCOPE_UNIVERSE
    return (
        _head(network, scope, UNICAST)
        + _destination(network)
        + pack_attribute(_Attribute.OIF, _U32.pack(device))
        + metric
    )


def unreachable_metric(network: IPNetwork, interface: str) -> int:
    """Return the metric of the ``unreachable`` route under a network.

    Two meshes of one host may have the same overlay, and so cover the same addresses. By its metric a
    host route belongs to one interface, and the other mesh's agent leaves it alone.
    """
    if network.prefixlen < network.max_prefixlen:
        return UNREACHABLE_METRIC
    return UNREACHABLE_METRIC + 1 + crc32(interface.encode()) % HOST_METRICS


def pack_unreachable(network: IPNetwork, interface: str, *, remove: bool = False) -> bytes:
    """Return the body that adds or removes an interface's ``unreachable`` route under a network."""
    scope = _SCOPE_ANY if remove else _SCOPE_UNIVERSE
    metric = unreachable_metric(network, interface)
    return _head(network, scope, UNREACHABLE) + _destination(network) + _priority(metric)


@dataclass(frozen=True, slots=True)
class TableRoute:
    """A route into the device in a table that only rules lead to."""

    table: int
    network: IPNetwork
    source: IPAddress | None
    """What this host's own packets have as source; None leaves that to the kernel."""
    mtu: int
    """Bytes; TCP announces what fits into them."""


def pack_table_route(route: TableRoute, device: int, *, remove: bool = False) -> bytes:
    """Return the body that adds, replaces or removes a route of a table into the device."""
    is_ipv4 = isinstance(route.network, IPv4Network)
    scope = _SCOPE_ANY if remove else _SCOPE_LINK if is_ipv4 else _SCOPE_UNIVERSE
    body = (
        _head(route.network, scope, UNICAST, table=0)
        + _destination(route.network)
        + pack_attribute(_Attribute.TABLE, _U32.pack(route.table))
        + pack_attribute(_Attribute.OIF, _U32.pack(device))
        + (b"" if is_ipv4 else _priority(_IPV6_METRIC))
    )
    if remove:
        return body
    if route.source is not None:
        body += pack_attribute(_Attribute.PREFSRC, route.source.packed)
    metrics = pack_attribute(_Attribute.METRIC_MTU, _U32.pack(route.mtu)) + pack_attribute(
        _Attribute.METRIC_ADVMSS, _U32.pack(advmss(route.network, route.mtu))
    )
    return body + pack_attribute(_Attribute.METRICS, metrics)


def advmss(network: IPNetwork, mtu: int) -> int:
    """Return how much TCP payload fits into a packet, without options (RFC 6691)."""
    return mtu - (_IPV4_AND_TCP if isinstance(network, IPv4Network) else _IPV6_AND_TCP)


def table_unreachable_metric(interface: str) -> int:
    """Return the metric of an interface's ``unreachable`` routes in a table that only rules lead to.

    It shows whose table it is, also once the interface is gone.
    """
    return UNREACHABLE_METRIC + 1 + crc32(interface.encode()) % HOST_METRICS


def pack_table_unreachable(table: int, network: IPNetwork, interface: str, *, remove: bool = False) -> bytes:
    """Return the body that adds or removes an interface's ``unreachable`` route in a table."""
    scope = _SCOPE_ANY if remove else _SCOPE_UNIVERSE
    return (
        _head(network, scope, UNREACHABLE, table=0)
        + _destination(network)
        + pack_attribute(_Attribute.TABLE, _U32.pack(table))
        + _priority(table_unreachable_metric(interface))
    )


def pack_list_own(family: int) -> bytes:
    """Return the body that lists the routes of every table that carry our protocol number."""
    return _HEADER.pack(family, 0, 0, 0, 0, PROTOCOL, 0, 0, 0)


def pack_list_table(table: int, family: int) -> bytes:
    """Return the body that lists a table."""
    header = _HEADER.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
    return header + pack_attribute(_Attribute.TABLE, _U32.pack(table))


def pack_list_into(device: int, family: int) -> bytes:
    """Return the body that lists the main table's routes into a device."""
    header = _HEADER.pack(family, 0, 0, 0, _MAIN_TABLE, 0, 0, 0, 0)
    return header + pack_attribute(_Attribute.OIF, _U32.pack(device))


def pack_list_unreachable(family: int) -> bytes:
    """Return the body that lists our ``unreachable`` routes."""
    return _HEADER.pack(family, 0, 0, 0, _MAIN_TABLE, PROTOCOL, 0, UNREACHABLE, 0)


def pack_lookup(address: IPAddress, *, device: int | None = None) -> bytes:
    """Return the body that asks for the route that an address has now, with all its next hops.

    Args:
        address: the destination.
        device: only routes into the interface of that index count; None for all.

    """
    into = b"" if device is None else pack_attribute(_Attribute.OIF, _U32.pack(device))
    return _ask(address, _FIB_MATCH) + into


def pack_next_hop(address: IPAddress) -> bytes:
    """Return the body that asks how a packet to an address would go."""
    return _ask(address, 0)


def parse_route(body: memoryview) -> Route:
    """Read one route.

    Raises:
        MalformedReply: it is cut off, or its destination is not a network.

    """
    if len(body) < _HEADER.size:
        raise MalformedReply("kernel routes: a message without its header")
    family, prefix, _, _, table, protocol, _, kind, _ = _HEADER.unpack_from(body)
    attributes = dict(parse_attributes(body[_HEADER.size :]))
    metrics = dict(parse_attributes(attributes.get(_Attribute.METRICS, memoryview(b""))))
    default = bytes(4 if family == AF_INET else 16)
    try:
        destination = bytes(attributes.get(_Attribute.DST, default))
        network = IPv4Network if len(destination) == len(IPv4Address(0).packed) else IPv6Network
        return Route(
            destination=network((destination, prefix)),
            kind=kind,
            protocol=protocol,
            device=_number(attributes.get(_Attribute.OIF)),
            gateways=tuple(_gateways(attributes)),
            metric=_number(attributes.get(_Attribute.PRIORITY)) or 0,
            table=_number(attributes.get(_Attribute.TABLE)) or table,
            mtu=_number(metrics.get(_Attribute.METRIC_MTU)),
            advmss=_number(metrics.get(_Attribute.METRIC_ADVMSS)),
            source=_address(attributes.get(_Attribute.PREFSRC)),
        )
    except (ValueError, struct.error) as error:
        raise MalformedReply("kernel routes: an invalid route") from error


def _ask(address: IPAddress, flags: int) -> bytes:
    family = AF_INET if isinstance(address, IPv4Address) else AF_INET6
    header = _HEADER.pack(family, address.max_prefixlen, 0, 0, 0, 0, 0, 0, flags)
    return header + pack_attribute(_Attribute.DST, address.packed)


def _head(network: IPNetwork, scope: int, kind: int, *, table: int = _MAIN_TABLE) -> bytes:
    return _HEADER.pack(_family(network), network.prefixlen, 0, 0, table, PROTOCOL, scope, kind, 0)


def _destination(network: IPNetwork) -> bytes:
    return pack_attribute(_Attribute.DST, network.network_address.packed)


def _priority(metric: int) -> bytes:
    return pack_attribute(_Attribute.PRIORITY, _U32.pack(metric))


def _family(network: IPNetwork) -> int:
    return AF_INET if isinstance(network, IPv4Network) else AF_INET6


def _gateways(attributes: Mapping[int, memoryview]) -> Iterator[IPAddress]:
    if (gateway := _gateway(attributes)) is not None:
        yield gateway
    next_hops = attributes.get(_Attribute.MULTIPATH, memoryview(b""))
    while next_hops:
        length = _NEXT_HOP.unpack_from(next_hops)[0]
        if not _NEXT_HOP.size <= length <= len(next_hops):
            raise MalformedReply("kernel routes: a next hop of invalid length")
        if (gateway := _gateway(dict(parse_attributes(next_hops[_NEXT_HOP.size : length])))) is not None:
            yield gateway
        next_hops = next_hops[length + -length % 4 :]


def _gateway(attributes: Mapping[int, memoryview]) -> IPAddress | None:
    # In a route via a gateway of the other family, two bytes for the family come first.
    via = attributes.get(_Attribute.VIA)
    return _address(attributes.get(_Attribute.GATEWAY) if via is None else via[2:])


def _number(payload: memoryview | None) -> int | None:
    return None if payload is None else int(_U32.unpack(payload)[0])


def _address(payload: memoryview | None) -> IPAddress | None:
    if payload is None:
        return None
    packed = bytes(payload)
    return IPv4Address(packed) if len(packed) == len(IPv4Address(0).packed) else IPv6Address(packed)
