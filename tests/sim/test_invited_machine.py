"""A machine outside Kubernetes from its invite to a renewed certificate, and back after a year.

The nodes are agents in Kubernetes, whose operator is played here: it sees what the nodes would report,
signs, and publishes its news to the nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from wesher_agent.files.state_format import parse_state, render_state
from wesher_agent.mesh import events
from wesher_agent.mesh.local import Local, Options
from wesher_agent.mesh.member import MeshMember
from wesher_agent.mesh.nodemeta import NodeMeta
from wesher_agent.mesh.place import Place
from wesher_agent.mesh.saved_state import SavedState
from wesher_agent.swim.events import KnockAnswered
from wesher_common.certificate import Authority, AuthorityKey, Kind, Subject
from wesher_common.enrolment import is_enrolled
from wesher_common.join_file import JoinFile
from wesher_common.keys import KEY_BYTES, ClusterKey, KeyRing, WireGuardPrivateKey
from wesher_common.mesh_document import GossipSettings, IdentitySettings, MeshDocument
from wesher_common.news import NewsKind, PeerCertificate, key_hash, seal_ring, sign_statement
from wesher_common.overlay import IPAddress
from wesher_common.seeds import SeedAddress
from wesher_testing.virtual.members import private_key
from wesher_testing.virtual.mesh import EPOCH, KEYS, VirtualAgent, VirtualMesh, host_at
from wesher_testing.virtual.network import PORT, Node

Make = Callable[..., VirtualMesh]
Item = tuple[NewsKind, bytes]

AUTHORITY = Authority(bytes([1]) * 32)
SEED = bytes([9]) * 32
OVERLAY = ip_network("192.168.0.0/16")
GIVEN = ip_address("192.168.200.1")
YEAR = 365 * 24 * 3600.0
NEW_RING = KeyRing(ClusterKey(bytes([7]) * KEY_BYTES))
DAY_MS = 24 * 3_600_000
STATEMENT = NewsKind.STATEMENT, sign_statement(AUTHORITY, number=1, revoked={}).packed()


class Agent(VirtualAgent):
    """One agent, which cannot see those with another key ring."""

    def misses(self) -> Iterator[tuple[Node, str]]:
        """Yield what is missed of those with the same key ring."""
        for other, what in super().misses():
            if isinstance(other, VirtualAgent) and other.local.ring == self.local.ring:
                yield other, what


class Mesh:
    """Four nodes with certificates, and the operator's part."""

    def __init__(self, network: VirtualMesh, *, form: str = "Gob") -> None:
        self.network = network
        self.wall_offset = EPOCH
        self.ring = KEYS
        self.identity = IdentitySettings(
            mode="Verified",
            bound=True,
            authorities=(AUTHORITY.key,),
            form=form,  # type: ignore[arg-type]
        )
        self.nodes = [self._node(number) for number in range(4)]
        network.run_until(lambda: all(len(node.alive) == 4 for node in self.nodes), deadline=60.0)

    @property
    def now_ms(self) -> int:
        """The operator's clock."""
        return int((self.network.now + self.wall_offset) * 1000)

    def _document(self, **changes: Any) -> MeshDocument:
        return MeshDocument(
            name="prod",
            uid="u-1",
            overlay=OVERLAY,
            allocation=OVERLAY,
            gossip=GossipSettings(port=PORT, profile="LAN"),
            **changes,
        )

    def _certified(self, name: str, key: WireGuardPrivateKey, address: IPAddress) -> Place:
        about = Subject(name=name, public_key=key.public, address=address)
        return Place(overlay_address=address, certificate=AUTHORITY.issue(about, serial=self.now_ms))

    def _node(self, number: int) -> VirtualAgent:
        name, address = f"n{number}", ip_address(f"192.168.0.{number + 1}")
        seeds = () if number == 0 else (SeedAddress("10.0.0.1"),)
        document = self._document(cluster_seeds=seeds, identity=self.identity)
        return self.boot(
            name,
            document,
            Options(in_kubernetes=True, leaves_on_exit=False),
            place=self._certified(name, private_key(name), address),
        )

    def boot(
        self,
        name: str,
        document: MeshDocument,
        options: Options,
        saved: SavedState | None = None,
        **more: Any,
    ) -> VirtualAgent:
        """Start an agent."""
        network, address = self.network, self.network.new_address()
        host, saved = host_at(address), saved or SavedState()
        local = Local(
            name=name,
            private_key=saved.private_key or private_key(name),
            ring=saved.key_ring or self.ring,
            document=document,
            options=options,
            host=host,
            listening=options.listening(document, None, host),
            **more,
        )
        rng = network.new_dice()
        wall = network.now + self.wall_offset
        member = MeshMember(local, saved, now=network.now, wall=wall, rng=rng, nonce=rng.randbytes)
        agent = Agent(network, member, address, saved)
        network.place(agent)
        agent.change(lambda member, now: member.start(now=now))
        return agent

    def invited(self, name: str = "laptop", saved: SavedState | None = None) -> VirtualAgent:
        """Start the invited machine, or start it again from its state file."""
        state = None
        if saved is not None:
            state, problems = parse_state(render_state(saved).encode(), gossip_port=PORT)
            assert problems == []
        join = JoinFile(
            mesh_name="prod",
            mesh_uid="u-1",
            ring=self.ring,
            seeds=(SeedAddress("10.0.0.1"), SeedAddress("10.0.0.2")),
            label="",
            profile="LAN",
            overlay=OVERLAY,
            name=name,
            authority=AUTHORITY.key,
            enrol_seed=SEED,
        )
        own = IdentitySettings(mode="Verified", bound=True, authorities=(AUTHORITY.key,))
        return self.boot(
            name,
            self._document(seed_nodes=join.seeds, identity=own),
            Options(),
            state,
            place=state.place if state is not None else None,
            joined=state.joined if state is not None else join,
        )

    def publish(self, *items: Item) -> None:
        """Mount news in the agents of all nodes."""
        for node in self.nodes:
            node.change(lambda member, now: member.news_published(items, now=now))

    def certificate(self, name: str = "laptop", *, key: WireGuardPrivateKey | None = None) -> Item:
        """Certify a machine outside."""
        about = Subject(name=name, public_key=(key or private_key(name)).public, address=GIVEN)
        issued = AUTHORITY.issue(about, serial=self.now_ms, kind=Kind.PEER)
        return NewsKind.CERTIFICATE, PeerCertificate(subject=about, certificate=issued).packed()

    def ring_for(self, name: str = "laptop") -> Item:
        """Seal the present key ring to a machine."""
        ephemeral = WireGuardPrivateKey.from_random(bytes(range(32)))
        keys = [key.secret for key in self.ring]
        sealed = seal_ring(AUTHORITY, keys, private_key(name).public, number=self.now_ms, ephemeral=ephemeral)
        return NewsKind.RING, sealed.packed()

    def a_year_passes(self) -> None:
        """Set all clocks ahead, certify the nodes again, and give them another key ring."""
        self.wall_offset += YEAR
        self.ring = NEW_RING
        self.publish()
        for node in self.nodes:
            place = self._certified(node.name, node.local.private_key, node.overlay_address)
            wall = self.network.now + self.wall_offset
            node.change(lambda member, now, wall=wall: member.clock_read(wall, now=now))
            node.change(lambda member, now, place=place: member.node_given(place, now=now))
            document = node.local.document
            node.change(
                lambda member, now, document=document: member.mesh_changed(document, NEW_RING, now=now)
            )

    def has_tunnels(self, machine: VirtualAgent) -> bool:
        """Tell whether the machine and all nodes have tunnels to each other, at the address it was given."""
        return (
            machine.wanted is not None
            and machine.local.overlay_address == GIVEN
            and machine.tunnels >= {node.name for node in self.nodes}
            and all(machine.name in node.tunnels for node in self.nodes)
        )


