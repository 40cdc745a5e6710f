"""The state file: what survives a restart, and what a broken file costs."""

import base64
import json
import os
import re
import stat
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from wesher_agent.files.atomic import CannotWrite
from wesher_agent.files.state import StateFile
from wesher_agent.files.state_format import parse_state, render_state
from wesher_agent.mesh.device import Endpoint
from wesher_agent.mesh.former_addresses import FormerAddress
from wesher_agent.mesh.identity import SavedTrust
from wesher_agent.mesh.roster import SavedMember
from wesher_agent.mesh.saved_state import SavedState
from wesher_agent.swim.address import Address
from wesher_agent.swim.tombstones import Tombstone
from wesher_common.certificate import Authority, Subject, name_hash
from wesher_common.errors import InvalidSpec
from wesher_common.keys import ClusterKey, KeyRing, WireGuardPrivateKey, WireGuardPublicKey
from wesher_common.mesh_document import MeshDocument
from wesher_common.news import sign_statement
from wesher_testing.lab.mount_namespace import run_with_own_mounts
from wesher_testing.virtual.members import meta, private_key

KEY = ClusterKey(bytes(range(32)))
AUTHORITY = Authority(bytes(range(3, 35)))
NODE = SavedMember(
    name="b",
    address=Address("192.0.2.2", 7947),
    raw_meta=meta("b").encode(),
    away=12.5,
    incarnation=1_800_000_002,
)
FULL = SavedState(
    key_ring=KeyRing(KEY, (ClusterKey(bytes(range(1, 33))),)),
    nodes=(NODE, SavedMember(name="c", address=Address("2001:db8::3", 7946), raw_meta=b"")),
    private_key=WireGuardPrivateKey.from_random(bytes(range(2, 34))),
    name="a",
    gossip_address=Address("192.0.2.1", 7946),
    overlay_address=ip_address("10.189.0.7"),
    advertise_address=ip_address("198.51.100.7"),
    location="west",
    routes=(ip_network("10.244.1.0/24"), ip_network("2001:db8:1::/64")),
    certificate=AUTHORITY.issue(
        Subject(name="a", public_key=private_key("a").public, address=ip_address("10.189.0.7")),
        serial=1_790_000_000_000,
    ),
    trust=(
        SavedTrust(
            AUTHORITY.key,
            1_790_000_000_001,
            {name_hash("d"): 1_789_000_000_000, name_hash("e"): 1_790_000_000_000},
            sign_statement(
                AUTHORITY, number=1_790_000_000_001, revoked={name_hash("e"): 1_790_000_000}
            ).packed(),
        ),
        SavedTrust(Authority(bytes(32)).key, 7),
    ),
    incarnation=1_800_000_000,
    tombstones=(
        Tombstone(name="d", incarnation=7, address=Address("192.0.2.4", 7946), age=3600.5, left=True),
        Tombstone(name="e.west", incarnation=1_800_000_001, address=Address("2001:db8::5", 7947)),
    ),
    endpoints={
        WireGuardPublicKey(bytes([2]) * 32): Endpoint(ip_address("192.0.2.2"), 51820),
        WireGuardPublicKey(bytes([3]) * 32): Endpoint(ip_address("2001:db8::3"), 65535),
    },
    former_addresses=(
        FormerAddress(ip_address("10.189.0.9"), 3600.5),
        FormerAddress(ip_address("fd42::9")),
    ),
    carried=frozenset({ip_network("192.0.2.7/32"), ip_network("10.244.1.0/24")}),
    mesh=MeshDocument(
        name="prod", uid="u-1", overlay=ip_network("10.189.0.0/16"), allocation=ip_network("10.189.0.0/16")
    ),
    unknown={"Newer": [{"Name": "d"}]},
)
# As wesher 0.3 writes it (cluster/state.go), save for the shortened Meta.
GO_STATE = """{
  "ClusterKey": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
  "Nodes": [
    {
      "Name": "b",
      "Addr": "192.0.2.2",
      "Meta": "MX8D",
      "OverlayAddr": "",
      "PubKey": ""
    },
    {
      "Name": "c",
      "Addr": "2001:db8::3",
      "Meta": null,
      "OverlayAddr": "",
      "PubKey": ""
    }
  ]
}"""


def state_file(path: Path) -> StateFile:
    return StateFile(path, gossip_port=7946)


