"""Pods that tests of the cluster run: as an agent's, as an operator's, and one that runs to its end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from wesher_testing.cluster.image import Image
from wesher_testing.cluster.kubelets import Cluster


def node_daemonset(name: str, image: Image, command: Sequence[str]) -> dict[str, Any]:
    """Return a DaemonSet of pods that stand on nodes as agents do, with the node's /etc in /host/etc."""
    container = {
        **_container(image, command),
        "securityContext": {"privileged": True, "runAsUser": 0, "readOnlyRootFilesystem": True},
        "volumeMounts": [{"name": "etc", "mountPath": "/host/etc"}],
    }
    pod = {
        "hostNetwork": True,
        "dnsPolicy": "Default",
        "tolerations": [{"operator": "Exists"}],
        "terminationGracePeriodSeconds": 0,
        "volumes": [{"name": "etc", "hostPath": {"path": "/etc", "type": "Directory"}}],
        "containers": [container],
    }
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def restricted_pod(name: str, image: Image, command: Sequence[str]) -> dict[str, Any]:
    """Return a pod that keeps to PodSecurity's profile ``restricted``, with nothing to write to."""
    security = {
        "runAsNonRoot": True,
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "restartPolicy": "Never",
            "dnsPolicy": "Default",
            "containers": [{**_container(image, command), "securityContext": security}],
        },
    }


def run_restricted(cluster: Cluster, image: Image, command: Sequence[str]) -> str:
    """Run a restricted pod until it has succeeded; return what it said."""
    cluster.api.apply(restricted_pod("errand", image, command))
    try:
        cluster.repeat("wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/errand", "--timeout=10s")
        return cluster.api.kubectl("logs", "errand")
    finally:
        cluster.api.kubectl("delete", "pod", "errand", "--now")


def _container(image: Image, command: Sequence[str]) -> dict[str, Any]:
    return {"name": "main", "image": image.name, "imagePullPolicy": "Never", "command": [*command]}
