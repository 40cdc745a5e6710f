"""Everything that was ever said is said again: nobody dead comes back by it, and nobody alive is lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from wesher_agent.swim.address import Address
from wesher_agent.swim.events import (
    LeaveDone,
    MemberFailed,
    MemberJoined,
    MemberLeft,
    MemberSuspected,
    NameConflict,
    OutdatedAlive,
)
from wesher_agent.swim.profile import DEFAULT_LIMITS
from wesher_agent.swim.tombstones import Tombstone
from wesher_agent.wire.messages import AckResp, Alive, State
from wesher_common.mesh_document import GossipProfile
from wesher_testing.virtual.mesh import SEALED, VirtualAgent, VirtualMesh
from wesher_testing.virtual.network import PORT, Node, VirtualNetwork, messages_in

Make = Callable[..., VirtualMesh]
MALLORY = Address("10.66.6.6", PORT)
GONE = {"n03", "n04"}


@dataclass
class Recorded:
    """A mesh of which two members are gone, and every packet and request of its life so far."""

    mesh: VirtualMesh
    nodes: list[Node] = field(default_factory=list)
    """All that ever ran."""

    @property
    def living(self) -> list[VirtualAgent]:
        """The members that run."""
        return self.mesh.agents

    @property
    def is_settled(self) -> bool:
        """Whether the living know each other, and nobody else."""
        names = {agent.name for agent in self.living}
        return all(agent.alive == names for agent in self.living)

    def say_all_again(self) -> None:
        """Send all of it to every living member, within a few seconds."""
        packets = sorted({(time, data) for node in self.nodes for time, _, data in node.sent})
        requests = sorted({(time, data) for node in self.nodes for time, _, data in node.asked})
        for number, (_, data) in enumerate(packets):
            for agent in self.living:
                self.mesh.inject(agent, data, MALLORY)
            if number % 500 == 0:
                self.mesh.run(0.1)
        for _, data in requests:
            for agent in self.living:
                stream = agent.engine.stream_accepted(MALLORY, now=self.mesh.now)
                assert stream is not None
                agent.act(lambda e, now, s=stream, d=data: e.stream_received(s, d, now=now))
                self.mesh.run(0.001)

    def restart(self, *, state: bool | str) -> None:
        """End all and start them anew, with what they saved, without, or one with and all others without."""
        agents = self.living
        self.mesh.run(2.0)
        for agent in agents:
            self.mesh.crash(agent)
        self.mesh.run(3.0)
        for agent in agents:
            kept = agent.state_file if state is True or state == agent.name else None
            again = self.mesh.boot(agent.name, seeds=["10.0.0.1"], address=agent.address, state=kept)
            self.nodes.append(again)
        self.mesh.run_until(lambda: self.is_settled, deadline=60.0)

    def harm(self) -> list[object]:
        """Return what happened to the living: returns of the dead, ends and lost tunnels of each other."""
        living = {agent.name for agent in self.living}
        reported = [
            event
            for agent in self.living
            for event in agent.events
            if (isinstance(event, MemberJoined) and event.member.name not in living)
            or (isinstance(event, MemberFailed | MemberLeft) and event.member.name in living)
        ]
        return [
            *reported,
            *((agent.name, "no tunnel to", name) for agent in self.living for name in agent.lost_tunnels),
        ]

    def from_now_on(self) -> None:
        """Let `harm` tell of what comes only."""
        for agent in self.living:
            agent.events.clear()
            agent.lost_tunnels.clear()


def record(mesh: VirtualMesh) -> Recorded:
    """Form a mesh in which one has moved, one was restarted, and just now one left and one crashed."""
    mesh.record = True
    agents = mesh.form(6)
    story = Recorded(mesh, [*agents])
    mover, restarted, leaver, victim = agents[1], agents[2], agents[3], agents[4]
    mesh.move(mover, Address("10.0.7.7", PORT))
    mover.moved()
    mesh.run(3.0)
    mesh.crash(restarted)
    story.nodes.append(mesh.boot(restarted.name, address=restarted.address, state=restarted.state_file))
    mesh.run_until(mesh.is_whole, deadline=120.0)
    leaver.leave()
    mesh.run_until(lambda: leaver.happened(LeaveDone), deadline=15.0)
    mesh.crash(leaver)
    mesh.crash(victim)
    story.from_now_on()
    return story


@pytest.fixture
def recorded(make_mesh: Make) -> Recorded:
    """Return what `record` makes of a small network that loses nothing."""
    return record(make_mesh())


def forgotten(story: Recorded) -> bool:
    """Tell whether no engine knows those who are gone any more."""
    return not any(GONE & agent.engine.members.keys() for agent in story.living)


def test_after_a_second(recorded: Recorded) -> None:
    recorded.mesh.run(1.0)

    recorded.say_all_again()

    recorded.mesh.run_until(lambda: recorded.is_settled, deadline=15.0)
    assert recorded.harm() == []


def test_after_those_who_are_gone_were_forgotten(recorded: Recorded) -> None:
    recorded.mesh.run_until(lambda: forgotten(recorded), deadline=120.0)

    recorded.say_all_again()
    recorded.mesh.run(15.0)

    assert recorded.harm() == []
    assert recorded.is_settled
    claims = {event.node for agent in recorded.living for event in agent.happened(OutdatedAlive)}
    assert claims == GONE


@pytest.mark.parametrize("seed", range(1, 4))
def test_over_a_wide_network_that_loses_packets(make_mesh: Make, seed: int) -> None:
    recorded = record(make_mesh(seed, gossip="WAN", delay=(0.02, 0.15), loss=0.05))
    recorded.mesh.run_until(lambda: forgotten(recorded), deadline=600.0)
    recorded.from_now_on()
    recorded.say_all_again()
    recorded.mesh.run(30.0)
    assert recorded.harm() == []
    recorded.restart(state=True)

    recorded.say_all_again()
    recorded.mesh.run(30.0)

    assert recorded.harm() == []
    assert recorded.is_settled


def test_after_all_were_restarted_with_their_state(recorded: Recorded) -> None:
    recorded.mesh.run_until(lambda: forgotten(recorded), deadline=120.0)
    recorded.restart(state=True)

    recorded.say_all_again()
    recorded.mesh.run(15.0)

    assert recorded.harm() == []
    assert recorded.is_settled


def test_after_all_were_restarted_with_their_state_before_they_had_forgotten(recorded: Recorded) -> None:
    recorded.mesh.run_until(lambda: recorded.is_settled, deadline=30.0)
    assert not forgotten(recorded)
    recorded.restart(state=True)

    recorded.say_all_again()
    recorded.mesh.run(15.0)

    assert recorded.harm() == []
    assert recorded.is_settled


def test_after_all_were_restarted_and_one_still_had_its_state(recorded: Recorded) -> None:
    """It tells the others of the gone when they exchange state."""
    recorded.mesh.run_until(lambda: forgotten(recorded), deadline=120.0)
    recorded.restart(state="n00")

    recorded.say_all_again()
    recorded.mesh.run(15.0)

    assert recorded.harm() == []
    assert recorded.is_settled


def test_after_all_were_restarted_without_any_state_the_dead_are_found_out_and_stay_dead(
    recorded: Recorded,
) -> None:
    """Nobody can know of them any more; but whoever is believed for once does not answer."""
    recorded.mesh.run_until(lambda: forgotten(recorded), deadline=120.0)
    recorded.restart(state=False)
    recorded.say_all_again()

    recorded.mesh.run_until(lambda: recorded.is_settled, deadline=60.0)
    recorded.mesh.run_until(lambda: forgotten(recorded), deadline=120.0)
    assert not [event for event in recorded.harm() if isinstance(event, MemberFailed | MemberLeft)]
    recorded.from_now_on()
    recorded.say_all_again()
    recorded.mesh.run(15.0)

    assert recorded.harm() == []
    assert recorded.is_settled


def test_a_replay_again_and_again_neither_tires_nor_grows_the_members(recorded: Recorded) -> None:
    recorded.mesh.run_until(lambda: forgotten(recorded), deadline=120.0)
    for node in recorded.nodes:
        del node.sent[200:]
        del node.asked[30:]

    for _ in range(3):
        recorded.say_all_again()

    recorded.mesh.run(15.0)
    assert recorded.harm() == []
    assert all(agent.engine.health_score == 0 for agent in recorded.living)
    assert all(len(agent.engine._tombstones) == len(GONE) for agent in recorded.living)


@pytest.mark.parametrize("gossip", ["LAN", "WAN"])
def test_old_words_of_one_that_has_moved_cost_it_nothing_however_often_they_come(
    make_mesh: Make, gossip: GossipProfile
) -> None:
    mesh = make_mesh(gossip=gossip)
    mesh.record = True
    agents = mesh.form(8)
    mover, others = agents[5], [*agents[:5], *agents[6:]]
    old = [data for agent in agents for _, _, data in agent.sent if tells_of(mover, data)]
    mesh.move(mover, Address("10.0.9.9", PORT))
    mover.moved()
    mesh.run_until(mesh.is_whole, deadline=60.0)
    mesh.run(100.0)
    incarnation = mover.engine.me.incarnation
    for agent in others:
        agent.events.clear()

    for number in range(60):
        mesh.inject(mover, old[number % len(old)], MALLORY)
        mesh.run(5.0)

    assert mover.happened(NameConflict)
    assert mover.engine.me.incarnation == incarnation
    assert [event for agent in others for event in agent.events if isinstance(event, MemberLeft)] == []
    assert mesh.is_whole()


def test_old_words_of_one_that_has_moved_and_was_restarted_since_make_it_no_rival_of_itself(
    make_mesh: Make,
) -> None:
    """By then it knows of no former address any more."""
    mesh = make_mesh(gossip="WAN", delay=(0.02, 0.15))
    mesh.record = True
    agents = mesh.form(5)
    mover = agents[3]
    old = next(data for agent in agents for _, _, data in agent.sent if tells_of(mover, data))
    mesh.move(mover, Address("10.0.9.9", PORT))
    mover.moved()
    for _ in range(2):
        mesh.run_until(mesh.is_whole, deadline=60.0)
        mesh.run(5.0)
        mesh.crash(mover)
        mover = mesh.boot(mover.name, address=mover.address, state=mover.state_file, seeds=["10.0.0.1"])
    mesh.run_until(mesh.is_whole, deadline=60.0)

    mesh.inject(mover, old, MALLORY)
    mesh.run(15.0)

    assert mover.happened(NameConflict)
    assert mover.rival == ""


def tells_of(member: Node, data: bytes) -> bool:
    """Tell whether a packet says where a member is."""
    return any(isinstance(m, Alive) and m.node == member.name for m in messages_in(data, SEALED))


def buried(net: VirtualNetwork, *, incarnation: int = 7) -> tuple[Node, Node, Node]:
    """Return two members that remember a third, which crashed at that incarnation, by its tombstone only."""
    a, c = net.start("a", "c")
    b = net.add("b", incarnation=incarnation)
    net.join(b, a)
    net.run_until(lambda: a.sees(b) is c.sees(b) is State.ALIVE, deadline=5.0)
    net.crash(b)
    net.run_until(lambda: a.sees(b) is c.sees(b) is None, deadline=120.0)
    return a, b, c


@pytest.mark.parametrize("moved", [False, True], ids=["same address", "new address"])
def test_a_member_that_counts_from_one_again_passes_its_tombstone(
    net: VirtualNetwork, *, moved: bool
) -> None:
    """As every restarted Go member does: it learns what it has to exceed, and exceeds it."""
    a, b, c = buried(net)
    again = net.add("b", address=None if moved else b.address, incarnation=1)

    net.join(again, a)

    net.run_until(lambda: a.sees(again) is c.sees(again) is State.ALIVE, deadline=2.0)
    assert a.knows(again).address == c.knows(again).address == again.address
    assert again.engine.me.incarnation == 8
    assert not any(len(node.engine._tombstones) for node in (a, c))


def test_a_member_that_joins_where_it_is_unknown_passes_the_tombstones_of_others(net: VirtualNetwork) -> None:
    """Whom it joins admits it at once, and tells it what the others say."""
    a, b, c = buried(net)
    a.engine._tombstones.remove("b")
    del a.incarnations["b"]
    again = net.add("b", address=b.address, incarnation=1)

    net.join(again, a)

    net.run_until(lambda: a.sees(again) is c.sees(again) is State.ALIVE, deadline=2.0)


def test_a_newcomer_is_told_of_the_gone_and_believes_none_of_their_old_news(net: VirtualNetwork) -> None:
    a, b, _ = buried(net)
    newcomer = net.add("newcomer")
    net.join(newcomer, a)
    net.run_until(lambda: "a" in newcomer.alive, deadline=2.0)
    me = b.engine.me
    old = Alive(7, "b", me.address.packed, me.address.port, b"", me.versions)

    newcomer.act(lambda engine, now: engine.inject(old, now=now))

    assert newcomer.happened(OutdatedAlive) == [OutdatedAlive("b", 7, b.address)]
    assert "b" not in newcomer.alive


def test_a_tombstone_in_an_exchange_only_casts_doubt_on_one_that_lives(net: VirtualNetwork) -> None:
    a, b = net.start("a", "b")
    gone = Tombstone(name="b", incarnation=5, address=b.address)
    c = net.add("c")
    c.engine.bury([gone], now=net.now)

    net.join(c, a)

    net.run_until(lambda: c.sees(b) is State.ALIVE and a.knows(b).incarnation == 6, deadline=3.0)
    assert [event.member.name for event in a.happened(MemberSuspected)] == ["b"]
    assert not a.happened(MemberFailed)


def test_answers_to_an_earlier_life_keep_no_dead_member_alive(net: VirtualNetwork) -> None:
    """Acks carry nothing but a number, so no run may count from where another did."""
    a, b = net.start("a", "b")
    net.record = True
    net.run(60.0)
    acks = [data for _, _, data in b.sent if any(isinstance(m, AckResp) for m in messages_in(data))]
    assert len(acks) > 30
    net.crash(a)
    net.crash(b)
    again = net.add("a", address=a.address, incarnation=9)
    me = b.engine.me
    old = Alive(1, "b", me.address.packed, me.address.port, b"", me.versions)
    again.act(lambda engine, now: engine.inject(old, now=now))
    assert again.sees(b) is State.ALIVE

    for _ in range(40):
        for ack in acks:
            net.inject(again, ack, b.address)
        net.run(0.5)

    assert again.sees(b) is State.DEAD


def test_as_many_tombstones_are_told_as_an_exchange_holds(net: VirtualNetwork) -> None:
    a, c = net.start("a", "c", join=False)
    many = [
        Tombstone(name=f"x{number}", incarnation=1, address=Address("10.50.0.1", PORT), age=float(number))
        for number in range(2 * DEFAULT_LIMITS.tombstones)
    ]
    a.engine.bury(many, now=net.now)
    assert len(a.engine._tombstones) == DEFAULT_LIMITS.tombstones
    assert "x0" in a.engine._tombstones, "the newest are kept"

    net.join(c, a)
    net.run_until(lambda: c.alive == a.alive == {"a", "c"}, deadline=2.0)

    assert 0 < len(c.engine._tombstones) < DEFAULT_LIMITS.tombstones
