"""The conditions of a node, out of what is known of its parts; pure."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

from wesher_common.conditions import Condition

SHOWN_NAMES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What each part last said of itself; an empty problem is none."""

    device_ready: bool
    device_reason: str
    """CamelCase, when it is not ready; empty before the first try."""
    device_problem: str
    others_alive: int
    asks_for_others: bool
    """Whether seeds or members of an earlier run are being looked for."""
    joining: bool
    """Whether it is so soon after the start that nobody need have answered."""
    name_conflict: str
    """Where another member of our name sits; empty when there is none."""
    port_problem: str
    """Who has the gossip port; empty when it is ours."""
    lost_address: str
    """The one address that gossip listens on, while this host has it no more; else empty."""
    source_problem: str
    """Why the mounted key ring or mesh.json cannot be used."""
    removed: bool
    """Whether the API server said that this node has no WesherNode."""
    tunnels_asked: bool
    """Whether every peer of the beginning was asked through its tunnel once."""
    unreachable: tuple[str, ...]
    mostly_unreachable: bool


def conditions(health: Health) -> tuple[Condition, ...]:
    """Return Ready, WireGuardReady, GossipJoined and KeyCurrent."""
    parts = (_wireguard(health), _gossip(health), _key(health))
    return (_ready(health, parts), *parts)


def _wireguard(health: Health) -> Condition:
    if health.device_ready:
        return Condition("WireGuardReady", "True", "DeviceReady")
    if not health.device_reason:
        return Condition("WireGuardReady", "Unknown", "Starting", "the device has not been set up yet")
    return Condition("WireGuardReady", "False", health.device_reason, health.device_problem)


def _gossip(health: Health) -> Condition:
    if (hindered := _hindered_gossip(health)) is not None:
        return hindered
    if health.others_alive:
        return Condition("GossipJoined", "True", "Joined")
    if health.asks_for_others and health.joining:
        message = "seeds and known members are being asked"
        return Condition("GossipJoined", "Unknown", "Joining", message)
    if health.asks_for_others:
        message = "none of the seeds and known members answers"
        return Condition("GossipJoined", "False", "NobodyAnswers", message)
    return Condition("GossipJoined", "True", "OnlyMember")


def _hindered_gossip(health: Health) -> Condition | None:
    if health.port_problem:
        return Condition("GossipJoined", "False", "PortTaken", health.port_problem)
    if health.lost_address:
        message = (
            f"{health.lost_address} is no address of this host any more: give it back, or start the agent "
            "anew, with another --bind-addr if one was given"
        )
        return Condition("GossipJoined", "False", "AddressGone", message)
    if health.name_conflict:
        message = f"another member at {health.name_conflict} uses this node's name"
        return Condition("GossipJoined", "False", "NameConflict", message)
    return None


def _key(health: Health) -> Condition:
    if health.source_problem:
        return Condition("KeyCurrent", "False", "InvalidConfig", health.source_problem)
    return Condition("KeyCurrent", "True", "Current")


def _ready(health: Health, parts: tuple[Condition, ...]) -> Condition:
    for part in parts:
        if not part.is_true:
            return Condition("Ready", part.status, part.reason, part.message)
    if health.removed:
        message = "this node's WesherNode was deleted; device and tunnels stay until the agent is ended"
        return Condition("Ready", "False", "Removed", message)
    if health.others_alive and not health.tunnels_asked:
        return Condition("Ready", "Unknown", "Probing", "peers are being asked through the tunnel")
    if health.mostly_unreachable:
        names = ", ".join(
            chain(health.unreachable[:SHOWN_NAMES], ["…"] * (len(health.unreachable) > SHOWN_NAMES))
        )
        message = f"most peers do not answer through the tunnel: {names}"
        return Condition("Ready", "False", "PeersUnreachable", message)
    return Condition("Ready", "True", "Ready")
