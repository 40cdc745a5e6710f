from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from wesher_testing.cluster.api_server import ApiServer, api_server
from wesher_testing.cluster.operator_process import (
    NAMESPACE,
    SOON,
    OperatorProcess,
    eventually,
    install,
    run_operator,
)
from wesher_testing.run import toolbox

Plugin = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def installed() -> Iterator[ApiServer]:
    """One API server for the ring, with our CRDs, permissions and policy."""
    with api_server() as server:
        install(server)
        yield server


@pytest.fixture
def api(installed: ApiServer) -> Iterator[ApiServer]:
    """Lend the API server; afterwards delete Nodes, meshes and what they left, as no controller does here."""
    yield installed
    # Meshes first and by themselves, so that an operator makes nothing anew.
    installed.kubectl("delete", "weshermeshes", "--all")
    installed.kubectl("delete", "weshernodes,wesherpeers,nodes", "--all", "--wait=false")
    children = "secret,configmap,daemonset,pod"
    # No kubelet ends a pod here, so only force takes one away.
    installed.kubectl("delete", children, "--all", "--wait=false", "--force", "-n", NAMESPACE)


@pytest.fixture
def mesh(api: ApiServer) -> Callable[..., None]:
    """Declare a mesh: ``mesh(name, **spec)``."""

    def declare(name: str = "demo", **spec: Any) -> None:
        spec = {"overlayCIDR": "10.189.0.0/16", **spec}
        api.apply(
            {
                "apiVersion": "wesher.dev/v1alpha1",
                "kind": "WesherMesh",
                "metadata": {"name": name},
                "spec": spec,
            }
        )

    return declare


@pytest.fixture
def report(api: ApiServer) -> Callable[..., None]:
    """Report as the agent of a node would, which runs in a pod: ``report(node, **status)``."""
    started: set[str] = set()

    def write(node: str, mesh: str = "demo", **status: Any) -> None:
        if node not in started:
            api.agent_pod(mesh, node, NAMESPACE)
            started.add(node)
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        ready = {"type": "Ready", "status": "True", "reason": "Ready", "lastTransitionTime": now}
        said = {"conditions": [ready], "viewHash": "same", "lastReportTime": now}
        body = {"observedGeneration": 1, **said, **status}
        api.kubectl(
            *("patch", "wnode", f"{mesh}.{node}", "--subresource=status", "--type=merge"),
            *("-p", json.dumps({"status": body})),
        )

    return write


@pytest.fixture(scope="module")
def operator(installed: ApiServer) -> Iterator[OperatorProcess]:
    """Run the operator for a file of tests and wait until it leads."""
    with run_operator(installed) as process:
        eventually(process.leads, within=SOON)
        yield process


@pytest.fixture
def plugin(api: ApiServer) -> Plugin:
    """Run ``kubectl wesher`` and return how it ended."""
    kubectl = toolbox.kubernetes_binary("kubectl")

    def run(*words: str, kubeconfig: Path | None = None) -> subprocess.CompletedProcess[str]:
        path = f"{Path(sys.executable).parent}:{kubectl.parent}:{os.environ['PATH']}"
        return subprocess.run(
            [kubectl, "wesher", *words, f"--kubeconfig={kubeconfig or api.kubeconfig}"],
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            check=False,
            timeout=2 * SOON,
        )

    return run
