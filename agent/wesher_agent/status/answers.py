"""What a running agent answers to the commands of its host: a snapshot as JSON; pure.

`json_output` describes each field.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from wesher_agent.mesh.identity import Verdict
from wesher_agent.mesh.nodemeta import NodeMeta
from wesher_agent.mesh.roster import MemberState, RosterMember
from wesher_agent.status.conditions import conditions
from wesher_agent.status.json_output import Identity as IdentityAnswer
from wesher_agent.status.json_output import MemberAnswer, StatusAnswer
from wesher_agent.status.json_output import Traffic as TrafficAnswer
from wesher_agent.status.snapshot import Snapshot
from wesher_common.errors import WesherError
from wesher_common.join_command import MAX_SEEDS, JoinFlags
from wesher_common.news import Statement
from wesher_common.overlay import IPNetwork

_LAST_SECOND = int(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp())
"""The last one that has a date. A certificate that does not count may name any time."""


def status_answer(now: Snapshot) -> StatusAnswer:
    """Return what ``wesher status`` shows."""
    local, document = now.local, now.local.document
    gossip, wireguard, cover = document.gossip, document.wireguard, now.member.cover
    return {
        "node": local.name,
        "interface": wireguard.interface,
        "overlayIP": str(local.overlay_address or ""),
        "overlayNet": str(document.overlay),
        "publicKey": str(local.private_key.public),
        "keyIDs": [key.id for key in local.ring],
        "unreachableRoute": {"covers": cover.extent, "reason": cover.reason},
        "hosts": now.hosts,
        "state": f"not saved: {now.member.save_problem}" if now.member.save_problem else "saved",
        "newsNumber": now.member.news_number,
        "uptimeSeconds": round(now.member.uptime, 1),
        "version": now.version,
        "wireguard": {"mode": now.mode or "none", "mtu": now.mtu, "port": wireguard.port},
        "gossip": {
            "address": str(local.gossip_address),
            "profile": gossip.profile,
            "joined": bool(now.alive),
            "rejected": dict(now.rejected),
        },
        "identity": _identity(now),
        "traffic": _traffic(now),
        "peers": {
            "known": len(now.member.members),
            "alive": now.count(MemberState.ALIVE),
            "suspect": now.count(MemberState.SUSPECT),
            "failed": now.count(MemberState.FAILED),
            "handshake": now.with_tunnel,
        },
        "counts": dict(now.counts),
        "conditions": [condition.to_dict() for condition in conditions(now)],
    }


def members_answer(now: Snapshot) -> list[MemberAnswer]:
    """Return what ``wesher members`` shows: every member by name, this one included."""
    local = now.local
    problems = {problem.member: problem.message for problem in now.member.problems}
    carrying = now.member.traffic.carrying
    routed = frozenset(route.network for route in carrying.routes) if carrying is not None else frozenset()
    this_node: MemberAnswer = {
        "name": local.name,
        "isThisNode": True,
        "state": "alive",
        "address": str(local.gossip_address),
        "overlayIP": str(local.overlay_address or ""),
        "endpoint": "",
        "publicKey": str(local.private_key.public),
        "kind": "wesher",
        "certificateExpires": _expires(local.node_meta),
        "uncertified": _uncertified(now, now.member.verdict),
        "networks": _texts(local.networks),
        "carried": [],
        "location": local.location,
        "stateSeconds": round(now.member.uptime, 1),
        "handshakeSeconds": None,
        "receivedBytes": None,
        "sentBytes": None,
        "note": problems.get(local.name, "this node"),
    }
    return sorted(
        [this_node, *(_member(now, member, problems, routed) for member in now.member.members.values())],
        key=lambda entry: str(entry["name"]),
    )


def join_answer(now: Snapshot) -> dict[str, Any]:
    """Return what ``wesher join-command`` prints for another machine; the cluster key is not in it.

    Raises:
        WesherError: in Kubernetes, where the cluster's administrator has the key.

    """
    _refuse_in_kubernetes(now)
    return {"command": join_flags(now).command()}


def join_flags(now: Snapshot) -> JoinFlags:
    """Return the flags with which another machine joins this node's mesh, through this node first."""
    local, document = now.local, now.local.document
    identity = _identity(now)
    with_problem = {problem.member for problem in now.member.problems}
    others = [
        member.address.ip
        for name, member in sorted(now.member.members.items())
        if member.state is MemberState.ALIVE and name not in with_problem
    ]
    return JoinFlags(
        seeds=[local.gossip_address.ip, *others][:MAX_SEEDS],
        overlay=str(document.overlay),
        gossip_port=document.gossip.port,
        wireguard_port=document.wireguard.port,
        gossip_profile=document.gossip.profile,
        label=document.gossip.label,
        mtu=document.wireguard.mtu,
        authority=identity["authority"] if identity["mode"] == "Verified" else "",
    )


