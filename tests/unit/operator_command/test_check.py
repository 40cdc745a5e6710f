"""What `wesher-operator check` waits for: nodes that start, and nodes out of each other's reach."""

from __future__ import annotations

from typing import Any

import pytest

from wesher_operator.errands import not_ready, unreached


def mesh(**spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "demo"}, "spec": {"overlayCIDR": "10.189.0.0/16", **spec}}


def node(name: str, *unreachable: str, mesh: str = "demo") -> dict[str, Any]:
    return {
        "metadata": {"name": f"{mesh}.{name}", "labels": {"wesher.dev/mesh": mesh}},
        "spec": {"nodeName": name},
        "status": {"peers": {"unreachable": [*unreachable]}},
    }


FIRST_PAIRS = ("a cannot reach b", "a cannot reach c", "b cannot reach a")


@pytest.mark.parametrize(
    ("nodes", "says"),
    [
        ([node("a"), node("b")], ""),
        ([{**node("a"), "status": {}}, {**node("b"), "status": {"peers": {}}}], ""),
        ([node("a", "b"), node("b")], "a cannot reach b through the tunnel"),
        ([node("a", "laptop"), node("b")], ""),
        ([node("a", "b"), node("b", mesh="other")], ""),
        ([node("a"), node("b", "a", mesh="other")], ""),
        (
            [node("b", "a", "c"), node("a", "b", "c"), node("c")],
            "; ".join(f"{pair} through the tunnel" for pair in FIRST_PAIRS) + " and 1 more",
        ),
    ],
)
def test_pairs_of_a_meshs_own_nodes_are_named(nodes: list[dict[str, Any]], says: str) -> None:
    assert unreached(mesh(), nodes) == says


def test_nodes_go_by_the_names_under_which_they_gossip() -> None:
    nodes = [node("a", "b.east", "b.west"), node("b")]
    assert unreached(mesh(clusterName="east"), nodes) == "a.east cannot reach b.east through the tunnel"


def test_a_mesh_that_is_ready_while_a_node_starts_is_waited_for() -> None:
    """`helm test` says that all nodes reach each other; one that starts reaches none."""
    starting = "2 of 3 nodes are ready; starting: c"
    status = {
        "observedGeneration": 1,
        "conditions": [
            {"type": "Ready", "status": "True", "reason": "NodesStarting", "message": starting},
            {"type": "Converged", "status": "True"},
        ],
        "members": {"desired": 3, "ready": 2},
    }
    found = {"metadata": {"name": "demo", "generation": 1}, "status": status}
    assert not_ready(found) == starting
    assert not_ready({**found, "status": {**status, "members": {"desired": 3, "ready": 3}}}) == ""
