"""What of an earlier run counts for the next one in Kubernetes."""

from __future__ import annotations

import base64
import json
from contextlib import AsyncExitStack
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

from wesher_agent.cli.commands import agent_settings
from wesher_agent.files.state_format import render_state
from wesher_agent.mesh.roster import SavedMember
from wesher_agent.mesh.saved_state import SavedState
from wesher_agent.runtime.startup import Startup, start_up
from wesher_agent.swim.address import Address
from wesher_agent.swim.tombstones import Tombstone
from wesher_common.keys import ClusterKey, KeyRing, WireGuardPrivateKey
from wesher_common.mesh_document import MeshDocument
from wesher_testing.agents.mounted_files import KUBECONFIG

MESH = {
    "version": 1,
    "name": "m",
    "uid": "u-1",
    "overlayCIDR": "10.99.0.0/16",
    "wireguard": {"interface": "wgbegin"},
}
ELSEWHERE = Address("192.0.2.7", 7946)
SAVED = SavedState(
    key_ring=KeyRing(ClusterKey(b"k" * 32)),
    private_key=WireGuardPrivateKey.from_random(b"p" * 32),
    nodes=(SavedMember(name="b", address=ELSEWHERE, raw_meta=b""),),
    tombstones=(Tombstone(name="c", incarnation=7, address=ELSEWHERE),),
    name="a",
    overlay_address=ip_address("10.99.0.10"),
    location="east",
    incarnation=5,
    mesh=MeshDocument.from_json(json.dumps(MESH)),
)


async def begun(directory: Path, saved: SavedState) -> Startup:
    """Begin in a mesh with uid u-1, with no API server to ask."""
    (directory / "mesh.json").write_text(json.dumps(MESH))
    (directory / "cluster-key").write_text(base64.b64encode(bytes(32)).decode())
    (directory / "kubeconfig").write_text(json.dumps(KUBECONFIG))
    (directory / "wgbegin.json").write_text(render_state(saved))
    flags = [f"--kubernetes={directory}", f"--kubeconfig={directory / 'kubeconfig'}"]
    settings = agent_settings([*flags, f"--state-dir={directory}", "--node-name=a"], {})
    async with AsyncExitStack() as held:
        return await start_up(settings, held)


async def test_without_an_api_server_all_that_was_known_of_the_mesh_counts(tmp_path: Path) -> None:
    begin = await begun(tmp_path, SAVED)
    assert (begin.saved.nodes, begin.saved.tombstones) == (SAVED.nodes, SAVED.tombstones)
    local = begin.local.with_first_address(begin.saved)
    assert (local.overlay_address, local.location) == (ip_address("10.99.0.10"), "east")


async def test_of_another_mesh_nobody_is_expected_and_nothing_taken_over_but_what_is_this_machine_s(
    tmp_path: Path,
) -> None:
    """A mesh is made anew to change what cannot be changed, under its former name and interface."""
    assert SAVED.mesh is not None
    begin = await begun(tmp_path, replace(SAVED, mesh=replace(SAVED.mesh, uid="u-0")))
    assert begin.saved == SavedState(private_key=SAVED.private_key, incarnation=SAVED.incarnation)
    local = begin.local.with_first_address(begin.saved)
    assert (local.overlay_address, local.location) == (None, "")
    assert local.private_key == SAVED.private_key
