"""A mesh that was torn comes back by itself: halves, single members, restarts, moves, absent seeds."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from wesher_agent.mesh.dialling import KEPT_FREE, MAX_OPEN
from wesher_agent.mesh.roster import SavedMember
from wesher_agent.mesh.saved_state import SavedState
from wesher_agent.swim.address import Address
from wesher_agent.swim.events import AddressChanged, LeaveDone, MemberFailed, MemberLeft, PushPullFailed
from wesher_agent.swim.source import Source, Way
from wesher_agent.wire.messages import Dead, PushNodeState, State, Versions
from wesher_testing.run.soak import soaking
from wesher_testing.virtual.mesh import SEALED, VirtualAgent, VirtualMesh
from wesher_testing.virtual.network import PORT

Make = Callable[..., VirtualMesh]
HOUR = 3600.0
WIDE = {"LAN": (0.0005, 0.003), "WAN": (0.02, 0.15)}
NUDGED_APART = 2.0
"""Seconds between the first and the last node's look at a new mesh.json."""
WITHIN, WITH_SEEDS = 60.0, 30.0
"""Seconds after healing by which all see all again, and with a seed to ask."""


def halves(mesh: VirtualMesh) -> tuple[list[VirtualAgent], list[VirtualAgent]]:
    agents = mesh.agents
    middle = len(agents) // 2
    mesh.partition(agents[:middle], agents[middle:])
    return agents[:middle], agents[middle:]


def give_other_ports(mesh: VirtualMesh, *, apart: float) -> None:
    """Have every agent gossip on another port at some moment of the next ``apart`` seconds."""
    for agent in mesh.agents:
        agent.later(mesh.new_dice().uniform(0.0, apart), partial(agent.set_gossip_port, PORT + 1))


def is_moved(mesh: VirtualMesh) -> bool:
    """Whether every agent is on that port, and everyone knows."""
    return all(
        node.sees(agent) is State.ALIVE and node.knows(agent).address == agent.engine.me.address
        for node in mesh.nodes.values()
        for agent in mesh.agents
    ) and all(
        known.address.port == PORT + 1
        for agent in mesh.agents
        for known in (agent.engine.me, *agent.member._roster.members.values())
        if known.name != "go"
    )


def heal(mesh: VirtualMesh, *, deadline: float) -> float:
    """Lift all cuts, wait for the whole mesh, and note how long it took."""
    mesh.heal()
    took = mesh.run_until(mesh.is_whole, deadline=deadline)
    mesh.figure(f"{len(mesh.agents)} members whole again after {took:.1f} s, at most {deadline:.0f}")
    return took


@pytest.mark.parametrize("gossip", ["LAN", "WAN"])
@pytest.mark.parametrize("seconds", [20.0, 100.0, HOUR])
def test_two_halves_without_seeds_are_one_mesh_a_minute_after_the_cut_heals(
    make_mesh: Make, gossip: str, seconds: float
) -> None:
    """Nothing but the memory of who was there: the case in which memberlist stays split for ever."""
    mesh = make_mesh(gossip=gossip, delay=WIDE[gossip])
    for agent in mesh.form(6):
        agent.set_seeds([])
    one, other = halves(mesh)

    mesh.run(seconds)
    if seconds == HOUR:
        for side in (one, other):
            assert all(agent.alive == {a.name for a in side} for agent in side)
        assert all(len(agent.expects) == 5 for agent in mesh.agents), "a failed member keeps its tunnel"

    heal(mesh, deadline=WITHIN)


@pytest.mark.parametrize("gossip", ["LAN", "WAN"])
@pytest.mark.parametrize("seconds", [20.0, 100.0, HOUR])
def test_two_halves_meet_in_half_a_minute_where_one_has_the_seeds(
    make_mesh: Make, gossip: str, seconds: float
) -> None:
    mesh = make_mesh(gossip=gossip, delay=WIDE[gossip])
    mesh.form(6, seeds=2)
    halves(mesh)

    mesh.run(seconds)

    heal(mesh, deadline=WITH_SEEDS)


