"""Whose name it is, from which address, and what to do when two disagree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address

import pytest

from wesher_agent.swim.address import Address
from wesher_agent.swim.events import (
    AccusationRefused,
    AddressChanged,
    LeaveDone,
    MemberFailed,
    MemberJoined,
    MemberLeft,
    NameConflict,
    SelfRefuted,
)
from wesher_agent.swim.members import MAX_INCARNATION
from wesher_agent.swim.profile import LAN, WAN
from wesher_agent.wire.messages import Alive, Dead, State, Suspect
from wesher_testing.virtual.mesh import VirtualAgent, VirtualMesh
from wesher_testing.virtual.network import Node, VirtualNetwork, messages_in

Make = Callable[..., VirtualNetwork]
ELSEWHERE = Address("10.7.7.7", 7946)


def alive_of(node: Node, *, incarnation: int, address: Address | None = None, meta: bytes = b"") -> Alive:
    """Return an alive message in a node's name, whoever sends it."""
    me = node.engine.me
    where = address or me.address
    return Alive(incarnation, me.name, where.packed, where.port, meta, me.versions)


def test_a_second_holder_of_a_name_stays_out_and_is_told(net: VirtualNetwork) -> None:
    a, b = net.start("a", "b")
    usurper = net.add("b", label="other b", incarnation=50)

    net.join(usurper, a)
    net.run(10.0)

    assert a.knows(b).address == b.address
    assert NameConflict(a.knows(b), usurper.address) in a.happened(NameConflict)
    assert [e.member.name for e in usurper.happened(NameConflict) if e.asked_for], "its own name is taken"
    assert {e.member.name for e in usurper.happened(NameConflict)} == {"b"}
    assert not b.happened(SelfRefuted) or a.sees(b) is State.ALIVE


def test_the_name_of_one_that_left_may_return_from_another_address(net: VirtualNetwork) -> None:
    a, b, c = net.start("a", "b", "c")
    b.act(lambda engine, now: engine.leave(now=now))
    net.run_until(lambda: b.happened(LeaveDone), deadline=5.0)
    net.crash(b)

    heir = net.add("b", incarnation=2)
    net.join(heir, a)

    net.run_until(lambda: a.sees(heir) is c.sees(heir) is State.ALIVE, deadline=2.0)
    assert c.knows(heir).address == heir.address


def test_a_dead_name_may_not_return_from_another_address_before_it_is_forgotten(net: VirtualNetwork) -> None:
    """Memberlist's default: DeadNodeReclaimTime is 0."""
    a, b = net.start("a", "b")
    net.crash(b)
    net.run_until(lambda: a.sees(b) is State.DEAD, deadline=10.0)
    heir = net.add("b", incarnation=2)

    net.join(heir, a)
    net.run(5.0)
    assert a.sees(heir) is State.DEAD
    assert a.happened(NameConflict)

    net.run_until(lambda: a.sees(heir) is None, deadline=60.0)
    net.join(heir, a)
    net.run_until(lambda: a.sees(heir) is State.ALIVE, deadline=1.0)


def test_a_dead_name_may_return_from_another_address_after_the_reclaim_time(make_net: Make) -> None:
    net = make_net(profile=replace(LAN, dead_node_reclaim_time=5.0))
    a, b = net.start("a", "b")
    net.crash(b)
    net.run_until(lambda: a.sees(b) is State.DEAD, deadline=10.0)
    heir = net.add("b", incarnation=2)

    net.join(heir, a)
    net.run(1.0)
    assert a.sees(heir) is State.DEAD
    net.run(5.0)
    net.join(heir, a)

    net.run_until(lambda: a.sees(heir) is State.ALIVE, deadline=1.0)
    assert a.knows(heir).address == heir.address


@pytest.mark.parametrize("seed", range(1, 6))
def test_a_member_that_changes_its_address_is_found_there_by_all(make_net: Make, seed: int) -> None:
    net = make_net(seed)
    nodes = net.start(*(f"n{i}" for i in range(20)))
    mover, rest = nodes[4], [*nodes[:4], *nodes[5:]]
    new = Address("10.44.0.1", 7946)

    net.move(mover, new)
    mover.act(lambda engine, now: engine.change_address(new, now=now))
    net.run_until(
        lambda: all(n.sees(mover) is State.ALIVE and n.knows(mover).address == new for n in rest),
        deadline=5.0,
    )

    [changed] = mover.happened(AddressChanged)
    assert changed.member.address == new
    assert not [e for n in rest for e in n.happened(MemberFailed)]
    net.run(30.0)
    assert all(n.sees(mover) is State.ALIVE for n in rest)


