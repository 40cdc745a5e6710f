from __future__ import annotations

from collections.abc import Iterator

import pytest

from wesher_testing.api_server import ApiServer, api_server
from wesher_testing.operator_process import NAMESPACE, OperatorProcess, eventually, install, run_operator


@pytest.fixture(scope="session")
def installed() -> Iterator[ApiServer]:
    """One API server for the ring, with our CRDs, permissions and policy."""
    with api_server() as server:
        install(server)
        yield server


@pytest.fixture
def api(installed: ApiServer) -> Iterator[ApiServer]:
    """The API server without Nodes, meshes or what they left; nothing here collects garbage."""
    yield installed
    for kind in ("weshermeshes", "weshernodes", "nodes"):
        installed.kubectl("delete", kind, "--all", "--wait=false")
    installed.kubectl(
        "delete", "secret,configmap,daemonset,pod,lease", "--all", "--wait=false", "-n", NAMESPACE
    )


@pytest.fixture
def operator(api: ApiServer) -> Iterator[OperatorProcess]:
    """The operator, leading."""
    with run_operator(api) as process:
        eventually(process.leads, within=15)
        yield process