def changed(**changes: Any) -> bytes:
    return json.dumps({**json.loads(render_state(FULL)), **changes}).encode()


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    file = state_file(tmp_path / "wgoverlay.json")
    file.save(FULL)
    loaded = file.load()
    assert (loaded.state, loaded.warnings) == (FULL, ())


def test_an_empty_state_is_saved_and_loaded(tmp_path: Path) -> None:
    file = state_file(tmp_path / "wgoverlay.json")
    file.save(SavedState())
    assert file.load().state == SavedState()


def test_without_a_file_it_starts_empty(tmp_path: Path) -> None:
    loaded = state_file(tmp_path / "wgoverlay.json").load()
    assert (loaded.state, loaded.warnings) == (SavedState(), ())


def test_file_and_directory_are_closed_to_others(tmp_path: Path) -> None:
    path = tmp_path / "wesher" / "wgoverlay.json"
    state_file(path).save(FULL)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_file_open_to_others_is_closed_at_the_next_save(tmp_path: Path) -> None:
    path = tmp_path / "wgoverlay.json"
    path.write_text("{}")
    path.chmod(0o644)
    state_file(path).save(FULL)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_gos_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "wgoverlay.json"
    path.write_text(GO_STATE)
    loaded = StateFile(path, gossip_port=8000).load()
    assert loaded.warnings == ()
    assert loaded.state == SavedState(
        key_ring=KeyRing(KEY),
        nodes=(
            SavedMember(name="b", address=Address("192.0.2.2", 8000), raw_meta=bytes([0x31, 0x7F, 3])),
            SavedMember(name="c", address=Address("2001:db8::3", 8000), raw_meta=b""),
        ),
    )


def test_a_go_node_finds_its_fields_in_ours() -> None:
    content = json.loads(render_state(FULL))
    assert base64.b64decode(content["ClusterKey"]) == KEY.secret
    first = content["Nodes"][0]
    assert (first["Name"], first["Addr"], base64.b64decode(first["Meta"])) == (
        "b",
        "192.0.2.2",
        NODE.raw_meta,
    )
    assert (first["OverlayAddr"], first["PubKey"]) == ("", "")


def test_no_key_of_ours_is_one_of_gos_in_another_case() -> None:
    """encoding/json matches names without regard to case, so such a key would be read as Go's."""
    content = json.loads(render_state(FULL))
    for level in (content, content["Nodes"][0], content["Tombstones"][0], content["FormerAddresses"][0]):
        assert len({key.lower() for key in level}) == len(level)
    assert {"name", "addr", "meta", "overlayaddr", "pubkey"} == {
        key.lower() for key in content["Nodes"][0]
    } - {
        "port",
        "away",
        "incarnation",
        "left",
    }


def test_the_file_of_wesher_before_0_3_is_read_when_there_is_no_other(tmp_path: Path) -> None:
    former = tmp_path / "state.json"
    former.write_text(GO_STATE)
    file = state_file(tmp_path / "wgoverlay.json")
    assert file.load().state.key_ring == KeyRing(KEY)
    file.save(FULL)
    assert file.load().state == FULL
    assert former.read_text() == GO_STATE


def test_keys_of_another_release_are_kept(tmp_path: Path) -> None:
    file = state_file(tmp_path / "wgoverlay.json")
    file.save(FULL)
    file.save(file.load().state)
    assert json.loads((tmp_path / "wgoverlay.json").read_text())["Newer"] == [{"Name": "d"}]


