"""``kubectl wesher admit``, ``authority`` and ``new-authority`` on a real API server, without agents."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from http import HTTPStatus
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from wesher_common.certificate import AuthorityKey
from wesher_common.keys import WireGuardPrivateKey
from wesher_testing.cluster.api_server import ApiServer
from wesher_testing.cluster.certified_agents import (
    announced,
    boot,
    certificate,
    counts_for,
    identity,
    node_condition,
    private_key,
    proven,
)
from wesher_testing.cluster.operator_process import NAMESPACE, SOON, OperatorProcess, eventually, run_operator
from wesher_testing.run import toolbox

KEYS = {name: private_key(name) for name in "ab"}
OTHER = private_key("another machine")
ANNOTATION = "wesher.dev/admit-key"
Mesh = Callable[..., None]
Report = Callable[..., None]


@pytest.fixture
def nodes(api: ApiServer) -> None:
    for number, name in enumerate(KEYS, start=1):
        api.node(name, f"192.168.7.{number}")
        boot(api, name, f"boot-{name}")


def command(api: ApiServer, *words: str) -> subprocess.CompletedProcess[str]:
    """Run ``kubectl wesher`` as the administrator."""
    kubectl = toolbox.kubernetes_binary("kubectl")
    path = f"{Path(sys.executable).parent}:{kubectl.parent}:{os.environ['PATH']}"
    return subprocess.run(
        [kubectl, "wesher", *words, f"--kubeconfig={api.kubeconfig}"],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=2 * SOON,
    )


def place(api: ApiServer, node: str) -> dict[str, Any]:
    found = eventually(lambda: api.get("wnode", f"demo.{node}"), within=SOON)
    spec: dict[str, Any] = found["spec"]
    return spec


def certify(api: ApiServer, report: Report) -> None:
    for node, key in KEYS.items():
        place(api, node)
        report(node, **proven(api, node, key))
    for node in KEYS:
        eventually(lambda node=node: certificate(api, node), within=SOON)
    report_all(api, report)
    eventually(lambda: identity(api).bound, within=SOON)
    report_all(api, report)


def report_all(api: ApiServer, report: Report) -> None:
    """Report as agents that have read mesh.json, and announce the certificates that they were given."""
    for node, key in KEYS.items():
        report(node, **announced(api, node, key))


def authorities(api: ApiServer) -> tuple[AuthorityKey, ...]:
    return identity(api).authorities


def signed_by(api: ApiServer) -> set[bytes]:
    found = {node: certificate(api, node) for node in KEYS}
    return {each.authority for each in found.values() if each is not None}


def mesh_reason(api: ApiServer) -> str:
    entries = api.get("wmesh", "demo").get("status", {}).get("conditions", [])
    return next((entry["reason"] for entry in entries if entry["type"] == "Certified"), "")


def kill(api: ApiServer, operator: OperatorProcess) -> None:
    """End an operator at once; its successor need not wait for its lease."""
    operator.kill()
    api.kubectl("delete", "lease", "wesher-operator", "-n", NAMESPACE)


def test_one_authority_replaces_another_though_the_operator_is_killed_in_each_phase(
    api: ApiServer, nodes: None, mesh: Mesh, report: Report
) -> None:
    with run_operator(api, name="first") as operator:
        mesh()
        certify(api, report)
        (former,) = authorities(api)
        assert command(api, "authority").stdout == f"{former}\n"
        done = command(api, "new-authority", "--mesh", "demo")
        assert done.returncode == 0, done.stderr
        new, kept = eventually(lambda: authorities(api), within=SOON, until=lambda found: len(found) > 1)
        assert kept == former
        kill(api, operator)
    assert signed_by(api) == {former.id}
    assert command(api, "new-authority").returncode == 1  # the first one has not ended

    report_all(api, report)
    with run_operator(api, name="second") as operator:
        eventually(lambda: signed_by(api), within=SOON, until={new.id}.__eq__)
        kill(api, operator)
    assert authorities(api) == (new, former)
    for node, key in KEYS.items():
        assert counts_for(api, node, key, ip_address(place(api, node)["overlayIP"])) is None

    with run_operator(api, name="third"):
        report_all(api, report)
        eventually(lambda: authorities(api), within=SOON, until=(new,).__eq__)
        report_all(api, report)
        eventually(lambda: mesh_reason(api), within=SOON, until="AllCertified".__eq__)
        assert identity(api).bound
        assert command(api, "authority").stdout == f"{new}\n"


def test_a_mesh_that_an_older_operator_ran_meanwhile_is_verified_again_and_cuts_nobody_off(
    api: ApiServer, nodes: None, mesh: Mesh, report: Report
) -> None:
    """An operator without certificates applies a status, mesh.json and WesherNodes without them."""
    with run_operator(api, name="before"):
        mesh()
        certify(api, report)
        (authority,) = authorities(api)
    older_operator(api)
    assert "identity" not in api.get("wmesh", "demo")["status"]
    assert certificate(api, "a") is None

    with run_operator(api, name="after"):
        found = eventually(
            lambda: api.get("wmesh", "demo")["status"].get("identity"), within=SOON, until=bool
        )
        assert (found["mode"], found["bound"]) == ("Verified", False)
        assert authorities(api) == (authority,)
        for node, key in KEYS.items():
            report(node, **proven(api, node, key))
        eventually(lambda: len(signed_by(api)) == 1 and certificate(api, "b"), within=SOON)
        report_all(api, report)
        eventually(lambda: identity(api).bound, within=SOON)


def older_operator(api: ApiServer) -> None:
    """Write what an operator of a release without certificates writes over an identity."""
    as_operator = (
        "apply",
        "--server-side",
        "--force-conflicts",
        "--field-manager=wesher-operator",
    )
    found = api.get("wmesh", "demo")
    status = {key: value for key, value in found["status"].items() if key != "identity"}
    status["conditions"] = [entry for entry in status["conditions"] if entry["type"] != "Certified"]
    head = {"apiVersion": found["apiVersion"], "kind": "WesherMesh", "metadata": {"name": "demo"}}
    api.kubectl(*as_operator, "--subresource=status", "-f", "-", stdin=json.dumps({**head, "status": status}))
    config = api.get("configmap", "demo-config", "-n", NAMESPACE)
    document = json.loads(config["data"]["mesh.json"])
    del document["identity"]
    api.kubectl(
        *("patch", "configmap", "demo-config", "-n", NAMESPACE, "--type=merge"),
        *("-p", json.dumps({"data": {"mesh.json": json.dumps(document, indent=2, sort_keys=True) + "\n"}})),
    )
    for node in KEYS:
        path = ("patch", "wnode", f"demo.{node}", "--type=merge")
        api.kubectl(*path, "-p", json.dumps({"spec": {"certificate": None, "serial": None}}))
        said = {"keyProof": None, "certificateSerial": None, "configHash": "of-an-older-agent"}
        api.kubectl(*path, "--subresource=status", "-p", json.dumps({"status": said}))


def test_a_stolen_authority_is_dropped_at_once(
    api: ApiServer, operator: OperatorProcess, nodes: None, mesh: Mesh, report: Report
) -> None:
    mesh()
    certify(api, report)
    (former,) = authorities(api)
    stolen = api.get("secret", "demo-authority", "-n", NAMESPACE)["data"]["seed"]
    assert command(api, "new-authority", "--now").returncode == 0
    (new,) = eventually(lambda: authorities(api), within=SOON, until=lambda found: former not in found)
    eventually(lambda: signed_by(api), within=SOON, until={new.id}.__eq__)
    assert identity(api).bound
    data = api.get("secret", "demo-authority", "-n", NAMESPACE)["data"]
    assert data.keys() == {"seed", "drops"}
    assert data["seed"] != stolen


def test_a_new_authority_is_the_way_out_where_the_secret_is_lost(
    api: ApiServer, operator: OperatorProcess, nodes: None, mesh: Mesh, report: Report
) -> None:
    mesh()
    certify(api, report)
    (former,) = authorities(api)
    api.kubectl("delete", "secret", "demo-authority", "-n", NAMESPACE)
    eventually(lambda: mesh_reason(api), within=SOON, until="AuthorityLost".__eq__)
    assert command(api, "new-authority").returncode == 0
    new, _ = eventually(lambda: authorities(api), within=SOON, until=lambda found: len(found) > 1)
    assert signed_by(api) == {former.id}
    report_all(api, report)
    eventually(lambda: signed_by(api), within=SOON, until={new.id}.__eq__)
    report_all(api, report)
    eventually(lambda: authorities(api), within=SOON, until=(new,).__eq__)


def test_a_changed_key_is_certified_after_admit_and_no_agent_can_admit_one(
    api: ApiServer, operator: OperatorProcess, nodes: None, mesh: Mesh, report: Report
) -> None:
    mesh()
    certify(api, report)
    had = certificate(api, "a")
    report("a", **proven(api, "a", OTHER))
    until_reason(api, "KeyChanged")

    path = "/apis/wesher.dev/v1alpha1/weshernodes/demo.a"
    token = api.token("wesher-agent", NAMESPACE, node="a")
    body = {"metadata": {"annotations": {ANNOTATION: str(OTHER.public)}}}
    status, _ = api.patch(path, body, token=token)
    assert status == HTTPStatus.FORBIDDEN
    # The right to write the status carries no annotation.
    status, _ = api.patch(f"{path}/status", {**body, "status": {"mtu": 1400}}, token=token)
    assert status == HTTPStatus.OK
    found = api.get("wnode", "demo.a")
    assert found["status"]["mtu"] == 1400
    assert ANNOTATION not in (found["metadata"].get("annotations") or {})

    assert admitted(api, KEYS["a"]).returncode == 2
    assert certificate(api, "a") == had
    done = admitted(api, OTHER)
    assert done.returncode == 0, done.stderr
    eventually(lambda: certificate(api, "a"), within=SOON, until=lambda each: each != had)
    assert counts_for(api, "a", OTHER, ip_address(place(api, "a")["overlayIP"])) is None
    until_reason(api, "Issued")
    # It was for this change alone.
    eventually(
        lambda: api.get("wnode", "demo.a")["metadata"].get("annotations") or {},
        within=SOON,
        until=lambda annotations: ANNOTATION not in annotations,
    )


def admitted(api: ApiServer, key: WireGuardPrivateKey) -> subprocess.CompletedProcess[str]:
    return command(api, "admit", "a", "--key", str(key.public))


def until_reason(api: ApiServer, reason: str) -> None:
    eventually(lambda: node_condition(api, "a").get("reason", ""), within=SOON, until=reason.__eq__)
