"""The condition TrafficCarried of a node, judged from a snapshot; pure."""

from __future__ import annotations

from wesher_agent.mesh.carrying import is_node_address
from wesher_agent.status.snapshot import Snapshot
from wesher_common.conditions import Condition
from wesher_common.traffic import TrafficSettings

_TYPE = "TrafficCarried"


def traffic_carried(now: Snapshot) -> Condition | None:
    """Return whether this node carries packets of the cluster; None if the mesh is to carry none."""
    settings = now.local.document.traffic
    if not settings.is_on:
        return None
    for reason, message in (
        *((problem.reason, problem.text) for problem in now.carry_problems[:1]),
        *((problem.reason, f"{problem.member}: {problem.message}") for problem in now.not_carried[:1]),
        ("AddressNotCertified", _missing_address(now, settings)),
    ):
        if message:
            return Condition(_TYPE, "False", reason, message)
    if waits_for := _waits_for(now):
        return Condition(_TYPE, "Unknown", "Accepting", waits_for)
    count = now.member.traffic.routed
    if not count:
        return Condition(_TYPE, "True", "Carried", "no other member has a network to carry packets to")
    message = f"packets to {count} network{'s' * (count != 1)} of other members go through the tunnels"
    return Condition(_TYPE, "True", "Carried", message)


def _missing_address(now: Snapshot, settings: TrafficSettings) -> str:
    """Return why this node cannot send from its own address; empty if it can, or has no networks yet."""
    networks = now.local.networks
    if settings.nodes == "None" or not networks:
        return ""
    nodes = [network for network in networks if is_node_address(network)]
    if not nodes:
        return (
            "the certificate of this node lists no address of it: check that its InternalIP is inside "
            "spec.traffic.nodeCIDRs"
        )
    addresses = [network.network_address for network in nodes]
    if any(map(now.local.host.has, addresses)):
        return ""
    listed = ", ".join(map(str, addresses))
    return (
        f"this host does not have {listed}, which the certificate of this node lists: compare the InternalIP "
        "of its Node"
    )


def _waits_for(now: Snapshot) -> str:
    """Return what this node waits for before it sends packets through the tunnels; empty for nothing."""
    networks, applied = now.local.networks, now.member.traffic
    if not now.accepts_traffic:
        return "waiting until the device accepts packets from networks of other members"
    if not networks:
        return (
            "waiting for a certificate that lists the networks of this node: the operator issues it once the "
            "agents accept packets from them"
        )
    if applied.known.isdisjoint(networks):
        return "waiting until other members have the certificate that lists the networks of this node"
    return ""
