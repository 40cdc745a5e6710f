"""What the agent shows: answers for the control socket and the status for Kubernetes; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from wesher_agent.kube.node_status import NodeStatus, Outsider, PeerCounts
from wesher_agent.mesh.desired import OwnNode, Problem, view_hash
from wesher_agent.mesh.device import DeviceConfig
from wesher_agent.mesh.nodemeta import Flag
from wesher_agent.mesh.roster import MemberState, RosterMember
from wesher_agent.wireguard.plan import HANDSHAKE_FRESH, ObservedPeer
from wesher_common.conditions import Condition
from wesher_common.keys import KeyRing, WireGuardPublicKey
from wesher_common.mesh_document import MeshDocument

OUTSIDER_REPORTERS = 3
CLASHES = frozenset({"KeyClash", "AddressClash"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One moment of an agent."""

    document: MeshDocument
    ring: KeyRing = field(repr=False)
    own: OwnNode | None
    """None while we have no overlay address."""
    name: str
    public_key: WireGuardPublicKey
    address: str
    """Where we gossip, as others dial it."""
    members: Mapping[str, RosterMember]
    problems: tuple[Problem, ...]
    observed: Mapping[WireGuardPublicKey, ObservedPeer]
    reachable: frozenset[str]
    """Peers that answered their last probe through the tunnel."""
    unreachable: frozenset[str]
    """Peers that did not."""
    conditions: tuple[Condition, ...]
    mode: str
    mtu: int
    hosts: str
    rejected: Mapping[str, int]
    joined: bool
    uptime: float
    version: str
    wall_clock: float
    counts: Mapping[str, int] = field(default_factory=dict)
    """How often each kind of trouble came and went."""

    def count(self, *states: MemberState) -> int:
        """Return how many members are in one of these states."""
        return sum(member.state in states for member in self.members.values())

    @property
    def with_tunnel(self) -> int:
        """How many members answer through the tunnel, or have a session that lives."""
        return sum(self._has_tunnel(member) for member in self.members.values())

    def peer_of(self, member: RosterMember) -> ObservedPeer | None:
        """Return what the device knows of a member."""
        key = member.meta.public_key if member.meta is not None else None
        return self.observed.get(key) if key is not None else None

    def handshake_age(self, member: RosterMember) -> float | None:
        """Return the seconds since a member's last handshake; None is never."""
        peer = self.peer_of(member)
        if peer is None or peer.last_handshake is None:
            return None
        return max(0.0, self.wall_clock - peer.last_handshake)

    def _has_tunnel(self, member: RosterMember) -> bool:
        if member.name in self.unreachable or not member.state.is_alive:
            return False
        age = self.handshake_age(member)
        return member.name in self.reachable or (age is not None and age < HANDSHAKE_FRESH)


def status_answer(now: Snapshot) -> dict[str, Any]:
    """Return what ``wesher status`` shows."""
    gossip, wireguard = now.document.gossip, now.document.wireguard
    return {
        "node": now.name,
        "interface": wireguard.interface,
        "overlayIP": str(now.own.address) if now.own is not None else "",
        "overlayNet": str(now.document.overlay),
        "publicKey": str(now.public_key),
        "keyIDs": [key.id for key in now.ring],
        "hosts": now.hosts,
        "uptimeSeconds": round(now.uptime, 1),
        "version": now.version,
        "wireguard": {"mode": now.mode or "none", "mtu": now.mtu, "port": wireguard.port},
        "gossip": {
            "address": now.address,
            "profile": gossip.profile,
            "joined": now.joined,
            "rejected": dict(now.rejected),
        },
        "peers": {
            "known": len(now.members),
            "alive": now.count(MemberState.ALIVE),
            "suspect": now.count(MemberState.SUSPECT),
            "failed": now.count(MemberState.FAILED),
            "handshake": now.with_tunnel,
        },
        "counts": dict(now.counts),
        "conditions": [condition.to_dict() for condition in now.conditions],
    }


def members_answer(now: Snapshot) -> list[dict[str, Any]]:
    """Return what ``wesher members`` shows: every member by name, ourselves included."""
    problems = {problem.member: problem.message for problem in now.problems}
    ourselves = {
        "name": now.name,
        "state": "alive",
        "address": now.address,
        "overlayIP": str(now.own.address) if now.own is not None else "",
        "endpoint": "",
        "publicKey": str(now.public_key),
        "handshakeSeconds": None,
        "note": problems.get(now.name, "this node"),
    }
    return sorted(
        [ourselves, *(_member(now, member, problems) for member in now.members.values())],
        key=lambda entry: str(entry["name"]),
    )


