"""One cluster of three real kubelets, with the chart installed on it, for all tests here.

Each test leaves the cluster and its mesh as it found them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from wesher_testing.cluster.earlier_release import COMMIT, is_in_history
from wesher_testing.cluster.image import Image, wesher_image
from wesher_testing.cluster.installation import Mesh, install
from wesher_testing.cluster.kubelets import Cluster, cluster
from wesher_testing.cluster.operator_process import eventually
from wesher_testing.cluster.workstation import Workstation

_BOUND_SECONDS = 240.0
"""Until a mesh is bound; on a machine with nothing else to do it takes fifteen."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say at the end, also in a quiet run, that there was no upgrade to test."""
    if not is_in_history():
        why = f"commit {COMMIT[:7]} is not in this clone, run git fetch --unshallow"
        terminalreporter.write_line(f"no upgrade was tested: {why}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the upgrade where the release to upgrade from cannot be had."""
    if is_in_history():
        return
    left_out = [item for item in items if item.path.name == "test_upgrade.py"]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def image() -> Image:
    return wesher_image()


@pytest.fixture(scope="session")
def running(image: Image) -> Iterator[Cluster]:
    with cluster("node-1", "node-2", "node-3", images=[image]) as made:
        yield made


@pytest.fixture(scope="session")
def bound_after(running: Cluster, image: Image) -> float:
    """Install the chart; return the seconds until its mesh had only certified members."""
    began = time.monotonic()
    install(running, image)
    mesh = Mesh(running)
    eventually(lambda: mesh.status().get("identity", {}).get("bound"), within=_BOUND_SECONDS)
    return time.monotonic() - began


@pytest.fixture(scope="session")
def installed(running: Cluster, bound_after: float) -> Mesh:
    """Return the mesh that installing the chart gives."""
    return Mesh(running)


@pytest.fixture
def mesh(installed: Mesh) -> Mesh:
    """Return the same mesh, once it is Ready."""
    installed.wait_until_ready()
    return installed


@pytest.fixture
def station(running: Cluster, tmp_path: Path) -> Workstation:
    """Return a workstation in an empty directory."""
    return Workstation(running.api, tmp_path, version=3)
