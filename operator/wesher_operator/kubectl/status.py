"""What a mesh is like and what is wrong with it: for people as lines, for programs as JSON.

Pure: it lays out what the operator and the agents said, and judges nothing anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from wesher_common.conditions import Condition
from wesher_common.printable import as_lines
from wesher_common.tables import age, table
from wesher_operator.kubectl.json_output import (
    IdentityOutput,
    MemberOutput,
    MeshOutput,
    PeerOutput,
    TrafficOutput,
)
from wesher_operator.kubectl.meshes import name_of, status_of
from wesher_operator.kubectl.reach import Object
from wesher_operator.kubectl.traffic import CONDITION as TRAFFIC_CARRIED
from wesher_operator.kubectl.traffic import is_on, node_text, traffic_of, traffic_text

_BAD_WHEN_TRUE = "Degraded"
_WAITS_FOR_NEW_NODES = frozenset({("Certified", "Unknown"), (TRAFFIC_CARRIED, "Unknown")})
"""An autoscaler adds nodes all day: each is certified and carries some seconds after its first report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One member, as the mesh's status lists it and as its own agent reports."""

    name: str
    kind: str
    state: str
    reason: str
    address: str
    endpoint: str
    """Where others dial its WireGuard."""
    peers: str
    """How many of those it knows have a tunnel, as ``3/3``."""
    traffic: str
    """What it carries besides packets to overlay addresses; empty if the mesh is to carry nothing."""
    reported: str
    """When its agent last reported, RFC 3339; empty is never."""

    def to_dict(self) -> MemberOutput:
        """Return the form ``-o json`` prints."""
        return {
            "name": self.name,
            "kind": self.kind,
            "state": self.state,
            "reason": self.reason,
            "overlayIP": self.address,
            "endpoint": self.endpoint,
            "peers": self.peers,
            "lastReportTime": self.reported,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """One mesh."""

    name: str
    is_behind: bool
    """Whether the status is about a former spec."""
    conditions: tuple[Condition, ...]
    counts: Mapping[str, Any]
    """``status.members``."""
    members: tuple[Member, ...]
    """Those not ready first, as the operator sorts them."""
    members_truncated: bool
    facts: tuple[tuple[str, str], ...]
    """What was declared, as label and text."""
    traffic: TrafficOutput
    """What it carries besides packets to overlay addresses."""
    problems: tuple[str, ...]
    """One line each, in the words of the conditions."""
    peers: tuple[PeerOutput, ...] = ()
    """Machines outside that are admitted, by name."""
    identity: IdentityOutput | None = None
    """None if no operator that issues certificates has processed the mesh."""

    @property
    def is_ready(self) -> bool:
        """Whether the mesh says so, of its present spec."""
        return not self.is_behind and any(c.type == "Ready" and c.is_true for c in self.conditions)

    @property
    def is_degraded(self) -> bool:
        """Whether the mesh says so, as when two of its nodes cannot reach each other."""
        return any(c.type == _BAD_WHEN_TRUE and c.is_true for c in self.conditions)

    def to_dict(self) -> MeshOutput:
        """Return the form ``-o json`` prints."""
        return {
            "name": self.name,
            "ready": self.is_ready,
            "degraded": self.is_degraded,
            "conditions": [condition.to_dict() for condition in self.conditions],
            "members": dict(self.counts),
            "memberList": [member.to_dict() for member in self.members],
            "membersTruncated": self.members_truncated,
            "peers": list(self.peers),
            "identity": self.identity,
            "traffic": self.traffic,
            "problems": list(self.problems),
        }


def overview(mesh: Object, nodes: Sequence[Object], peers: Sequence[Object] = ()) -> Overview:
    """Return one mesh at a glance.

    Args:
        mesh: the WesherMesh.
        nodes: its WesherNodes.
        peers: its WesherPeers.

    """
    status = status_of(mesh)
    outside = tuple(_peer(mesh, peer) for peer in peers)
    conditions = conditions_of(status)
    is_behind = int(status.get("observedGeneration") or 0) < int(mesh["metadata"].get("generation") or 0)
    return Overview(
        name=name_of(mesh),
        is_behind=is_behind,
        conditions=conditions,
        counts=status.get("members") or {},
        members=_members(mesh, nodes),
        members_truncated=bool(status.get("membersTruncated")),
        facts=_facts(mesh, status, nodes),
        peers=outside,
        identity=_identity(mesh, nodes),
        traffic=traffic_of(mesh, nodes),
        problems=(
            *(["the operator has not processed the current spec of this mesh yet"] if is_behind else []),
            *_distinct(wrong(conditions)),
            *(
                f"{node['spec']['nodeName']}: {line}"
                for node in nodes
                for line in _distinct(wrong(conditions_of(status_of(node))))
            ),
            *(_peer_problem(peer) for peer in outside if _is_wrong(peer)),
        ),
    )


def overview_text(shown: Overview, *, now: datetime) -> str:
    """Return one mesh as lines for people; ages are counted up to ``now``."""
    counts = shown.counts
    outside = f", {counts['outside']} outside" if counts.get("outside") else ""
    ready = ("Ready" if shown.is_ready else "not Ready") + (", Degraded" if shown.is_degraded else "")
    lines = [f"{shown.name}: {ready}, {counts.get('summary') or '0/0'} nodes ready{outside}"]
    width = max(len(label) for label, _ in shown.facts) + 2
    lines += [f"  {label + ':':{width}}{text}" for label, text in shown.facts]
    if shown.members:
        carries = any(member.traffic for member in shown.members)
        rows = [
            (
                member.name,
                member.state,
                member.address or "-",
                member.endpoint or "-",
                member.peers or "-",
                *([member.traffic or "-"] if carries else []),
                _since(member.reported, now) if member.kind == "Node" else "-",
                member.reason,
            )
            for member in shown.members
        ]
        heading = (
            *("MEMBER", "STATE", "OVERLAY-IP", "ENDPOINT", "PEERS"),
            *(["TRAFFIC"] if carries else []),
            *("REPORTED", "REASON"),
        )
        lines += [f"  {line}" for line in table(heading, rows).splitlines()]
    if shown.peers:
        lines += [f"  {line}" for line in _peer_table(shown.peers, now).splitlines()]
    if shown.members_truncated:
        lines.append("  and more: see kubectl get wnode")
    return as_lines([*lines, *(f"! {problem}" for problem in shown.problems)])


def conditions_of(status: Object) -> tuple[Condition, ...]:
    """Return the conditions of a status, in its order."""
    return tuple(Condition.from_dict(entry) for entry in status.get("conditions") or [])


def wrong(conditions: Sequence[Condition]) -> list[Condition]:
    """Return the conditions that are not as they should be."""
    return [
        c
        for c in conditions
        if c.status != ("False" if c.type == _BAD_WHEN_TRUE else "True")
        and (c.type, c.status) not in _WAITS_FOR_NEW_NODES
    ]


def age_of(moment: str, now: datetime) -> float | None:
    """Return how many seconds ago an RFC 3339 time was; None for an empty one."""
    return (now - datetime.fromisoformat(moment)).total_seconds() if moment else None


def _since(moment: str, now: datetime) -> str:
    seconds = age_of(moment, now)
    return "never" if seconds is None else f"{age(max(0.0, seconds))} ago"


def _distinct(conditions: Sequence[Condition]) -> list[str]:
    """Return a line a condition; `Ready` often repeats what another one says, and then goes without."""
    said: dict[tuple[str, str], Condition] = {}
    for condition in conditions:
        said[condition.reason, condition.message] = condition
    return [
        f"{c.type} is {c.status}, {c.reason}" + (f": {c.message}" if c.message else "") for c in said.values()
    ]


def _facts(mesh: Object, status: Object, nodes: Sequence[Object]) -> tuple[tuple[str, str], ...]:
    spec = mesh["spec"]
    wireguard, gossip, key = spec.get("wireguard") or {}, spec.get("gossip") or {}, status.get("key") or {}
    accepted = f", also accepted: {', '.join(key['acceptedIDs'])}" if key.get("acceptedIDs") else ""
    return (
        ("overlay", f"{spec['overlayCIDR']} on {wireguard.get('interface', '-')}"),
        (
            "ports",
            f"WireGuard {wireguard.get('port', '-')}/UDP, gossip {gossip.get('port', '-')}/TCP and UDP",
        ),
        (
            "gossip",
            f"profile {gossip.get('profile', '-')}"
            + (f", label {gossip['label']}" if gossip.get("label") else ""),
        ),
        ("key", f"id {key.get('id') or '-'}{accepted}"),
        ("traffic", traffic_text(mesh, nodes)),
        *((("identity", said),) if (said := identity_text(mesh, nodes)) else ()),
        *((("authority", text),) if (text := _authority_text(mesh)) else ()),
        *((("revoked", ", ".join(names)),) if (names := _revoked(mesh)) else ()),
    )


def _revoked(mesh: Object) -> list[str]:
    return [str(name) for name in (status_of(mesh).get("identity") or {}).get("revoked") or []]


def days_left(node: Object) -> int | None:
    """Return in how many days the certificate of a node expires; None where it has none."""
    days = status_of(node).get("certificateDays")
    return int(days) if days is not None and node["spec"].get("certificate") else None


def identity_text(mesh: Object, nodes: Sequence[Object]) -> str:
    """Return who gets a tunnel and who is certified, as a phrase; empty if no operator has said so."""
    found = _identity(mesh, nodes)
    if found is None:
        return ""
    bound = ", bound" if found["bound"] else ", not bound" if found["mode"] == "Verified" else ""
    waiting = f", waiting for {', '.join(found['waitingFor'])}" if found["waitingFor"] else ""
    days = f", the first expires in {found['daysLeft']} days" if found["daysLeft"] is not None else ""
    return f"{found['mode']}{bound}, {found['certified'] or '0/0'} certified{days}{waiting}"


def _authority_text(mesh: Object) -> str:
    found = status_of(mesh).get("identity") or {}
    former = f", replaces {found['formerAuthority']}" if found.get("formerAuthority") else ""
    return f"{found['authority']}{former}" if found.get("authority") else ""


def _identity(mesh: Object, nodes: Sequence[Object]) -> IdentityOutput | None:
    found = status_of(mesh).get("identity")
    if not found:
        return None
    return {
        "mode": str(found.get("mode") or "Open"),
        "bound": bool(found.get("bound")),
        "authority": str(found.get("authority") or ""),
        "formerAuthority": str(found.get("formerAuthority") or ""),
        "certified": str(found.get("certified") or ""),
        "waitingFor": [str(name) for name in found.get("waitingFor") or []],
        "revoked": _revoked(mesh),
        "daysLeft": min((days for node in nodes if (days := days_left(node)) is not None), default=None),
    }


def _peer(mesh: Object, peer: Object) -> PeerOutput:
    status = status_of(peer)
    condition = next((c for c in conditions_of(status) if c.type == "Certified"), None)
    return {
        "name": name_of(peer).removeprefix(f"{name_of(mesh)}."),
        "certified": condition.status if condition is not None else "Unknown",
        "reason": condition.reason if condition is not None else "",
        "message": condition.message if condition is not None else "",
        "overlayIP": str(status.get("overlayIP") or ""),
        "publicKey": str(status.get("publicKey") or ""),
        "daysLeft": int(status.get("certificateDays") or 0) if status.get("certificate") else None,
        "lastSeen": str(status.get("lastSeen") or ""),
    }


def _is_wrong(peer: PeerOutput) -> bool:
    return peer["certified"] == "False" or peer["reason"] == "CertificateExpires"


def _peer_problem(peer: PeerOutput) -> str:
    message = f": {peer['message']}" if peer["message"] else ""
    return f"{peer['name']}: Certified is {peer['certified']}, {peer['reason']}{message}"


def _peer_table(peers: Sequence[PeerOutput], now: datetime) -> str:
    rows = [
        (
            peer["name"],
            peer["certified"],
            peer["overlayIP"] or "-",
            f"{peer['daysLeft']}d" if peer["daysLeft"] is not None else "-",
            _since(peer["lastSeen"], now),
            "" if peer["reason"] == "Issued" else peer["reason"],
        )
        for peer in peers
    ]
    return table(("EXTERNAL", "CERTIFIED", "OVERLAY-IP", "CERT", "SEEN", "REASON"), rows)


def _members(mesh: Object, nodes: Sequence[Object]) -> tuple[Member, ...]:
    by_address = {node["spec"].get("overlayIP"): node for node in nodes}
    members = []
    for entry in status_of(mesh).get("memberList") or []:
        node = by_address.get(entry.get("address")) if entry.get("kind") == "Node" else None
        report = status_of(node) if node is not None else {}
        members.append(
            Member(
                name=str(entry.get("name", "")),
                kind=str(entry.get("kind", "")),
                state=str(entry.get("state", "")),
                reason=str(entry.get("reason", "")),
                address=str(entry.get("address", "")),
                endpoint=str(report.get("endpoint", "")),
                peers=str((report.get("peers") or {}).get("summary", "")),
                traffic=node_text(node) if node is not None and is_on(mesh) else "",
                reported=str(report.get("lastReportTime") or ""),
            )
        )
    return tuple(members)
