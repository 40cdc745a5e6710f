"""What is looked at when something is wrong, one check each, and what to do about what is found.

Pure: objects in, findings out. What to fetch, and in which order they are told, is `doctor`'s.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_network
from typing import Literal

from wesher_common.conditions import find_condition
from wesher_common.names import GROUP, authority_secret_name
from wesher_common.overlay import why_closed_to_machines_outside
from wesher_common.tables import age
from wesher_operator.authority_entries import SEED
from wesher_operator.installation import take_over_command
from wesher_operator.kubectl.meshes import DEFINITIONS, key_secret_of, name_of, status_of
from wesher_operator.kubectl.reach import Object
from wesher_operator.kubectl.status import age_of, conditions_of, days_left, identity_text, wrong
from wesher_operator.reconcile.agent_pod import (
    made_at,
    newest_refusal,
    node_of,
    refusal_hint,
    trouble_of,
)
from wesher_operator.release import is_newer, release_of
from wesher_operator.taints import Taint, parse_taint

LEASE = "wesher-operator"
_KEY_BYTES = 32
_EXPIRES_SOON = 7
"""Days left at which a certificate should have been renewed long before."""
_MAX_NAMED = 5
_REPORT_SECONDS = 600.0
"""Agents report every 7.5 minutes at the latest."""
_POD_SECURITY = "pod-security.kubernetes.io/enforce"

Verdict = Literal["ok", "FAIL", "?"]
"""``?``: it could not be looked at."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of one check."""

    check: str
    verdict: Verdict
    says: str
    do: str = ""
    """What to do about it; one line, often a command."""


def unseen(check: str, why: str) -> Finding:
    """Return the finding of a check that could not be made, mostly for want of a permission."""
    return Finding(check, "?", f"not checked: {why}")


def named(parts: Iterable[str]) -> str:
    """Return the first few of them in one line."""
    listed = list(parts)
    more = f" and {len(listed) - _MAX_NAMED} more" if len(listed) > _MAX_NAMED else ""
    return "; ".join(listed[:_MAX_NAMED]) + more


def definitions(found: Mapping[str, Object | None], release: str) -> Finding:
    """Look whether the API server knows our kinds, as the running release has them.

    Args:
        found: the CustomResourceDefinitions by their plural.
        release: of the operator that runs.

    """
    check, apply = "definitions", "apply the files of charts/wesher/crds with kubectl apply --server-side -f"
    missing = [plural for plural in DEFINITIONS if found[plural] is None]
    if missing:
        return Finding(check, "FAIL", f"missing: {named(f'{plural}.{GROUP}' for plural in missing)}", apply)
    kinds = {plural: crd for plural, crd in found.items() if crd is not None}
    unserved = [
        plural
        for plural, crd in kinds.items()
        if not any(c.type == "Established" and c.is_true for c in conditions_of(status_of(crd)))
    ]
    if unserved:
        return Finding(
            check, "FAIL", f"not served yet: {named(unserved)}", "inspect them with kubectl describe crd"
        )
    releases = {release_of(crd) for crd in kinds.values()}
    if any(is_newer(release, each) for each in releases):
        others = named(sorted(each or "an older release" for each in releases))
        says = f"they are from {others}, but the operator is {release}"
        return Finding(
            check, "FAIL", says, f"{apply}, or let the operator do it: helm upgrade with crds.manage=true"
        )
    return Finding(check, "ok", f"served, of release {named(sorted(releases))}")


def operator(
    deployment: Object, pods: Sequence[Object], lease: Object | None, now: datetime
) -> list[Finding]:
    """Look whether an operator runs, and whether one leads."""
    name, namespace = name_of(deployment), deployment["metadata"]["namespace"]
    wanted, ready = deployment["spec"].get("replicas", 1), sum(_is_ready(pod) for pod in pods)
    logs = f"kubectl -n {namespace} logs deployment/{name}"
    if ready:
        runs = Finding("operator runs", "ok", f"{ready} of {wanted} pods ready in namespace {namespace}")
    elif not pods:
        says = f"Deployment {name} in namespace {namespace} has no pod"
        runs = Finding("operator runs", "FAIL", says, f"kubectl -n {namespace} describe deployment {name}")
    else:
        says = f"no pod of {name} is ready: {named(_pod_line(pod) for pod in pods)}"
        runs = Finding("operator runs", "FAIL", says, logs)
    return [runs, _leads(lease, now, logs)]


