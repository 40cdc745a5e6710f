"""The way back from the last incarnation, to which whoever has the key can drive a member."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from wesher_agent.mesh.nodemeta import NodeMeta
from wesher_agent.swim.events import (
    AccusationRefused,
    AddressChanged,
    BegunAnew,
    LeaveDone,
    MemberFailed,
    MemberLeft,
)
from wesher_agent.swim.members import MAX_INCARNATION
from wesher_agent.wire.messages import Alive, Dead, State, Suspect, Versions
from wesher_testing.virtual.mesh import VirtualAgent, VirtualMesh
from wesher_testing.virtual.network import PORT, Node, VirtualNetwork


def at_the_last(net: VirtualNetwork) -> tuple[Node, Node]:
    """Return a member that was made to deny its way to the last incarnation, and one that sees it there."""
    a, b = net.start("a", "b")
    b.act(lambda engine, now: engine.inject(Suspect(MAX_INCARNATION - 1, "a", "liar"), now=now))
    net.run_until(lambda: b.sees(a) is State.ALIVE, deadline=2.0)
    assert b.knows(a).incarnation == a.engine.me.incarnation == MAX_INCARNATION
    return a, b


@pytest.mark.parametrize(
    "claim",
    [
        Suspect(MAX_INCARNATION, "a", "x"),
        Dead(MAX_INCARNATION, "a", "x"),
        Alive(MAX_INCARNATION, "a", bytes([10, 0, 0, 1]), PORT, b"lie", Versions()),
    ],
    ids=["suspect", "dead", "alive"],
)
def test_what_is_said_of_us_and_leaves_no_room_for_a_denial_makes_us_begin_anew(
    net: VirtualNetwork, claim: Suspect | Dead | Alive
) -> None:
    """Members of another kind may have believed it. Ours see nobody go, since they did not."""
    a, b = net.start("a", "b")

    a.act(lambda engine, now: engine.inject(claim, now=now))
    assert a.happened(AccusationRefused) == [AccusationRefused("a", MAX_INCARNATION)]
    net.run_until(lambda: b.knows(a).incarnation == 2, deadline=3.0)

    assert a.happened(BegunAnew) == [BegunAnew(2)]
    assert a.engine.me.incarnation == 2
    assert not b.happened(MemberFailed)


def test_we_begin_anew_once_a_minute_at_most(net: VirtualNetwork) -> None:
    a, b = net.start("a", "b")

    for _ in range(110):
        a.act(lambda engine, now: engine.inject(Dead(MAX_INCARNATION, "a", "x"), now=now))
        net.run(1.0)

    assert a.happened(BegunAnew) == [BegunAnew(2), BegunAnew(3)]
    assert b.sees(a) is State.ALIVE


def test_what_we_say_from_the_last_incarnation_is_heard_from_another(net: VirtualNetwork) -> None:
    a, b = at_the_last(net)

    a.act(lambda engine, now: engine.update_meta(b"new", now=now))
    net.run_until(lambda: b.knows(a).meta == b"new", deadline=3.0)

    assert b.sees(a) is State.ALIVE
    assert b.knows(a).incarnation == a.engine.me.incarnation == 1


def test_one_at_the_last_incarnation_can_move(net: VirtualNetwork) -> None:
    """Nobody believes there that it has left, so the new address waits until the old one is forgotten."""
    a, b = at_the_last(net)
    net.move(a, net.new_address())

    a.act(lambda engine, now: engine.change_address(a.address, now=now))

    net.run_until(lambda: b.sees(a) is State.ALIVE and b.knows(a).address == a.address, deadline=100.0)
    assert [event.member.address for event in a.happened(AddressChanged)] == [a.address]


@pytest.mark.parametrize("away", [False, True])
def test_one_at_the_last_incarnation_can_leave(net: VirtualNetwork, *, away: bool) -> None:
    """Even while it is about to return from there."""
    a, b = at_the_last(net)
    if away:
        a.act(lambda engine, now: engine.inject(Suspect(MAX_INCARNATION, "a", "x"), now=now))
        net.run_until(lambda: b.sees(a) is State.DEAD, deadline=1.0)

    a.act(lambda engine, now: engine.leave(now=now))

    net.run_until(lambda: a.happened(LeaveDone), deadline=3.0)
    assert b.sees(a) is State.LEFT


def test_one_gone_at_the_last_incarnation_is_not_brought_back_by_what_put_it_there(
    net: VirtualNetwork,
) -> None:
    a, b = at_the_last(net)
    net.crash(a)
    net.run_until(lambda: b.sees(a) is State.DEAD, deadline=12.0)

    me = a.engine.me
    claim = Alive(MAX_INCARNATION, "a", me.addr, me.address.port, me.meta, me.versions)
    b.act(lambda engine, now: engine.inject(claim, now=now))

    assert b.sees(a) is State.DEAD


def suspected(net: VirtualMesh, victim: VirtualAgent) -> None:
    """Make a member deny its way to the last incarnation, and then hold it for suspect there."""
    for at in (MAX_INCARNATION - 1, MAX_INCARNATION):
        for agent in net.agents:
            accusation = Suspect(at, victim.name, "liar")
            agent.act(lambda engine, now, claim=accusation: engine.inject(claim, now=now))
        net.run(1.0)


def impersonated(net: VirtualMesh, victim: VirtualAgent) -> None:
    """Say at the last incarnation what a member says of itself."""
    me = victim.engine.me
    claim = Alive(MAX_INCARNATION, me.name, me.addr, me.address.port, me.meta, me.versions)
    for agent in net.agents:
        agent.act(lambda engine, now: engine.inject(claim, now=now))


@pytest.mark.parametrize("poison", [suspected, impersonated])
@pytest.mark.parametrize("gossip", ["LAN", "WAN"])
@pytest.mark.parametrize("restarts", [False, True])
def test_one_driven_to_the_last_incarnation_is_believed_again_and_nobody_loses_its_tunnel(
    make_mesh: Callable[..., VirtualMesh],
    poison: Callable[[VirtualMesh, VirtualAgent], None],
    gossip: str,
    *,
    restarts: bool,
) -> None:
    mesh = make_mesh(gossip=gossip)
    agents = mesh.form(6)
    victim, others = agents[3], [*agents[:3], *agents[4:]]
    for pause in (0.0, 20.0, 20.0):
        mesh.run(pause)
        poison(mesh, victim)
        assert MAX_INCARNATION in {agent.knows(victim).incarnation for agent in others}
        assert all(victim.name in agent.expects for agent in others)
    if restarts:
        mesh.crash(victim)
        victim = mesh.boot(victim.name, seeds=["10.0.0.1"], address=victim.address, state=victim.state_file)
        assert victim.engine.me.incarnation < MAX_INCARNATION
    start = mesh.now

    def is_well() -> bool:
        assert all(victim.name in agent.expects for agent in others)
        return mesh.is_whole() and not any(
            agent.knows(victim).incarnation == MAX_INCARNATION for agent in mesh.agents
        )

    mesh.run_until(is_well, deadline=180.0)
    new = replace(NodeMeta.decode(victim.engine.me.meta), location="elsewhere").encode()
    victim.act(lambda engine, now: engine.update_meta(new, now=now))
    mesh.run_until(
        lambda: is_well() and all(agent.knows(victim).meta == new for agent in others),
        deadline=start + 180.0 - mesh.now,
    )
    mesh.figure(f"driven to the last incarnation, believed again after {mesh.now - start:.1f} s")
    assert not [event for agent in others for event in agent.happened(MemberLeft)]
