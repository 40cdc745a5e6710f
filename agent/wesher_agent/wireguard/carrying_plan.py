"""The smallest change from the observed rules, carried routes and reverse-path filters to the desired ones.

Pure. Carried packets reach the device by rules that lead to a table:

====  ==================================================================================
P     WireGuard's and gossip's own packets, which have the mark, go on at P+6
P+1   so do direct packets
P+2   packets from certified sources look into the table
P+3   IPv6: all other packets that have a source go on at P+6
P+4   IPv6: so do direct packets whose source is not chosen yet
P+5   packets whose source is not chosen yet look into the table
P+6   nothing: the other rules of the host follow
====  ==================================================================================

An IPv6 rule with a source never applies to a packet that has none yet, not even ``from ::/128``: that
is why P+3 sorts out those that have one (net/ipv6/fib6_rules.c, fib6_rule_match).

Left to `carrying`: making the change.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network, IPv6Network
from itertools import takewhile
from typing import Literal

from wesher_agent.mesh.device import CarriedRoute, Carrying, DeviceConfig, DirectRule
from wesher_agent.netlink.route_messages import TableRoute
from wesher_agent.netlink.rule_messages import GOTO, NOP, TO_TABLE, Rule
from wesher_common.overlay import IPNetwork
from wesher_common.traffic import LAST_RULE

Unreachable = tuple[int, IPNetwork]
"""A table, and a network under an ``unreachable`` route in it."""

CarryReason = Literal[
    "RuleConflict", "TableConflict", "ReversePathFilter", "AddressNotPresent", "IPv6SwitchedOff"
]

_DIRECT, _CERTIFIED, _OTHER_SOURCES, _DIRECT_NO_SOURCE, _NO_SOURCE = 1, 2, 3, 4, 5
_NO_ADDRESS, _NO_ADDRESS6 = IPv4Network("0.0.0.0/32"), IPv6Network("::/128")
_ANY_SOURCE = (IPv6Network("::/1"), IPv6Network("8000::/1"))
_IP_PROTOCOLS = {"tcp": 6, "udp": 17}


@dataclass(frozen=True, slots=True)
class CarryProblem:
    """Why packets of the cluster are not carried as desired."""

    reason: CarryReason
    text: str


@dataclass(frozen=True, slots=True)
class ObservedCarrying:
    """The rules, routes and filters that exist for carried traffic, and what conflicts with them."""

    rules: frozenset[Rule] = frozenset()
    """Ours: with our protocol number, and not leading to a table of another mesh."""
    routes: frozenset[TableRoute] = frozenset()
    """Into the device, in any table but the main one. An MTU of 0 means that its metrics are not ours."""
    unreachable: frozenset[Unreachable] = frozenset()
    strict_links: frozenset[str] = frozenset()
    """Those of the desired loose links on which reverse-path filtering is strict, the device included."""
    loosened: frozenset[str] = frozenset()
    """Links that we made loose, as remembered."""
    conflicts: tuple[CarryProblem, ...] = ()
    """Rules in our range of priorities and routes in our table that are not ours."""

    @property
    def is_routing(self) -> bool:
        """Whether any packet is led into our table."""
        return any(rule.action == TO_TABLE for rule in self.rules)


@dataclass(frozen=True, slots=True)
class CarryChange:
    """What to change, in the order of the fields: no carried packet leaves unencrypted in between."""

    loosen: tuple[str, ...] = ()
    """Links whose reverse-path filter must not be strict."""
    stop_rules: tuple[Rule, ...] = ()
    """To remove before WireGuard is changed: nothing is to be carried any more."""
    first_rules: tuple[Rule, ...] = ()
    """To add before WireGuard is changed: they keep packets out of the table."""
    add_unreachable: tuple[Unreachable, ...] = ()
    add_routes: tuple[TableRoute, ...] = ()
    change_routes: tuple[TableRoute, ...] = ()
    """Ours with another source or MTU, to be replaced."""
    last_rules: tuple[Rule, ...] = ()
    """To add: they lead packets into the table."""
    remove_rules: tuple[Rule, ...] = ()
    remove_routes: tuple[TableRoute, ...] = ()
    remove_unreachable: tuple[Unreachable, ...] = ()
    end_rules: tuple[Rule, ...] = ()
    """To remove when nothing leads into the table any more."""
    restore: tuple[str, ...] = ()
    """Links that get back the reverse-path filter they had."""

    def __bool__(self) -> bool:
        """Tell whether there is anything to do."""
        return self != CarryChange()


NOTHING_TO_CARRY = CarryChange()
NOTHING_CARRIED = ObservedCarrying()


@dataclass(frozen=True, slots=True)
class _Wanted:
    rules: frozenset[Rule] = frozenset()
    routes: frozenset[TableRoute] = frozenset()
    unreachable: frozenset[Unreachable] = frozenset()
    loose_links: frozenset[str] = field(default=frozenset())


def plan_carrying(config: DeviceConfig, observed: ObservedCarrying) -> CarryChange:
    """Return the smallest change that brings ``observed`` to ``config``.

    With something of another program in the way, nothing is begun, and what is carried stays carried.
    """
    wanted = _wanted(config)
    change = _between(wanted, observed)
    if wanted.rules and observed.conflicts and not _serves(wanted, observed):
        return CarryChange(loosen=change.loosen, restore=change.restore)
    return change


def plan_carrying_next(before: DeviceConfig, config: DeviceConfig) -> CarryChange:
    """Return the change from what was left as ``before`` to ``config``; equal routes cost little."""
    if before.carrying == config.carrying and before.mtu == config.mtu:
        return NOTHING_TO_CARRY
    if before.carrying is not None and config.carrying is not None:
        was, becomes = before.carrying, config.carrying
        if (was.table, before.mtu) == (becomes.table, config.mtu):
            gone, new = _differing(was.routes, becomes.routes)
            return _next(_wanted(config, new), carried_as_desired(before, gone))
    return _next(_wanted(config), carried_as_desired(before))


def must_look_first(before: DeviceConfig, config: DeviceConfig) -> bool:
    """Tell whether another program's rules and routes must be listed: the table or a priority is new."""
    return _place(config.carrying) not in {None, _place(before.carrying)}


