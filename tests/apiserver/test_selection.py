"""The Nodes on which a mesh expects agents are those on which the real DaemonSet controller makes pods."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from wesher_common.names import out_label
from wesher_operator.kube import NODE
from wesher_operator.reconcile.agent_pod import node_of
from wesher_operator.reconcile.facts import MeshFacts, NodeFacts, read_facts
from wesher_operator.reconcile.manifests import AgentSettings, daemon_set
from wesher_operator.reconcile.membership import selected
from wesher_operator.resources.mesh import WesherMeshSpec
from wesher_testing.cluster.api_server import ApiServer
from wesher_testing.cluster.components import controller_manager
from wesher_testing.cluster.operator_process import NAMESPACE, SOON, eventually
from wesher_testing.cluster.selection import CASES, NODES, Case, mesh_spec

TAINTS = [
    (key, effect)
    for key in (
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/unreachable",
        "node.kubernetes.io/disk-pressure",
        "node.kubernetes.io/memory-pressure",
        "node.kubernetes.io/pid-pressure",
        "node.kubernetes.io/unschedulable",
        "node.kubernetes.io/network-unavailable",
        "gpu",
    )
    for effect in ("NoSchedule", "PreferNoSchedule", "NoExecute")
]
DEFAULTS: dict[str, dict[str, str]] = {
    "windows": {"kubernetes.io/os": "windows"},
    "fargate": {"kubernetes.io/os": "linux", "eks.amazonaws.com/compute-type": "fargate"},
    "virtual": {"kubernetes.io/os": "linux", "type": "virtual-kubelet"},
    "linux": {"kubernetes.io/os": "linux"},
    "revoked": {"kubernetes.io/os": "linux", out_label("default"): "stolen"},
    "revoked-without-a-value": {"kubernetes.io/os": "linux", out_label("default"): ""},
    "revoked-elsewhere": {"kubernetes.io/os": "linux", out_label("another"): "stolen"},
}


@pytest.fixture(scope="module")
def controller(installed: ApiServer) -> Iterator[None]:
    """Run the DaemonSet controller, and no other."""
    more = ("--controllers=daemonset-controller", "--secure-port=0")
    log = installed.directory / "kube-controller-manager.log"
    with log.open("wb") as words:
        process = subprocess.Popen(
            [*controller_manager(installed), *more],
            stdin=subprocess.DEVNULL,
            stdout=words,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield
    finally:
        process.kill()
        process.wait()


def make_nodes(api: ApiServer, labels: dict[str, dict[str, str]], taints: dict[str, Any]) -> None:
    """Make Nodes with these labels and taints alone: the API server taints each new Node as not ready."""
    heads = ({"name": name, "labels": found} for name, found in labels.items())
    api.apply(*({"apiVersion": "v1", "kind": "Node", "metadata": head} for head in heads))
    for name in labels:
        patch = json.dumps({"spec": {"taints": taints.get(name, [])}})
        api.kubectl("patch", "node", name, "--type=merge", "-p", patch)


def make_agents(api: ApiServer, name: str, spec: WesherMeshSpec) -> None:
    """Make the DaemonSet of a mesh, which is not itself there."""
    mesh = MeshFacts(name, "u", 1, "", deleting=False, spec=spec, problem="", status={})
    body = daemon_set(mesh, spec, AgentSettings(image="wesher:test"), health_port=51820, has_hosts=True)
    metadata = {key: value for key, value in body["metadata"].items() if key != "ownerReferences"}
    api.apply(
        {
            **body,
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "metadata": metadata | {"namespace": NAMESPACE},
        }
    )


def until_placed(api: ApiServer, name: str, wanted: set[str]) -> set[str]:
    """Wait until the controller has seen a mesh's DaemonSet and made its pods; return their Nodes."""

    def placed() -> tuple[bool, set[str]]:
        status = api.get("daemonset", f"{name}-agent", "-n", NAMESPACE)["status"]
        pods = api.get("pods", "-n", NAMESPACE, "-l", f"wesher.dev/mesh={name}")["items"]
        nodes = {node_of(pod) for pod in pods}
        return status.get("observedGeneration") == 1 and status["desiredNumberScheduled"] == len(nodes), nodes

    # Whether it is right is the caller's to say: a wrong answer is not waited for longer than a missing one.
    return eventually(placed, within=SOON, until=lambda found: found[0] and (bool(found[1]) or not wanted))[1]


def mesh_of(**fields: Any) -> WesherMeshSpec:
    return WesherMeshSpec.model_validate({"overlayCIDR": "10.189.0.0/16", **fields})


def expected(api: ApiServer, name: str, spec: WesherMeshSpec) -> set[str]:
    """Return the Nodes on which the operator expects an agent of a mesh."""
    facts = [read_facts(NODE, node) for node in api.get("nodes")["items"]]
    nodes = [each for each in facts if isinstance(each, NodeFacts)]
    return {node.name for node in selected(spec, nodes, (), shut_out=out_label(name))}


@pytest.mark.usefixtures("controller")
def test_each_affinity_selects_the_nodes_that_kubernetes_selects(api: ApiServer) -> None:
    make_nodes(api, NODES, {})
    specs = {case.name: mesh_of(**mesh_spec(case)) for case in CASES}
    for name, spec in specs.items():
        make_agents(api, name, spec)
    cases: dict[str, Case] = {case.name: case for case in CASES}
    for name, spec in specs.items():
        placed = until_placed(api, name, set(cases[name].nodes))
        assert (name, placed) == (name, set(cases[name].nodes))
        assert (name, expected(api, name, spec)) == (name, placed)


@pytest.mark.usefixtures("controller")
@pytest.mark.parametrize(
    "tolerations",
    [[], [{"key": "gpu", "operator": "Exists"}], [{"operator": "Exists", "effect": "NoSchedule"}], None],
    ids=["none", "key", "effect", "default"],
)
def test_each_taint_keeps_agents_away_where_kubernetes_says_so(
    api: ApiServer, tolerations: list[dict[str, str]] | None
) -> None:
    tainted = {f"n{number}": [{"key": key, "effect": effect}] for number, (key, effect) in enumerate(TAINTS)}
    make_nodes(api, {name: {"kubernetes.io/os": "linux"} for name in tainted}, tainted)
    spec = mesh_of(**({} if tolerations is None else {"tolerations": tolerations}))
    wanted = expected(api, "tainted", spec)
    make_agents(api, "tainted", spec)
    assert until_placed(api, "tainted", wanted) == wanted


@pytest.mark.usefixtures("controller")
def test_by_default_no_agent_is_placed_or_expected_where_none_can_run(api: ApiServer) -> None:
    make_nodes(api, DEFAULTS, {})
    make_agents(api, "default", mesh_of())
    wanted = {"linux", "revoked-elsewhere"}
    assert until_placed(api, "default", wanted) == wanted == expected(api, "default", mesh_of())
