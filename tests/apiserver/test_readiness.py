"""What the operator writes to Nodes on a real API server, with and without the rights for it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from wesher_testing.cluster.api_server import ApiServer
from wesher_testing.cluster.helm import CHART, SOME_IMAGE, run_helm
from wesher_testing.cluster.operator_process import (
    NAMESPACE,
    SOON,
    OperatorProcess,
    eventually,
    operator_writes,
    run_operator,
)

Mesh = Callable[..., None]
Report = Callable[..., None]

TUNNELS = "wesher.dev/TunnelsReady"
STARTUP = {"key": "wesher.dev/tunnels-not-ready", "effect": "NoSchedule"}
TAINT = "wesher.dev/tunnels-not-ready:NoSchedule"
GPU = {"key": "gpu", "value": "yes", "effect": "NoExecute"}
WITHIN = 5.0
"""From a report to the taint's end; the operator's own pace of writes included."""
READY = {"condition": True, "taint": TAINT}
_ROLE = "wesher-operator"


def condition(api: ApiServer, node: str) -> dict[str, Any]:
    """Return a Node's condition; empty if it has none."""
    found = api.get("node", node)["status"]["conditions"]
    return next((entry for entry in found if entry["type"] == TUNNELS), {})


def of_mesh(api: ApiServer, name: str = "demo") -> tuple[str, str]:
    """Return status and reason of a mesh's condition, empty if it has none."""
    status = (api.get("wmesh", name) or {}).get("status", {})
    found = [each for each in status.get("conditions", []) if each["type"] == "NodeReadiness"]
    return (found[0]["status"], found[0]["reason"]) if found else ("", "")


def taints(api: ApiServer, node: str) -> list[dict[str, Any]]:
    """Return a Node's taints, without the time that an API server adds."""
    found = api.get("node", node)["spec"].get("taints", [])
    return [{key: value for key, value in each.items() if key != "timeAdded"} for each in found]


def set_taints(api: ApiServer, node: str, *wanted: dict[str, Any]) -> None:
    patch = json.dumps({"spec": {"taints": list(wanted)}})
    api.kubectl("patch", "node", node, "--type=merge", "-p", patch)


def has_place(api: ApiServer, node: str) -> bool:
    return api.get("wnode", f"demo.{node}") is not None


def ready(api: ApiServer, report: Report, node: str) -> None:
    """Report as the agent of a node, once that has its place."""
    eventually(lambda: has_place(api, node), within=SOON)
    machine = api.get("wnode", f"demo.{node}")["spec"].get("machine", "")
    report(node, machine=machine)


def boot(api: ApiServer, node: str, boot_id: str) -> None:
    """Say as a kubelet that its machine has booted."""
    said = {"status": {"nodeInfo": {"bootID": boot_id}}}
    api.kubectl("patch", "node", node, "--subresource=status", "--type=strategic", "-p", json.dumps(said))


