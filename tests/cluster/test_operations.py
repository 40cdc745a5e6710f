"""``docs/operations.md``: by its commands the cluster key is exchanged under pings, and keys are restored."""

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


def test_deleted_keys_are_put_back_from_their_copies(
    running: Cluster, mesh: Mesh, station: Workstation
) -> None:
    """Meanwhile all goes on, and no other key or authority is made."""
    status = mesh.status()
    key, authority = status["key"]["id"], status["identity"]["authority"]
    certificates = _certificates(mesh)
    for command in commands("cluster-backup", IN):
        station.run(command)
    assert "kind: WesherMesh" in (station.directory / "default.yaml").read_text()

    for kind in ("key", "authority"):
        running.api.kubectl("delete", "secret", f"{mesh.name}-{kind}", f"--namespace={NAMESPACE}")
    for condition, reason in (("KeyReady", "InvalidKey"), ("Certified", "AuthorityLost")):
        eventually(
            lambda condition=condition: mesh.condition(condition).get("reason"),  # type: ignore[misc]
            within=_STEP_SECONDS,
            until=reason.__eq__,
        )
    mesh.wait_for_all_pings()
    for command in commands("cluster-restore", IN):
        station.run(command)
    mesh.wait_until_ready()
    status = mesh.status()
    assert (status["key"]["id"], status["identity"]["authority"]) == (key, authority)
    assert status["identity"]["bound"]
    assert _certificates(mesh) == certificates
    mesh.wait_for_all_pings()


def test_a_mesh_is_opened_and_made_verified_again_without_a_lost_ping(
    running: Cluster, mesh: Mesh, station: Workstation
) -> None:
    for command in commands("identity-look"):
        assert "node-3" in station.run(command)
    mesh.wait_for_all_pings()
    with Pinging(running.nodes, mesh.addresses()) as pinging:
        for command in commands("identity-open"):
            station.run(command)
        assert mesh.status()["identity"]["mode"] == "Open"
        for command in commands("identity-verified"):
            station.run(command)
        assert mesh.status()["identity"]["mode"] == "Verified"
    assert sum(pinging.lost.values()) == 0
    noted = running.api.kubectl("events", f"--for=wmesh/{mesh.name}")
    assert "IdentityOpen" in noted
    assert "IdentityBound" in noted


def _certificates(mesh: Mesh) -> dict[str, str]:
    return {each["metadata"]["name"]: each["spec"]["certificate"] for each in mesh.weshernodes()}


def _secret(running: Cluster, mesh: Mesh) -> dict[str, str]:
    data = running.api.get("secret", f"{mesh.name}-key", f"--namespace={NAMESPACE}")["data"]
    return {entry: base64.b64decode(value).decode() for entry, value in data.items()}
