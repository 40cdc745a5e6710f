"""Virtual networks for tests, and their seed in every failure's report."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from typing import Any

import pytest

from wesher_testing.run import figures
from wesher_testing.virtual.mesh import VirtualMesh
from wesher_testing.virtual.network import VirtualNetwork

SEED = int(os.environ.get("WESHER_SIM_SEED", "1"))
_NETWORKS = pytest.StashKey[list[VirtualNetwork]]()


@pytest.fixture
def make_net(request: pytest.FixtureRequest) -> Callable[..., VirtualNetwork]:
    """Return a maker of networks; it takes what `VirtualNetwork` takes."""
    made = request.node.stash.setdefault(_NETWORKS, [])

    def make(seed: int = SEED, **settings: Any) -> VirtualNetwork:
        made.append(VirtualNetwork(seed, **settings))
        return made[-1]

    return make


@pytest.fixture
def make_mesh(request: pytest.FixtureRequest) -> Callable[..., VirtualMesh]:
    """Return a maker of meshes of agents; it takes what `VirtualMesh` takes."""
    made = request.node.stash.setdefault(_NETWORKS, [])

    def make(seed: int = SEED, **settings: Any) -> VirtualMesh:
        made.append(mesh := VirtualMesh(seed, **settings))
        return mesh

    return make


@pytest.fixture
def net(make_net: Callable[..., VirtualNetwork]) -> VirtualNetwork:
    """Return a network of LAN members that loses nothing."""
    return make_net()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note what was measured, and say with which seed a failed simulation can be run again."""
    report = yield
    if report.when == "call":
        for network in item.stash.get(_NETWORKS, []):
            for figure in network.figures:
                figures.note(item, figure)
    if report.failed:
        for network in item.stash.get(_NETWORKS, []):
            again = f"run it again with WESHER_SIM_SEED={network.seed}"
            report.sections.append(
                ("virtual network", f"{network!r}: {again}\n{network.picture()}\n{network.trace}")
            )
    return report
