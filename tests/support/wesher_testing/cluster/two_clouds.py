"""Two clouds: each a cluster in a private network, behind a gateway that does 1:1 NAT.

The gateways share a public network. Each gives every node an external address and
translates it, both ways and only there: no private address has a way across, and
inside its own network a node's external address leads nowhere. What a cloud's
controller does, `two_clouds` does: it says which addresses a node has.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from wesher_testing.cluster.image import Image
from wesher_testing.cluster.kubelets import Cluster, Site, cluster_at, prepare
from wesher_testing.lab.namespaces import Host, Lab, Network

_NODES = ("node-1", "node-2")
_FIRST_EXTERNAL = 10
_PRIVATE = {"east": "10.1.0.0/24", "west": "10.1.0.0/24"}
"""The same, as clouds have it that nobody has planned together."""
PODS = {"east": "10.244.0.0/16", "west": "10.245.0.0/16"}
"""What pods of both reach each other at cannot be the same."""
_EXTERNAL = {"east": IPv4Network("198.51.100.0/24"), "west": IPv4Network("203.0.113.0/24")}


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
        internet = lab.network("internet")
        sites = {name: _site(lab, name, internet) for name in _PRIVATE}
        east, west = sites["east"], sites["west"]
        _route(east, internet, _EXTERNAL["west"], west)
        _route(west, internet, _EXTERNAL["east"], east)
        starting = [
            # Each on a stack of its own, since they end one after another whatever happens at the start.
            at_once.submit(_start, stack.enter_context(ExitStack()), name, site, images)
            for name, site in sites.items()
        ]
        yield starting[0].result(), starting[1].result()


def _site(lab: Lab, name: str, internet: Network) -> Site:
    private = lab.network(name, _PRIVATE[name])
    gateway = lab.host(f"{name}-gateway", private, internet)
    return Site(lab, private, prefix=f"{name}-", gateway=gateway, in_cloud=True, pods=PODS[name])


def _route(site: Site, internet: Network, destination: IPv4Network, other: Site) -> None:
    assert site.gateway is not None
    assert other.gateway is not None
    way = str(other.gateway.address_on(internet))
    site.gateway.run(["ip", "route", "add", str(destination), "via", way])


def _start(stack: ExitStack, name: str, site: Site, images: Sequence[Image]) -> Cloud:
    cluster = stack.enter_context(cluster_at(site, *_NODES, images=images))
    assert site.gateway is not None
    addresses = _EXTERNAL[name]
    external = {node: addresses[_FIRST_EXTERNAL + index] for index, node in enumerate(cluster.nodes)}
    cloud = Cloud(name, cluster, site.gateway, site.network.ipv4, external)
    translate(cloud.gateway, {inner: cloud.external[node] for node, inner in cloud.internal.items()})
    for node in cluster.nodes:
        _say_addresses(cloud, node)
    return cloud


def translate(gateway: Host, external: Mapping[IPv4Address, IPv4Address]) -> None:
    """Have a gateway do 1:1 NAT, and let nothing pass that it has not translated.

    Args:
        gateway: its eth0 is in the private network, its eth1 in the public one.
        external: the external address of each address in the private network.

    """
    inwards = ", ".join(f"{outer} : {inner}" for inner, outer in external.items())
    outwards = ", ".join(f"{inner} : {outer}" for inner, outer in external.items())
    rules = f"""
        table ip translation {{
            chain inwards {{
                type nat hook prerouting priority dstnat;
                iifname "eth1" dnat to ip daddr map {{ {inwards} }}
            }}
            chain outwards {{
                type nat hook postrouting priority srcnat;
                oifname "eth1" snat to ip saddr map {{ {outwards} }}
            }}
            chain between {{
                type filter hook forward priority filter; policy drop;
                ct status dnat accept
                oifname "eth1" accept
                ct state established accept
            }}
        }}
    """
    gateway.run(["nft", "-f", "-"], text_in=rules)
    gateway.run(["sysctl", "-q", "-w", "net.ipv4.ip_forward=1"])


def _say_addresses(cloud: Cloud, node: str) -> None:
    addresses = {
        "Hostname": node,
        "InternalIP": str(cloud.internal[node]),
        "ExternalIP": str(cloud.external[node]),
    }
    status = {"addresses": [{"type": kind, "address": address} for kind, address in addresses.items()]}
    patch = ("patch", "node", node, "--type=merge", "--patch")
    cloud.cluster.api.kubectl(*patch, json.dumps({"status": status}), "--subresource=status")
    # From then on the cloud lets pods onto it.
    cloud.cluster.api.kubectl("taint", "nodes", node, "node.cloudprovider.kubernetes.io/uninitialized-")