def key_answer(now: Snapshot) -> dict[str, Any]:
    """Return what ``wesher key`` prints: the cluster key itself.

    Raises:
        WesherError: in Kubernetes, where the cluster's administrator has the key.

    """
    _refuse_in_kubernetes(now)
    return {"clusterKey": now.local.ring.primary.reveal_base64()}


def news_answer(statement: Statement, *, is_new: bool) -> dict[str, Any]:
    """Return what ``wesher news add`` prints of a statement.

    Args:
        statement: the one that was given.
        is_new: whether the agent did not have it before.

    """
    return {"number": statement.number, "names": len(statement.revoked), "isNew": is_new}


def refused_news(reason: str) -> str:
    """Return why a statement that an administrator gave does not count, and what to do.

    Args:
        reason: of the `PeerMisbehaved`.

    """
    rules = {
        "statement-unknown-authority": "damaged, or signed by an authority that this mesh does not trust: "
        "check that it is for this mesh, and copy it again",
        "statement-outdated": "older than the revocations that this agent has: sign it again",
        "statement-bad-signature": "damaged, or not signed by this mesh's authority: copy it again",
        "statement-not-yet-valid": "signed more than a day ahead of this host's clock: set both clocks",
        "statement-not-alone": "contains more than one statement: add them one at a time",
    }
    return rules.get(reason, f"not a statement of an authority ({reason}): copy the file again")


def _refuse_in_kubernetes(now: Snapshot) -> None:
    if now.local.options.in_kubernetes:
        mesh = now.local.document.name
        raise WesherError(f"Kubernetes manages this mesh: use `kubectl wesher join-command {mesh}`")


def _member(
    now: Snapshot, member: RosterMember, problems: Mapping[str, str], routed: Collection[IPNetwork]
) -> MemberAnswer:
    meta, peer, age = member.meta, now.peer_of(member), now.handshake_age(member)
    networks = meta.networks if meta is not None and member.verdict.is_certified else ()
    note = problems.get(member.name) or member.problem
    if not note and member.name in now.unreachable:
        note = "does not answer through the tunnel"
    return {
        "name": member.name,
        "isThisNode": False,
        "state": member.state.value,
        "address": str(member.address),
        "overlayIP": str(meta.overlay_address) if meta is not None and meta.overlay_address else "",
        "endpoint": str(peer.endpoint) if peer is not None and peer.endpoint is not None else "",
        "publicKey": str(meta.public_key) if meta is not None and meta.public_key else "",
        "kind": _kind(member),
        "certificateExpires": _expires(meta),
        "uncertified": _uncertified(now, member.verdict),
        "networks": _texts(networks),
        "carried": _texts(network for network in networks if network in routed),
        "location": meta.location if meta is not None else "",
        "stateSeconds": round(max(0.0, now.member.now - member.since), 1),
        "handshakeSeconds": None if age is None else round(age, 1),
        "receivedBytes": peer.rx_bytes if peer is not None else None,
        "sentBytes": peer.tx_bytes if peer is not None else None,
        "note": note,
    }


def _identity(now: Snapshot) -> IdentityAnswer:
    settings = now.local.document.identity
    return {
        "mode": settings.mode if settings is not None else "",
        "bound": settings is not None and settings.only_certified,
        "authority": str(settings.authorities[0]) if settings is not None and settings.authorities else "",
        "certificateExpires": _expires(now.local.node_meta),
        "uncertified": _uncertified(now, now.member.verdict),
    }


def _traffic(now: Snapshot) -> TrafficAnswer:
    settings = now.local.document.traffic
    return {
        "nodes": settings.nodes,
        "pods": settings.pods,
        "accepts": now.accepts_traffic,
        "routed": now.member.traffic.routed,
        "networks": _texts(now.local.networks),
    }


def _texts(networks: Iterable[IPNetwork]) -> list[str]:
    return [str(network) for network in networks]


def _expires(meta: NodeMeta | None) -> str | None:
    """Return until when a member's certificate is valid; None if it announces no certificate."""
    if meta is None or meta.certificate is None:
        return None
    expires = min(meta.certificate.expires // 1000, _LAST_SECOND)
    return datetime.fromtimestamp(expires, UTC).isoformat().replace("+00:00", "Z")


def _uncertified(now: Snapshot, verdict: Verdict) -> str:
    """Return why a certificate does not count; empty if it does, or if the mesh has no authority."""
    settings = now.local.document.identity
    return "" if settings is None or verdict.refusal is None else verdict.refusal.value


def _kind(member: RosterMember) -> str:
    """Return the program that a member runs, in the words of a WesherNode's status; empty if unknown."""
    if member.meta is None:
        return ""
    return "wesher" if member.meta.version else "Go"
