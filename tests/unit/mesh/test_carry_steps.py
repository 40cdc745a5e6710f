"""When a node begins to send from its own networks, and what a restart remembers of it."""

from __future__ import annotations

from ipaddress import ip_network
from math import inf

import pytest

from wesher_agent.mesh.carry_steps import CARRY_AFTER, CarrySteps
from wesher_agent.mesh.device import CarriedRoute, Carrying
from wesher_agent.mesh.events import TrafficCarried, TrafficNotCarried
from wesher_common.traffic import NO_TRAFFIC, TrafficSettings

A, B = ip_network("192.0.2.1/32"), ip_network("10.244.1.0/24")
ON = TrafficSettings(nodes="All")


def announced(steps: CarrySteps, *networks: object, at: float, is_certified: bool = True) -> None:
    steps.announced([network for network in (A, B) if network in networks], is_certified=is_certified, now=at)


def test_a_network_is_sent_from_some_time_after_its_announcement() -> None:
    steps = CarrySteps(())
    assert steps.next_timer == inf
    announced(steps, A, at=100.0)
    announced(steps, A, at=110.0)
    assert (steps.known, steps.next_timer) == (frozenset(), 100.0 + CARRY_AFTER)
    steps.handle_timer(now=100.0 + CARRY_AFTER)
    assert (steps.known, steps.next_timer) == ({A}, inf)


def test_each_network_has_its_own_time() -> None:
    steps = CarrySteps(())
    announced(steps, A, at=0.0)
    announced(steps, A, B, at=10.0)
    steps.handle_timer(now=CARRY_AFTER)
    assert (steps.known, steps.next_timer) == ({A}, 10.0 + CARRY_AFTER)
    steps.handle_timer(now=10.0 + CARRY_AFTER)
    assert steps.known == {A, B}


def test_a_restart_goes_on_with_what_was_known_and_is_still_certified() -> None:
    steps = CarrySteps({A, B})
    assert steps.known == {A, B}
    announced(steps, A, at=0.0)
    assert (steps.known, steps.next_timer) == ({A}, inf)


def test_a_network_that_went_and_came_back_waits_again() -> None:
    steps = CarrySteps({A})
    announced(steps, B, at=0.0)
    announced(steps, A, B, at=5.0)
    assert steps.known == frozenset()
    steps.handle_timer(now=CARRY_AFTER)
    assert steps.known == {B}


def test_where_the_certificate_does_not_count_nothing_begins_and_nothing_ends() -> None:
    steps = CarrySteps({A})
    announced(steps, A, B, at=0.0, is_certified=False)
    assert (steps.known, steps.next_timer) == ({A}, inf)
    announced(steps, A, B, at=50.0)
    assert steps.next_timer == 50.0 + CARRY_AFTER


def carrying(routes: int) -> Carrying:
    networks = [ip_network(f"192.0.2.{number}/32") for number in range(routes)]
    return Carrying(
        mark=1, table=300, priority=300, routes=tuple(CarriedRoute(network, None) for network in networks)
    )


@pytest.mark.parametrize(("first", "then"), [(None, 2), (0, 2)])
def test_an_administrator_is_told_when_it_begins_and_ends(first: int | None, then: int) -> None:
    steps = CarrySteps(())
    told = []
    for routes in (first, then, then + 1, 0, None):
        steps.applying(ON, None if routes is None else carrying(routes))
        told += steps.applied()
    assert told == [TrafficCarried(then), TrafficNotCarried()]


def test_what_is_carried_is_what_was_applied() -> None:
    steps = CarrySteps({A})
    steps.applying(ON, carrying(3))
    assert (steps.view.settings, steps.view.carrying, steps.view.routed) == (NO_TRAFFIC, None, 0)
    steps.applied()
    assert (steps.view.settings, steps.view.routed, steps.view.known) == (ON, 3, {A})
