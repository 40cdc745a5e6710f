"""mesh.json: what the operator writes is what an agent reads, and each bad field is named."""

import json
import re
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest

from wesher_common.certificate import AuthorityKey
from wesher_common.errors import InvalidSpec
from wesher_common.keys import WireGuardPublicKey
from wesher_common.mesh_document import (
    GossipSettings,
    IdentitySettings,
    MeshDocument,
    TrustedAuthority,
    WireGuardSettings,
)
from wesher_common.seeds import SeedAddress

OVERLAY = ip_network("10.189.0.0/16")
OURS, FORMER, THEIRS = (AuthorityKey(bytes([number]) * 32) for number in (1, 2, 4))
SMALLEST = MeshDocument(name="prod", uid="u-1", overlay=OVERLAY, allocation=OVERLAY)
FULL = MeshDocument(
    name="prod",
    uid="u-1",
    overlay=OVERLAY,
    allocation=ip_network("10.189.64.0/18"),
    cluster_name="east",
    wireguard=WireGuardSettings(
        interface="wg1", port=51821, mtu=1380, persistent_keepalive=25, mode="Userspace"
    ),
    gossip=GossipSettings(port=7947, profile="LAN", label="prod"),
    etc_hosts="Names",
    seed_nodes=(SeedAddress("host.example", 7000), SeedAddress("2001:db8::1", 7000)),
    cluster_seeds=(SeedAddress("192.0.2.1"),),
    removed=("gone.east",),
    identity=IdentitySettings(
        mode="Verified",
        bound=True,
        form="Compact",
        authorities=(OURS, FORMER),
        proof_key=WireGuardPublicKey(bytes([3]) * 32),
        trusted=(TrustedAuthority(cluster_name="west", key=THEIRS, cidrs=(ip_network("10.189.128.0/18"),)),),
    ),
)


def changed(path: str, value: Any) -> str:
    """Return the full document's text with one value replaced; ``path`` is dotted."""
    content = json.loads(FULL.to_json())
    *sections, key = re.findall(r"\w+", path)
    target = content
    for section in sections:
        target = target[int(section) if section.isdigit() else section]
    target[int(key) if key.isdigit() else key] = value
    return json.dumps(content)


@pytest.mark.parametrize("document", [SMALLEST, FULL])
def test_what_is_written_is_read(document: MeshDocument) -> None:
    assert MeshDocument.from_json(document.to_json()) == document


def test_an_ipv6_mesh_is_written_and_read() -> None:
    overlay = ip_network("2001:db8::/48")
    document = replace(SMALLEST, overlay=overlay, allocation=ip_network("2001:db8:0:1::/64"))
    assert MeshDocument.from_json(document.to_json()) == document


def test_what_is_left_out_has_its_default() -> None:
    text = json.dumps({"version": 1, "name": "prod", "uid": "u-1", "overlayCIDR": "10.189.0.0/16"})
    assert MeshDocument.from_json(text) == SMALLEST


def test_keys_of_a_newer_operator_are_ignored() -> None:
    content = json.loads(FULL.to_json())
    content["later"] = content["wireguard"]["later"] = {"x": 1}
    assert MeshDocument.from_json(json.dumps(content)) == FULL


def test_every_field_of_the_document_has_a_bad_value_below() -> None:
    """So that a field added later is not forgotten here."""
    fields = set()
    for key, value in FULL.to_dict().items():
        fields |= {f"{key}.{inner}" for inner in value} if isinstance(value, dict) else {key}
    fields |= {f"identity.trusted[0].{key}" for key in FULL.to_dict()["identity"]["trusted"][0]}
    assert fields - {path for path, _, _ in BAD} == set()


