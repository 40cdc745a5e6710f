"""Every field of a spec that can be wrong is refused by the API server in one clear line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from wesher_common.errors import InvalidSpec
from wesher_common.seeds import parse_seed
from wesher_operator.crd import KINDS, definition
from wesher_testing.cluster.api_server import ApiServer, KubectlFailed

MESH = {"overlayCIDR": "10.189.0.0/16"}


def affinity(**term: Any) -> dict[str, Any]:
    """Return a mesh whose affinity has one term."""
    required = {"nodeSelectorTerms": [term]}
    return {
        **MESH,
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}},
    }


def label(key: str = "a", operator: str = "In", **more: Any) -> dict[str, Any]:
    """Return a mesh whose affinity has one requirement on a label."""
    return affinity(matchExpressions=[{"key": key, "operator": operator, **more}])


def traffic(**fields: Any) -> dict[str, Any]:
    """Return a mesh that carries the traffic of nodes, with other values of some fields."""
    return {**MESH, "traffic": {"nodes": "All", "nodeCIDRs": ["192.0.2.0/24"], **fields}}


WEST = {"clusterName": "west", "key": "A" * 43 + "=", "cidrs": ["10.200.0.0/16"]}
NODE = {"meshRef": {"name": "m", "uid": "u"}, "nodeName": "n", "overlayIP": "10.189.0.1"}

TERMS = "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms"

# (field, spec, what the refusal says beside the field)
BAD_MESHES: list[tuple[str, dict[str, Any], str]] = [
    ("overlayCIDR", {}, "Required value"),
    ("overlayCIDR", {"overlayCIDR": "10.189.0.1/16"}, "'10.189.0.1/16': must be a network"),
    ("overlayCIDR", {"overlayCIDR": "10.189.0.0"}, "'10.189.0.0': must be a network"),
    ("overlayCIDR", {"overlayCIDR": "10.0.0.0/7"}, "/8 to /30"),
    ("overlayCIDR", {"overlayCIDR": "10.189.0.0/31"}, "/8 to /30"),
    ("overlayCIDR", {"overlayCIDR": "fd00::/16"}, "/32 to /126"),
    ("overlayCIDR", {"overlayCIDR": "fd00::/127"}, "/32 to /126"),
    ("allocationCIDR", {**MESH, "allocationCIDR": "10.190.0.0/24"}, "must be inside overlayCIDR"),
    ("allocationCIDR", {**MESH, "allocationCIDR": "10.189.0.1/24"}, "'10.189.0.1/24': must be a network"),
    ("allocationCIDR", {**MESH, "allocationCIDR": "10.189.0.0/31"}, "/8 to /30"),
    ("clusterName", {**MESH, "clusterName": "Two Words"}, "'Two Words': must be a lower-case DNS name"),
    ("clusterName", {**MESH, "clusterName": "a" * 64}, "63"),
    (
        "clusterKeySecretRef.name",
        {**MESH, "clusterKeySecretRef": {"name": "No_Secret"}},
        "'No_Secret': must be a lower-case DNS name",
    ),
    ("seedNodes[0]", {**MESH, "seedNodes": ["http://a"]}, "'http://a': must be a host name or IP address"),
    (
        "seedNodes[1]",
        {**MESH, "seedNodes": ["a", "b:70000"]},
        "'b:70000': the port must be a number from 1 to 65535",
    ),
    ("seedNodes", {**MESH, "seedNodes": ["a"] * 65}, "64"),
    ("nodeSelector", {**MESH, "nodeSelector": {"a b": "c"}}, "must be valid node labels"),
    ("nodeSelector", {**MESH, "nodeSelector": {"a": "b c"}}, "must be valid node labels"),
    (f"{TERMS}[0].matchExpressions[0].key", label("a b", values=["c"]), "'a b': must be a valid label key"),
    (f"{TERMS}[0].matchExpressions[0].operator", label(operator="Is", values=["c"]), '"DoesNotExist", "Gt"'),
    (f"{TERMS}[0].matchExpressions[0].values", label(), "needs at least one"),
    (f"{TERMS}[0].matchExpressions[0].values", label(operator="Exists", values=["c"]), "take no values"),
    (f"{TERMS}[0].matchExpressions[0].values", label(operator="Gt", values=["c"]), "take one whole number"),
    (f"{TERMS}[0].matchExpressions[0].values", label(operator="Lt", values=["1", "2"]), "one whole number"),
    (f"{TERMS}[0].matchExpressions[0].values", label(values=["c d"]), "valid label values"),
    (
        f"{TERMS}[0].matchFields[0].key",
        affinity(matchFields=[{"key": "spec.unschedulable", "operator": "In", "values": ["a"]}]),
        '"metadata.name"',
    ),
    (
        f"{TERMS}[0].matchFields[0].operator",
        affinity(matchFields=[{"key": "metadata.name", "operator": "Gt", "values": ["a"]}]),
        '"In", "NotIn"',
    ),
    (
        f"{TERMS}[0].matchFields[0].values",
        affinity(matchFields=[{"key": "metadata.name", "operator": "In", "values": ["a", "b"]}]),
        "at most 1",
    ),
    ("tolerations[0].key", {**MESH, "tolerations": [{"key": "k" * 317}]}, "316"),
    ("tolerations[0].operator", {**MESH, "tolerations": [{"operator": "Likes"}]}, '"Equal", "Exists"'),
    ("tolerations[0].value", {**MESH, "tolerations": [{"key": "k", "value": "v" * 64}]}, "63"),
    ("tolerations[0].effect", {**MESH, "tolerations": [{"key": "k", "effect": "Never"}]}, '"NoSchedule"'),
    ("tolerations[0].tolerationSeconds", {**MESH, "tolerations": [{"tolerationSeconds": "1"}]}, "integer"),
    ("wireguard.interface", {**MESH, "wireguard": {"interface": "a/b"}}, "'a/b': must be 1 to 15"),
    ("wireguard.interface", {**MESH, "wireguard": {"interface": ".."}}, "'..': must be 1 to 15"),
    ("wireguard.interface", {**MESH, "wireguard": {"interface": "wg%d"}}, "without spaces, '/', ':' or '%'"),
    ("wireguard.interface", {**MESH, "wireguard": {"interface": "sixteen-letters-"}}, "15"),
    ("wireguard.interface", {**MESH, "wireguard": {"interface": ""}}, "at least 1"),
    ("wireguard.port", {**MESH, "wireguard": {"port": 0}}, "greater than or equal to 1"),
    ("wireguard.port", {**MESH, "wireguard": {"port": 65536}}, "less than or equal to 65535"),
    (
        "wireguard.mtu",
        {**MESH, "wireguard": {"mtu": 1279}},
        "must be 0 (derived from the underlay) or at least 1280",
    ),
    ("wireguard.mtu", {**MESH, "wireguard": {"mtu": 65536}}, "less than or equal to 65535"),
    (
        "wireguard.persistentKeepalive",
        {**MESH, "wireguard": {"persistentKeepalive": -1}},
        "greater than or equal to 0",
    ),
    ("wireguard.mode", {**MESH, "wireguard": {"mode": "Magic"}}, '"Auto", "Kernel", "Userspace"'),
    ("gossip.port", {**MESH, "gossip": {"port": 70000}}, "less than or equal to 65535"),
    ("gossip.port", {**MESH, "gossip": {"port": 51820}}, "must differ from wireguard.port"),
    ("gossip.profile", {**MESH, "gossip": {"profile": "MAN"}}, '"LAN", "WAN"'),
    ("gossip.label", {**MESH, "gossip": {"label": "l" * 256}}, "255"),
    ("gossip.label", {**MESH, "gossip": {"label": "ü" * 128}}, "255 bytes"),
    ("addresses.prefer", {**MESH, "addresses": {"prefer": []}}, "at least 1"),
    ("addresses.prefer[0]", {**MESH, "addresses": {"prefer": ["Hostname"]}}, '"InternalIP", "ExternalIP"'),
    (
        "addresses.locationLabel",
        {**MESH, "addresses": {"locationLabel": "a b"}},
        "'a b': must be a valid label key",
    ),
    ("traffic.nodes", traffic(nodes="Some"), '"None", "OtherLocations", "All"'),
    ("traffic.pods", traffic(pods="Some"), '"OtherClusters"'),
    (
        "traffic.pods",
        {**MESH, "traffic": {"pods": "All"}},
        "'All': needs traffic.nodes to be the same or All",
    ),
    ("traffic.pods", traffic(nodes="OtherLocations", pods="All"), "'All': needs traffic.nodes"),
    (
        "traffic.pods",
        {**MESH, "traffic": {"pods": "OtherLocations"}},
        "'OtherLocations': needs traffic.nodes",
    ),
    ("traffic.nodeCIDRs", {**MESH, "traffic": {"nodes": "All"}}, "is required with traffic.nodes"),
    ("traffic.nodeCIDRs[0]", traffic(nodeCIDRs=["192.0.2.1/24"]), "'192.0.2.1/24': must be a network"),
    ("traffic.nodeCIDRs", traffic(nodeCIDRs=["10.0.0.0/8"]), "must not overlap overlayCIDR"),
    ("traffic.nodeCIDRs", traffic(nodeCIDRs=["fd00::/64", "10.189.7.0/24"]), "must not overlap overlayCIDR"),
    ("traffic.nodeCIDRs", traffic(nodeCIDRs=["192.0.2.0/24"] * 17), "16"),
    ("traffic.direct[0]", traffic(direct=["2379"]), "'2379': must be tcp/PORT or udp/PORT"),
    ("traffic.direct[1]", traffic(direct=["tcp/1", "udp/70000"]), "'udp/70000': must be tcp/PORT"),
    ("traffic.direct", traffic(direct=["tcp/1"] * 17), "16"),
    ("traffic.apiServer", traffic(apiServer="Tunnel"), '"Direct", "Mesh"'),
    ("traffic.mark", traffic(mark=3), "must be 0 or a number with one bit set"),
    ("traffic.mark", traffic(mark=2**32), "less than or equal to"),
    ("traffic.table", traffic(table=254), "must be 0 or at least 256"),
    ("traffic.rulePriority", traffic(rulePriority=32760), "less than or equal to 32759"),
    ("nodeReadiness.condition", {**MESH, "nodeReadiness": {"condition": "yes"}}, "boolean"),
    ("nodeReadiness.taint", {**MESH, "nodeReadiness": {"taint": "a"}}, "'a': must be a taint such as"),
    ("nodeReadiness.taintOnReboot", {**MESH, "nodeReadiness": {"taintOnReboot": True}}, "requires taint"),
    ("trustedAuthorities[1]", {**MESH, "trustedAuthorities": [WEST] * 2}, "Duplicate value"),
    (
        "trustedAuthorities[0].clusterName",
        {**MESH, "trustedAuthorities": [{**WEST, "clusterName": "A"}]},
        "'A': must be a lower-case DNS name",
    ),
    (
        "trustedAuthorities[0].key",
        {**MESH, "trustedAuthorities": [{**WEST, "key": "abc"}]},
        "'abc': must be a public key in base64",
    ),
    (
        "trustedAuthorities[0].formerKey",
        {**MESH, "trustedAuthorities": [{**WEST, "formerKey": "abc"}]},
        "'abc': must be a public key in base64",
    ),
    (
        "trustedAuthorities[0].cidrs[0]",
        {**MESH, "trustedAuthorities": [{**WEST, "cidrs": ["10.0.0.1/8"]}]},
        "must be a network",
    ),
    ("trustedAuthorities[0].cidrs", {**MESH, "trustedAuthorities": [{**WEST, "cidrs": []}]}, "at least 1"),
    ("etcHosts", {**MESH, "etcHosts": "Sometimes"}, '"Qualified", "Names", "Off"'),
    ("identity", {**MESH, "identity": "Sometimes"}, '"Open", "Verified"'),
    ("identity", {**MESH, "identity": ""}, '"Open", "Verified"'),
]

BAD_NODES: list[tuple[str, dict[str, Any], str]] = [
    ("meshRef.name", {**NODE, "meshRef": {"name": "n" * 33, "uid": "u"}}, "32"),
    ("meshRef.uid", {**NODE, "meshRef": {"name": "m", "uid": ""}}, "at least 1"),
    ("nodeName", {**NODE, "nodeName": "n" * 254}, "253"),
    ("overlayIP", {**NODE, "overlayIP": "10.189.0"}, "'10.189.0': must be an IP address"),
    ("advertiseAddress", {**NODE, "advertiseAddress": "host"}, "'host': must be an IP address"),
    ("routes[0]", {**NODE, "routes": ["192.0.2.1/24"]}, "'192.0.2.1/24': must be a network"),
    ("routes", {**NODE, "routes": ["192.0.2.0/24"] * 17}, "16"),
    ("machine", {**NODE, "machine": "m" * 65}, "64"),
    ("location", {**NODE, "location": "a b"}, "must be a valid label value"),
    ("certificate", {**NODE, "certificate": "AAAA"}, "must be a certificate"),
    ("certificate", {**NODE, "certificate": "A" * 104}, "must be a certificate"),
    ("certificate", {**NODE, "certificate": "A" * 105}, "104"),
    ("serial", {**NODE, "serial": -1}, "greater than or equal to 0"),
    ("serial", {**NODE, "serial": "1"}, "integer"),
]

UNTIL = "2030-01-31T12:00:00Z"
KEY = "A" * 43 + "="
PEER = {"meshRef": {"name": "m"}, "publicKey": KEY}
INVITED = {"meshRef": {"name": "m"}, "enrolKey": KEY, "enrolUntil": UNTIL}
BAD_PEERS: list[tuple[str, dict[str, Any], str]] = [
    ("meshRef", {"publicKey": KEY}, "Required value"),
    ("meshRef.name", {**PEER, "meshRef": {"name": ""}}, "at least 1"),
    ("meshRef.name", {**PEER, "meshRef": {"uid": "u"}}, "Required value"),
    ("meshRef.uid", {**PEER, "meshRef": {"name": "m", "uid": "u" * 65}}, "64"),
    ("publicKey", {**PEER, "publicKey": "abc"}, "'abc': must be 32 bytes in base64"),
    ("publicKey", {**PEER, "publicKey": "A" * 42 + "B="}, "must be 32 bytes in base64"),
    ("publicKey", {**PEER, "publicKey": "A" * 45}, "44"),
    ("enrolKey", {**INVITED, "enrolKey": "A" * 43}, "must be 32 bytes in base64"),
    ("enrolUntil", {**INVITED, "enrolUntil": "tomorrow"}, "date-time"),
    ("enrolUntil", {**INVITED, "enrolUntil": ""}, "date-time"),
    ("enrolUntil", {**PEER, "enrolUntil": UNTIL}, "must be set together with enrolKey"),
    ("overlayIP", {**PEER, "overlayIP": "10.189.0"}, "'10.189.0': must be an IP address"),
]

BAD = [
    *(("WesherMesh", "m", *case) for case in BAD_MESHES),
    *(("WesherNode", "m.n", *case) for case in BAD_NODES),
    *(("WesherPeer", "m.laptop", *case) for case in BAD_PEERS),
]


def create(api: ApiServer, kind: str, name: str, spec: dict[str, Any], *more: str) -> None:
    """Create an object in a dry run: checked as for real, kept nowhere."""
    body = {"apiVersion": "wesher.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}
    api.kubectl("create", *(more or ("--dry-run=server",)), "-f", "-", stdin=json.dumps(body))


@pytest.mark.parametrize(
    ("kind", "name", "field", "spec", "says"),
    BAD,
    ids=[f"{case[0]}-{case[2]}-{n}" for n, case in enumerate(BAD)],
)
def test_a_bad_value_is_refused_with_its_field_and_rule(
    installed: ApiServer, *, kind: str, name: str, field: str, spec: dict[str, Any], says: str
) -> None:
    with pytest.raises(KubectlFailed) as refused:
        create(installed, kind, name, spec)
    lines = [line for line in str(refused.value).splitlines() if f"spec.{field}:" in line]
    assert any(says in line for line in lines), refused.value


def test_what_may_be_left_out_may_be_empty_as_charts_render_it(installed: ApiServer) -> None:
    empty = {"allocationCIDR": "", "clusterName": "", "clusterKeySecretRef": {"name": ""}}
    create(installed, "WesherMesh", "m", {**MESH, **empty})
    create(installed, "WesherNode", "m.n", {**NODE, "advertiseAddress": "", "location": ""})
    create(installed, "WesherPeer", "m.laptop", {**PEER, "enrolKey": "", "overlayIP": ""})
    create(installed, "WesherPeer", "m.laptop", {**INVITED, "publicKey": ""})


def test_what_may_be_carried_together(installed: ApiServer) -> None:
    for pods in ("None", "OtherClusters", "OtherLocations", "All"):
        create(installed, "WesherMesh", "m", traffic(pods=pods))
    create(installed, "WesherMesh", "m", traffic(nodes="OtherLocations", pods="OtherLocations"))
    create(installed, "WesherMesh", "m", {**MESH, "traffic": {"pods": "OtherClusters"}})
    create(installed, "WesherMesh", "m", {**traffic(), "identity": "Open"})
    create(installed, "WesherMesh", "m", {**traffic(), "overlayCIDR": "fd00:9::/64"})


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_of_a_spec_has_a_bad_value_above(kind: type[Any]) -> None:
    """A field that is added without a case fails here."""
    cases = {"WesherMesh": BAD_MESHES, "WesherNode": BAD_NODES, "WesherPeer": BAD_PEERS}[kind.__name__]
    tried = {field.replace("[0]", "").replace("[1]", "") for field, _, _ in cases}
    schema = definition(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    assert set(leaves(schema)) - tried == set()


def leaves(schema: dict[str, Any], path: str = "") -> Iterator[str]:
    """Yield the path of every field that holds a value."""
    inner = schema.get("items", schema)
    if "properties" not in inner:
        yield path
        return
    for name, part in inner["properties"].items():
        yield from leaves(part, f"{path}.{name}" if path else name)


@pytest.mark.parametrize("name", ["with.dot", "a" * 33])
def test_a_mesh_name_that_could_not_name_its_nodes_is_refused(installed: ApiServer, name: str) -> None:
    with pytest.raises(KubectlFailed, match=r"metadata\.name must be at most 32 characters without '\.'"):
        create(installed, "WesherMesh", name, MESH)


def test_a_wesher_node_is_named_after_its_mesh_and_node(installed: ApiServer) -> None:
    with pytest.raises(
        KubectlFailed, match=r"metadata\.name must be <spec\.meshRef\.name>\.<spec\.nodeName>"
    ):
        create(installed, "WesherNode", "other", NODE)


@pytest.mark.parametrize("name", ["m", "mlaptop", "other.laptop"])
def test_a_wesher_peer_is_named_after_its_mesh(installed: ApiServer, name: str) -> None:
    with pytest.raises(KubectlFailed, match=r"metadata\.name must be <spec\.meshRef\.name>\.<name of the"):
        create(installed, "WesherPeer", name, PEER)
    create(installed, "WesherPeer", "m.laptop.example", PEER)


@pytest.mark.parametrize("both", [True, False])
def test_a_machine_is_admitted_by_a_key_or_by_an_invite(installed: ApiServer, *, both: bool) -> None:
    spec = {**INVITED, **PEER} if both else {"meshRef": {"name": "m"}}
    with pytest.raises(KubectlFailed, match=r"exactly one of publicKey and enrolKey must be set"):
        create(installed, "WesherPeer", "m.laptop", spec)


def test_the_overlay_network_never_changes(api: ApiServer) -> None:
    create(api, "WesherMesh", "m", MESH, "--save-config")
    with pytest.raises(KubectlFailed, match=r"spec\.overlayCIDR.*is immutable"):
        api.kubectl("patch", "wmesh", "m", "--type=merge", "-p", '{"spec":{"overlayCIDR":"10.188.0.0/16"}}')


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"overlayCIDR": "10.188.0.0/16"}, r"spec\.overlayCIDR.*delete the mesh and create it again"),
        (
            {"clusterKeySecretRef": {"name": "other"}},
            r"spec\.clusterKeySecretRef.*add the new key to accepted-keys",
        ),
        ({"clusterKeySecretRef": None}, r"spec\.clusterKeySecretRef.*delete the mesh and create it again"),
    ],
)
def test_an_edit_that_cannot_be_made_live_is_refused_with_the_way_to_make_it(
    api: ApiServer, change: dict[str, Any], says: str
) -> None:
    create(api, "WesherMesh", "m", {**MESH, "clusterKeySecretRef": {"name": "key"}}, "--save-config")
    with pytest.raises(KubectlFailed, match=says):
        api.kubectl("patch", "wmesh", "m", "--type=merge", "-p", json.dumps({"spec": change}))
    api.kubectl("patch", "wmesh", "m", "--type=merge", "-p", '{"spec":{"etcHosts":"Off"}}')


def test_a_wesher_node_never_stands_for_another_node(api: ApiServer) -> None:
    create(api, "WesherNode", "m.n", NODE, "--save-config")
    with pytest.raises(KubectlFailed, match=r"spec\.nodeName.*is immutable"):
        api.kubectl("patch", "wnode", "m.n", "--type=merge", "-p", '{"spec":{"nodeName":"other"}}')


def test_a_mesh_of_one_field_gets_the_documented_defaults(api: ApiServer) -> None:
    create(api, "WesherMesh", "m", MESH, "--save-config")
    spec = api.get("wmesh", "m")["spec"]
    assert spec["wireguard"] == {
        "interface": "wgoverlay",
        "port": 51820,
        "mtu": 0,
        "persistentKeepalive": 0,
        "mode": "Auto",
    }
    assert spec["gossip"] == {"port": 7946, "profile": "WAN"}
    assert spec["tolerations"] == [{"operator": "Exists"}]
    assert spec["addresses"] == {"prefer": ["InternalIP"]}
    assert spec["traffic"] == {
        "nodes": "None",
        "pods": "None",
        "nodeCIDRs": [],
        "direct": ["tcp/2379", "tcp/2380"],
        "apiServer": "Direct",
        "mark": 0,
        "table": 0,
        "rulePriority": 0,
    }
    assert spec["etcHosts"] == "Qualified"


SEEDS = [
    *("host", "host.example.com", "host.example.com.", "a_b", "1a", "1-2a", "10.0.0.1", "fd00::1"),
    *("host:7946", "10.0.0.1:1", "[fd00::1]:65535", "[fd00::1]", "x:65535"),
    *(
        "10.0.0",
        "10.0.0.256",
        "1.2.3.4:0",
        "host:",
        "host:x",
        "[fd00::1",
        "[fd00::1]x",
        "[host]:1",
        "[host]",
        "[10.0.0.1]:1",
    ),
    *("-a", "a-", "a..b", "a b", "999", "host:65536", "fd00::1::2", "é"),
]


@pytest.mark.parametrize("seed", SEEDS)
def test_the_api_server_and_the_agent_agree_on_what_a_seed_is(installed: ApiServer, seed: str) -> None:
    try:
        parse_seed(seed, field="seed")
        readable = True
    except InvalidSpec:
        readable = False
    try:
        create(installed, "WesherMesh", "m", {**MESH, "seedNodes": [seed]})
        admitted = True
    except KubectlFailed:
        admitted = False
    assert admitted == readable
