"""What goes wrong on clusters, and what an administrator is told about it."""

from __future__ import annotations

import base64
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import IPv4Network

import pytest

from wesher_testing.installation import NAMESPACE, Mesh
from wesher_testing.kubelets import Cluster, Node
from wesher_testing.operator_process import eventually

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]

_HOLD_PORT = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
    holder.bind(("0.0.0.0", int(sys.argv[1])))
    print(flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def troubled(running: Cluster, mesh: Mesh) -> Iterator[Mesh]:
    """Stand for a mesh that a test makes beside the first, and take it away afterwards."""
    other = Mesh(running, "troubled", "wgtroubled", IPv4Network("10.192.0.0/16"))
    yield other
    other.delete()
    running.api.kubectl("delete", "secret", "troubled-key", f"--namespace={NAMESPACE}", "--ignore-not-found")
    assert mesh.condition("Ready")["status"] == "True"


def test_a_key_of_31_bytes_is_named_with_its_rule_and_starts_no_agent(
    running: Cluster, troubled: Mesh
) -> None:
    """It is a user's Secret, so only its user can mend it."""
    _give_key(running, bytes(31))
    _apply(troubled)

    key = eventually(
        lambda: troubled.condition("KeyReady"), within=30, until=lambda each: each.get("status") == "False"
    )

    assert key["reason"] == "InvalidKey"
    assert key["message"].startswith("Secret troubled-key: cluster-key: ")
    assert "32" in key["message"]
    assert key["message"] in running.api.kubectl("describe", "wmesh", troubled.name)
    assert not troubled.agents()

    _give_key(running, bytes(32))
    troubled.wait_until_ready()


def test_a_port_that_another_program_holds_is_named_with_its_node_until_it_is_free(
    running: Cluster, troubled: Mesh
) -> None:
    """The node says which port, the mesh says which node, and nobody has to restart anything."""
    with _port_held(running.nodes["node-1"], 51831):
        _apply(troubled)
        ready = eventually(
            lambda: troubled.condition("Ready"),
            within=90,
            until=lambda each: "PortTaken" in each.get("message", ""),
        )
        assert "node-1 (PortTaken)" in ready["message"]
        described = running.api.kubectl("describe", "wnode", f"{troubled.name}.node-1")
        assert "51831" in described
        assert troubled.ping("node-2", "node-3")
    troubled.wait_until_ready()


def _apply(mesh: Mesh) -> None:
    mesh.apply(
        wireguard={"interface": mesh.interface, "port": 51831}, gossip={"port": 7957, "profile": "LAN"}
    )


def _give_key(running: Cluster, key: bytes) -> None:
    # Twice: a Secret's data is base64 of what the file holds, which is base64 itself.
    text = base64.b64encode(base64.b64encode(key)).decode()
    running.api.apply(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "troubled-key", "namespace": NAMESPACE},
            "data": {"cluster-key": text},
        }
    )


@contextlib.contextmanager
def _port_held(node: Node, port: int) -> Iterator[None]:
    with node.host.popen(
        [sys.executable, "-I", "-c", _HOLD_PORT, str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "\n"
        try:
            yield
        finally:
            holder.communicate()