PREFIX = "must be a network such as 10.189.0.0/16, without host bits"
KEY = "must be standard base64 of 32 bytes"
SHORT = "must decode to exactly 32 bytes, not 3"
DNS_NAME = "must be at most 63 letters, digits, '-' or '.', as in a DNS name"
MESH_NAME = "must be 1 to 32 lower-case letters, digits or '-', beginning and ending with a letter or digit"
BAD = [
    (
        "version",
        2,
        "version '2': this agent supports version 1: use the same release of agent and operator",
    ),
    ("version", "1", "version '1': must be a whole number from 0 to 2147483648"),
    (
        "name",
        "Prod",
        f"name 'Prod': {MESH_NAME}",
    ),
    ("name", None, "name: must be a string"),
    ("uid", 5, "uid '5': must be a string"),
    ("overlayCIDR", "10.189.0.1/16", f"overlayCIDR '10.189.0.1/16': {PREFIX}"),
    ("overlayCIDR", "x", f"overlayCIDR 'x': {PREFIX}"),
    ("overlayCIDR", "fe80::%1/64", f"overlayCIDR 'fe80::%1/64': {PREFIX}"),
    (
        "overlayCIDR",
        "10.0.0.0/31",
        "overlayCIDR '10.0.0.0/31': an IPv4 overlay must have a prefix length from /8 to /30",
    ),
    (
        "overlayCIDR",
        "8.0.0.0/7",
        "overlayCIDR '8.0.0.0/7': an IPv4 overlay must have a prefix length from /8 to /30",
    ),
    (
        "overlayCIDR",
        "2001:db8::/127",
        "overlayCIDR '2001:db8::/127': an IPv6 overlay must have a prefix length from /32 to /126",
    ),
    (
        "overlayCIDR",
        "2000::/31",
        "overlayCIDR '2000::/31': an IPv6 overlay must have a prefix length from /32 to /126",
    ),
    ("allocationCIDR", "10.190.0.0/24", "allocationCIDR '10.190.0.0/24': must be inside 10.189.0.0/16"),
    ("allocationCIDR", "2001:db8::/64", "allocationCIDR '2001:db8::/64': must be inside 10.189.0.0/16"),
    ("allocationCIDR", "10.0.0.0/8", "allocationCIDR '10.0.0.0/8': must be inside 10.189.0.0/16"),
    (
        "clusterName",
        "a b",
        f"clusterName 'a b': {DNS_NAME}",
    ),
    (
        "clusterName",
        ".".join("x" * 33),
        f"clusterName '{'.'.join('x' * 33)}': {DNS_NAME}",
    ),
    ("clusterName", ["x"], "clusterName \"['x']\": must be a string"),
    ("clusterName", "\ud800", r"clusterName '\ud800': must be a string"),
    (
        "wireguard.interface",
        "a/b",
        "wireguard.interface 'a/b': must be 1 to 15 bytes without spaces, '/', ':' or '%'",
    ),
    ("wireguard.port", 0, "wireguard.port '0': must be a whole number from 1 to 65535"),
    ("wireguard.port", True, "wireguard.port 'True': must be a whole number from 1 to 65535"),
    ("wireguard.port", 1.5, "wireguard.port '1.5': must be a whole number from 1 to 65535"),
    ("wireguard.mtu", 1279, "wireguard.mtu '1279': must be 0 or at least 1280"),
    ("wireguard.mtu", 65536, "wireguard.mtu '65536': must be a whole number from 0 to 65535"),
    (
        "wireguard.persistentKeepalive",
        -1,
        "wireguard.persistentKeepalive '-1': must be a whole number from 0 to 65535",
    ),
    ("wireguard.mode", "kernel", "wireguard.mode 'kernel': must be one of Auto, Kernel, Userspace"),
    ("wireguard", [], "wireguard: must be a JSON object"),
    ("gossip.port", 65536, "gossip.port '65536': must be a whole number from 1 to 65535"),
    ("gossip.profile", "WAN ", "gossip.profile 'WAN ': must be one of LAN, WAN"),
    ("gossip.label", "é" * 128, f"gossip.label '{'é' * 128}': must be at most 255 bytes"),
    ("gossip.label", None, "gossip.label: must be a string"),
    ("etcHosts", "off", "etcHosts 'off': must be one of Qualified, Names, Off"),
    ("etcHosts", ["Off"], "etcHosts \"['Off']\": must be one of Qualified, Names, Off"),
    ("seedNodes", "host", "seedNodes 'host': must be a list of strings"),
    ("seedNodes", ["host", "host:0"], "seedNodes[1] 'host:0': the port must be a number from 1 to 65535"),
    ("clusterSeeds", [5], "clusterSeeds '[5]': must be a list of strings"),
    (
        "clusterSeeds",
        ["a b"],
        (
            "clusterSeeds[0] 'a b': must be a host name or IP address of a member, with :port or without, "
            "such as 192.0.2.1:7946"
        ),
    ),
    ("removed", {"a": 1}, "removed \"{'a': 1}\": must be a list of strings"),
    *(
        (f"identity.{path}", value, f"identity.{path}{line}")
        for path, value, line in (
            ("mode", "verified", " 'verified': must be one of Open, Verified"),
            ("mode", ["Open"], " \"['Open']\": must be one of Open, Verified"),
            ("bound", "true", " 'true': must be true or false"),
            ("bound", 1, " '1': must be true or false"),
            ("form", "Go", " 'Go': must be one of Gob, Compact"),
            ("authorities", str(OURS), f" '{OURS}': must be a list of strings"),
            ("authorities", [str(OURS), str(FORMER), str(THEIRS)], ": must be at most 2 keys"),
            ("authorities", ["AAAA"], f"[0]: {SHORT}"),
            ("proofKey", "AAAA", f": {SHORT}"),
            ("proofKey", 5, " '5': must be a string"),
            ("trusted", {}, ": must be a list of at most 32 objects"),
            ("trusted", [{}] * 33, ": must be a list of at most 32 objects"),
            ("trusted", ["west"], "[0]: must be a JSON object"),
            # Without a name, or without a network, it could certify any.
            ("trusted[0].clusterName", "", f" '': {DNS_NAME}"),
            ("trusted[0].clusterName", "a b", f" 'a b': {DNS_NAME}"),
            ("trusted[0].clusterName", None, ": must be a string"),
            ("trusted[0].key", "no key", f": {KEY}"),
            ("trusted[0].key", str(FORMER), f" '{FORMER}': must not be an authority of this mesh"),
            ("trusted[0].cidrs", [], ": must list a network"),
            ("trusted[0].cidrs", "10.0.0.0/8", " '10.0.0.0/8': must be a list of strings"),
            (
                "trusted[0].cidrs",
                ["0.0.0.0/0"],
                "[0] '0.0.0.0/0': an IPv4 overlay must have a prefix length from /8 to /30",
            ),
            ("trusted[0].cidrs", ["10.0.0.1/8"], f"[0] '10.0.0.1/8': {PREFIX}"),
        )
    ),
    ("identity", [], "identity: must be a JSON object"),
    ("removed", ["\ud800"], r"removed \"['\\ud800']\": must be a list of strings".replace('\\"', '"')),
]


