"""Makes one mesh be as its spec says, from whatever state it is in.

Level-triggered: each run looks at the whole mesh and writes what differs, so a
run that was cut short by a crash is finished by the next, in this process or
another. A run writes so much and no more, so that a large mesh's status, its
new nodes and its end are not kept waiting. The order of writes matters where
it says so.

Left to others: when to run (`control`), the status (`publish`), every decision
(the pure modules beside this one).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

from wesher_common.errors import ClusterUnavailable, InvalidSpec
from wesher_common.event_logger import EventLogger
from wesher_common.keys import KEY_BYTES, KeyRing
from wesher_common.mesh_document import IdentitySettings, MeshDocument
from wesher_common.names import (
    daemon_set_name,
    issued_config_map_name,
    out_label,
)
from wesher_common.printable import printable
from wesher_common.report import SHOWN_NAMES
from wesher_operator.kube import (
    CONFIG_MAP,
    DAEMON_SET,
    SECRET,
    Cluster,
    Object,
)
from wesher_operator.reconcile import allocation, documents, manifests, membership, modes, status, traffic
from wesher_operator.reconcile.agent_pod import PodTrouble
from wesher_operator.reconcile.agent_ports import health_port
from wesher_operator.reconcile.authorities import Agent, Authorities
from wesher_operator.reconcile.authority import Ledger, mesh_condition
from wesher_operator.reconcile.certifier import Certified, Certifier
from wesher_operator.reconcile.children import Children
from wesher_operator.reconcile.facts import MemberFacts, MeshFacts, NodeFacts, ObjectFacts
from wesher_operator.reconcile.news import NewsFile
from wesher_operator.reconcile.node_keeper import NodeKeeper, Placed, first_of
from wesher_operator.reconcile.nudge import Nudges
from wesher_operator.reconcile.peer_keeper import Kept, Outside, PeerKeeper
from wesher_operator.reconcile.peer_news import NumberedRing, ring_number
from wesher_operator.reconcile.places import REFUSED_AGAIN
from wesher_operator.reconcile.pod_addresses import PodAddresses
from wesher_operator.reconcile.pod_troubles import NOT_RUNNING, PodTroubles
from wesher_operator.reconcile.publish import Publisher
from wesher_operator.reconcile.readiness import ReadinessKeeper
from wesher_operator.reconcile.refusal import Refusal, nodes_on_overlay, overlaps, refusal
from wesher_operator.reconcile.revoker import Known, Revoker, Signed
from wesher_operator.reconcile.status import Findings
from wesher_operator.reconcile.trusted import Trusted
from wesher_operator.reconcile.trusted import decide as decide_trusted
from wesher_operator.reconcile.world import World
from wesher_operator.resources.mesh import WesherMeshSpec

GOB_KEPT_FOR = timedelta(hours=1)
"""After a return to the gob form. Each change of the form reaches all agents, and one agent could cause it
with each of its reports."""
_log = EventLogger("wesher.mesh")


class _MeshGoneError(Exception):
    """The mesh was deleted during a run: what is made now would only be in the way of the clean-up."""


class MeshReconciler:
    """One mesh's reconciler; runs of it never overlap.

    Args:
        name: of the mesh.
        world: what has been seen; what is written is taken in at once.
        cluster: where to write.
        settings: what the installation decides about agents.
        clock: the time, with a zone.
        entropy: returns that many random bytes, for keys.

    """

    def __init__(
        self,
        name: str,
        world: World,
        cluster: Cluster,
        settings: manifests.AgentSettings,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._name = name
        self._world = world
        self._cluster = cluster
        self._publisher = Publisher(world, cluster)
        self._nudges = Nudges(name, world, cluster)
        self._pod_troubles = PodTroubles(name, world, cluster)
        self._certifier = Certifier(name, world, cluster, settings.pods.service_account_name, entropy)
        self._peers = PeerKeeper(name, world, cluster, entropy)
        self._revoker = Revoker(name, world, cluster)
        self._children = Children(world, cluster)
        self._readiness = ReadinessKeeper(name, world, cluster)
        self._nodes = NodeKeeper(
            world,
            cluster,
            children=self._children,
            certifier=self._certifier,
            revoker=self._revoker,
            peers=self._peers,
        )
        self._pod_addresses = PodAddresses(cluster)
        self._settings = settings
        self._clock = clock
        self._entropy = entropy
        self._left_to = ""
        self._views_differ_since: datetime | None = None
        self._gob_until: datetime | None = None

    async def reconcile(self) -> datetime | None:
        """Bring the mesh nearer to its spec; return when to look again without being woken.

        Raises:
            ClusterUnavailable: the API server cannot be asked now; run again later.
            InvalidSpec: it refuses the mesh's status.

        """
        mesh = self._world.meshes.get(self._name)
        if mesh is None or mesh.deleting:
            return None
        if mesh.installation not in {"", self._cluster.namespace}:
            self._leave_alone(mesh)
            return None
        self._left_to = ""
        now = self._clock()
        mesh = await self._begin(mesh, now)
        try:
            findings, again = await self._make(mesh, now)
        except _MeshGoneError:
            return None
        findings, go_on = await self._readiness.keep(mesh, findings, now=now)
        if findings.mode is not None and findings.mode.cut_off and findings.failure is None:
            # Before the status, which says that it was done.
            await self._tell_who_is_cut_off(mesh, findings.mode.cut_off, now)
        await self._publisher.publish(mesh, status.mesh_status(mesh, findings, now=now), now=now)
        return first_of(again, go_on, status.next_change(findings, now=now))

    async def _tell_who_is_cut_off(self, mesh: MeshFacts, names: Sequence[str], now: datetime) -> None:
        shown = ", ".join(names[:SHOWN_NAMES])
        more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
        text = printable(f"only certified members have a tunnel now; without a certificate: {shown}{more}")
        _log.warning("members without a certificate cut off", mesh=mesh.name, members=list(names))
        await self._publisher.tell(mesh, "UncertifiedCutOff", text, warning=True, now=now)

    def _leave_alone(self, mesh: MeshFacts) -> None:
        if self._left_to != mesh.installation:
            self._left_to = mesh.installation
            _log.info("mesh belongs to another installation", mesh=mesh.name, installation=mesh.installation)

    async def _begin(self, mesh: MeshFacts, now: datetime) -> MeshFacts:
        """Claim a mesh that belongs to none yet, and give a new one its first status.

        Raises:
            ClusterUnavailable: the mesh has changed since it was seen; another operator may have been faster.

        """
        is_claimed, is_new = bool(mesh.installation), not mesh.status.get("conditions")
        mesh = replace(mesh, installation=self._cluster.namespace)
        if is_new:
            # Written first, so that `kubectl wait` finds the condition Ready.
            await self._publisher.write(
                mesh, status.first_status(mesh, now=now), unless_changed=not is_claimed
            )
        elif not is_claimed:
            # As it is otherwise: a release before there were claims wrote it.
            claimed = {**mesh.status, "installation": mesh.installation}
            await self._publisher.write(mesh, claimed, unless_changed=True)
        return mesh

    async def _make(self, mesh: MeshFacts, now: datetime) -> tuple[Findings, datetime | None]:
        """Make everything but the status; return what was found and when time alone changes it."""
        spec = mesh.spec
        refused = refusal(mesh, self._world)
        if spec is None or refused is not None:
            return self._left_as_it_is(mesh, refused, now), None

        desired = self._desired(spec)
        moments: list[datetime | None] = []
        troubles: dict[str, PodTrouble] = {}
        refused_write, without_address, ring, key_problem = None, frozenset[str](), None, ""
        published = False
        mode, authorities, certified = self._mode(mesh, spec, desired, now), Authorities(), Certified()
        plan: traffic.Plan | None = None
        known, signed, trusted = Known(), Signed(file=NewsFile(b"")), Trusted()
        try:
            ring, key_problem = await self._key(mesh, spec)
            before = documents.published_of(mesh, self._world)
            authorities = await self._certifier.authorities(mesh, before, self._agents(mesh, spec), now=now)
            outside = self._peers.look(mesh, spec, self._world.own_members(mesh), now=now)
            plan, again = await self._traffic(mesh, spec, desired, now)
            moments.append(again)
            placed = await self._nodes.keep(
                mesh,
                spec,
                desired,
                authorities,
                outside,
                mode=mode,
                networks=plan.networks,
                still_there=partial(self._check, mesh),
                now=now,
            )
            moments.append(placed.again)
            refused_write, without_address = placed.refused, placed.without_address
            certified, known = placed.certified, placed.known
            self._check(mesh)
            await self._keep_mode(mesh, mode)
            trusted = decide_trusted(
                mesh, spec, self._world, authorities.known, before.identity if before is not None else None
            )
            document = documents.whole_document(
                mesh,
                spec,
                self._world,
                desired=desired,
                released=placed.released,
                identity=_identity(mode, authorities, before, trusted),
                traffic=plan.settings,
            )
            kept, signed = await self._news(
                mesh, spec, placed, authorities, outside, document=document, mode=mode, ring=ring
            )
            moments += [kept.again, signed.again]
            await self._children.ensure(CONFIG_MAP, manifests.config_map(mesh, document, signed.file.content))
            published = True
            await self._tell_revoked(mesh, known, now=now)
            moments.append(await self._certifier.report(certified, now=now))
            if ring is not None or self._has_daemon_set(mesh):
                await self._children.ensure(DAEMON_SET, self._daemon_set(mesh, spec, document))
            if ring is not None:
                again = await self._nudges.send(
                    document,
                    ring,
                    signed.number,
                    self._world.own_members(mesh),
                    awaited=kept.awaited,
                    now=now,
                )
                moments.append(again)
            not_running = status.nodes_said_to_be(mesh, NOT_RUNNING.reason, desired)
            troubles, look_again = await self._pod_troubles.look(desired, not_running, now=now)
            moments.append(look_again)
        except InvalidSpec as error:
            refused_write = error
        failure = None
        if refused_write is not None:
            failure = Refusal("RefusedByCluster", str(refused_write))
            moments.append(now + REFUSED_AGAIN)

        members = self._world.own_members(mesh)
        self._note_views(mesh, members, now)
        findings = Findings(
            desired=desired,
            members=members,
            ring=ring,
            ring_number=ring_number(ring, mesh.status.get("key") or {}, now=now) if ring is not None else 0,
            key_problem=key_problem,
            failure=failure,
            overlaps=overlaps(mesh, self._world),
            on_overlay=nodes_on_overlay(mesh, self._world),
            published=published or documents.is_published(mesh, spec, self._world),
            pod_troubles=troubles,
            without_address=without_address,
            views_differ_since=self._views_differ_since,
            mode=mode,
            authorities=authorities.trusted,
            revoked=sorted(known.revocations.barred),
            news_left_out=signed.file.left_out,
            traffic=traffic.mesh_condition(plan, mesh, desired, members),
            trusted=trusted.condition,
            certified=mesh_condition(
                certified.verdicts,
                certified.obstacle,
                mode.uncertified,
                certified.time or now,
                authorities.change,
            )
            if refused_write is None
            else None,
        )
        return findings, first_of(*moments)

    def _left_as_it_is(self, mesh: MeshFacts, refused: Refusal | None, now: datetime) -> Findings:
        """Return what is found of a mesh for which nothing is made."""
        spec, members = mesh.spec, self._world.own_members(mesh)
        desired = self._desired(spec) if spec is not None else []
        return Findings(
            desired=desired,
            members=members,
            refusal=refused,
            mode=self._mode(mesh, spec, desired, now) if spec is not None else None,
            published=spec is not None and documents.is_published(mesh, spec, self._world),
            traffic=traffic.mesh_condition(None, mesh, desired, members),
        )

    async def _traffic(
        self, mesh: MeshFacts, spec: WesherMeshSpec, desired: list[NodeFacts], now: datetime
    ) -> tuple[traffic.Plan, datetime | None]:
        wants_pods = spec.traffic.pods != "None"
        pods, again = await self._pod_addresses.look(desired, is_wanted=wants_pods, now=now)
        return traffic.make_plan(mesh, spec, self._world, desired=desired, pods=pods), again

    def _note_views(self, mesh: MeshFacts, members: Sequence[MemberFacts], now: datetime) -> None:
        if not status.views_differ(members, now=now):
            self._views_differ_since = None
        elif self._views_differ_since is None:
            self._views_differ_since = status.views_differed_since(mesh, len(members), now=now)

    async def _news(
        self,
        mesh: MeshFacts,
        spec: WesherMeshSpec,
        placed: Placed,
        authorities: Authorities,
        outside: Outside,
        *,
        document: MeshDocument,
        mode: modes.Mode,
        ring: KeyRing | None,
    ) -> tuple[Kept, Signed]:
        """Certify machines outside, and return what the news file says of them and of revocations."""
        now = outside.situation.now
        numbered = (
            NumberedRing(ring, ring_number(ring, mesh.status.get("key") or {}, now=now))
            if ring is not None
            else None
        )
        kept = await self._peers.keep(
            outside,
            spec,
            authorities,
            partial(self._children.ensure, CONFIG_MAP),
            known=placed.known,
            obstacle=placed.certified.obstacle,
            mode=mode.mode,
            ring=numbered,
            nodes=placed.addresses,
            released=placed.released,
        )
        signed = self._revoker.news(
            placed.known,
            spec,
            authorities.signers,
            authorities=authorities.trusted,
            more=kept.items,
            beside=len(document.to_json().encode()),
            now=now,
        )
        return kept, signed

    async def _tell_revoked(self, mesh: MeshFacts, known: Known, *, now: datetime) -> None:
        if known.newly_barred:
            names = ", ".join(known.newly_barred[:SHOWN_NAMES])
            text = printable(f"certificates revoked, and these nodes stay out of the mesh: {names}")
            await self._publisher.tell(mesh, "NodesRevoked", text, warning=True, now=now)

    async def _key(self, mesh: MeshFacts, spec: WesherMeshSpec) -> tuple[KeyRing | None, str]:
        name = spec.key_secret(mesh.name)
        in_use = bool((mesh.status.get("key") or {}).get("id"))
        seen = self._world.keys.get(name)
        if seen is None and in_use:
            return None, (
                f"Secret {name} is missing; agents keep using the key they have. Restore the Secret: each "
                f"node of the mesh has the key as ClusterKey in /var/lib/wesher/{spec.wireguard.interface}"
                ".json. A new key would lock out every member outside this cluster"
            )
        if not in_use and (seen is None or seen.ring is not None):
            # Also where one was seen: it may be deleted by now, and the news of that still on the way.
            made = await self._cluster.create(
                SECRET, manifests.key_secret(name, mesh.name, self._entropy(KEY_BYTES))
            )
            if made is not None:
                self._world.observe(SECRET, made)
                _log.info("cluster key generated", mesh=mesh.name, secret=name)
            elif seen is None and (made := await self._cluster.get(SECRET, name)) is not None:
                self._world.observe(SECRET, made)  # another's, of this moment
        facts = self._world.keys.get(name)
        if facts is None:
            raise ClusterUnavailable(f"Secret {name} is repeatedly deleted and created again")
        return facts.ring, f"Secret {name}: {facts.problem}" if facts.problem else ""

    def _daemon_set(self, mesh: MeshFacts, spec: WesherMeshSpec, document: MeshDocument) -> Object:
        """Return the DaemonSet; what agents write on their nodes they can still reach until it is gone."""
        former = self._world.daemon_sets.get(daemon_set_name(mesh.name))
        has_entries = (
            former is not None
            and manifests.mounts_hosts(former.body)
            and any(
                member.status.config_hash != document.config_hash for member in self._world.own_members(mesh)
            )
        )
        return manifests.daemon_set(
            mesh,
            spec,
            self._settings,
            health_port=health_port(mesh, spec, self._world),
            has_hosts=spec.etc_hosts != "Off" or has_entries,
        )

    def _has_daemon_set(self, mesh: MeshFacts) -> bool:
        """Tell whether a mesh has its DaemonSet, not that of an earlier mesh, which had another Secret.

        A Secret without a cluster key is brought to no node: it may be the one of an authority.
        """
        found = self._world.daemon_sets.get(daemon_set_name(mesh.name))
        owners = (found.body["metadata"].get("ownerReferences") or []) if found is not None else []
        return mesh.uid in {owner.get("uid") for owner in owners}

    def _check(self, mesh: MeshFacts) -> None:
        """Raise `_MeshGoneError` where the mesh is not there any more."""
        found = self._world.meshes.get(mesh.name)
        if found is None or found.uid != mesh.uid or found.deleting:
            raise _MeshGoneError

    def _desired(self, spec: WesherMeshSpec) -> list[NodeFacts]:
        pods = (pod for pod in self._world.pods.values() if pod.mesh == self._name and not pod.ending)
        nodes = membership.selected(
            spec,
            self._world.nodes.values(),
            {pod.node for pod in pods},
            shut_out=out_label(self._name),
        )
        overlays = {member.address for member in self._world.members.values()}
        return [allocation.usable(spec, node, overlays) for node in nodes]

    def _mode(
        self, mesh: MeshFacts, spec: WesherMeshSpec, desired: list[NodeFacts], now: datetime
    ) -> modes.Mode:
        own = {member.spec.node_name: member for member in self._world.own_members(mesh)}
        barred = self._revoker.memory(mesh).barred
        # A mesh waits for no node that gets no certificate.
        agents = [
            (allocation.name_of(spec, node), node, own.get(node.name))
            for node in desired
            if node.name not in barred
        ]
        reporters = [member for _, node, member in agents if node.ready and member is not None]
        external = self._peers.look(mesh, spec, reporters, now=now).uncertified
        kept = modes.kept_mode(mesh, self._ledger(mesh))
        published = documents.published_of(mesh, self._world)
        mode = modes.decide(
            spec.identity,
            mesh.status,
            published,
            agents,
            external,
            kept=kept,
            keeps_gob=self._gob_until is not None and now < self._gob_until,
        )
        was_compact = (
            published is not None and published.identity is not None and published.identity.form == "Compact"
        )
        if was_compact and mode.form == "Gob":
            self._gob_until = now + GOB_KEPT_FOR
        return mode

    async def _keep_mode(self, mesh: MeshFacts, mode: modes.Mode) -> None:
        """Keep the mode where an operator of a release without certificates leaves it."""
        ledger = self._ledger(mesh)
        if modes.kept_mode(mesh, ledger) != mode.mode:
            wanted = manifests.issued_config_map(mesh, Ledger.of(ledger), mode.mode)
            await self._children.ensure(CONFIG_MAP, wanted)

    def _ledger(self, mesh: MeshFacts) -> ObjectFacts | None:
        return self._world.config_maps.get(issued_config_map_name(mesh.name))

    def _agents(self, mesh: MeshFacts, spec: WesherMeshSpec) -> list[Agent]:
        nodes = self._world.nodes
        return [
            Agent(
                allocation.name_of(spec, member),
                member.spec,
                member.status,
                is_ready=member.spec.node_name in nodes and nodes[member.spec.node_name].ready,
            )
            for member in self._world.own_members(mesh)
        ]


def _identity(
    mode: modes.Mode, authorities: Authorities, before: MeshDocument | None, trusted: Trusted
) -> IdentitySettings:
    """Return what mesh.json says about identity."""
    proof_key = authorities.proof_key.public if authorities.proof_key is not None else None
    if proof_key is None and before is not None and before.identity is not None:
        proof_key = before.identity.proof_key
    keys = IdentitySettings(authorities=authorities.trusted, proof_key=proof_key, trusted=trusted.authorities)
    return modes.settings(mode, keys)
