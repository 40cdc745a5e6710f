"""flannel in a cluster whose nodes are in two clouds: over VXLAN, and with routes through nodes (host-gw)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from wesher_testing.cluster import flannel
from wesher_testing.cluster.carried_traffic import switch, wait_until_carried
from wesher_testing.cluster.echo_pods import EchoPods, echo_pods
from wesher_testing.cluster.flannel import Flannel
from wesher_testing.cluster.image import Image
from wesher_testing.cluster.installation import Mesh, install
from wesher_testing.cluster.kubelets import CONTROL_PLANE
from wesher_testing.cluster.operator_process import eventually
from wesher_testing.cluster.pod_host import PodHost
from wesher_testing.cluster.wide_cluster import LOCATION_LABEL, WideCluster, wide_cluster

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]

_SOON = 90.0


@dataclass(slots=True)
class Story:
    """A cluster with flannel and a mesh."""

    wide: WideCluster
    cni: Flannel
    mesh: Mesh
    image: Image

    def pods_exchange_across(self, mtu: int) -> EchoPods:
        """Run pods with this MTU, and have 10 MB go from each cloud to the other and back."""
        pods = echo_pods(self.wide.cluster, self.image, CONTROL_PLANE, "east-1", "west-1")
        assert {pod.mtu() for pod in pods.by_node.values()} == {mtu}
        for one, other in itertools.permutations(pods.by_node.values(), 2):
            eventually(lambda one=one, other=other: _pings(one, other), within=_SOON)  # type: ignore[misc]
        for node, other in (("east-1", "west-1"), ("west-1", "east-1")):
            assert pods.exchange(node, pods.by_node[other].address, 10)
        return pods


@pytest.fixture(scope="module")
def story(image: Image) -> Iterator[Story]:
    flannel.prepare()
    cni = Flannel("vxlan")
    with wide_cluster(image, pod_network=cni) as wide:
        install(
            wide.cluster,
            image,
            *("--set", f"mesh.addresses.locationLabel={LOCATION_LABEL}"),
            *("--set", "mesh.addresses.prefer={ExternalIP,InternalIP}"),
            *("--set", "mesh.gossip.profile=LAN"),
        )
        mesh = Mesh(wide.cluster)
        mesh.wait_until_ready()
        yield Story(wide, cni, mesh, image)


def test_vxlan_between_clouds_needs_only_what_nodes_send(story: Story) -> None:
    """Flannel's own packets are between node addresses."""
    networks = [str(network) for network in story.wide.node_networks]
    switch(story.mesh, nodes="OtherLocations", pods="None", nodeCIDRs=networks)
    wait_until_carried(story.mesh, 3)
    story.pods_exchange_across(mtu=1450).delete()


def test_host_gw_needs_what_pods_send_too(story: Story) -> None:
    """In a cloud flannel sets routes; to the other one it cannot, and the mesh has them."""
    switch(story.mesh, pods="OtherLocations")
    story.cni.change(story.wide.cluster, "host-gw")
    wait_until_carried(story.mesh, 3)
    story.pods_exchange_across(mtu=1500)


def _pings(one: PodHost, other: PodHost) -> bool:
    ping = ["ping", "-n", "-q", "-c", "1", "-W", "1", other.address]
    return one.run(ping, check=False).returncode == 0
