"""Tells Kubernetes which nodes' tunnels are ready: by a Node condition, and by a startup taint.

What a Node says comes from the same findings as the mesh's status. A Node has one
condition of this type, so the oldest mesh that asks for it writes it. It is written
where its status or reason changes, without a heartbeat, and removed from Nodes that
left the mesh and when the mesh no longer asks for it.

Taints have no owner: another writer's are kept because each change of them holds
only for the version of the Node that was read.

Left to others: what a member's state is (`status`), writing the mesh's status (`publish`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial

from wesher_common.conditions import Condition, carry_over, find_condition
from wesher_common.errors import InvalidSpec, WesherError
from wesher_common.event_logger import EventLogger
from wesher_common.names import TUNNELS_READY, wesher_node_name
from wesher_operator.kube import NODE, ChangedMeanwhile, Cluster, Object, WriteNotPermitted
from wesher_operator.reconcile.allocation import machine, name_of
from wesher_operator.reconcile.facts import MemberFacts, MeshFacts, NodeFacts
from wesher_operator.reconcile.membership import tolerated
from wesher_operator.reconcile.places import REFUSED_AGAIN, WRITES_A_RUN
from wesher_operator.reconcile.status import Findings, members_of
from wesher_operator.reconcile.world import World
from wesher_operator.resources.mesh import NodeReadiness, WesherMeshSpec
from wesher_operator.taints import Taint, parse_taint

CHART_VALUE = "rbac.nodeReadiness=true"
"""Gives the operator the rights that this needs."""
_AGAIN = timedelta(seconds=1)
"""When a Node that others wrote meanwhile is tried again."""
_SEEN_BY = timedelta(seconds=5)
"""How long the news of a write may take to come back before the write is repeated."""
_TRIES = 3
_STATUS, _NODE = "nodes/status", "nodes"
_log = EventLogger("wesher.mesh")


def tunnels(
    mesh: MeshFacts, spec: WesherMeshSpec, findings: Findings, *, now: datetime
) -> dict[str, Condition]:
    """Return the condition of each Node of the mesh, by the Node's name."""
    entries = {e.name: e for e in members_of(findings, spec, now=now) if e.kind == "Node"}
    members = {member.spec.node_name: member for member in findings.members}
    said: dict[str, Condition] = {}
    for node in findings.desired:
        entry, member = entries[name_of(spec, node)], members.get(node.name)
        look = f"mesh {mesh.name}: see kubectl describe wnode {wesher_node_name(mesh.name, node.name)}"
        if entry.state == "NotReady":
            condition = Condition(TUNNELS_READY, "False", entry.reason, look)
        elif entry.state != "Ready":
            condition = Condition(TUNNELS_READY, "Unknown", entry.reason, look)
        elif member is None or not member.spec.machine == member.status.machine == machine(node):
            condition = Condition(TUNNELS_READY, "Unknown", "NotReported", look)
        elif (waits := _not_carried(mesh, spec, member)) is not None:
            condition = Condition(TUNNELS_READY, waits.status, waits.reason, look)
        else:
            ready = f"mesh {mesh.name}: the tunnels of this node are ready"
            condition = Condition(TUNNELS_READY, "True", "TunnelsReady", ready)
        said[node.name] = condition
    return said


def _not_carried(mesh: MeshFacts, spec: WesherMeshSpec, member: MemberFacts) -> Condition | None:
    """Return what a Ready node's agent says while it does not carry what it should; None if it does."""
    if spec.traffic.nodes == "None" and spec.traffic.pods == "None":
        return None
    of_mesh = find_condition(mesh.status.get("conditions") or [], "TrafficCarried")
    if of_mesh is not None and of_mesh.reason == "OneLocation":
        # There is nothing to carry, and a second location may need this node to come up.
        return None
    says = next((c for c in member.status.conditions if c.type == "TrafficCarried"), None)
    accepts = member.status.traffic is not None and member.status.traffic.accepts
    if says is None or (says.status == "True" and not accepts):
        return Condition(TUNNELS_READY, "Unknown", "NotReported")
    return None if says.status == "True" else Condition(says.type, says.status, says.reason)


