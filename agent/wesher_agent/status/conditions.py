"""The conditions of a node, judged from a snapshot; pure."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

from wesher_agent.mesh.roster import MemberState
from wesher_agent.status.snapshot import Snapshot
from wesher_agent.status.traffic import traffic_carried
from wesher_common.certificate import Refusal
from wesher_common.conditions import Condition
from wesher_common.report import SHOWN_NAMES

JOIN_SECONDS = 10.0
"""After a start, in which no other member need have answered: the nodes of a new mesh start one by one."""


def conditions(now: Snapshot) -> tuple[Condition, ...]:
    """Return Ready, its parts WireGuardReady, GossipJoined and KeyCurrent, TrafficCarried, and StateSaved.

    TrafficCarried is there while the mesh is to carry packets of the cluster. A node that cannot carry them
    is not ready; one that waits until it may is as ready as before. StateSaved is not a part of
    Ready: the node works until it restarts, and a full disk blocks no rollout.
    """
    parts = _parts(now)
    carried = traffic_carried(now)
    traffic = () if carried is None else (carried,)
    judged = (_ready(now, parts, traffic), *parts, *traffic, _state(now))
    return tuple(replace(each, last_transition_time=now.changed_at.get(each.type, "")) for each in judged)


def failing(now: Snapshot) -> tuple[Condition, ...]:
    """Return what keeps this host out of its mesh: neither bad peers nor a full disk may block a rollout."""
    return tuple(part for part in _parts(now) if not part.is_true)


def is_undecided(now: Snapshot) -> bool:
    """Tell whether this node cannot be called ready or not ready yet; lasts seconds after a start."""
    return _ready(now, _parts(now), ()).status == "Unknown"


def _parts(now: Snapshot) -> tuple[Condition, ...]:
    return _wireguard(now), _gossip(now), _key(now)


def _wireguard(now: Snapshot) -> Condition:
    if (copied := now.key_copied) is not None:
        return Condition("WireGuardReady", "False", copied.reason, copied.message)
    if now.device_ready:
        return Condition("WireGuardReady", "True", "DeviceReady")
    if now.local.overlay_address is None:
        message = "the operator has not assigned an overlay address yet"
        return Condition("WireGuardReady", "False", "NoAddress", message)
    if not now.device_reason:
        return Condition("WireGuardReady", "Unknown", "Starting", "the device has not been set up yet")
    return Condition("WireGuardReady", "False", now.device_reason, now.device_problem)


def _gossip(now: Snapshot) -> Condition:
    if (blocked := _blocked_gossip(now)) is not None:
        return blocked
    if now.alive:
        return Condition("GossipJoined", "True", "Joined")
    if not (now.count(MemberState.FAILED) or now.member.has_seeds_elsewhere):
        return Condition("GossipJoined", "True", "OnlyMember")
    if now.member.uptime < JOIN_SECONDS:
        message = "waiting for an answer from a seed or known member"
        return Condition("GossipJoined", "Unknown", "Joining", message)
    if now.member.other_key_at:
        message = (
            f"{now.member.other_key_at} seems to have another cluster key: give all members the same key and "
            f"label; this node's key has the id {now.local.ring.primary.id}; the other id is not known"
        )
        return Condition("GossipJoined", "False", "WrongKey", message)
    message = "no seed or known member has answered"
    return Condition("GossipJoined", "False", "NobodyAnswers", message)


def _blocked_gossip(now: Snapshot) -> Condition | None:
    if now.local.lost_address:
        message = (
            f"{now.local.lost_address} is no longer assigned to this host: reassign it, or restart the "
            "agent, with another --bind-addr if one was given"
        )
        return Condition("GossipJoined", "False", "AddressGone", message)
    if now.member.listen_problem:
        return Condition("GossipJoined", "False", "PortTaken", now.member.listen_problem)
    if now.member.copy:
        message = (
            f"a copy of this machine runs at {now.member.copy}, with the same name and WireGuard key: "
            "stop the copy's agent and give it another name, which brings it another key too; "
            "an invited machine needs an invite of its own"
        )
        return Condition("GossipJoined", "False", "KeyCopied", message)
    if now.member.rival:
        message = f"another machine at {now.member.rival} uses this node's name: rename one of the two"
        return Condition("GossipJoined", "False", "NameConflict", message)
    return None


def _key(now: Snapshot) -> Condition:
    if now.source_problem:
        return Condition("KeyCurrent", "False", "InvalidConfig", now.source_problem)
    return Condition("KeyCurrent", "True", "Current")


def _state(now: Snapshot) -> Condition:
    if now.member.save_problem:
        return Condition("StateSaved", "False", "NotSaved", now.member.save_problem)
    return Condition("StateSaved", "True", "Saved")


def _ready(  # noqa: PLR0911 - one for each reason
    now: Snapshot, parts: tuple[Condition, ...], traffic: tuple[Condition, ...]
) -> Condition:
    for part in parts:
        if not part.is_true:
            return Condition("Ready", part.status, part.reason, part.message)
    if (ending := _ending(now)) is not None:
        return ending
    if now.alive and now.member.can_probe and not now.probes_settled:
        return Condition("Ready", "Unknown", "Probing", "waiting for peers to answer through the tunnel")
    if now.mostly_unreachable:
        names, shown = now.unreachable, now.unreachable[:SHOWN_NAMES]
        listed = ", ".join(chain(shown, ["…"] * (len(names) > len(shown))))
        message = f"most peers do not answer through the tunnel: {listed}"
        return Condition("Ready", "False", "PeersUnreachable", message)
    if now.without_tunnel and now.mostly_without_tunnel:
        problem, more = now.without_tunnel[0], len(now.without_tunnel) - 1
        others = f", and {more} more; see `wesher members`" if more else ""
        message = (
            f"most members have no tunnel: {problem.member} {problem.message} ({problem.reason}){others}"
        )
        causes = {found.reason for found in now.without_tunnel}
        is_overlay = causes == {"OutsideOverlay"} and not now.unreachable
        reason = "OverlayDiffers" if is_overlay else "PeersUnreachable"
        return Condition("Ready", "False", reason, message)
    for each in traffic:
        # While a running mesh begins to carry, its tunnels work as before.
        if each.status == "False":
            return Condition("Ready", each.status, each.reason, each.message)
    return Condition("Ready", "True", "Ready")


def _ending(now: Snapshot) -> Condition | None:
    """Return what will end the agent or its tunnels though all its parts work; None if nothing will."""
    if now.removed:
        message = "this node's WesherNode was deleted; device and tunnels stay until the agent ends"
        return Condition("Ready", "False", "Removed", message)
    if now.member.verdict.refusal is Refusal.REVOKED:
        message = (
            "the mesh's authority revoked this node's certificate, so other members give it no tunnel until "
            "it has a new one"
        )
        return Condition("Ready", "False", "Revoked", message)
    if now.health_problem:
        message = (
            f"{now.health_problem}, so probes fail and the kubelet restarts the agent: stop that program, "
            "or change spec.wireguard.port and delete the agents' DaemonSet, which the operator recreates"
        )
        return Condition("Ready", "False", "HealthPortTaken", message)
    return None
