"""What is watched in every simulation is seen when it breaks: each by a fault made on purpose."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import count
from math import inf
from typing import Any

import pytest

from wesher_agent.mesh import member
from wesher_agent.mesh.desired import Desired, LocalPeer, desired
from wesher_agent.mesh.dialling import DialSchedule, Target
from wesher_agent.mesh.nodemeta import NodeMeta
from wesher_agent.mesh.roster import Roster, RosterMember
from wesher_agent.swim.address import Address
from wesher_agent.swim.events import Event, MemberForgotten
from wesher_agent.swim.members import Member
from wesher_agent.swim.membership import Membership
from wesher_agent.swim.timers import Kind, Timer, Timers
from wesher_agent.wire.messages import Alive, Dead, State, Suspect
from wesher_testing.virtual.invariants import REST
from wesher_testing.virtual.members import private_key
from wesher_testing.virtual.mesh import VirtualMesh
from wesher_testing.virtual.network import VirtualNetwork

MakeMesh = Callable[..., VirtualMesh]
MakeNet = Callable[..., VirtualNetwork]


def resigned(self: Roster, *, now: float, most: int) -> list[Target]:
    """Stand in for `Roster.due`: nobody that failed is looked for."""
    return []


def test_an_incarnation_that_goes_back_is_seen(make_net: MakeNet, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = Membership.suspect

    def forgetful(self: Membership, claim: Suspect, *, now: float) -> None:
        judge(self, claim, now=now)
        member = self._table.get(claim.node)
        if member is not None:
            self._table.put(replace(member, incarnation=member.incarnation - 1))

    net = make_net()
    _, b, _ = net.start("a", "b", "c")
    monkeypatch.setattr(Membership, "suspect", forgetful)
    net.cut(b)

    with pytest.raises(AssertionError, match=r"went back from incarnation 1 of \w to 0"):
        net.run(10.0)


def test_a_member_lost_for_good_is_seen(make_mesh: MakeMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = make_mesh()
    agents = mesh.form(4)
    monkeypatch.setattr(Roster, "due", resigned)
    mesh.partition(agents[:2], agents[2:])
    mesh.run(200.0)
    mesh.heal()
    mesh.run(REST - 10.0)

    with pytest.raises(AssertionError, match=r"has lost n0\d, which is there, since \d+ s"):
        mesh.run(20.0)


def test_a_member_lost_for_good_is_seen_while_another_comes_and_goes(
    make_mesh: MakeMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh = make_mesh()
    agents = mesh.form(5)
    monkeypatch.setattr(Roster, "due", resigned)
    mesh.partition(agents[:2], agents[2:])
    mesh.run(200.0)
    mesh.heal()

    def nap() -> None:
        mesh.pause(agents[0], 6.0)
        mesh.at(mesh.now + 10.0, nap)

    nap()
    with pytest.raises(AssertionError, match=r"has lost n0[1-4], which is there, since \d+ s"):
        mesh.run(REST + 10.0)


def test_one_that_has_left_is_missed_by_nobody(make_mesh: MakeMesh) -> None:
    mesh = make_mesh()
    agents = mesh.form(4)
    mesh.run(REST)

    agents[3].leave()
    mesh.run(REST + 10.0)

    assert agents[3].has_left
    assert {agent.sees(agents[3]) for agent in agents[:3]} <= {State.LEFT, None}


def test_one_that_is_back_a_moment_after_each_false_death_is_not_lost(make_mesh: MakeMesh) -> None:
    """Though each look finds it missing."""
    mesh = make_mesh()
    a, b, _ = mesh.form(3)

    for _ in range(int(REST) + 10):
        mesh.run(0.99)
        lie = Dead(b.engine.me.incarnation, b.name, "liar")
        a.act(lambda engine, now, lie=lie: engine.inject(lie, now=now))
        assert a.sees(b) is State.DEAD
        mesh.run(0.01)

    mesh.run_until(lambda: a.sees(b) is State.ALIVE, deadline=2.0)


def test_a_view_that_does_not_follow_is_seen(make_mesh: MakeMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    believe = Membership._believe_alive

    def stubborn(self: Membership, claim: Alive, address: Address, known: Member | None, now: float) -> None:
        meta = claim.meta if known is None else known.meta
        believe(self, replace(claim, meta=meta), address, known, now)

    mesh = make_mesh()
    agents = mesh.form(3)
    monkeypatch.setattr(Membership, "_believe_alive", stubborn)
    moved = replace(NodeMeta.decode(agents[0].engine.me.meta), location="elsewhere").encode()
    agents[0].act(lambda engine, now: engine.update_meta(moved, now=now))

    with pytest.raises(AssertionError, match="holds n00 for "):
        mesh.run(REST + 10.0)


def test_two_owners_of_an_address_are_seen(make_mesh: MakeMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    def undecided(own: LocalPeer, members: Iterable[RosterMember], *former: Any) -> Desired:
        wish = desired(own, members, *former)
        rivals = [replace(peer, public_key=private_key("rival").public) for peer in wish.device.peers]
        return replace(wish, device=replace(wish.device, peers=(*wish.device.peers, *rivals)))

    monkeypatch.setattr(member, "desired", undecided)

    with pytest.raises(AssertionError, match="programs two owners of one address"):
        make_mesh().form(3)


def test_memory_that_grows_is_seen(make_net: MakeNet, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = count()

    def hoarding(self: Timers, timer: Timer) -> None:
        self._due.pop(timer, None)
        self.set(Timer(Kind.RELAY, next(numbers)), inf)

    monkeypatch.setattr(Timers, "cancel", hoarding)
    net = make_net()
    net.start("a", "b", "c")

    with pytest.raises(AssertionError, match="deadlines, at most"):
        net.run(1000.0)


def test_dial_plans_that_are_never_dropped_are_seen(
    make_mesh: MakeMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    want = DialSchedule.want

    def hoarding(self: DialSchedule, caps: Mapping[Target, float], *, alive: int, now: float) -> None:
        former = {target: plan.cap for target, plan in self._plans.items()}
        want(self, {**former, **caps}, alive=alive, now=now)

    monkeypatch.setattr(DialSchedule, "want", hoarding)
    mesh = make_mesh()
    agent = mesh.boot("a", seeds=["10.0.8.1"])
    mesh.run(1.0)
    agent.set_seeds(["10.0.8.2"])

    with pytest.raises(AssertionError, match="a keeps 2 dial plans, at most 1 are due"):
        mesh.run(1.0)


def test_members_that_gossip_forgot_and_the_roster_did_not_are_seen(
    make_mesh: MakeMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    observe = Roster.observe

    def retentive(self: Roster, event: Event, *, now: float) -> bool:
        return not isinstance(event, MemberForgotten) and observe(self, event, now=now)

    monkeypatch.setattr(Roster, "observe", retentive)
    mesh = make_mesh()
    agents = mesh.form(3)
    agents[2].leave()
    mesh.run_until(lambda: agents[2].has_left, deadline=15.0)
    mesh.crash(agents[2])

    with pytest.raises(AssertionError, match="keeps 2 members that have not failed, at most 1 are due"):
        mesh.run(120.0)
