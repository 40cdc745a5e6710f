"""A thief with the cluster key against members with certificates: no device ever differs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from random import Random
from time import process_time, thread_time

import pytest

from wesher_agent.mesh.desired import LocalPeer, desired
from wesher_agent.mesh.device import DeviceConfig
from wesher_agent.mesh.identity import Identity
from wesher_agent.mesh.nodemeta import Flag
from wesher_agent.mesh.roster import Roster
from wesher_agent.mesh.signature_budget import MOST_FAILED
from wesher_agent.swim.address import Address
from wesher_agent.swim.events import MemberJoined, PacketRejected
from wesher_agent.swim.source import Way
from wesher_common.keys import WireGuardPublicKey
from wesher_common.overlay import IPNetwork
from wesher_testing.run.soak import soaking
from wesher_testing.virtual.members import gossiped, local_peer, meta
from wesher_testing.virtual.mesh import AUTHORITY, IN_BOUND_MESH, IN_OPEN_MESH, VirtualAgent, VirtualMesh
from wesher_testing.virtual.network import PORT
from wesher_testing.virtual.thief import Thief, sealed

MakeMesh = Callable[..., VirtualMesh]
MODES = {"bound": IN_BOUND_MESH, "open": IN_OPEN_MESH}
INVENTED, PER_PACKET, FLOOD_SECONDS = 12_000, 100, 1.9
"""How many names are invented, how many of them in a datagram, and in which time."""
FORGERIES = 5_000
SLOWEST_FORGERY = 0.001
"""Seconds of CPU for each message of a flood: reading it takes a fraction, on a slow machine too."""
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


def test_a_flood_of_forged_certificates_leaves_a_member_time_for_others(make_mesh: MakeMesh) -> None:
    mesh = make_mesh(identity=IN_BOUND_MESH)
    agents = mesh.form(5)
    mesh.run(30.0)
    fresh(agents)
    victim, thief = agents[0], Thief(mesh, Random(mesh.seed))
    packets = [sealed(thief.forgery(agents[1], number)) for number in range(FORGERIES)]
    rejected = len(victim.happened(PacketRejected))
    began = thread_time()
    for number, packet in enumerate(packets):
        sender = Address(f"10.66.{number % 256}.1", PORT)
        victim.core.receive_datagram(packet, sender, now=mesh.now)
    took = thread_time() - began
    victim.pump()
    reasons = Counter(event.reason for event in victim.happened(PacketRejected)[rejected:])

    agents[1].renew()
    renewed = agents[1].engine.me.meta
    mesh.run_until(lambda: victim.engine.members[agents[1].name].meta == renewed, deadline=60.0)

    assert reasons["certificate-signature"] <= MOST_FAILED[Way.DATAGRAM]
    assert reasons.total() == FORGERIES
    assert took / FORGERIES < SLOWEST_FORGERY
    assert_devices_are_as_before(agents, exactly=True)
    mesh.figure(
        f"{FORGERIES} forged certificates at once: {reasons['certificate-signature']} checked, "
        f"{took / FORGERIES * 1e6:.0f} us of CPU for each message"
    )


def test_members_with_certificates_join_as_fast_as_others(make_mesh: MakeMesh) -> None:
    """Small metadata makes joins fast: a certificate takes 77 bytes, and the compact form saves more."""
    count, took, cpu = soaking(50, 200), [], []
    for identity in (None, IN_BOUND_MESH):
        mesh = make_mesh(identity=identity)
        began = process_time()
        for number in range(count):
            mesh.boot(f"n{number:03}", seeds=SEEDS)
        took.append(mesh.run_until(mesh.is_whole, deadline=120.0))
        cpu.append(process_time() - began)

    assert took[1] < 1.3 * took[0] + 1.0
    mesh.figure(
        f"{count} members join: {took[0]:.1f} s without certificates, {took[1]:.1f} s with them in compact "
        f"form; {cpu[0]:.1f} and {cpu[1]:.1f} s of CPU"
    )


def test_a_thousand_certified_members_cost_little_more_than_others(make_mesh: MakeMesh) -> None:
    mesh = make_mesh(overlay="10.64.0.0/10", identity=IN_BOUND_MESH)
    plain, certified = (thousand_members(mesh, is_certified=is_certified) for is_certified in (False, True))
    # On a busy machine anything is slow once.
    for _ in range(10):
        before, after = (quickest(roster, mesh) for roster in (plain, certified))
        if after < 1.3 * before:
            break

    assert len(certified_tunnels(certified, mesh)) == 1000
    judging = min(timed(lambda: certified.judge(now=1.0)) for _ in range(5))
    mesh.figure(
        f"1000 members: desired state in {before * 1000:.1f} ms without certificates, {after * 1000:.1f} ms "
        f"with them; judged again in {judging * 1000:.1f} ms"
    )
    assert after < 1.3 * before


def thousand_members(mesh: VirtualMesh, *, is_certified: bool) -> Roster:
    """Return a roster of that many living members."""
    identity = Identity(IN_BOUND_MESH if is_certified else None, now=0.0, wall=mesh.wall_clock)
    roster = Roster(
        "me",
        gossip_port=PORT,
        overlay=mesh.overlay,
        overlay_is_apart=True,
        forget_after=3600.0,
        identity=identity,
        rng=Random(1),
    )
    for number in range(1000):
        name = f"n{number:03}"
        announced = meta(name, overlay_address=mesh.overlay[number + 10], flags=Flag.IN_KUBERNETES)
        subject = announced.subject(name)
        assert subject is not None
        if is_certified:
            serial = int(mesh.wall_clock * 1000)
            announced = replace(announced, certificate=AUTHORITY.issue(subject, serial=serial))
        ip = f"192.0.{number >> 8}.{number & 255}"
        roster.observe(MemberJoined(gossiped(name, ip, raw_meta=announced.encode(compact=True))), now=0.0)
    return roster


def certified_tunnels(roster: Roster, mesh: VirtualMesh) -> set[str]:
    """Return the members with a tunnel, in a mesh that gives tunnels to certified ones only."""
    return {*desired(local_of(mesh, only_certified=True), roster.members.values()).tunnels}


def local_of(mesh: VirtualMesh, **changes: bool) -> LocalPeer:
    return local_peer("me", overlay=mesh.overlay, address=mesh.overlay[5], in_kubernetes=True, **changes)


def quickest(roster: Roster, mesh: VirtualMesh) -> float:
    """Return the CPU seconds that the desired state takes."""
    local = local_of(mesh)
    return min(timed(lambda: desired(local, roster.members.values())) for _ in range(5))


def timed(call: Callable[[], object]) -> float:
    """Return the CPU seconds that a call takes."""
    began = thread_time()
    call()
    return thread_time() - began