def writer_of_condition(meshes: Iterable[MeshFacts]) -> MeshFacts | None:
    """Return the mesh whose condition Nodes have: the oldest that asks for it."""
    asking = [mesh for mesh in meshes if _asks(mesh).condition and not mesh.deleting]
    return min(asking, key=lambda mesh: mesh.age_order, default=None)


def writer_of_taint(mesh: MeshFacts, meshes: Iterable[MeshFacts]) -> MeshFacts:
    """Return the mesh that removes the taint that ``mesh`` names: the oldest that names it."""
    meant = parse_taint(_asks(mesh).taint)
    same = [each for each in meshes if not each.deleting and _names(each, meant)]
    return min([mesh, *same], key=lambda each: each.age_order)


def _asks(mesh: MeshFacts) -> NodeReadiness:
    return mesh.spec.node_readiness if mesh.spec is not None else NodeReadiness()


def _names(mesh: MeshFacts, taint: Taint) -> bool:
    text = _asks(mesh).taint
    return bool(text) and (parse_taint(text).key, parse_taint(text).effect) == (taint.key, taint.effect)


@dataclass(frozen=True, slots=True)
class _Change:
    """Of one Node."""

    node: NodeFacts
    resource: str
    """What is patched, as roles name it."""
    wish: Condition | str | None
    write: Callable[[], Awaitable[None]]

    @property
    def key(self) -> tuple[str, str]:
        return self.resource, self.node.name

    @property
    def facts(self) -> object:
        """What it was decided from; once that differs, the write has been seen or was undone."""
        return self.node.tunnels_ready if self.resource == _STATUS else self.node.taints


@dataclass(frozen=True, slots=True)
class _Refusal:
    wish: Condition | str | None
    error: InvalidSpec
    until: datetime


@dataclass(frozen=True, slots=True)
class _Outcome:
    """Of a run's writes."""

    not_permitted: Collection[str]
    """The resources that the operator's role does not let it patch."""
    refused: InvalidSpec | None
    again: datetime | None


