"""A snapshot as ``WesherNode.status``, and the parts of it whose change is worth a report; pure."""

from __future__ import annotations

import base64
from collections.abc import Hashable, Iterable, Sequence
from datetime import datetime
from typing import Any

from wesher_agent.kube.node_spec import Object
from wesher_agent.mesh.desired import view_hash
from wesher_agent.mesh.identity import Rank
from wesher_agent.mesh.local import Local
from wesher_agent.mesh.roster import MemberState, RosterMember
from wesher_agent.status.conditions import conditions
from wesher_agent.status.snapshot import Snapshot
from wesher_common.conditions import carry_over, rfc3339
from wesher_common.key_proof import key_proof, proof_statement
from wesher_common.mesh_document import TrustedAuthority
from wesher_common.printable import printable
from wesher_common.report import MAX_MESSAGE, MAX_NEWS, MAX_OUTSIDERS, MAX_UNREACHABLE


def own_part(now: Snapshot) -> Hashable:
    """Return what a report says about this node: a change is due at once."""
    return repr(_own(now)), tuple((c.type, c.status, c.reason) for c in conditions(now))


def view_part(now: Snapshot) -> Hashable:
    """Return what a report says about other members: a change is due within the report window."""
    return repr(_view(now)), tuple(c.message for c in conditions(now))


def admission_part(now: Snapshot) -> Hashable:
    """Return what the operator admits external members by: a change is due at once, a few times a minute."""
    return tuple(
        (entry["name"], entry["publicKey"], entry["enrolment"], entry["certificateSerial"])
        for entry in _external_members(now)
    )


def node_status(now: Snapshot, observed: Sequence[Object], *, time: datetime) -> dict[str, Any]:
    """Return the status in the form the API server takes.

    Args:
        now: the moment to report.
        observed: the conditions as last reported, for their transition times.
        time: of this report.

    """
    reported = carry_over(conditions(now), observed, now=time)
    for condition in reported:
        # The API server refuses a report with a character that is not printable; a library may have said one.
        condition["message"] = printable(condition["message"])[:MAX_MESSAGE]
        condition["observedGeneration"] = now.generation
    return {**_own(now), **_view(now), "conditions": reported, "lastReportTime": rfc3339(time)}


def _own(now: Snapshot) -> dict[str, Any]:
    """Return the fields about this node."""
    local = now.local
    return {
        "observedGeneration": now.generation,
        "machine": now.machine,
        "publicKey": str(local.private_key.public),
        "keyProof": _key_proof(local),
        "certificateSerial": local.announced_serial,
        "endpoint": f"{str(local.gossip_address).rpartition(':')[0]}:{local.document.wireguard.port}",
        "keyIDs": [key.id for key in local.ring],
        "primaryKeyID": local.ring.primary.id,
        "configHash": local.document.config_hash,
        "agentVersion": now.version,
        "wireguardMode": now.mode,
        "mtu": now.mtu,
        **_traffic(now),
    }


def _traffic(now: Snapshot) -> dict[str, Any]:
    """Return what is carried; nothing once the mesh carries nothing of the cluster any more."""
    applied = now.member.traffic
    if not now.local.document.traffic.is_on and applied.carrying is None:
        return {}
    return {"traffic": {"accepts": now.accepts_traffic, "routed": applied.routed}}


def _key_proof(local: Local) -> str:
    """Return the proof for the operator that this node has its key; empty if the operator asks for none."""
    identity, key = local.document.identity, local.private_key
    if identity is None or identity.proof_key is None:
        return ""
    cluster = local.document.cluster_name
    node = local.name.removesuffix(f".{cluster}") if cluster else local.name
    proof = key_proof(key, identity.proof_key, proof_statement(local.document.uid, node, key.public))
    return base64.b64encode(proof or b"").decode()


def _view(now: Snapshot) -> dict[str, Any]:
    """Return the fields about other members."""
    identity = now.local.document.identity
    peer = now.local.peer(only_certified=identity is not None and identity.only_certified)
    members = now.member.members
    known, with_tunnel = len(members), now.with_tunnel
    return {
        "peers": {
            "known": known,
            "alive": now.count(MemberState.ALIVE),
            "suspect": now.count(MemberState.SUSPECT),
            "failed": now.count(MemberState.FAILED),
            "handshake": with_tunnel,
            "summary": f"{with_tunnel}/{known}",
            "unreachable": list(now.unreachable_members[:MAX_UNREACHABLE]),
        },
        "viewHash": view_hash(peer, members.values()) if peer is not None else "",
        "outsiders": _external_members(now),
        # All nodes get a statement in the same second, so this waits for the report window.
        "newsNumber": now.member.news_number,
        "news": _news(now.member.unpublished_news),
    }


def _news(statement: bytes) -> str:
    """Return a statement for the operator, which publishes it; empty if it is too long for a status."""
    return base64.b64encode(statement).decode() if 4 * len(statement) <= 3 * MAX_NEWS else ""


def _external_members(now: Snapshot) -> list[dict[str, Any]]:
    identity = now.local.document.identity
    trusted = identity.trusted if identity is not None else ()
    return [_external(member, trusted) for member in now.external_members[:MAX_OUTSIDERS]]


def _external(member: RosterMember, trusted: Iterable[TrustedAuthority]) -> dict[str, Any]:
    meta = member.meta
    if meta is None:
        return {"name": member.name, "endpoint": str(member.address), "kind": "Go"}
    return {
        "name": member.name,
        "address": str(meta.overlay_address or ""),
        "endpoint": str(member.address),
        "kind": "wesher" if meta.version else "Go",
        "publicKey": str(meta.public_key or ""),
        "enrolment": base64.b64encode(meta.enrolment).decode(),
        "certificateSerial": meta.certificate.serial if meta.certificate is not None else 0,
        "cluster": _cluster(member, trusted),
        "ringID": f"{meta.ring:02x}" if meta.version else "",
    }


def _cluster(member: RosterMember, trusted: Iterable[TrustedAuthority]) -> str:
    """Return the name of the trusted cluster that has certified a member; empty if none has."""
    certificate = member.meta.certificate if member.meta is not None else None
    if certificate is None or member.verdict.rank is not Rank.TRUSTED:
        return ""
    return next((each.cluster_name for each in trusted if each.key.id == certificate.authority), "")
