"""One cluster of three real kubelets, with the chart installed on it, for all tests here.

Each test leaves the cluster and its mesh as it found them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from wesher_testing.cluster.image import Image, wesher_image
from wesher_testing.cluster.installation import Mesh, install
from wesher_testing.cluster.kubelets import Cluster, cluster
from wesher_testing.cluster.workstation import Workstation


@pytest.fixture(scope="session")
def image() -> Image:
    return wesher_image()


@pytest.fixture(scope="session")
def running(image: Image) -> Iterator[Cluster]:
    with cluster("node-1", "node-2", "node-3", images=[image]) as made:
        yield made


@pytest.fixture(scope="session")
def installed(running: Cluster, image: Image) -> Mesh:
    """Return the mesh that installing the chart gives."""
    install(running, image)
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
