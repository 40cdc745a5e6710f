"""What is watched in every simulation is seen when it breaks: each by a fault made on purpose."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import count
from math import inf

import pytest

from wesher_agent.mesh.desired import OwnNode, Wish, desired
from wesher_agent.mesh.dialling import Target
from wesher_agent.mesh.nodemeta import NodeMeta
from wesher_agent.mesh.roster import Roster, RosterMember
from wesher_agent.swim.address import Address
from wesher_agent.swim.members import Member
from wesher_agent.swim.membership import Membership
from wesher_agent.swim.timers import Kind, Timer, Timers
from wesher_agent.wire.messages import Alive, Suspect
from wesher_testing import virtual_mesh
from wesher_testing.members import private_key
from wesher_testing.virtual_invariants import REST
from wesher_testing.virtual_mesh import VirtualMesh
from wesher_testing.virtual_network import VirtualNetwork

MakeMesh = Callable[..., VirtualMesh]
MakeNet = Callable[..., VirtualNetwork]


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
    def resigned(self: Roster, *, now: float) -> list[Target]:
        return []

    mesh = make_mesh()
    agents = mesh.form(4)
    monkeypatch.setattr(Roster, "due", resigned)
    mesh.partition(agents[:2], agents[2:])
    mesh.run(200.0)
    mesh.heal()
    mesh.run(REST - 10.0)

    with pytest.raises(AssertionError, match=r"has lost n0\d, which is there"):
        mesh.run(20.0)


def test_a_view_that_does_not_follow_is_seen(make_mesh: MakeMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    believe = Membership._believe_alive

    def stubborn(self: Membership, known: Member, claim: Alive, address: Address, now: float) -> None:
        believe(self, known, replace(claim, meta=known.meta), address, now)

    mesh = make_mesh()
    agents = mesh.form(3)
    monkeypatch.setattr(Membership, "_believe_alive", stubborn)
    moved = replace(NodeMeta.decode(agents[0].engine.me.meta), location="elsewhere").encode()
    agents[0].act(lambda engine, now: engine.update_meta(moved, now=now))

    with pytest.raises(AssertionError, match="holds n00 for "):
        mesh.run(REST + 10.0)


def test_two_owners_of_an_address_are_seen(make_mesh: MakeMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    def undecided(own: OwnNode, members: Iterable[RosterMember]) -> Wish:
        wish = desired(own, members)
        rivals = [replace(peer, public_key=private_key("rival").public) for peer in wish.device.peers]
        return replace(wish, device=replace(wish.device, peers=(*wish.device.peers, *rivals)))

    monkeypatch.setattr(virtual_mesh, "desired", undecided)

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
