"""Has a mesh's machines outside Kubernetes certified, and writes the status of each WesherPeer.

The ledger is written before the first certificate of a name, as for nodes. A certificate counts as issued
once it is in the status of its WesherPeer: only then it is published.

Left to others: every decision (`peers`, `invites`, `peer_addresses`), what is published (`peer_news`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from wesher_common.certificate import Authority, Certificate, Kind
from wesher_common.errors import InvalidSpec
from wesher_common.event_logger import EventLogger
from wesher_common.keys import KEY_BYTES, WireGuardPrivateKey
from wesher_common.mesh_document import IdentityMode
from wesher_common.names import config_map_name, issued_config_map_name, member_name
from wesher_common.news import NEWS_FILE, NewsKind
from wesher_common.overlay import IPAddress
from wesher_operator.kube import MESH, WESHER_PEER, Cluster, Object
from wesher_operator.reconcile import authority, manifests, peers
from wesher_operator.reconcile.authorities import Authorities
from wesher_operator.reconcile.authority import Issued, Ledger, Obstacle
from wesher_operator.reconcile.certifier import LOOK_AGAIN
from wesher_operator.reconcile.facts import MemberFacts, MeshFacts, PeerFacts
from wesher_operator.reconcile.invites import admission
from wesher_operator.reconcile.membership import Released
from wesher_operator.reconcile.news import Item, published_items
from wesher_operator.reconcile.peer_addresses import address_of, place_peers, taken_outside
from wesher_operator.reconcile.peer_news import (
    CertifiedPeer,
    NumberedRing,
    certificate_items,
    ring_items,
)
from wesher_operator.reconcile.peer_situation import Sighting, Situation, is_certified_member, sightings
from wesher_operator.reconcile.peer_status import status_of
from wesher_operator.reconcile.peers import Verdict
from wesher_operator.reconcile.places import REFUSED_AGAIN, WRITES_A_RUN
from wesher_operator.reconcile.revoker import Known
from wesher_operator.reconcile.status import fresh
from wesher_operator.reconcile.trusted import is_of_trusted_cluster
from wesher_operator.reconcile.world import World
from wesher_operator.resources.mesh import WesherMeshSpec
from wesher_operator.resources.peer import WesherPeerStatus

_log = EventLogger("wesher.mesh")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """A mesh's machines outside, before anything is decided about them."""

    situation: Situation
    living: Mapping[str, PeerFacts]
    """By member name, the older first."""
    gone: Mapping[str, IPAddress]
    """Member names and addresses of those that were deleted while this process ran."""
    uncertified: frozenset[str]
    """Names of external members without a certificate of this mesh or of a trusted cluster."""
    claimed: frozenset[IPAddress]
    """Addresses of external members that are not among `living`."""

    @property
    def addresses(self) -> dict[str, IPAddress]:
        """The addresses that `living` have, by member name."""
        found = {name: address_of(peer.status.overlay_ip) for name, peer in self.living.items()}
        return {name: address for name, address in found.items() if address is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What a run came to."""

    items: Sequence[Item] = ()
    """For the news file."""
    awaited: int = 0
    """Serial of the newest certificate that its machine, although agents see it, does not announce yet."""
    again: datetime | None = None


class PeerKeeper:
    """One mesh's machines outside.

    Args:
        mesh: its name.
        world: what has been seen; what is written is taken in at once.
        cluster: where to write.
        entropy: returns that many random bytes.

    """

    def __init__(self, mesh: str, world: World, cluster: Cluster, entropy: Callable[[int], bytes]) -> None:
        self._mesh = mesh
        self._world = world
        self._cluster = cluster
        self._entropy = entropy
        self._known: Mapping[str, IPAddress] = {}

    def look(
        self, mesh: MeshFacts, spec: WesherMeshSpec, members: Sequence[MemberFacts], *, now: datetime
    ) -> Outside:
        """Return what is known of the machines outside.

        Args:
            mesh: whose.
            spec: of the mesh.
            members: its WesherNodes.
            now: the time.

        """
        nodes = {*self._world.nodes, *(member.spec.node_name for member in members)}
        situation = Situation(
            mesh=mesh,
            cluster_name=spec.cluster_name,
            nodes={member_name(node, spec.cluster_name) for node in nodes},
            ledger=Ledger.of(self._world.config_maps.get(issued_config_map_name(mesh.name))),
            signer=None,
            authorities=(),
            sightings=sightings(fresh(members, now=now), now=now),
            now=now,
        )
        living = peers.living(self._world.peers_of(mesh.name), situation)
        # Reports of any age: an API server that was away must not make a member go unnoticed.
        seen = sightings(members, now=now)
        return Outside(
            situation=situation,
            living=living,
            gone={name: address for name, address in self._known.items() if name not in living},
            uncertified=frozenset(
                name for name, each in seen.items() if not _is_certified(each, living.get(name), spec)
            ),
            claimed=frozenset(taken_outside(members, {*living, *situation.nodes})),
        )

    def remember(self, outside: Outside) -> None:
        """Take in that the addresses of deleted machines are held back by now."""
        self._known = outside.addresses

    async def keep(
        self,
        outside: Outside,
        spec: WesherMeshSpec,
        authorities: Authorities,
        write_ledger: Callable[[Object], Awaitable[None]],
        *,
        known: Known,
        obstacle: Obstacle | None,
        mode: IdentityMode,
        ring: NumberedRing | None,
        nodes: Collection[IPAddress],
        released: Released,
    ) -> Kept:
        """Certify the machines that are due, write what each WesherPeer is to say, and return the news.

        Args:
            outside: what `look` returned.
            spec: of the mesh.
            authorities: the mesh's.
            write_ledger: brings a ConfigMap to what it is to say.
            known: what was revoked.
            obstacle: why no node is certified now.
            mode: of the mesh, which is kept beside the ledger.
            ring: the mesh's cluster keys.
            nodes: addresses that nodes have.
            released: what is held back.

        Raises:
            ClusterUnavailable: the API server does not answer.

        """
        mesh, now, signer = outside.situation.mesh, outside.situation.now, authorities.signer
        void = known.void
        situation = replace(
            outside.situation,
            # As it stands after the nodes of this run.
            ledger=Ledger.of(self._world.config_maps.get(issued_config_map_name(mesh.name))),
            signer=signer,
            authorities=authorities.trusted,
            void_until={
                name: known.revocations.void(void, name, peer.machine) * 1000
                for name, peer in outside.living.items()
            },
            barred=frozenset(known.revocations.barred),
        )
        placed = place_peers(spec, outside.living, nodes, outside.claimed, released)
        all_peers = self._world.peers_of(mesh.name)
        verdicts = peers.judge_all(all_peers, situation, placed.addresses, placed.problems)
        due = [name for name, verdict in verdicts.items() if verdict.issue is not None]
        if due and signer is not None:
            # Its reply has the API server's time.
            await self._cluster.get(MESH, mesh.name)
            obstacle = authority.clock_obstacle(now, self._cluster.server_time())
        chosen = due[:WRITES_A_RUN] if signer is not None and obstacle is None else []
        entries = {verdicts[name].name: issue for name in chosen if (issue := verdicts[name].issue)}
        entries |= _lost(verdicts.values(), outside, situation.ledger)
        try:
            await self._enter(situation, outside, entries, mode, write_ledger)
        except InvalidSpec as error:
            chosen, obstacle = [], Obstacle("RefusedByCluster", str(error))
        if signer is not None:
            self._sign(signer, chosen, verdicts, situation)
        is_done = await self._write(all_peers, verdicts, situation, obstacle)
        self._known = {each.name: each.address for each in verdicts.values() if each.address is not None}
        moments = [verdict.again for verdict in verdicts.values() if verdict.again and verdict.again > now]
        if verdicts:
            moments.append(authority.next_midnight(now))
        if due and obstacle is not None:
            moments.append(now + LOOK_AGAIN)
        if not is_done:
            moments.append(now + REFUSED_AGAIN)
        if len(due) > len(chosen) and obstacle is None:
            moments.append(now)
        certified = self._certified(verdicts, situation)
        items = [
            *certificate_items(certified),
            *ring_items(certified, signer, ring, self._published(), self._new_pair),
        ]
        awaited = max((_awaited(each, situation) for each in certified), default=0)
        return Kept(items=items, awaited=awaited, again=min(moments, default=None))

    async def _enter(
        self,
        situation: Situation,
        outside: Outside,
        entries: Mapping[str, Issued],
        mode: IdentityMode,
        write_ledger: Callable[[Object], Awaitable[None]],
    ) -> None:
        ledger = situation.ledger
        changed = {name: entry for name, entry in entries.items() if ledger.entries.get(name) != entry}
        if changed:
            ledger = ledger.with_entries(changed, {*situation.nodes, *outside.living})
            await write_ledger(manifests.issued_config_map(situation.mesh, ledger, mode))

    def _sign(
        self,
        signer: Authority,
        chosen: Iterable[str],
        verdicts: dict[str, Verdict],
        situation: Situation,
    ) -> None:
        """Sign, and say so in the verdicts."""
        serial = authority.next_serial(self._certificates(), situation.now)
        for peer in chosen:
            verdict = verdicts[peer]
            if (subject := verdict.subject) is None:
                continue
            serial = max(serial, situation.void_until.get(verdict.name, 0) + 1)
            certificate = signer.issue(subject, serial=serial, kind=Kind.PEER)
            verdicts[peer] = replace(verdict, certificate=certificate, again=authority.renewal(certificate))
            serial += 1
            _log.info(
                "external machine certified",
                mesh=self._mesh,
                member=verdict.name,
                key=subject.public_key,
                serial=certificate.serial,
            )

    def _certificates(self) -> list[Certificate]:
        """Return every certificate of the mesh."""
        texts = [member.spec.certificate for member in self._world.members_of(self._mesh)]
        texts += [peer.status.certificate for peer in self._world.peers_of(self._mesh)]
        return [each for text in texts if (each := Certificate.from_base64(text)) is not None]

    async def _write(
        self,
        all_peers: Iterable[PeerFacts],
        verdicts: Mapping[str, Verdict],
        situation: Situation,
        obstacle: Obstacle | None,
    ) -> bool:
        """Write each status that differs; tell whether all are as they should be."""
        is_done, written = True, 0
        for peer in all_peers:
            wanted = status_of(peer, verdicts[peer.name], situation, obstacle)
            if WesherPeerStatus.model_validate(wanted) == peer.status:
                continue
            if written == WRITES_A_RUN:
                return False
            written += 1
            is_done &= await self._write_one(peer, wanted)
        return is_done

    async def _write_one(self, peer: PeerFacts, status: Mapping[str, Any]) -> bool:
        body = {"metadata": {"name": peer.name, "uid": peer.uid}, "status": dict(status)}
        try:
            answer = await self._cluster.apply(WESHER_PEER, body, subresource="status")
        except InvalidSpec as error:
            _log.warning("status not written", mesh=self._mesh, name=peer.name, error=error)
            return False
        self._world.observe(WESHER_PEER, answer)
        return True

    def _certified(self, verdicts: Mapping[str, Verdict], situation: Situation) -> list[CertifiedPeer]:
        certified = []
        for name, verdict in sorted(verdicts.items()):
            peer, subject, certificate = self._world.peers.get(name), verdict.subject, verdict.certificate
            if peer is None or subject is None or certificate is None:
                continue
            if peer.status.certificate != certificate.to_base64():
                continue  # its status was not written
            certified.append(
                CertifiedPeer(subject=subject, certificate=certificate, ring=_ring_of(verdict, situation))
            )
        return certified

    def _published(self) -> list[Item]:
        facts = self._world.config_maps.get(config_map_name(self._mesh))
        data = (facts.body.get("binaryData") or {}) if facts is not None else {}
        return [item for item in published_items(data, NEWS_FILE) if item[0] is NewsKind.RING]

    def _new_pair(self) -> WireGuardPrivateKey:
        return WireGuardPrivateKey.from_random(self._entropy(KEY_BYTES))


def _lost(verdicts: Iterable[Verdict], outside: Outside, ledger: Ledger) -> dict[str, Issued]:
    """Return the entries of certified machines that the ledger does not have: it was deleted.

    Without them, a machine whose WesherPeer is deleted would not be revoked.
    """
    return {
        each.name: Issued(str(each.key), admission(outside.living[each.name]))
        for each in verdicts
        if each.certificate is not None and each.name not in ledger.entries and each.name in outside.living
    }


def _is_certified(seen: Sequence[Sighting], peer: PeerFacts | None, spec: WesherMeshSpec) -> bool:
    """Tell whether the newest report of an external member shows a certificate that counts here."""
    if not seen:
        return False
    newest = seen[0]
    return is_certified_member(newest, peer) or is_of_trusted_cluster(newest.name, newest.cluster, spec)


def _awaited(peer: CertifiedPeer, situation: Situation) -> int:
    """Return the serial of a machine's certificate, if agents see the machine without it; otherwise 0."""
    seen = situation.sightings.get(peer.subject.name, ())
    serials = [each.serial for each in seen if each.key == peer.subject.public_key]
    serial = peer.certificate.serial
    return serial if serials and serials[0] < serial else 0


def _ring_of(verdict: Verdict, situation: Situation) -> str:
    seen = situation.sightings.get(verdict.name, ())
    return next((each.ring for each in seen if each.key == verdict.key), "")
