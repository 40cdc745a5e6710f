"""An upgrade from an earlier chart, and the way back: what stays, what is new, and what users feel.

The commands are those of ``docs/operations.md``, by Helm 4. The earlier release is the last one
without certificates, from the history of the repository. Its CustomResourceDefinition has a
field besides that is no more, and its operator leaves the definitions alone.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from wesher_testing.cluster.earlier_release import EarlierRelease, earlier_release
from wesher_testing.cluster.helm import CHART
from wesher_testing.cluster.image import Image
from wesher_testing.cluster.installation import NAMESPACE, Mesh, install, install_chart, uninstall
from wesher_testing.cluster.kubelets import Cluster, Node
from wesher_testing.cluster.operator_process import eventually
from wesher_testing.cluster.workstation import Workstation, set_release
from wesher_testing.lab.pings import Pinging
from wesher_testing.operations_page import commands
from wesher_testing.run.machine_load import share_of_a_core

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]

_MESHES = "weshermeshes.wesher.dev"
_LONGEST_OUTAGE = 3.0
"""Seconds that a node is out of reach at most while its user-space WireGuard is exchanged with its agent."""
IN = f"-n {NAMESPACE}"
_NEW_FIELD, _FORMER_FIELD = "identity", "colour"
_CERTIFIED_SECONDS = 120.0
"""Until every node has a certificate, or the mesh is bound; it takes some seconds."""


@dataclass(frozen=True, slots=True)
class Seen:
    """The mesh at one moment."""

    uids: Mapping[str, str]
    """Of the WesherMesh and the WesherNodes, by name."""
    key: str
    networks: Mapping[str, Mapping[str, Any]]
    """Each node's device, addresses and routes."""
    agents: frozenset[str]
    """uids of the agents' pods."""
    images: frozenset[str]
    fields: frozenset[str]
    """What the WesherMesh's CustomResourceDefinition knows."""
    identity: Mapping[str, Any] | None
    """As the status says."""
    certificates: Mapping[tuple[str, str], tuple[str, str]]
    """By node and member what the node's agent says of it: its state, and why it is not certified."""


@dataclass(frozen=True, slots=True)
class Upgraded:
    """An upgrade and the way back."""

    before: Seen
    after: Seen
    bound: Seen
    """After the mesh was made Verified."""
    back: Seen
    upgrading: Pinging
    binding: Pinging
    returning: Pinging
    share: float
    """What of a core each runnable process had: a busy machine starts a container slowly."""


@pytest.fixture(scope="module")
def upgraded(
    running: Cluster, installed: Mesh, image: Image, tmp_path_factory: pytest.TempPathFactory
) -> Upgraded:
    """Install the earlier chart in place of this one, upgrade, have only certified members, and go back.

    Under pings between all nodes.
    """
    mesh = installed
    uninstall(running, version=4)
    running.api.kubectl("delete", "crd", _MESHES, "weshernodes.wesher.dev")
    former = earlier_release()
    running.load(former.image)
    directory = tmp_path_factory.mktemp("workstation")
    earlier = _earlier_chart(directory / "earlier", former)
    # Their release's own image is what both charts name.
    values = ("--set", f"image.repository={image.name.rpartition(':')[0]}")
    install_chart(running, *values, version=4, chart=earlier)
    mesh.wait_until_ready()
    mesh.wait_for_all_pings()  # then every node has its routes to all others
    before = _look(running, mesh)

    station = Workstation(running.api, tmp_path_factory.mktemp("station"), version=4)
    station.take(_this_chart(directory / "this", image))
    with Pinging(running.nodes, mesh.addresses()) as upgrading:
        for command in commands(
            "cluster-upgrade", {"-n wesher": IN, "registry.example.com/wesher:0.2.0": image.name}
        ):
            station.run(command)
        mesh.wait_for_all_pings()
    eventually(mesh.status, within=_CERTIFIED_SECONDS, until=_are_all_certified)
    share = share_of_a_core()
    after = _look(running, mesh)

    with Pinging(running.nodes, mesh.addresses()) as binding:
        for command in commands("identity-verified"):
            station.run(command)
        bound = _look(running, mesh)

    with Pinging(running.nodes, mesh.addresses()) as returning:
        for command in commands(
            "cluster-rollback", {"-n wesher": IN, "registry.example.com/wesher:0.1.0": former.image.name}
        ):
            station.run(command)
        mesh.wait_for_all_pings()
    back = _look(running, mesh)

    # Other tests go on with this release.
    uninstall(running, version=4)
    install(running, image)
    return Upgraded(before, after, bound, back, upgrading, binding, returning, share)


def test_the_operator_brings_the_definitions_up_to_the_chart(upgraded: Upgraded) -> None:
    """Helm itself never touches them again."""
    assert _FORMER_FIELD in upgraded.before.fields
    assert _NEW_FIELD not in upgraded.before.fields
    assert _FORMER_FIELD not in upgraded.after.fields
    assert _NEW_FIELD in upgraded.after.fields


def test_meshes_and_nodes_are_the_same_objects_with_the_same_key(upgraded: Upgraded) -> None:
    """A mesh made anew would be another: other agents, other addresses."""
    assert len(upgraded.before.uids) == 1 + len(upgraded.before.networks)
    assert upgraded.after.uids == upgraded.before.uids
    assert upgraded.after.key == upgraded.before.key


def test_agents_are_the_new_releases_on_the_devices_of_the_former(upgraded: Upgraded) -> None:
    """Device, addresses and routes stay where they are while the agents are exchanged."""
    assert not upgraded.before.agents & upgraded.after.agents
    assert len(upgraded.after.images) == 1
    assert upgraded.after.networks == upgraded.before.networks


