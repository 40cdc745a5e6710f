"""How the pods of a lab's cluster get addresses, and hosts the way to them: what a CNI is for."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from wesher_testing.cluster import containers

if TYPE_CHECKING:
    from wesher_testing.cluster.kubelets import Cluster, Node

PodNetwork = Callable[["Cluster"], None]
"""Connects the pods of every node, those that are connected already as well."""

_PATIENCE = 240.0


def bridges(cluster: Cluster) -> None:
    """Give each node a bridge for its pods, and each host of its private network the way there.

    There is no way to pods in another private network.
    """
    allocated = allocated_networks(cluster)
    for name, node in cluster.nodes.items():
        connect_bridge(node, allocated[name])
        others = {cluster.control_plane, *(each.host for each in cluster.nodes.values())}
        if node.site is not None and node.site.gateway is not None:
            others.add(node.site.gateway)
        for host in others - {node.host}:
            if node.host.networks[0] in host.networks:
                host.run(["ip", "route", "replace", allocated[name], "via", str(node.host.ipv4)])


def allocated_networks(cluster: Cluster) -> dict[str, str]:
    """Wait until every node has a pod network, and return those by node.

    Raises:
        TimeoutError: some node got none.

    """
    deadline = time.monotonic() + _PATIENCE
    while True:
        networks = {
            node["metadata"]["name"]: str(network)
            for node in cluster.api.get("nodes")["items"]
            if (network := node["spec"].get("podCIDR"))
        }
        if cluster.nodes.keys() <= networks.keys():
            return networks
        if time.monotonic() > deadline:
            raise TimeoutError(f"pod networks for {sorted(cluster.nodes)}, only: {networks}")
        time.sleep(0.1)


def connect_bridge(node: Node, network: str, *, mtu: int = 0) -> None:
    """Tell a node's containerd which addresses its pods get; the node is not Ready before.

    Args:
        node: whose.
        network: of its pods.
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
            "ranges": [[{"subnet": network}]],
            "routes": [{"dst": "0.0.0.0/0"}],
            "dataDir": "/run/cni-addresses",
        },
    }
    content = {"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge]}
    (directory / "pods.conflist").write_text(json.dumps(content))