def _member(now: Snapshot, member: RosterMember, problems: Mapping[str, str]) -> dict[str, Any]:
    meta, peer = member.meta, now.peer_of(member)
    note = problems.get(member.name) or member.problem
    if not note and member.name in now.unreachable:
        note = "does not answer through the tunnel"
    return {
        "name": member.name,
        "state": str(member.state),
        "address": str(member.address),
        "overlayIP": str(meta.overlay_address) if meta is not None and meta.overlay_address else "",
        "endpoint": str(peer.endpoint) if peer is not None and peer.endpoint is not None else "",
        "publicKey": str(meta.public_key) if meta is not None and meta.public_key else "",
        "handshakeSeconds": now.handshake_age(member),
        "note": note,
    }


def unreachable_members(now: Snapshot) -> tuple[str, ...]:
    """Return the members that failed, do not answer through the tunnel or may not have one, sorted.

    Who claims another's key or address gets no tunnel from anybody until a user changes that.
    """
    failed = {member.name for member in now.members.values() if member.state is MemberState.FAILED}
    clashing = {problem.member for problem in now.problems if problem.reason in CLASHES}
    return tuple(sorted((failed | clashing | now.unreachable) - {now.name}))


def outsiders(now: Snapshot) -> tuple[RosterMember, ...]:
    """Return the members to report as outsiders: all of them, by the three of us with the smallest names."""
    inside = {now.name}
    outside = []
    for name, member in now.members.items():
        if not member.state.is_alive:
            continue
        if _is_of_our_cluster(member, now.document.cluster_name):
            inside.add(name)
        else:
            outside.append(member)
    if now.name not in sorted(inside)[:OUTSIDER_REPORTERS]:
        return ()
    return tuple(sorted(outside, key=lambda member: member.name))


def _is_of_our_cluster(member: RosterMember, cluster_name: str) -> bool:
    if member.meta is None or Flag.IN_KUBERNETES not in member.meta.flags:
        return False
    return not cluster_name or member.name.endswith(f".{cluster_name}")


def node_status(now: Snapshot, *, generation: int) -> NodeStatus:
    """Return what Kubernetes is told of this node.

    Args:
        now: the moment to report.
        generation: of the WesherNode that was last applied.

    """
    return NodeStatus(
        observed_generation=generation,
        conditions=now.conditions,
        public_key=str(now.public_key),
        endpoint=f"{now.address.rpartition(':')[0]}:{now.document.wireguard.port}",
        key_ids=tuple(key.id for key in now.ring),
        primary_key_id=now.ring.primary.id,
        config_hash=now.document.config_hash,
        agent_version=now.version,
        wireguard_mode=now.mode,
        mtu=now.mtu,
        peers=PeerCounts(
            known=len(now.members),
            alive=now.count(MemberState.ALIVE),
            suspect=now.count(MemberState.SUSPECT),
            failed=now.count(MemberState.FAILED),
            handshake=now.with_tunnel,
            unreachable=unreachable_members(now),
        ),
        view_hash=view_hash(now.own, now.members.values()) if now.own is not None else "",
        outsiders=tuple(_outsider(member) for member in outsiders(now)),
    )


def _outsider(member: RosterMember) -> Outsider:
    meta = member.meta
    return Outsider(
        name=member.name,
        address=str(meta.overlay_address or "") if meta is not None else "",
        endpoint=str(member.address),
        kind="wesher" if meta is not None and meta.version else "Go",
        public_key=str(meta.public_key or "") if meta is not None else "",
    )


def tunnel_peers(
    device: DeviceConfig, members: Iterable[RosterMember]
) -> dict[str, tuple[WireGuardPublicKey, Any]]:
    """Return the members that the device has as peers: by name, key and overlay address."""
    keys = {peer.public_key for peer in device.peers}
    found = {}
    for member in members:
        meta = member.meta
        if meta is None or meta.public_key not in keys or meta.overlay_address is None:
            continue
        found[member.name] = (meta.public_key, meta.overlay_address)
    return found
