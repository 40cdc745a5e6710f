"""Pods wait until the tunnels of their nodes carry, whose kubelets register with the startup taint."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from wesher_common.conditions import find_condition
from wesher_common.names import TUNNELS_READY
from wesher_testing.cluster.image import Image
from wesher_testing.cluster.inotify import instances_for
from wesher_testing.cluster.installation import Mesh, install, uninstall
from wesher_testing.cluster.kubelets import Cluster, cluster
from wesher_testing.cluster.operator_process import eventually
from wesher_testing.run.soak import soaking

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]

_KEY = "wesher.dev/tunnels-not-ready"
_READINESS = ("--set=mesh.nodeReadiness.condition=true", f"--set=mesh.nodeReadiness.taint={_KEY}:NoSchedule")
_COUNT, _COUNT_LATER = soaking((2, 1), (16, 4))
_NODES = tuple(f"node-{number}" for number in range(1, _COUNT + 1))
_LATER = tuple(f"node-{number}" for number in range(_COUNT + 1, _COUNT + _COUNT_LATER + 1))
_AT_ONCE = 4
"""How many nodes start at the same time; more than two cores can start would not be Ready in time."""
_UNTAINTED_WITHIN = 5.0
"""Seconds from the moment when a node's tunnels are seen to be ready."""
_STARTED_WITHIN = soaking(180.0, 1200.0)
"""Seconds until a pod runs on each node that has just become Ready; a few nodes take half a minute."""


@pytest.fixture(scope="module")
def tainted(image: Image) -> Iterator[Cluster]:
    taints = [f"{_KEY}=:NoSchedule"]
    with instances_for(_COUNT + _COUNT_LATER), cluster() as made:
        for first in range(0, _COUNT, _AT_ONCE):
            made.add_nodes(*_NODES[first : first + _AT_ONCE], images=[image], taints=taints)
        yield made


@dataclass
class Watching:
    """Notes when nodes are first seen with ready tunnels, and when without the startup taint."""

    cluster: Cluster
    ready: dict[str, float] = field(default_factory=dict)
    untainted: dict[str, float] = field(default_factory=dict)
    _ends: threading.Event = field(default_factory=threading.Event)

    def look(self) -> None:
        """Look until `end`."""
        while not self._ends.is_set():
            # Nodes first: a taint that goes between the two looks must not seem to go too early.
            nodes = self.cluster.api.get("nodes")["items"]
            now = time.monotonic()
            for node in nodes:
                if _KEY not in {taint["key"] for taint in node["spec"].get("taints", [])}:
                    self.untainted.setdefault(node["metadata"]["name"], now)
            for name in _ready_nodes(Mesh(self.cluster).weshernodes()):
                self.ready.setdefault(name, time.monotonic())

    def end(self) -> None:
        """Have `look` return."""
        self._ends.set()


def _ready_nodes(members: list[dict[str, Any]]) -> set[str]:
    """Return the nodes that their agents call Ready and carrying, and that no other agent fails to reach."""
    said = {each["spec"]["nodeName"]: each.get("status", {}) for each in members}
    unreached = {name for status in said.values() for name in status.get("peers", {}).get("unreachable", [])}
    return {
        name
        for name, status in said.items()
        if _says(status, "Ready") and _says(status, "TrafficCarried") and name not in unreached
    }


def _says(status: Mapping[str, Any], condition: str) -> bool:
    found = find_condition(status.get("conditions", []), condition)
    return found is not None and found.is_true


def waiting_pods(image: Image) -> dict[str, Any]:
    """Return a Deployment with a pod for each node, which tolerates nothing."""
    labels = {"app": "waits"}
    apart = {"labelSelector": {"matchLabels": labels}, "topologyKey": "kubernetes.io/hostname"}
    container = {
        "name": "main",
        "image": image.name,
        "imagePullPolicy": "Never",
        "command": ["python3", "-c", "import signal; signal.pause()"],
    }
    pod = {
        "terminationGracePeriodSeconds": 0,
        "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [apart]}},
        "containers": [container],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "waits", "namespace": "default"},
        "spec": {
            "replicas": len(_NODES) + len(_LATER),
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def running_on(made: Cluster) -> Mapping[str, dict[str, Any]]:
    """Return the status of the pods that run, by node."""
    pods = made.api.get("pods", "--selector=app=waits")["items"]
    return {pod["spec"]["nodeName"]: pod["status"] for pod in pods if pod["status"].get("phase") == "Running"}


def tunnels_ready(made: Cluster, node: str) -> dict[str, Any]:
    """Return the condition of a Node; empty if it has none."""
    found = find_condition(made.api.get("node", node)["status"]["conditions"], TUNNELS_READY)
    return {**found.to_dict()} if found is not None else {}


def test_pods_start_on_a_node_once_its_tunnels_are_ready(
    tainted: Cluster, image: Image, say: Callable[[str], None]
) -> None:
    """On a cluster whose nodes all have the taint, the operator's too, and on nodes that join later.

    The mesh carries all traffic, so its tunnels are ready only when they do.
    """
    api = tainted.api
    api.apply(waiting_pods(image))
    assert running_on(tainted) == {}
    site = tainted.nodes[_NODES[0]].site
    assert site is not None
    traffic = ("nodes=All", "pods=All", f"nodeCIDRs={{{site.network.ipv4}}}")
    install(tainted, image, *_READINESS, *(f"--set=mesh.traffic.{each}" for each in traffic))
    watching = Watching(tainted)
    thread = threading.Thread(target=watching.look)
    thread.start()
    try:
        eventually(lambda: set(running_on(tainted)), within=_STARTED_WITHIN, until=set(_NODES).__eq__)
        tainted.add_nodes(*_LATER, images=[image], taints=[f"{_KEY}=:NoSchedule"])
        eventually(lambda: set(running_on(tainted)), within=_STARTED_WITHIN, until={*_NODES, *_LATER}.__eq__)
    finally:
        watching.end()
        thread.join()
    for node, status in running_on(tainted).items():
        said = tunnels_ready(tainted, node)
        assert (said["status"], said["reason"]) == ("True", "TunnelsReady")
        scheduled = find_condition(status["conditions"], "PodScheduled")
        assert scheduled is not None
        # Both are of whole seconds, and of one clock.
        assert scheduled.last_transition_time >= said["lastTransitionTime"]
    assert watching.ready.keys() == watching.untainted.keys() == {*_NODES, *_LATER}
    waited = {node: watching.untainted[node] - watching.ready[node] for node in watching.ready}
    say(f"{len(waited)} nodes, startup taint gone {max(waited.values()):.1f} s after the tunnels were ready")
    assert max(waited.values()) <= _UNTAINTED_WITHIN
    # What the kubelet and the controllers wrote is there as ever.
    tainted.wait_until_ready(*_NODES, *_LATER)


def test_nothing_of_it_is_left_after_an_uninstall(tainted: Cluster) -> None:
    uninstall(tainted)
    eventually(
        lambda: [tunnels_ready(tainted, node) for node in tainted.nodes],
        within=10.0,
        until=lambda left: not any(left),
    )