def carried_as_desired(
    config: DeviceConfig, routes: Iterable[CarriedRoute] | None = None
) -> ObservedCarrying:
    """Return what is there once ``config`` is fulfilled.

    Args:
        config: the desired state.
        routes: the only ones that matter; None for all.

    """
    wanted = _wanted(config, routes)
    return ObservedCarrying(
        rules=wanted.rules,
        routes=wanted.routes,
        unreachable=wanted.unreachable,
        loosened=wanted.loose_links,
    )


def first_priority(rule: Rule) -> int:
    """Return the first priority of the range that our rule was made for."""
    match rule.action:
        case 2:
            return rule.target - LAST_RULE
        case 3:
            return rule.priority - LAST_RULE
    from_none = rule.source in {None, _NO_ADDRESS}
    return rule.priority - (_NO_SOURCE if from_none else _CERTIFIED)


def _next(wanted: _Wanted, there: ObservedCarrying) -> CarryChange:
    return _between(wanted, replace(there, strict_links=wanted.loose_links - there.loosened))


def _place(carrying: Carrying | None) -> tuple[int, int] | None:
    return None if carrying is None or not carrying.routes else (carrying.table, carrying.priority)


def _serves(wanted: _Wanted, observed: ObservedCarrying) -> bool:
    """Tell whether packets are carried already by rules at the desired place."""
    return any(rule.action == TO_TABLE and rule in wanted.rules for rule in observed.rules)


def _wanted(config: DeviceConfig, routes: Iterable[CarriedRoute] | None = None) -> _Wanted:
    carrying = config.carrying
    if carrying is None:
        return _Wanted()
    routes = carrying.routes if routes is None else routes
    return _Wanted(
        frozenset(_rules(carrying)),
        frozenset(TableRoute(carrying.table, each.network, each.source, config.mtu) for each in routes),
        frozenset((carrying.table, each.network) for each in routes),
        frozenset({*carrying.loose_links, config.interface}),
    )


