"""Two installations on one cluster: a mesh belongs to one of them, and the other leaves it alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from wesher_operator.installation import take_over_command
from wesher_testing.cluster.api_server import ApiServer, KubectlFailed
from wesher_testing.cluster.helm import CHART, SOME_IMAGE, run_helm
from wesher_testing.cluster.operator_process import (
    NAMESPACE,
    SOON,
    OperatorProcess,
    eventually,
    operator_writes,
    run_operator,
)

SECOND = "second"
LEFT = "mesh belongs to another installation mesh=demo installation="
Mesh = Callable[..., None]


@pytest.fixture(scope="module")
def both(installed: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """Lend the API server with a second installation: accounts, roles, Deployment and policy."""
    values = ("--set=nameOverride=second", "--set=mesh.create=false", f"--namespace={SECOND}")
    rendered = run_helm(
        4,
        *("template", SECOND, str(CHART), *values, "--no-hooks", "--kube-version=1.34", SOME_IMAGE),
        home=tmp_path_factory.mktemp("helm"),
    )
    installed.kubectl("create", "namespace", SECOND)
    installed.kubectl("apply", "--filename=-", stdin=rendered)
    yield installed
    installed.kubectl("delete", "--wait=false", "--filename=-", stdin=rendered)


@pytest.fixture
def place(both: ApiServer, api: ApiServer) -> Iterator[ApiServer]:
    """Lend the API server with both installations, and two Nodes."""
    for number, name in enumerate("ab", start=1):
        api.node(name, f"192.168.7.{number}")
    yield both
    api.kubectl("delete", "weshermeshes", "--all")
    both.kubectl("delete", "secret,configmap,daemonset", "--all", "--wait=false", f"--namespace={SECOND}")


@pytest.fixture
def first(place: ApiServer) -> Iterator[OperatorProcess]:
    """Run the operator of the usual namespace and wait until it leads."""
    with run_operator(place, name="first") as process:
        eventually(process.leads, within=SOON)
        yield process


@pytest.fixture
def second(place: ApiServer) -> Iterator[OperatorProcess]:
    """Run the other installation's operator and wait until it leads."""
    with run_operator(place, name="second", namespace=SECOND, account="second-operator") as process:
        eventually(process.leads, within=SOON)
        yield process


def installation(api: ApiServer) -> str:
    """Return which installation runs the mesh."""
    return str((api.get("wmesh", "demo").get("status") or {}).get("installation", ""))


def agents(api: ApiServer) -> list[str]:
    """Return the namespaces in which the mesh has a DaemonSet."""
    found = api.get("daemonsets", "--all-namespaces", "--selector=wesher.dev/mesh=demo")["items"]
    return [item["metadata"]["namespace"] for item in found]


def annotate(api: ApiServer, namespace: str) -> None:
    """Give the mesh to an installation, as the documentation says."""
    program, *words = take_over_command("demo", namespace).split()
    assert program == "kubectl"
    api.kubectl(*words)


def writers(api: ApiServer, since: int) -> set[str]:
    """Return which of the operators' processes wrote anything about the mesh since so many writes."""
    return {
        event["userAgent"]
        for event in operator_writes(api)[since:]
        if "demo" in event["requestURI"] and event["responseStatus"]["code"] < HTTPStatus.BAD_REQUEST
    }


def test_of_two_operators_exactly_one_takes_a_mesh_and_the_other_writes_nothing(
    place: ApiServer, first: OperatorProcess, second: OperatorProcess, mesh: Mesh
) -> None:
    before = len(operator_writes(place))
    mesh()
    owner = eventually(lambda: installation(place), within=SOON)
    other = second if owner == NAMESPACE else first
    eventually(lambda: f"{LEFT}{owner}\n" in other.log, within=SOON)
    assert eventually(lambda: agents(place), within=SOON) == [owner]
    # A Node that comes wakes both.
    place.node("c", "192.168.7.3")
    eventually(lambda: place.get("wnode", "demo.c"), within=SOON)
    assert len(writers(place, before)) == 1
    assert agents(place) == [owner]
    # A second authority would certify whom the first one does not.
    found = place.get("secrets", "--all-namespaces", "--field-selector=metadata.name=demo-authority")["items"]
    assert [item["metadata"]["namespace"] for item in found] == [owner]
    assert other.log.count(LEFT) == 1


def test_an_operator_that_comes_later_or_starts_again_leaves_the_claim(
    place: ApiServer, first: OperatorProcess, mesh: Mesh
) -> None:
    mesh()
    eventually(lambda: agents(place), within=SOON, until=[NAMESPACE].__eq__)
    first.stop()
    with run_operator(place, name="second", namespace=SECOND, account="second-operator") as second:
        eventually(lambda: f"{LEFT}{NAMESPACE}\n" in second.log, within=SOON)
    assert agents(place) == [NAMESPACE]


