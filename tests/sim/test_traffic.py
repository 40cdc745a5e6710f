"""Carried traffic is switched on and off without a lost packet, in whatever order agents learn of it.

After each change of a device `virtual.carried` checks that no packet between two nodes is lost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_network
from random import Random

import pytest

from wesher_agent.mesh.carry_steps import CARRY_AFTER
from wesher_agent.mesh.device import Carrying
from wesher_agent.mesh.events import TrafficCarried, TrafficNotCarried
from wesher_common.overlay import IPNetwork
from wesher_common.traffic import TrafficSettings
from wesher_testing.run.soak import soaking
from wesher_testing.virtual.carried import lost_flows
from wesher_testing.virtual.mesh import IN_BOUND_MESH, IN_OPEN_MESH, VirtualAgent, VirtualMesh
from wesher_testing.virtual.thief import Thief

Make = Callable[..., VirtualMesh]
ON = TrafficSettings(nodes="All", pods="All", node_cidrs=(ip_network("10.0.0.0/16"),))
OFF = TrafficSettings()
APART = 90.0
"""Seconds between the first agent that learns of a change and the last: as long as kubelets take."""
DEADLINE = CARRY_AFTER + 10.0


def networks_of(agent: VirtualAgent, number: int) -> tuple[IPNetwork, ...]:
    return ip_network(agent.address.ip), ip_network(f"10.244.{number}.0/24")


def carrying(agent: VirtualAgent) -> Carrying | None:
    assert agent.wanted is not None
    return agent.wanted.device.carrying


def routed(agent: VirtualAgent) -> set[IPNetwork]:
    found = carrying(agent)
    return {route.network for route in found.routes} if found is not None else set()


def certify(mesh: VirtualMesh, agent: VirtualAgent, networks: tuple[IPNetwork, ...]) -> None:
    mesh.networks[agent.name] = networks
    agent.renew()


def learn(mesh: VirtualMesh, calls: list[Callable[[], None]], within: float, dice: Random) -> None:
    """Have calls made at moments of their own, and wait for the last."""
    start = mesh.now
    for call in calls:
        mesh.at(start + dice.uniform(0.0, within), call)
    mesh.run(within + 0.1)


def switch_on(mesh: VirtualMesh, agents: list[VirtualAgent], dice: Random) -> None:
    """Give settings and certificates at random moments: also a certificate before the settings."""
    calls: list[Callable[[], None]] = []
    for number, agent in enumerate(agents):
        calls.append(lambda agent=agent: agent.set_traffic(ON))
        calls.append(lambda agent=agent, number=number: certify(mesh, agent, networks_of(agent, number)))
    learn(mesh, calls, APART, dice)


def carries_to_all(agents: list[VirtualAgent], mesh: VirtualMesh) -> bool:
    """Tell whether each agent routes to all networks of all others."""
    return all(
        routed(agent) == {net for other in agents if other is not agent for net in mesh.networks[other.name]}
        for agent in agents
    )


def carried_mesh(make_mesh: Make, count: int, **settings: object) -> tuple[VirtualMesh, list[VirtualAgent]]:
    mesh = make_mesh(identity=IN_BOUND_MESH, **settings)
    agents = mesh.form(count)
    switch_on(mesh, agents, Random(mesh.seed))
    mesh.run_until(lambda: carries_to_all(agents, mesh), deadline=DEADLINE)
    return mesh, agents


@pytest.mark.parametrize("gossip", soaking(["WAN"], ["LAN", "WAN"]))
def test_switched_on_and_off_in_any_order_no_packet_is_lost(make_mesh: Make, gossip: str) -> None:
    count = soaking(20, 50)
    mesh = make_mesh(identity=IN_BOUND_MESH, gossip=gossip)
    agents, dice = mesh.form(count), Random(mesh.seed)
    switch_on(mesh, agents, dice)
    took = mesh.run_until(lambda: carries_to_all(agents, mesh), deadline=DEADLINE)
    mesh.figure(f"{count} members, {gossip}: all carry {took:.1f} s after the last has learned of it")
    mesh.run(2.0)
    assert all(len(agent.happened(TrafficCarried)) == 1 for agent in agents)

    learn(mesh, [lambda agent=agent: agent.set_traffic(OFF) for agent in agents], APART, dice)
    mesh.run(5.0)
    assert [agent.name for agent in agents if routed(agent)] == []
    assert all(carrying(agent) is not None for agent in agents), (
        "they accept while certificates list networks"
    )
    assert all(len(agent.happened(TrafficNotCarried)) == 1 for agent in agents)

    learn(mesh, [lambda agent=agent: certify(mesh, agent, ()) for agent in agents], APART, dice)
    mesh.run(10.0)
    assert all(carrying(agent) is None for agent in agents), "nothing is left"


def test_off_takes_seconds_and_no_word_of_another_member(make_mesh: Make) -> None:
    """The way out of a mesh whose tunnels are all dead."""
    mesh, agents = carried_mesh(make_mesh, 5)
    mesh.cut(agents[0])
    mesh.run(60.0)
    assert routed(agents[0])
    agents[0].set_traffic(OFF)
    took = mesh.run_until(lambda: not routed(agents[0]), deadline=5.0)
    mesh.figure(f"switched off on a member that is cut off: nothing is carried after {took:.2f} s")


def test_no_node_begins_before_others_have_had_the_time_to_accept_it(make_mesh: Make) -> None:
    mesh = make_mesh(identity=IN_BOUND_MESH)
    agents = mesh.form(3)
    for number, agent in enumerate(agents):
        agent.set_traffic(ON)
        certify(mesh, agent, networks_of(agent, number))
    mesh.run(CARRY_AFTER - 1.0)
    assert [routed(agent) for agent in agents] == [set()] * 3
    mesh.run_until(lambda: carries_to_all(agents, mesh), deadline=5.0)


def test_a_member_that_is_restarted_goes_on_carrying_at_once(make_mesh: Make) -> None:
    mesh, agents = carried_mesh(make_mesh, 10)
    former = agents[4]
    mesh.crash(former)
    mesh.run(3.0)
    again = mesh.boot(
        former.name, seeds=["10.0.0.1"], address=former.address, state=former.state_file, traffic=ON
    )
    mesh.run_until(lambda: again.wanted is not None, deadline=5.0)
    first = again.devices[0].carrying
    assert first is not None
    assert {route.network for route in first.routes} == routed(former), "there is no device without routes"


def test_a_member_that_is_restarted_midway_waits_for_the_rest_of_the_time(make_mesh: Make) -> None:
    mesh = make_mesh(identity=IN_BOUND_MESH)
    agents = mesh.form(10)
    for number, agent in enumerate(agents):
        agent.set_traffic(ON)
        certify(mesh, agent, networks_of(agent, number))
    mesh.run(CARRY_AFTER / 2)
    former = agents[4]
    mesh.crash(former)
    again = mesh.boot(
        former.name, seeds=["10.0.0.1"], address=former.address, state=former.state_file, traffic=ON
    )
    mesh.run(CARRY_AFTER - 1.0)
    assert not routed(again)
    everybody = [again if agent is former else agent for agent in agents]
    mesh.run_until(lambda: carries_to_all(everybody, mesh), deadline=DEADLINE)


def test_a_node_whose_address_changes_carries_from_the_new_one(make_mesh: Make) -> None:
    mesh, agents = carried_mesh(make_mesh, 10)
    moved, pods = agents[3], mesh.networks[agents[3].name][1]
    mesh.move(moved, mesh.new_address())
    moved.moved()
    mesh.run(5.0)
    found = carrying(moved)
    assert found is not None
    assert ip_network("10.0.0.4/32") not in found.sources, "an address that is gone is no source"
    assert pods in found.sources

    address = ip_network(moved.address.ip)
    certify(mesh, moved, (address, pods))
    mesh.run(CARRY_AFTER - 1.0)
    found = carrying(moved)
    assert found is not None
    assert address not in found.sources, "the others may not accept it yet"
    mesh.run_until(lambda: carries_to_all(agents, mesh), deadline=DEADLINE)
    mesh.run(2.0)
    found = carrying(moved)
    assert found is not None
    assert address in found.sources
    assert {route.source for route in found.routes} == {address.network_address}


def test_a_revoked_member_loses_its_networks(make_mesh: Make) -> None:
    mesh, agents = carried_mesh(make_mesh, 10)
    revoked, others = agents[7], agents[:7] + agents[8:]
    mesh.cast_out.add(revoked.name)
    statement = mesh.revocation([revoked.name]).packed()
    agents[2].change(lambda member, now: member.news_added(statement, now=now))
    lost = {*mesh.networks[revoked.name]}
    took = mesh.run_until(lambda: not any(routed(agent) & lost for agent in others), deadline=10.0)
    mesh.figure(f"a revoked member: nobody sends to its networks after {took:.2f} s")
    for agent in others:
        assert agent.wanted is not None
        accepted = {net for peer in agent.wanted.device.peers for net in peer.allowed_ips}
        assert not accepted & lost
    # What it sent through tunnels before does not leave in clear now.
    assert routed(revoked)


@pytest.mark.parametrize("mode", ["bound", "open"])
def test_a_thief_with_the_cluster_key_carries_nothing(make_mesh: Make, mode: str) -> None:
    mesh = make_mesh(identity=IN_BOUND_MESH if mode == "bound" else IN_OPEN_MESH)
    agents = mesh.form(10)
    switch_on(mesh, agents, Random(mesh.seed))
    mesh.run_until(lambda: carries_to_all(agents, mesh), deadline=DEADLINE)
    before = {agent.name: (carrying(agent), routed(agent)) for agent in agents}
    thief = Thief(mesh, Random(mesh.seed))
    wanted = (ip_network("10.0.0.99/32"), ip_network("0.0.0.0/1"), *mesh.networks["n03"])
    for name in ("thief", "n03", "zz"):
        for networks in (wanted, wanted[:1]):
            raw = thief.meta(name, networks=networks).encode()
            thief.say(thief.alive(name, raw, incarnation=2**31), to=agents)
            mesh.run(5.0)
    for agent in agents:
        assert (carrying(agent), routed(agent)) == before[agent.name]
        assert agent.wanted is not None
        accepted = {net for peer in agent.wanted.device.peers for net in peer.allowed_ips}
        assert not accepted & {*wanted[:2]}
    assert carries_to_all(agents, mesh)


def test_a_lost_packet_is_noticed(make_mesh: Make) -> None:
    """The watch sees a member that does not accept what another sends, and one that filters strictly."""
    _, agents = carried_mesh(make_mesh, 3)
    sender, receiver = agents[0], agents[1]
    assert [*lost_flows(sender, agents)] == []
    carries = receiver.wanted
    assert carries is not None
    receiver.wanted = replace(carries, device=receiver.devices[0])
    assert any("which does not accept it" in lost for lost in lost_flows(sender, agents))

    found = carrying(sender)
    assert found is not None
    assert sender.wanted is not None
    silent = replace(found, routes=(), sources=(), direct=())
    sender.wanted = replace(sender.wanted, device=replace(sender.wanted.device, carrying=silent))
    receiver.wanted = carries
    assert [*lost_flows(sender, agents)] == []
    strict = carries.device.carrying
    assert strict is not None
    device = replace(carries.device, carrying=replace(strict, loose_links=()))
    receiver.wanted = replace(carries, device=device)
    assert any("outside the tunnels" in lost for lost in lost_flows(sender, agents))
