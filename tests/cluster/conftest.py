"""One cluster of three real kubelets, with the chart installed on it, for all tests here.

Each test leaves the cluster and its mesh as it found them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from wesher_testing.cluster.image import Image, wesher_image
from wesher_testing.cluster.installation import Mesh, install
from wesher_testing.cluster.kubelets import Cluster, cluster
from wesher_testing.cluster.operator_process import eventually
from wesher_testing.cluster.workstation import Workstation

_BOUND_SECONDS = 240.0
"""Until a mesh is bound; on a machine with nothing else to do it takes fifteen."""


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
