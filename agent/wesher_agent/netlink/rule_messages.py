"""Routing rules as the kernel's messages (linux/fib_rules.h), and which of them are ours.

Pure. The protocol number distinguishes our rules from those of other programs, as it does
for routes. Listing and changing them is left to `wireguard.carrying`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network

from wesher_agent.netlink.errors import MalformedReply
from wesher_agent.netlink.messages import AF_INET, AF_INET6, pack_attribute, parse_attributes
from wesher_agent.netlink.route_messages import PROTOCOL
from wesher_common.overlay import IPNetwork

RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE = 32, 33, 34
TO_TABLE, GOTO, NOP = 1, 2, 3
"""``FR_ACT_…``."""

_HEADER = struct.Struct("=BBBBBBBBI")
_U8, _U32, _PORTS = struct.Struct("=B"), struct.Struct("=I"), struct.Struct("=HH")
_INVERT, _FIND_SOURCE = 0x2, 0x10000
_NO_LIMIT = 2**32 - 1
"""How the kernel says that a rule suppresses nothing."""


class _Attribute:
    """``enum`` of linux/fib_rules.h."""

    DST, SRC, IIFNAME, GOTO, PRIORITY, FWMARK, FLOW, TUN_ID = 1, 2, 3, 4, 6, 10, 11, 12
    SUPPRESS_IFGROUP, SUPPRESS_PREFIXLEN, TABLE, FWMASK, OIFNAME = 13, 14, 15, 16, 17
    L3MDEV, UID_RANGE, PROTOCOL, IP_PROTO, SPORT_RANGE, DPORT_RANGE = 19, 20, 21, 22, 23, 24


_NEVER_OURS = (
    _Attribute.IIFNAME,
    _Attribute.OIFNAME,
    _Attribute.FLOW,
    _Attribute.TUN_ID,
    _Attribute.UID_RANGE,
)


@dataclass(frozen=True, slots=True)
class Rule:
    """One routing rule, as far as ours have it."""

    version: int
    """4 or 6."""
    priority: int
    action: int
    """`TO_TABLE`, `GOTO`, `NOP` or another ``FR_ACT_`` number."""
    table: int = 0
    target: int = 0
    """The priority that `GOTO` goes on at."""
    source: IPNetwork | None = None
    destination: IPNetwork | None = None
    mark: int = 0
    mask: int = 0
    transport: int = 0
    """The IP protocol number; 0 for any."""
    source_port: int = 0
    destination_port: int = 0
    protocol: int = PROTOCOL
    """Who made it."""
    is_plain: bool = True
    """Whether it selects packets by nothing else."""

    def __str__(self) -> str:
        """Return the rule much as ``ip rule`` shows it."""
        words = [f"{self.priority}:"]
        for name, value in (("from", self.source), ("to", self.destination)):
            words += [name, str(value)] if value is not None else []
        if self.mark or self.mask:
            words += ["fwmark", f"{self.mark:#x}/{self.mask:#x}"]
        match self.action:
            case 1:
                words += ["lookup", str(self.table)]
            case 2:
                words += ["goto", str(self.target)]
            case 3:
                words.append("nop")
            case _:
                words += ["action", str(self.action)]
        return " ".join([*words, "proto", str(self.protocol)])


def pack_rule(rule: Rule) -> bytes:
    """Return the body that adds or removes a rule."""
    source_length = 0 if rule.source is None else rule.source.prefixlen
    destination_length = 0 if rule.destination is None else rule.destination.prefixlen
    family = AF_INET if rule.version == IPv4Network(0).version else AF_INET6
    body = _HEADER.pack(family, destination_length, source_length, 0, 0, 0, 0, rule.action, 0)
    body += pack_attribute(_Attribute.PRIORITY, _U32.pack(rule.priority))
    body += pack_attribute(_Attribute.PROTOCOL, _U8.pack(rule.protocol))
    for kind, network in ((_Attribute.SRC, rule.source), (_Attribute.DST, rule.destination)):
        if network is not None:
            body += pack_attribute(kind, network.network_address.packed)
    for kind, number in (
        (_Attribute.TABLE, rule.table),
        (_Attribute.GOTO, rule.target),
        (_Attribute.FWMARK, rule.mark),
        (_Attribute.FWMASK, rule.mask),
    ):
        if number:
            body += pack_attribute(kind, _U32.pack(number))
    if rule.transport:
        body += pack_attribute(_Attribute.IP_PROTO, _U8.pack(rule.transport))
    for kind, port in (
        (_Attribute.SPORT_RANGE, rule.source_port),
        (_Attribute.DPORT_RANGE, rule.destination_port),
    ):
        if port:
            body += pack_attribute(kind, _PORTS.pack(port, port))
    return body


def pack_list(family: int) -> bytes:
    """Return the body that lists the rules of a family."""
    return _HEADER.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)


def parse_rule(body: memoryview) -> Rule:
    """Read one rule.

    Raises:
        MalformedReply: it is cut off, or a network in it is not one.

    """
    if len(body) < _HEADER.size:
        raise MalformedReply("kernel rules: a message without its header")
    family, destination_length, source_length, tos, table, _, _, action, flags = _HEADER.unpack_from(body)
    attributes = dict(parse_attributes(body[_HEADER.size :]))

    def number(kind: int, default: int = 0) -> int:
        payload = attributes.get(kind)
        return default if payload is None else int(_U32.unpack(payload)[0])

    try:
        source_port, one_source_port = _port(attributes.get(_Attribute.SPORT_RANGE))
        destination_port, one_destination_port = _port(attributes.get(_Attribute.DPORT_RANGE))
        return Rule(
            version=4 if family == AF_INET else 6,
            priority=number(_Attribute.PRIORITY),
            action=action,
            table=number(_Attribute.TABLE, table),
            target=number(_Attribute.GOTO),
            source=_network(attributes.get(_Attribute.SRC), source_length),
            destination=_network(attributes.get(_Attribute.DST), destination_length),
            mark=number(_Attribute.FWMARK),
            mask=number(_Attribute.FWMASK),
            transport=_byte(attributes.get(_Attribute.IP_PROTO)),
            source_port=source_port,
            destination_port=destination_port,
            protocol=_byte(attributes.get(_Attribute.PROTOCOL)),
            is_plain=not (
                tos
                or flags & (_INVERT | _FIND_SOURCE)
                or any(kind in attributes for kind in _NEVER_OURS)
                or _byte(attributes.get(_Attribute.L3MDEV))
                or number(_Attribute.SUPPRESS_IFGROUP, _NO_LIMIT) != _NO_LIMIT
                or number(_Attribute.SUPPRESS_PREFIXLEN, _NO_LIMIT) != _NO_LIMIT
            )
            and one_source_port
            and one_destination_port,
        )
    except (ValueError, struct.error) as error:
        raise MalformedReply("kernel rules: an invalid rule") from error


def _network(payload: memoryview | None, length: int) -> IPv4Network | IPv6Network | None:
    return None if payload is None or not length else ip_network((bytes(payload), length), strict=False)


def _byte(payload: memoryview | None) -> int:
    return 0 if payload is None else int(_U8.unpack(payload)[0])


def _port(payload: memoryview | None) -> tuple[int, bool]:
    """Return the first port of a range, and whether it is the only one."""
    if payload is None:
        return 0, True
    first, last = _PORTS.unpack(payload)
    return first, first == last
