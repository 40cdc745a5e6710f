"""What an edit of a running mesh's spec changes of all that the operator writes for its agents.

What an agent does with it is in ``tests/agent/test_live_edits.py``.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from wesher_common.mesh_document import MeshDocument
from wesher_testing.cluster.api_server import ApiServer
from wesher_testing.cluster.operator_process import NAMESPACE, SOON, eventually

pytestmark = pytest.mark.usefixtures("operator")

INSIDE = {"a": "192.168.7.1", "b": "192.168.7.2"}
OUTSIDE = {"a": "203.0.113.1", "b": "203.0.113.2"}


def published(api: ApiServer) -> MeshDocument:
    config = api.get("configmap", "demo-config", "-n", NAMESPACE)
    return MeshDocument.from_json(config["data"]["mesh.json"])


def places(api: ApiServer) -> dict[str, dict[str, Any]]:
    found = (item["spec"] for item in api.get("wnode", "-l", "wesher.dev/mesh=demo")["items"])
    return {spec["nodeName"]: spec for spec in found}


def agents(api: ApiServer) -> dict[str, Any]:
    """Return the pod of the agents: another one replaces every running agent's."""
    template: dict[str, Any] = api.get("daemonset", "demo-agent", "-n", NAMESPACE)["spec"]["template"]
    return template


@pytest.fixture
def edit(api: ApiServer, mesh: Callable[..., None]) -> Callable[..., None]:
    """Make a mesh of two nodes with agents; return what edits its spec."""
    for name, address in INSIDE.items():
        api.node(name, address)
        addresses = [
            {"type": "InternalIP", "address": address},
            {"type": "ExternalIP", "address": OUTSIDE[name]},
        ]
        status = json.dumps({"status": {"addresses": addresses}})
        api.kubectl("patch", "node", name, "--subresource=status", "--type=merge", "-p", status)
    mesh()
    eventually(lambda: api.get("daemonset", "demo-agent", "-n", NAMESPACE), within=SOON)
    eventually(
        lambda: {n: s["advertiseAddress"] for n, s in places(api).items()}, within=SOON, until=INSIDE.__eq__
    )

    def change(**spec: Any) -> None:
        api.kubectl("patch", "wmesh", "demo", "--type=merge", "-p", json.dumps({"spec": spec}))

    return change


def test_another_allocation_network_is_for_new_nodes_and_moves_nobody(
    api: ApiServer, edit: Callable[..., None]
) -> None:
    before, pod = places(api), agents(api)
    edit(allocationCIDR="10.189.7.0/24")
    eventually(lambda: str(published(api).allocation), within=SOON, until="10.189.7.0/24".__eq__)
    api.node("c", "192.168.7.3")
    after = eventually(lambda: places(api), within=SOON, until=lambda found: "c" in found)
    assert after["c"]["overlayIP"].startswith("10.189.7.")
    assert {name: after[name]["overlayIP"] for name in before} == {
        name: spec["overlayIP"] for name, spec in before.items()
    }
    assert agents(api) == pod


def test_another_cluster_name_moves_nobody(api: ApiServer, edit: Callable[..., None]) -> None:
    before, pod = places(api), agents(api)
    edit(clusterName="east")
    eventually(lambda: published(api).cluster_name, within=SOON, until="east".__eq__)
    after = eventually(
        lambda: places(api),
        within=SOON,
        until=lambda found: all(spec["location"] == "east" for spec in found.values()),
    )
    assert {name: {**spec, "location": ""} for name, spec in after.items()} == {
        name: {**spec, "location": ""} for name, spec in before.items()
    }
    assert agents(api) == pod


def test_preferred_addresses_are_announced_without_a_new_pod(
    api: ApiServer, edit: Callable[..., None]
) -> None:
    pod = agents(api)
    edit(addresses={"prefer": ["ExternalIP", "InternalIP"]})
    eventually(
        lambda: {name: spec["advertiseAddress"] for name, spec in places(api).items()},
        within=SOON,
        until=OUTSIDE.__eq__,
    )
    assert agents(api) == pod


def test_seeds_reach_the_agents_without_a_new_pod(api: ApiServer, edit: Callable[..., None]) -> None:
    pod = agents(api)
    edit(seedNodes=["gate.example:7946"])
    eventually(
        lambda: [str(seed) for seed in published(api).seed_nodes],
        within=SOON,
        until=["gate.example:7946"].__eq__,
    )
    assert agents(api) == pod


ONLY_A = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["a"]}]}


@pytest.mark.parametrize(
    "selection",
    [
        {"nodeSelector": {"kubernetes.io/hostname": "a"}},
        {
            "affinity": {
                "nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [ONLY_A]}
                }
            }
        },
    ],
    ids=["nodeSelector", "affinity"],
)
def test_a_node_that_is_no_longer_selected_leaves_and_the_others_stay(
    api: ApiServer, edit: Callable[..., None], selection: dict[str, Any]
) -> None:
    before, pod = places(api), agents(api)
    metadata = {"name": "agent-b", "namespace": NAMESPACE, "labels": {"wesher.dev/mesh": "demo"}}
    container = {"name": "agent", "image": "wesher:test"}
    spec = {"nodeName": "b", "serviceAccountName": "wesher-agent", "containers": [container]}
    api.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    edit(**selection)
    eventually(lambda: agents(api), within=SOON, until=lambda found: found != pod)
    # As the DaemonSet controller does. No kubelet is here, so the pod stays, with the mark that it ends.
    api.kubectl("delete", "pod", "agent-b", "-n", NAMESPACE, "--wait=false")
    after = eventually(lambda: places(api), within=SOON, until=lambda found: found.keys() == {"a"})
    assert after["a"] == before["a"]


NOT_READY = {"key": "node.kubernetes.io/not-ready", "operator": "Exists"}
"""The API server puts that taint on every new Node, and no kubelet is here to take it away."""


def test_a_node_whose_taint_is_tolerated_now_gets_its_place(
    api: ApiServer, edit: Callable[..., None]
) -> None:
    before, pod = places(api), agents(api)
    edit(tolerations=[NOT_READY])
    eventually(lambda: agents(api), within=SOON, until=lambda found: found != pod)
    api.node("c", "192.168.7.3")
    eventually(lambda: places(api), within=SOON, until=lambda found: "c" in found)
    api.kubectl("delete", "node", "c")
    eventually(lambda: places(api), within=SOON, until=lambda found: "c" not in found)
    api.kubectl("create", "-f", "-", stdin=json.dumps(_tainted("c")))
    edit(tolerations=[NOT_READY, {"key": "role", "operator": "Exists"}])
    after = eventually(lambda: places(api), within=SOON, until=lambda found: "c" in found)
    assert {name: after[name] for name in before} == before


def test_a_mesh_whose_secret_is_absent_gets_one_under_the_name_that_the_user_gave(
    api: ApiServer, mesh: Callable[..., None]
) -> None:
    api.node("a", "192.168.7.1")
    mesh(clusterKeySecretRef={"name": "mine"})
    made = eventually(lambda: api.get("secret", "mine", "-n", NAMESPACE), within=SOON)
    # Base64 in base64, as a Secret holds text. A failure must not print the key.
    size = len(base64.b64decode(base64.b64decode(made["data"]["cluster-key"])))
    assert size == 32


def _tainted(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}},
        "spec": {"taints": [{"key": "role", "effect": "NoExecute"}]},
    }
