"""A thief with the cluster key against members with certificates: no device ever differs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random

import pytest

from wesher_agent.mesh.device import DeviceConfig
from wesher_common.keys import WireGuardPublicKey
from wesher_common.overlay import IPNetwork
from wesher_testing.run.soak import soaking
from wesher_testing.virtual.mesh import IN_BOUND_MESH, IN_OPEN_MESH, VirtualAgent, VirtualMesh
from wesher_testing.virtual.thief import Thief

MakeMesh = Callable[..., VirtualMesh]
MODES = {"bound": IN_BOUND_MESH, "open": IN_OPEN_MESH}
INVENTED, PER_PACKET, FLOOD_SECONDS = 12_000, 100, 1.9
"""How many names are invented, how many of them in a datagram, and in which time."""
SEEDS = [f"10.0.0.{number}" for number in range(1, 4)]


def tunnels_of(
    device: DeviceConfig, keys: Iterable[WireGuardPublicKey]
) -> dict[WireGuardPublicKey, tuple[IPNetwork, ...]]:
    """Return what a device routes to which of these keys."""
    wanted = {*keys}
    return {peer.public_key: peer.allowed_ips for peer in device.peers if peer.public_key in wanted}


def keys_of(agents: Iterable[VirtualAgent]) -> set[WireGuardPublicKey]:
    return {agent.local.private_key.public for agent in agents}


def have_tunnels(agent: VirtualAgent, everybody: list[VirtualAgent]) -> bool:
    """Tell whether an agent routes to all others, and to each at its own overlay address."""
    if agent.wanted is None:
        return False
    return agent.tunnels >= {other.name for other in everybody if other is not agent}


def fresh(agents: Iterable[VirtualAgent]) -> None:
    """Begin to watch what devices are to be."""
    for agent in agents:
        del agent.devices[:-1]
        agent.lost_tunnels.clear()


def assert_devices_are_as_before(agents: list[VirtualAgent], *, exactly: bool) -> None:
    """Check each device that any agent was to have since `fresh`; endpoints are hints and may differ."""
    keys = keys_of(agents)
    for agent in agents:
        first, *others = agent.devices
        for device in others:
            assert tunnels_of(device, keys) == tunnels_of(first, keys), agent.name
            assert device.address == first.address
            if exactly:
                assert [peer.public_key for peer in device.peers] == [p.public_key for p in first.peers]
        assert agent.lost_tunnels == []
        assert {entry.name for entry in agent.hosts} >= {other.name for other in agents if other is not agent}


@pytest.mark.parametrize(("mode", "count"), [("bound", 50), ("open", soaking(20, 50))])
def test_a_thief_with_the_cluster_key_changes_no_device(make_mesh: MakeMesh, mode: str, count: int) -> None:
    mesh = make_mesh(identity=MODES[mode])
    agents = mesh.form(count)
    mesh.run(30.0)
    fresh(agents)
    thief, dice = Thief(mesh, Random(mesh.seed)), Random(mesh.seed)
    began = mesh.now

    while True:
        for attack in dice.sample(thief.attacks, len(thief.attacks)):
            mesh.trace.say(f"thief: {attack.__name__}")
            attack()
            mesh.run(dice.uniform(0.0, 2.0))
            assert_devices_are_as_before(agents, exactly=mode == "bound")
        dice.choice(agents).renew()
        if mesh.now - began >= soaking(0.0, 1800.0):
            break

    mesh.run(10.0)
    assert_devices_are_as_before(agents, exactly=mode == "bound")
    attacks = f"{len(thief.attacks)} kinds of attacks for {mesh.now - began:.0f} s"
    mesh.figure(f"{count} certified members, {mode} mesh, {attacks}: no device changed")


@pytest.mark.parametrize("mode", MODES)
def test_the_owner_of_a_name_takes_it_from_a_thief_that_was_there_first(
    make_mesh: MakeMesh, mode: str
) -> None:
    """The name was never used, and the thief says that it has the highest incarnation there is."""
    mesh = make_mesh(identity=MODES[mode])
    agents = mesh.form(10)
    thief = Thief(mesh, Random(mesh.seed))
    for incarnation in (1, 2**31, 2**32 - 2):
        squatted = thief.alive("owner", thief.meta("squatter").encode(), incarnation=incarnation)
        thief.say(squatted, to=agents)
        mesh.run(5.0)
    assert all(agent.engine.members["owner"].address == thief.address for agent in agents)

    owner = mesh.boot("owner", seeds=SEEDS)
    everybody = [*agents, owner]
    took = mesh.run_until(lambda: all(have_tunnels(agent, everybody) for agent in everybody), deadline=10.0)
    mesh.figure(f"a squatted name, {mode} mesh: its owner has all tunnels after {took:.1f} s")


@pytest.mark.parametrize(("mode", "count"), [("bound", 50), ("open", 5)])
def test_a_newcomer_has_all_tunnels_after_a_flood_of_invented_names(
    make_mesh: MakeMesh, mode: str, count: int
) -> None:
    mesh = make_mesh(identity=MODES[mode])
    agents = mesh.form(count)
    fresh(agents)
    thief = Thief(mesh, Random(mesh.seed))
    # Each name to two members, which spread it.
    for number in range(INVENTED // PER_PACKET):
        victims = [agents[number % count], agents[(number + 1) % count]]
        thief.say(*thief.invented(PER_PACKET), to=victims)
        mesh.run(FLOOD_SECONDS * PER_PACKET / INVENTED)

    newcomer = mesh.boot("newcomer", seeds=SEEDS)
    everybody = [*agents, newcomer]
    took = mesh.run_until(lambda: all(have_tunnels(agent, everybody) for agent in everybody), deadline=10.0)

    assert_devices_are_as_before(agents, exactly=False)
    flood = f"{INVENTED} invented names, {mode} mesh of {count}"
    mesh.figure(f"{flood}: a newcomer has all tunnels in {took:.1f} s")
