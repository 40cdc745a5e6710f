"""``helm uninstall`` and after: nothing stays on the nodes, and a reinstallation goes on with its key."""

from __future__ import annotations

import itertools

import pytest

from wesher_testing.image import Image
from wesher_testing.installation import NAMESPACE, Mesh, install, uninstall
from wesher_testing.kubelets import Cluster

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]


def test_uninstalling_leaves_nothing_on_nodes_and_reinstalling_finds_the_key(
    running: Cluster, mesh: Mesh, image: Image
) -> None:
    """The second time agents are installed without privileges, which gives the same mesh."""
    key, addresses = mesh.status()["key"]["id"], mesh.addresses()

    uninstall(running)

    assert _left(running, mesh) == []

    install(running, image, "--set", "agent.privileged=false")
    mesh.wait_until_ready()
    for pair in itertools.permutations(running.nodes, 2):
        assert mesh.ping(*pair), pair
    assert mesh.status()["key"]["id"] == key
    assert mesh.addresses() == addresses
    for agent in mesh.agents().values():
        (container,) = agent["spec"]["containers"]
        security = container["securityContext"]
        assert not security.get("privileged")
        assert security["readOnlyRootFilesystem"]
        assert security["capabilities"] == {"drop": ["ALL"], "add": ["NET_ADMIN"]}


def test_uninstalling_needs_no_operator(running: Cluster, mesh: Mesh, image: Image) -> None:
    """One that has crashed for good keeps nothing from being taken away."""
    running.api.kubectl("scale", "deployment/wesher-operator", "--replicas=0", f"--namespace={NAMESPACE}")

    uninstall(running)

    assert _left(running, mesh) == []
    install(running, image)


def _left(running: Cluster, mesh: Mesh) -> list[str]:
    """Return what is left of the mesh on nodes, and of its objects."""
    traces = [f"{name}: {trace}" for name, node in running.nodes.items() for trace in mesh.traces_on(node)]
    meshes = running.api.kubectl("get", "wmesh,wnode", "--output=name").split()
    return [*traces, *meshes, *mesh.objects()]