@pytest.fixture(scope="module")
def rights(installed: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """Give the operator what the chart gives it with rbac.nodeReadiness, and take that back in the end."""
    former = installed.get("clusterrole", _ROLE)["rules"]
    grant(installed, tmp_path_factory.mktemp("helm"))
    yield installed
    installed.kubectl("patch", "clusterrole", _ROLE, "--type=merge", "-p", json.dumps({"rules": former}))


def grant(api: ApiServer, home: Path) -> None:
    role = ("--show-only=templates/operator-rbac.yaml", "--set=rbac.nodeReadiness=true")
    rendered = run_helm(4, "template", "wesher", CHART, f"-n{NAMESPACE}", SOME_IMAGE, *role, home=home)
    api.apply(*(each for each in yaml.safe_load_all(rendered) if each["kind"] == "ClusterRole"))


@pytest.fixture
def writing(rights: ApiServer, operator: OperatorProcess) -> OperatorProcess:
    """Return an operator that may write to Nodes."""
    return operator


def test_without_the_rights_the_mesh_names_the_chart_value_and_does_not_ask_again_and_again(
    api: ApiServer, mesh: Mesh, report: Report, tmp_path: Path
) -> None:
    for number in range(1, 4):
        api.node(f"n{number}", f"192.168.7.{number}")
        set_taints(api, f"n{number}", STARTUP)
    mesh(nodeReadiness=READY)
    with run_operator(api, name="without") as operator:
        for number in range(1, 4):
            ready(api, report, f"n{number}")
        eventually(lambda: of_mesh(api), within=SOON, until=("False", "MissingPermission").__eq__)
        said = api.get("wmesh", "demo")["status"]["conditions"]
        message = next(each["message"] for each in said if each["type"] == "NodeReadiness")
        eventually(
            lambda: api.get("wmesh", "demo")["status"]["members"]["summary"], within=SOON, until="3/3".__eq__
        )
        assert "rbac.nodeReadiness=true" in message
        # A minute passes between two tries of each resource, and the mesh itself does not suffer.
        tries = [each for each in operator_writes(api) if "/api/v1/nodes/" in each["requestURI"]]
        tried = [
            each["requestURI"].partition("?")[0] for each in tries if each["responseStatus"]["code"] == 403
        ]
        assert sum(path.endswith("/status") for path in tried) <= 2
        assert sum(not path.endswith("/status") for path in tried) <= 2
        operator.stop()
    former = api.get("clusterrole", _ROLE)["rules"]
    grant(api, tmp_path)
    try:
        with run_operator(api, name="with"):
            for number in range(1, 4):
                eventually(lambda number=number: taints(api, f"n{number}"), within=SOON, until=[].__eq__)  # type: ignore[misc]
            eventually(lambda: of_mesh(api), within=SOON, until=("True", "NodesWritten").__eq__)
    finally:
        api.kubectl("patch", "clusterrole", _ROLE, "--type=merge", "-p", json.dumps({"rules": former}))


@pytest.mark.usefixtures("writing")
def test_a_node_says_that_its_tunnels_are_ready_and_loses_its_startup_taint(
    api: ApiServer, mesh: Mesh, report: Report
) -> None:
    for number, name in enumerate("ab", start=1):
        api.node(name, f"192.168.7.{number}")
        set_taints(api, name, GPU, STARTUP)
    kubelets = api.get("node", "a")["status"]["conditions"]
    mesh(nodeReadiness=READY)
    eventually(lambda: condition(api, "a").get("status", ""), within=SOON, until="Unknown".__eq__)
    assert condition(api, "a")["reason"] == "NotReported"
    ready(api, report, "a")
    eventually(lambda: taints(api, "a"), within=WITHIN, until=[GPU].__eq__)
    said = eventually(
        lambda: condition(api, "a"), within=WITHIN, until=lambda found: found["status"] == "True"
    )
    assert said["reason"] == "TunnelsReady"
    # What a kubelet wrote is as it was, and what it writes next leaves ours.
    others = [each for each in api.get("node", "a")["status"]["conditions"] if each["type"] != TUNNELS]
    assert others == kubelets
    boot(api, "b", "1")
    assert taints(api, "b") == [GPU, STARTUP]
    assert condition(api, "b")["status"] == "Unknown"
    assert of_mesh(api) == ("True", "NodesWritten")


@pytest.mark.usefixtures("writing")
def test_nothing_is_written_to_a_node_whose_agent_says_the_same_again(
    api: ApiServer, mesh: Mesh, report: Report
) -> None:
    api.node("a", "192.168.7.1")
    mesh(nodeReadiness=READY)
    ready(api, report, "a")
    eventually(lambda: condition(api, "a").get("status", ""), within=SOON, until="True".__eq__)
    before = api.get("node", "a")["metadata"]["resourceVersion"]
    ready(api, report, "a")
    # A change that the operator answers shows that it has looked at the report.
    api.node("b", "192.168.7.2")
    eventually(lambda: condition(api, "b").get("status", ""), within=SOON, until="Unknown".__eq__)
    assert api.get("node", "a")["metadata"]["resourceVersion"] == before


@pytest.mark.usefixtures("writing")
def test_taints_that_others_write_all_the_while_are_kept(api: ApiServer, mesh: Mesh, report: Report) -> None:
    """Another writer adds taints, one after the other, while the operator removes each startup taint."""
    nodes = [f"n{number}" for number in range(6)]
    for number, name in enumerate(nodes, start=1):
        api.node(name, f"192.168.7.{number}")
        set_taints(api, name, STARTUP)
    mesh(nodeReadiness=READY)
    for name in nodes:
        eventually(lambda name=name: has_place(api, name), within=SOON)  # type: ignore[misc]
    added = [f"t{number}.example/x" for number in range(5)]

    def taint_all() -> None:
        for key in added:
            api.kubectl("taint", "node", *nodes, f"{key}=:PreferNoSchedule")

    other = threading.Thread(target=taint_all)
    other.start()
    for name in nodes:
        ready(api, report, name)
    other.join()
    for name in nodes:
        eventually(
            lambda name=name: {each["key"] for each in taints(api, name)},  # type: ignore[misc]
            within=SOON,
            until=set(added).__eq__,
        )


@pytest.mark.usefixtures("writing")
def test_the_condition_goes_with_the_switch_the_node_and_the_mesh(
    api: ApiServer, mesh: Mesh, report: Report
) -> None:
    api.node("a", "192.168.7.1", labels={"pool": "near"})
    api.node("b", "192.168.7.2")
    mesh(nodeReadiness=READY)
    for name in "ab":
        ready(api, report, name)
        eventually(lambda name=name: condition(api, name).get("status", ""), within=SOON, until="True".__eq__)  # type: ignore[misc]
    mesh(nodeReadiness=READY, nodeSelector={"pool": "near"})
    eventually(lambda: condition(api, "b"), within=SOON, until={}.__eq__)
    assert condition(api, "a")["status"] == "True"
    mesh()
    eventually(lambda: condition(api, "a"), within=SOON, until={}.__eq__)
    mesh(nodeReadiness=READY)
    eventually(lambda: condition(api, "a").get("status", ""), within=SOON, until="True".__eq__)
    api.kubectl("delete", "wmesh", "demo")
    eventually(lambda: condition(api, "a"), within=SOON, until={}.__eq__)


@pytest.mark.usefixtures("rights")
def test_another_operator_goes_on_and_clears_what_was_left(
    api: ApiServer, mesh: Mesh, report: Report
) -> None:
    for number, name in enumerate("ab", start=1):
        api.node(name, f"192.168.7.{number}")
        set_taints(api, name, STARTUP)
    mesh(nodeReadiness=READY)
    with run_operator(api, name="first") as first:
        ready(api, report, "a")
        eventually(lambda: taints(api, "a"), within=SOON, until=[].__eq__)
        eventually(lambda: condition(api, "a").get("status", ""), within=SOON, until="True".__eq__)
        first.stop()
    written = api.get("node", "a")["metadata"]["resourceVersion"]
    ready(api, report, "b")
    with run_operator(api, name="second") as second:
        eventually(lambda: taints(api, "b"), within=SOON, until=[].__eq__)
        assert api.get("node", "a")["metadata"]["resourceVersion"] == written
        second.stop()
    # A mesh that is deleted while no operator runs.
    api.kubectl("delete", "wmesh", "demo")
    with run_operator(api, name="third"):
        eventually(lambda: [condition(api, name) for name in "ab"], within=SOON, until=[{}, {}].__eq__)


@pytest.mark.usefixtures("writing")
def test_the_taint_returns_with_a_reboot_where_that_is_asked(
    api: ApiServer, mesh: Mesh, report: Report
) -> None:
    api.node("a", "192.168.7.1")
    boot(api, "a", "1")
    set_taints(api, "a", STARTUP)
    mesh(nodeReadiness={"taint": TAINT, "taintOnReboot": True})
    ready(api, report, "a")
    eventually(lambda: taints(api, "a"), within=SOON, until=[].__eq__)
    boot(api, "a", "2")
    eventually(lambda: taints(api, "a"), within=SOON, until=[STARTUP].__eq__)
    ready(api, report, "a")
    eventually(lambda: taints(api, "a"), within=WITHIN, until=[].__eq__)


@pytest.mark.usefixtures("writing")
def test_the_older_of_two_meshes_writes_and_the_other_says_so(
    api: ApiServer, mesh: Mesh, report: Report
) -> None:
    api.node("a", "192.168.7.1")
    mesh(nodeReadiness={"condition": True})
    eventually(lambda: of_mesh(api), within=SOON, until=("True", "NodesWritten").__eq__)
    # An age is known to the second, and the name decides between equal ones.
    second = {"overlayCIDR": "10.190.0.0/16", "gossip": {"port": 7947}}
    wireguard = {"interface": "wgsecond", "port": 51821}
    mesh("second", **second, wireguard=wireguard, nodeReadiness={"condition": True})
    eventually(lambda: of_mesh(api, "second"), within=SOON, until=("False", "Conflict").__eq__)
    ready(api, report, "a")
    eventually(lambda: condition(api, "a").get("status", ""), within=SOON, until="True".__eq__)
    assert "mesh demo" in condition(api, "a")["message"]
    assert api.get("wnode", "second.a") is not None
    mesh()
    eventually(lambda: of_mesh(api, "second"), within=SOON, until=("True", "NodesWritten").__eq__)
    eventually(lambda: condition(api, "a").get("status", ""), within=SOON, until="Unknown".__eq__)
