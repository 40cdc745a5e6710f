"""The leading operator brings the CustomResourceDefinitions up to its release."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from wesher_operator.crd import definition
from wesher_operator.resources.mesh import WesherMesh
from wesher_testing.cluster.api_server import ApiServer
from wesher_testing.cluster.helm import CHART, SOME_IMAGE, VERSIONS, HelmFailed, HelmVersion, run_helm
from wesher_testing.cluster.operator_process import CRDS, NAMESPACE, SOON, eventually, run_operator
from wesher_testing.cluster.workstation import Workstation
from wesher_testing.operations_page import commands

NAME = "weshermeshes.wesher.dev"
OLD_RULE = {"rule": "self.size() < 9", "message": "an older release was stricter"}


@pytest.fixture
def older(installed: ApiServer) -> ApiServer:
    """Make the definition of meshes be an older release's, as Helm leaves it at an upgrade."""
    old = definition(WesherMesh)
    spec = old["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    spec["properties"]["colour"] = {"type": "string"}
    spec["properties"]["clusterName"]["x-kubernetes-validations"].append(OLD_RULE)
    del spec["properties"]["etcHosts"]
    del spec["properties"]["gossip"]["properties"]["label"]
    installed.kubectl("replace", "-f", "-", stdin=json.dumps(old))
    return installed


@pytest.mark.parametrize("version", VERSIONS)
def test_helm_refuses_a_field_that_the_definitions_do_not_know_yet(
    older: ApiServer, tmp_path: Path, version: HelmVersion
) -> None:
    """Helm 4 would fail with other words, and Helm 3 lose the field for ever without any."""

    def install_with(*values: str) -> str:
        where = (f"--kubeconfig={older.kubeconfig}", f"--namespace={NAMESPACE}", "--set=nameOverride=tried")
        return run_helm(
            version, "install", "tried", CHART, "--dry-run=server", *where, SOME_IMAGE, *values, home=tmp_path
        )

    try:
        assert "kind: WesherMesh" in install_with("--set=mesh.gossip.port=7000")
        with pytest.raises(
            HelmFailed, match=r"mesh\.etcHosts: the custom resource definitions in this cluster do not have"
        ):
            install_with("--set=mesh.etcHosts=Off")
        with pytest.raises(HelmFailed, match=r"mesh\.gossip\.label: the custom resource definitions"):
            install_with("--set=mesh.gossip.label=west")
    finally:
        older.kubectl("apply", "--server-side", "--force-conflicts", f"--filename={CRDS}")


def schema(api: ApiServer) -> str:
    return json.dumps(api.get("crd", NAME)["spec"]["versions"][0]["schema"])


def test_what_an_older_release_said_is_gone_and_what_is_new_is_there(older: ApiServer) -> None:
    assert OLD_RULE["message"] in schema(older)
    uid = older.get("crd", NAME)["metadata"]["uid"]
    with run_operator(older, name="upgrade"):
        eventually(lambda: "etcHosts" in schema(older), within=SOON)
    assert OLD_RULE["message"] not in schema(older)
    assert "colour" not in schema(older)
    assert older.get("crd", NAME)["metadata"]["uid"] == uid


def test_they_are_brought_up_by_hand(older: ApiServer, tmp_path: Path) -> None:
    """As ``docs/operations.md`` has it, before an upgrade with ``crds.manage=false``."""
    station = Workstation(older, tmp_path)
    for command in commands("cluster-crds"):
        station.run(command)
    assert "etcHosts" in schema(older)
    assert OLD_RULE["message"] not in schema(older)


def test_it_leaves_them_alone_when_told_so(
    older: ApiServer, api: ApiServer, mesh: Callable[..., None]
) -> None:
    before = schema(older)
    mesh()
    try:
        with run_operator(older, name="hands-off", more=["--manage-crds=false"]):
            # By the time it looks at meshes it would have seen to them.
            eventually(lambda: api.get("wmesh", "demo").get("status"), within=SOON)
            assert schema(older) == before
    finally:
        older.kubectl("apply", "--server-side", "--force-conflicts", f"--filename={CRDS}")


def test_those_of_a_newer_release_stay(older: ApiServer) -> None:
    """Of two installations the older must not take away what the newer one's meshes need."""
    older.kubectl("annotate", "crd", NAME, "--overwrite", "wesher.dev/release=99.0.0")
    before = schema(older)
    try:
        with run_operator(older, name="older") as operator:
            left = f"custom resource definition kept: a newer release wrote it name={NAME} release=99.0.0"
            eventually(lambda: left in operator.log, within=SOON)
            assert schema(older) == before
    finally:
        older.kubectl("apply", "--server-side", "--force-conflicts", f"--filename={CRDS}")