class ReadinessKeeper:
    """Keeps what one mesh says on its Nodes.

    Args:
        mesh: its name.
        world: what has been seen.
        cluster: where to write.

    """

    def __init__(self, mesh: str, world: World, cluster: Cluster) -> None:
        self._mesh = mesh
        self._world = world
        self._cluster = cluster
        self._not_permitted: dict[str, datetime] = {}
        """The resources that must not be patched, each until when it is not tried."""
        self._refusals: dict[tuple[str, str], _Refusal] = {}
        self._sent: dict[tuple[str, str], tuple[object, object, datetime]] = {}
        self._ready_boots: dict[str, str] = {}
        """By UID of a Node: the last boot in which its tunnels were seen ready."""

    async def keep(
        self, mesh: MeshFacts, findings: Findings, *, now: datetime
    ) -> tuple[Findings, datetime | None]:
        """Write what Nodes do not say yet; return the findings with the mesh's condition, and when to go on.

        Raises:
            ClusterUnavailable: the API server does not answer.

        """
        spec = mesh.spec
        if spec is None:
            return findings, None
        asks = spec.node_readiness
        others = [each for each in self._world.meshes.values() if each.name != mesh.name]
        writer = writer_of_condition([mesh, *others])
        is_writer = writer is not None and writer.name == mesh.name
        said = tunnels(mesh, spec, findings, now=now) if asks.condition or asks.taint else {}
        conditions = said if is_writer else {}
        changes = [*self._conditions(conditions, now)] if is_writer or writer is None else []
        taint_writer = writer_of_taint(mesh, others) if asks.taint else None
        if taint_writer is not None and taint_writer.name == mesh.name:
            changes += self._taints(asks, said, findings.desired)
        else:
            self._ready_boots = {}
        # A node that became ready waits for no other's news.
        changes.sort(key=lambda each: not _is_ready(said.get(each.node.name)))
        outcome = await self._write(mesh, changes, now)
        condition = _condition(mesh, spec, said, outcome, [writer, taint_writer])
        return replace(findings, node_readiness=condition), outcome.again

    def _conditions(self, wanted: Mapping[str, Condition], now: datetime) -> Iterator[_Change]:
        for node in list(self._world.nodes.values()):
            wish, has = wanted.get(node.name), node.tunnels_ready
            if wish is not None and not _is_same(wish, has):
                yield _Change(node, _STATUS, wish, partial(self._set_condition, node, wish, now))
            elif wish is None and has is not None:
                yield _Change(node, _STATUS, None, partial(remove_condition, self._cluster, node.name))

    def _taints(
        self, asks: NodeReadiness, said: Mapping[str, Condition], desired: Iterable[NodeFacts]
    ) -> Iterator[_Change]:
        meant = parse_taint(asks.taint)
        boots: dict[str, str] = {}
        for node in desired:
            has = any(meant.matches(taint) for taint in node.taints)
            ready_in = self._ready_boots.get(node.uid, "")
            if _is_ready(said[node.name]):
                boots[node.uid] = node.boot
                if has:
                    yield _Change(
                        node, _NODE, f"-{asks.taint}", partial(self._set_taint, node, meant, add=False)
                    )
                continue
            boots[node.uid] = ready_in
            if asks.taint_on_reboot and ready_in and node.boot and ready_in != node.boot:
                if has:
                    boots[node.uid] = ""  # once a reboot: an administrator may remove it
                else:
                    yield _Change(
                        node, _NODE, f"+{asks.taint}", partial(self._set_taint, node, meant, add=True)
                    )
        self._ready_boots = boots

    async def _write(self, mesh: MeshFacts, changes: Iterable[_Change], now: datetime) -> _Outcome:
        refusals: dict[tuple[str, str], _Refusal] = {}
        sent: dict[tuple[str, str], tuple[object, object, datetime]] = {}
        denied: dict[str, datetime] = {}
        moments: list[datetime] = []
        written = 0
        for change in changes:
            refusal, last = self._refusals.get(change.key), self._sent.get(change.key)
            if now < self._not_permitted.get(change.resource, now):
                denied[change.resource] = self._not_permitted[change.resource]
            elif refusal is not None and refusal.wish == change.wish and now < refusal.until:
                refusals[change.key] = refusal
            elif last is not None and last[:2] == (change.wish, change.facts) and now < last[2] + _SEEN_BY:
                sent[change.key] = last
                moments.append(last[2] + _SEEN_BY)
            elif written == WRITES_A_RUN:
                moments.append(now)
            elif self._is_there(mesh):
                written += 1
                try:
                    await change.write()
                    sent[change.key] = change.wish, change.facts, now
                except WriteNotPermitted as error:
                    _log.warning("node not written: missing permission", mesh=self._mesh, error=error)
                    denied[change.resource] = self._not_permitted[change.resource] = now + REFUSED_AGAIN
                except InvalidSpec as error:
                    refusals[change.key] = _Refusal(change.wish, error, now + REFUSED_AGAIN)
                except ChangedMeanwhile:
                    moments.append(now + _AGAIN)
        self._refusals, self._sent, self._not_permitted = refusals, sent, denied
        moments += [*denied.values(), *(refusal.until for refusal in refusals.values())]
        first = next((refusal.error for refusal in refusals.values()), None)
        return _Outcome(sorted(denied), first, min(moments, default=None))

    def _is_there(self, mesh: MeshFacts) -> bool:
        found = self._world.meshes.get(mesh.name)
        return found is not None and found.uid == mesh.uid and not found.deleting

    async def _set_condition(self, node: NodeFacts, wish: Condition, now: datetime) -> None:
        before = [node.tunnels_ready.to_dict()] if node.tunnels_ready is not None else []
        (entry,) = carry_over([wish], before, now=now)
        await _patch_conditions(self._cluster, node.name, {**entry})

    async def _set_taint(self, node: NodeFacts, taint: Taint, *, add: bool) -> None:
        """Add or remove one taint of a Node; the others stay as the API server has them.

        Raises:
            ChangedMeanwhile: others wrote the Node each time.

        """
        for attempt in range(1, _TRIES + 1):
            body = await self._cluster.get(NODE, node.name)
            if body is None or body["metadata"]["uid"] != node.uid:
                return
            has = (body.get("spec") or {}).get("taints") or []
            wanted = [each for each in has if not taint.matches(Taint.from_entry(each))]
            if add:
                value = {"value": taint.value} if taint.value else {}
                wanted = has if len(wanted) < len(has) else [*has, _entry(taint, value)]
            if wanted == has:
                return
            version = body["metadata"]["resourceVersion"]
            change = {"metadata": {"resourceVersion": version}, "spec": {"taints": wanted or None}}
            try:
                await self._cluster.patch(NODE, node.name, change)
            except ChangedMeanwhile:
                if attempt == _TRIES:
                    raise
            else:
                if add:
                    _log.info("node taint added", mesh=self._mesh, node=node.name, taint=taint.key)
                else:
                    _log.info("node taint removed", mesh=self._mesh, node=node.name, taint=taint.key)
                return


