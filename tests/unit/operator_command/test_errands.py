"""``wesher-operator uninstall`` where an API server is in trouble: the agents' permissions go next."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from wesher_operator import kube
from wesher_operator.errands import RELEASE_NAME, RELEASE_NAMESPACE, uninstall
from wesher_operator.helm_release import not_uninstalled
from wesher_testing.cluster.fake_api_server import Answer, Request, serving

NOT_NOW: Answer = (503, {"kind": "Status", "code": 503, "message": "overloaded"})
FORBIDDEN: Answer = (403, {"kind": "Status", "code": 403, "message": "denied by policy"})


def a_list(*items: dict[str, Any]) -> Answer:
    return 200, {"items": list(items), "metadata": {"resourceVersion": "1"}}


def mesh(name: str) -> dict[str, Any]:
    annotations = {RELEASE_NAME: "wesher", RELEASE_NAMESPACE: "wesher-system"}
    return {"metadata": {"name": name, "uid": f"uid-{name}", "annotations": annotations}}


def pod(mesh_name: str) -> dict[str, Any]:
    labels = {"wesher.dev/mesh": mesh_name}
    return {"metadata": {"name": f"{mesh_name}-agent-1", "labels": labels}, "spec": {"nodeName": "a"}}


async def test_an_api_server_that_hesitates_is_asked_again_until_the_agents_have_left(
    caplog: pytest.LogCaptureFixture,
) -> None:
    answers = {
        "weshermeshes": [NOT_NOW, a_list(mesh("demo"))],
        "demo": [NOT_NOW, (200, {"kind": "Status"})],
        "pods": [NOT_NOW, a_list(pod("demo")), NOT_NOW, a_list()],
    }

    def answer(request: Request) -> Answer:
        return answers[request.name].pop(0)

    caplog.set_level(logging.INFO)
    async with serving(answer) as cluster:
        await uninstall(cluster, "wesher", within=30)
    assert not any(answers.values())
    assert "all agents have left meshes=demo" in caplog.text


async def test_a_mesh_that_may_not_be_deleted_is_named_and_keeps_no_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(kube, "_WRITE_SPACING", 0)
    deleted: list[str] = []

    def answer(request: Request) -> Answer:
        if request.method == "DELETE":
            deleted.append(request.name)
            return FORBIDDEN if request.name == "kept" else (200, {"kind": "Status"})
        return a_list(mesh("kept"), mesh("demo")) if request.name == "weshermeshes" else a_list(pod("kept"))

    caplog.set_level(logging.INFO)
    async with serving(answer) as cluster:
        await uninstall(cluster, "wesher", within=30)
    assert deleted == ["kept", "demo"]
    assert "mesh not deleted mesh=kept error=" in caplog.text
    assert "denied by policy" in caplog.text
    assert "all agents have left meshes=demo" in caplog.text, "the agents of the other stay"


async def test_an_api_server_that_never_answers_lets_the_uninstall_go_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(lambda _: NOT_NOW) as cluster:
        await uninstall(cluster, "wesher", within=1)
    assert "503 overloaded" in caplog.text
    assert "uninstall continues without them" in caplog.text


MADE = "2026-11-30T12:00:00Z"
APPLIED = "kubectl created the hook's Job, "


def hook_job(*managers: str) -> dict[str, Any]:
    """Return a Job that these programs wrote, and whose status its controller wrote."""
    written = [{"manager": manager, "time": MADE} for manager in managers]
    status = {"manager": "kube-controller-manager", "subresource": "status", "time": MADE}
    return {"metadata": {"creationTimestamp": MADE, "managedFields": [*written, status]}}


def record(revision: int, status: str, written: str = MADE) -> dict[str, Any]:
    metadata = {
        "labels": {"version": str(revision), "status": status},
        "creationTimestamp": "2026-11-01T12:00:00Z",
        "managedFields": [{"manager": "Helm", "time": written}],
    }
    return {"metadata": metadata}


@pytest.mark.parametrize("manager", ["helm", "helm-controller", "terraform-provider-helm_v3.0.2"])
def test_a_job_that_helm_made_shows_that_it_uninstalls_wherever_its_records_are(manager: str) -> None:
    """Flux keeps them in the namespace of the HelmRelease; they may be in a database too."""
    assert not_uninstalled(hook_job(manager), []) == ""


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        ([], APPLIED + "and Helm has no record of the release"),
        ([record(1, "deployed")], APPLIED + "and Helm's record of the release says deployed"),
        (
            [record(9, "uninstalling"), record(10, "failed")],
            APPLIED + "and Helm's record of the release says failed",
        ),
        ([record(9, "superseded"), record(10, "uninstalling")], ""),
        (
            [record(1, "uninstalling", "2026-11-30T11:54:59Z")],
            APPLIED + "long after a failed uninstall",
        ),
        (
            [{"metadata": {"creationTimestamp": MADE}}],
            APPLIED + "and Helm's record of the release says nothing",
        ),
    ],
)
def test_of_a_job_that_another_program_made_helms_newest_record_decides(
    records: list[dict[str, Any]], reason: str
) -> None:
    assert not_uninstalled(hook_job("kubectl"), records) == reason


def test_a_hook_whose_job_is_gone_deletes_nothing() -> None:
    assert not_uninstalled(None, [record(1, "uninstalling")]) == "the hook's Job does not exist"


async def test_a_hook_that_may_not_look_deletes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def answer(request: Request) -> Answer:
        assert request.method == "GET"
        return FORBIDDEN

    async with serving(answer) as cluster:
        await uninstall(cluster, "wesher", within=1, hook_job="wesher-uninstall")
    assert "denied by policy: the operator's role does not allow this verb" in caplog.text
    assert "nothing deleted: helm is not uninstalling the release release=wesher" in caplog.text
