"""What goes wrong on clusters, and what an administrator is told about it."""

from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Network

import pytest

from wesher_testing.cluster import containers
from wesher_testing.cluster.helm import HelmFailed
from wesher_testing.cluster.image import Image
from wesher_testing.cluster.installation import NAMESPACE, Mesh, install, uninstall
from wesher_testing.cluster.kubelets import Cluster, Node
from wesher_testing.cluster.operator_process import eventually

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]

TOLD_SECONDS = 240.0
"""Until a mesh's status tells what is wrong; on a machine with nothing else to do it takes up to thirty."""
WIREGUARD_PORT, GOSSIP_PORT = 51831, 7957
ENFORCE = "pod-security.kubernetes.io/enforce"
IN = f"--namespace={NAMESPACE}"

_HOLD_PORT = """
import socket, sys
kind, port = sys.argv[1:]
with socket.socket(socket.AF_INET, getattr(socket, f"SOCK_{kind}")) as holder:
    if kind == "STREAM":  # former connections of that port linger
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("0.0.0.0", int(port)))
    if kind == "STREAM":
        holder.listen()
    print(flush=True)
    sys.stdin.read()
"""

_CLAIM_INTERFACE = """
import socket, sys
with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as holder:
    holder.bind("\\0wesher/" + sys.argv[1] + "/1")
    holder.listen()
    print(flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def troubled(running: Cluster, mesh: Mesh) -> Iterator[Mesh]:
    """Stand for a mesh that a test makes beside the first, and take it away afterwards."""
    other = Mesh(running, "troubled", "wgtroubled", IPv4Network("10.192.0.0/16"))
    yield other
    other.delete()
    running.api.kubectl("delete", "secret", "troubled-key", IN, "--ignore-not-found")
    mesh.wait_until_ready()


def test_a_key_of_31_bytes_is_named_with_its_rule_and_starts_no_agent(
    running: Cluster, troubled: Mesh
) -> None:
    """It is a user's Secret, so only its user can mend it."""
    _give_key(running, bytes(31))
    _apply(troubled)

    key = eventually(
        lambda: troubled.condition("KeyReady"),
        within=TOLD_SECONDS,
        until=lambda each: each.get("status") == "False",
    )

    assert key["reason"] == "InvalidKey"
    assert key["message"].startswith("Secret troubled-key: cluster-key: ")
    assert "32" in key["message"]
    assert key["message"] in running.api.kubectl("describe", "wmesh", troubled.name)
    assert not troubled.agents()

    _give_key(running, bytes(32))
    troubled.wait_until_ready()


def test_each_node_says_what_is_wrong_with_it_and_is_well_once_that_is_mended(
    running: Cluster, troubled: Mesh, image: Image
) -> None:
    """A node whose ports are taken, one that cannot pull the image, and one without /dev/net/tun."""
    taken, imageless, tunless = running.nodes.values()
    with ExitStack() as faults:
        # As flannel or Calico hold WireGuard's port, and MetalLB that of gossip, on both protocols.
        for kind, port in (("DGRAM", WIREGUARD_PORT), ("DGRAM", GOSSIP_PORT), ("STREAM", GOSSIP_PORT)):
            faults.enter_context(_held(taken, _HOLD_PORT, kind, str(port)))
        faults.enter_context(_without_image(running, image, imageless))
        faults.enter_context(_without_tun(tunless))
        _apply(troubled)
        reasons = {
            taken.name: "PortTaken",
            imageless.name: "ImageNotPulled",
            tunless.name: "WireGuardUnavailable",
        }

        ready = eventually(
            lambda: troubled.condition("Ready"),
            within=TOLD_SECONDS,
            until=lambda each: all(f"{n} ({r})" in each.get("message", "") for n, r in reasons.items()),
        )

        assert f"{imageless.name} cannot pull the agent image: " in ready["message"]
        assert image.name in ready["message"]
        # Either port alone makes its mesh say so.
        both = (
            f"UDP port {WIREGUARD_PORT} is taken",
            "spec.wireguard.port of the mesh, to a free one",
            f"UDP port {GOSSIP_PORT} is taken",
            "spec.gossip.port of the mesh, to a port that is free",
        )
        eventually(
            lambda: running.api.kubectl("describe", "wnode", f"{troubled.name}.{taken.name}"),
            within=TOLD_SECONDS,
            until=lambda described: all(each in described for each in both),
        )
        described = running.api.kubectl("describe", "wnode", f"{troubled.name}.{tunless.name}")
        assert "needs /dev/net/tun, which does not exist: load the module with `modprobe tun`" in described
        assert "ImageNotPulled" in running.api.kubectl("describe", "wmesh", troubled.name)
    troubled.wait_until_ready()


