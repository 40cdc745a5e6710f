"""The figures of reliability that need no real host, short here and long in ``make soak``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

import pytest

from wesher_agent.mesh import member
from wesher_agent.mesh.gossip_profile import gossip_profile
from wesher_agent.swim.events import MemberFailed, MemberSuspected
from wesher_agent.swim.profile import LAN, WAN, Profile
from wesher_testing.run.soak import soaking
from wesher_testing.virtual.mesh import VirtualMesh
from wesher_testing.virtual.network import Node, VirtualNetwork

Make = Callable[..., VirtualNetwork]
HOUR = 3600.0
WIDE = (0.02, 0.15)
PAUSES = 1.0, 32.0
BREATHS = 0.5, 4.0
"""Seconds between two pauses."""
ENOUGH = 50
"""False deaths of plain SWIM without which a comparison says nothing."""
SWIM = replace(LAN, awareness_max_multiplier=1, suspicion_max_timeout_mult=1)
"""The same engine without Lifeguard's patience."""


def false_deaths(nodes: Sequence[Node], healthy: Sequence[Node]) -> int:
    """Return how often anyone held a member for dead that was well all the time."""
    names = {node.name for node in healthy}
    return sum(event.member.name in names for node in nodes for event in node.happened(MemberFailed))


def test_a_quarter_of_all_packets_lost_costs_nobody_a_peer(make_net: Make) -> None:
    # TCP, by which a probe can be saved too, loses nothing here: it must not be what saves them.
    net = make_net(profile=replace(WAN, disable_tcp_pings=True), delay=WIDE, loss=0.25)
    nodes = net.start(*(f"n{i:02}" for i in range(50)))
    seconds = soaking(120.0, 1800.0)

    net.run(seconds)

    deaths = false_deaths(nodes, nodes)
    suspicions = sum(len(node.happened(MemberSuspected)) for node in nodes)
    net.figure(f"50 members, WAN, 25 % loss, {seconds:.0f} s: {deaths} false deaths, {suspicions} suspicions")
    assert suspicions, "else the loss was none"
    assert deaths == 0


def test_on_the_lan_profile_a_quarter_lost_takes_members_for_a_moment_and_no_tunnel_ever(
    make_mesh: Callable[..., VirtualMesh], monkeypatch: pytest.MonkeyPatch
) -> None:
    """These constants of memberlist are too hasty for that, here as there: the failed are not forgotten."""
    # As above: what TCP saves is no matter of these constants.
    impatient = replace(gossip_profile("LAN"), disable_tcp_pings=True)
    monkeypatch.setattr(member, "gossip_profile", lambda _: impatient)
    mesh = make_mesh(gossip="LAN")
    agents = mesh.form(50)
    for agent in agents:
        agent.lost_tunnels.clear()
    mesh.loss = 0.25
    seconds = soaking(90.0, 1800.0)

    mesh.run(seconds)

    deaths = {
        (event.member.name, event.member.incarnation)
        for agent in agents
        for event in agent.happened(MemberFailed)
    }
    mesh.loss = 0.0
    whole = mesh.run_until(mesh.is_whole, deadline=60.0)
    lost_tunnels = sum(len(agent.lost_tunnels) for agent in agents)

    mesh.figure(
        f"50 members, LAN, 25 % loss, {seconds:.0f} s: {len(deaths)} false deaths, "
        f"{lost_tunnels} tunnels lost, whole {whole:.1f} s after it"
    )
    assert deaths, "else the loss was none"
    assert lost_tunnels == 0


def test_two_hundred_members_without_faults_hold_nobody_for_dead(make_net: Make) -> None:
    net = make_net(profile=WAN, delay=WIDE)
    nodes = net.start(*(f"n{i:03}" for i in range(200)))
    seconds = soaking(2 * HOUR, 24 * HOUR)

    net.run(seconds)

    deaths = false_deaths(nodes, nodes)
    net.figure(f"200 members, WAN, no faults, {seconds:.0f} s: {deaths} false deaths")
    assert deaths == 0
    assert all(len(node.alive) == 200 for node in nodes)


def test_members_that_pause_kill_hardly_anybody_where_plain_swim_kills_many(make_net: Make) -> None:
    """Lifeguard's case: 4 of 32 neither send nor hear for 1 to 32 s at a time, and blame the others."""
    seconds = soaking(180.0, 3600.0)

    def deaths(profile: Profile) -> tuple[VirtualNetwork, int]:
        net = make_net(profile=profile)
        nodes = net.start(*(f"n{i:02}" for i in range(32)))
        dice = Random(net.seed)
        for node in nodes[:4]:
            fall_asleep(net, node, dice)
        net.run(seconds)
        return net, false_deaths(nodes, nodes[4:])

    _, plain = deaths(SWIM)
    net, ours = deaths(LAN)

    net.figure(f"4 of 32 members pausing, {seconds:.0f} s: {ours} false deaths, plain SWIM {plain}")
    assert plain >= ENOUGH, "void: the baseline had too little trouble to compare with"
    assert ours <= 0.02 * plain


def fall_asleep(net: VirtualNetwork, node: Node, dice: Random) -> None:
    """Let a node pause again and again."""
    asleep = dice.uniform(*PAUSES)
    net.choke(node, asleep)
    net.at(net.now + asleep + dice.uniform(*BREATHS), lambda: fall_asleep(net, node, dice))
