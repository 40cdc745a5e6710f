"""``helm uninstall`` and after: nothing stays on the nodes, and a reinstallation goes on with its key."""

from __future__ import annotations

import pytest

from wesher_testing.cluster.image import Image
from wesher_testing.cluster.installation import NAMESPACE, Mesh, install, uninstall
from wesher_testing.cluster.kubelets import Cluster
from wesher_testing.cluster.operator_process import eventually

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]

_OF_A_RELEASE = (
    *("deployments", "jobs", "serviceaccounts", "roles", "rolebindings", "clusterroles"),
    *("clusterrolebindings", "validatingadmissionpolicies", "validatingadmissionpolicybindings"),
)
_COLLECTED_SECONDS = 120.0
"""Until the garbage collector has taken what a deleted mesh had; it takes a second."""


def test_uninstalling_leaves_nothing_on_nodes_and_reinstalling_finds_the_key(
    running: Cluster, mesh: Mesh, image: Image
) -> None:
    """The second time agents are installed without privileges, which gives the same mesh."""
    key, addresses = mesh.status()["key"]["id"], mesh.addresses()

    uninstall(running)

    assert _traces(running, mesh) == []
    eventually(lambda: _objects(running, mesh), within=_COLLECTED_SECONDS, until=lambda left: not left)

    install(running, image, "--set", "agent.privileged=false")
    mesh.wait_until_ready()
    mesh.wait_for_all_pings()
    assert mesh.status()["key"]["id"] == key
    assert mesh.addresses() == addresses
    for agent in mesh.agents().values():
        (container,) = agent["spec"]["containers"]
        security = container["securityContext"]
        assert not security.get("privileged")
        assert security["readOnlyRootFilesystem"]
        assert security["capabilities"] == {"drop": ["ALL"], "add": ["NET_ADMIN"]}
        # Of the node's /etc there is one file, which is written all the same.
        seen = running.api.kubectl(
            *("exec", f"--namespace={NAMESPACE}", agent["metadata"]["name"], "--"),
            *("python3", "-c", "import os; print(os.listdir('/host/etc'))"),
        )
        assert seen.strip() == "['hosts']"
    for node in running.nodes.values():
        lines = (node.host.root / "etc/hosts").read_text().splitlines()
        assert any(line.endswith(f"wesher interface {mesh.interface}") for line in lines)


def test_uninstalling_needs_no_operator(running: Cluster, mesh: Mesh, image: Image) -> None:
    """One that has crashed for good keeps nothing from being taken away."""
    running.api.kubectl("scale", "deployment/wesher-operator", "--replicas=0", f"--namespace={NAMESPACE}")

    uninstall(running)

    assert _traces(running, mesh) == []
    eventually(lambda: _objects(running, mesh), within=_COLLECTED_SECONDS, until=lambda left: not left)
    install(running, image)


def _traces(running: Cluster, mesh: Mesh) -> list[str]:
    """Return what is left of the mesh on nodes."""
    return [f"{name}: {trace}" for name, node in running.nodes.items() for trace in mesh.traces_on(node)]


def _objects(running: Cluster, mesh: Mesh) -> list[str]:
    """Return what is left of the mesh's objects, of all meshes', and of the release; the key is to stay."""
    meshes = running.api.kubectl("get", "wmesh,wnode", "--output=name").split()
    release = running.api.kubectl(
        *("get", ",".join(_OF_A_RELEASE), "--all-namespaces", "--output=name"),
        "--selector=app.kubernetes.io/part-of=wesher",
    )
    return [*meshes, *mesh.objects(), *release.split()]