def test_an_agent_that_ends_is_quoted_in_its_meshs_status(running: Cluster, troubled: Mesh) -> None:
    """As where another agent, started by hand on the node, has the interface already."""
    with _held(running.nodes["node-2"], _CLAIM_INTERFACE, troubled.interface):
        _apply(troubled)
        said = f"wesher: error: interface '{troubled.interface}': is used by another agent on this host"
        ready = eventually(
            lambda: troubled.condition("Ready"),
            within=TOLD_SECONDS,
            until=lambda each: f"node-2 has an agent that exits: {said}" in each.get("message", ""),
        )
        assert "node-2 (AgentEnds)" in ready["message"]
        pod = running.api.kubectl("describe", "pod", troubled.agents()["node-2"]["metadata"]["name"], IN)
        assert said in pod
    troubled.wait_until_ready()


def test_a_namespace_that_refuses_agents_is_told_with_the_label_that_it_needs(
    running: Cluster, troubled: Mesh
) -> None:
    """The operator itself runs under PodSecurity's strictest profile, and agents come once they may."""
    _enforce(running, "restricted")
    try:
        running.api.kubectl("rollout", "restart", "deployment/wesher-operator", IN)
        _apply(troubled)
        ready = eventually(
            lambda: troubled.condition("Ready"),
            within=TOLD_SECONDS,
            until=lambda each: "PodRefused" in each.get("message", ""),
        )
        assert 'violates PodSecurity "restricted:latest": host namespaces' in ready["message"]
        assert ready["message"].endswith(
            f"kubectl label namespace {NAMESPACE} --overwrite pod-security.kubernetes.io/enforce=privileged"
        )
        status = ("rollout", "status", "deployment/wesher-operator", IN)
        running.repeat(*status, "--timeout=10s")

        _enforce(running, "privileged")
        troubled.wait_until_ready()
    finally:
        running.api.kubectl("label", "namespace", NAMESPACE, f"{ENFORCE}-")


def test_without_the_image_of_its_hook_the_release_can_be_taken_away_by_hand(
    running: Cluster, mesh: Mesh, image: Image
) -> None:
    """``helm uninstall`` ends in its time and leaves all as it was; then it is done as NOTES.txt says."""
    with ExitStack() as faults:
        for node in running.nodes.values():
            faults.enter_context(_without_image(running, image.operator, node))
        before = _agents(mesh)
        with pytest.raises(HelmFailed):
            uninstall(running, "--timeout=5s")
        mesh.wait_until_ready()
        assert _agents(mesh) == before

        mesh.delete()
        uninstall(running, "--no-hooks")

        assert [trace for node in running.nodes.values() for trace in mesh.traces_on(node)] == []
        eventually(
            lambda: running.api.kubectl(
                *("get", "deployments,daemonsets,jobs,roles,clusterroles", "--output=name"),
                *(IN, "--selector=app.kubernetes.io/part-of=wesher"),
            ),
            within=60,
            until="".__eq__,
        )
    install(running, image)


def _agents(mesh: Mesh) -> dict[str, str]:
    """Return the uids of a mesh's agents by node."""
    return {node: agent["metadata"]["uid"] for node, agent in mesh.agents().items()}


def _apply(mesh: Mesh) -> None:
    mesh.apply(
        wireguard={"interface": mesh.interface, "port": WIREGUARD_PORT},
        gossip={"port": GOSSIP_PORT, "profile": "LAN"},
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


def _enforce(running: Cluster, profile: str) -> None:
    running.api.kubectl("label", "namespace", NAMESPACE, "--overwrite", f"{ENFORCE}={profile}")


@contextmanager
def _held(node: Node, program: str, *arguments: str) -> Iterator[None]:
    """Run a program on a node that holds something, from its first line on until the block ends."""
    with node.host.popen(
        [sys.executable, "-I", "-c", program, *arguments],
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


@contextmanager
def _without_image(running: Cluster, image: Image, node: Node) -> Iterator[None]:
    """Have a node lose an image for a while, which it then looks for where there is no registry."""
    node.run(containers.removing(image))
    try:
        yield
    finally:
        running.load(image, only=node)


@contextmanager
def _without_tun(node: Node) -> Iterator[None]:
    """Have a node be one whose kernel has not loaded its module ``tun`` until the block ends."""
    node.run(["mount", "-t", "tmpfs", "tmpfs", "/dev/net"])
    try:
        yield
    finally:
        # As the module would, where containers look for it too.
        node.run(["mknod", "/dev/net/tun", "c", "10", "200"])
