"""Tells whether Helm is uninstalling a release, from what Helm leaves in the cluster; pure.

Helm 3 and 4 write the release's record with the status ``uninstalling`` before they
make a pre-delete hook (``execHook`` in ``pkg/action/hooks.go`` calls
``recordRelease``). The record is a Secret in the release's namespace by default. It
may be elsewhere: Flux keeps it in the HelmRelease's namespace, and ``HELM_DRIVER``
puts it into ConfigMaps or a database. So a second sign counts as well: Helm, and
Flux' and Terraform's programs round its library, are the hook Job's field manager.
``kubectl apply``, Argo CD and kustomize are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from wesher_operator.kube import Kind, Object

_HELM = "helm"
"""Part of the field manager's name: ``helm``, ``helm-controller``, ``terraform-provider-helm_v3.0.2``."""
_RECORD_AGE = timedelta(minutes=5)
"""How much older than the hook's Job the record may be. Helm writes it right before it makes the Job; one
that an uninstall left behind when it failed says nothing of a Job that was applied days later."""


def records_of(release: str) -> Kind:
    """Return the kind under which Helm keeps its records of a release, a Secret each revision."""
    return Kind("Secret", "secrets", selector=f"owner=helm,name={release}", metadata_only=True)


def not_uninstalled(job: Object | None, records: Sequence[Object]) -> str:
    """Return why a release does not count as being uninstalled; empty where it is.

    Args:
        job: the hook's Job; None where there is none of its name.
        records: Helm's records of the release, as their metadata.

    """
    if job is None:
        return "the hook's Job does not exist"
    managers = _managers(job)
    if any(_HELM in manager.lower() for manager in managers):
        return ""
    made = f"{' and '.join(managers) or 'another program'} created the hook's Job"
    if not records:
        return f"{made}, and Helm has no record of the release"
    newest = max(records, key=_revision)
    status = str((newest["metadata"].get("labels") or {}).get("status", ""))
    if status != "uninstalling":
        return f"{made}, and Helm's record of the release says {status or 'nothing'}"
    if _written(newest) < _written_first(job) - _RECORD_AGE:
        return f"{made}, long after a failed uninstall"
    return ""


def _managers(job: Object) -> list[str]:
    """Return who wrote the Job itself; its status is written by the controller of Jobs."""
    fields = job["metadata"].get("managedFields") or []
    return sorted({str(entry.get("manager", "")) for entry in fields if not entry.get("subresource")} - {""})


def _revision(record: Object) -> int:
    text = str((record["metadata"].get("labels") or {}).get("version", ""))
    return int(text) if text.isascii() and text.isdigit() else 0


def _written_first(item: Object) -> datetime:
    return datetime.fromisoformat(item["metadata"]["creationTimestamp"])


def _written(item: Object) -> datetime:
    """Return when an object was last written; the API server notes it for each of its field managers."""
    fields = item["metadata"].get("managedFields") or []
    times = [datetime.fromisoformat(entry["time"]) for entry in fields if entry.get("time")]
    return max(times, default=_written_first(item))
