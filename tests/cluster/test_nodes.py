"""Nodes that come, crash, return, are drained and go."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from wesher_testing.agents.process import WESHER
from wesher_testing.cluster.image import Image
from wesher_testing.cluster.installation import NAMESPACE, OPERATOR, Mesh
from wesher_testing.cluster.kubelets import Cluster, Node
from wesher_testing.cluster.operator_process import eventually
from wesher_testing.lab.pings import Pinging

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]

_NOTICED_SECONDS = 180.0
"""Until the status tells of a node that came, went or lost its power; it takes up to a minute."""
_HEARD_SECONDS = 60.0
"""For what agents tell at once: one that has reported often waits 30 s before it does so again."""
_COLLECTED_SECONDS = 240.0
"""Until Kubernetes deletes the pods of a Node that was deleted, which takes it up to 80."""
_NOTHING_LOST = 1.0
"""Seconds without an answer that say nothing: the last pings of a busy machine may be on their way."""


@pytest.fixture(scope="module")
def newcomer(running: Cluster, installed: Mesh, image: Image) -> Iterator[Node]:
    """Add a fourth node for this file of tests."""
    installed.wait_until_ready()
    running.add_nodes("node-4", images=[image])
    yield running.nodes["node-4"]
    running.remove_node("node-4")
    installed.wait_until_ready()


@pytest.fixture(scope="module")
def dismissed(running: Cluster, installed: Mesh, newcomer: Node) -> tuple[Node, str]:
    """Delete the fourth node's object while its kubelet lives; return the node and its overlay address."""
    address = eventually(lambda: installed.addresses().get(newcomer.name), within=_NOTICED_SECONDS)
    assert address is not None
    running.api.kubectl("delete", "node", newcomer.name)
    return newcomer, address


def test_a_node_without_power_is_named_and_finds_its_way_back(running: Cluster, mesh: Mesh) -> None:
    """The mesh says who is missing, the others go on, and the node returns under its own address."""
    addresses = mesh.addresses()
    victim, *others = sorted(running.nodes, key=lambda name: name == _operators_node(running))
    running.nodes[victim].crash()
    try:
        eventually(
            lambda: mesh.condition("Ready"),
            within=_NOTICED_SECONDS,
            until=lambda ready: ready["status"] != "True" and victim in ready["message"],
        )
        mesh.wait_for_ping(*others)
    finally:
        running.nodes[victim].boot()
        running.wait_until_ready(victim)
    mesh.wait_until_ready()
    assert mesh.addresses() == addresses
    mesh.wait_for_all_pings()


def test_a_running_agent_hears_at_once_of_its_nodes_annotation(running: Cluster, mesh: Mesh) -> None:
    """It watches nothing, and by itself it would ask when it next reports, after 150 s at the least."""
    name = min(running.nodes)
    for change, location in (("wesher.dev/location=cellar", "cellar"), ("wesher.dev/location-", "")):
        running.api.kubectl("annotate", "node", name, change)
        eventually(
            lambda: _applied_location(mesh, name),
            within=_HEARD_SECONDS,
            until=lambda applied, location=location: applied == location,  # type: ignore[misc]
        )
        # Its location is certified, so with the other one it has another certificate.
        eventually(
            lambda: {uncertified for _, uncertified in mesh.certificates().values()},
            within=_HEARD_SECONDS,
            until={""}.__eq__,
        )
    mesh.wait_for_all_pings()


def test_a_node_joins_by_itself(running: Cluster, mesh: Mesh, newcomer: Node) -> None:
    """It needs nothing but to be there."""
    eventually(
        lambda: mesh.status()["members"]["summary"],
        within=_NOTICED_SECONDS,
        until=lambda summary: summary == "4/4",
    )
    for name in running.nodes.keys() - {newcomer.name}:
        mesh.wait_for_ping(newcomer.name, name)


