"""Two clusters in one mesh, each with an authority of its own that the other one trusts.

The authority of the west is hostile in some of these: whatever it signs, no device of the east changes
what it has of the members of the east.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import ip_address, ip_network
from random import Random
from typing import Any

import pytest

from wesher_agent.mesh.carry_steps import CARRY_AFTER
from wesher_agent.mesh.device import DeviceConfig
from wesher_agent.mesh.nodemeta import NodeMeta
from wesher_agent.swim.address import Address
from wesher_agent.swim.engine import Engine
from wesher_agent.wire.messages import Alive
from wesher_common.certificate import Authority, AuthorityKey, Kind, Subject, name_hash
from wesher_common.keys import WireGuardPublicKey
from wesher_common.mesh_document import IdentitySettings, TrustedAuthority
from wesher_common.news import MAX_REVOKED, NewsKind, revocation_second, sign_statement
from wesher_common.overlay import candidate_address
from wesher_common.traffic import TrafficSettings
from wesher_testing.virtual.members import private_key
from wesher_testing.virtual.mesh import VirtualAgent, VirtualCluster, VirtualMesh
from wesher_testing.virtual.thief import Thief

MakeMesh = Callable[..., VirtualMesh]
EAST_AUTHORITY, WEST_AUTHORITY, NEW_AUTHORITY = (Authority(bytes([number]) * 32) for number in (1, 2, 3))
EAST_NETWORK, WEST_NETWORK = ip_network("192.168.0.0/17"), ip_network("192.168.128.0/17")
EAST_PODS, WEST_PODS = ip_network("10.244.0.0/16"), ip_network("10.245.0.0/16")
NODES = 4
IN_TIME = 90.0
"""Seconds; each member exchanges its state with another one twice a minute."""


def bound(own: Iterable[AuthorityKey], *trusted: TrustedAuthority) -> IdentitySettings:
    return IdentitySettings(
        mode="Verified", bound=True, form="Compact", authorities=tuple(own), trusted=trusted
    )


def of_east(key: AuthorityKey = EAST_AUTHORITY.key) -> TrustedAuthority:
    return TrustedAuthority(cluster_name="east", key=key, cidrs=(EAST_NETWORK, EAST_PODS))


def of_west(key: AuthorityKey = WEST_AUTHORITY.key) -> TrustedAuthority:
    return TrustedAuthority(cluster_name="west", key=key, cidrs=(WEST_NETWORK, WEST_PODS))


EAST = VirtualCluster(
    name="east",
    authority=EAST_AUTHORITY,
    allocation=EAST_NETWORK,
    identity=bound([EAST_AUTHORITY.key], of_west()),
)
WEST = VirtualCluster(
    name="west",
    authority=WEST_AUTHORITY,
    allocation=WEST_NETWORK,
    identity=bound([WEST_AUTHORITY.key], of_east()),
)


@dataclass(frozen=True, slots=True)
class Story:
    """A mesh of two clusters that have met."""

    mesh: VirtualMesh
    east: list[VirtualAgent]
    west: list[VirtualAgent]

    @property
    def everybody(self) -> list[VirtualAgent]:
        """All agents."""
        return [*self.east, *self.west]

    def have_tunnels(self) -> bool:
        """Tell whether each agent has a tunnel to each other."""
        return all(have_tunnels(agent, self.everybody) for agent in self.everybody)


@pytest.fixture
def story(make_mesh: MakeMesh) -> Story:
    mesh = make_mesh()
    seeds = ["10.0.0.1", f"10.0.0.{NODES + 1}"]
    east = [mesh.boot(f"n{number}.east", seeds=seeds, cluster=EAST) for number in range(NODES)]
    west = [mesh.boot(f"n{number}.west", seeds=seeds, cluster=WEST) for number in range(NODES)]
    found = Story(mesh, east, west)
    mesh.run_until(found.have_tunnels, deadline=60.0)
    for agent in found.everybody:
        agent.lost_tunnels.clear()
        del agent.devices[:-1]
    return found


def have_tunnels(agent: VirtualAgent, others: Iterable[VirtualAgent]) -> bool:
    return agent.wanted is not None and agent.tunnels >= {each.name for each in others if each is not agent}


def routes(device: DeviceConfig) -> dict[WireGuardPublicKey, object]:
    return {peer.public_key: peer.allowed_ips for peer in device.peers}


def assert_nothing_changed(agents: Iterable[VirtualAgent]) -> None:
    for agent in agents:
        first, *others = agent.devices
        for device in others:
            assert routes(device) == routes(first), agent.name
            assert device.address == first.address
        assert agent.lost_tunnels == []


class HostileAuthority:
    """The authority of the west, which certifies what it should not, and a machine that announces that."""

    def __init__(self, story: Story) -> None:
        self._mesh = story.mesh
        self._victim = story.east[2]
        self._thief = Thief(story.mesh, Random(story.mesh.seed))

    def certified(self, name: str, *, incarnation: int = 1, kind: Kind = Kind.NODE, **about: Any) -> Alive:
        """Return an alive with a certificate, whatever is in it."""
        own = {"public_key": private_key(name).public, "address": candidate_address(name, WEST_NETWORK)}
        content = {**own, **about}
        subject = Subject(name=name, **content)
        certificate = WEST_AUTHORITY.issue(subject, serial=self._now + incarnation, kind=kind)
        meta = NodeMeta(
            overlay_address=subject.address,
            public_key=subject.public_key,
            location=subject.location,
            networks=subject.networks,
            certificate=certificate,
            version=1,
        )
        return self._thief.alive(name, meta.encode(compact=True), incarnation=incarnation)

    @property
    def _now(self) -> int:
        return int(self._mesh.wall_clock * 1000)

    @property
    def _next(self) -> int:
        return self._victim.engine.me.incarnation + 1

    def sign_our_name(self) -> list[Alive]:
        """As a node, as an external machine, at its address, with its key."""
        name = self._victim.name
        return [
            self.certified(name, incarnation=self._next),
            self.certified(name, incarnation=self._next, kind=Kind.PEER),
            self.certified(name, incarnation=self._next, address=self._victim.overlay_address),
            self.certified(name, incarnation=self._next, public_key=self._victim.local.private_key.public),
        ]

    def sign_a_name_that_only_looks_like_its_own(self) -> list[Alive]:
        """None of them ends in a dot and west."""
        return [self.certified(name) for name in ("awest", "west", "a.west.east", "a.WEST")]

    def sign_our_key(self) -> list[Alive]:
        """Under a name of its own."""
        return [self.certified("a.west", public_key=self._victim.local.private_key.public)]

    def sign_an_address_outside_its_networks(self) -> list[Alive]:
        """Sign the address of our member, a free address, and an address of the underlay."""
        outside = (
            self._victim.overlay_address,
            EAST_NETWORK[9],
            ip_address("10.0.0.3"),
            ip_address("fd00::1"),
        )
        return [self.certified(f"b{number}.west", address=each) for number, each in enumerate(outside)]

    def sign_a_node_address(self) -> list[Alive]:
        """As an overlay address."""
        return [self.certified("c.west", address=ip_address(self._victim.address.ip))]

    def sign_networks(self) -> list[Alive]:
        """Outside or wider than its networks, in the overlay, or of our pods and nodes."""
        (ours,) = self._mesh.networks[self._victim.name]
        node = ip_network(self._victim.address.ip)
        networks = (
            *(ip_network("10.99.0.0/24"), ip_network("0.0.0.0/0"), WEST_PODS.supernet()),
            *(ip_network("192.168.99.0/24"), EAST_NETWORK, ip_network("192.168.0.9/32")),
            *(ours, EAST_PODS, ours.supernet(), node, ip_network("10.0.0.0/24"), ip_network("10.245.9.9/32")),
        )
        return [self.certified(f"d{n}.west", networks=(each,)) for n, each in enumerate(networks)]


ATTACKS = [
    HostileAuthority.sign_our_name,
    HostileAuthority.sign_a_name_that_only_looks_like_its_own,
    HostileAuthority.sign_our_key,
    HostileAuthority.sign_an_address_outside_its_networks,
    HostileAuthority.sign_a_node_address,
]


def test_members_of_both_clusters_have_tunnels_although_each_has_its_own_authority(story: Story) -> None:
    for agent in story.everybody:
        assert agent.wanted is not None
        assert [problem for problem in agent.wanted.problems if problem.reason != "SameEndpoint"] == []
        assert {entry.name for entry in agent.hosts} == {
            each.name for each in story.everybody if each is not agent
        }


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_a_hostile_authority_of_another_cluster_changes_no_device(
    story: Story, attack: Callable[[HostileAuthority], list[Alive]]
) -> None:
    """Nor does it take an address, or make a member doubt its own key. Its own members believe it all."""
    hostile = HostileAuthority(story)
    for _ in range(3):
        hostile._thief.say(*attack(hostile), to=story.everybody)
        story.mesh.run(20.0)
    assert_nothing_changed(story.east)
    for agent in story.east:
        assert have_tunnels(agent, story.everybody)
        assert agent.wanted is not None
        assert not any(problem.member == agent.name for problem in agent.wanted.problems)


@pytest.fixture
def carrying(story: Story) -> Story:
    """Have the mesh carry packets between the pods of both clusters."""
    for cluster, first, agents in ((EAST, "10.244", story.east), (WEST, "10.245", story.west)):
        for number, agent in enumerate(agents):
            story.mesh.networks[agent.name] = (ip_network(f"{first}.{number}.0/24"),)
            agent.set_traffic(TrafficSettings(pods="OtherClusters"))
            agent.renew(cluster)
    story.mesh.run(CARRY_AFTER + 10.0)
    for agent in story.everybody:
        del agent.devices[:-1]
    return story


def test_pods_of_both_clusters_are_carried_and_no_address_of_a_node(carrying: Story) -> None:
    for agents, others in ((carrying.east, carrying.west), (carrying.west, carrying.east)):
        theirs = {carrying.mesh.networks[agent.name][0] for agent in others}
        for agent in agents:
            found = agent.devices[-1].carrying
            assert found is not None
            assert {route.network for route in found.routes} == theirs
            # Both clusters may have the same node addresses.
            assert {route.source for route in found.routes} <= {agent.overlay_address, None}


def test_no_network_that_another_cluster_may_not_certify_is_used(carrying: Story) -> None:
    hostile = HostileAuthority(carrying)
    signed = hostile.sign_networks()
    # The members of its cluster trust it, and send packets for our pods elsewhere.
    carrying.mesh.cast_out |= {agent.name for agent in carrying.west}
    for each in signed:
        # In datagrams of their own: of all that is certified, none may be lost for its length.
        hostile._thief.say(each, to=carrying.everybody)
        carrying.mesh.run(5.0)
    ours = {agent.local.private_key.public for agent in carrying.everybody}
    for agent in carrying.east:
        first, *others = agent.devices
        assert {peer.public_key for peer in others[-1].peers} - ours == {
            private_key(each.node).public for each in signed
        }
        for device in others:
            assert device.carrying == first.carrying, agent.name
            for peer in device.peers:
                if peer.public_key not in ours:
                    (network,) = peer.allowed_ips
                    assert network.network_address in WEST_NETWORK


def test_a_network_of_pods_that_another_cluster_may_certify_is_carried(carrying: Story) -> None:
    """Otherwise the one before would show nothing."""
    hostile = HostileAuthority(carrying)
    network = ip_network("10.245.200.0/24")
    hostile._thief.say(hostile.certified("d.west", networks=(network,)), to=carrying.east)
    carrying.mesh.run(5.0)
    for agent in carrying.east:
        found = agent.devices[-1].carrying
        assert found is not None
        assert network in {route.network for route in found.routes}


def test_what_the_hostile_authority_may_sign_has_a_tunnel(story: Story) -> None:
    """Otherwise the attacks would show nothing: this one differs from them in what it says alone."""
    hostile = HostileAuthority(story)
    hostile._thief.say(hostile.certified("a.west"), to=story.everybody)
    story.mesh.run(5.0)
    for agent in story.everybody:
        assert agent.wanted is not None
        assert agent.owners[candidate_address("a.west", WEST_NETWORK)] == private_key("a.west").public


def test_a_statement_of_another_cluster_revokes_none_of_our_names(story: Story) -> None:
    mesh = story.mesh
    now = int(mesh.wall_clock * 1000)
    second = revocation_second(now) + 3600
    names = [*(agent.name for agent in story.east), "n0.west"]
    statement = sign_statement(
        WEST_AUTHORITY, number=now, revoked={name_hash(name): second for name in names}
    )
    assert len(names) < MAX_REVOKED
    item = NewsKind.STATEMENT, statement.packed()
    story.west[-1].change(lambda member, now: member.news_published([item], now=now))
    gone = story.west[0]
    others = [agent for agent in story.everybody if agent is not gone]

    def is_revoked() -> bool:
        return all(gone.name not in agent.tunnels for agent in others)

    took = mesh.run_until(is_revoked, deadline=IN_TIME)
    mesh.run(30.0)
    for agent in others:
        assert set(agent.lost_tunnels) <= {gone.name}
        assert have_tunnels(agent, others)
    mesh.figure(f"a revocation in another cluster: all members have dropped it after {took:.1f} s")


def test_a_statement_of_a_cluster_that_is_not_trusted_changes_nothing(story: Story) -> None:
    """Neither does one that a trusted authority has not signed."""
    now = int(story.mesh.wall_clock * 1000)
    revoked = {name_hash(agent.name): now // 1000 + 3600 for agent in story.everybody}
    stranger = sign_statement(NEW_AUTHORITY, number=now, revoked=revoked)
    forged = replace(stranger, authority=EAST_AUTHORITY.key.id)
    address, sender = story.east[0].address, story.west[0]
    for each in (stranger, forged):
        payload = b"W\1" + each.packed()
        sender.act(partial(_send, address=address, payload=payload))
    story.mesh.run(30.0)
    assert_nothing_changed(story.everybody)


def _send(engine: Engine, now: float, *, address: Address, payload: bytes) -> None:
    engine.send_user_message(address, payload, now=now, reliable=False)


def set_identity(agents: Iterable[VirtualAgent], identity: IdentitySettings) -> None:
    for agent in agents:
        agent._set_document(replace(agent.local.document, identity=identity))


def test_another_cluster_replaces_its_authority_without_an_interruption(story: Story) -> None:
    """As ``kubectl wesher new-authority`` does it there, and ours follows some minutes later."""
    mesh, former, new = story.mesh, WEST_AUTHORITY.key, NEW_AUTHORITY.key
    renewed = replace(WEST, authority=NEW_AUTHORITY, identity=bound([new, former], of_east()))

    set_identity(story.west, renewed.identity)
    mesh.run(10.0)
    for agent in story.west[:-1]:
        agent.renew(renewed)
        mesh.run(5.0)
    newcomer = mesh.boot("new.west", seeds=[story.west[0].address.ip], cluster=renewed)
    mesh.run(2 * IN_TIME)
    assert not any("new.west" in agent.tunnels for agent in story.east), "its authority is not trusted yet"
    assert story.have_tunnels()

    set_identity(story.east, bound([EAST_AUTHORITY.key], of_west(new), of_west(former)))
    mesh.run(IN_TIME)
    assert all("new.west" in agent.tunnels for agent in story.east)
    story.west[-1].renew(renewed)
    mesh.run(IN_TIME)

    set_identity([*story.west, newcomer], bound([new], of_east()))
    set_identity(story.east, bound([EAST_AUTHORITY.key], of_west(new)))
    mesh.run(IN_TIME)
    assert story.have_tunnels()
    for agent in story.everybody:
        assert agent.lost_tunnels == [], agent.name


def test_a_cluster_that_is_trusted_no_longer_loses_its_tunnels_and_ours_stay(story: Story) -> None:
    set_identity(story.east, bound([EAST_AUTHORITY.key]))
    west = {agent.name for agent in story.west}
    story.mesh.run_until(lambda: not any(west & agent.tunnels for agent in story.east), deadline=5.0)
    story.mesh.run(30.0)
    for agent in story.east:
        assert set(agent.lost_tunnels) == west
        assert have_tunnels(agent, story.east)