def test_the_new_address_is_told_together_with_the_leave_from_the_old(net: VirtualNetwork) -> None:
    """Whoever missed the leave would refuse the new address as another's."""
    a, b, _ = net.start("a", "b", "c")
    net.record = True

    b.act(lambda engine, now: engine.change_address(ELSEWHERE, now=now))
    net.run_until(lambda: b.happened(AddressChanged), deadline=5.0)

    told = [messages_in(data) for _, to, data in b.sent if to == a.address]
    assert [type(m) for m in told[0]] == [Dead]
    assert [Dead, Alive] in [[type(m) for m in packet] for packet in told]


def test_a_restart_at_another_address_takes_its_name_back_once_told(net: VirtualNetwork) -> None:
    """The conflict names an address that was its own; changing to the present one frees it."""
    a, b, c = net.start("a", "b", "c")
    net.crash(b)
    again = net.add("b", incarnation=9)
    net.join(again, a)
    net.run_until(
        lambda: NameConflict(again.engine.me, b.address, asked_for=True) in again.happened(NameConflict),
        deadline=1.0,
    )

    again.act(lambda engine, now: engine.change_address(again.address, now=now))

    net.run_until(lambda: again.happened(AddressChanged), deadline=5.0)
    net.run_until(
        lambda: all(n.knows(again).address == again.address and n.sees(again) is State.ALIVE for n in (a, c)),
        deadline=40.0,
    )


def test_one_that_is_told_of_a_rival_asks_it_and_believes_its_answer(
    make_mesh: Callable[..., VirtualMesh],
) -> None:
    mesh = make_mesh()
    agents = mesh.form(3)
    rival = mesh.add(agents[1].name, label="rival", incarnation=5)

    mesh.join(rival, agents[1])

    mesh.run_until(lambda: agents[1].rival == str(rival.address), deadline=2.0)
    assert all(agent.knows(agents[1]).address == agents[1].address for agent in agents)


def test_an_agent_restarted_at_another_address_is_found_there_by_all(
    make_mesh: Callable[..., VirtualMesh],
) -> None:
    """The first answers hold it to be where it was: the leave from there must come from itself."""
    mesh = make_mesh(gossip="WAN", delay=(0.02, 0.15))
    agents = mesh.form(8)
    mesh.run(5.0)
    mesh.crash(agents[5])

    mesh.boot(agents[5].name, state=agents[5].state_file)

    mesh.run_until(mesh.is_whole, deadline=30.0)


def replace_machine(mesh: VirtualMesh, former: VirtualAgent) -> VirtualAgent:
    """Boot a machine with an empty disk under a Node's name; its WesherNode says where the Node was."""
    seeds = [agent.address.ip for agent in mesh.agents if agent is not former][:2]
    heir = mesh.boot(former.name, seeds=seeds)
    heir.change(lambda member, now: member.reported_from(ip_address(former.address.ip), now=now))
    return heir


@pytest.mark.parametrize("seed", range(1, 6))
@pytest.mark.parametrize("others", [2, 7])
@pytest.mark.parametrize("away", [1.0, 25.0, 60.0, 90.0, 300.0])
def test_a_machine_that_replaces_another_under_its_name_is_found_at_once_at_its_new_address(
    make_mesh: Callable[..., VirtualMesh], away: float, others: int, seed: int
) -> None:
    """Whether the others have its name alive, suspect, failed a moment ago, or failed for long."""
    mesh = make_mesh(seed, gossip="WAN", delay=(0.02, 0.15))
    agents = mesh.form(others + 1)
    mesh.run(5.0)
    mesh.crash(agents[-1])
    mesh.run(away)
    heir = replace_machine(mesh, agents[-1])

    mesh.run_until(mesh.is_whole, deadline=10.0)
    assert heir.rival == ""
    mesh.run(60.0)
    assert mesh.is_whole()


