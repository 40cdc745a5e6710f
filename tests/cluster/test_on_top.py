"""A cluster on top of a mesh: wesher starts before the kubelets, and they use its addresses.

Three machines in three clouds, whose private addresses lead nowhere outside. etcd, the API server and the
kubelets talk over the mesh only.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from wesher_testing.agents.process import pings, wait_until
from wesher_testing.cluster.on_top import OnTop, import_images, on_top
from wesher_testing.lab.pings import Pinging
from wesher_testing.run.cache import report
from wesher_testing.run.soak import soaking

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]

_COLD_START_SECONDS = 60.0
"""From power on to Ready."""
_COLD_STARTS = soaking(1, 10)
_AWAY_SECONDS = soaking(5.0, 60.0)
"""Of the API server."""


@dataclass(frozen=True, slots=True)
class Running:
    """A cluster that runs, and how long its first start took."""

    cluster: OnTop
    first_start: float


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with on_top() as cluster:
        seconds = cluster.power_on()
        import_images(cluster)
        cluster.run_pods()
        wait_until(cluster.pods_run, what="each node runs a pod")
        yield Running(cluster, seconds)


def reaches_all_pods(cluster: OnTop) -> bool:
    """Tell whether each node reaches the pod of each node."""
    addresses = [pod["status"]["podIP"] for pod in cluster.pods().values()]
    pairs = itertools.product(cluster.nodes.values(), addresses)
    return all(pings(node.host, address) for node, address in pairs)


def test_three_machines_of_three_clouds_powered_on_at_once_are_a_ready_cluster(running: Running) -> None:
    """First without any saved state, then after power cuts, where etcd and pods begin again too."""
    cluster = running.cluster
    assert running.first_start <= _COLD_START_SECONDS
    nodes = cluster.api.get("nodes")["items"]
    for node in nodes:
        internal = [each["address"] for each in node["status"]["addresses"] if each["type"] == "InternalIP"]
        assert internal == [str(cluster.addresses[node["metadata"]["name"]])]
    for _ in range(_COLD_STARTS):
        cluster.power_off()
        seconds = cluster.power_on()
        report(f"Ready {seconds:.1f} s after power on")
        assert seconds <= _COLD_START_SECONDS
        wait_until(lambda: cluster.pods_run() and reaches_all_pods(cluster), what="nodes reach all pods")
    # The API server reaches the kubelets of the other clouds by the names that wesher wrote into /etc/hosts.
    for node in cluster.nodes.keys() - {cluster.first.name}:
        cluster.api.kubectl("logs", cluster.pods()[node]["metadata"]["name"])


def test_no_packet_is_lost_while_the_api_server_is_away_and_the_agents_restart(running: Running) -> None:
    cluster = running.cluster
    before = {node: pod["status"]["containerStatuses"] for node, pod in cluster.pods().items()}
    overlay = {name: str(address) for name, address in cluster.addresses.items()}
    in_pods = {name: pod["status"]["podIP"] for name, pod in cluster.pods().items()}
    began = time.time()
    with Pinging(cluster.nodes, overlay) as nodes, Pinging(cluster.nodes, in_pods) as pods:
        cluster.api.stop()
        cluster.restart_agents()
        # How long it is away is what is tested; nothing happens meanwhile that could be waited for.
        time.sleep(_AWAY_SECONDS)
        cluster.api.start()
        wait_until(lambda: cluster.reported_ready(since=began), what="all nodes are Ready again")
    assert sum(nodes.lost.values()) == 0
    assert sum(pods.lost.values()) == 0
    after = {node: pod["status"]["containerStatuses"] for node, pod in cluster.pods().items()}
    assert after == before