@pytest.mark.parametrize(("path", "value", "line"), BAD)
def test_a_bad_field_is_named_in_one_line(path: str, value: Any, line: str) -> None:
    with pytest.raises(InvalidSpec) as refusal:
        MeshDocument.from_json(changed(path, value))
    assert str(refusal.value) == f"mesh.json {line}"


@pytest.mark.parametrize("key", ["name", "uid", "overlayCIDR", "version"])
def test_what_must_be_there_is_missed(key: str) -> None:
    content = json.loads(FULL.to_json())
    del content[key]
    with pytest.raises(InvalidSpec, match=f"^mesh.json {key}"):
        MeshDocument.from_json(json.dumps(content))


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("", "mesh.json: is not JSON: Expecting value"),
        ("{", "mesh.json: is not JSON: "),
        ("[]", "mesh.json: must be a JSON object"),
        ("[" * 100_000, "mesh.json: is not JSON: maximum recursion depth"),
        ('{"version": ' + "9" * 5000 + "}", "mesh.json: is not JSON: Exceeds the limit"),
    ],
)
def test_what_is_no_document_is_said_in_one_line(text: str, start: str) -> None:
    with pytest.raises(InvalidSpec) as refusal:
        MeshDocument.from_json(text)
    assert str(refusal.value).startswith(start)
    assert "\n" not in str(refusal.value)


def test_equal_documents_have_equal_text() -> None:
    assert replace(FULL).to_json() == FULL.to_json()
    assert FULL.to_json().endswith("}\n")


def test_no_more_than_sixteen_cluster_seeds_are_read() -> None:
    many = replace(FULL, cluster_seeds=tuple(SeedAddress(f"192.0.2.{last}") for last in range(1, 21)))
    assert MeshDocument.from_json(many.to_json()).cluster_seeds == many.cluster_seeds[:16]


def test_the_hash_changes_with_what_agents_must_apply_and_not_with_cluster_seeds() -> None:
    assert replace(FULL, cluster_seeds=()).config_hash == FULL.config_hash
    assert len(FULL.config_hash) == 12
    others = [
        replace(FULL, cluster_name="west"),
        replace(FULL, wireguard=replace(FULL.wireguard, mtu=1400)),
        replace(FULL, gossip=replace(FULL.gossip, profile="WAN")),
        replace(FULL, etc_hosts="Off"),
        replace(FULL, seed_nodes=()),
        replace(FULL, removed=()),
    ]
    assert len({document.config_hash for document in [FULL, *others]}) == len(others) + 1
