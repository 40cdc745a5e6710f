"""Everything somebody who helps needs to see, in one file, and no secret.

Secrets are never asked for. Values of environment variables that a chart's user may
have set are left out, as are the copies of objects that kubectl and the API server
keep in annotations and managed fields.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wesher_common.errors import InvalidSpec, WesherError
from wesher_common.names import GROUP, MESH_LABEL
from wesher_common.printable import as_lines
from wesher_common.version import VERSION
from wesher_operator.kubectl.meshes import DEFINITIONS, ROOT, name_of, status_of
from wesher_operator.kubectl.reach import ApiServer, Object, operator_deployment

LEFT_OUT = "(left out)"
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_LOG_LINES = "5000"
_MAX_PODS = 200
"""Pods whose logs are taken, those not ready first."""
_OWN_VARIABLES = "WESHER_"
_NOT_KEPT = "KEY"
"""What our own variables that hold a secret have in their name."""

Files = Iterator[tuple[str, str]]
"""Name in the archive, and text."""


def write_sysdump(api: ApiServer, namespace: str, target: Path) -> list[str]:
    """Write the archive, readable by its owner alone; return what could not be had, one line each.

    Args:
        api: the API server, as the user.
        namespace: the operator's; empty finds it.
        target: the file; there must be none yet.

    Raises:
        InvalidSpec: the file is there, or cannot be made; or no operator is found.
        ClusterUnavailable: the API server does not answer.

    """
    place = str(operator_deployment(api, namespace)["metadata"]["namespace"])
    collector = _Collector(api, place)
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise InvalidSpec("--file", f"cannot be created: {error.strerror}", value=target) from error
    with os.fdopen(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, text in collector.files():
            _add(archive, name, text)
        _add(archive, "missing.txt", "".join(f"{line}\n" for line in collector.missing))
    return collector.missing


def _add(archive: tarfile.TarFile, name: str, text: str) -> None:
    content = text.encode()
    entry = tarfile.TarInfo(f"wesher-sysdump/{name}")
    entry.size, entry.mode = len(content), 0o600
    archive.addfile(entry, io.BytesIO(content))


class _Collector:
    """Asks for one thing after the other, and goes on without what it cannot have."""

    def __init__(self, api: ApiServer, namespace: str) -> None:
        self.missing: list[str] = []
        self._api = api
        self._within = f"namespaces/{namespace}"

    def files(self) -> Files:
        """Yield everything."""
        core, within = "/api/v1", self._within
        yield "versions.txt", f"kubectl-wesher {VERSION}\n{self._text('version', '/version')}"
        for plural in DEFINITIONS:
            path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{plural}.{GROUP}"
            yield f"definitions/{plural}.json", self._text(plural, path)
        collections = {
            "weshermeshes": f"{ROOT}/weshermeshes",
            "weshernodes": f"{ROOT}/weshernodes",
            "wesherpeers": f"{ROOT}/wesherpeers",
            "deployments": f"/apis/apps/v1/{within}/deployments",
            "daemonsets": f"/apis/apps/v1/{within}/daemonsets",
            "events": f"/apis/events.k8s.io/v1/{within}/events",
            "leases": f"/apis/coordination.k8s.io/v1/{within}/leases",
            "nodes": f"{core}/nodes",
            "servicecidrs": "/apis/networking.k8s.io/v1/servicecidrs",
        }
        for name, path in collections.items():
            yield f"{name}.json", _json(self._items(name, path))
        # Other ConfigMaps of the namespace are not ours to pass on.
        ours = self._items("configmaps", f"{core}/{within}/configmaps", labelSelector=MESH_LABEL)
        yield "configmaps.json", _json(ours)
        # Where Events about what has no namespace live, and those of others too.
        events = self._items("events-default", "/apis/events.k8s.io/v1/namespaces/default/events")
        yield "events-default.json", _json([event for event in events if _is_about_us(event)])
        pods = self._items("pods", f"{core}/{within}/pods")
        yield "pods.json", _json(pods)
        for pod in sorted(pods, key=_is_ready)[:_MAX_PODS]:
            yield from self._logs(pod)

    def _logs(self, pod: Object) -> Files:
        path = f"/api/v1/{self._within}/pods/{name_of(pod)}/log"
        for container in status_of(pod).get("containerStatuses") or []:
            name = container["name"]
            file = f"logs/{name_of(pod)}.{name}"
            query = {"container": name, "tailLines": _LOG_LINES}
            yield f"{file}.txt", self._text(file, path, **query)
            if container.get("restartCount"):
                yield f"{file}.previous.txt", self._text(f"{file}.previous", path, previous="true", **query)

    def _items(self, what: str, path: str, **query: str) -> list[Object]:
        try:
            return self._api.items(path, **query)
        except WesherError as error:
            self.missing.append(f"{what}: {error}")
            return []

    def _text(self, what: str, path: str, **query: str) -> str:
        try:
            # A node that was broken into decides what its pods log, and a log is read in a terminal.
            return as_lines(self._api.text(path, **query).split("\n"))
        except WesherError as error:
            self.missing.append(f"{what}: {error}")
            return ""


def _is_about_us(event: Object) -> bool:
    return str((event.get("regarding") or {}).get("apiVersion", "")).startswith(GROUP)


def _is_ready(pod: Object) -> bool:
    return all(each.get("ready") for each in status_of(pod).get("containerStatuses") or [{}])


def _json(content: Any) -> str:
    return json.dumps(without_secrets(content), indent=1, sort_keys=True) + "\n"


def without_secrets(content: Any) -> Any:
    """Return an object, or a list of them, without what may hold a secret."""
    if isinstance(content, list):
        return [without_secrets(item) for item in content]
    if not isinstance(content, dict):
        return content
    kept = {key: without_secrets(value) for key, value in content.items() if key != "managedFields"}
    if isinstance(kept.get("annotations"), dict):
        kept["annotations"].pop(_LAST_APPLIED, None)
    if isinstance(kept.get("env"), list):
        kept["env"] = [_variable(entry) for entry in kept["env"]]
    return kept


def _variable(entry: Object) -> Object:
    name = str(entry.get("name", ""))
    if "value" not in entry or (
        name.startswith(_OWN_VARIABLES) and _NOT_KEPT not in name and name != "WESHER_AGENT_PODS"
    ):
        return entry
    return {**entry, "value": LEFT_OUT}