def test_a_state_shows_no_secret() -> None:
    shown = repr(FULL)
    for secret in (KEY.reveal_base64(), FULL.private_key.reveal_base64() if FULL.private_key else ""):
        assert secret not in shown
    assert "Newer" not in shown
    assert str(KEY.secret) not in shown


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"null", b"[" * 100_000, b'"x"'])
def test_a_file_that_is_no_state_is_set_aside_and_not_overwritten(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "wgoverlay.json"
    path.write_bytes(content)
    file = state_file(path)
    loaded = file.load()
    assert loaded.state == SavedState()
    assert len(loaded.warnings) == 2
    assert loaded.warnings[1] == f"a copy of {path} is in {path}.corrupt-1"
    file.save(FULL)
    aside = tmp_path / "wgoverlay.json.corrupt-1"
    assert (aside.read_bytes(), stat.S_IMODE(aside.stat().st_mode)) == (content, 0o600)
    assert state_file(path).load().state == FULL


def test_each_broken_file_is_set_aside_once(tmp_path: Path) -> None:
    path = tmp_path / "wgoverlay.json"
    for content in (b"one", b"one", b"two"):
        path.write_bytes(content)
        state_file(path).load()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [
        "wgoverlay.json",
        "wgoverlay.json.corrupt-1",
        "wgoverlay.json.corrupt-2",
    ]


TRUST = {"Key": str(AUTHORITY.key), "Newest": 7}
GRAVE = {"Name": "d", "Incarnation": 7, "Addr": "192.0.2.4"}
BAD_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"ClusterKey": "c2hvcnQ="}, "ClusterKey: must decode to exactly 32 bytes, not 5"),
    ({"ClusterKey": "!"}, "ClusterKey: must be standard base64 of 32 bytes"),
    ({"ClusterKey": 5}, "ClusterKey: must be a string"),
    ({"AcceptedKeys": ["c2hvcnQ="]}, "AcceptedKeys[0]: must decode to exactly 32 bytes, not 5"),
    ({"AcceptedKeys": "x"}, "AcceptedKeys: must be a list"),
    ({"PrivateKey": "c2hvcnQ="}, "PrivateKey: must decode to exactly 32 bytes, not 5"),
    ({"PrivateKey": []}, "PrivateKey: must be a string"),
    ({"Name": 5}, "Name: must be a string"),
    ({"GossipAddress": "b:7946"}, "GossipAddress 'b:7946': must be an IP address and a port"),
    ({"GossipAddress": "10.0.0.1"}, "GossipAddress '10.0.0.1': must be an IP address and a port"),
    ({"OverlayAddress": "10.0.0"}, "OverlayAddress '10.0.0': must be an IP address"),
    ({"AdvertiseAddress": "gate"}, "AdvertiseAddress 'gate': must be an IP address"),
    ({"Location": 7}, "Location: must be a string"),
    ({"Certificate": "-"}, "Certificate: must be standard base64"),
    ({"Certificate": "AAAA"}, "Certificate: must be a certificate"),
    ({"Authorities": [{"Key": "AAAA"}]}, "Authorities[0].Key: must decode to exactly 32 bytes, not 3"),
    (
        {"Authorities": [{"Key": base64.b64encode(bytes(32)).decode(), "Newest": -1}]},
        "Authorities[0].Newest '-1': must be a whole number from 0 to 281474976710655",
    ),
    (
        {"Authorities": [TRUST | {"Revoked": {"x": 1}}]},
        "Authorities[0].Revoked 'x': must have the hashes of names in hexadecimal",
    ),
    (
        {"Authorities": [TRUST | {"Revoked": {"00": -1}}]},
        "Authorities[0].Revoked.00 '-1': must be a whole number from 0 to 281474976710655",
    ),
    ({"Authorities": [TRUST | {"Revoked": []}]}, "Authorities[0].Revoked: must be a JSON object"),
    ({"Authorities": [TRUST | {"Statement": "-"}]}, "Authorities[0].Statement: must be standard base64"),
    (
        {"Authorities": [TRUST | {"Statement": "AAAA"}]},
        "Authorities[0].Statement: must be a statement of this authority",
    ),
    ({"Routes": "10.0.0.0/8"}, "Routes: must be a list"),
    ({"Routes": ["10.0.0.0/8", "10.0.0.1/8"]}, "Routes[1] '10.0.0.1/8': must be a network"),
    ({"Incarnation": -1}, "Incarnation '-1': must be a whole number from 0 to 4294967295"),
    ({"Incarnation": 2**32}, "Incarnation '4294967296': must be a whole number from 0 to 4294967295"),
    ({"Incarnation": True}, "Incarnation 'True': must be a whole number from 0 to 4294967295"),
    (
        {"Mesh": {"version": 2}},
        "Mesh: mesh.json version: this agent supports version 1: use the same release of agent and operator",
    ),
    ({"Mesh": "x"}, "Mesh: mesh.json: must be a JSON object"),
    ({"Joined": 7}, "Joined: join file: must be a JSON object"),
    (
        {"Joined": {"version": 1, "mesh": {"name": "prod"}}},
        "Joined: join file name: must be a string",
    ),
    ({"RingNumber": -1}, "RingNumber '-1': must be a number of seconds"),
    ({"Nodes": {}}, "Nodes: must be a list"),
    ({"Nodes": ["b"]}, "Nodes[0]: must be a JSON object"),
    ({"Nodes": [{"Addr": "192.0.2.2"}]}, "Nodes[0].Name: must be a string"),
    ({"Nodes": [{"Name": "", "Addr": "192.0.2.2"}]}, "Nodes[0].Name: must not be empty"),
    ({"Nodes": [{"Name": "b"}]}, "Nodes[0].Addr: must be a string"),
    ({"Nodes": [{"Name": "b", "Addr": "x"}]}, "Nodes[0].Addr 'x': must be an IP address"),
    (
        {"Nodes": [{"Name": "b", "Addr": "0.0.0.0"}]},
        "Nodes[0].Addr '0.0.0.0': must be one machine's address",
    ),
    (
        {"Nodes": [{"Name": "b", "Addr": "192.0.2.2", "Port": 0}]},
        "Nodes[0].Port '0': must be a number from 1 to 65535",
    ),
    (
        {"Nodes": [{"Name": "b", "Addr": "192.0.2.2", "Port": "x"}]},
        "Nodes[0].Port 'x': must be a number from 1 to 65535",
    ),
    (
        {"Nodes": [{"Name": "b", "Addr": "192.0.2.2", "Meta": "!"}]},
        "Nodes[0].Meta: must be standard base64",
    ),
    ({"Nodes": [{"Name": "b", "Addr": "192.0.2.2", "Meta": 5}]}, "Nodes[0].Meta: must be a string"),
    (
        {"Nodes": [{"Name": "b", "Addr": "192.0.2.2", "Away": -1}]},
        "Nodes[0].Away '-1': must be a number of seconds",
    ),
    (
        {"Nodes": [{"Name": "b", "Addr": "192.0.2.2", "Away": 10**400}]},
        f"Nodes[0].Away '{'1'.ljust(300, '0')}'…: must be a number of seconds",
    ),
    (
        {"Nodes": [{"Name": "b", "Addr": "192.0.2.2", "Away": float("inf")}]},
        "Nodes[0].Away 'inf': must be a number of seconds",
    ),
    (
        {"Nodes": [{"Name": "b", "Addr": "192.0.2.2", "Away": float("nan")}]},
        "Nodes[0].Away 'nan': must be a number of seconds",
    ),
    ({"Endpoints": [7]}, "Endpoints[0]: must be a JSON object"),
    ({"Endpoints": [{"Key": "short"}]}, "Endpoints[0].Key: must be standard base64 of 32 bytes"),
    (
        {"Endpoints": [{"Key": "A" * 43 + "=", "Addr": "0.0.0.0", "Port": 1}]},
        "Endpoints[0].Addr '0.0.0.0': must be one machine's address",
    ),
    (
        {"Endpoints": [{"Key": "A" * 43 + "=", "Addr": "192.0.2.2", "Port": 0}]},
        "Endpoints[0].Port '0': must be a number from 1 to 65535",
    ),
    (
        {"Endpoints": [{"Key": "A" * 43 + "=", "Addr": "192.0.2.2"}]},
        "Endpoints[0].Port: must be a number from 1 to 65535",
    ),
    (
        {"Nodes": [{"Name": "b", "Addr": "192.0.2.2", "Left": "yes"}]},
        "Nodes[0].Left 'yes': must be true or false",
    ),
    ({"Carried": ["192.0.2.7/24"]}, "Carried[0] '192.0.2.7/24': must be a network"),
    ({"FormerAddresses": [7]}, "FormerAddresses[0]: must be a JSON object"),
    (
        {"FormerAddresses": [{"Address": "x"}]},
        "FormerAddresses[0].Address 'x': must be an IP address",
    ),
    (
        {"FormerAddresses": [{"Address": "10.189.0.9", "Age": -1}]},
        "FormerAddresses[0].Age '-1': must be a number of seconds",
    ),
    ({"Tombstones": {}}, "Tombstones: must be a list"),
    (
        {"Tombstones": [GRAVE | {"Name": "two words"}]},
        "Tombstones[0].Name 'two words': must be a member's name",
    ),
    (
        {"Tombstones": [GRAVE | {"Incarnation": None}]},
        "Tombstones[0].Incarnation: must be a whole number from 0 to 4294967295",
    ),
    ({"Tombstones": [GRAVE | {"Addr": "x"}]}, "Tombstones[0].Addr 'x': must be an IP address"),
    (
        {"Tombstones": [GRAVE | {"Port": 70000}]},
        "Tombstones[0].Port '70000': must be a number from 1 to 65535",
    ),
    (
        {"Tombstones": [GRAVE | {"Age": "old"}]},
        "Tombstones[0].Age 'old': must be a number of seconds",
    ),
    (
        {"Tombstones": [GRAVE | {"Left": "no"}]},
        "Tombstones[0].Left 'no': must be true or false",
    ),
    (
        {"Nodes": [{"Name": "b", "Addr": "192.0.2.2", "Incarnation": -1}]},
        "Nodes[0].Incarnation '-1': must be a whole number from 0 to 4294967295",
    ),
]
"""What may stand in the file's place of a good value, and the one line it costs."""
UNREAD = {"OverlayAddr", "PubKey"}
"""Go's fields of a node that it leaves empty itself."""


