"""What a mesh carries of the cluster's own traffic, as its custom resources say it.

Pure: `status` shows it, and `traffic_checks` looks for what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from wesher_common.conditions import Condition, find_condition
from wesher_operator.kubectl.json_output import NodeTrafficOutput, TrafficOutput
from wesher_operator.kubectl.meshes import status_of
from wesher_operator.kubectl.reach import Object

CONDITION = "TrafficCarried"
OFF = "None"
ONLY_OVERLAY = "to overlay addresses only"
_NOT_REPORTED = Condition(CONDITION, "Unknown", "NotReported")
_MAX_NAMED = 5


def traffic_spec(mesh: Object) -> dict[str, Any]:
    """Return ``spec.traffic``; empty in a mesh of a release without it."""
    return dict(mesh["spec"].get("traffic") or {})


def carries_nodes(mesh: Object) -> bool:
    """Tell whether packets to nodes' addresses are to be carried."""
    return str(traffic_spec(mesh).get("nodes") or OFF) != OFF


def carries_pods(mesh: Object) -> bool:
    """Tell whether packets to pods of this cluster are to be carried."""
    return str(traffic_spec(mesh).get("pods") or OFF) not in {OFF, "OtherClusters"}


def is_on(mesh: Object) -> bool:
    """Tell whether the mesh is to carry anything besides packets to overlay addresses."""
    return any(str(traffic_spec(mesh).get(kind) or OFF) != OFF for kind in ("nodes", "pods"))


def traffic_of(mesh: Object, nodes: Sequence[Object]) -> TrafficOutput:
    """Return what the mesh carries, and what each node does.

    Args:
        mesh: the WesherMesh.
        nodes: its WesherNodes.

    """
    spec, shown = traffic_spec(mesh), [_node(node) for node in nodes]
    said = find_condition(status_of(mesh).get("conditions") or [], CONDITION)
    carrying = sum(each["carried"] == "True" for each in shown)
    return {
        "nodes": str(spec.get("nodes") or OFF),
        "pods": str(spec.get("pods") or OFF),
        "apiServer": str(spec.get("apiServer") or "Direct"),
        "carried": said.status if said is not None else "False" if not is_on(mesh) else "Unknown",
        "reason": said.reason if said is not None else "",
        "message": said.message if said is not None else "",
        "summary": f"{carrying}/{len(shown)}" if is_on(mesh) else "",
        "nodeList": shown,
    }


def traffic_text(mesh: Object, nodes: Sequence[Object]) -> str:
    """Return what is carried, by how many nodes, and what the others wait for, as a phrase."""
    found = traffic_of(mesh, nodes)
    if not is_on(mesh):
        ending = [each["name"] for each in found["nodeList"] if each["routed"]]
        return f"{ONLY_OVERLAY}, not yet on {_few(ending)}" if ending else ONLY_OVERLAY
    ways = [f"nodes {found['nodes']}", f"pods {found['pods']}"]
    if found["apiServer"] == "Mesh":
        ways.append("API server Mesh")
    carrying, _, of = found["summary"].partition("/")
    text = f"{', '.join(ways)}: carried by {carrying} of {of} nodes"
    refused = [
        f"{each['name']} ({each['reason']})" for each in found["nodeList"] if each["carried"] == "False"
    ]
    if refused:
        text += f", not by {_few(refused)}"
    if found["carried"] == "Unknown" and found["message"]:
        text += f"; {found['message']}"
    return text


def node_text(node: Object) -> str:
    """Return what one node carries, for a column of a table."""
    found = _node(node)
    if found["routed"]:
        return f"{found['routed']} networks" if found["routed"] > 1 else "1 network"
    return "accepts" if found["accepts"] else "-"


def _node(node: Object) -> NodeTrafficOutput:
    status = status_of(node)
    said = find_condition(status.get("conditions") or [], CONDITION) or _NOT_REPORTED
    report = status.get("traffic") or {}
    return {
        "name": str(node["spec"]["nodeName"]),
        "carried": said.status,
        "reason": said.reason,
        "message": said.message,
        "accepts": bool(report.get("accepts")),
        "routed": int(report.get("routed") or 0),
        "certified": [str(network) for network in node["spec"].get("routes") or []],
    }


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(names[:_MAX_NAMED]) + more
