"""Why an agent's pod does not run, as its kubelet, the scheduler or the DaemonSet controller tell it.

Pure. An agent whose image cannot be pulled reports nothing by itself, so its pod
must speak for it. Texts are kept the same from one try to the next as far as can
be, since each change of them is a write of the mesh's status.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

Reason = Literal[
    "ImageNotPulled", "AgentEnds", "PodNotStarted", "PodRefused", "Unschedulable", "AgentNotRunning"
]
_OF_AN_IMAGE = frozenset({"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName"})
_ON_THE_WAY = frozenset({"ContainerCreating", "PodInitializing"})
_CRASHED_OFTEN = 2
"""Restarts after which a container that has not come up yet counts as one that does not."""
_LONGEST = 300
"""Characters of what others say that are passed on."""


@dataclass(frozen=True, slots=True)
class PodTrouble:
    """What keeps an agent's pod from running."""

    reason: Reason
    message: str
    """One line, to be read after the node's name."""


def node_of(pod: Mapping[str, Any]) -> str:
    """Return the node that a DaemonSet's pod is for, which is known before it is scheduled there."""
    spec = pod.get("spec") or {}
    if spec.get("nodeName"):
        return str(spec["nodeName"])
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    terms = (affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}).get("nodeSelectorTerms")
    for term in terms or []:
        for field in term.get("matchFields") or []:
            if field.get("key") == "metadata.name" and field.get("values"):
                return str(field["values"][0])
    return ""


def trouble_of(pod: Mapping[str, Any]) -> PodTrouble | None:
    """Return what keeps a pod from running; None while it runs or is on its way."""
    status = pod.get("status") or {}
    for condition in status.get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("reason") == "Unschedulable":
            return PodTrouble("Unschedulable", f"has no agent pod: {_one_line(condition.get('message', ''))}")
    found = (_of_container(container) for container in status.get("containerStatuses") or [])
    return next((trouble for trouble in found if trouble is not None), None)


def runs(pod: Mapping[str, Any]) -> bool:
    """Tell whether an agent runs in a pod, as its kubelet last said."""
    containers = (pod.get("status") or {}).get("containerStatuses") or []
    return any((container.get("state") or {}).get("running") is not None for container in containers)


def refusal_hint(refusal: str, namespace: str) -> str:
    """Return what to do about a pod that was refused, where that is known; empty otherwise."""
    if "violates PodSecurity" in refusal:
        return (
            "agents need the host's network and devices: "
            f"kubectl label namespace {namespace} --overwrite pod-security.kubernetes.io/enforce=privileged"
        )
    if "insufficient quota to match these scopes" in refusal:
        return "a quota must allow pods of their priority class: set resourceQuota.create=true in the chart"
    return ""


def made_at(pod: Mapping[str, Any]) -> datetime | None:
    """Return when a pod was made."""
    return _moment(pod["metadata"].get("creationTimestamp"))


def newest_refusal(
    events: Iterable[Mapping[str, Any]], daemon_set_uid: str, pods_made: Iterable[datetime | None]
) -> str:
    """Return what the DaemonSet controller last said of a pod that it could not make; empty when nothing.

    Args:
        events: of any reason and object.
        daemon_set_uid: whose pods it was about.
        pods_made: when those were made that there are. An Event stays for an hour: one that is older than
            any of them tells of a hindrance that is over.

    """
    refusals = [
        event
        for event in events
        if event.get("reason") == "FailedCreate"
        and (event.get("regarding") or {}).get("uid") == daemon_set_uid
    ]
    newest = max(refusals, key=lambda event: int(event["metadata"]["resourceVersion"]), default={})
    told = _last_told(newest)
    if told is not None and any(made is not None and made > told for made in pods_made):
        return ""
    # Each try has a pod's name of its own, which nobody can look up and which would be news every time.
    _, forbidden, rest = str(newest.get("note", "")).partition(" is forbidden: ")
    return _one_line(rest if forbidden else str(newest.get("note", "")))


def _last_told(event: Mapping[str, Any]) -> datetime | None:
    # The controller writes the older form of Events, which the API server shows in the newer one.
    return _moment(
        (event.get("series") or {}).get("lastObservedTime")
        or event.get("deprecatedLastTimestamp")
        or event.get("eventTime")
    )


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _of_container(container: Mapping[str, Any]) -> PodTrouble | None:
    waiting = (container.get("state") or {}).get("waiting") or {}
    reason, message = str(waiting.get("reason", "")), str(waiting.get("message", ""))
    if reason in _OF_AN_IMAGE:
        # Between two tries the kubelet says of the last what it says right after it.
        cause = message.partition("ErrImagePull: ")[2] or message
        return PodTrouble("ImageNotPulled", f"cannot pull the agent image: {_one_line(cause)}")
    if reason == "CrashLoopBackOff" or _does_not_come_up(container):
        return PodTrouble("AgentEnds", f"has an agent that exits: {_last_words(container)}")
    if reason and reason not in _ON_THE_WAY:
        return PodTrouble("PodNotStarted", f"cannot start the agent: {reason}: {_one_line(message)}")
    return None


def _does_not_come_up(container: Mapping[str, Any]) -> bool:
    ended = (container.get("lastState") or {}).get("terminated") or {}
    return (
        not container.get("started")
        and int(container.get("restartCount", 0)) >= _CRASHED_OFTEN
        and bool(ended.get("exitCode"))
    )


def _last_words(container: Mapping[str, Any]) -> str:
    ended = (container.get("lastState") or {}).get("terminated") or {}
    lines = str(ended.get("message", "")).strip().splitlines()
    return _one_line(lines[-1]) if lines else f"exit code {ended.get('exitCode', 'unknown')}"


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"
