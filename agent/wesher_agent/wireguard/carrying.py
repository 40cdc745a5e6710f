"""Rules, carried routes and reverse-path filters in the kernel: observed, changed, removed.

Blocking, over netlink: called in a thread. What to change is left to `carrying_plan`, the bytes to
`rule_messages`, `route_messages` and `path_filter`.

Rules with our protocol number may belong to another mesh of this host. The table that they lead to shows
which: its routes lead into a device, and the metric of its ``unreachable`` routes identifies a device that
is gone. Rules that lead to an empty table are left over from an interrupted change; any mesh removes them.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from wesher_agent.files.atomic import CannotWrite
from wesher_agent.files.link_memory import LinkMemory
from wesher_agent.mesh.device import DeviceConfig
from wesher_agent.netlink import route_messages, rule_messages
from wesher_agent.netlink.errors import WireGuardUnavailable
from wesher_agent.netlink.messages import AF_INET, AF_INET6, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE
from wesher_agent.netlink.netlink_socket import NETLINK_ROUTE, NetlinkSocket
from wesher_agent.netlink.path_filter import ALL, LOOSE, STRICT, read_path_filter, set_path_filter
from wesher_agent.netlink.route_messages import (
    PROTOCOL,
    RTM_DELROUTE,
    RTM_GETROUTE,
    RTM_NEWROUTE,
    Route,
    TableRoute,
    parse_route,
)
from wesher_agent.netlink.rule_messages import (
    RTM_DELRULE,
    RTM_GETRULE,
    RTM_NEWRULE,
    TO_TABLE,
    Rule,
    parse_rule,
)
from wesher_agent.wireguard.carrying_plan import (
    CarryChange,
    CarryProblem,
    ObservedCarrying,
    Unreachable,
    first_priority,
)
from wesher_agent.wireguard.routes import route_in_words
from wesher_common.traffic import LAST_RULE

_NO_SUCH_TABLE = {errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.ENOENT}
"""A kernel without IPv6 answers with one of the first two."""
_NO_FAMILY = {errno.EAFNOSUPPORT, errno.EOPNOTSUPP}
_IPV6 = 6
_MAX_NAMED = 4
_ROUNDS = 3


def observe_carrying(interface: str, config: DeviceConfig, memory: LinkMemory) -> ObservedCarrying:
    """Look at rules, the tables that they lead to and the filters of the links concerned.

    Args:
        interface: the device's name.
        config: the desired state: what is in its way is named as a conflict.
        memory: the links that were made loose.

    """
    carrying = config.carrying
    loosened = frozenset(memory.load())
    with NetlinkSocket(NETLINK_ROUTE) as kernel:
        rules = _list_rules(kernel)
        is_routing = carrying is not None and bool(carrying.routes)
        # Our rules are added before our routes, and removed after them.
        if not is_routing and not any(rule.protocol == PROTOCOL for rule in rules):
            own = _Own()
        else:
            own = _find_own(kernel, interface, rules)
        conflicts: list[CarryProblem] = []
        strict: frozenset[str] = frozenset()
        if carrying is not None:
            strict = frozenset(_strict_links(kernel, {*carrying.loose_links, interface}))
            if carrying.routes:
                conflicts += _foreign_rules(rules, own.rules, carrying.priority)
                conflicts += _foreign_routes(kernel, own, carrying.table)
    return ObservedCarrying(
        rules=frozenset(own.rules),
        routes=frozenset(own.routes),
        unreachable=frozenset(own.unreachable),
        strict_links=strict,
        loosened=loosened,
        conflicts=tuple(conflicts),
    )


def prepare(change: CarryChange, memory: LinkMemory) -> list[CarryProblem]:
    """Make the part of a change that comes before WireGuard's; return what did not succeed."""
    if not (change.loosen or change.stop_rules or change.first_rules):
        return []
    with NetlinkSocket(NETLINK_ROUTE) as kernel:
        problems = _loosen(kernel, change.loosen, memory)
        _remove_rules(kernel, change.stop_rules)
        _add_rules(kernel, change.first_rules)
    return problems


