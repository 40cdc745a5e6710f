"""How the pods of a lab's cluster get addresses, and hosts the way to them: what a CNI is for."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from ipaddress import ip_network
from typing import TYPE_CHECKING

from wesher_testing.cluster import containers

if TYPE_CHECKING:
    from wesher_testing.cluster.kubelets import Cluster, Node

PodNetwork = Callable[["Cluster"], None]
"""Connects the pods of every node, those that are connected already as well."""

_PATIENCE = 240.0
_IPV4, _IPV6 = 4, 6
_ANYWHERE = {_IPV4: "0.0.0.0/0", _IPV6: "::/0"}


def bridges(cluster: Cluster) -> None:
    """Give each node a bridge for its pods, and each host of its private network the way there.

    There is no way to pods in another private network.
    """
    allocated = allocated_networks(cluster)
    for name, node in cluster.nodes.items():
        connect_bridge(node, *allocated[name])
        others = {cluster.control_plane, *(each.host for each in cluster.nodes.values())}
        if node.site is not None and node.site.gateway is not None:
            others.add(node.site.gateway)
        for host in others - {node.host}:
            if node.host.networks[0] in host.networks:
                for network in allocated[name]:
                    way = node.host.ipv4 if ip_network(network).version == _IPV4 else node.host.ipv6
                    host.run(["ip", "route", "replace", network, "via", str(way)])


def allocated_networks(cluster: Cluster) -> dict[str, list[str]]:
    """Wait until every node has its pod networks, and return those by node.

    Raises:
        TimeoutError: some node got none.

    """
    deadline = time.monotonic() + _PATIENCE
    while True:
        networks = {
            node["metadata"]["name"]: [str(network) for network in found]
            for node in cluster.api.get("nodes")["items"]
            if (found := node["spec"].get("podCIDRs"))
        }
        if cluster.nodes.keys() <= networks.keys():
            return networks
        if time.monotonic() > deadline:
            raise TimeoutError(f"pod networks for {sorted(cluster.nodes)}, only: {networks}")
        time.sleep(0.1)


def connect_bridge(node: Node, *networks: str, mtu: int = 0) -> None:
    """Tell a node's containerd which addresses its pods get; the node is not Ready before.

    Args:
        node: whose.
        networks: of its pods, one for each IP version.
        mtu: of the pods' devices; 0 is the kernel's 1500.

    """
    directory = node.host.root / containers.CNI_CONFIGURATION.strip("/")
    directory.mkdir(parents=True, exist_ok=True)
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "hairpinMode": True,
        **({"mtu": mtu} if mtu else {}),
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": network}] for network in networks],
            "routes": [{"dst": _ANYWHERE[ip_network(network).version]} for network in networks],
            "dataDir": "/run/cni-addresses",
        },
    }
    content = {"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge]}
    (directory / "pods.conflist").write_text(json.dumps(content))
