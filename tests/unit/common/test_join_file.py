"""The join file: what an invite writes is what an agent reads; errors name each bad field, and no secret."""

import json
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest

from wesher_common.certificate import Authority
from wesher_common.errors import InvalidSpec
from wesher_common.join_file import MAX_JOIN_FILE_BYTES, JoinFile
from wesher_common.keys import ClusterKey, KeyRing
from wesher_common.seeds import SeedAddress

SEED = bytes(range(100, 132))
KEYS = [ClusterKey(bytes([first]) * 32) for first in (1, 2)]
AUTHORITY = Authority(bytes(range(32))).key
FULL = JoinFile(
    mesh_name="prod",
    mesh_uid="u-1",
    ring=KeyRing(KEYS[0], (KEYS[1],)),
    seeds=(SeedAddress("192.0.2.1"), SeedAddress("2001:db8::1", 7000)),
    label="prod",
    profile="LAN",
    overlay=ip_network("10.189.0.0/16"),
    name="laptop",
    cluster_name="east",
    authority=AUTHORITY,
    enrol_seed=SEED,
    gossip_port=7947,
    wireguard_port=51821,
    interface="wg1",
    mtu=1380,
    etc_hosts="Names",
)
MISSING = object()


def changed(path: str, value: Any) -> str:
    """Return the full file's text with one value replaced or removed; ``path`` is dotted."""
    content = json.loads(FULL.to_json())
    *sections, key = path.split(".")
    target = content
    for section in sections:
        target = target[section]
    if value is MISSING:
        del target[key]
    else:
        target[key] = value
    return json.dumps(content)


def test_what_is_written_is_read() -> None:
    assert JoinFile.from_json(FULL.to_json()) == FULL


def test_an_ipv6_mesh_is_written_and_read() -> None:
    file = replace(FULL, overlay=ip_network("2001:db8::/48"))
    assert JoinFile.from_json(file.to_json()) == file


def test_what_may_be_left_out_has_its_default() -> None:
    content = json.loads(FULL.to_json())
    for key in ("clusterName", "label", "profile", "ports", "interface", "mtu", "etcHosts"):
        del content[key]
    found = JoinFile.from_json(json.dumps(content))
    assert found == replace(
        FULL,
        cluster_name="",
        label="",
        profile="WAN",
        gossip_port=7946,
        wireguard_port=51820,
        interface="wgoverlay",
        mtu=0,
        etc_hosts="Qualified",
    )


def test_keys_of_a_newer_plugin_are_ignored() -> None:
    content = json.loads(FULL.to_json())
    content["later"] = content["ports"]["later"] = {"x": 1}
    assert JoinFile.from_json(json.dumps(content)) == FULL


def test_the_member_has_the_name_of_its_cluster_behind_its_own() -> None:
    assert FULL.member_name == "laptop.east"
    assert replace(FULL, cluster_name="").member_name == "laptop"


def test_a_cluster_key_that_stands_twice_is_one() -> None:
    keys = [KEYS[0].reveal_base64(), KEYS[1].reveal_base64(), KEYS[0].reveal_base64()]
    assert JoinFile.from_json(changed("clusterKeys", keys)).ring == FULL.ring


def test_its_repr_shows_no_secret() -> None:
    shown = repr(FULL)
    assert repr(SEED) not in shown
    assert repr(KEYS[0].secret) not in shown


def test_every_field_has_a_bad_value_below() -> None:
    """So that a field added later is not forgotten here."""
    fields = set()
    for key, value in json.loads(FULL.to_json()).items():
        fields |= {f"{key}.{inner}" for inner in value} if isinstance(value, dict) else {key}
    assert fields - {path for path, _, _ in BAD} == set()


