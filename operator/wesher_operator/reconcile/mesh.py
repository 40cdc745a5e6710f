"""Makes one mesh be as its spec says, from whatever state it is in.

Level-triggered: each run looks at the whole mesh and writes what differs, so a
run that was cut short by a crash is finished by the next, in this process or
another. The order of writes matters where it says so.

Left to others: when to run (`control`), every decision (the pure modules
beside this one).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from wesher_common.conditions import Condition
from wesher_common.errors import InvalidSpec
from wesher_common.keys import KEY_BYTES, KeyRing
from wesher_common.mesh_document import FILE_NAME, MeshDocument
from wesher_common.names import (
    NUDGE_ANNOTATION,
    config_map_name,
    daemon_set_name,
    member_name,
    released_config_map_name,
    wesher_node_name,
)
from wesher_common.seeds import SeedAddress
from wesher_operator.kube import (
    CONFIG_MAP,
    DAEMON_SET,
    EVENT,
    MESH,
    POD,
    SECRET,
    WESHER_NODE,
    Cluster,
    Kind,
    Object,
)
from wesher_operator.reconcile import allocation, manifests, membership, status
from wesher_operator.reconcile.facts import MemberFacts, MeshFacts, NodeFacts, ObjectFacts
from wesher_operator.reconcile.membership import Released
from wesher_operator.reconcile.refusal import Refusal, refusal
from wesher_operator.reconcile.status import Findings
from wesher_operator.reconcile.world import World
from wesher_operator.resources.mesh import WesherMeshSpec

_log = logging.getLogger("wesher.mesh")
_TOLD = {"Ready": "False", "KeyReady": "False", "Converged": "False", "Degraded": "True"}
"""The conditions whose transitions become Events, and the status in which each is bad news."""


class MeshReconciler:
    """One mesh's reconciler; runs of it never overlap.

    Args:
        name: of the mesh.
        world: what has been seen; what is written is taken in at once.
        cluster: where to write.
        settings: what the installation decides about agents.
        clock: the time, with a zone.

    """

    def __init__(
        self,
        name: str,
        world: World,
        cluster: Cluster,
        settings: manifests.AgentSettings,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._name = name
        self._world = world
        self._cluster = cluster
        self._settings = settings
        self._clock = clock
        self._unselected_since: dict[str, datetime] = {}
        self._views_differ_since: datetime | None = None
        # The API server writes some values its own way: a cpu of 0.02 comes back as 20m.
        self._applied: dict[str, tuple[Object, ObjectFacts | None]] = {}

    async def reconcile(self) -> datetime | None:
        """Bring the mesh nearer to its spec; return when to look again without being woken.

        Raises:
            ClusterUnavailable: the API server cannot be asked now; run again later.

        """
        mesh = self._world.meshes.get(self._name)
        if mesh is None or mesh.deleting:
            return None
        now = self._clock()
        if not mesh.status.get("conditions"):
            # Written first, so that whoever waits for Ready has something to wait on.
            await self._write_status(mesh, status.first_status(mesh, now=now))
        findings, again = await self._make(mesh, now)
        await self._publish(mesh, status.mesh_status(mesh, findings, now=now), now)
        moments = [moment for moment in (again, status.next_change(findings, now=now)) if moment is not None]
        return min(moments, default=None)

    async def _make(self, mesh: MeshFacts, now: datetime) -> tuple[Findings, datetime | None]:
        """Make everything but the status; return what was found and when time alone changes it."""
        spec = mesh.spec
        refused = refusal(mesh, self._world)
        if spec is None or refused is not None:
            members = self._own_members(mesh)
            desired = membership.selected(spec, self._world.nodes.values()) if spec is not None else []
            return Findings(desired=desired, members=members, refusal=refused), None

        desired = membership.selected(spec, self._world.nodes.values())
        again, failure, ring, key_problem = None, None, None, ""
        try:
            ring, key_problem = await self._key(mesh, spec)
            released, again = await self._members(mesh, spec, desired, now)
            document = await self._config(mesh, spec, desired, released)
            if ring is not None or daemon_set_name(mesh.name) in self._world.daemon_sets:
                await self._ensure(DAEMON_SET, manifests.daemon_set(mesh, spec, self._settings))
            if ring is not None:
                await self._nudge(mesh, document, ring)
        except InvalidSpec as error:
            failure = Refusal("RefusedByCluster", str(error))

        members = self._own_members(mesh)
        if not status.views_differ(members, now=now):
            self._views_differ_since = None
        elif self._views_differ_since is None:
            self._views_differ_since = now
        findings = Findings(
            desired=desired,
            members=members,
            ring=ring,
            key_problem=key_problem,
            failure=failure,
            views_differ_since=self._views_differ_since,
        )
        return findings, again

    async def _key(self, mesh: MeshFacts, spec: WesherMeshSpec) -> tuple[KeyRing | None, str]:
        name = spec.key_secret(mesh.name)
        in_use = bool((mesh.status.get("key") or {}).get("id"))
        seen = self._world.keys.get(name)
        if seen is None and in_use:
            return None, (
                f"Secret {name} is gone; agents go on with the key they have: put it back. "
                "A new key would lock out every member outside this cluster"
            )
        if not in_use and (seen is None or seen.ring is not None):
            # Also where one was seen: it may be deleted by now, and the news of that still on the way.
            made = await self._cluster.create(
                SECRET, manifests.key_secret(name, mesh.name, os.urandom(KEY_BYTES))
            )
            if made is not None:
                self._world.observe(SECRET, made)
                _log.info("cluster key made mesh=%s secret=%s", mesh.name, name)
            elif seen is None:
                return None, f"Secret {name} was made by another at this moment"
        facts = self._world.keys[name]
        return facts.ring, f"Secret {name}: {facts.problem}" if facts.problem else ""

    async def _members(
        self, mesh: MeshFacts, spec: WesherMeshSpec, desired: list[NodeFacts], now: datetime
    ) -> tuple[Released, datetime | None]:
        known = self._world.members_of(mesh.name)
        mine = {member.spec.node_name: member for member in self._own_members(mesh)}
        departures = membership.departures(
            mine,
            {node.name for node in desired},
            self._world.nodes,
            {pod.node for pod in self._world.pods.values() if pod.mesh == mesh.name and pod.ending},
            self._unselected_since,
            now=now,
        )
        self._unselected_since = departures.waiting
        leaving = [mine[node] for node in departures.now]

        stored = self._released(mesh.name)
        released = stored.after(
            [(allocation.name_of(spec, member), member.address) for member in leaving],
            [allocation.name_of(spec, node) for node in desired],
            {allocation.name_of(spec, member) for node, member in mine.items() if node not in departures.now},
            now=now,
        )
        if released != stored:
            # Before the deletions: a crash in between must not forget who left.
            await self._ensure(CONFIG_MAP, manifests.released_config_map(mesh, released))
        foreign = [member for member in known if member.spec.mesh_ref.uid != mesh.uid]
        for member in (*leaving, *foreign):
            await self._cluster.delete(WESHER_NODE, member.name, uid=member.uid)
            _log.info("member removed mesh=%s node=%s", mesh.name, member.spec.node_name)

        taken = {member.address for member in known} | set(released.addresses)
        blocked = {member.spec.node_name for member in foreign}
        fresh = {
            allocation.name_of(spec, node): node
            for node in desired
            if node.name not in mine and node.name not in blocked
        }
        given = {
            name: kept
            for name in fresh
            if (kept := released.kept_for(name, spec.allocation)) is not None
            and all(member.address != kept for member in known)
        }
        given |= allocation.allocate(fresh.keys() - given.keys(), spec.allocation, taken)[0]
        addresses = {fresh[name].name: address for name, address in given.items()}
        addresses |= {node: member.address for node, member in mine.items()}
        for node in desired:
            if node.name in addresses and node.name not in blocked:
                await self._ensure_member(mesh, spec, node, addresses)
        moments = [moment for moment in (departures.grace_ends, released.next_expiry) if moment is not None]
        return released, min(moments, default=None)

    async def _ensure_member(
        self, mesh: MeshFacts, spec: WesherMeshSpec, node: NodeFacts, addresses: Mapping[str, Any]
    ) -> None:
        wanted = allocation.node_spec(mesh, spec, node, addresses[node.name])
        member = self._world.members.get(wesher_node_name(mesh.name, node.name))
        right = (
            member is not None
            and member.spec == wanted
            and member.owner_uid == mesh.uid
            and member.label == mesh.name
        )
        if not right:
            applied = await self._cluster.apply(WESHER_NODE, manifests.wesher_node(mesh, wanted))
            self._world.observe(WESHER_NODE, applied)

    async def _config(
        self, mesh: MeshFacts, spec: WesherMeshSpec, desired: list[NodeFacts], released: Released
    ) -> MeshDocument:
        document = MeshDocument(
            name=mesh.name,
            uid=mesh.uid,
            overlay=spec.overlay,
            allocation=spec.allocation,
            cluster_name=spec.cluster_name,
            wireguard=spec.wireguard_settings,
            gossip=spec.gossip_settings,
            etc_hosts=spec.etc_hosts,
            seed_nodes=spec.seeds,
            removed=tuple(sorted(released.names)),
        )
        document = replace(
            document, cluster_seeds=allocation.cluster_seeds(desired, self._seeds_chosen(mesh.name))
        )
        await self._ensure(CONFIG_MAP, manifests.config_map(mesh, document))
        return document

    async def _nudge(self, mesh: MeshFacts, document: MeshDocument, ring: KeyRing) -> None:
        """Make kubelets bring changed files now to the agents that report having old ones."""
        key_ids = {key.id for key in ring}
        wanted = ".".join([document.config_hash, *sorted(key_ids - {ring.primary.id}), ring.primary.id])
        reports = {member.spec.node_name: member.status for member in self._own_members(mesh)}
        for pod in [each for each in self._world.pods.values() if each.mesh == mesh.name and not each.ending]:
            report = reports.get(pod.node)
            if report is None or not report.config_hash:
                # What is news to one without a place: that it was removed. It must ask while its token lives.
                current = member_name(pod.node, document.cluster_name) not in document.removed
            else:
                current = (
                    report.config_hash == document.config_hash
                    and report.primary_key_id == ring.primary.id
                    and set(report.key_ids) == key_ids
                )
            if not current and pod.nudge != wanted:
                await self._cluster.annotate(POD, pod.name, {NUDGE_ANNOTATION: wanted})

    async def _publish(self, mesh: MeshFacts, wanted: Mapping[str, Any], now: datetime) -> None:
        before = self._world.meshes.get(mesh.name)
        if before is None or before.uid != mesh.uid or dict(before.status) == wanted:
            return
        was = {entry["type"]: entry["status"] for entry in before.status.get("conditions") or []}
        await self._write_status(mesh, wanted)
        for entry in wanted["conditions"]:
            condition = Condition.from_dict(entry)
            if condition.type not in _TOLD or condition.status in {"Unknown", was.get(condition.type)}:
                continue
            bad = condition.status == _TOLD[condition.type]
            if bad or was.get(condition.type) or condition.type == "KeyReady":
                await self._tell(mesh, condition, now, bad=bad)

    async def _tell(self, mesh: MeshFacts, condition: Condition, now: datetime, *, bad: bool) -> None:
        text = f"{condition.type} is {condition.status}" + (
            f": {condition.message}" if condition.message else ""
        )
        log = _log.warning if bad else _log.info
        log(
            "condition changed mesh=%s %s=%s reason=%s",
            mesh.name,
            condition.type,
            condition.status,
            condition.reason,
        )
        await self._cluster.create(
            EVENT,
            manifests.event(mesh, condition.reason, text, warning=bad, name=os.urandom(5).hex(), now=now),
        )

    async def _ensure(self, kind: Kind, wanted: Object) -> None:
        stores = {CONFIG_MAP: self._world.config_maps, DAEMON_SET: self._world.daemon_sets}
        name = wanted["metadata"]["name"]
        observed: ObjectFacts | None = stores[kind].get(name)
        if observed is None or not (
            manifests.covers(observed.body, wanted) or self._applied.get(name) == (wanted, observed)
        ):
            self._world.observe(kind, await self._cluster.apply(kind, wanted))
            self._applied[name] = (wanted, stores[kind].get(name))
            _log.debug("applied kind=%s name=%s", kind.kind, wanted["metadata"]["name"])

    async def _write_status(self, mesh: MeshFacts, wanted: Mapping[str, Any]) -> None:
        body = {"metadata": {"name": mesh.name, "uid": mesh.uid}, "status": dict(wanted)}
        self._world.observe(MESH, await self._cluster.apply(MESH, body, subresource="status"))

    def _own_members(self, mesh: MeshFacts) -> list[MemberFacts]:
        return [m for m in self._world.members_of(mesh.name) if m.spec.mesh_ref.uid == mesh.uid]

    def _released(self, mesh: str) -> Released:
        facts = self._world.config_maps.get(released_config_map_name(mesh))
        data = (facts.body.get("data") or {}) if facts else {}
        return Released.from_json(data.get(membership.RELEASED_FILE, ""))

    def _seeds_chosen(self, mesh: str) -> tuple[SeedAddress, ...]:
        facts = self._world.config_maps.get(config_map_name(mesh))
        try:
            text = (facts.body.get("data") or {})[FILE_NAME] if facts else ""
            return MeshDocument.from_json(text).cluster_seeds
        except (InvalidSpec, KeyError):
            return ()
