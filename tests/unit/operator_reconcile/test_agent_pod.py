"""Why an agent's pod does not run, in the words that real kubelets and controllers use."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from wesher_operator.reconcile.agent_pod import (
    made_at,
    newest_refusal,
    node_of,
    refusal_hint,
    trouble_of,
)

PULL = (
    'failed to pull and unpack image "localhost/absent:1": failed to do request: Head '
    '"http://localhost/v2/absent/manifests/1": dial tcp [::1]:80: connect: connection refused'
)
BASELINE = (
    'violates PodSecurity "baseline:latest": host namespaces (hostNetwork=true), privileged (container '
    '"agent" must not set securityContext.privileged=true)'
)


def pod(**container: Any) -> dict[str, Any]:
    return {"spec": {"nodeName": "a"}, "status": {"containerStatuses": [container]}}


def waiting(reason: str, message: str = "", **more: Any) -> dict[str, Any]:
    return pod(state={"waiting": {"reason": reason, "message": message}}, **more)


def ended(exit_code: int, message: str = "") -> dict[str, Any]:
    return {"terminated": {"exitCode": exit_code, "message": message}}


def said(body: dict[str, Any]) -> tuple[str, str]:
    found = trouble_of(body)
    assert found is not None
    return found.reason, found.message


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"status": {"conditions": [{"type": "PodScheduled", "status": "True"}]}},
        pod(state={"running": {}}, started=True, restartCount=7, lastState=ended(137)),
        pod(state={"running": {}}, started=False, restartCount=1, lastState=ended(137)),
        waiting("ContainerCreating"),
    ],
)
def test_a_pod_that_runs_or_is_on_its_way_is_in_no_trouble(body: dict[str, Any]) -> None:
    assert trouble_of(body) is None


def test_an_image_that_cannot_be_pulled_is_named_alike_at_and_between_tries() -> None:
    between = waiting(
        "ImagePullBackOff", f'Back-off pulling image "localhost/absent:1": ErrImagePull: {PULL}'
    )
    assert (
        said(waiting("ErrImagePull", PULL))
        == said(between)
        == ("ImageNotPulled", f"cannot pull the agent image: {PULL}")
    )
    never = 'Container image "x:1" is not present with pull policy of Never'
    assert said(waiting("ErrImageNeverPull", never)) == (
        "ImageNotPulled",
        f"cannot pull the agent image: {never}",
    )


def test_an_agent_that_ends_is_quoted_with_its_last_line() -> None:
    words = "2026-11-22 INFO wesher.agent: started\nwesher: error: mesh.json: is missing in /etc/wesher\n"
    expected = ("AgentEnds", "has an agent that exits: wesher: error: mesh.json: is missing in /etc/wesher")
    assert said(waiting("CrashLoopBackOff", lastState=ended(1, words))) == expected
    again = pod(state={"running": {}}, started=False, restartCount=2, lastState=ended(1, words))
    assert said(again) == expected, "it is no better for being tried again"
    assert said(waiting("CrashLoopBackOff", lastState=ended(139)))[1].endswith("exits: exit code 139")


def test_what_else_keeps_a_container_from_starting_is_passed_on_in_one_line_of_bounded_length() -> None:
    assert said(waiting("CreateContainerConfigError", 'secret "x"\nnot found')) == (
        "PodNotStarted",
        'cannot start the agent: CreateContainerConfigError: secret "x" not found',
    )
    assert len(said(waiting("CreateContainerError", "x" * 5000))[1]) < 400


def test_a_pod_that_no_node_has_room_for_is_the_trouble_of_the_node_it_is_for() -> None:
    terms = [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["b"]}]}]
    affinity = {
        "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    }
    condition = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "1 Insufficient cpu",
    }
    body = {"spec": {"affinity": affinity}, "status": {"conditions": [condition]}}
    assert node_of(body) == "b"
    assert said(body) == ("Unschedulable", "has no agent pod: 1 Insufficient cpu")
    assert node_of({"spec": {}}) == ""


def refusal(version: int, note: str, *, uid: str = "u", reason: str = "FailedCreate") -> dict[str, Any]:
    metadata = {"resourceVersion": str(version)}
    return {"metadata": metadata, "reason": reason, "note": note, "regarding": {"uid": uid}}


def test_the_newest_refusal_of_a_daemonsets_pods_is_told_without_the_pods_name() -> None:
    events = [
        refusal(9, f'Error creating: pods "demo-agent-x7z" is forbidden: {BASELINE}'),
        refusal(8, 'Error creating: pods "demo-agent-abc" is forbidden: exceeded quota'),
        refusal(10, "Created pod: demo-agent-abc", reason="SuccessfulCreate"),
        refusal(11, "Error creating: of an earlier one of that name", uid="former"),
    ]
    assert newest_refusal(events, "u", []) == BASELINE
    assert newest_refusal([], "u", []) == ""
    assert newest_refusal([refusal(1, "Error creating: timeout")], "u", []) == "Error creating: timeout"


def made(moment: str) -> datetime | None:
    return made_at({"metadata": {"creationTimestamp": moment}})


@pytest.mark.parametrize(
    "told",
    [
        {"deprecatedLastTimestamp": "2026-11-22T12:00:05Z", "eventTime": None},
        {"eventTime": "2026-11-22T12:00:05.250000Z"},
        {"eventTime": "2026-11-22T11:00:00.5Z", "series": {"lastObservedTime": "2026-11-22T12:00:05.25Z"}},
    ],
)
def test_a_refusal_counts_no_more_once_a_pod_was_made_since(told: dict[str, Any]) -> None:
    """An Event stays for an hour, and a node that just waits for its pod is not refused one."""
    events = [refusal(9, "Error creating: exceeded quota") | told]
    before = [made("2026-11-22T11:59:00Z"), made("2026-11-22T12:00:05Z")]
    assert newest_refusal(events, "u", before) == "Error creating: exceeded quota"
    assert newest_refusal(events, "u", [*before, made("2026-11-22T12:00:06Z")]) == ""


def test_for_pod_security_there_is_a_label_to_set_and_for_a_priority_a_quota_to_make() -> None:
    assert "kubectl label namespace ns --overwrite pod-security.kubernetes.io/enforce=privileged" in (
        refusal_hint(BASELINE, "ns")
    )
    # As GKE has it wherever its own quota does not stand.
    scopes = "[{PriorityClass In [system-node-critical system-cluster-critical]}]"
    note = f"Error creating: insufficient quota to match these scopes: {scopes}"
    assert "set resourceQuota.create=true in the chart" in refusal_hint(note, "ns")
    assert refusal_hint("exceeded quota", "ns") == ""