def test_the_annotation_decides_before_the_claim_and_gives_a_mesh_to_another_installation(
    place: ApiServer, first: OperatorProcess, mesh: Mesh
) -> None:
    """Such as after the first installation is gone. The key is not there, and no new one is made."""
    mesh()
    eventually(lambda: (place.get("wmesh", "demo").get("status") or {}).get("key", {}).get("id"), within=SOON)
    with run_operator(place, name="second", namespace=SECOND, account="second-operator") as second:
        eventually(lambda: f"{LEFT}{NAMESPACE}\n" in second.log, within=SOON)
        annotate(place, SECOND)
        eventually(lambda: installation(place), within=SOON, until=SECOND.__eq__)
        eventually(lambda: f"{LEFT}{SECOND}\n" in first.log, within=SOON)
        gone = eventually(lambda: key_ready(place), within=SOON, until=lambda said: said["status"] == "False")
        assert "Secret demo-key is missing" in gone["message"]
        assert agents(place) == [NAMESPACE]
        # The rest of what the documentation says: the key, then the agents.
        secret = place.get("secret", "demo-key", f"--namespace={NAMESPACE}")
        secret["metadata"] = {"name": "demo-key", "namespace": SECOND}
        place.apply(secret)
        place.kubectl("delete", "daemonset", "demo-agent", f"--namespace={NAMESPACE}")
        eventually(lambda: agents(place), within=SOON, until=[SECOND].__eq__)


def key_ready(api: ApiServer) -> dict[str, Any]:
    conditions = api.get("wmesh", "demo")["status"]["conditions"]
    return next((each for each in conditions if each["type"] == "KeyReady"), {"status": ""})


def test_the_charts_own_mesh_names_its_installation(tmp_path: Path) -> None:
    shown = ("template", SECOND, str(CHART), f"--namespace={SECOND}", "--show-only=templates/mesh.yaml")
    rendered = run_helm(4, *shown, "--kube-version=1.34", SOME_IMAGE, home=tmp_path)
    assert f"wesher.dev/installation: {SECOND}\n" in rendered


def test_each_installations_policy_lets_its_agents_report_and_ties_them_to_their_node(
    place: ApiServer,
) -> None:
    for name in "ab":
        metadata = {"name": f"m.{name}"}
        spec = {"meshRef": {"name": "m", "uid": "u"}, "nodeName": name, "overlayIP": "10.189.0.1"}
        kind = {"apiVersion": "wesher.dev/v1alpha1", "kind": "WesherNode"}
        place.apply({**kind, "metadata": metadata, "spec": spec})
    for account, namespace in (("wesher-agent", NAMESPACE), ("second-agent", SECOND)):
        token = place.token(account, namespace, node="a")

        def patched(node: str, token: str = token) -> int:
            path = f"/apis/wesher.dev/v1alpha1/weshernodes/m.{node}/status"
            return place.patch(path, {"status": {"mtu": 1300}}, token=token)[0]

        eventually(
            lambda: patched("b"), within=SOON, until=lambda code: code == HTTPStatus.UNPROCESSABLE_ENTITY
        )
        assert patched("a") == HTTPStatus.OK


def test_the_doctor_names_the_installation_and_what_to_do_where_it_has_no_operator(
    place: ApiServer, first: OperatorProcess, mesh: Mesh
) -> None:
    def doctor() -> str:
        return plugin(place, "doctor", "-n", NAMESPACE, "demo")

    mesh()
    eventually(lambda: installation(place), within=SOON, until=NAMESPACE.__eq__)
    annotate(place, SECOND)
    eventually(lambda: f"{LEFT}{SECOND}\n" in first.log, within=SOON)
    assert "belongs to the installation in namespace second: kubectl wesher doctor -n second" in doctor()
    annotate(place, "nowhere")
    said = doctor()
    assert "belongs to the installation in namespace nowhere, and no operator runs there" in said
    assert take_over_command("demo", NAMESPACE) in said
    assert "agents of demo" not in said


def plugin(api: ApiServer, *words: str) -> str:
    """Run ``kubectl wesher`` and return what it printed."""
    run = subprocess.run(
        [sys.executable, "-m", "wesher_operator.kubectl", *words, f"--kubeconfig={api.kubeconfig}"],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
        timeout=2 * SOON,
    )
    return run.stdout + run.stderr


def test_the_join_command_takes_the_key_from_the_meshs_own_installation(
    place: ApiServer, second: OperatorProcess, mesh: Mesh, report: Callable[..., None]
) -> None:
    mesh()
    eventually(lambda: place.get("wnode", "demo.a"), within=SOON)
    report("a", endpoint="192.168.7.1:51820")
    eventually(lambda: installation(place), within=SOON, until=SECOND.__eq__)
    assert f" -n {SECOND} get secret demo-key " in plugin(place, "join-command", "demo")


def test_a_claim_of_a_mesh_that_has_changed_since_is_refused(place: ApiServer, mesh: Mesh) -> None:
    """Both operators may see an unclaimed mesh: the API server takes the first claim alone."""
    mesh()
    seen = {key: place.get("wmesh", "demo")["metadata"][key] for key in ("name", "uid", "resourceVersion")}

    def claim(namespace: str) -> str:
        kind = {"apiVersion": "wesher.dev/v1alpha1", "kind": "WesherMesh"}
        how = (
            "--server-side",
            "--subresource=status",
            "--force-conflicts",
            "--field-manager=wesher-operator",
        )
        body = {**kind, "metadata": seen, "status": {"installation": namespace}}
        return place.kubectl("apply", *how, "--filename=-", stdin=json.dumps(body))

    assert "serverside-applied" in claim(NAMESPACE)
    with pytest.raises(KubectlFailed, match="the object has been modified"):
        claim(SECOND)
    assert installation(place) == NAMESPACE
