"""What a mesh's status says, from what its agents report and what was found.

Pure. A node's own report counts, unless it is too old, or more than half of
the others say that they cannot reach the node: a dead agent cannot report its
own death.

Left to others: writing it, and Events on transitions (`publish`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from wesher_common.certificate import AuthorityKey
from wesher_common.conditions import Condition, carry_over, find_condition
from wesher_common.keys import KeyRing
from wesher_common.overlay import why_closed_to_machines_outside
from wesher_common.printable import printable
from wesher_common.report import MAX_MESSAGE, SHOWN_NAMES
from wesher_operator.reconcile.agent_pod import PodTrouble
from wesher_operator.reconcile.allocation import name_of
from wesher_operator.reconcile.facts import MemberFacts, MeshFacts, NodeFacts
from wesher_operator.reconcile.modes import Mode
from wesher_operator.reconcile.refusal import Refusal
from wesher_operator.reconcile.trusted import is_of_trusted_cluster
from wesher_operator.resources.mesh import (
    IdentityStatus,
    KeyStatus,
    MemberCounts,
    MemberState,
    MemberStatus,
    WesherMeshSpec,
    WesherMeshStatus,
)

MAX_LISTED = 100
_MAX_NAMED = 3
_MAX_DETAILED = 2
_LONGEST_HEARTBEAT = timedelta(seconds=450)
"""Agents report every 5 minutes, give or take half."""
_REPORT_GRACE = timedelta(seconds=30)
_STARTING = timedelta(minutes=3)
"""How long an agent may take until its first report, its image's way to the node included."""
_ORDER = ("NotReady", "Stale", "Starting", "Ready", "Alive")


def report_window(members: int) -> timedelta:
    """Return how long a change may take until every agent has reported it."""
    return timedelta(seconds=max(10.0, members * 0.3))


def stale_after(members: int) -> timedelta:
    """Return the age at which a report is too old to believe."""
    return _LONGEST_HEARTBEAT + report_window(members) + _REPORT_GRACE


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What one look at a mesh found."""

    desired: Sequence[NodeFacts]
    members: Sequence[MemberFacts]
    ring: KeyRing | None = None
    ring_number: int = 0
    """Of the ring; see `peer_news.ring_number`."""
    key_problem: str = ""
    refusal: Refusal | None = None
    failure: Refusal | None = None
    """What the API server refused to take from us."""
    overlaps: Sequence[str] = ()
    """What overlaps the network of a mesh that runs, each as a sentence."""
    on_overlay: Sequence[str] = ()
    """Which Nodes have no address outside the mesh that runs on them, each as a sentence."""
    published: bool = True
    """Whether mesh.json says what the spec says."""
    pod_troubles: Mapping[str, PodTrouble] = field(default_factory=dict)
    """What keeps agents from running, by node."""
    without_address: Collection[str] = ()
    """Names of nodes for which the allocation network has no address left."""
    views_differ_since: datetime | None = None
    mode: Mode | None = None
    """Who gets a tunnel; None where the spec cannot be read."""
    authorities: Sequence[AuthorityKey] = ()
    """Those that agents trust, the newest first."""
    certified: Condition | None = None
    node_readiness: Condition | None = None
    """Whether Nodes say what `readiness` finds; None where the mesh does not ask for it."""
    revoked: Sequence[str] = ()
    """Nodes that stay out of the mesh."""
    traffic: Condition | None = None
    """Of the cluster's traffic; None while none is to be carried."""
    trusted: Condition | None = None
    """Whether the authorities of other clusters are trusted; None where the spec names none."""
    news_left_out: int = 0
    """How many items the news file has no room for."""


def members_of(findings: Findings, spec: WesherMeshSpec, *, now: datetime) -> list[MemberStatus]:
    """Return one entry a member, those not ready first, then by name."""
    by_node = {member.spec.node_name: member for member in findings.members}
    reporting = fresh(findings.members, now=now)
    blamed = Counter(name for member in reporting for name in set(member.status.peers.unreachable))
    reporters = {member.name for member in reporting}
    mesh_size = len(findings.members)
    entries: list[MemberStatus] = []
    for node in findings.desired:
        member, name = by_node.get(node.name), name_of(spec, node)
        state: MemberState = "Starting"
        reason = "NoFreeAddress" if node.name in findings.without_address else "NotReported"
        if member is not None:
            others = len(reporting) - (member.name in reporters)
            state, reason = _state(member, blamed[name], others, now - stale_after(mesh_size), now)
        if node.name in findings.pod_troubles:
            # Former reports say nothing of an agent that does not run.
            state, reason = "NotReady", findings.pod_troubles[node.name].reason
        entries.append(
            MemberStatus(
                name=name,
                kind="Node",
                address=member.spec.overlay_ip if member else "",
                state=state,
                reason=printable(reason),
            )
        )
    outsiders = {outsider.name: outsider for member in reporting for outsider in member.status.outsiders}
    entries += [
        MemberStatus(
            name=printable(name),
            kind="OtherCluster" if is_of_trusted_cluster(name, outsider.cluster, spec) else "Outsider",
            address=printable(outsider.address),
            state="Alive",
        )
        for name, outsider in outsiders.items()
    ]
    return sorted(entries, key=lambda entry: (_ORDER.index(entry.state), entry.name))