def test_every_field_of_the_file_has_a_bad_value_above() -> None:
    written = json.loads(render_state(FULL))
    tried = {key for changes, _ in BAD_FIELDS for key in changes}
    assert written.keys() - FULL.unknown.keys() - tried == set()
    problems = " ".join(problem for _, problem in BAD_FIELDS)
    inside = [f"Nodes[0].{key}" for key in written["Nodes"][0].keys() - UNREAD]
    inside += [f"Tombstones[0].{key}" for key in written["Tombstones"][0]]
    inside += [f"Authorities[0].{key}" for key in written["Authorities"][0]]
    assert [at for at in inside if at not in problems] == []


def test_what_is_damaged_of_an_authority_costs_nothing_else_of_it() -> None:
    """A lost revocation would make a void certificate count again."""
    [known, _] = json.loads(render_state(FULL))["Authorities"]
    whole = FULL.trust[0]
    for damage, left in (
        ({"Newest": "x"}, replace(whole, newest=0)),
        ({"Revoked": "x"}, replace(whole, revoked={})),
        ({"Statement": "AAAA"}, replace(whole, statement=b"")),
    ):
        state, problems = parse_state(changed(Authorities=[known | damage]), gossip_port=7946)
        assert state.trust == (left,)
        assert len(problems) == 1


