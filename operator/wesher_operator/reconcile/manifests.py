"""The objects a mesh consists of, as they should be.

Pure: specs in, JSON out. Whether the cluster differs is decided by `covers`,
so that nothing is written at rest.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from wesher_common.mesh_document import FILE_NAME, MeshDocument
from wesher_common.names import (
    GROUP,
    MESH_LABEL,
    NUDGE_ANNOTATION,
    NUDGE_FILE,
    config_map_name,
    daemon_set_name,
    issued_config_map_name,
    out_label,
    released_config_map_name,
    revoked_config_map_name,
    wesher_node_name,
)
from wesher_common.news import NEWS_FILE
from wesher_operator.agent_pods import AgentPods
from wesher_operator.authority_entries import SEED
from wesher_operator.kube import MESH, Object
from wesher_operator.reconcile.agent_ports import HEALTH_FLAG
from wesher_operator.reconcile.authority import LEDGER_FILE, Ledger
from wesher_operator.reconcile.facts import MeshFacts
from wesher_operator.reconcile.membership import RELEASED_FILE, Released
from wesher_operator.reconcile.modes import MODE_ENTRY
from wesher_operator.reconcile.node_affinity import without_label
from wesher_operator.reconcile.revocations import REVOKED_FILE, Revocations
from wesher_operator.resources.mesh import WesherMeshSpec
from wesher_operator.resources.node import WesherNodeSpec

HASH_ANNOTATION = f"{GROUP}/manifest-hash"
MOUNT_PATH = "/etc/wesher"
_MAX_NOTE = 1024
"""Bytes of the longest note that the API server takes."""
_NAME = "app.kubernetes.io/name"
_MANAGED_BY = {"app.kubernetes.io/managed-by": "wesher-operator", "app.kubernetes.io/part-of": "wesher"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _HostPath:
    """A part of the node's file system that a pod has."""

    name: str
    """Of the volume."""
    path: str
    """On the node."""
    inside: str = ""
    """In the pod, if it is another path."""
    kind: str = "DirectoryOrCreate"
    read_only: bool = False

    @property
    def volume(self) -> Object:
        return {"name": self.name, "hostPath": {"path": self.path, "type": self.kind}}

    @property
    def mount(self) -> Object:
        mount = {"name": self.name, "mountPath": self.inside or self.path}
        return {**mount, "readOnly": True} if self.read_only else mount


_HOST_PATHS = (
    _HostPath(name="state", path="/var/lib/wesher"),
    # Commands on the node ask its agents here.
    _HostPath(name="control", path="/run/wesher"),
    # wg and other tools on the node look here for a WireGuard in user space.
    _HostPath(name="userspace", path="/var/run/wireguard"),
    # The directory: the module that makes the device may be loaded later. Opening a device writes no file.
    _HostPath(name="tun", path="/dev/net", read_only=True),
)
_HOSTS_VOLUMES = frozenset({"etc", "hosts"})


def _hosts_path(*, privileged: bool) -> _HostPath:
    """Return how a pod gets at the node's hosts file."""
    if privileged:
        # A single file that is mounted cannot be replaced by rename, and stays the former one when another
        # program replaces it.
        return _HostPath(name="etc", path="/etc", inside="/host/etc", kind="Directory")
    # All of /etc would be all of the node: cron.d, passwd, ld.so.preload.
    return _HostPath(name="hosts", path="/etc/hosts", inside="/host/etc/hosts", kind="File")


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSettings:
    """What the installation, not the mesh, decides about agents."""

    image: str
    pull_policy: str = "IfNotPresent"
    log_level: str = "info"
    pods: AgentPods = field(default_factory=AgentPods)


def key_secret(name: str, mesh: str, key: bytes) -> Object:
    """Return a new key Secret. It has no owner: deleting a mesh must not kill a key other clouds use."""
    data = {"cluster-key": base64.b64encode(base64.b64encode(key)).decode()}
    return {"metadata": {"name": name, "labels": _labels(mesh)}, "type": "Opaque", "data": data}


def authority_secret(name: str, mesh: str, seed: bytes) -> Object:
    """Return a new authority Secret, without an owner: with it go the certificates of its mesh."""
    data = {SEED: base64.b64encode(base64.b64encode(seed)).decode()}
    return {"metadata": {"name": name, "labels": _labels(mesh)}, "type": "Opaque", "data": data}


