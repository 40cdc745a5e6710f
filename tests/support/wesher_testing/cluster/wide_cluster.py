"""One cluster whose nodes are in two clouds: their InternalIPs do not route to each other.

The API server is in the east, on a node, and has an external address that every node reaches.
So have the nodes, behind the 1:1 NAT of their clouds' gateways. Each node's label
`LOCATION_LABEL` names its cloud.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from wesher_testing.cluster.gateways import Gateway, gateways
from wesher_testing.cluster.image import Image
from wesher_testing.cluster.kubelets import CONTROL_PLANE, Cluster, Node, cluster_at, prepare
from wesher_testing.cluster.pod_networks import PodNetwork, bridges
from wesher_testing.cluster.two_clouds import say_addresses
from wesher_testing.lab.namespaces import Lab

LOCATION_LABEL = "topology.kubernetes.io/region"


@dataclass(frozen=True, slots=True)
class WideCluster:
    """The cluster and its clouds."""

    cluster: Cluster
    gateways: dict[str, Gateway]
    """By cloud, ``east`` and ``west``."""
    public: IPv4Address
    """The API server's external address."""

    @property
    def node_networks(self) -> list[IPv4Network]:
        """Where the nodes' InternalIPs are."""
        return [gateway.site.network.ipv4 for gateway in self.gateways.values()]

    def nodes_in(self, cloud: str) -> list[Node]:
        """Return a cloud's nodes."""
        site = self.gateways[cloud].site
        return [node for node in self.cluster.nodes.values() if node.site is site]

    def add_nodes(self, cloud: str, *names: str, images: tuple[Image, ...] = ()) -> None:
        """Add nodes to a cloud, which says what their addresses are."""
        self.cluster.add_nodes(*names, images=images, site=self.gateways[cloud].site)
        self._register(cloud, *names)

    def _register(self, cloud: str, *names: str) -> None:
        gateway = self.gateways[cloud]
        for name in names:
            address = self.cluster.nodes[name].host.ipv4
            external = gateway.given.get(address) or gateway.give(address)
            self.cluster.api.kubectl("label", "node", name, f"{LOCATION_LABEL}={cloud}")
            say_addresses(self.cluster, name, external)


@contextmanager
def wide_cluster(*images: Image, pod_network: PodNetwork = bridges) -> Iterator[WideCluster]:
    """Run a cluster: ``control-plane`` and ``east-1`` are in the east, ``west-1`` is in the west."""
    prepare()
    with Lab() as lab:
        sites = gateways(lab, clusters=False)
        east = sites["east"]
        control_plane = east.site.host(CONTROL_PLANE)
        public = east.give(control_plane.ipv4)
        east.answer_inside(public)
        control_plane.run(["ip", "route", "replace", "default", "via", str(east.host.ipv4)])
        with cluster_at(
            east.site, control_plane=control_plane, public=str(public), pod_network=pod_network
        ) as cluster:
            made = WideCluster(cluster, sites, public)
            made.add_nodes("east", CONTROL_PLANE, "east-1", images=images)
            label = "node-role.kubernetes.io/control-plane="
            cluster.api.kubectl("label", "node", CONTROL_PLANE, label)
            made.add_nodes("west", "west-1", images=images)
            yield made
