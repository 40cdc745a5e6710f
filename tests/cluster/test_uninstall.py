"""``helm uninstall`` and after: nothing stays on the nodes, and a reinstallation goes on with its key.

The commands are those of ``docs/operations.md``.
"""

from __future__ import annotations

import pytest

from wesher_testing.cluster.image import Image
from wesher_testing.cluster.installation import NAMESPACE, Mesh, install, uninstall
from wesher_testing.cluster.kubelets import Cluster
from wesher_testing.cluster.operator_process import eventually
from wesher_testing.cluster.workstation import Workstation
from wesher_testing.operations_page import commands

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]

IN = f"-n {NAMESPACE}"
_OF_A_RELEASE = (
    *("deployments", "jobs", "serviceaccounts", "roles", "rolebindings", "clusterroles"),
    *("clusterrolebindings", "validatingadmissionpolicies", "validatingadmissionpolicybindings"),
)
_BOUND_SECONDS = 120.0
"""Until every agent has its certificate; it takes some seconds."""
_COLLECTED_SECONDS = 120.0
"""Until the garbage collector has taken what a deleted mesh had; it takes a second."""


def test_uninstalling_leaves_nothing_on_nodes_and_reinstalling_finds_the_key(
    running: Cluster, mesh: Mesh, image: Image, station: Workstation
) -> None:
    """The second time agents are installed without privileges, which gives the same mesh."""
    key, addresses = mesh.status()["key"]["id"], mesh.addresses()
    authority = mesh.status()["identity"]["authority"]

    for command in commands("cluster-uninstall", {"-n wesher": IN}):
        station.run(command)

    assert _traces(running, mesh) == []
    eventually(lambda: _objects(running, mesh), within=_COLLECTED_SECONDS, until=lambda left: not left)

    install(running, image, "--set", "agent.privileged=false")
    mesh.wait_until_ready()
    mesh.wait_for_all_pings()
    assert mesh.status()["key"]["id"] == key
    assert mesh.addresses() == addresses
    identity = eventually(
        lambda: mesh.status()["identity"], within=_BOUND_SECONDS, until=lambda identity: identity["bound"]
    )
    assert identity["authority"] == authority
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


def test_nodes_are_cleaned_by_hand_after_their_namespace_was_deleted(
    running: Cluster, mesh: Mesh, image: Image, station: Workstation
) -> None:
    """Agents take that for a restart, and leave device, routes, hosts entries and state file."""
    for command in commands("cluster-without-helm", {"-n wesher": IN}):
        station.run(command)
    assert _traces(running, mesh) == []
    mesh.apply()
    mesh.wait_until_ready()

    running.api.kubectl("delete", "namespace", NAMESPACE)
    assert {line.partition(":")[0] for line in _traces(running, mesh)} == {*running.nodes}

    said = [
        station.run(command)
        for command in commands("nodes-clean", {"registry.example.com/wesher:0.1.0": image.name})
    ]
    assert _traces(running, mesh) == []
    assert "device wgoverlay removed, with its routes" in said[3]

    for command in commands(
        "cluster-forget", {"-n wesher": IN, "namespace wesher": f"namespace {NAMESPACE}"}
    ):
        station.run(command)
    assert "wesher.dev" not in running.api.kubectl("get", "crd", "--output=name")
    for command in commands("release-leftovers"):
        station.run(command)
    assert _objects_of_a_release(running) == []
    install(running, image)


def _traces(running: Cluster, mesh: Mesh) -> list[str]:
    """Return what is left of the mesh on nodes."""
    return [f"{name}: {trace}" for name, node in running.nodes.items() for trace in mesh.traces_on(node)]


def _objects(running: Cluster, mesh: Mesh) -> list[str]:
    """Return what is left of the mesh's objects, of all meshes', and of the release; the key is to stay."""
    meshes = running.api.kubectl("get", "wmesh,wnode", "--output=name").split()
    return [*meshes, *mesh.objects(), *_objects_of_a_release(running)]


def _objects_of_a_release(running: Cluster) -> list[str]:
    found = running.api.kubectl(
        *("get", ",".join(_OF_A_RELEASE), "--all-namespaces", "--output=name"),
        "--selector=app.kubernetes.io/part-of=wesher",
    )
    return found.split()