def complete(interface: str, change: CarryChange, memory: LinkMemory) -> list[CarryProblem]:
    """Make the part of a change that comes after WireGuard's; return what did not succeed.

    Raises:
        WireGuardUnavailable: there is no such interface, or the kernel refused.

    """
    if not change:
        return []
    with NetlinkSocket(NETLINK_ROUTE) as kernel:
        _add_unreachable(kernel, interface, change.add_unreachable)
        problems = []
        if change.add_routes or change.change_routes:
            device = _index(interface)
            if device is None:
                raise WireGuardUnavailable(f"there is no network device {interface}")
            problems += _set_routes(kernel, interface, device, change.add_routes, NLM_F_CREATE | NLM_F_EXCL)
            problems += _set_routes(
                kernel, interface, device, change.change_routes, NLM_F_CREATE | NLM_F_REPLACE
            )
        _add_rules(kernel, change.last_rules)
        _remove_rules(kernel, change.remove_rules)
        _remove_routes(kernel, interface, change.remove_routes, change.remove_unreachable)
        _remove_rules(kernel, change.end_rules)
        # The kernel removes the first rule that fits, which may be one that is to stay.
        _restore_rules(kernel, change)
        try:
            _restore(kernel, change.restore, memory)
        except CannotWrite as error:
            problems.append(CarryProblem("ReversePathFilter", str(error)))
    return problems


def stop_routing(interface: str) -> None:
    """Lead no packet into a mesh's device any more, be there one or not; filters stay as they are.

    Raises:
        WireGuardUnavailable: the kernel refused.

    """
    with NetlinkSocket(NETLINK_ROUTE) as kernel:
        rules = _list_rules(kernel)
        if any(rule.protocol == PROTOCOL for rule in rules):
            _stop_routing(kernel, interface, _find_own(kernel, interface, rules))


def remove_carrying(interface: str, memory: LinkMemory) -> int:
    """Remove every rule, route and setting that carries a mesh's traffic; return how many there were.

    Raises:
        WireGuardUnavailable: the kernel refused.
        CannotWrite: the links have their filters again, but are still remembered.

    """
    with NetlinkSocket(NETLINK_ROUTE) as kernel:
        own = _find_own(kernel, interface, _list_rules(kernel))
        _stop_routing(kernel, interface, own)
        loosened = tuple(memory.load())
        _restore(kernel, loosened, memory)
    return len(own.rules) + len(own.routes) + len(own.unreachable) + len(loosened)


@dataclass(slots=True)
class _Own:
    """What one mesh has in the kernel."""

    rules: list[Rule] = field(default_factory=list)
    routes: list[TableRoute] = field(default_factory=list)
    unreachable: list[Unreachable] = field(default_factory=list)


def _stop_routing(kernel: NetlinkSocket, interface: str, own: _Own) -> None:
    _remove_rules(kernel, [rule for rule in own.rules if rule.action == TO_TABLE])
    _remove_routes(kernel, interface, own.routes, own.unreachable)
    _remove_rules(kernel, [rule for rule in own.rules if rule.action != TO_TABLE])


def _find_own(kernel: NetlinkSocket, interface: str, rules: Iterable[Rule]) -> _Own:
    own, foreign_tables = _Own(), set()
    device, metric = _index(interface), route_messages.table_unreachable_metric(interface)
    for route in _list_routes(kernel, route_messages.pack_list_own):
        # Old kernels list all routes, whatever the request says.
        if route.is_in_main_table or route.protocol != PROTOCOL:
            continue
        if route.kind == route_messages.UNREACHABLE and route.metric == metric:
            own.unreachable.append((route.table, route.destination))
        elif route.kind == route_messages.UNICAST and device is not None and route.device == device:
            own.routes.append(_as_set(route))
        else:
            foreign_tables.add(route.table)
    ours = [rule for rule in rules if rule.protocol == PROTOCOL and rule.is_plain]
    foreign = {
        first_priority(rule) for rule in ours if rule.action == TO_TABLE and rule.table in foreign_tables
    }
    own.rules = [rule for rule in ours if first_priority(rule) not in foreign]
    return own


def _as_set(route: Route) -> TableRoute:
    mtu = route.mtu or 0
    if route.advmss != route_messages.advmss(route.destination, mtu):
        mtu = 0
    return TableRoute(route.table, route.destination, route.source, mtu)


