"""The operator as authority after upgrades and crashes, and with a wrong clock, on a real API server."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any

import pytest

from wesher_operator.crd import definition
from wesher_operator.kube import Cluster, connect
from wesher_operator.reconcile.control import WATCHED
from wesher_operator.reconcile.manifests import AgentSettings
from wesher_operator.reconcile.mesh import MeshReconciler
from wesher_operator.reconcile.world import World
from wesher_operator.resources.mesh import WesherMesh
from wesher_testing.cluster.api_server import ApiServer
from wesher_testing.cluster.certified_agents import (
    boot,
    certificate,
    certify,
    counts_for,
    document,
    identity,
    issued_names,
    node_condition,
    place,
    private_key,
    proven,
    until_void,
    void_until,
)
from wesher_testing.cluster.operator_process import NAMESPACE, SOON, eventually, run_operator

A, OTHER = private_key("a"), private_key("another machine")
Mesh = Callable[..., None]
Report = Callable[..., None]
NO_CERTIFICATES = "test-no-certificates"


@pytest.fixture
def node(api: ApiServer) -> None:
    api.node("a", "192.168.7.1")
    boot(api, "a", "boot-a")


def until_place(api: ApiServer) -> dict[str, Any]:
    found = eventually(lambda: api.get("wnode", "demo.a"), within=SOON)
    spec: dict[str, Any] = found["spec"]
    return spec


def without_identity() -> dict[str, Any]:
    """Return the definition of WesherMeshes as a release had it that knew no certificates."""
    older = deepcopy(definition(WesherMesh))
    schema = older["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    for part in ("spec", "status"):
        del schema[part]["properties"]["identity"]
    return older


def test_a_mesh_of_a_release_without_certificates_stays_open_when_its_definition_is_replaced(
    api: ApiServer, node: None, mesh: Mesh
) -> None:
    """A default in the new schema would change it at that moment, and nobody would see it."""
    api.apply(without_identity())
    try:
        mesh()
        # As the operator of that release left it.
        status = {"observedGeneration": 1, "installation": NAMESPACE, "key": {"id": "0123abcd"}}
        said = {"type": "Ready", "status": "True", "reason": "AllReady", "message": ""}
        status["conditions"] = [{**said, "lastTransitionTime": "2026-11-22T12:00:00Z"}]
        api.kubectl(
            *("patch", "wmesh", "demo", "--subresource=status", "--type=merge"),
            *("-p", json.dumps({"status": status})),
        )
    finally:
        api.apply(definition(WesherMesh))
    assert "identity" not in api.get("wmesh", "demo")["spec"]
    with run_operator(api, name="upgraded"):
        assert identity(api).mode == "Open"
        found = eventually(lambda: api.get("wmesh", "demo")["status"].get("identity"), within=SOON)
        assert (found["mode"], found["bound"]) == ("Open", False)
    with run_operator(api, name="once-more"):
        mesh(etcHosts="Off")
        eventually(lambda: document(api), within=SOON, until=lambda read: read.etc_hosts == "Off")
        assert identity(api).mode == "Open"
        mesh(identity="Verified")
        eventually(lambda: identity(api).mode, within=SOON, until="Verified".__eq__)


@pytest.fixture
def refused_certificates(api: ApiServer) -> Iterator[Callable[[], None]]:
    """Have the API server refuse certificates until what is yielded is called, after it took the ledger."""
    spec = {
        "failurePolicy": "Fail",
        "matchConstraints": {
            "resourceRules": [
                {
                    "apiGroups": ["wesher.dev"],
                    "apiVersions": ["*"],
                    "resources": ["weshernodes"],
                    "operations": ["CREATE", "UPDATE"],
                }
            ]
        },
        "validations": [{"expression": "!has(object.spec.certificate) || object.spec.certificate == ''"}],
    }
    group = "admissionregistration.k8s.io/v1"
    metadata = {"name": NO_CERTIFICATES}
    api.apply({"apiVersion": group, "kind": "ValidatingAdmissionPolicy", "metadata": metadata, "spec": spec})
    bound = {"policyName": NO_CERTIFICATES, "validationActions": ["Deny"]}
    kind = "ValidatingAdmissionPolicyBinding"
    api.apply({"apiVersion": group, "kind": kind, "metadata": metadata, "spec": bound})

    def allow() -> None:
        kinds = "validatingadmissionpolicybinding,validatingadmissionpolicy"
        api.kubectl("delete", kinds, NO_CERTIFICATES, "--ignore-not-found")

    yield allow
    allow()


def test_an_operator_killed_between_ledger_and_certificate_is_followed_by_one_that_issues_it(
    api: ApiServer, node: None, mesh: Mesh, report: Report, refused_certificates: Callable[[], None]
) -> None:
    with run_operator(api, name="killed") as killed:
        mesh()
        until_place(api)
        eventually(lambda: takes_no_certificate(api), within=SOON)
        report("a", **proven(api, "a", A))
        eventually(lambda: issued_names(api), within=SOON)
        killed.kill()
    assert certificate(api, "a") is None
    entry = issued_names(api)["a"]
    assert entry["key"] == str(A.public)
    refused_certificates()

    # In the meantime the token was stolen, and another key published: the ledger knows the first.
    report("a", **proven(api, "a", OTHER))
    with run_operator(api, name="next"):
        eventually(lambda: node_condition(api, "a").get("reason", ""), within=SOON, until="KeyChanged".__eq__)
        assert certificate(api, "a") is None
        report("a", **proven(api, "a", A))
        eventually(lambda: certificate(api, "a"), within=SOON)
        assert counts_for(api, "a", A, ip_address(until_place(api)["overlayIP"])) is None
        assert issued_names(api)["a"] == entry


def takes_no_certificate(api: ApiServer) -> bool:
    """Tell whether the policy is in force, which may take a moment."""
    said = api.kubectl(
        *("patch", "wnode", "demo.a", "--type=merge", "--dry-run=server"),
        *("-p", json.dumps({"spec": {"certificate": "AAAA"}})),
        check=False,
    )
    return NO_CERTIFICATES in said or "patched" not in said


@pytest.mark.parametrize("minutes", [-2, 2])
async def test_nothing_is_issued_while_the_operators_clock_is_two_minutes_off(
    api: ApiServer, node: None, mesh: Mesh, report: Report, minutes: int
) -> None:
    error = timedelta()

    def clock() -> datetime:
        return datetime.now(UTC) + error

    mesh()
    kubeconfig = api.kubeconfig_for(api.token("wesher-operator", NAMESPACE), "clock")
    async with await connect(kubeconfig, "clock") as client:
        cluster, world = Cluster(client, NAMESPACE), World()
        runs = MeshReconciler("demo", world, cluster, AgentSettings(image="wesher:test"), clock=clock)

        async def run() -> None:
            for kind in reversed(WATCHED):
                for body in await cluster.list(kind):
                    world.observe(kind, body)
            await runs.reconcile()

        await run()
        report("a", **proven(api, "a", A))
        error = timedelta(minutes=minutes)
        await run()
        assert certificate(api, "a") is None
        assert node_condition(api, "a")["reason"] == "ClockDiffers"
        assert "a" not in issued_names(api)
        error = timedelta()
        await run()
        assert certificate(api, "a") is not None


def test_an_operator_that_is_away_or_killed_revokes_when_the_next_one_runs(
    api: ApiServer, node: None, mesh: Mesh, report: Report
) -> None:
    with run_operator(api, name="before"):
        mesh()
        certify(api, report, a=A)
        serial = place(api, "a")["serial"]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "wesher_operator.kubectl", "revoke", "a", "--timeout=1"),
            f"--kubeconfig={api.kubeconfig}",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=SOON,
    )
    assert done.returncode == 1
    assert "Node a is labelled, but nothing is signed yet" in done.stdout
    assert "wesher-operator sign-revocation" in done.stdout
    assert void_until(api, "a") == 0
    with run_operator(api, name="killed-at-work") as killed:
        # It is killed as soon as it has noted the name.
        eventually(lambda: api.get("configmap", "demo-revoked", "-n", NAMESPACE), within=SOON)
        killed.kill()
    # Otherwise the next one waits until it runs out.
    api.kubectl("delete", "lease", "wesher-operator", "-n", NAMESPACE)
    with run_operator(api, name="after"):
        until_void(api, "a", serial)
        eventually(lambda: api.get("wnode", "demo.a") is None, within=SOON)
