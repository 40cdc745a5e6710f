"""No field of a WesherMesh is without effect, and agents report every field of a WesherNode's status."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any

import pytest

from wesher_agent.kube.node_status import node_status
from wesher_agent.mesh.nodemeta import META_VERSION, NodeMeta
from wesher_agent.mesh.roster import MemberState, RosterMember
from wesher_agent.swim.address import Address
from wesher_common.certificate import Authority
from wesher_common.keys import WireGuardPublicKey
from wesher_common.traffic import TrafficSettings
from wesher_operator import kube
from wesher_operator.crd import definition
from wesher_operator.kube import API_SERVER_ENDPOINTS, MESH, NODE
from wesher_operator.reconcile.manifests import AgentSettings
from wesher_operator.reconcile.mesh import MeshReconciler
from wesher_operator.reconcile.world import World
from wesher_operator.resources.mesh import WesherMesh
from wesher_operator.resources.node import WesherNode
from wesher_testing.agents.snapshots import snapshot
from wesher_testing.cluster.fake_api_server import Storing, serving
from wesher_testing.virtual.members import document, local_node

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
TRAFFIC: dict[str, Any] = {"nodes": "All", "nodeCIDRs": ["192.0.2.0/24"]}
"""The other fields of ``traffic`` mean nothing while both are None."""
BASE: dict[str, Any] = {
    "overlayCIDR": "10.189.0.0/16",
    "allocationCIDR": "10.189.0.0/17",
    "clusterName": "here",
}
TAINT = {"key": "role", "value": "db", "effect": "NoExecute"}
TERMS = "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[]"
WEST: dict[str, Any] = {
    "clusterName": "west",
    "key": str(Authority(bytes([1]) * 32).key),
    "cidrs": ["10.189.128.0/17"],
}
BASES = {
    "trustedAuthorities": {**BASE, "trustedAuthorities": [WEST]},
    "traffic": {**BASE, "traffic": TRAFFIC},
}
"""What a field is compared with, if not `BASE`."""
OTHERS: list[tuple[str, Any]] = [
    ("overlayCIDR", "10.190.0.0/16"),
    ("allocationCIDR", "10.189.7.0/24"),
    ("clusterName", "east"),
    ("clusterKeySecretRef.name", "mine"),
    ("seedNodes", ["203.0.113.7"]),
    ("nodeSelector", {"zone": "a"}),
    (f"{TERMS}.matchExpressions[].key", [{"matchExpressions": [{"key": "zone", "operator": "Exists"}]}]),
    (
        f"{TERMS}.matchExpressions[].operator",
        [{"matchExpressions": [{"key": "x", "operator": "DoesNotExist"}]}],
    ),
    (
        f"{TERMS}.matchExpressions[].values",
        [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}],
    ),
    *(
        (
            f"{TERMS}.matchFields[].{part}",
            [{"matchFields": [{"key": "metadata.name", "operator": operator, "values": ["n1"]}]}],
        )
        for part, operator in (("key", "In"), ("operator", "NotIn"), ("values", "In"))
    ),
    ("tolerations[].key", [{"key": "role", "operator": "Exists"}]),
    ("tolerations[].operator", [{"key": "role", "operator": "Equal"}]),
    ("tolerations[].value", [{"key": "role", "value": "db"}]),
    ("tolerations[].effect", [{"operator": "Exists", "effect": "NoExecute"}]),
    ("tolerations[].tolerationSeconds", [{"operator": "Exists", "tolerationSeconds": 5}]),
    ("wireguard.interface", "wg7"),
    ("wireguard.port", 51999),
    ("wireguard.mtu", 1300),
    ("wireguard.persistentKeepalive", 25),
    ("wireguard.mode", "Userspace"),
    ("gossip.port", 7999),
    ("gossip.profile", "LAN"),
    ("gossip.label", "west"),
    ("addresses.prefer", ["ExternalIP"]),
    ("addresses.locationLabel", "zone"),
    ("traffic.nodes", "OtherLocations"),
    ("traffic.pods", "OtherClusters"),
    ("traffic.nodeCIDRs", ["192.0.2.0/25"]),
    ("traffic.direct", []),
    ("traffic.apiServer", "Mesh"),
    ("traffic.mark", 64),
    ("traffic.table", 999),
    ("traffic.rulePriority", 999),
    ("etcHosts", "Off"),
    ("identity", "Open"),
    *(
        (f"trustedAuthorities[].{part}", [{**WEST, part: value}])
        for part, value in (
            ("clusterName", "north"),
            ("key", str(Authority(bytes([2]) * 32).key)),
            ("formerKey", str(Authority(bytes([2]) * 32).key)),
            ("cidrs", ["10.189.192.0/18"]),
        )
    ),
]
"""Each field with a value that is not its default."""
ON_NODES = {f"nodeReadiness.{field}" for field in ("condition", "taint", "taintOnReboot")}
"""These change nothing that the mesh is made of, but Nodes: see test_readiness."""


def leaves(schema: dict[str, Any], path: str = "") -> Iterator[str]:
    """Yield the paths of a schema's fields that have no fields themselves."""
    if schema.get("properties"):
        for name, part in schema["properties"].items():
            yield from leaves(part, f"{path}.{name}" if path else name)
    elif schema.get("type") == "array" and schema["items"].get("properties"):
        yield from leaves(schema["items"], f"{path}[]")
    else:
        yield path