def _foreign_rules(rules: Iterable[Rule], own: Sequence[Rule], first: int) -> Iterable[CarryProblem]:
    ours = set(own)
    found = [rule for rule in rules if first <= rule.priority <= first + LAST_RULE and rule not in ours]
    if found:
        named = "; ".join(map(str, found[:_MAX_NAMED]))
        yield CarryProblem(
            "RuleConflict",
            f"rules with the priorities {first} to {first + LAST_RULE} belong to another program or mesh: "
            f"{named}: remove them, or set spec.traffic.rulePriority to a free range",
        )


def _foreign_routes(kernel: NetlinkSocket, own: _Own, table: int) -> Iterable[CarryProblem]:
    ours = {(route.table, route.network) for route in own.routes}
    below = set(own.unreachable)
    listed = _list_routes(kernel, lambda family: route_messages.pack_list_table(table, family))
    found = [
        route
        for route in listed
        if route.table == table
        and not (
            route.protocol == PROTOCOL
            and (table, route.destination) in (below if route.kind == route_messages.UNREACHABLE else ours)
        )
    ]
    if found:
        named = "; ".join(map(route_in_words, found[:_MAX_NAMED]))
        yield CarryProblem(
            "TableConflict",
            f"routes in the table {table} belong to another program or mesh: {named}: remove them, or set "
            "spec.traffic.table to a free number",
        )


def _list_rules(kernel: NetlinkSocket) -> list[Rule]:
    rules: list[Rule] = []
    for family in (AF_INET, AF_INET6):
        try:
            rules += map(parse_rule, kernel.dump(RTM_GETRULE, rule_messages.pack_list(family)))
        except OSError as error:
            if error.errno not in _NO_SUCH_TABLE:
                raise WireGuardUnavailable(f"could not list routing rules: {error.strerror}") from error
    return rules


def _list_routes(kernel: NetlinkSocket, pack: Callable[[int], bytes]) -> list[Route]:
    routes: list[Route] = []
    for family in (AF_INET, AF_INET6):
        try:
            routes += map(parse_route, kernel.dump(RTM_GETROUTE, pack(family)))
        except OSError as error:
            if error.errno not in _NO_SUCH_TABLE:
                raise WireGuardUnavailable(f"could not list routes: {error.strerror}") from error
    return routes


def _add_rules(kernel: NetlinkSocket, rules: Sequence[Rule]) -> None:
    results = kernel.send_all(
        RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, [rule_messages.pack_rule(rule) for rule in rules]
    )
    for rule, result in zip(rules, results, strict=True):
        if result not in {0, errno.EEXIST} and not _lacks_ipv6(rule.version, result):
            raise WireGuardUnavailable(f"could not add the routing rule {rule}: {os.strerror(result)}")


def _remove_rules(kernel: NetlinkSocket, rules: Sequence[Rule]) -> None:
    # The kernel removes the first rule that has what is named: a rule that names more comes first.
    ordered = sorted(rules, key=lambda rule: -len(rule_messages.pack_rule(rule)))
    results = kernel.send_all(RTM_DELRULE, 0, [rule_messages.pack_rule(rule) for rule in ordered])
    for rule, result in zip(ordered, results, strict=True):
        if result not in {0, errno.ENOENT, errno.ESRCH, errno.EAFNOSUPPORT}:
            raise WireGuardUnavailable(f"could not remove the routing rule {rule}: {os.strerror(result)}")


def _restore_rules(kernel: NetlinkSocket, change: CarryChange) -> None:
    gone = {*change.stop_rules, *change.remove_rules, *change.end_rules}
    added = [*change.first_rules, *change.last_rules]
    if not gone or not added:
        return
    for _ in range(_ROUNDS):
        there = set(_list_rules(kernel))
        missing = [rule for rule in added if rule not in there]
        left = [rule for rule in gone if rule in there]
        if not missing and not left:
            return
        _add_rules(kernel, missing)
        _remove_rules(kernel, left)


def _lacks_ipv6(version: int, result: int) -> bool:
    """Tell whether the kernel refused because it has no IPv6: then no such packet leaves this host."""
    return version == _IPV6 and result in _NO_FAMILY