@pytest.mark.parametrize("gossip", ["LAN", "WAN"])
@pytest.mark.parametrize(("seconds", "restarts"), [(20.0, False), (100.0, False), (100.0, True)])
def test_who_left_while_the_halves_were_apart_is_expected_by_neither_once_they_have_met(
    make_mesh: Make, gossip: str, seconds: float, *, restarts: bool
) -> None:
    """Those who could not hear it hold it for failed, which is expected back for a day."""
    mesh = make_mesh(gossip=gossip, delay=WIDE[gossip])
    mesh.form(6, seeds=2)
    one, other = halves(mesh)
    leaver = one.pop()
    leaver.leave()
    mesh.run_until(lambda: leaver.happened(LeaveDone), deadline=15.0)
    mesh.crash(leaver)
    mesh.run(seconds)
    for agent in one:
        assert leaver.name not in agent.expects
    for agent in other:
        assert leaver.name in agent.expects
    if restarts:
        for agent in (*one, *other):
            mesh.crash(agent)
        mesh.run(2.0)
        for agent in (*one, *other):
            mesh.boot(agent.name, seeds=["10.0.0.1"], address=agent.address, state=agent.state_file)

    mesh.heal()

    def is_well() -> bool:
        names = {agent.name for agent in mesh.agents}
        return all(agent.alive == names == {*agent.expects, agent.name} for agent in mesh.agents)

    took = mesh.run_until(is_well, deadline=WITHIN)
    mesh.figure(f"5 members know each other, and that the sixth has left, after {took:.1f} s")


@pytest.mark.parametrize("gossip", ["LAN", "WAN"])
def test_an_old_leave_sent_again_takes_no_tunnel_of_one_that_has_returned_since(
    make_mesh: Make, gossip: str
) -> None:
    """Even while it is cut off, so that it cannot deny it."""
    mesh = make_mesh(gossip=gossip, delay=WIDE[gossip])
    agents = mesh.form(6, seeds=2)
    leaver, others = agents[5], agents[:5]
    leaver.leave()
    mesh.run_until(lambda: leaver.happened(LeaveDone), deadline=15.0)
    old = leaver.engine.me
    mesh.crash(leaver)
    mesh.run(2.0)
    back = mesh.boot(leaver.name, seeds=["10.0.0.1"], address=leaver.address, state=leaver.state_file)
    mesh.run_until(mesh.is_whole, deadline=WITHIN)
    mesh.cut(back)
    mesh.run(300.0)
    assert not any(back.name in agent.engine.members for agent in others)

    said = Dead(old.incarnation, old.name, old.name)
    told = PushNodeState(old.name, old.addr, old.address.port, b"", old.incarnation, State.LEFT, old.versions)
    source = Source("10.0.0.9", Way.REQUEST)
    for agent in others:
        agent.act(lambda engine, now: engine.inject(said, now=now))
        agent.act(lambda engine, now: engine._membership.merge([told], source=source, now=now))
    mesh.run(5.0)

    assert all(back.name in agent.expects for agent in others)
    heal(mesh, deadline=WITHIN)


@pytest.mark.parametrize("seeds", [0, 2])
def test_twenty_and_twenty_apart_are_forty_again(make_mesh: Make, seeds: int) -> None:
    mesh = make_mesh(gossip="WAN", delay=WIDE["WAN"])
    for agent in mesh.form(40, seeds=2):
        agent.set_seeds(["10.0.0.1", "10.0.0.2"][:seeds])
    one, other = halves(mesh)

    mesh.run(soaking(300.0, HOUR))
    assert {len(agent.alive) for agent in (*one, *other)} == {20}

    heal(mesh, deadline=WITH_SEEDS if seeds else WITHIN)
    mesh.run(60.0)
    assert mesh.is_whole(), "and it stays so"


@pytest.mark.parametrize("seconds", [20.0, 100.0, HOUR])
def test_a_single_member_cut_off_is_back_within_a_minute(make_mesh: Make, seconds: float) -> None:
    mesh = make_mesh(gossip="WAN", delay=WIDE["WAN"])
    agents = mesh.form(12)
    for agent in agents:
        agent.set_seeds([])
    mesh.cut(agents[5])

    mesh.run(seconds)

    heal(mesh, deadline=WITHIN)


def test_a_mesh_torn_into_three_grows_together(make_mesh: Make) -> None:
    mesh = make_mesh()
    agents = mesh.form(9, seeds=1)
    mesh.partition(agents[:3], agents[3:6], agents[6:])

    mesh.run(300.0)

    heal(mesh, deadline=WITH_SEEDS)


def test_a_cut_that_comes_and_goes_leaves_no_scar(make_mesh: Make) -> None:
    mesh = make_mesh()
    mesh.form(8)
    for seconds in (5.0, 12.0, 30.0, 45.0):
        halves(mesh)
        mesh.run(seconds)
        mesh.heal()
        mesh.run(7.0)

    heal(mesh, deadline=WITH_SEEDS)