def announced(agent: VirtualAgent, name: str) -> NodeMeta:
    """Return what an agent knows of what another announces."""
    meta = agent.member._roster.members[name].meta
    assert meta is not None
    return meta


@pytest.fixture
def mesh(make_mesh: Make) -> Mesh:
    return Mesh(make_mesh())


def join(mesh: Mesh) -> VirtualAgent:
    """Bring the invited machine into the mesh."""
    laptop = mesh.invited()
    mesh.network.run_until(lambda: all("laptop" in node.alive for node in mesh.nodes), deadline=20.0)
    mesh.publish(mesh.certificate())
    mesh.network.run_until(lambda: mesh.has_tunnels(laptop), deadline=20.0)
    return laptop


def test_an_invited_machine_has_its_tunnels_within_seconds_of_its_certificate(mesh: Mesh) -> None:
    laptop = mesh.invited()
    mesh.network.run_until(lambda: all("laptop" in node.alive for node in mesh.nodes), deadline=20.0)
    mesh.network.run(5.0)
    for node in mesh.nodes:
        meta, key = announced(node, "laptop"), private_key("laptop").public
        invite = Authority(SEED).key
        assert is_enrolled(invite, meta.enrolment, mesh_uid="u-1", name="laptop", key=key)
        assert not is_enrolled(invite, meta.enrolment, mesh_uid="u-1", name="tablet", key=key)
        assert not is_enrolled(AuthorityKey(key.raw), meta.enrolment, mesh_uid="u-1", name="laptop", key=key)
        assert "laptop" not in node.tunnels, "not certified yet"
    mesh.publish(mesh.certificate())
    took = mesh.network.run_until(lambda: mesh.has_tunnels(laptop), deadline=20.0)
    assert took < 10.0
    meta = announced(mesh.nodes[0], "laptop")
    assert (meta.enrolment, meta.is_movable) == (b"", False)
    mesh.network.run_until(lambda: laptop.state_file.certificate is not None, deadline=5.0)
    assert laptop.state_file.overlay_address == GIVEN