def _set_routes(
    kernel: NetlinkSocket, interface: str, device: int, routes: Sequence[TableRoute], flags: int
) -> list[CarryProblem]:
    bodies = [route_messages.pack_table_route(route, device) for route in routes]
    refused: dict[int, list[TableRoute]] = {}
    for route, result in zip(routes, kernel.send_all(RTM_NEWROUTE, flags, bodies), strict=True):
        if result:
            refused.setdefault(result, []).append(route)
    problems = []
    for result, these in refused.items():
        named = ", ".join(str(route.network) for route in these[:_MAX_NAMED])
        match result:
            case errno.EEXIST:
                text = f"routes in the table {these[0].table} belong to another program: {named}"
                problems.append(CarryProblem("TableConflict", text))
            case errno.EINVAL if any(route.source is not None for route in these):
                text = f"the source address {these[0].source} of the routes to {named} is not on this host"
                problems.append(CarryProblem("AddressNotPresent", text))
            case errno.EACCES | errno.EAFNOSUPPORT | errno.EOPNOTSUPP if these[0].network.version == _IPV6:
                text = f"packets to {named} are not carried: {_how_to_get_ipv6(interface, result)}"
                problems.append(CarryProblem("IPv6SwitchedOff", text))
            case _:
                raise WireGuardUnavailable(f"could not add the route to {named}: {os.strerror(result)}")
    return problems


def _how_to_get_ipv6(interface: str, result: int) -> str:
    if result in _NO_FAMILY:
        return "this kernel has no IPv6: boot it without ipv6.disable=1"
    return (
        f"IPv6 is switched off: set net.ipv6.conf.{interface}.disable_ipv6=0 and, for new interfaces, "
        "net.ipv6.conf.default.disable_ipv6=0"
    )


def _add_unreachable(kernel: NetlinkSocket, interface: str, places: Sequence[Unreachable]) -> None:
    bodies = [route_messages.pack_table_unreachable(*place, interface) for place in places]
    for place, result in zip(
        places, kernel.send_all(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, bodies), strict=True
    ):
        if result not in {0, errno.EEXIST} and not _lacks_ipv6(place[1].version, result):
            raise WireGuardUnavailable(
                f"could not add the unreachable route to {place[1]}: {os.strerror(result)}"
            )


def _remove_routes(
    kernel: NetlinkSocket, interface: str, routes: Sequence[TableRoute], places: Sequence[Unreachable]
) -> None:
    device = _index(interface)
    bodies = [
        route_messages.pack_table_route(route, device, remove=True)
        for route in routes
        # The kernel removes them with their device.
        if device is not None
    ]
    bodies += [route_messages.pack_table_unreachable(*place, interface, remove=True) for place in places]
    for result in kernel.send_all(RTM_DELROUTE, 0, bodies):
        if result not in {0, errno.ESRCH, errno.ENOENT, errno.ENODEV}:
            raise WireGuardUnavailable(f"could not remove a carried route: {os.strerror(result)}")


def _strict_links(kernel: NetlinkSocket, names: Iterable[str]) -> Iterable[str]:
    of_all = read_path_filter(kernel, ALL) or 0
    for name in names:
        value = _filter_of(kernel, name)
        if value is not None and max(of_all, value) == STRICT:
            yield name


def _loosen(kernel: NetlinkSocket, names: Sequence[str], memory: LinkMemory) -> list[CarryProblem]:
    strict = {name: _filter_of(kernel, name) for name in _strict_links(kernel, names)}
    if not strict:
        return []
    remembered = memory.load()
    try:
        memory.save({**remembered, **{name: value for name, value in strict.items() if value is not None}})
    except CannotWrite as error:
        text = f"reverse-path filtering of {', '.join(sorted(strict))} stays strict: {error}"
        return [CarryProblem("ReversePathFilter", text)]
    for name in strict:
        if (index := _index(name)) is not None:
            set_path_filter(kernel, index, LOOSE)
    return []


def _restore(kernel: NetlinkSocket, names: Iterable[str], memory: LinkMemory) -> None:
    remembered = memory.load()
    gone = [name for name in names if name in remembered]
    for name in gone:
        index = _index(name)
        # A value that another program has set since then stays.
        if index is not None and read_path_filter(kernel, index) == LOOSE:
            set_path_filter(kernel, index, remembered[name])
    if gone:
        memory.save({name: value for name, value in remembered.items() if name not in gone})


def _filter_of(kernel: NetlinkSocket, name: str) -> int | None:
    index = _index(name)
    return None if index is None else read_path_filter(kernel, index)


def _index(interface: str) -> int | None:
    try:
        return socket.if_nametoindex(interface)
    except OSError:
        return None
