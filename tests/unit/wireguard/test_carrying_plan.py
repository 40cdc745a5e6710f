"""The smallest change of rules, carried routes and filters, and its order."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

import pytest

from wesher_agent.mesh.device import CarriedRoute, Carrying, DeviceConfig, DirectRule
from wesher_agent.netlink.route_messages import TableRoute
from wesher_agent.netlink.rule_messages import GOTO, NOP, TO_TABLE, Rule
from wesher_agent.wireguard.carrying_plan import (
    NOTHING_CARRIED,
    NOTHING_TO_CARRY,
    CarryChange,
    CarryProblem,
    carried_as_desired,
    first_priority,
    must_look_first,
    plan_carrying,
    plan_carrying_next,
)
from wesher_common.keys import WireGuardPrivateKey

NODE, NODE6 = IPv4Address("192.0.2.1"), IPv6Address("2001:db8::1")
ROUTE = CarriedRoute(IPv4Network("10.2.0.0/16"), NODE)
ROUTE6 = CarriedRoute(IPv6Network("2001:db8:2::/64"), NODE6)
CONFLICT = CarryProblem("RuleConflict", "taken")


def carrying(**other: Any) -> Carrying:
    values: dict[str, Any] = {
        "mark": 0x80,
        "table": 1870,
        "priority": 1870,
        "routes": (ROUTE,),
        "sources": (IPv4Network("192.0.2.1/32"),),
        "loose_links": ("eth0",),
    }
    return Carrying(**{**values, **other})


def config(what: Carrying | None, *, mtu: int = 1420) -> DeviceConfig:
    return DeviceConfig(
        interface="wgoverlay",
        private_key=WireGuardPrivateKey.from_random(bytes(range(32))),
        listen_port=51820,
        address=IPv4Address("10.189.0.1"),
        overlay=IPv4Network("10.189.0.0/16"),
        mtu=mtu,
        peers=(),
        unreachable=(),
        carrying=what,
    )


FULL = config(carrying())
MARKED = Rule(4, 1870, GOTO, target=1876, mark=0x80, mask=0x80)
END = Rule(4, 1876, NOP)
FROM_NODE = Rule(4, 1872, TO_TABLE, table=1870, source=IPv4Network("192.0.2.1/32"))
FROM_NONE = Rule(4, 1875, TO_TABLE, table=1870, source=IPv4Network("0.0.0.0/32"))
INTO = TableRoute(1870, ROUTE.network, NODE, 1420)


def test_packets_are_kept_out_and_in_before_any_is_led_into_the_table() -> None:
    assert plan_carrying(FULL, NOTHING_CARRIED) == CarryChange(
        first_rules=(END, MARKED),
        add_unreachable=((1870, ROUTE.network),),
        add_routes=(INTO,),
        last_rules=(FROM_NODE, FROM_NONE),
    )


def test_nothing_is_led_into_the_table_any_more_before_the_rest_is_removed() -> None:
    assert plan_carrying(config(None), carried_as_desired(FULL)) == CarryChange(
        stop_rules=(FROM_NODE, FROM_NONE),
        remove_routes=(INTO,),
        remove_unreachable=((1870, ROUTE.network),),
        end_rules=(MARKED, END),
        restore=("eth0", "wgoverlay"),
    )


def test_accepting_loosens_links_and_adds_no_rule() -> None:
    accepting = config(carrying(routes=(), sources=()))
    observed = replace(NOTHING_CARRIED, strict_links=frozenset({"eth0", "wgoverlay"}))
    assert plan_carrying(accepting, observed) == CarryChange(loosen=("eth0", "wgoverlay"))
    assert plan_carrying_next(config(None), accepting) == CarryChange(loosen=("eth0", "wgoverlay"))


def test_packets_of_ipv6_without_a_source_are_those_that_have_none_in_either_half() -> None:
    change = plan_carrying(config(carrying(routes=(ROUTE6,), sources=())), NOTHING_CARRIED)
    assert change.last_rules == (Rule(6, 1875, TO_TABLE, table=1870),)
    halves = [rule for rule in change.first_rules if rule.priority == 1873]
    assert [(str(rule.source), rule.action, rule.target) for rule in halves] == [
        ("8000::/1", GOTO, 1876),
        ("::/1", GOTO, 1876),
    ]


def test_a_direct_port_without_addresses_is_direct_in_each_family_that_is_carried() -> None:
    both = carrying(
        routes=(ROUTE, ROUTE6),
        direct=(
            DirectRule("tcp", destination_port=2379),
            DirectRule("udp", sources=IPv4Network("192.0.2.9/32"), source_port=53),
        ),
    )
    direct = {rule for rule in carried_as_desired(config(both)).rules if rule.priority == 1871}
    assert direct == {
        Rule(4, 1871, GOTO, target=1876, transport=6, destination_port=2379),
        Rule(6, 1871, GOTO, target=1876, transport=6, destination_port=2379),
        Rule(
            4,
            1871,
            GOTO,
            target=1876,
            source=IPv4Network("192.0.2.9/32"),
            transport=17,
            source_port=53,
        ),
    }


def test_a_direct_packet_of_ipv6_without_a_source_is_sorted_out_where_only_those_are_left() -> None:
    """No rule with the source ``::/128`` ever applies."""
    server = IPv6Network("2001:db8:2::6/128")
    both = tuple(
        DirectRule("tcp", sources, server, destination_port=6443)
        for sources in (IPv6Network("::/128"), IPv6Network("2001:db8::1/128"))
    )
    found = carried_as_desired(config(carrying(routes=(ROUTE6,), sources=(), direct=both))).rules
    rule = Rule(6, 1874, GOTO, target=1876, destination=server, transport=6, destination_port=6443)
    direct = {each for each in found if each.transport}
    assert direct == {rule, replace(rule, priority=1871, source=both[1].sources)}


@pytest.mark.parametrize("other", [{"table": 5}, {"priority": 30}, {"mark": 4}], ids=str)
def test_what_carries_is_removed_after_what_carries_next(other: dict[str, int]) -> None:
    after = config(carrying(**other))
    change = plan_carrying_next(FULL, after)
    assert change == plan_carrying(after, carried_as_desired(FULL))
    assert not change.stop_rules
    left = {*carried_as_desired(FULL).rules, *change.first_rules, *change.last_rules}
    assert left - {*change.remove_rules, *change.end_rules} == carried_as_desired(after).rules


def test_another_mtu_or_source_replaces_the_route_in_one_step() -> None:
    assert plan_carrying_next(FULL, config(carrying(), mtu=1300)) == CarryChange(
        change_routes=(replace(INTO, mtu=1300),)
    )
    moved = CarriedRoute(ROUTE.network, None)
    assert plan_carrying_next(FULL, config(carrying(routes=(moved,)))) == CarryChange(
        change_routes=(replace(INTO, source=None),)
    )


def test_only_the_routes_that_differ_are_changed() -> None:
    many = tuple(CarriedRoute(IPv4Network((number << 8, 24)), NODE) for number in range(1, 500))
    before, after = config(carrying(routes=many[:-1])), config(carrying(routes=(*many[:7], *many[8:])))
    change = plan_carrying_next(before, after)
    assert change == plan_carrying(after, carried_as_desired(before))
    assert [route.network for route in change.add_routes] == [many[-1].network]
    assert [route.network for route in change.remove_routes] == [many[7].network]
    assert plan_carrying_next(after, after) == NOTHING_TO_CARRY


def test_with_a_conflict_nothing_is_begun_and_what_is_carried_stays() -> None:
    taken = replace(NOTHING_CARRIED, conflicts=(CONFLICT,))
    assert plan_carrying(FULL, taken) == NOTHING_TO_CARRY
    carried = replace(carried_as_desired(FULL), conflicts=(CONFLICT,))
    assert plan_carrying(FULL, carried) == NOTHING_TO_CARRY
    damaged = replace(carried, rules=carried.rules - {MARKED})
    assert plan_carrying(FULL, damaged).first_rules == (MARKED,)
    elsewhere = config(carrying(priority=30))
    assert plan_carrying(elsewhere, carried) == NOTHING_TO_CARRY


def test_each_rule_shows_the_range_that_it_is_of() -> None:
    both = config(carrying(routes=(ROUTE, ROUTE6), direct=(DirectRule("tcp", source_port=1),)))
    assert {first_priority(rule) for rule in carried_as_desired(both).rules} == {1870}


def test_other_programs_are_looked_at_when_the_place_is_new() -> None:
    assert must_look_first(config(None), FULL)
    assert must_look_first(config(carrying(routes=())), FULL)
    assert must_look_first(FULL, config(carrying(table=5)))
    assert not must_look_first(FULL, config(carrying(routes=(ROUTE, ROUTE6))))
    assert not must_look_first(FULL, config(None))
