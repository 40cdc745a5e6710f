"""The pre-delete hook's Job deletes meshes while Helm uninstalls the release, and at no other time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from wesher_testing.cluster.api_server import ApiServer, KubectlFailed
from wesher_testing.cluster.helm import CHART, SOME_IMAGE, VERSIONS, HelmVersion, run_helm
from wesher_testing.cluster.operator_process import SOON, eventually

PLACE, NAME, JOB = "hooked", "hooked", "hooked-uninstall"
VALUES = ("--set=nameOverride=hooked", "--set=mesh.name=hooked", SOME_IMAGE, f"--namespace={PLACE}")
DONE = {
    "status": "True",
    "lastTransitionTime": "2026-11-30T12:00:00Z",
    "lastProbeTime": "2026-11-30T12:00:00Z",
}
Helm = Callable[..., str]
RunJob = Callable[..., str]


@pytest.fixture
def place(api: ApiServer) -> Iterator[ApiServer]:
    """Lend the API server with a namespace for a release, which goes afterwards with all that it had."""
    api.kubectl("create", "namespace", PLACE, check=False)
    yield api
    kinds = "deployment,job,pod,secret,serviceaccount,role,rolebinding"
    api.kubectl("delete", kinds, "--all", "--wait=false", "--force", f"--namespace={PLACE}")
    cluster_wide = "clusterrole,clusterrolebinding,validatingadmissionpolicy,validatingadmissionpolicybinding"
    for kind in cluster_wide.split(","):
        names = api.kubectl(
            "get", kind, "--output=name", "--selector=app.kubernetes.io/part-of=wesher"
        ).split()
        if mine := [name for name in names if "/hooked-" in name]:
            api.kubectl("delete", *mine)
    mine = api.kubectl("get", "role,rolebinding", "--output=name", "--namespace=default").split()
    api.kubectl("delete", "--namespace=default", *(name for name in mine if "/hooked-" in name), check=False)


@pytest.fixture
def helm(place: ApiServer, tmp_path: Path) -> Helm:
    """Run Helm: ``helm(version, *arguments, driver=...)``."""

    def run(version: HelmVersion, *arguments: str, driver: str = "secret") -> str:
        return run_helm(
            version,
            *(*arguments, f"--kubeconfig={place.kubeconfig}", f"--namespace={PLACE}"),
            home=tmp_path,
            enter=("env", f"HELM_DRIVER={driver}"),
        )

    return run


@pytest.fixture
def run_job(place: ApiServer) -> RunJob:
    """Do as the pod of the Job would, with its command and its ServiceAccount: ``run_job(after=uid)``.

    ``after`` is an earlier Job of its name, not to be taken for it. Returns the log.
    """

    def run(after: str = "") -> str:
        (container,) = job(place, after)["spec"]["template"]["spec"]["containers"]
        program, *words = container["command"]
        assert program == "wesher-operator"
        kubeconfig = place.kubeconfig_for(place.token(JOB, PLACE), "hook")
        done = subprocess.run(
            [sys.executable, "-m", "wesher_operator", *words, "--timeout=20"],
            env={**os.environ, "KUBECONFIG": str(kubeconfig), "WESHER_NAMESPACE": PLACE},
            capture_output=True,
            text=True,
            timeout=2 * SOON,
            check=False,
        )
        assert done.returncode == 0
        return done.stderr

    return run


def job(api: ApiServer, after: str = "") -> dict[str, Any]:
    """Return the hook's Job, waiting until it is there."""

    def look() -> dict[str, Any] | None:
        found = api.get("job", JOB, f"--namespace={PLACE}")
        return found if found and found["metadata"]["uid"] != after else None

    return dict(eventually(look, within=SOON) or {})


def finish(api: ApiServer) -> None:
    """Let the Job be done, as its controller would."""
    status = {
        "startTime": DONE["lastTransitionTime"],
        "completionTime": DONE["lastTransitionTime"],
        "succeeded": 1,
        "uncountedTerminatedPods": {},
        "conditions": [{"type": kind, **DONE} for kind in ("SuccessCriteriaMet", "Complete")],
    }
    where = ("job", JOB, f"--namespace={PLACE}", "--subresource=status", "--type=merge")
    api.kubectl("patch", *where, "-p", json.dumps({"status": status}))