def test_a_restarted_machine_needs_neither_its_join_file_nor_the_operator(mesh: Mesh) -> None:
    laptop = join(mesh)
    mesh.network.run(5.0)
    mesh.network.crash(laptop)
    mesh.publish()
    again = mesh.invited(saved=laptop.state_file)
    mesh.network.run_until(lambda: mesh.has_tunnels(again), deadline=20.0)
    assert again.local.joined is not None
    assert again.local.joined.enrol_seed == SEED


def test_a_renewed_certificate_reaches_its_owner(mesh: Mesh) -> None:
    laptop = join(mesh)
    former = announced(mesh.nodes[0], "laptop").certificate
    assert former is not None
    mesh.network.run(60.0)
    mesh.publish(mesh.certificate())

    def has_newer() -> bool:
        present = announced(mesh.nodes[0], "laptop").certificate
        return present is not None and present.serial > former.serial

    mesh.network.run_until(has_newer, deadline=30.0)
    assert mesh.has_tunnels(laptop)
    assert len(laptop.happened(events.CertificateReceived)) == 2


def test_the_operator_sees_an_invited_machine_whose_name_another_machine_used_first(mesh: Mesh) -> None:
    """Anyone with the cluster key can; the certificate then reaches the machine through the door."""
    document = mesh._document(seed_nodes=(SeedAddress("10.0.0.1"),))
    thief = mesh.boot("laptop", document, Options(), SavedState(private_key=private_key("thief")))
    mesh.network.run_until(lambda: all("laptop" in node.alive for node in mesh.nodes), deadline=20.0)
    laptop = mesh.invited()

    def seen() -> list[NodeMeta | None]:
        views = [node.member.view(now=mesh.network.now) for node in mesh.nodes]
        return [claimant.meta for view in views for claimant in view.claimants]

    mesh.network.run_until(lambda: bool(seen()), deadline=20.0)
    [shown, *_] = seen()
    assert shown is not None
    key = private_key("laptop").public
    invite = Authority(SEED).key
    assert is_enrolled(invite, shown.enrolment, mesh_uid="u-1", name="laptop", key=key)
    mesh.publish(mesh.certificate())
    mesh.network.run_until(lambda: mesh.has_tunnels(laptop), deadline=180.0)
    assert not any(node.member.view(now=mesh.network.now).claimants for node in mesh.nodes)
    assert not thief.tunnels


def test_another_machine_cannot_use_a_certificate_that_it_has_overheard(mesh: Mesh) -> None:
    """One that uses the invite's name has another WireGuard key, for which the certificate does not count."""
    thief = mesh.invited()
    thief.member._local = replace(thief.local, private_key=private_key("thief"))
    mesh.network.run_until(lambda: all("laptop" in node.alive for node in mesh.nodes), deadline=20.0)
    mesh.publish(mesh.certificate())
    mesh.network.run(30.0)
    assert not any("laptop" in node.tunnels for node in mesh.nodes)
    assert thief.local.place is None


