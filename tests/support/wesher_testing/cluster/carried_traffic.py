"""What a mesh that carries the cluster's traffic leaves on nodes and on the wires between them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

from wesher_common.traffic import DEFAULT_RULE_PRIORITY, DEFAULT_TABLE, LAST_RULE
from wesher_testing.cluster.installation import Mesh
from wesher_testing.cluster.kubelets import Node
from wesher_testing.cluster.operator_process import eventually
from wesher_testing.lab.capture import IPAddress, Packet
from wesher_testing.lab.namespaces import Host

IPNetwork = IPv4Network | IPv6Network

_WIREGUARD, _GOSSIP = 51820, 7946
_TCP, _UDP = 6, 17
_CARRIED_SECONDS = 240.0
"""Until all nodes carry; on a machine with nothing else to do it takes half a minute."""


def switch(mesh: Mesh, **traffic: Any) -> None:
    """Change ``spec.traffic`` of a mesh."""
    change = json.dumps({"spec": {"traffic": traffic}})
    mesh.cluster.api.kubectl("patch", "wmesh", mesh.name, "--type=merge", f"--patch={change}")


def wait_until_carried(mesh: Mesh, nodes: int) -> None:
    """Wait until the mesh's condition says that this number of nodes carry."""
    eventually(
        lambda: mesh.condition("TrafficCarried"),
        within=_CARRIED_SECONDS,
        until=lambda seen: (
            seen.get("status") == "True" and seen["message"].startswith(f"{nodes} nodes carry")
        ),
    )


def traces_on(node: Node) -> list[str]:
    """Return what shows on a node that a mesh carries the cluster's traffic: rules and routes."""
    found = []
    for family in ("-4", "-6"):
        rules = json.loads(node.host.run(["ip", family, "-json", "rule"]).stdout)
        found += [
            f"rule {rule}"
            for rule in rules
            if DEFAULT_RULE_PRIORITY <= rule["priority"] <= DEFAULT_RULE_PRIORITY + LAST_RULE
        ]
        shown = node.host.run(["ip", family, "route", "show", "table", str(DEFAULT_TABLE)], check=False)
        found += [f"route {line.strip()}" for line in shown.stdout.splitlines()]
    return found


def foreign_allowed_ips(node: Node, mesh: Mesh) -> list[str]:
    """Return the allowed IPs of a node's peers that are not in the overlay."""
    shown = node.host.run(["wg", "show", mesh.interface, "allowed-ips"], check=False).stdout
    networks = [ip_network(each) for line in shown.splitlines() for each in line.split("\t")[1].split()]
    return [str(network) for network in networks if network.network_address not in mesh.overlay]


def path_filter(host: Host, link: str) -> int:
    """Return how strictly a host filters what comes in over a link: 0, 1 (strict) or 2 (loose)."""
    return int(host.run(["sysctl", "-n", f"net.ipv4.conf.{link}.rp_filter"]).stdout)


def in_clear(
    packets: Iterable[Packet], one: Collection[IPNetwork], other: Collection[IPNetwork]
) -> list[Packet]:
    """Return the packets between two groups of networks, which stand there readable."""

    def is_in(address: IPAddress, networks: Collection[IPNetwork]) -> bool:
        return any(address in network for network in networks)

    return [
        packet
        for packet in packets
        if (is_in(packet.source, one) and is_in(packet.destination, other))
        or (is_in(packet.source, other) and is_in(packet.destination, one))
    ]


def is_own(packet: Packet) -> bool:
    """Tell whether a packet is WireGuard's or gossip's, which encrypt what they hold."""
    return packet.protocol in {_TCP, _UDP} and bool({*packet.ports} & {_WIREGUARD, _GOSSIP})