PREFIX = "must be a network such as 10.189.0.0/16, without host bits"
NAME = "must be a DNS name, with clusterName at most 253 characters, and not an address or localhost"
BASE64 = "must be standard base64 of 32 bytes"
BAD = [
    ("version", 2, "version '2': this agent supports version 1: use the same release of agent and plugin"),
    (
        "version",
        MISSING,
        "version '0': this agent supports version 1: use the same release of agent and plugin",
    ),
    ("mesh", "prod", "mesh: must be a JSON object"),
    (
        "mesh.name",
        "Prod",
        (
            "mesh.name 'Prod': must be 1 to 32 lower-case letters, digits or '-', "
            "beginning and ending with a letter or digit"
        ),
    ),
    ("mesh.name", MISSING, "mesh.name: must be a string"),
    ("mesh.uid", "", "mesh.uid '': must be the UID of the WesherMesh"),
    ("mesh.uid", MISSING, "mesh.uid: must be a string"),
    ("name", "", f"name '': {NAME}"),
    ("name", "a b", f"name 'a b': {NAME}"),
    ("name", "localhost", f"name 'localhost': {NAME}"),
    ("name", "x." * 125, f"name '{'x.' * 125}': {NAME}"),
    ("name", 5, "name '5': must be a string"),
    (
        "clusterName",
        "a b",
        "clusterName 'a b': must be at most 63 letters, digits, '-' or '.', as in a DNS name",
    ),
    ("seeds", [], "seeds: must be 1 to 16 addresses, not 0"),
    ("seeds", ["h"] * 17, "seeds: must be 1 to 16 addresses, not 17"),
    ("seeds", ["h", "h:0"], "seeds[1] 'h:0': the port must be a number from 1 to 65535"),
    ("seeds", "host", "seeds 'host': must be a list of strings"),
    ("overlay", "10.189.0.1/16", f"overlay '10.189.0.1/16': {PREFIX}"),
    ("overlay", MISSING, "overlay: must be a string"),
    ("label", "é" * 128, f"label '{'é' * 128}': must be at most 255 bytes"),
    ("profile", "lan", "profile 'lan': must be one of LAN, WAN"),
    ("ports", 5, "ports: must be a JSON object"),
    ("ports.gossip", 0, "ports.gossip '0': must be a whole number from 1 to 65535"),
    ("ports.gossip", 51821, "ports.gossip '51821': must differ from ports.wireguard: both are UDP"),
    ("ports.wireguard", "x", "ports.wireguard 'x': must be a whole number from 1 to 65535"),
    (
        "interface",
        "a/b",
        "interface 'a/b': must be 1 to 15 bytes without spaces, '/', ':' or '%'",
    ),
    ("mtu", 1279, "mtu '1279': must be 0 or at least 1280"),
    ("mtu", -1, "mtu '-1': must be a whole number from 0 to 65535"),
    ("etcHosts", "off", "etcHosts 'off': must be one of Qualified, Names, Off"),
    ("authority", "abc", f"authority: {BASE64}"),
    ("authority", "AAAA", "authority: must decode to exactly 32 bytes, not 3"),
    ("authority", MISSING, "authority: must be a string"),
    ("clusterKeys", [], "clusterKeys: must be 1 to 16 keys, not 0"),
    ("clusterKeys", MISSING, "clusterKeys: must be 1 to 16 keys, not 0"),
    ("clusterKeys", [KEYS[0].reveal_base64()] * 17, "clusterKeys: must be 1 to 16 keys, not 17"),
    ("clusterKeys", [KEYS[0].reveal_base64(), "secret"], f"clusterKeys[1]: {BASE64}"),
    ("clusterKeys", "secret", "clusterKeys: must be a list of strings"),
    ("clusterKeys", ["secret", 5], "clusterKeys: must be a list of strings"),
    ("enrolSeed", "secret", f"enrolSeed: {BASE64}"),
    ("enrolSeed", "c2VjcmV0", f"enrolSeed: {BASE64}"),
    ("enrolSeed", ["secret"], "enrolSeed: must be a string"),
    ("enrolSeed", MISSING, "enrolSeed: must be a string"),
]


@pytest.mark.parametrize(("path", "value", "line"), BAD)
def test_a_bad_field_is_named_in_one_line_without_a_secret(path: str, value: Any, line: str) -> None:
    with pytest.raises(InvalidSpec) as refusal:
        JoinFile.from_json(changed(path, value))
    assert str(refusal.value) == f"join file {line}"


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("", "join file: is not JSON: Expecting value"),
        ('{"clusterKeys": ["secret', "join file: is not JSON: Unterminated string"),
        ("[]", "join file: must be a JSON object"),
        ("[" * 60_000, "join file: is not JSON: maximum recursion depth"),
        ("x" * (MAX_JOIN_FILE_BYTES + 1), "join file: must be at most 65536 bytes"),
    ],
)
def test_what_is_not_a_join_file_is_said_in_one_line(text: str, start: str) -> None:
    with pytest.raises(InvalidSpec) as refusal:
        JoinFile.from_json(text)
    assert str(refusal.value).startswith(start)
    assert "secret" not in str(refusal.value)
    assert "\n" not in str(refusal.value)
