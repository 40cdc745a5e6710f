"""``helm upgrade`` from an earlier chart, by Helm 4: what stays, what is new, and what its users feel.

There is no earlier release yet, so one is made of this: with a lower version, agents
from an image of another name, and a CustomResourceDefinition that lacks a field, has
one that is no more, and is left alone by that release's operator.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from wesher_testing.cluster.helm import CHART
from wesher_testing.cluster.image import Image
from wesher_testing.cluster.installation import NAMESPACE, Mesh, install, uninstall, upgrade
from wesher_testing.cluster.kubelets import Cluster, Node
from wesher_testing.cluster.operator_process import eventually
from wesher_testing.lab.pings import Pinging
from wesher_testing.run.machine_load import share_of_a_core

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]

_MESHES = "weshermeshes.wesher.dev"
_LONGEST_OUTAGE = 3.0
"""Seconds that a node is out of reach at most while its user-space WireGuard is exchanged with its agent."""
_NEW_FIELD, _FORMER_FIELD = "etcHosts", "colour"


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


@dataclass(frozen=True, slots=True)
class Upgraded:
    """An upgrade, before and after, and the longest time without an answer of each pair."""

    before: Seen
    after: Seen
    outages: Mapping[tuple[str, str], float]
    share: float
    """What of a core each runnable process had: a busy machine starts a container slowly."""


@pytest.fixture(scope="module")
def upgraded(
    running: Cluster, installed: Mesh, image: Image, tmp_path_factory: pytest.TempPathFactory
) -> Upgraded:
    """Install the earlier chart in place of this one, then upgrade under pings between all nodes."""
    mesh = installed
    uninstall(running, version=4)
    running.api.kubectl("delete", "crd", _MESHES, "weshernodes.wesher.dev")
    earlier = _earlier_chart(tmp_path_factory.mktemp("earlier") / "wesher")
    earlier_image = running.tag(image, f"{image.name}-earlier")
    running.tag(image.operator, earlier_image.operator.name)
    install(running, earlier_image, "--set", "crds.manage=false", version=4, chart=earlier)
    mesh.wait_until_ready()
    mesh.wait_for_all_pings()  # then every node has its routes to all others
    before = _look(running, mesh)

    with Pinging(running.nodes, mesh.addresses()) as pinging:
        upgrade(running, image, version=4)
        eventually(lambda: _images(mesh), within=240, until=lambda images: earlier_image.name not in images)
        running.repeat(
            *("rollout", "status", f"daemonset/{mesh.name}-agent", f"--namespace={NAMESPACE}"),
            "--timeout=10s",
        )
        mesh.wait_until_ready()
        mesh.wait_for_all_pings()
    return Upgraded(before, _look(running, mesh), pinging.outages, share_of_a_core())


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


def test_a_node_is_out_of_reach_only_while_its_agent_starts(
    upgraded: Upgraded, capsys: pytest.CaptureFixture[str]
) -> None:
    """One after the other: the next goes when the former's agent has reached its peers."""
    longest = max(upgraded.outages.values())
    with capsys.disabled():
        sys.stdout.write(
            f"\n  longest outage in user space: {longest:.1f} s, of a core: {upgraded.share:.0%}"
        )
    assert longest < _LONGEST_OUTAGE / upgraded.share


def _earlier_chart(place: Path) -> Path:
    """Make the earlier chart."""
    shutil.copytree(CHART, place)
    about = yaml.safe_load((place / "Chart.yaml").read_text())
    (place / "Chart.yaml").write_text(yaml.safe_dump(about | {"version": "0.0.9", "appVersion": "0.0.9"}))
    path = place / f"crds/wesher.dev_{_MESHES.partition('.')[0]}.yaml"
    definition = yaml.safe_load(path.read_text())
    fields = _spec_of(definition)
    fields[_FORMER_FIELD] = {"type": "string"}
    del fields[_NEW_FIELD]
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