def _leads(lease: Object | None, now: datetime, logs: str) -> Finding:
    check = "operator leads"
    spec = (lease or {}).get("spec") or {}
    if not spec.get("holderIdentity"):
        return Finding(
            check, "FAIL", "no operator holds the lease, so no change to a mesh takes effect", logs
        )
    holder, late = spec["holderIdentity"], age_of(spec.get("renewTime") or "", now)
    if late is None or late > int(spec.get("leaseDurationSeconds") or 0):
        since = "holds the lease but has never renewed it" if late is None else f"led until {age(late)} ago"
        return Finding(check, "FAIL", f"{holder} {since}, and no other operator has taken over", logs)
    return Finding(check, "ok", f"{holder} leads")


def pod_security(namespace: Object) -> Finding:
    """Look whether the namespace lets agents use the host's network."""
    check, name = "pod security", name_of(namespace)
    level = (namespace["metadata"].get("labels") or {}).get(_POD_SECURITY)
    if level in (None, "privileged"):
        says = "is labelled privileged" if level else "has no Pod Security label"
        return Finding(check, "ok", f"namespace {name} {says}")
    return Finding(
        check,
        "FAIL",
        f"namespace {name} enforces {level}, but agents use the host's network",
        f"kubectl label namespace {name} --overwrite {_POD_SECURITY}=privileged",
    )


def account_rights(account: str, denied: Sequence[str]) -> Finding:
    """Look whether a ServiceAccount may do what it has to.

    Args:
        account: its name, as ``namespace/name``.
        denied: what it may not, as ``verb resource``.

    """
    if denied:
        says = f"{account} may not {named(denied)}"
        return Finding("roles", "FAIL", says, "install the chart with rbac.create=true, or grant it by hand")
    return Finding("roles", "ok", f"{account} has all the permissions it needs")


def elsewhere(mesh: Object, installation: str, here: str, *, runs: bool) -> Finding:
    """Look whether a mesh that belongs to another installation has an operator.

    Args:
        mesh: the WesherMesh.
        installation: the namespace of the operator that it belongs to.
        here: the namespace of the operator that is looked at.
        runs: whether there is an operator in that namespace.

    """
    check = f"mesh {name_of(mesh)}"
    if runs:
        says = f"belongs to the installation in namespace {installation}"
        return Finding(check, "ok", f"{says}: kubectl wesher doctor -n {installation}")
    says = f"belongs to the installation in namespace {installation}, and no operator runs there"
    return Finding(
        check, "FAIL", says, f"to give it to this operator: {take_over_command(name_of(mesh), here)}"
    )


def mesh_conditions(mesh: Object) -> Finding:
    """Look at what the operator says of a mesh."""
    check = f"mesh {name_of(mesh)}"
    bad = wrong(conditions_of(status_of(mesh)))
    if not bad:
        ready = find_condition(status_of(mesh).get("conditions") or [], "Ready")
        if ready is None:
            return Finding(check, "FAIL", "no operator has processed it", "see the operator checks above")
        closed = why_closed_to_machines_outside(ip_network(mesh["spec"]["overlayCIDR"]))
        return Finding(check, "ok", "; ".join(filter(None, (ready.message or "Ready", closed))))
    first = bad[0]
    says = named({f"{c.type} is {c.status}, {c.reason}": None for c in bad})
    return Finding(
        check, "FAIL", says, f"{first.message or first.reason}; see {first.reason} in docs/troubleshooting.md"
    )