def test_members_all_restarted_behind_the_cut_know_the_others_from_their_files(make_mesh: Make) -> None:
    mesh = make_mesh()
    for agent in mesh.form(8):
        agent.set_seeds([])
    one, _ = halves(mesh)
    mesh.run(150.0)
    for agent in one:
        mesh.crash(agent)
        mesh.boot(agent.name, address=agent.address, state=agent.state_file)
    mesh.run(150.0)
    assert {len(agent.alive) for agent in mesh.agents} == {4}

    heal(mesh, deadline=WITHIN)


def test_one_that_knows_many_behind_a_cut_dials_as_many_as_it_has_room_for_and_meets_all(
    make_mesh: Make,
) -> None:
    """Each dial into a cut lasts half a minute, so that gossip's own would soon find no room."""
    mesh = make_mesh(gossip="WAN", delay=WIDE["WAN"])
    others = [mesh.boot(f"n{number:02}") for number in range(60)]
    known = [SavedMember(name=a.name, address=a.address, raw_meta=a.engine.me.meta) for a in others]
    late = mesh.boot("late", state=SavedState(nodes=tuple(known)))
    mesh.cut(late)

    mesh.run(20.0)
    assert len(late.connections) == MAX_OPEN - KEPT_FREE
    mesh.run(100.0)

    assert {event.error for event in late.happened(PushPullFailed)} == {"timed out"}
    assert {event.address for event in late.happened(PushPullFailed)} == {a.address for a in others}
    heal(mesh, deadline=WITHIN)


def test_members_restarted_behind_the_cut_without_files_find_the_others_by_a_seed(make_mesh: Make) -> None:
    mesh = make_mesh()
    mesh.form(8, seeds=1)
    one, _ = halves(mesh)
    mesh.run(150.0)
    for agent in one:
        mesh.crash(agent)
        mesh.boot(agent.name, seeds=[one[0].address.ip], address=agent.address)
    mesh.run(150.0)
    assert {len(agent.alive) for agent in mesh.agents} == {4}

    heal(mesh, deadline=WITH_SEEDS)


def test_a_whole_mesh_killed_at_once_returns_from_its_state_files(make_mesh: Make) -> None:
    mesh = make_mesh(gossip="WAN", delay=WIDE["WAN"])
    agents = mesh.form(10)
    mesh.run(5.0)
    for agent in agents:
        mesh.crash(agent)
    mesh.run(30.0)

    for agent in agents:
        mesh.boot(agent.name, address=agent.address, state=agent.state_file)

    assert mesh.run_until(mesh.is_whole, deadline=10.0) < 10.0


def test_a_restart_with_a_clock_set_back_is_still_heard(make_mesh: Make) -> None:
    """The saved incarnation counts where the clock does not."""
    mesh = make_mesh()
    agents = mesh.form(4)
    mesh.run(5.0)
    mesh.wall_clock_error = -100 * 24 * HOUR

    mesh.crash(agents[2])
    mesh.boot(agents[2].name, address=agents[2].address, state=agents[2].state_file)

    heal(mesh, deadline=2.0)


def test_a_restart_that_lost_state_and_clock_is_heard_by_its_denial(make_mesh: Make) -> None:
    """Others know it with a higher incarnation and another key; it denies what they say."""
    mesh = make_mesh()
    agents = mesh.form(4)
    mesh.run(5.0)
    mesh.wall_clock_error = -100 * 24 * HOUR

    mesh.crash(agents[2])
    mesh.boot(agents[2].name, seeds=[agents[0].address.ip], address=agents[2].address)

    heal(mesh, deadline=2.0)


def test_a_failed_member_may_return_from_a_new_address_once_the_dead_are_gossiped_to_no_more(
    make_mesh: Make,
) -> None:
    mesh = make_mesh()
    agents = mesh.form(5)
    mover, rest = agents[3], [*agents[:3], agents[4]]
    mesh.run(2.0)
    mesh.crash(mover)
    mesh.run_until(lambda: all(agent.sees(mover) is State.DEAD for agent in rest), deadline=30.0)
    mesh.run(mesh.profile.gossip_to_the_dead_time)

    back = mesh.boot(mover.name, state=mover.state_file)

    assert heal(mesh, deadline=WITHIN) < 5.0
    assert back.address != mover.address