def config_map(mesh: MeshFacts, document: MeshDocument, news: bytes = b"") -> Object:
    """Return the ConfigMap that agents mount, with the news file."""
    return {
        "metadata": _owned(mesh, config_map_name(mesh.name)),
        "data": {FILE_NAME: document.to_json()},
        # Also an empty one: only what is applied replaces what was applied before.
        "binaryData": {NEWS_FILE: base64.b64encode(news).decode()},
    }


def released_config_map(mesh: MeshFacts, released: Released) -> Object:
    """Return the ConfigMap that remembers who left."""
    return {
        "metadata": _owned(mesh, released_config_map_name(mesh.name)),
        "data": {RELEASED_FILE: released.to_json()},
    }


def issued_config_map(mesh: MeshFacts, ledger: Ledger, mode: str) -> Object:
    """Return the ConfigMap that lists the names that certificates were issued to, with the mesh's mode."""
    return {
        "metadata": _owned(mesh, issued_config_map_name(mesh.name)),
        "data": {LEDGER_FILE: ledger.to_json(), MODE_ENTRY: mode},
    }


def revoked_config_map(mesh: MeshFacts, revocations: Revocations) -> Object:
    """Return the ConfigMap that remembers whose certificates were revoked."""
    return {
        "metadata": _owned(mesh, revoked_config_map_name(mesh.name)),
        "data": {REVOKED_FILE: revocations.to_json()},
    }


def wesher_node(mesh: MeshFacts, spec: WesherNodeSpec) -> Object:
    """Return the WesherNode of a node."""
    return {
        "metadata": _owned(mesh, wesher_node_name(mesh.name, spec.node_name)),
        # In full: only what is applied can be put right when others edit it.
        "spec": spec.model_dump(by_alias=True),
    }


def daemon_set(
    mesh: MeshFacts, spec: WesherMeshSpec, settings: AgentSettings, *, health_port: int, has_hosts: bool
) -> Object:
    """Return the DaemonSet that runs the agents.

    Args:
        mesh: its owner.
        spec: of the mesh.
        settings: what the installation decides.
        health_port: TCP, where agents answer probes.
        has_hosts: whether the hosts file is mounted.

    """
    selector = {_NAME: "wesher-agent", MESH_LABEL: mesh.name}
    pods = settings.pods
    metadata: Object = {"labels": {**pods.pod_labels, **selector}}
    if pods.pod_annotations:
        metadata["annotations"] = pods.pod_annotations
    body: Object = {
        "metadata": _owned(mesh, daemon_set_name(mesh.name)),
        "spec": {
            "selector": {"matchLabels": selector},
            "updateStrategy": pods.update_strategy,
            "template": {
                "metadata": metadata,
                "spec": _pod(mesh.name, spec, settings, health_port=health_port, has_hosts=has_hosts),
            },
        },
    }
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]
    # A field that a newer release no longer sets would otherwise go unnoticed by `covers`.
    body["metadata"]["annotations"] = {HASH_ANNOTATION: digest}
    return body


def event(mesh: MeshFacts, reason: str, note: str, *, warning: bool, name: str, now: datetime) -> Object:
    """Return an Event about a mesh (events.k8s.io/v1).

    Args:
        mesh: what it is about; being cluster-scoped, its Events live in ``default``.
        reason: CamelCase.
        note: for people.
        warning: whether someone should look.
        name: a suffix that no other Event of the mesh has.
        now: when it happened.

    """
    return {
        "metadata": {"name": f"{mesh.name}.{name}", "namespace": "default"},
        "eventTime": now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "reportingController": f"{GROUP}/operator",
        "reportingInstance": "wesher-operator",
        "action": "Reconcile",
        "reason": reason,
        "note": note.encode()[:_MAX_NOTE].decode(errors="ignore"),
        "type": "Warning" if warning else "Normal",
        "regarding": {
            "apiVersion": MESH.api_version,
            "kind": MESH.kind,
            "name": mesh.name,
            "uid": mesh.uid,
        },
    }


def mounts_hosts(daemon_set: Mapping[str, Any]) -> bool:
    """Tell whether a DaemonSet's pods have the hosts file, or its directory."""
    volumes = daemon_set["spec"]["template"]["spec"].get("volumes") or []
    return any(volume["name"] in _HOSTS_VOLUMES for volume in volumes)


def covers(observed: Any, wanted: Any) -> bool:
    """Tell whether an object already says everything that is wanted.

    Fields that the API server filled in count as nothing, and one that is wished
    empty may be absent, since the API server drops those.
    """
    if observed is None:
        return wanted in ({}, [], "")
    if isinstance(wanted, Mapping):
        return isinstance(observed, Mapping) and all(
            covers(observed.get(key), value) for key, value in wanted.items()
        )
    if isinstance(wanted, Sequence) and not isinstance(wanted, str):
        return (
            isinstance(observed, Sequence)
            and len(observed) == len(wanted)
            and all(covers(*pair) for pair in zip(observed, wanted, strict=True))
        )
    return bool(observed == wanted)