def uninstall(helm: Helm, api: ApiServer, run_job: RunJob, version: HelmVersion, **more: str) -> str:
    """Uninstall the release by Helm, as on a cluster that runs its hook; return the hook's log."""
    earlier = api.get("job", JOB, f"--namespace={PLACE}")
    with ThreadPoolExecutor(1) as background:
        ends: Future[str] = background.submit(helm, version, "uninstall", NAME, "--timeout=2m", **more)
        try:
            log = run_job(after=earlier["metadata"]["uid"] if earlier else "")
        finally:
            finish(api)
        ends.result()
    return log


def apply_rendered(helm: Helm, api: ApiServer, version: HelmVersion = 4, *how: str) -> None:
    """Apply all that Helm renders, hooks too, as tools do that know nothing of them."""
    rendered = helm(version, "template", NAME, str(CHART), *VALUES, "--kube-version=1.34")
    try:
        api.kubectl("apply", *how, "--filename=-", stdin=rendered)
    except KubectlFailed as error:
        # The test's pod: nobody makes its ServiceAccount's token here.
        assert "wesher-test" in str(error) or "hooked-test" in str(error)  # noqa: PT017 - one of many objects


def label_record(api: ApiServer, **labels: str) -> None:
    """Have Helm's only record of the release say something else."""
    changed = [f"{key}={value}" for key, value in labels.items()]
    record = (f"sh.helm.release.v1.{NAME}.v1", f"--namespace={PLACE}")
    api.kubectl("label", "secret", *record, "--overwrite", *changed)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("driver", ["secret", "configmap"])
def test_helm_uninstall_deletes_the_mesh_wherever_helm_keeps_its_records(
    helm: Helm, place: ApiServer, run_job: RunJob, version: HelmVersion, driver: str
) -> None:
    helm(version, "install", NAME, str(CHART), *VALUES, driver=driver)
    log = uninstall(helm, place, run_job, version, driver=driver)
    assert "mesh deleted mesh=hooked" in log
    assert "all agents have left meshes=hooked" in log


def test_helm_uninstall_after_a_rollback_deletes_the_mesh(
    helm: Helm, place: ApiServer, run_job: RunJob
) -> None:
    """The hook is that of the first revision then, and the record is the third."""
    helm(3, "install", NAME, str(CHART), *VALUES)
    helm(3, "upgrade", NAME, str(CHART), *VALUES, "--set=operator.replicas=2")
    helm(3, "rollback", NAME, "1")
    assert "mesh deleted mesh=hooked" in uninstall(helm, place, run_job, 3)


@pytest.mark.parametrize("how", [(), ("--server-side", "--force-conflicts")], ids=["apply", "server-side"])
def test_applying_what_helm_renders_leaves_the_releases_mesh_running(
    helm: Helm, place: ApiServer, run_job: RunJob, how: tuple[str, ...]
) -> None:
    helm(3, "install", NAME, str(CHART), *VALUES)
    uid = place.get("wmesh", "hooked")["metadata"]["uid"]
    apply_rendered(helm, place, 4, *how)
    log = run_job()
    assert "nothing deleted: helm is not uninstalling the release" in log
    assert "created the hook's Job, and Helm's record of the release says deployed" in log
    assert place.get("wmesh", "hooked")["metadata"]["uid"] == uid
    # What was applied plainly is no obstacle to Helm's own hook later.
    finish(place)
    assert "mesh deleted mesh=hooked" in uninstall(helm, place, run_job, 3)


def test_what_was_never_installed_by_helm_is_left_running(
    helm: Helm, place: ApiServer, run_job: RunJob
) -> None:
    apply_rendered(helm, place)
    assert "and Helm has no record of the release" in run_job()
    assert place.get("wmesh", "hooked")


def test_a_program_round_helms_library_is_believed_by_the_record(
    helm: Helm, place: ApiServer, run_job: RunJob
) -> None:
    """Such a program makes the Job under its own name."""
    helm(3, "install", NAME, str(CHART), *VALUES)
    apply_rendered(helm, place)
    label_record(place, status="pending-upgrade")
    assert "says pending-upgrade" in run_job()
    label_record(place, status="uninstalling")
    assert "mesh deleted mesh=hooked" in run_job()


def test_the_job_that_a_tool_applied_makes_way_for_the_next_releases(helm: Helm, place: ApiServer) -> None:
    """A Job's pod cannot be changed: without an end `kubectl apply` of the next release's image fails."""
    apply_rendered(helm, place)
    assert job(place)["spec"]["ttlSecondsAfterFinished"] == 300