def identity(mesh: Object, nodes: Sequence[Object]) -> Finding:
    """Look at who is certified, and at how long the certificates are valid.

    What keeps a certificate from being issued is the condition Certified's, which `mesh_conditions` has.
    """
    check = f"identity of {name_of(mesh)}"
    said = identity_text(mesh, nodes)
    if not said:
        return unseen(check, "no operator that issues certificates has processed the mesh")
    late = [
        node["spec"]["nodeName"]
        for node in nodes
        if (days := days_left(node)) is not None and days <= _EXPIRES_SOON
    ]
    if late:
        do = "see Certified in the conditions of these WesherNodes: kubectl describe wnode"
        return Finding(check, "FAIL", f"certificates expire soon on: {named(late)}; {said}", do)
    return Finding(check, "ok", said)


def authority_secret(mesh: Object, secret: Object | None, namespace: str) -> Finding:
    """Look whether the authority's key is there, without a word about what it is."""
    check, name = f"authority of {name_of(mesh)}", authority_secret_name(name_of(mesh))
    where = f"Secret {name} in namespace {namespace}"
    restore = f"restore it from a backup, or run kubectl wesher new-authority --mesh {name_of(mesh)}"
    if secret is None:
        if not (status_of(mesh).get("identity") or {}).get("authority"):
            return unseen(check, "the mesh has no authority yet")
        return Finding(check, "FAIL", f"{where} is missing: no certificate is issued or renewed", restore)
    problem = _key_problem(secret, SEED)
    if problem:
        return Finding(check, "FAIL", f"{where}{problem}", restore)
    return Finding(check, "ok", f"{where} holds {_KEY_BYTES} bytes: keep a backup of it")


def key_secret(mesh: Object, secret: Object | None, namespace: str) -> Finding:
    """Look whether the key is one, without a word about what it is."""
    check, name = f"key of {name_of(mesh)}", key_secret_of(mesh)
    where = f"Secret {name} in namespace {namespace}"
    if secret is None:
        return Finding(
            check, "FAIL", f"{where} is missing", "restore it: the operator creates a key only for a new mesh"
        )
    problem = _key_problem(secret, "cluster-key")
    if problem:
        do = "set it to 32 bytes in base64, as wesher keygen prints"
        return Finding(check, "FAIL", f"{where}{problem}", do)
    return Finding(check, "ok", f"{where} holds {_KEY_BYTES} bytes")


def _key_problem(secret: Object, entry: str) -> str:
    """Return what is wrong with an entry that holds a key; empty if nothing is."""
    try:
        text = base64.b64decode((secret.get("data") or {})[entry])
        length = len(base64.b64decode(text.strip(), validate=True))
    except KeyError:
        return f" has no entry {entry}"
    except (binascii.Error, ValueError):
        return f": {entry} is not base64"
    return "" if length == _KEY_BYTES else f": the key has {length} bytes, not {_KEY_BYTES}"


def agents(
    mesh: Object, daemon_set: Object | None, pods: Sequence[Object], events: Sequence[Object]
) -> Finding:
    """Look whether every node runs its agent, and why not."""
    check = f"agents of {name_of(mesh)}"
    if daemon_set is None:
        return Finding(
            check,
            "FAIL",
            "the DaemonSet does not exist",
            "see the mesh's conditions and the operator's log",
        )
    namespace, status = daemon_set["metadata"]["namespace"], status_of(daemon_set)
    wanted, ready = int(status.get("desiredNumberScheduled") or 0), int(status.get("numberReady") or 0)
    troubles = [
        f"{node_of(pod)} {trouble.message}" for pod in pods if (trouble := trouble_of(pod)) is not None
    ]
    if troubles:
        do = f"kubectl -n {namespace} describe pods -l {GROUP}/mesh={name_of(mesh)}"
        return Finding(check, "FAIL", f"{ready} of {wanted} ready: {named(troubles)}", do)
    refusal = newest_refusal(events, daemon_set["metadata"]["uid"], map(made_at, pods))
    if len(pods) < wanted and refusal:
        do = refusal_hint(refusal, namespace) or f"kubectl -n {namespace} get events"
        return Finding(check, "FAIL", f"{wanted - len(pods)} pods could not be created: {refusal}", do)
    if ready < wanted:
        waiting = [node_of(pod) for pod in pods if not _is_ready(pod)]
        says = f"{ready} of {wanted} ready, not on: {named(waiting)}"
        return Finding(check, "FAIL", says, "see the reports below, or the pods' logs")
    return Finding(check, "ok", f"{ready} of {wanted} ready")