def test_where_the_api_server_answers_late_the_former_address_is_no_rival_any_more(
    make_mesh: Callable[..., VirtualMesh],
) -> None:
    mesh = make_mesh(gossip="WAN", delay=(0.02, 0.15))
    agents = mesh.form(3)
    mesh.crash(agents[2])
    heir = mesh.boot(agents[2].name, seeds=[agents[0].address.ip])
    mesh.run_until(lambda: heir.rival == str(agents[2].address), deadline=5.0)

    heir.change(lambda member, now: member.reported_from(ip_address(agents[2].address.ip), now=now))

    assert heir.rival == ""
    mesh.run_until(mesh.is_whole, deadline=10.0)


def test_a_report_from_where_a_member_is_already_moves_nothing(
    make_mesh: Callable[..., VirtualMesh],
) -> None:
    mesh = make_mesh()
    agents = mesh.form(3)
    agents[2].change(lambda member, now: member.reported_from(ip_address(agents[2].address.ip), now=now))
    mesh.run(90.0)
    assert mesh.is_whole()
    assert not [event for agent in agents for event in agent.happened(AddressChanged)]


def test_another_machine_that_uses_the_name_is_reported_though_a_report_named_another_address(
    make_mesh: Callable[..., VirtualMesh],
) -> None:
    mesh = make_mesh()
    agents = mesh.form(3)
    rival = mesh.add(agents[1].name, label="rival", incarnation=5)
    agents[1].change(lambda member, now: member.reported_from(ip_address("10.0.0.200"), now=now))
    mesh.join(rival, agents[1])
    mesh.run_until(lambda: agents[1].rival == str(rival.address), deadline=2.0)


def test_a_leave_ends_a_move(net: VirtualNetwork) -> None:
    a, b = net.start("a", "b")

    b.act(lambda engine, now: engine.change_address(ELSEWHERE, now=now))
    b.act(lambda engine, now: engine.leave(now=now))
    b.act(lambda engine, now: engine.change_address(ELSEWHERE, now=now))
    net.run_until(lambda: b.happened(LeaveDone), deadline=5.0)
    net.run(5.0)

    assert a.sees(b) is State.LEFT
    assert not b.happened(AddressChanged)
    assert len(a.happened(MemberLeft)) == 1


def test_metadata_set_on_the_way_to_a_new_address_is_announced_there(net: VirtualNetwork) -> None:
    a, b = net.start("a", "b")

    b.act(lambda engine, now: engine.change_address(b.address, now=now))
    b.act(lambda engine, now: engine.update_meta(b"new", now=now))
    assert b.engine.me.state is State.LEFT
    net.run_until(lambda: a.sees(b) is State.ALIVE, deadline=5.0)

    net.run_until(lambda: a.knows(b).meta == b"new", deadline=1.0)


def test_a_restarted_member_denies_what_is_remembered_of_its_former_self(net: VirtualNetwork) -> None:
    """Same incarnation, other metadata: only a higher incarnation makes others listen."""
    a, b = net.start("a", "b")
    net.crash(b)
    again = net.add("b", address=b.address, meta=b"second life")

    net.join(again, a)
    net.run_until(lambda: a.knows(again).meta == b"second life", deadline=2.0)

    assert again.engine.me.incarnation == 2
    assert again.happened(SelfRefuted) == [SelfRefuted(2, "")]


def test_an_echo_of_what_we_say_ourselves_is_not_denied(net: VirtualNetwork) -> None:
    a, _ = net.start("a", "b")
    a.act(lambda engine, now: engine.inject(alive_of(a, incarnation=1), now=now))
    assert a.engine.me.incarnation == 1
    assert not a.happened(SelfRefuted)


def test_old_news_about_ourselves_is_not_denied(net: VirtualNetwork) -> None:
    a = net.add("a", incarnation=10)
    for claim in (
        alive_of(a, incarnation=9, meta=b"x"),
        Suspect(9, "a", "b"),
        Dead(9, "a", "b"),
        Dead(9, "a", "a"),
    ):
        a.act(lambda engine, now, claim=claim: engine.inject(claim, now=now))
    assert a.engine.me.incarnation == 10