def _pod(
    mesh: str, spec: WesherMeshSpec, settings: AgentSettings, *, health_port: int, has_hosts: bool
) -> Object:
    pods = settings.pods
    host_paths = [*_HOST_PATHS, *([_hosts_path(privileged=pods.privileged)] if has_hosts else [])]
    return {
        "serviceAccountName": pods.service_account_name,
        "imagePullSecrets": pods.image_pull_secrets,
        "hostNetwork": True,
        # A Service named wesher-cluster would set WESHER_CLUSTER_PORT, which is a flag's variable.
        "enableServiceLinks": False,
        "dnsPolicy": pods.dns_policy,
        "priorityClassName": pods.priority_class_name,
        "terminationGracePeriodSeconds": 30,
        "nodeSelector": spec.node_selector,
        "affinity": without_label(spec.affinity, out_label(mesh)).model_dump(
            by_alias=True, exclude_defaults=True
        ),
        "tolerations": [
            toleration.model_dump(by_alias=True, exclude_defaults=True) for toleration in spec.tolerations
        ],
        "containers": [
            {
                "name": "agent",
                "image": settings.image,
                "imagePullPolicy": settings.pull_policy,
                # The line with which an agent ended then stands in its pod, where `agent_pod` reads it.
                "terminationMessagePolicy": "FallbackToLogsOnError",
                "command": ["wesher", "agent"],
                "args": [
                    f"--kubernetes={MOUNT_PATH}",
                    f"{HEALTH_FLAG}{health_port}",
                    *(["--hosts-file=/host/etc/hosts"] if has_hosts else []),
                    f"--log-level={settings.log_level}",
                    f"--log-format={pods.log_format}",
                    *pods.extra_args,
                ],
                "env": [
                    {"name": "WESHER_NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
                    *pods.environment,
                ],
                "resources": pods.resources,
                "securityContext": _security_context(privileged=pods.privileged),
                # That the agent answers is its whole liveness: an API server that is away restarts nobody.
                "startupProbe": _probe("/healthz", health_port, every=2, failures=60),
                "livenessProbe": _probe("/healthz", health_port, every=30, failures=4),
                "readinessProbe": _probe("/readyz", health_port, every=10, failures=2),
                "volumeMounts": [
                    {"name": "mesh", "mountPath": MOUNT_PATH, "readOnly": True},
                    *(path.mount for path in host_paths),
                ],
            }
        ],
        "volumes": [
            {
                "name": "mesh",
                "projected": {
                    "defaultMode": 0o400,
                    "sources": [
                        {"secret": {"name": spec.key_secret(mesh)}},
                        {"configMap": {"name": config_map_name(mesh)}},
                        {"downwardAPI": {"items": [_annotation_file(NUDGE_FILE, NUDGE_ANNOTATION)]}},
                    ],
                },
            },
            *(path.volume for path in host_paths),
        ],
    }


def _annotation_file(path: str, annotation: str) -> Object:
    return {"path": path, "fieldRef": {"fieldPath": f"metadata.annotations['{annotation}']"}}


def _security_context(*, privileged: bool) -> Object:
    # The image runs as nobody by itself, as the operator needs no more.
    if privileged:
        return {"privileged": True, "runAsUser": 0, "readOnlyRootFilesystem": True}
    return {
        "privileged": False,
        "allowPrivilegeEscalation": False,
        "runAsUser": 0,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _probe(path: str, port: int, *, every: int, failures: int) -> Object:
    # By HTTP: to start a program for each would cost a node more than its agent does.
    return {
        # The kubelet and the agent are both in the node's network.
        "httpGet": {"host": "127.0.0.1", "path": path, "port": port},
        "periodSeconds": every,
        "failureThreshold": failures,
        "timeoutSeconds": 5,
    }


def _labels(mesh: str) -> dict[str, str]:
    return {MESH_LABEL: mesh, **_MANAGED_BY}


def _owned(mesh: MeshFacts, name: str) -> Object:
    owner = {
        "apiVersion": MESH.api_version,
        "kind": MESH.kind,
        "name": mesh.name,
        "uid": mesh.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }
    return {"name": name, "labels": _labels(mesh.name), "ownerReferences": [owner]}