def fresh(members: Iterable[MemberFacts], *, now: datetime) -> list[MemberFacts]:
    """Return the members whose reports are young enough to believe, and from the Node's present machine."""
    members = list(members)
    oldest = now - stale_after(len(members))
    return [
        member
        for member in members
        if member.reported_at is not None
        and member.reported_at >= oldest
        and not _is_of_former_machine(member)
    ]


def _is_of_former_machine(member: MemberFacts) -> bool:
    """Tell whether the last report came before the Node's machine was rebooted, replaced or moved.

    An agent of an earlier release reports no machine: its report counts.
    """
    return bool(member.spec.machine) and member.status.machine not in {"", member.spec.machine}


def views_differ(members: Iterable[MemberFacts], *, now: datetime) -> bool:
    """Tell whether agents that report see different meshes."""
    return len({m.status.view_hash for m in fresh(members, now=now) if m.status.view_hash}) > 1


def views_differed_since(mesh: MeshFacts, members: int, *, now: datetime) -> datetime:
    """Return since when views have differed, for an operator that sees it for the first time.

    If the status says so already, a former operator saw it: what it says must not change with the operator.
    """
    said = find_condition(mesh.status.get("conditions") or [], "Converged")
    if said is None or said.status != "False":
        return now
    return min(datetime.fromisoformat(said.last_transition_time), now) - report_window(members)


def nodes_said_to_be(mesh: MeshFacts, reason: str, nodes: Iterable[NodeFacts]) -> set[str]:
    """Return the names of the nodes to which the mesh's status gives a reason."""
    said = {
        entry.get("name") for entry in mesh.status.get("memberList") or [] if entry.get("reason") == reason
    }
    return {node.name for node in nodes if mesh.spec is not None and name_of(mesh.spec, node) in said}


def next_change(findings: Findings, *, now: datetime) -> datetime | None:
    """Return when the status changes by time alone: a report gets stale, views differ for too long."""
    size = len(findings.members)
    # A node's clock may be ahead, by as much as it likes.
    moments = [
        min(member.reported_at, now) + stale_after(size) for member in findings.members if member.reported_at
    ]
    moments += [
        member.created_at + _STARTING
        for member in findings.members
        if member.created_at and not member.reported_at
    ]
    if findings.views_differ_since is not None:
        moments.append(findings.views_differ_since + report_window(size))
    return min((moment for moment in moments if moment >= now), default=None)


def mesh_status(mesh: MeshFacts, findings: Findings, *, now: datetime) -> dict[str, Any]:
    """Return ``WesherMesh.status`` as it should stand."""
    entries = members_of(findings, mesh.spec, now=now) if mesh.spec is not None else []
    nodes = Counter(entry.state for entry in entries if entry.kind == "Node")
    desired = nodes.total()
    counts = MemberCounts(
        desired=desired,
        ready=nodes["Ready"],
        not_ready=nodes["NotReady"] + nodes["Starting"],
        stale=nodes["Stale"],
        outside=len(entries) - desired,
        summary=f"{nodes['Ready']}/{desired}",
    )
    ring = findings.ring
    status = WesherMeshStatus(
        observed_generation=mesh.generation,
        installation=mesh.installation,
        members=counts,
        member_list=entries[:MAX_LISTED],
        members_truncated=len(entries) > MAX_LISTED,
        key=KeyStatus(
            id=ring.primary.id,
            accepted_ids=[key.id for key in ring.accepted],
            ring_number=findings.ring_number,
        )
        if ring
        # Agents go on with the key they have; that there was one also forbids making another.
        else KeyStatus.model_validate(mesh.status.get("key") or {}),
        identity=_identity(mesh, findings),
    )
    conditions = _conditions(mesh, findings, entries, now=now)
    return {
        **status.model_dump(by_alias=True, exclude={"conditions"}, exclude_none=True),
        "conditions": carry_over(conditions, mesh.status.get("conditions") or [], now=now),
    }


