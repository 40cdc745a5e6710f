"""What agents report of the traffic that they carry, written to a real API server without agents."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from wesher_common.certificate import Certificate, Subject, Trust, refusal
from wesher_common.mesh_document import MeshDocument
from wesher_operator.kube import WESHER_NODE
from wesher_operator.reconcile.facts import MemberFacts, read_facts
from wesher_operator.reconcile.routes import held_networks
from wesher_testing.cluster.api_server import ApiServer
from wesher_testing.cluster.certified_agents import (
    Report,
    announced,
    boot,
    certify,
    document,
    identity,
    private_key,
)
from wesher_testing.cluster.operator_process import NAMESPACE, SOON, eventually

KEYS = {name: private_key(name) for name in "abc"}
"""Of the machines of three nodes."""
CIDRS = ["192.168.7.0/24"]
TRAFFIC = {"nodes": "All", "pods": "All", "nodeCIDRs": CIDRS}
Mesh = Callable[..., None]


def three_nodes(api: ApiServer) -> None:
    """Make the Nodes a, b and c, each with an InternalIP and a pod network."""
    for number, name in enumerate(KEYS, start=1):
        api.node(name, f"192.168.7.{number}", podCIDRs=[f"10.244.{number}.0/24"])
        boot(api, name, f"boot-{name}")


class Agents:
    """Report as agents do, each with its token, which only writes its own WesherNode."""

    def __init__(self, api: ApiServer, report: Report) -> None:
        self._api = api
        self._report = report

    def start(self, *names: str) -> None:
        """Have agents prove their keys and announce their certificates."""
        certify(self._api, self._report, **{name: KEYS[name] for name in names})
        for name in names:
            self._report(name, **announced(self._api, name, KEYS[name]))

    def says(
        self, name: str, reason: str = "", message: str = "", *, accepts: bool = True, routed: int = 0
    ) -> None:
        """Report that an agent has applied mesh.json and its WesherNode's spec.

        Args:
            name: of its node.
            reason: of its condition TrafficCarried; empty is none.
            message: the same.
            accepts: whether it accepts carried packets.
            routed: to how many networks it routes.

        """
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        status = {"Carried": "True", "Accepting": "Unknown"}.get(reason, "False")
        said = [("Ready", "True", "Ready", ""), ("TrafficCarried", status, reason, message)]
        conditions = [
            {"type": kind, "status": value, "reason": why, "message": text, "lastTransitionTime": now}
            for kind, value, why, text in said
            if why
        ]
        body = {
            "conditions": conditions,
            "traffic": {"accepts": accepts, "routed": routed},
            "lastReportTime": now,
            **announced(self._api, name, KEYS[name]),
        }
        path = f"/apis/wesher.dev/v1alpha1/weshernodes/demo.{name}/status"
        code, answer = self._api.patch(
            path, {"status": body}, token=self._api.token("wesher-agent", NAMESPACE, node=name)
        )
        assert code == HTTPStatus.OK, answer


def routes(api: ApiServer, node: str) -> list[str]:
    """Return the routes of a node; they are what its certificate says."""
    found = api.get("wnode", f"demo.{node}")
    listed = list(found["spec"].get("routes", []))
    member = read_facts(WESHER_NODE, found)
    assert isinstance(member, MemberFacts)
    issued = Certificate.from_base64(member.spec.certificate)
    trusted = {authority.id: Trust(key=authority) for authority in identity(api).authorities}
    subject = Subject(
        name=node, public_key=KEYS[node].public, address=member.address, networks=held_networks(member)
    )
    assert issued is not None
    assert refusal(issued, subject, trusted, clock=issued.serial) is None
    return listed


def until_routes(api: ApiServer, node: str, *wanted: str) -> None:
    """Wait until a node's certificate lists some networks, and no others."""
    eventually(lambda: sorted(routes(api, node)), within=SOON, until=sorted(wanted).__eq__)


def condition(api: ApiServer, mesh: str = "demo") -> dict[str, Any]:
    """Return the condition TrafficCarried of a mesh; empty while there is none."""
    entries = (api.get("wmesh", mesh).get("status") or {}).get("conditions", [])
    return next((entry for entry in entries if entry["type"] == "TrafficCarried"), {})


def until(api: ApiServer, reason: str, *words: str, mesh: str = "demo") -> dict[str, Any]:
    """Wait for a reason, and for a message that has some words."""
    return eventually(
        lambda: condition(api, mesh),
        within=SOON,
        until=lambda found: found.get("reason") == reason and all(word in found["message"] for word in words),
    )


def edit(api: ApiServer, **traffic: Any) -> None:
    """Change fields of the spec's traffic."""
    body = {"spec": {"traffic": traffic}}
    api.kubectl("patch", "wmesh", "demo", "--type=merge", "-p", json.dumps(body))


def until_published(api: ApiServer, *, is_on: bool) -> None:
    """Wait until mesh.json says so."""
    eventually(lambda: document(api), within=SOON, until=lambda read: carries(read) == is_on)


def carries(read: MeshDocument | None) -> bool | None:
    """Tell whether a mesh.json carries traffic; None if there is none."""
    return None if read is None else read.traffic.is_on


def all_routes(node: str) -> list[str]:
    """Return what the certificate of a node lists that carries everything."""
    number = list(KEYS).index(node) + 1
    return [f"192.168.7.{number}/32", f"10.244.{number}.0/24"]


def switch_on(api: ApiServer, mesh: Mesh, agents: Agents, **traffic: Any) -> None:
    """Bring a mesh of three nodes to carry everything."""
    mesh(traffic={**TRAFFIC, **traffic})
    agents.start(*KEYS)
    until_published(api, is_on=True)
    for name in KEYS:
        agents.says(name, "Accepting")
    for name in KEYS:
        until_routes(api, name, *all_routes(name))
    for name in KEYS:
        agents.says(name, "Carried", routed=4)
    until(api, "Carried")
