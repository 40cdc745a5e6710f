"""Edits of a running mesh as real kubelets show them; ``tests/agent/test_live_edits.py`` has all fields."""

from __future__ import annotations

import json
from typing import Any

import pytest

from wesher_common.mesh_document import MeshDocument
from wesher_testing.cluster.installation import NAMESPACE, Mesh
from wesher_testing.cluster.kubelets import Cluster
from wesher_testing.cluster.operator_process import eventually
from wesher_testing.lab.pings import Pinging
from wesher_testing.run.machine_load import stretched

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]

_DOWN_SECONDS = 3.0
"""The longest that an edit may keep a pair from reaching each other."""
_SETTLED_SECONDS = 120.0


@pytest.mark.parametrize(
    ("section", "field", "values"),
    [
        ("gossip", "profile", ["LAN", "WAN"]),
        ("wireguard", "port", [51999, 51820]),
        ("wireguard", "interface", ["wgother", "wgoverlay"]),
    ],
)
def test_an_edit_takes_effect_on_every_node_and_keeps_no_pair_apart(
    running: Cluster, mesh: Mesh, section: str, field: str, values: list[Any]
) -> None:
    before = _containers(mesh)
    with Pinging(running.nodes, mesh.addresses()) as pinging:
        for value in values:
            change = json.dumps({"spec": {section: {field: value}}})
            running.api.kubectl("patch", "wmesh", mesh.name, "--type=merge", f"--patch={change}")
            eventually(lambda v=value: _has(running, mesh, section, field, v), within=_SETTLED_SECONDS)  # type: ignore[misc]
    assert max(pinging.outages.values()) <= stretched(_DOWN_SECONDS), pinging.outages
    assert _containers(mesh) == before
    if field == "interface":
        for node in running.nodes.values():
            assert values[0] not in node.run(["ip", "-brief", "link"]).stdout
            assert values[0] not in node.run(["ip", "route"]).stdout
            assert values[0] not in node.run(["ls", "/var/lib/wesher"]).stdout
            assert values[0] not in node.run(["cat", "/etc/hosts"]).stdout


def _has(running: Cluster, mesh: Mesh, section: str, field: str, value: Any) -> bool:
    """Tell whether a mesh is Ready, and all agents report the configuration with this value."""
    stored = running.api.get("wmesh", mesh.name)
    config = running.api.get("configmap", f"{mesh.name}-config", f"--namespace={NAMESPACE}")
    document = MeshDocument.from_json(config["data"]["mesh.json"])
    hashes = {node.get("status", {}).get("configHash") for node in mesh.weshernodes()}
    return (
        stored["status"]["observedGeneration"] == stored["metadata"]["generation"]
        and document.to_dict()[section][field] == value
        and hashes == {document.config_hash}
        and mesh.condition("Ready")["status"] == "True"
    )


def _containers(mesh: Mesh) -> dict[str, tuple[str, int]]:
    """Return each node's pod, and how often its agent was started again."""
    return {
        name: (pod["metadata"]["uid"], pod["status"]["containerStatuses"][0]["restartCount"])
        for name, pod in mesh.agents().items()
    }
