"""Two clusters in two clouds: each in a private network, behind a gateway that does 1:1 NAT.

What a cloud's controller does, `say_addresses` does: it says which addresses a node has.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from wesher_testing.cluster.gateways import Gateway, gateways
from wesher_testing.cluster.image import Image
from wesher_testing.cluster.kubelets import Cluster, cluster_at, prepare
from wesher_testing.lab.namespaces import Host, Lab

_NODES = ("node-1", "node-2")


@dataclass(frozen=True, slots=True)
class Cloud:
    """One of them."""

    name: str
    cluster: Cluster
    gateway: Host
    """Its eth0 is in the private network, its eth1 in the public one."""
    network: IPv4Network
    """Private."""
    external: dict[str, IPv4Address]
    """The nodes' addresses for everybody else."""

    @property
    def internal(self) -> dict[str, IPv4Address]:
        """The nodes' addresses in the private network."""
        return {name: node.host.ipv4 for name, node in self.cluster.nodes.items()}


@contextmanager
def two_clouds(*images: Image) -> Iterator[tuple[Cloud, Cloud]]:
    """Run ``east`` and ``west`` with two nodes each, of the same names, until the block ends."""
    prepare()
    with ExitStack() as stack, ThreadPoolExecutor() as at_once:
        lab = stack.enter_context(Lab())
        starting = [
            # Each on a stack of its own, since they end one after another whatever happens at the start.
            at_once.submit(_start, stack.enter_context(ExitStack()), name, gateway, images)
            for name, gateway in gateways(lab, clusters=True).items()
        ]
        yield starting[0].result(), starting[1].result()


def say_addresses(cluster: Cluster, node: str, external: IPv4Address) -> None:
    """Say of a node which addresses it has; from then on the cloud lets pods onto it."""
    addresses = {
        "Hostname": node,
        "InternalIP": str(cluster.nodes[node].host.ipv4),
        "ExternalIP": str(external),
    }
    status = {"addresses": [{"type": kind, "address": address} for kind, address in addresses.items()]}
    patch = ("patch", "node", node, "--type=merge", "--patch")
    cluster.api.kubectl(*patch, json.dumps({"status": status}), "--subresource=status")
    cluster.api.kubectl("taint", "nodes", node, "node.cloudprovider.kubernetes.io/uninitialized-")


def _start(stack: ExitStack, name: str, gateway: Gateway, images: Sequence[Image]) -> Cloud:
    cluster = stack.enter_context(cluster_at(gateway.site, *_NODES, images=images))
    external = {node: gateway.give(each.host.ipv4) for node, each in cluster.nodes.items()}
    for node, address in external.items():
        say_addresses(cluster, node, address)
    return Cloud(name, cluster, gateway.host, gateway.site.network.ipv4, external)
