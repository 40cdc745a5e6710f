"""One cluster of three real kubelets, with the project's image on every node, for all tests here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from wesher_testing.image import Image, wesher_image
from wesher_testing.kubelets import Cluster, cluster


@pytest.fixture(scope="session")
def image() -> Image:
    return wesher_image()


@pytest.fixture(scope="session")
def running(image: Image) -> Iterator[Cluster]:
    with cluster("node-1", "node-2", "node-3", images=[image]) as made:
        yield made
