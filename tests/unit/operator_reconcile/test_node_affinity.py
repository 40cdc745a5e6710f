"""Which Nodes a mesh selects by labels and names; `tests/apiserver/test_selection.py` asks Kubernetes."""

from __future__ import annotations

from typing import Any

import pytest

from wesher_operator.reconcile.facts import NodeFacts
from wesher_operator.reconcile.node_affinity import fits, without_label
from wesher_operator.resources.mesh import WesherMeshSpec
from wesher_testing.cluster.selection import CASES, NODES, Case, mesh_spec


def facts(name: str, labels: dict[str, str]) -> NodeFacts:
    return NodeFacts(name, labels, (), (), ())


def chosen(**spec: Any) -> set[str]:
    wanted = WesherMeshSpec.model_validate({"overlayCIDR": "10.189.0.0/16", **spec})
    return {name for name, labels in NODES.items() if fits(wanted, facts(name, labels))}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_affinity_selects_what_kubernetes_selects(case: Case) -> None:
    assert chosen(**mesh_spec(case)) == set(case.nodes)


@pytest.mark.parametrize(
    ("labels", "runs"),
    [
        ({"kubernetes.io/os": "linux"}, True),
        ({"kubernetes.io/os": "windows"}, False),
        ({}, False),
        ({"kubernetes.io/os": "linux", "eks.amazonaws.com/compute-type": "fargate"}, False),
        ({"kubernetes.io/os": "linux", "eks.amazonaws.com/compute-type": "ec2"}, True),
        ({"kubernetes.io/os": "linux", "type": "virtual-kubelet", "kubernetes.io/role": "agent"}, False),
        ({"kubernetes.io/os": "linux", "type": "worker"}, True),
        ({"kubernetes.io/os": "linux", "virtualization": "virtualnode2"}, False),
        ({"kubernetes.io/os": "linux", "liqo.io/type": "virtual-node"}, False),
    ],
)
def test_without_a_selector_agents_run_on_linux_and_on_no_virtual_node(
    labels: dict[str, str], *, runs: bool
) -> None:
    spec = WesherMeshSpec.model_validate({"overlayCIDR": "10.189.0.0/16"})
    assert fits(spec, facts("n", labels)) is runs


def test_a_selector_and_an_affinity_that_are_set_replace_the_defaults() -> None:
    assert chosen(nodeSelector={}, affinity={}) == set(NODES)


@pytest.mark.parametrize("case", [*CASES, None], ids=lambda case: case.name if case else "none")
def test_a_label_that_shuts_out_is_added_to_what_an_affinity_selects(case: Case | None) -> None:
    """An empty term selects no Node; with a further requirement it would select nearly all."""
    fields = mesh_spec(case) if case is not None else {"nodeSelector": {}, "affinity": {}}
    spec = WesherMeshSpec.model_validate({"overlayCIDR": "10.189.0.0/16", **fields})
    wanted = spec.model_copy(update={"affinity": without_label(spec.affinity, "out")})
    before = {name for name, labels in NODES.items() if fits(spec, facts(name, labels))}
    assert {name for name, labels in NODES.items() if fits(wanted, facts(name, labels))} == before
    assert not any(fits(wanted, facts(name, {**labels, "out": ""})) for name, labels in NODES.items())