def test_a_member_that_returns_from_a_new_address_before_it_was_missed_takes_its_name_along(
    make_mesh: Make,
) -> None:
    """It knows its former address from its file, says that it left there, and nobody else is believed."""
    mesh = make_mesh(gossip="WAN", delay=WIDE["WAN"])
    agents = mesh.form(5)
    mover, rest = agents[3], [*agents[:3], agents[4]]
    mesh.run(2.0)
    mesh.crash(mover)

    back = mesh.boot(mover.name, state=mover.state_file)

    heal(mesh, deadline=WITHIN)
    assert back.happened(AddressChanged)
    assert not [event for agent in rest for event in agent.happened(MemberFailed)]


def test_a_member_whose_host_moves_is_followed(make_mesh: Make) -> None:
    mesh = make_mesh(gossip="WAN", delay=WIDE["WAN"])
    agents = mesh.form(12)
    mover, rest = agents[7], [*agents[:7], *agents[8:]]
    new = Address("10.0.9.9", PORT)

    mesh.move(mover, new)
    mover.moved()

    heal(mesh, deadline=WITHIN)
    assert not [event for agent in rest for event in agent.happened(MemberFailed)]


@pytest.mark.parametrize("apart", [0.0, 0.1, NUDGED_APART])
@pytest.mark.parametrize(("count", "seeds"), [(3, 3), (12, 1), (40, 3)])
def test_members_that_all_get_another_gossip_port_lose_no_tunnel_and_nobody_leaves(
    make_mesh: Make, count: int, seeds: int, apart: float
) -> None:
    for seed in range(1, 1 + 120 // count):
        mesh = make_mesh(seed, delay=WIDE["LAN"])
        mesh.form(count, seeds=seeds)

        give_other_ports(mesh, apart=apart)
        mesh.run_until(partial(is_moved, mesh), deadline=apart + 2.0)

        for agent in mesh.agents:
            assert not agent.lost_tunnels
            assert not [*agent.happened(MemberLeft), *agent.happened(MemberFailed)]


@pytest.mark.parametrize("seed", range(1, 41))
def test_in_a_mesh_with_the_go_program_three_with_another_gossip_port_meet_before_a_tunnel_ends(
    make_mesh: Make, seed: int
) -> None:
    """One member announces the Go program's versions. So each of the others leaves and comes back."""
    mesh = make_mesh(seed, delay=WIDE["LAN"])
    agents = mesh.form(3)
    go = mesh.add("go", versions=Versions(), packet_format=SEALED)
    mesh.join(go, agents[0])
    mesh.run_until(lambda: all(agent.sees(go) is State.ALIVE for agent in agents), deadline=10.0)

    give_other_ports(mesh, apart=NUDGED_APART)
    mesh.run_until(partial(is_moved, mesh), deadline=NUDGED_APART + 5.0)

    assert go.happened(MemberLeft)
    assert not any(agent.lost_tunnels for agent in agents)


def test_members_wait_for_seeds_that_are_all_down(make_mesh: Make) -> None:
    mesh = make_mesh()
    where = ["10.0.8.1", "10.0.8.2"]
    early = [mesh.boot(name, seeds=where) for name in ("a", "b", "c")]
    mesh.run(600.0)
    assert [agent.alive for agent in early] == [{"a"}, {"b"}, {"c"}]

    mesh.boot("seed", seeds=where, address=Address(where[0], PORT))

    heal(mesh, deadline=WITH_SEEDS)


def test_seeds_that_were_all_replaced_are_found_by_their_name(make_mesh: Make) -> None:
    mesh = make_mesh()
    mesh.dns["seeds.example"] = ("10.0.8.1", "10.0.8.2")
    agents = [mesh.boot(name, seeds=["seeds.example"]) for name in ("a", "b", "c")]
    mesh.run(300.0)
    assert all(len(agent.alive) == 1 for agent in agents)

    seed = mesh.boot("seed")
    mesh.dns["seeds.example"] = (seed.address.ip,)

    # A name is looked up once a minute at most, and then dialled at once.
    heal(mesh, deadline=65.0)


@pytest.mark.parametrize("restarts", [False, True], ids=["it runs on", "it restarts"])
def test_a_seed_that_moved_is_found_by_its_name_though_the_hosts_file_had_it(
    make_mesh: Make, *, restarts: bool
) -> None:
    """Both get new addresses, only DNS knows the seed's, and the name is also that of the seed's member.

    Its hosts entry would answer every lookup, with an address inside the tunnel.
    """
    mesh = make_mesh()
    nas = mesh.boot("nas")
    mesh.dns["nas"] = (nas.address.ip,)
    laptop = mesh.boot("laptop", seeds=["nas"])
    mesh.run_until(mesh.is_whole, deadline=5.0)
    mesh.run(300.0)
    assert [entry.name for entry in laptop.hosts] == ["nas"]

    mesh.partition([nas], [laptop])
    mesh.move(nas, Address("10.1.0.1", PORT))
    nas.moved()
    mesh.dns["nas"] = (nas.address.ip,)
    if restarts:
        left, state = laptop.hosts, laptop.state_file
        mesh.crash(laptop)
        laptop = mesh.boot("laptop", seeds=["nas"], address=Address("10.1.0.2", PORT), state=state)
        laptop.hosts = left
    else:
        mesh.move(laptop, Address("10.1.0.2", PORT))
        laptop.moved()

    heal(mesh, deadline=100.0)
    assert [entry.name for entry in laptop.hosts] == ["nas"], "a member that is back has its entry again"


def test_a_resolver_that_fails_loses_no_seed(make_mesh: Make) -> None:
    mesh = make_mesh()
    seed = mesh.boot("seed")
    mesh.dns["seeds.example"] = (seed.address.ip,)
    late = mesh.boot("late", seeds=["seeds.example"])
    mesh.run_until(mesh.is_whole, deadline=5.0)
    mesh.dns.clear()
    late.member._roster.restore((), now=mesh.now)
    mesh.cut(late)
    mesh.run(200.0)

    heal(mesh, deadline=WITH_SEEDS)


def test_a_removed_member_is_dropped_and_not_asked_for_though_it_failed(make_mesh: Make) -> None:
    mesh = make_mesh()
    agents = mesh.form(5)
    gone, rest = agents[4], agents[:4]
    mesh.crash(gone)
    mesh.run_until(lambda: all(agent.sees(gone) is State.DEAD for agent in rest), deadline=30.0)
    assert all(gone.name in agent.expects for agent in rest)

    for agent in rest:
        agent.set_seeds([])
        agent.set_removed([gone.name])

    mesh.run_until(mesh.is_whole, deadline=WITHIN)
    assert all(gone.name not in agent.expects for agent in rest)
    assert all(agent.member._roster.next_timer() == float("inf") for agent in rest)


def test_a_member_failed_for_a_day_is_forgotten_by_all(make_mesh: Make) -> None:
    mesh = make_mesh(gossip="WAN", forget_after=HOUR)
    agents = mesh.form(3)
    for agent in agents:
        agent.set_seeds([])
    mesh.crash(agents[2])

    mesh.run(HOUR - 60.0)
    assert all("n02" in agent.expects for agent in agents[:2])
    mesh.run(300.0)

    assert mesh.is_whole()


def test_two_halves_that_gave_one_address_twice_settle_it_when_they_meet(make_mesh: Make) -> None:
    """Each half grew apart from the other, in a network so small that names collide."""
    mesh = make_mesh(overlay="192.168.7.0/28")
    one = [mesh.boot(f"a{i}", seeds=["10.0.0.1"]) for i in range(6)]
    other = [mesh.boot(f"b{i}", seeds=["10.0.0.7"]) for i in range(6)]
    mesh.run_until(lambda: mesh.is_whole(one) and mesh.is_whole(other), deadline=30.0)
    claimed = [address for side in (one, other) for address in side[0].owners]
    assert len(set(claimed)) < len(claimed)

    one[3].set_seeds([other[2].address.ip])

    heal(mesh, deadline=WITHIN)


@pytest.mark.parametrize("gossip", ["LAN", "WAN"])
@pytest.mark.parametrize("seeds", [0, 1])
def test_one_way_cuts_between_two_halves_heal_too(make_mesh: Make, gossip: str, seeds: int) -> None:
    mesh = make_mesh(gossip=gossip, delay=WIDE[gossip])
    agents = mesh.form(8, seeds=1)
    for agent in agents:
        agent.set_seeds([agents[0].address.ip][:seeds])
    for a in agents[:4]:
        for b in agents[4:]:
            mesh.block(a, b)
    mesh.run(200.0)

    heal(mesh, deadline=WITH_SEEDS if seeds else WITHIN)
