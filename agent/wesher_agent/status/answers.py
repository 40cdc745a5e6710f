"""What a running agent answers to the commands of its host: a snapshot as JSON; pure.

`json_output` describes each field.
"""

from __future__ import annotations

from collections.abc import Mapping

from wesher_agent.mesh.roster import MemberState, RosterMember
from wesher_agent.status.conditions import conditions
from wesher_agent.status.json_output import MemberAnswer, StatusAnswer
from wesher_agent.status.snapshot import Snapshot


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
        "uptimeSeconds": round(now.member.uptime, 1),
        "version": now.version,
        "wireguard": {"mode": now.mode or "none", "mtu": now.mtu, "port": wireguard.port},
        "gossip": {
            "address": str(local.gossip_address),
            "profile": gossip.profile,
            "joined": bool(now.alive),
            "rejected": dict(now.rejected),
        },
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
    this_node: MemberAnswer = {
        "name": local.name,
        "state": "alive",
        "address": str(local.gossip_address),
        "overlayIP": str(local.overlay_address or ""),
        "endpoint": "",
        "publicKey": str(local.private_key.public),
        "handshakeSeconds": None,
        "note": problems.get(local.name, "this node"),
    }
    return sorted(
        [this_node, *(_member(now, member, problems) for member in now.member.members.values())],
        key=lambda entry: str(entry["name"]),
    )


def _member(now: Snapshot, member: RosterMember, problems: Mapping[str, str]) -> MemberAnswer:
    meta, peer, age = member.meta, now.peer_of(member), now.handshake_age(member)
    note = problems.get(member.name) or member.problem
    if not note and member.name in now.unreachable:
        note = "does not answer through the tunnel"
    return {
        "name": member.name,
        "state": member.state.value,
        "address": str(member.address),
        "overlayIP": str(meta.overlay_address) if meta is not None and meta.overlay_address else "",
        "endpoint": str(peer.endpoint) if peer is not None and peer.endpoint is not None else "",
        "publicKey": str(meta.public_key) if meta is not None and meta.public_key else "",
        "handshakeSeconds": None if age is None else round(age, 1),
        "note": note,
    }
