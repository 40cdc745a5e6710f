"""Machines outside Kubernetes in a cluster's mesh."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path

import pytest

from wesher_common.keys import ClusterKey
from wesher_testing.agents.process import WESHER, pings
from wesher_testing.cluster.installation import NAMESPACE, Mesh
from wesher_testing.cluster.kubelets import Cluster
from wesher_testing.cluster.operator_process import eventually
from wesher_testing.peers.go_wesher import go_wesher
from wesher_testing.run.toolbox import wireguard_go

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]

_LISTED_SECONDS = 180.0
"""Until the mesh's status lists a machine that joined, or no more one that left; it takes some twenty."""
_ANSWER_SECONDS = 60.0


@pytest.fixture
def open_mesh(mesh: Mesh) -> Iterator[Mesh]:
    """Return the mesh while every machine with the cluster key has a tunnel in it."""
    _set_identity(mesh, "Open")
    try:
        yield mesh
    finally:
        _set_identity(mesh, "Verified")


def test_a_plain_machine_with_the_key_has_tunnels_once_the_mesh_is_open(
    running: Cluster, mesh: Mesh, tmp_path: Path
) -> None:
    """It talks to every node over the overlay, stands in the mesh's status, and leaves when told."""
    key_file = tmp_path / "cluster-key"
    key_file.touch(mode=0o600)
    key_file.write_text(_cluster_key(running, mesh))
    machine = running.lab.host("laptop")
    seed = running.nodes["node-1"].host.ipv4

    agent = machine.log_of(
        [
            *(WESHER, f"--cluster-key-file={key_file}", f"--join={seed}"),
            *(f"--overlay-net={mesh.overlay}", f"--userspace-binary={wireguard_go()}"),
        ],
        tmp_path / "laptop.log",
        start_new_session=True,
    )
    try:
        listed = eventually(lambda: _outsider(mesh, "laptop"), within=_LISTED_SECONDS)
        assert (listed["kind"], listed["state"]) == ("Outsider", "Alive")
        # Only members with a certificate have a tunnel in a new mesh.
        for node in running.nodes:
            assert mesh.members_on(node)["laptop"]["uncertified"] == "Uncertified"
            assert mesh.members_on(node)["laptop"]["endpoint"] == ""
        assert not any(pings(machine, address) for address in mesh.addresses().values())

        _set_identity(mesh, "Open")
        for address in mesh.addresses().values():
            eventually(partial(pings, machine, address), within=_ANSWER_SECONDS)
        eventually(
            lambda: mesh.status()["members"]["outside"],
            within=_LISTED_SECONDS,
            until=lambda outside: outside == 1,
        )

        agent.terminate()
        agent.wait(timeout=60)
        eventually(lambda: _outsider(mesh, "laptop"), within=_LISTED_SECONDS, until=lambda found: not found)
    finally:
        with suppress(ProcessLookupError):
            agent.kill()
        agent.wait()
        _set_identity(mesh, "Verified")


async def test_a_machine_with_the_go_program_joins_with_the_key_and_is_listed(
    running: Cluster, open_mesh: Mesh
) -> None:
    """What it gossips and what it makes of others' metadata are Go's own; no node need know of that."""
    mesh = open_mesh
    machine, seed = running.lab.host("gopher"), running.nodes["node-1"].host.ipv4
    key = ClusterKey.from_base64(_cluster_key(running, mesh)).secret
    async with go_wesher(machine, key=key, overlay=mesh.overlay, seed=seed) as gopher:
        await gopher.connect(*running.nodes)
        listed = await asyncio.to_thread(
            eventually, lambda: _outsider(mesh, "gopher"), within=_LISTED_SECONDS
        )
        assert (listed["kind"], listed["state"]) == ("Outsider", "Alive")
        assert listed["address"] == gopher.address
        assert _told_of(mesh, "gopher") == {("Go", str(gopher.public_key))}

        for node, address in mesh.addresses().items():
            for host, target in ((machine, address), (running.nodes[node].host, gopher.address)):
                reaches = partial(pings, host, target)
                await asyncio.to_thread(eventually, reaches, within=_ANSWER_SECONDS)

        await gopher.leave()
        await asyncio.to_thread(
            eventually,
            lambda: _outsider(mesh, "gopher"),
            within=_LISTED_SECONDS,
            until=lambda found: not found,
        )


def _set_identity(mesh: Mesh, mode: str) -> None:
    """Set who gets a tunnel, and wait until the agents know it."""
    patch = json.dumps({"spec": {"identity": mode}})
    mesh.cluster.api.kubectl("patch", "wmesh", mesh.name, "--type=merge", f"--patch={patch}")
    wanted = (mode, mode == "Verified")

    def is_so() -> tuple[str, bool]:
        identity = mesh.status()["identity"]
        return identity["mode"], identity["bound"]

    eventually(is_so, within=_LISTED_SECONDS, until=wanted.__eq__)


def _cluster_key(running: Cluster, mesh: Mesh) -> str:
    secret = running.api.get("secret", f"{mesh.name}-key", f"--namespace={NAMESPACE}")
    return base64.b64decode(secret["data"]["cluster-key"]).decode()


def _told_of(mesh: Mesh, name: str) -> set[tuple[str, str]]:
    """Return kind and key of an outsider, as nodes report them."""
    reports = (node.get("status", {}).get("outsiders", []) for node in mesh.weshernodes())
    named = (each for each in chain.from_iterable(reports) if each["name"] == name)
    return {(each["kind"], each["publicKey"]) for each in named}


def _outsider(mesh: Mesh, name: str) -> dict[str, str]:
    members = mesh.status().get("memberList", [])
    return next((member for member in members if member["name"] == name), {})