def _identity(mesh: MeshFacts, findings: Findings) -> IdentityStatus | None:
    before = mesh.status.get("identity")
    if findings.mode is None:
        return IdentityStatus.model_validate(before) if before else None
    mode = findings.mode
    said = before or {}
    known = [str(said.get(name, "")) for name in ("authority", "formerAuthority")]
    # A run that ended early did not look at them.
    current, former = (*map(str, findings.authorities), "", "")[:2] if findings.authorities else known
    return IdentityStatus(
        mode=mode.mode,
        bound=mode.bound,
        authority=current,
        former_authority=former,
        certified=f"{mode.certified}/{mode.of}",
        waiting_for=list(mode.waiting_for),
        revoked=list(findings.revoked)[:SHOWN_NAMES],
    )


def first_status(mesh: MeshFacts, *, now: datetime) -> dict[str, Any]:
    """Return the status that is written before anything else is looked at."""
    unknown = Condition("Ready", "Unknown", "Reconciling", "", mesh.generation)
    return {
        "observedGeneration": mesh.generation,
        "installation": mesh.installation,
        "conditions": carry_over([unknown], [], now=now),
    }


def _state(
    member: MemberFacts, blamed_by: int, others: int, oldest: datetime, now: datetime
) -> tuple[MemberState, str]:
    if member.reported_at is None:
        late = member.created_at is not None and now - member.created_at >= _STARTING
        return "NotReady" if late else "Starting", "NotReported"
    is_former = _is_of_former_machine(member)
    ready = next((c for c in member.status.conditions if c.type == "Ready"), None)
    if not is_former and member.reported_at >= oldest and ready is not None and ready.status == "False":
        # It knows best why the others do not reach it.
        return "NotReady", ready.reason
    if blamed_by * 2 > others:
        return "NotReady", "Unreachable"
    if member.reported_at < oldest:
        return "Stale", "NoReport"
    if is_former or ready is None:
        return "Starting" if is_former else "NotReady", "NotReported"
    return ("Ready", "") if ready.status == "True" else ("NotReady", ready.reason)


def _conditions(
    mesh: MeshFacts, findings: Findings, entries: Sequence[MemberStatus], *, now: datetime
) -> list[Condition]:
    said = [
        _key_ready(findings),
        _config_published(mesh, findings),
        _members_ready(
            entries,
            findings.pod_troubles,
            known=_names_of_reporters(mesh, findings),
            was_ready=_was_ready(mesh),
        ),
        _converged(findings, now=now),
        _degraded(findings, now=now),
        findings.certified or Condition("Certified", "Unknown", "NotLookedAt"),
        *([findings.traffic] if findings.traffic is not None else []),
        *([findings.trusted] if findings.trusted is not None else []),
    ]
    if findings.node_readiness is not None:
        said.append(findings.node_readiness)
    by_type = {condition.type: condition for condition in said}
    hindrance = findings.refusal or findings.failure
    if hindrance is not None:
        ready = Condition("Ready", "False", hindrance.reason, hindrance.message)
    else:
        needed = [by_type[kind] for kind in ("KeyReady", "ConfigPublished", "MembersReady")]
        first = next((condition for condition in needed if not condition.is_true), by_type["MembersReady"])
        ready = Condition("Ready", first.status, first.reason, first.message)
    return [
        Condition(c.type, c.status, c.reason, printable(c.message)[:MAX_MESSAGE], mesh.generation)
        for c in (ready, *said)
    ]


def _key_ready(findings: Findings) -> Condition:
    if findings.ring is not None:
        return Condition("KeyReady", "True", "KeyReady", f"key {findings.ring.primary.id} is in use")
    if findings.key_problem:
        return Condition("KeyReady", "False", "InvalidKey", findings.key_problem)
    return Condition("KeyReady", "Unknown", "NotLookedAt", "")


def _config_published(mesh: MeshFacts, findings: Findings) -> Condition:
    hindrance = findings.refusal or findings.failure
    if hindrance is not None and not findings.published:
        return Condition("ConfigPublished", "False", hindrance.reason, hindrance.message)
    closed = "" if mesh.spec is None else why_closed_to_machines_outside(mesh.spec.overlay)
    return Condition("ConfigPublished", "True", "Published", closed)