@pytest.mark.parametrize(
    "claim",
    [Suspect(41, "a", "liar"), Dead(41, "a", "liar"), Dead(41, "a", "a")],
    ids=["suspect", "dead", "left"],
)
def test_every_accusation_is_denied_with_an_incarnation_above_it(
    net: VirtualNetwork, claim: Suspect | Dead
) -> None:
    a, b = net.start("a", "b")

    a.act(lambda engine, now: engine.inject(claim, now=now))

    assert a.engine.me.incarnation == 42
    assert a.engine.me.state is State.ALIVE
    assert a.engine.health_score == 1
    net.run_until(lambda: b.knows(a).incarnation == 42, deadline=1.0)


def test_a_lie_about_our_metadata_is_denied_above_the_lie(net: VirtualNetwork) -> None:
    a, b = net.start("a", "b")
    lie = alive_of(a, incarnation=7, meta=b"lie")
    b.act(lambda engine, now: engine.inject(lie, now=now))
    assert b.knows(a).meta == b"lie"

    net.run_until(lambda: b.knows(a).meta == b"", deadline=2.0)

    assert a.engine.me.incarnation == 8


def test_the_last_incarnation_but_one_can_still_be_denied(net: VirtualNetwork) -> None:
    a, b = net.start("a", "b")
    for node in (a, b):
        node.act(lambda engine, now: engine.inject(Suspect(MAX_INCARNATION - 1, "a", "liar"), now=now))

    net.run_until(lambda: b.sees(a) is State.ALIVE, deadline=2.0)

    assert b.knows(a).incarnation == a.engine.me.incarnation == MAX_INCARNATION


@pytest.mark.parametrize(
    "claim",
    [Suspect(MAX_INCARNATION, "a", "x"), Dead(MAX_INCARNATION, "a", "x"), Dead(MAX_INCARNATION, "a", "a")],
)
def test_an_accusation_that_could_not_be_denied_is_believed_by_nobody(
    net: VirtualNetwork, claim: Suspect | Dead
) -> None:
    """Memberlist wraps to 0 here, and the accused can never answer again."""
    a, b = net.start("a", "b")
    b.act(lambda engine, now: engine.inject(claim, now=now))

    net.run(20.0)

    assert b.happened(AccusationRefused) == [AccusationRefused("a", MAX_INCARNATION)]
    assert b.sees(a) is State.ALIVE
    assert a.engine.me.incarnation == b.knows(a).incarnation == 1


@pytest.mark.parametrize("state", [State.ALIVE, State.DEAD])
def test_an_alive_that_says_something_new_and_could_not_be_corrected_is_believed_by_nobody(
    net: VirtualNetwork, state: State
) -> None:
    a, b = net.start("a", "b")
    lie = alive_of(a, incarnation=MAX_INCARNATION, meta=b"lie")
    if state is State.DEAD:
        net.crash(a)
        net.run_until(lambda: b.sees(a) is State.DEAD, deadline=12.0)

    b.act(lambda engine, now: engine.inject(lie, now=now))

    assert b.happened(AccusationRefused) == [AccusationRefused("a", MAX_INCARNATION)]
    assert (b.sees(a), b.knows(a).meta, b.knows(a).incarnation) == (state, b"", 1)


def test_a_member_that_denied_its_way_to_the_last_incarnation_is_believed_there(net: VirtualNetwork) -> None:
    a, b = net.start("a", "b")
    lie = alive_of(a, incarnation=MAX_INCARNATION - 1, meta=b"lie")
    b.act(lambda engine, now: engine.inject(lie, now=now))

    net.run_until(lambda: b.knows(a).meta == b"", deadline=2.0)

    assert b.knows(a).incarnation == MAX_INCARNATION


def test_one_that_ended_at_the_last_incarnation_may_return_once_it_is_forgotten(net: VirtualNetwork) -> None:
    """It could never exceed a tombstone of that."""
    a, b = net.start("a", "b", join=False)
    net.crash(b)
    old = net.add("b", incarnation=MAX_INCARNATION)
    net.join(old, a)
    net.run_until(lambda: a.sees(old) is State.ALIVE, deadline=1.0)
    net.crash(old)
    net.run_until(lambda: a.sees(old) is None, deadline=90.0)

    again = net.add("b", incarnation=5)
    net.join(again, a)

    net.run_until(lambda: a.sees(again) is State.ALIVE, deadline=1.0)


