"""What of an earlier run counts for the next one in Kubernetes."""

from __future__ import annotations

import base64
import json
import os
import socket
from contextlib import AsyncExitStack
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from wesher_agent.cli.commands import agent_settings
from wesher_agent.files.state_format import render_state
from wesher_agent.mesh.host import HostNetwork
from wesher_agent.mesh.roster import SavedMember
from wesher_agent.mesh.saved_state import SavedState
from wesher_agent.netlink.errors import WireGuardUnavailable
from wesher_agent.netlink.host import look_at_host
from wesher_agent.runtime import startup
from wesher_agent.runtime.claim import claim_interface
from wesher_agent.runtime.startup import Startup, start_up
from wesher_agent.swim.address import Address
from wesher_agent.swim.tombstones import Tombstone
from wesher_agent.wireguard import device
from wesher_common.errors import InvalidSpec
from wesher_common.keys import ClusterKey, KeyRing, WireGuardPrivateKey
from wesher_common.mesh_document import MeshDocument
from wesher_common.overlay import IPAddress
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


async def begun(directory: Path, saved: SavedState, **changes: object) -> Startup:
    """Begin in a mesh with uid u-1, with no API server to ask, that was edited since the state was saved."""
    (directory / "mesh.json").write_text(json.dumps(MESH | changes))
    (directory / "cluster-key").write_text(base64.b64encode(bytes(32)).decode())
    (directory / "kubeconfig").write_text(json.dumps(KUBECONFIG))
    (directory / "wgbegin.json").write_text(render_state(saved))
    flags = [f"--kubernetes={directory}", f"--kubeconfig={directory / 'kubeconfig'}"]
    flags += [f"--run-dir={directory}", f"--hosts-file={directory / 'hosts'}"]
    settings = agent_settings([*flags, f"--state-dir={directory}", "--node-name=a"], {})
    async with AsyncExitStack() as held:
        return await start_up(settings, held)


async def test_the_routes_to_the_members_of_an_earlier_run_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[IPAddress] = []

    def look(*arguments: Any, endpoints: list[IPAddress], **options: Any) -> HostNetwork:
        asked.extend(endpoints)
        return look_at_host(*arguments, endpoints=endpoints, **options)

    monkeypatch.setattr(startup, "look_at_host", look)
    await begun(tmp_path, SAVED)
    assert asked == [ip_address(ELSEWHERE.ip)]


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


async def test_a_node_whose_cluster_has_another_name_keeps_its_key_and_address_and_leaves_the_former_name(
    tmp_path: Path,
) -> None:
    saved = replace(SAVED, gossip_address=Address("192.0.2.1", 7946))
    begin = await begun(tmp_path, saved, clusterName="east")
    assert begin.local.name == "a.east"
    assert begin.local.private_key == SAVED.private_key
    local = begin.local.with_first_address(begin.saved)
    assert local.overlay_address == SAVED.overlay_address
    left = {gone.name for gone in begin.saved.tombstones if gone.left}
    assert left == {"a"}


async def test_a_clone_in_a_cluster_of_another_name_does_not_take_the_key_nor_say_that_the_original_left(
    tmp_path: Path,
) -> None:
    begin = await begun(tmp_path, replace(SAVED, name="b"), clusterName="east")
    assert begin.local.private_key != SAVED.private_key
    assert not any(gone.left for gone in begin.saved.tombstones)


OTHER = {"interface": "wgbegin3"}


async def test_a_mesh_whose_interface_has_another_name_goes_on_from_the_former_ones_state(
    tmp_path: Path,
) -> None:
    (tmp_path / "wgbegin.json.previous").write_text(render_state(SAVED))
    begin = await begun(tmp_path, SAVED, wireguard=OTHER)
    assert begin.local.private_key == SAVED.private_key
    assert begin.saved.nodes == SAVED.nodes
    left = {path.name for path in tmp_path.iterdir() if "wgbegin" in path.name}
    assert left == {"wgbegin3.json", "wgbegin3.json.previous", ".wgbegin3.json.lock"}


async def test_another_meshs_state_under_another_interface_is_left_alone(tmp_path: Path) -> None:
    assert SAVED.mesh is not None
    others = replace(SAVED, mesh=replace(SAVED.mesh, uid="u-2"))
    begin = await begun(tmp_path, others, wireguard=OTHER)
    assert begin.saved == SavedState()
    assert (tmp_path / "wgbegin.json").read_text() == render_state(others)


async def test_a_former_interface_on_which_an_agent_runs_is_not_taken_from_it(tmp_path: Path) -> None:
    with claim_interface("wgbegin"), pytest.raises(InvalidSpec, match="used by another agent"):
        await begun(tmp_path, SAVED, wireguard=OTHER)
    assert (tmp_path / "wgbegin.json").read_text() == render_state(SAVED)


async def test_a_former_device_that_cannot_be_removed_now_is_tried_again_by_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It would keep this node's overlay address and the routes to all peers, and nobody would know of it."""
    caplog.set_level("INFO")

    def busy(interface: str) -> str:
        raise WireGuardUnavailable(f"could not query {interface}: No buffer space available")

    with monkeypatch.context() as patched:
        patched.setattr(device, "link_kind", busy)
        with pytest.raises(
            InvalidSpec, match=r"the former interface 'wgbegin': cannot be removed: could not"
        ):
            await begun(tmp_path, SAVED, wireguard=OTHER)
    assert (tmp_path / "wgbegin.json").read_text() == render_state(SAVED)
    assert "former interface removed" not in caplog.text
    begin = await begun(tmp_path, SAVED, wireguard=OTHER)
    assert begin.local.private_key == SAVED.private_key
    assert "former interface removed" in caplog.text