@pytest.mark.parametrize(("changes", "problem"), BAD_FIELDS)
def test_a_bad_field_is_named_and_the_others_are_used(changes: dict[str, Any], problem: str) -> None:
    state, problems = parse_state(changed(**changes), gossip_port=7946)
    assert problems == [problem]
    if "PrivateKey" not in changes:
        assert state.private_key == FULL.private_key
    if "ClusterKey" not in changes and "AcceptedKeys" not in changes:
        assert state.key_ring == FULL.key_ring
    assert state.unknown == FULL.unknown


def test_a_bad_field_sets_the_file_aside_too(tmp_path: Path) -> None:
    """What was in it may be worth more than what is left of it."""
    path = tmp_path / "wgoverlay.json"
    path.write_bytes(changed(PrivateKey="c2hvcnQ="))
    loaded = state_file(path).load()
    assert loaded.warnings == (
        f"{path}: PrivateKey: must decode to exactly 32 bytes, not 5",
        f"a copy of {path} is in {path}.corrupt-1",
    )
    assert loaded.state.key_ring == FULL.key_ring


def test_a_second_agent_on_the_same_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "wesher" / "wgoverlay.json"
    first, second = state_file(path), state_file(path)
    first.lock()
    with pytest.raises(InvalidSpec) as refusal:
        second.lock()
    assert (
        str(refusal.value)
        == f"state file {str(path)!r}: is used by another agent: start one of them with another --interface"
    )
    other = state_file(path.with_name("wg2.json"))
    other.lock()
    first.unlock()
    second.lock()
    second.unlock()
    other.unlock()


def test_what_is_removed_is_gone_with_its_lock(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "wg0.json", gossip_port=7946)
    file.lock()
    (tmp_path / "wg0.json").write_text("{ broken")
    file.load()
    for _ in range(2):
        file.save(FULL)
    assert len([*tmp_path.iterdir()]) == 4
    (tmp_path / "wg1.json").touch()
    file.remove()
    file.remove()  # of nothing there is nothing to say
    file.unlock()
    assert [path.name for path in tmp_path.iterdir()] == ["wg1.json"]