def test_the_way_back_changes_only_the_agents(upgraded: Upgraded) -> None:
    """The definitions stay the newer release's, which know all that the older one writes."""
    assert upgraded.back.images == upgraded.before.images != upgraded.after.images
    assert not upgraded.back.agents & upgraded.after.agents
    assert upgraded.back.uids == upgraded.before.uids
    assert upgraded.back.key == upgraded.before.key
    assert upgraded.back.networks == upgraded.before.networks
    assert upgraded.back.fields == upgraded.after.fields


def test_a_node_is_out_of_reach_only_while_its_agent_starts(
    upgraded: Upgraded, say: Callable[[str], None]
) -> None:
    """One after the other: the next goes when the former's agent has reached its peers."""
    there, back = (max(way.outages.values()) for way in (upgraded.upgrading, upgraded.returning))
    say(
        f"longest outage in user space: upgrade {there:.1f} s, rollback {back:.1f} s, "
        f"of a core: {upgraded.share:.0%}"
    )
    assert there < _LONGEST_OUTAGE / upgraded.share
    assert back < _LONGEST_OUTAGE / upgraded.share


def test_a_mesh_of_the_earlier_release_stays_open_and_all_its_nodes_get_certificates(
    upgraded: Upgraded,
) -> None:
    """A mesh that a release without certificates made has members that could be cut off."""
    assert upgraded.before.identity is None
    after = upgraded.after.identity
    assert after is not None
    assert (after["mode"], after["bound"], after["certified"]) == ("Open", False, "3/3")
    _assert_all_are_certified(upgraded.after)


def test_the_mesh_is_bound_without_a_lost_ping_once_it_is_verified(
    upgraded: Upgraded, say: Callable[[str], None]
) -> None:
    bound = upgraded.bound.identity
    assert bound is not None
    assert (bound["mode"], bound["bound"], bound["waitingFor"]) == ("Verified", True, [])
    assert upgraded.bound.agents == upgraded.after.agents
    assert upgraded.bound.networks == upgraded.after.networks
    _assert_all_are_certified(upgraded.bound)
    lost = sum(upgraded.binding.lost.values())
    say(f"Open to Verified: {lost} pings lost")
    assert lost == 0


def test_the_way_back_opens_the_mesh_again(upgraded: Upgraded) -> None:
    """The older operator knows nothing of identity, and its agents read no compact metadata."""
    assert upgraded.back.identity is None
    assert {state for state, _ in upgraded.back.certificates.values()} == {"alive"}


def _are_all_certified(status: dict[str, Any]) -> bool:
    return (status.get("identity") or {}).get("certified") == "3/3"


def _assert_all_are_certified(seen: Seen) -> None:
    assert len(seen.certificates) == len(seen.networks) ** 2
    assert set(seen.certificates.values()) == {("alive", "")}


def _this_chart(place: Path, image: Image) -> Path:
    """Make this chart, with the image that the nodes hold as its release's own."""
    shutil.copytree(CHART, place)
    set_release(place, "0.1.0", image)
    return place


def _earlier_chart(place: Path, earlier: EarlierRelease) -> Path:
    """Make the earlier chart."""
    shutil.copytree(earlier.chart, place)
    set_release(place, "0.0.9", earlier.image)
    values = place / "values.yaml"
    values.write_text(values.read_text().replace("  manage: true\n", "  manage: false\n"))
    path = place / f"crds/wesher.dev_{_MESHES.partition('.')[0]}.yaml"
    definition = yaml.safe_load(path.read_text())
    fields = _spec_of(definition)
    fields[_FORMER_FIELD] = {"type": "string"}
    path.write_text(yaml.safe_dump(definition))
    return place


def _look(running: Cluster, mesh: Mesh) -> Seen:
    objects = [running.api.get("wmesh", mesh.name), *mesh.weshernodes()]
    return Seen(
        uids={each["metadata"]["name"]: each["metadata"]["uid"] for each in objects},
        key=mesh.status()["key"]["id"],
        networks={name: _network_of(node, mesh) for name, node in running.nodes.items()},
        agents=frozenset(agent["metadata"]["uid"] for agent in mesh.agents().values()),
        images=_images(mesh),
        fields=frozenset(_spec_of(running.api.get("crd", _MESHES))),
        identity=mesh.status().get("identity"),
        certificates={
            (node, name): (entry["state"], entry.get("uncertified", "unknown"))
            for node in running.nodes
            for name, entry in mesh.members_on(node).items()
        },
    )


def _images(mesh: Mesh) -> frozenset[str]:
    return frozenset(agent["spec"]["containers"][0]["image"] for agent in mesh.agents().values())


def _spec_of(definition: dict[str, Any]) -> dict[str, Any]:
    (version,) = definition["spec"]["versions"]
    fields: dict[str, Any] = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    return fields


def _network_of(node: Node, mesh: Mesh) -> dict[str, Any]:
    """Return a node's device as its users know it: by its index, which a new one would not have."""
    (link,) = json.loads(node.host.run(["ip", "-json", "address", "show", "dev", mesh.interface]).stdout)
    routes = json.loads(node.host.run(["ip", "-json", "route", "show", "dev", mesh.interface]).stdout)
    return {
        "index": link["ifindex"],
        "mtu": link["mtu"],
        "addresses": [each["local"] for each in link["addr_info"] if each["family"] == "inet"],
        "routes": sorted(route["dst"] for route in routes),
    }