async def clear(world: World, cluster: Cluster) -> None:
    """Remove the condition from all Nodes once there is no mesh; what cannot be removed is logged."""
    for node in list(world.nodes.values()):
        if world.meshes:
            return
        if node.tunnels_ready is None:
            continue
        try:
            await remove_condition(cluster, node.name)
        except WesherError as error:
            _log.warning("node condition not removed", node=node.name, error=error)
            return


async def remove_condition(cluster: Cluster, node: str) -> None:
    """Remove the condition from a Node.

    Raises:
        ClusterUnavailable: the API server does not answer.
        InvalidSpec: it refuses the change.

    """
    await _patch_conditions(cluster, node, {"$patch": "delete", "type": TUNNELS_READY})


async def _patch_conditions(cluster: Cluster, node: str, entry: Object) -> None:
    # Conditions are merged by their type, so the kubelet's stay. What comes back is taken in from the
    # watch: other changes in it must wake the meshes that they concern.
    body = {"status": {"conditions": [entry]}}
    await cluster.patch(NODE, node, body, subresource="status", merges_lists=True)


def _is_ready(condition: Condition | None) -> bool:
    return condition is not None and condition.is_true


def _is_same(wish: Condition, has: Condition | None) -> bool:
    return has is not None and (has.status, has.reason, has.message) == (
        wish.status,
        wish.reason,
        wish.message,
    )


def _entry(taint: Taint, value: Object) -> Object:
    return {"key": taint.key, **value, "effect": taint.effect}


def _condition(
    mesh: MeshFacts,
    spec: WesherMeshSpec,
    said: Mapping[str, Condition],
    outcome: _Outcome,
    writers: Iterable[MeshFacts | None],
) -> Condition | None:
    """Return the mesh's own condition; None while it asks for nothing and Nodes say nothing."""
    asks = spec.node_readiness
    is_asked = asks.condition or bool(asks.taint)
    if outcome.not_permitted:
        rights = " and ".join(outcome.not_permitted)
        left = "" if is_asked else f", and Nodes still have the condition {TUNNELS_READY}"
        text = f"the operator may not patch {rights}{left}: run helm upgrade with {CHART_VALUE}"
        return Condition("NodeReadiness", "False", "MissingPermission", text)
    if not is_asked:
        return None
    older = next((each.name for each in writers if each is not None and each.name != mesh.name), "")
    if older:
        text = f"mesh {older} is older and asks for the same condition or taint; only it writes to Nodes"
        return Condition("NodeReadiness", "False", "Conflict", text)
    if outcome.refused is not None:
        return Condition("NodeReadiness", "False", "RefusedByCluster", str(outcome.refused))
    if asks.taint and not tolerated(parse_taint(asks.taint), spec.tolerations):
        text = (
            f"spec.tolerations do not tolerate {asks.taint}: Nodes with this taint get no agent, "
            "and so they keep it"
        )
        return Condition("NodeReadiness", "False", "TaintNotTolerated", text)
    ready = sum(condition.is_true for condition in said.values())
    return Condition(
        "NodeReadiness", "True", "NodesWritten", f"the tunnels of {ready} of {len(said)} Nodes are ready"
    )