KEY = ClusterKey(b"g" * 32).reveal_base64()
TO_GO_ON = "restore the file, give the key with --cluster-key-file, or start a new mesh with --init"
DAMAGED = {"": "is empty", "{": "is not JSON (", "[]": "must be a JSON object", "{}": "holds no cluster key"}


async def begun_outside(directory: Path, *flags: str, name: str = "a") -> Startup:
    """Begin outside Kubernetes; without a name, under the host's."""
    where = [f"--state-dir={directory}", f"--run-dir={directory}", "--bind-addr=127.0.0.1"]
    async with AsyncExitStack() as held:
        settings = agent_settings(
            [*where, "--interface=wgbegin2", *flags], {"WESHER_NODE_NAME": name} if name else {}
        )
        return await start_up(settings, held)


@pytest.mark.parametrize("name", ["wgbegin2.json", "state.json"])
@pytest.mark.parametrize("content", DAMAGED)
async def test_a_state_file_without_a_cluster_key_does_not_found_a_new_mesh(
    tmp_path: Path, content: str, name: str
) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(InvalidSpec) as error:
        await begun_outside(tmp_path)
    assert str(error.value).startswith(f"state file '{path}': {DAMAGED[content]}")
    assert str(error.value).endswith(f", so this mesh's cluster key is unknown: {TO_GO_ON}")
    assert path.read_text() == content


@pytest.mark.parametrize("how", ["--init", f"--cluster-key={KEY}", "--cluster-key-file"])
async def test_with_a_key_or_a_new_mesh_asked_for_a_damaged_state_file_is_no_reason_to_stop(
    tmp_path: Path, how: str
) -> None:
    (tmp_path / "wgbegin2.json").write_text("{")
    (tmp_path / "key").write_text(KEY)
    begin = await begun_outside(tmp_path, f"{how}={tmp_path / 'key'}" if how.endswith("file") else how)
    assert begin.key_is_new == (how == "--init")
    assert (tmp_path / "wgbegin2.json.corrupt-1").read_text() == "{"


async def test_in_kubernetes_the_mounted_ring_is_enough(tmp_path: Path) -> None:
    begin = await begun(tmp_path, SavedState())
    assert begin.local.ring == KeyRing(ClusterKey(bytes(32)))


async def test_a_key_that_is_in_the_previous_generation_is_used(tmp_path: Path) -> None:
    (tmp_path / "wgbegin2.json").write_text("")
    (tmp_path / "wgbegin2.json.previous").write_text(render_state(SAVED))
    begin = await begun_outside(tmp_path)
    assert (begin.local.ring, begin.key_is_new) == (SAVED.key_ring, False)


@pytest.mark.parametrize("name", ["wgbegin2.json", "key"])
async def test_a_fifo_as_state_or_key_file_is_refused_at_once(tmp_path: Path, name: str) -> None:
    """Opened in the usual way it would wait for a writer, deaf to signals."""
    os.mkfifo(tmp_path / name)
    flags = [f"--cluster-key-file={tmp_path / 'key'}"] if name == "key" else [f"--cluster-key={KEY}"]
    with pytest.raises(InvalidSpec, match=r"is a FIFO, not a regular file"):
        await begun_outside(tmp_path, *flags)


@pytest.mark.parametrize("how", ["--node-name=a", "--init"])
async def test_under_another_name_a_machine_has_another_wireguard_key_and_the_same_cluster_key(
    tmp_path: Path, how: str
) -> None:
    """It is a clone of the machine with that name, which runs on with the key."""
    (tmp_path / "wgbegin2.json").write_text(render_state(replace(SAVED, name="b")))
    begin = await begun_outside(tmp_path, how)
    assert SAVED.private_key is not None
    assert begin.local.private_key.public != SAVED.private_key.public
    assert (begin.local.ring == SAVED.key_ring) == (how != "--init")


@pytest.mark.parametrize("name", ["a", ""])
async def test_under_the_same_name_or_after_go_the_saved_wireguard_key_is_used(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / "wgbegin2.json").write_text(render_state(replace(SAVED, name=name)))
    begin = await begun_outside(tmp_path)
    assert begin.local.private_key == SAVED.private_key


async def test_a_clone_that_moves_to_another_mesh_has_another_wireguard_key_too(tmp_path: Path) -> None:
    assert SAVED.mesh is not None
    begin = await begun(tmp_path, replace(SAVED, name="b", mesh=replace(SAVED.mesh, uid="u-0")))
    assert begin.local.private_key != SAVED.private_key


@pytest.mark.parametrize(
    ("host_name", "count"), [("localhost.localdomain", 1), ("10.0.0.5", 1), ("a", 0), ("127.0.0.1", 0)]
)
async def test_an_image_without_a_hostname_starts_and_is_told_what_it_lacks(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    host_name: str,
    count: int,
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: host_name)
    begin = await begun_outside(tmp_path, name="")
    assert begin.local.name == host_name
    warning = (
        f"other members write no hosts entry for this node: set a hostname or --node-name node={host_name}"
    )
    assert [warning in message for message in caplog.messages].count(True) == count
