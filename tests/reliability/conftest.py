"""Meshes of agents on real hosts, and the cuts that are made on some of them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from wesher_testing.agents.mesh import RealMesh
from wesher_testing.agents.partitions import LENGTHS, Result, tear_and_heal
from wesher_testing.lab.namespaces import Lab


@pytest.fixture
def lab() -> Iterator[Lab]:
    """Return an empty lab."""
    with Lab() as made:
        yield made


@pytest.fixture(scope="session")
def plain() -> Iterator[RealMesh]:
    """Return a mesh of four machines outside Kubernetes; each test finds it whole and leaves it so."""
    with Lab() as made:
        mesh = RealMesh.plain(*(made.host(name) for name in "abcd"))
        mesh.wait_whole()
        yield mesh


@pytest.fixture(scope="session", autouse=True)
def cuts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Future[Result] | None:
    """Begin with the cuts, which are minutes of waiting, so that other tests run meanwhile."""
    if not any(item.path.stem == "test_partitions" for item in request.session.items):
        return None
    done: Future[Result] = Future()
    directory = tmp_path_factory.mktemp("cuts")

    def run() -> None:
        try:
            done.set_result(asyncio.run(tear_and_heal(LENGTHS, directory)))
        except BaseException as error:  # noqa: BLE001 - it is raised again by whoever asks
            done.set_exception(error)

    # A daemon: when the run is ended early, nobody waits for it, and its lab goes with us.
    threading.Thread(target=run, daemon=True).start()
    return done