def _names_of_reporters(mesh: MeshFacts, findings: Findings) -> set[str]:
    """Return the names of the members that have ever reported."""
    if mesh.spec is None:
        return set()
    reporters = {member.spec.node_name for member in findings.members if member.reported_at is not None}
    return {name_of(mesh.spec, node) for node in findings.desired if node.name in reporters}


def _was_ready(mesh: MeshFacts) -> bool:
    found = find_condition(mesh.status.get("conditions") or [], "MembersReady")
    return found is not None and found.is_true


def _members_ready(
    entries: Sequence[MemberStatus],
    troubles: Mapping[str, PodTrouble],
    *,
    known: Collection[str],
    was_ready: bool,
) -> Condition:
    nodes = [entry for entry in entries if entry.kind == "Node"]
    waiting = [entry for entry in nodes if entry.state != "Ready"]
    if not nodes:
        return Condition(
            "MembersReady", "False", "NoNodes", "spec.nodeSelector, affinity and tolerations match no Node"
        )
    if not waiting:
        return Condition("MembersReady", "True", "AllReady", f"all {len(nodes)} nodes are ready")
    named = ", ".join(f"{entry.name} ({entry.reason or entry.state})" for entry in waiting[:_MAX_NAMED])
    more = f" and {len(waiting) - _MAX_NAMED} more" if len(waiting) > _MAX_NAMED else ""
    if all(entry.state == "Starting" and entry.reason == "NotReported" for entry in waiting):
        names = ", ".join(entry.name for entry in waiting[:_MAX_NAMED])
        ready = len(nodes) - len(waiting)
        if was_ready and ready and not any(entry.name in known for entry in waiting):
            # An autoscaler adds nodes all day: one that is coming up is not a fault of the mesh.
            # One that was in the mesh and starts again is.
            message = f"{ready} of {len(nodes)} nodes are ready; starting: {names}{more}"
            return Condition("MembersReady", "True", "NodesStarting", message)
        return Condition("MembersReady", "Unknown", "WaitingForAgents", f"no report yet from: {names}{more}")
    # Each once: what refuses one node's pod refuses the others' too.
    first: dict[str, str] = {}
    for node in sorted(troubles):
        first.setdefault(troubles[node].message, node)
    details = [f"; {node} {message}" for message, node in first.items()]
    message = f"not ready: {named}{more}{''.join(details[:_MAX_DETAILED])}"
    return Condition("MembersReady", "False", "MembersNotReady", message)


def _converged(findings: Findings, *, now: datetime) -> Condition:
    if not any(member.status.view_hash for member in fresh(findings.members, now=now)):
        return Condition("Converged", "Unknown", "NoReports", "no agent has reported its view yet")
    since = findings.views_differ_since
    if since is not None and now - since >= report_window(len(findings.members)):
        hashes = Counter(m.status.view_hash for m in fresh(findings.members, now=now) if m.status.view_hash)
        common = hashes.most_common(1)[0][0]
        odd = sorted(
            m.spec.node_name
            for m in fresh(findings.members, now=now)
            if m.status.view_hash and m.status.view_hash != common
        )
        message = f"{len(hashes)} different views; differing from the majority: {', '.join(odd[:_MAX_NAMED])}"
        return Condition("Converged", "False", "ViewsDiffer", message)
    return Condition("Converged", "True", "ViewsAgree", "")


def _degraded(findings: Findings, *, now: datetime) -> Condition:
    pairs = [
        f"{member.spec.node_name} cannot reach {name}"
        for member in fresh(findings.members, now=now)
        for name in member.status.peers.unreachable
    ]
    problems = [problem for node in findings.desired for problem in node.problems]
    # First, since it may be why pairs do not reach each other.
    news = [_news_left_out(findings.news_left_out)] if findings.news_left_out else []
    found = [*findings.overlaps, *news, *findings.on_overlay, *pairs, *problems]
    if not found:
        return Condition("Degraded", "False", "AsExpected", "")
    more = f" and {len(found) - _MAX_NAMED} more" if len(found) > _MAX_NAMED else ""
    if findings.overlaps:
        reason = "OverlappingNetwork"
    elif news:
        reason = "NewsTooLarge"
    elif findings.on_overlay:
        reason = "NodesUseOverlay"
    else:
        reason = "PairsUnreachable" if pairs else "InvalidAnnotation"
    return Condition("Degraded", "True", reason, "; ".join(found[:_MAX_NAMED]) + more)


def _news_left_out(count: int) -> str:
    return f"the news file is full: {count} certificates or key rings for external members are missing"