def test_a_node_whose_object_is_deleted_is_dropped_by_the_others_and_says_so(
    running: Cluster, mesh: Mesh, dismissed: tuple[Node, str]
) -> None:
    """Nobody keeps a way to it, and its agent changes nothing before it is told to end."""
    node, address = dismissed
    # First, since Kubernetes ends its pod half a minute later, or somewhat more.
    eventually(
        lambda: _ready_says(node, mesh),
        within=_NOTICED_SECONDS,
        until=lambda reason: reason == "Removed",
    )
    assert mesh.interface in node.devices()
    for other in running.nodes.keys() - {node.name}:
        eventually(
            lambda other=other: [  # type: ignore[misc]
                trace for trace in mesh.traces_on(running.nodes[other]) if address in trace
            ],
            within=_NOTICED_SECONDS,
            until=lambda left: not left,
        )
    eventually(
        lambda: mesh.status()["members"]["summary"],
        within=_NOTICED_SECONDS,
        until=lambda summary: summary == "3/3",
    )


def test_a_drained_node_stays_in_the_mesh(running: Cluster, mesh: Mesh) -> None:
    """Its agent is the DaemonSet's and stays, its tunnels carry on; even if the operator has to move."""
    name = _operators_node(running)
    node = running.nodes[name]
    nodes = {each: running.nodes[each] for each in mesh.addresses()}
    before, device = mesh.agents()[name], _device_index(node, mesh)
    with Pinging(nodes, mesh.addresses()) as pinging:
        try:
            running.repeat("drain", name, "--ignore-daemonsets", "--timeout=50s")
            elsewhere = eventually(
                lambda: _operators_node(running),
                within=_NOTICED_SECONDS,
                until=lambda now: now not in {"", name},
            )
            running.repeat(
                "rollout", "status", "deployment/wesher-operator", f"--namespace={NAMESPACE}", "--timeout=10s"
            )
            mesh.wait_until_ready()
        finally:
            running.api.kubectl("uncordon", name)

    assert elsewhere != name
    after = mesh.agents()[name]
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert _restarts(after) == _restarts(before)
    assert _device_index(node, mesh) == device
    assert max(pinging.outages.values()) < _NOTHING_LOST
    summary = f"{len(nodes)}/{len(nodes)}"
    eventually(lambda: mesh.status()["members"]["summary"], within=_NOTICED_SECONDS, until=summary.__eq__)


def test_a_node_whose_object_was_deleted_is_cleaned_by_its_own_agent(
    mesh: Mesh, dismissed: tuple[Node, str]
) -> None:
    """Its pod is deleted with its token and ends at once, so it must have learnt before that it is gone."""
    node, _ = dismissed
    eventually(lambda: _agent_processes(node), within=_COLLECTED_SECONDS, until=lambda pids: not pids)
    # Its last act; what it started, as wireguard-go, ends a moment after it.
    eventually(lambda: mesh.traces_on(node), within=30, until=lambda left: not left)


def _operators_node(running: Cluster) -> str:
    """Return where the operator's pod is, empty while there is none that stays."""
    pods = running.api.get("pods", f"--namespace={NAMESPACE}", f"--selector={OPERATOR}")["items"]
    names = [
        str(pod["spec"].get("nodeName", "")) for pod in pods if "deletionTimestamp" not in pod["metadata"]
    ]
    return names[0] if names else ""


def _ready_says(node: Node, mesh: Mesh) -> str:
    """Return the reason of the condition Ready, as the node's own agent tells it."""
    asked = node.run([WESHER, "status", f"--interface={mesh.interface}", "--output=json"], check=False)
    if asked.returncode:
        return ""
    conditions = json.loads(asked.stdout)["conditions"]
    return next(str(each["reason"]) for each in conditions if each["type"] == "Ready")


def _agent_processes(node: Node) -> list[str]:
    return node.run(["pgrep", "--full", "bin/wesher agent"], check=False).stdout.split()


def _applied_location(mesh: Mesh, name: str) -> str | None:
    """Return where a node's agent takes it to be; None while it has not applied what the operator says."""
    (node,) = (each for each in mesh.weshernodes() if each["spec"]["nodeName"] == name)
    is_applied = node["status"]["observedGeneration"] == node["metadata"]["generation"]
    return str(node["spec"].get("location", "")) if is_applied else None


def _device_index(node: Node, mesh: Mesh) -> int:
    (link,) = json.loads(node.host.run(["ip", "-json", "link", "show", "dev", mesh.interface]).stdout)
    return int(link["ifindex"])


def _restarts(agent: dict[str, dict[str, list[dict[str, int]]]]) -> int:
    return agent["status"]["containerStatuses"][0]["restartCount"]
