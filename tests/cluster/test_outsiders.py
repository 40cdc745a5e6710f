"""Machines outside Kubernetes in a cluster's mesh."""

from __future__ import annotations

import base64
from contextlib import suppress
from pathlib import Path

import pytest

from wesher_testing.agents import WESHER, wireguard_go
from wesher_testing.installation import NAMESPACE, Mesh
from wesher_testing.kubelets import Cluster
from wesher_testing.operator_process import eventually

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]


def test_a_plain_machine_joins_with_the_key_and_is_listed(
    running: Cluster, mesh: Mesh, tmp_path: Path
) -> None:
    """It talks to every node over the overlay, stands in the mesh's status, and leaves when told."""
    secret = running.api.get("secret", f"{mesh.name}-key", f"--namespace={NAMESPACE}")
    key_file = tmp_path / "cluster-key"
    key_file.touch(mode=0o600)
    key_file.write_bytes(base64.b64decode(secret["data"]["cluster-key"]))
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
        listed = eventually(lambda: _outsider(mesh, "laptop"), within=60)
        assert (listed["kind"], listed["state"]) == ("Outsider", "Alive")
        for address in mesh.addresses().values():
            ping = ["ping", "-n", "-q", "-c", "1", "-W", "1", address]
            eventually(lambda ping=ping: machine.run(ping, check=False).returncode == 0, within=30)  # type: ignore[misc]
        assert mesh.status()["members"]["outside"] == 1

        agent.terminate()
        agent.wait(timeout=30)
        eventually(lambda: _outsider(mesh, "laptop"), within=90, until=lambda found: not found)
    finally:
        with suppress(ProcessLookupError):
            agent.kill()
        agent.wait()


def _outsider(mesh: Mesh, name: str) -> dict[str, str]:
    members = mesh.status().get("memberList", [])
    return next((member for member in members if member["name"] == name), {})