def test_a_member_at_the_last_incarnation_can_still_be_found_dead(net: VirtualNetwork) -> None:
    a, b = net.start("a", "b", join=False)
    net.crash(b)
    old = net.add("b", incarnation=MAX_INCARNATION)
    net.join(old, a)
    net.run_until(lambda: a.sees(old) is State.ALIVE, deadline=1.0)

    net.crash(old)

    net.run_until(lambda: a.sees(old) is State.DEAD, deadline=12.0)


def test_one_driven_to_the_last_incarnation_and_sent_away_keeps_its_tunnels_and_returns(
    make_mesh: Callable[..., VirtualMesh],
) -> None:
    """Two packets by whoever has the key: it cannot deny the second, so nobody takes it for its own word."""
    mesh = make_mesh()
    agents = mesh.form(5)
    victim, others = agents[2], [*agents[:2], *agents[3:]]
    for node in agents:
        accusation = Suspect(MAX_INCARNATION - 1, victim.name, "liar")
        node.act(lambda engine, now, claim=accusation: engine.inject(claim, now=now))
    mesh.run_until(lambda: all(node.sees(victim) is State.ALIVE for node in others), deadline=2.0)

    farewell = Dead(MAX_INCARNATION, victim.name, victim.name)
    others[0].act(lambda engine, now: engine.inject(farewell, now=now))
    mesh.run_until(lambda: all(node.sees(victim) is State.DEAD for node in others), deadline=2.0)
    mesh.run(5.0)

    assert all(victim.name in node.expects for node in others)
    mesh.run_until(lambda: all(node.sees(victim) is State.ALIVE for node in others), deadline=60.0)
    assert not [event for node in others for event in node.happened(MemberLeft)]


def test_who_is_said_to_have_left_and_has_not_denies_it_at_once(make_net: Make) -> None:
    """Nobody would gossip to it any more, nor probe it: it would learn of it by chance."""
    net = make_net(profile=WAN)
    nodes = net.start("a", "b", "c", "d")
    b, others = nodes[1], [nodes[0], *nodes[2:]]
    net.run(10.0)

    for node in others:
        node.act(lambda engine, now: engine.inject(Dead(1, "b", "b"), now=now))
    assert all(node.sees(b) is State.LEFT for node in others)

    net.run_until(lambda: all(node.sees(b) is State.ALIVE for node in others), deadline=0.6)


def test_a_member_that_returns_after_its_death_is_reported_as_joined(net: VirtualNetwork) -> None:
    a, b = net.start("a", "b")
    net.crash(b)
    net.run_until(lambda: a.sees(b) is State.DEAD, deadline=10.0)
    again = net.add("b", address=b.address, incarnation=5)

    net.join(again, a)
    net.run_until(lambda: a.sees(again) is State.ALIVE, deadline=1.0)

    kinds = [type(e) for e in a.events if isinstance(e, (MemberJoined, MemberFailed))]
    assert kinds == [MemberJoined, MemberFailed, MemberJoined]


def test_a_member_held_for_dead_that_another_has_met_is_asked_and_denies(net: VirtualNetwork) -> None:
    """The claim alone is not believed, since it may be a replay; the member's own answer is."""
    a, b = net.start("a", "b")
    net.cut(b)
    net.run_until(lambda: a.sees(b) is State.DEAD, deadline=12.0)
    net.heal()
    claim = alive_of(b, incarnation=1)

    a.act(lambda engine, now: engine.inject(claim, now=now))
    assert a.sees(b) is State.DEAD
    net.run_until(lambda: a.sees(b) is State.ALIVE, deadline=0.5)

    assert b.engine.me.incarnation == 2


def test_one_that_is_dead_is_asked_once_a_second_however_often_its_old_news_is_replayed(
    net: VirtualNetwork,
) -> None:
    a, b = net.start("a", "b")
    claim = alive_of(b, incarnation=1)
    net.crash(b)
    net.run_until(lambda: a.sees(b) is State.DEAD, deadline=12.0)
    net.run(3.0)
    net.record = True

    for _ in range(30):
        a.act(lambda engine, now: engine.inject(claim, now=now))
        net.run(0.1)

    assert a.sees(b) is State.DEAD
    asked = [m for _, to, data in a.sent for m in messages_in(data) if to == b.address]
    assert asked == [Suspect(1, "b", "a")] * 3