def startup_taint(mesh: Object, members: Sequence[Object], nodes: Sequence[Object]) -> Finding | None:
    """Look which Nodes still have the startup taint that the operator removes, and why.

    Args:
        mesh: the WesherMesh; one that names no taint has no finding.
        members: its WesherNodes.
        nodes: all Nodes.

    """
    text = str((mesh["spec"].get("nodeReadiness") or {}).get("taint") or "")
    if not text:
        return None
    check, meant = f"startup taint of {name_of(mesh)}", parse_taint(text)
    by_node = {str(member["spec"]["nodeName"]): member for member in members}
    waiting = [
        f"{name_of(node)}: {_why_tainted(mesh, by_node.get(name_of(node)))}"
        for node in nodes
        if any(meant.matches(Taint.from_entry(taint)) for taint in node["spec"].get("taints") or [])
    ]
    if not waiting:
        return Finding(check, "ok", f"no Node has {text}")
    return Finding(
        check, "FAIL", f"Nodes with {text}: {named(waiting)}", "docs/node-readiness.md says what it waits for"
    )


def _why_tainted(mesh: Object, member: Object | None) -> str:
    """Return why the operator has not removed the startup taint of a node."""
    if member is None:
        return "not a node of the mesh: see its nodeSelector, affinity and tolerations"
    said = status_of(member)
    if not said.get("lastReportTime"):
        return "its agent has not reported"
    for kind in ("Ready", "TrafficCarried"):
        found = find_condition(said.get("conditions") or [], kind)
        if found is not None and not found.is_true:
            return f"{found.reason}: {found.message}".removesuffix(": ")
    written = find_condition(status_of(mesh).get("conditions") or [], "NodeReadiness")
    if written is not None and not written.is_true:
        return f"{written.reason}: {written.message}"
    return "its agent reports no problem: see the operator's log if the taint stays"


def reports(mesh: Object, nodes: Sequence[Object], now: datetime) -> Finding:
    """Look at what the agents report, and when they last did."""
    check = f"reports of {name_of(mesh)}"
    bad: list[str] = []
    for node in nodes:
        status, name = status_of(node), node["spec"]["nodeName"]
        late = age_of(status.get("lastReportTime") or "", now)
        if late is None:
            bad.append(f"{name} has never reported")
        elif late > _REPORT_SECONDS:
            bad.append(f"{name} last reported {age(late)} ago")
        elif conditions := wrong(conditions_of(status)):
            # Ready comes first, with the reason that counts most.
            bad.append(f"{name}: {conditions[0].reason}: {conditions[0].message}".removesuffix(": "))
        elif unreached := (status.get("peers") or {}).get("unreachable"):
            bad.append(f"{name} cannot reach {', '.join(map(str, unreached[:_MAX_NAMED]))}")
    if bad:
        return Finding(check, "FAIL", named(bad), "docs/troubleshooting.md says what to do about each reason")
    return Finding(check, "ok", f"{len(nodes)} nodes reported in time, all Ready")


def _is_ready(pod: Object) -> bool:
    return any(c.type == "Ready" and c.is_true for c in conditions_of(status_of(pod)))


def _pod_line(pod: Object) -> str:
    trouble = trouble_of(pod)
    return f"{name_of(pod)} {trouble.message if trouble else status_of(pod).get('phase', 'Unknown')}"
