"""Nodes that come, crash, return and go."""

from __future__ import annotations

import itertools

import pytest

from wesher_testing.image import Image
from wesher_testing.installation import NAMESPACE, OPERATOR, Mesh
from wesher_testing.kubelets import Cluster
from wesher_testing.operator_process import eventually

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]

_NOTICED_SECONDS = 90.0


def test_a_node_without_power_is_named_and_finds_its_way_back(running: Cluster, mesh: Mesh) -> None:
    """The mesh says who is missing, the others go on, and the node returns under its own address."""
    addresses = mesh.addresses()
    victim, *others = sorted(running.nodes, key=lambda name: name == _operators_node(running))
    running.nodes[victim].crash()
    try:
        ready = eventually(
            lambda: mesh.condition("Ready"),
            within=_NOTICED_SECONDS,
            until=lambda condition: condition["status"] != "True",
        )
        assert victim in ready["message"]
        assert mesh.ping(*others)
    finally:
        running.nodes[victim].boot()
        running.wait_until_ready(victim)
    mesh.wait_until_ready()
    assert mesh.addresses() == addresses
    for pair in itertools.permutations(running.nodes, 2):
        assert eventually(lambda pair=pair: mesh.ping(*pair), within=30), pair  # type: ignore[misc]


def test_a_node_joins_by_itself_and_is_dropped_when_its_object_is_deleted(
    running: Cluster, mesh: Mesh, image: Image
) -> None:
    """It needs nothing but to be there; and once its Node is gone nobody keeps a way to it."""
    running.add_nodes("node-4", images=[image])
    try:
        eventually(
            lambda: mesh.status()["members"]["summary"],
            within=_NOTICED_SECONDS,
            until=lambda summary: summary == "4/4",
        )
        address = mesh.addresses()["node-4"]
        for name in ("node-1", "node-2", "node-3"):
            assert eventually(lambda name=name: mesh.ping("node-4", name), within=30), name  # type: ignore[misc]

        running.api.kubectl("delete", "node", "node-4")

        for name in ("node-1", "node-2", "node-3"):
            eventually(
                lambda name=name: [  # type: ignore[misc]
                    trace for trace in mesh.traces_on(running.nodes[name]) if address in trace
                ],
                within=_NOTICED_SECONDS,
                until=lambda left: not left,
            )
        mesh.wait_until_ready()
        assert mesh.status()["members"]["summary"] == "3/3"
    finally:
        running.remove_node("node-4")


def _operators_node(running: Cluster) -> str:
    (pod,) = running.api.get("pods", f"--namespace={NAMESPACE}", f"--selector={OPERATOR}")["items"]
    return str(pod["spec"]["nodeName"])