def schema_of(kind: type[WesherMesh | WesherNode], part: str) -> dict[str, Any]:
    root = definition(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    found: dict[str, Any] = root["properties"][part]
    return found


def test_every_field_of_the_spec_is_tried() -> None:
    assert {path for path, _ in OTHERS} | ON_NODES == set(leaves(schema_of(WesherMesh, "spec")))


async def made_of(spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> str:
    """Return all that an operator writes for a mesh, but for its status and the key's bytes."""
    monkeypatch.setattr(kube, "_WRITE_SPACING", 0)
    store, world = Storing(), World()
    store.put("/api/v1/pods", {"metadata": {}, "columnDefinitions": [], "rows": []})
    slices = {"metadata": {"name": "kubernetes", "resourceVersion": "1"}, "ports": [{"port": 6443}]}
    world.observe(API_SERVER_ENDPOINTS, {**slices, "endpoints": [{"addresses": ["198.51.100.1"]}]})
    metadata = {"name": "demo", "uid": "u", "generation": 1}
    world.observe(MESH, store.put(MESH.path("", "demo"), {"metadata": metadata, "spec": spec}))
    for number, zone in enumerate("ab", start=1):
        addresses = [
            {"type": "InternalIP", "address": f"192.0.2.{number}"},
            {"type": "ExternalIP", "address": f"203.0.113.{number}"},
        ]
        labels = {"kubernetes.io/os": "linux", "zone": zone}
        about = {"name": f"n{number}", "labels": labels, "resourceVersion": str(number)}
        node = {"metadata": about, "spec": {"taints": [TAINT]}, "status": {"addresses": addresses}}
        world.observe(NODE, node)
    async with serving(store) as cluster:
        settings = AgentSettings(image="wesher:test")
        await MeshReconciler("demo", world, cluster, settings, clock=lambda: NOW, entropy=bytes).reconcile()
    written = [
        (request.method, request.path, {key: part for key, part in request.body.items() if key != "data"})
        if request.name == "secrets"
        else (request.method, request.path, request.body)
        for request in store.written
        if request.name != "status" and not request.path.endswith("/events")
    ]
    return json.dumps(written, sort_keys=True)


async def test_the_same_spec_makes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the next test would show nothing."""
    assert await made_of(BASE, monkeypatch) == await made_of(BASE, monkeypatch)


@pytest.mark.parametrize(("path", "value"), OTHERS, ids=[path for path, _ in OTHERS])
async def test_a_field_of_the_spec_changes_what_is_made(
    monkeypatch: pytest.MonkeyPatch, path: str, value: Any
) -> None:
    top, *inner = path.partition("[]")[0].split(".")
    for name in reversed(inner):
        value = {name: value}
    base = BASES.get(top, BASE)
    spec = {**base, top: {**TRAFFIC, **value} if top == "traffic" else value}
    assert await made_of(spec, monkeypatch) != await made_of(base, monkeypatch)


def test_agents_report_every_field_of_a_wesher_nodes_status() -> None:
    """An external member stands among them, and a condition; the mesh carries traffic."""
    meta = NodeMeta(
        overlay_address=ip_address("10.9.0.20"),
        public_key=WireGuardPublicKey(bytes([20]) * 32),
        version=META_VERSION,
    )
    laptop = RosterMember(
        name="laptop",
        address=Address("192.0.2.20", 7946),
        raw_meta=meta.encode(),
        meta=meta,
        problem="",
        state=MemberState.ALIVE,
        since=0.0,
    )
    carrying = local_node("a", mesh=document(traffic=TrafficSettings(nodes="All")))
    status = node_status(snapshot(laptop, local=carrying), (), time=NOW)
    of_the_operator = {"certificateDays"}
    assert set(told(status)) == set(leaves(schema_of(WesherNode, "status"))) - of_the_operator


def told(content: Any, path: str = "") -> Iterator[str]:
    """Yield the paths of an object's fields that hold no fields themselves."""
    if isinstance(content, dict):
        for name, part in content.items():
            yield from told(part, f"{path}.{name}" if path else name)
    elif isinstance(content, list) and content and isinstance(content[0], dict):
        for entry in content:
            yield from told(entry, f"{path}[]")
    else:
        yield path