@pytest.mark.parametrize("form", ["Gob", "Compact"])
def test_a_machine_outside_speaks_the_form_of_the_nodes(make_mesh: Make, form: str) -> None:
    mesh = Mesh(make_mesh(), form=form)
    laptop = join(mesh)
    mesh.network.run(5.0)
    assert laptop.engine.me.meta.startswith(b"\0") == (form == "Compact")


def test_a_machine_that_was_away_for_a_year_comes_back_through_the_door(mesh: Mesh) -> None:
    """It has the former key ring and an expired certificate, and so has another machine beside it."""
    laptop = join(mesh)
    mesh.network.run(5.0)
    mesh.network.crash(laptop)
    mesh.a_year_passes()
    mesh.network.run(60.0)
    again = mesh.invited(saved=laptop.state_file)
    of_tablet = replace(laptop.state_file, name="tablet", certificate=None, private_key=private_key("tablet"))
    beside = mesh.invited("tablet", saved=of_tablet)
    mesh.network.run(300.0)
    assert not again.alive & {node.name for node in mesh.nodes}
    assert {answer.answer for answer in again.happened(KnockAnswered)} == {b""}, "nothing is published for it"
    mesh.publish(STATEMENT, mesh.ring_for(), mesh.certificate())
    others = {node.name for node in mesh.nodes}
    took = mesh.network.run_until(lambda: again.alive >= others, deadline=180.0)
    assert took < 90.0
    assert again.member.view(now=mesh.network.now).news_number == 1, "the statement came with them"
    mesh.network.run_until(lambda: mesh.has_tunnels(again), deadline=20.0)
    assert again.local.ring == NEW_RING
    mesh.network.run(5.0)
    saved = again.state_file
    assert saved.key_ring == NEW_RING
    assert saved.key_ring is not None
    assert saved.key_ring.number > 0
    assert saved.joined is not None
    assert saved.joined.ring == NEW_RING, "the state file keeps no former key"
    assert not beside.happened(events.KeyRingChanged)


def test_a_flood_at_the_door_harms_neither_gossip_nor_joins_nor_a_machine_that_comes_back(mesh: Mesh) -> None:
    laptop = join(mesh)
    mesh.network.run(5.0)
    mesh.network.crash(laptop)
    mesh.a_year_passes()
    mesh.publish(mesh.ring_for(), mesh.certificate(), mesh.certificate("tablet"))
    flooders = [
        mesh.network.add(f"flood{number}", packet_format=laptop.local.packet_format) for number in range(3)
    ]
    _flood(mesh, flooders, until=mesh.network.now + 240.0)
    mesh.network.run(30.0)
    tablet = mesh.invited("tablet")
    joined = mesh.network.run_until(lambda: "tablet" in mesh.nodes[3].tunnels, deadline=30.0)
    assert joined < 20.0
    assert tablet.alive >= {node.name for node in mesh.nodes}
    again = mesh.invited(saved=laptop.state_file)
    mesh.network.run_until(lambda: "laptop" in mesh.nodes[3].alive, deadline=150.0)
    assert again.local.ring == NEW_RING
    failed = [node.name for node in mesh.nodes if node.alive < {one.name for one in mesh.nodes}]
    assert failed == []


def _flood(mesh: Mesh, flooders: Iterable[Node], *, until: float) -> None:
    """Knock thirty times a second at each node, for a key that has items and for guesses."""
    tokens = (key_hash(private_key("laptop").public), bytes(16))
    network, count = mesh.network, 0

    def knock() -> None:
        nonlocal count
        count += 1
        for flooder in flooders:
            for node in mesh.nodes:
                flooder.act(
                    lambda engine, now, node=node: engine.knock(node.address, tokens[count % 2], now=now)
                )
        if network.now < until:
            network.at(network.now + 0.1, knock)

    knock()


def test_a_machine_in_its_mesh_never_knocks(mesh: Mesh) -> None:
    laptop = join(mesh)
    mesh.network.record = True
    mesh.network.run(300.0)
    assert laptop.asked, "it exchanges state"
    assert not [first for _, _, first in laptop.asked if first.startswith(b"\x57")]
