"""``docs/operations.md``: the cluster key is exchanged under pings, saved and restored, by its commands."""

from __future__ import annotations

import base64

import pytest

from wesher_common.keys import ClusterKey
from wesher_testing.cluster.installation import NAMESPACE, Mesh
from wesher_testing.cluster.kubelets import Cluster
from wesher_testing.cluster.operator_process import eventually
from wesher_testing.cluster.workstation import Workstation
from wesher_testing.lab.pings import Pinging
from wesher_testing.operations_page import commands

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]

IN = {"-n wesher": f"-n {NAMESPACE}"}
_STEP_SECONDS = 120.0
"""Until every node has taken a step; it takes some seconds."""


def test_the_key_is_exchanged_without_a_lost_ping(running: Cluster, mesh: Mesh, station: Workstation) -> None:
    nodes = len(mesh.addresses())
    (look,) = commands("key-look")

    def until_each_has(*keys: str) -> None:
        ids = [ClusterKey.from_base64((station.directory / f"{key}.key").read_text()).id for key in keys]
        ring = [ids[0], *f"[{' '.join(ids)}]".split()]

        def rings() -> list[list[str]]:
            return [line.split()[1:] for line in station.run(look).splitlines()[1:]]

        eventually(rings, within=_STEP_SECONDS, until=lambda seen: seen == [ring] * nodes)

    mesh.wait_for_all_pings()
    with Pinging(running.nodes, mesh.addresses()) as pinging:
        *steps, apply = commands("key-distribute", IN)
        for command in [*steps, apply]:
            station.run(command)
        until_each_has("old", "new")
        for command in commands("key-promote", IN):
            station.run(command)
        until_each_has("new", "old")
        retire, remove = commands("key-retire", IN)
        station.run(retire)
        until_each_has("new")

    assert sum(pinging.lost.values()) == 0
    new = (station.directory / "new.key").read_text()
    assert _secret(running, mesh) == {"cluster-key": new}
    station.run(remove)
    assert not [*station.directory.glob("*.key")]


def test_a_deleted_key_is_put_back_from_its_copy(running: Cluster, mesh: Mesh, station: Workstation) -> None:
    key = mesh.status()["key"]["id"]
    for command in commands("cluster-backup", IN):
        station.run(command)
    assert "kind: WesherMesh" in (station.directory / "default.yaml").read_text()

    running.api.kubectl("delete", "secret", f"{mesh.name}-key", f"--namespace={NAMESPACE}")
    eventually(
        lambda: mesh.condition("KeyReady").get("reason"), within=_STEP_SECONDS, until="InvalidKey".__eq__
    )
    for command in commands("cluster-restore", IN):
        station.run(command)
    mesh.wait_until_ready()
    assert mesh.status()["key"]["id"] == key
    mesh.wait_for_all_pings()


def _secret(running: Cluster, mesh: Mesh) -> dict[str, str]:
    data = running.api.get("secret", f"{mesh.name}-key", f"--namespace={NAMESPACE}")["data"]
    return {entry: base64.b64decode(value).decode() for entry, value in data.items()}
