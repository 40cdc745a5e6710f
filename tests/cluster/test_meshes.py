"""Several meshes on one cluster: side by side, in each other's way, and taken away."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Network

import pytest

from wesher_testing.cluster.installation import NAMESPACE, Mesh
from wesher_testing.cluster.kubelets import Cluster
from wesher_testing.cluster.operator_process import eventually

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]

_GONE_SECONDS = 120.0
"""Until nothing of a mesh is left; on a machine with nothing else to do it takes three."""


@pytest.fixture
def second(running: Cluster, mesh: Mesh) -> Iterator[Mesh]:
    """Run another mesh beside the first, on every node labelled ``second``, which all are."""
    running.api.kubectl("label", "nodes", "--all", "second=yes", "--overwrite")
    other = Mesh(running, "second", "wgsecond", IPv4Network("10.190.0.0/16"))
    other.apply(
        nodeSelector={"second": "yes"},
        wireguard={"interface": other.interface, "port": 51821},
        gossip={"port": 7947, "profile": "LAN"},
    )
    try:
        other.wait_until_ready()
        yield other
    finally:
        # The mesh first: an agent that ends then need not find out whether its node is still meant.
        other.delete()
        running.api.kubectl("label", "nodes", "--all", "second-")
        running.api.kubectl("delete", "secret", "second-key", f"--namespace={NAMESPACE}")


def test_a_second_mesh_works_and_goes_without_a_trace(running: Cluster, mesh: Mesh, second: Mesh) -> None:
    """With ports of its own it disturbs nothing, and deleting it cleans every node of it and it alone."""
    second.wait_for_all_pings()
    of_the_first = {name: mesh.traces_on(node) for name, node in running.nodes.items()}
    assert all(second.traces_on(node) for node in running.nodes.values())

    running.api.kubectl("delete", "wmesh", second.name)

    eventually(
        lambda: [trace for node in running.nodes.values() for trace in second.traces_on(node)],
        within=_GONE_SECONDS,
        until=lambda left: not left,
    )
    second.wait_until_collected()
    assert running.api.get("secret", "second-key", f"--namespace={NAMESPACE}"), "a key may be others' too"
    assert {name: mesh.traces_on(node) for name, node in running.nodes.items()} == of_the_first
    mesh.wait_for_all_pings()


def test_a_mesh_that_wants_anothers_port_is_refused_and_the_other_untouched(
    running: Cluster, mesh: Mesh
) -> None:
    """The younger one says what is taken and what is free, and gets no agents."""
    before = mesh.agents().keys(), [pod["metadata"]["uid"] for pod in mesh.agents().values()]
    clash = Mesh(running, "clash", "wgclash", IPv4Network("10.191.0.0/16"))
    clash.apply(wireguard={"interface": clash.interface}, gossip={"port": 7948})
    try:
        ready = eventually(
            lambda: clash.condition("Ready"),
            within=120,
            until=lambda condition: condition.get("reason") == "Conflict",
        )
        assert ready["status"] == "False"
        assert (
            "meshes clash and default both want port 51820; wireguard.port 51821 is free" in ready["message"]
        )
        assert running.api.get("daemonset", "clash-agent", f"--namespace={NAMESPACE}") is None
        described = running.api.kubectl("describe", "wmesh", clash.name)
        assert "wireguard.port 51821 is free" in described
    finally:
        clash.delete()
    mesh.wait_until_ready()
    assert before == (mesh.agents().keys(), [pod["metadata"]["uid"] for pod in mesh.agents().values()])


def test_a_node_that_the_selector_no_longer_matches_is_cleaned(running: Cluster, second: Mesh) -> None:
    """Its device, routes and hosts entries go with its agent, and the others drop it after the grace."""
    assert second.traces_on(running.nodes["node-3"])
    gone = second.addresses()["node-3"]

    running.api.kubectl("label", "node", "node-3", "second-")

    eventually(
        lambda: second.traces_on(running.nodes["node-3"]), within=_GONE_SECONDS, until=lambda left: not left
    )
    eventually(
        lambda: [trace for trace in second.traces_on(running.nodes["node-1"]) if gone in trace],
        within=180,
        until=lambda left: not left,
    )
    eventually(lambda: second.status()["members"]["summary"], within=120, until="2/2".__eq__)
    second.wait_until_ready()