def _rules(carrying: Carrying) -> Iterator[Rule]:
    first, end = carrying.priority, carrying.priority + LAST_RULE
    for version in sorted({route.network.version for route in carrying.routes}):
        table = Rule(version, first + _NO_SOURCE, TO_TABLE, table=carrying.table)
        yield Rule(version, first, GOTO, target=end, mark=carrying.mark, mask=carrying.mark)
        yield Rule(version, end, NOP)
        if version == _NO_ADDRESS.version:
            yield replace(table, source=_NO_ADDRESS)
        else:
            yield table
            for half in _ANY_SOURCE:
                yield Rule(version, first + _OTHER_SOURCES, GOTO, target=end, source=half)
        for source in carrying.sources:
            if source.version == version:
                yield replace(table, priority=first + _CERTIFIED, source=source)
        for direct in carrying.direct:
            if all(each is None or each.version == version for each in (direct.sources, direct.destinations)):
                rule = _direct(version, first + _DIRECT, end, direct)
                if direct.sources == _NO_ADDRESS6:
                    rule = replace(rule, priority=first + _DIRECT_NO_SOURCE, source=None)
                yield rule


def _direct(version: int, priority: int, end: int, direct: DirectRule) -> Rule:
    return Rule(
        version,
        priority,
        GOTO,
        target=end,
        source=direct.sources,
        destination=direct.destinations,
        transport=_IP_PROTOCOLS[direct.transport],
        source_port=direct.source_port or 0,
        destination_port=direct.destination_port or 0,
    )


def _between(wanted: _Wanted, there: ObservedCarrying) -> CarryChange:
    missing, stale = wanted.rules - there.rules, there.rules - wanted.rules
    places = {(route.table, route.network) for route in there.routes}
    routes = _in_order(wanted.routes - there.routes)
    wanted_places = {(route.table, route.network) for route in wanted.routes}
    leading = [rule for rule in _sorted(stale) if rule.action == TO_TABLE]
    ends_all = not wanted.rules
    return CarryChange(
        loosen=tuple(sorted(there.strict_links)),
        stop_rules=tuple(leading) if ends_all else (),
        # A rule that goes on at another needs that one first.
        first_rules=tuple(
            sorted(
                (rule for rule in missing if rule.action != TO_TABLE),
                key=lambda rule: (rule.action != NOP, rule.priority, str(rule)),
            )
        ),
        add_unreachable=_tables_in_order(wanted.unreachable - there.unreachable),
        add_routes=tuple(route for route in routes if (route.table, route.network) not in places),
        change_routes=tuple(route for route in routes if (route.table, route.network) in places),
        last_rules=tuple(rule for rule in _sorted(missing) if rule.action == TO_TABLE),
        remove_rules=() if ends_all else tuple(leading),
        remove_routes=_in_order(
            route
            for route in there.routes - wanted.routes
            if (route.table, route.network) not in wanted_places
        ),
        remove_unreachable=_tables_in_order(there.unreachable - wanted.unreachable),
        end_rules=tuple(
            sorted(
                (rule for rule in stale if rule.action != TO_TABLE),
                key=lambda rule: (rule.action == NOP, rule.priority, str(rule)),
            )
        ),
        restore=tuple(sorted(there.loosened - wanted.loose_links)),
    )


def _sorted(rules: Iterable[Rule]) -> list[Rule]:
    return sorted(rules, key=lambda rule: (rule.version, rule.priority, str(rule)))


def _in_order(routes: Iterable[TableRoute]) -> tuple[TableRoute, ...]:
    return tuple(sorted(routes, key=lambda route: (route.table, *_key(route.network))))


def _tables_in_order(places: Iterable[Unreachable]) -> tuple[Unreachable, ...]:
    return tuple(sorted(places, key=lambda place: (place[0], *_key(place[1]))))


def _key(network: IPNetwork) -> tuple[int, int, int]:
    return network.version, int(network.network_address), network.prefixlen


def _differing(
    before: tuple[CarriedRoute, ...], now: tuple[CarriedRoute, ...]
) -> tuple[list[CarriedRoute], list[CarriedRoute]]:
    """Return what is only in the first, and what is only in the second."""
    # Most often few differ and both are sorted: comparing is much quicker than hashing networks.
    start = _same(zip(before, now, strict=False))
    before, now = before[start:], now[start:]
    end = _same(zip(reversed(before), reversed(now), strict=False))
    before, now = before[: len(before) - end], now[: len(now) - end]
    was, becomes = set(before), set(now)
    return [each for each in before if each not in becomes], [each for each in now if each not in was]


def _same(pairs: Iterable[tuple[CarriedRoute, CarriedRoute]]) -> int:
    """Return how many pairs are equal before the first that is not."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