def test_a_file_that_cannot_be_removed_is_said(tmp_path: Path) -> None:
    path = tmp_path / "wg0.json"
    path.mkdir()
    with pytest.raises(CannotWrite, match=re.escape(str(path))):
        StateFile(path, gossip_port=7946).remove()


@pytest.mark.parametrize("stays", ["wg0.json.previous", "wg0.json.corrupt-1"])
def test_the_file_stays_as_long_as_another_with_its_keys_does(tmp_path: Path, stays: str) -> None:
    """Whoever asked to forget the keys is told of it, and how to remove them."""
    (tmp_path / stays).mkdir()
    file = StateFile(tmp_path / "wg0.json", gossip_port=7946)
    file.save(FULL)
    with pytest.raises(CannotWrite, match=re.escape(stays)):
        file.remove()
    assert file.present_path() == tmp_path / "wg0.json"


def test_a_lock_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "wesher").write_text("a file where the directory should be")
    with pytest.raises(CannotWrite, match="could not be written: File exists"):
        state_file(tmp_path / "wesher" / "wgoverlay.json").lock()


@pytest.mark.needs_root
def test_with_a_full_disk_the_old_state_stands_and_a_broken_one_is_not_lost(tmp_path: Path) -> None:
    script = """
        from wesher_agent.files.atomic import CannotWrite
        from wesher_agent.files.state import StateFile
        from wesher_agent.mesh.saved_state import SavedState
        mount("-t", "tmpfs", "-o", "size=16k", "tmpfs", "/mnt")
        path = Path("/mnt/wgoverlay.json")
        path.write_text("{ broken")
        filler = Path("/mnt/filler")
        with filler.open("wb", buffering=0) as file:
            try:
                while file.write(bytes(512)):
                    pass
            except OSError:
                pass
        file = StateFile(path, gossip_port=7946)
        print(*file.load().warnings, sep="\\n")
        try:
            file.save(SavedState(name="a"))
        except CannotWrite as error:
            print(error)
        print(path.read_text())
        filler.unlink()
        file.save(SavedState(name="a"))
        print(file.load().state.name, Path(f"{path}.corrupt-1").read_text())
    """
    full = "/mnt/wgoverlay.json.corrupt-1 could not be written: No space left on device"
    assert run_with_own_mounts(script, tmp_path).splitlines()[1:] == [
        f"{full}; the agent saves no state until this copy can be written",
        full,
        "{ broken",
        "a { broken",
    ]


def state_files(directory: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in directory.iterdir() if not path.name.startswith(".")}


def test_a_file_taken_over_brings_its_previous_generation_and_what_was_set_aside(tmp_path: Path) -> None:
    for name in ("old.json", "old.json.previous", "old.json.corrupt-1"):
        (tmp_path / name).write_text(name)
    former, state = (StateFile(tmp_path / name, gossip_port=7946) for name in ("old.json", "new.json"))
    former.lock()
    state.take_over(former)
    former.unlock()
    assert state_files(tmp_path) == {
        "new.json": "old.json",
        "new.json.previous": "old.json.previous",
        "new.json.corrupt-1": "old.json.corrupt-1",
    }
    assert not (tmp_path / ".old.json.lock").exists()


@pytest.mark.parametrize("newer", ["old.json", "new.json"])
def test_of_two_files_the_one_that_was_written_later_stays(tmp_path: Path, newer: str) -> None:
    """The name went to and fro."""
    for name in ("old.json", "new.json"):
        (tmp_path / name).write_text(name)
        os.utime(tmp_path / name, (1000 + (name == newer),) * 2)
    former, state = (StateFile(tmp_path / name, gossip_port=7946) for name in ("old.json", "new.json"))
    state.take_over(former)
    assert state_files(tmp_path) == {"new.json": newer}


def test_the_states_of_other_interfaces_are_found_and_what_is_no_state_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text(render_state(FULL))
    (tmp_path / "this.json").write_text(render_state(FULL))
    (tmp_path / "a-directory.json").mkdir()
    (tmp_path / "broken.json").write_text("{")
    found = dict(StateFile(tmp_path / "this.json", gossip_port=7946).others())
    assert found.keys() == {"other", "broken"}
    assert found["other"].mesh == FULL.mesh
    assert found["broken"] == SavedState()
