"""When certificates list what a mesh carries, and what its condition says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from wesher_common.conditions import Condition
from wesher_common.mesh_document import IdentitySettings, MeshDocument
from wesher_common.traffic import LAST_RULE, NO_TRAFFIC
from wesher_operator.kube import API_SERVER_ENDPOINTS, CONFIG_MAP, MESH, NODE, WESHER_NODE
from wesher_operator.reconcile import manifests
from wesher_operator.reconcile.documents import published_of, whole_document
from wesher_operator.reconcile.facts import MeshFacts, NodeFacts
from wesher_operator.reconcile.membership import Released
from wesher_operator.reconcile.pod_addresses import outside
from wesher_operator.reconcile.traffic import Obstacle, Plan, make_plan, mesh_condition
from wesher_operator.reconcile.world import World
from wesher_operator.resources.mesh import WesherMeshSpec

ON = {"nodes": "All", "pods": "All", "nodeCIDRs": ["192.0.2.0/24"]}
NAMES = "abc"
CERTIFICATE = "A" * 103 + "="
MAIN_TABLE_RULE = 32766


class Scene:
    """A mesh of three nodes, as an operator sees it that is asked again and again."""

    def __init__(self, **traffic: Any) -> None:
        self.world = World()
        self._version = 0
        slices = {"metadata": {"name": "kubernetes"}, "ports": [{"port": 6443}]}
        self.see(API_SERVER_ENDPOINTS, {**slices, "endpoints": [{"addresses": ["198.51.100.1"]}]})
        self.mesh_says(**traffic)
        for number, name in enumerate(NAMES, start=1):
            self.node(name, number)
            self.member(name)

    def see(self, kind: Any, body: dict[str, Any]) -> None:
        """Take in an object."""
        self._version += 1
        body["metadata"]["resourceVersion"] = str(self._version)
        self.world.observe(kind, body)

    def mesh_says(self, name: str = "demo", created: str = "2026-11-22T12:00:00Z", **traffic: Any) -> None:
        """Give a mesh a spec, and keep its status."""
        number = 189 if name == "demo" else 190
        spec: dict[str, Any] = {"overlayCIDR": f"10.{number}.0.0/16", "traffic": traffic}
        if name != "demo":
            spec |= {"wireguard": {"interface": "wgother", "port": 1}, "gossip": {"port": 2}}
        before = self.world.meshes.get(name)
        about = {"name": name, "uid": f"uid-{name}", "creationTimestamp": created}
        self.see(MESH, {"metadata": about, "spec": spec, "status": dict(before.status) if before else {}})

    def mesh_has(self, name: str, condition: Condition) -> None:
        """Give a mesh a condition."""
        mesh = self.world.meshes[name]
        self.world.meshes[name] = replace(mesh, status={"conditions": [condition.to_dict()]})

    def node(self, name: str, number: int, *, ready: bool = True, location: str = "") -> None:
        """Give a Node its address and pod network, both with this number."""
        condition = {"type": "Ready", "status": str(ready), "reason": "Kubelet"}
        about: dict[str, Any] = {"name": name, "creationTimestamp": "2026-11-22T12:00:00Z"}
        about |= {"annotations": {"wesher.dev/location": location}} if location else {}
        self.see(
            NODE,
            {
                "metadata": about,
                "spec": {"podCIDRs": [f"10.244.{number}.0/24"]},
                "status": {
                    "conditions": [condition],
                    "addresses": [{"type": "InternalIP", "address": f"192.0.2.{number}"}],
                },
            },
        )

    def member(self, name: str, *routes: str, said: str = "", **status: Any) -> None:
        """Give a node its WesherNode, with what its agent reports."""
        number = NAMES.index(name) + 1
        conditions = [
            {
                "type": "TrafficCarried",
                "status": {"Carried": "True", "Accepting": "Unknown"}.get(said, "False"),
                "reason": said,
                "message": "why",
                "lastTransitionTime": "2026-11-22T12:00:00Z",
            }
        ]
        spec = {
            "meshRef": {"name": "demo", "uid": "uid-demo"},
            "nodeName": name,
            "overlayIP": f"10.189.0.{number}",
            "routes": list(routes),
            "certificate": CERTIFICATE,
            "serial": 7,
        }
        report = {"certificateSerial": 7, "conditions": conditions if said else [], **status}
        self.see(
            WESHER_NODE, {"metadata": {"name": f"demo.{name}", "uid": name}, "spec": spec, "status": report}
        )

    def accepts(self, *names: str) -> None:
        """Have agents without routes report that they accept carried packets."""
        for name in names:
            self.member(name, traffic={"accepts": True, "routed": 0})

    @property
    def mesh(self) -> MeshFacts:
        """The mesh as it was seen last."""
        return self.world.meshes["demo"]

    @property
    def desired(self) -> list[NodeFacts]:
        """Its nodes."""
        return [self.world.nodes[name] for name in NAMES]

    def plan(self, pods: Obstacle | None = None) -> Plan:
        """Decide as a run does."""
        assert self.mesh.spec is not None
        return make_plan(self.mesh, self.mesh.spec, self.world, desired=self.desired, pods=pods)

    def publish(self) -> MeshDocument:
        """Write mesh.json as the operator does at the end of a run."""
        assert self.mesh.spec is not None
        document = whole_document(
            self.mesh,
            self.mesh.spec,
            self.world,
            desired=self.desired,
            released=Released(),
            identity=IdentitySettings(),
            traffic=self.plan().settings,
        )
        self.see(CONFIG_MAP, manifests.config_map(self.mesh, document, b""))
        found = published_of(self.mesh, self.world)
        assert found is not None
        return found

    def condition(self, plan: Plan | None = None) -> Condition | None:
        """Return the condition of the mesh."""
        members = self.world.own_members(self.mesh)
        return mesh_condition(plan or self.plan(), self.mesh, self.desired, members)

    def says(self, plan: Plan | None = None) -> tuple[str, str]:
        """Return status and reason of the condition, which must be there."""
        found = self.condition(plan)
        assert found is not None
        return found.status, found.reason


def listed(plan: Plan) -> dict[str, list[str]]:
    return {name: sorted(map(str, networks)) for name, networks in plan.networks.items()}


def full(*names: str) -> dict[str, list[str]]:
    """Return what the certificates of some nodes list in the end, and of the others nothing."""
    numbers = {name: number for number, name in enumerate(NAMES, start=1)}
    return {
        name: [f"10.244.{number}.0/24", f"192.0.2.{number}/32"] if name in names else []
        for name, number in numbers.items()
    }


def test_a_mesh_that_carries_nothing_has_no_settings_no_networks_and_no_condition() -> None:
    scene = Scene()
    assert (scene.plan().settings, listed(scene.plan()), scene.condition()) == (NO_TRAFFIC, full(), None)
    assert "traffic" not in scene.publish().to_dict()


def test_settings_reach_mesh_json_with_their_defaults() -> None:
    assert Scene(**ON).publish().to_dict()["traffic"] == {
        "nodes": "All",
        "pods": "All",
        "nodeCIDRs": ["192.0.2.0/24"],
        "direct": ["tcp/2379", "tcp/2380"],
        "apiServers": ["198.51.100.1:6443"],
        "mark": 0x80,
        "table": 1870,
        "rulePriority": 1870,
    }
    own = {"direct": [], "mark": 64, "table": 300, "rulePriority": 40, "apiServer": "Mesh"}
    found = Scene(**ON, **own).publish().to_dict()["traffic"]
    assert found == {**found, "direct": [], "mark": 64, "table": 300, "rulePriority": 40, "apiServers": []}


def test_networks_are_certified_once_every_agent_on_a_ready_node_accepts() -> None:
    scene = Scene(**ON)
    scene.accepts("a", "b")
    assert listed(scene.plan()) == full()
    found = scene.condition()
    assert found is not None
    assert (found.status, found.reason) == ("Unknown", "WaitingForAgents")
    assert found.message.endswith(": c")
    scene.accepts("c")
    assert listed(scene.plan()) == full("a", "b", "c")


def test_an_agent_on_a_node_that_is_not_ready_holds_up_none_and_gets_no_networks_before_it_accepts() -> None:
    scene = Scene(**ON)
    scene.accepts("a", "b")
    scene.node("c", 3, ready=False)
    assert listed(scene.plan()) == full("a", "b")


def test_without_a_ready_node_nothing_is_certified() -> None:
    scene = Scene(**ON)
    for number, name in enumerate(NAMES, start=1):
        scene.node(name, number, ready=False)
        scene.accepts(name)
    assert listed(scene.plan()) == full()
    assert scene.says() == ("Unknown", "WaitingForAgents")


def test_a_node_that_joins_while_others_carry_waits_for_its_own_agent_alone() -> None:
    scene = Scene(**ON)
    scene.member("a", *full("a")["a"], traffic={"accepts": True, "routed": 2})
    assert listed(scene.plan()) == full("a")
    scene.accepts("b")
    assert listed(scene.plan()) == full("a", "b")


def test_a_node_keeps_its_networks_while_its_agent_restarts_and_reports_nothing() -> None:
    """Otherwise the others would send packets to it in clear."""
    scene = Scene(**ON)
    for name in NAMES:
        scene.member(name, *full(name)[name])
    assert listed(scene.plan()) == full(*NAMES)


def test_a_changed_address_is_certified_at_once() -> None:
    scene = Scene(**ON)
    scene.member("a", *full("a")["a"])
    scene.node("a", 9)
    assert listed(scene.plan())["a"] == ["10.244.9.0/24", "192.0.2.9/32"]


def said_of(document: MeshDocument, *, routed: int) -> dict[str, Any]:
    """Return what an agent reports that has applied mesh.json."""
    return {"traffic": {"accepts": True, "routed": routed}, "configHash": document.config_hash}


def carrying(**traffic: Any) -> tuple[Scene, MeshDocument]:
    """Return a mesh that carries everything, and its mesh.json."""
    scene = Scene(**{**ON, **traffic})
    document = scene.publish()
    for name in NAMES:
        report: dict[str, Any] = {
            "traffic": {"accepts": True, "routed": 4},
            "configHash": document.config_hash,
        }
        scene.member(name, *full(name)[name], said="Carried", **report)
    return scene, document


def test_a_mesh_carries_once_every_agent_says_so() -> None:
    scene, _ = carrying()
    assert scene.says() == ("True", "Carried")
    scene.member("b", *full("b")["b"], said="Accepting", traffic={"accepts": True, "routed": 0})
    found = scene.condition()
    assert found is not None
    assert (found.status, found.reason) == ("Unknown", "WaitingForAgents")
    assert found.message == "2 of 3 nodes carry traffic; not yet: b"


def test_what_an_agent_cannot_do_is_the_meshs_reason() -> None:
    scene, _ = carrying()
    scene.member("b", *full("b")["b"], said="RuleConflict", traffic={"accepts": True, "routed": 0})
    found = scene.condition()
    assert found is not None
    assert (found.status, found.reason, found.message) == ("False", "RuleConflict", "b: why")


def test_networks_stay_in_the_certificates_until_every_agent_has_stopped_routing() -> None:
    scene, _ = carrying()
    scene.mesh_says()
    assert listed(scene.plan()) == full(*NAMES)
    document = scene.publish()
    assert document.traffic == NO_TRAFFIC
    for name in "ab":
        report: dict[str, Any] = {
            "traffic": {"accepts": True, "routed": 0},
            "configHash": document.config_hash,
        }
        scene.member(name, *full(name)[name], **report)
    scene.member(
        "c", *full("c")["c"], traffic={"accepts": True, "routed": 4}, configHash=document.config_hash
    )
    found = scene.condition()
    assert found is not None
    assert (found.status, found.reason) == ("Unknown", "WaitingForAgents")
    assert found.message.endswith(": c")
    assert listed(scene.plan()) == full(*NAMES)

    scene.member("c", *full("c")["c"], configHash=document.config_hash)
    assert listed(scene.plan()) == full()


def test_an_agent_that_reports_of_an_earlier_configuration_has_not_stopped() -> None:
    scene, former = carrying()
    scene.mesh_says()
    scene.publish()
    for name in NAMES:
        scene.member(name, *full(name)[name], configHash=former.config_hash)
    assert listed(scene.plan()) == full(*NAMES)


def test_pods_alone_are_switched_off_in_the_same_order() -> None:
    scene, _ = carrying()
    scene.mesh_says(nodes="All", nodeCIDRs=["192.0.2.0/24"])
    assert listed(scene.plan()) == full(*NAMES)
    document = scene.publish()
    for name in NAMES:
        report: dict[str, Any] = {
            "traffic": {"accepts": True, "routed": 2},
            "configHash": document.config_hash,
        }
        scene.member(name, *full(name)[name], **report)
    assert listed(scene.plan()) == {name: [f"192.0.2.{n}/32"] for n, name in enumerate(NAMES, start=1)}


def test_an_agent_that_knows_nothing_of_traffic_does_not_hold_up_the_end_of_pods_alone() -> None:
    scene, former = carrying()
    scene.mesh_says(nodes="All", nodeCIDRs=["192.0.2.0/24"])
    document = scene.publish()
    for name in "ab":
        scene.member(name, *full(name)[name], **said_of(document, routed=2))
    scene.member("c", configHash=replace(former, traffic=NO_TRAFFIC).config_hash)
    assert listed(scene.plan()) == {"a": ["192.0.2.1/32"], "b": ["192.0.2.2/32"], "c": []}


def test_who_still_has_networks_when_every_agent_has_stopped_is_named() -> None:
    scene, _ = carrying()
    scene.mesh_says()
    document = scene.publish()
    scene.member("a", configHash=document.config_hash)
    for name in "bc":
        scene.member(name, *full(name)[name], configHash=document.config_hash)
    found = scene.condition()
    assert found is not None
    assert found.message == "switching off: certificates that still list networks: b, c"


def test_pods_with_other_addresses_keep_pod_networks_from_being_certified_and_nodes_are_carried() -> None:
    scene = Scene(**ON)
    scene.accepts(*NAMES)
    plan = scene.plan(Obstacle("PodsOutsidePodCIDR", "pod web"))
    assert listed(plan) == {name: [f"192.0.2.{n}/32"] for n, name in enumerate(NAMES, start=1)}
    assert scene.says(plan) == ("False", "PodsOutsidePodCIDR")


def test_pods_with_other_addresses_do_not_end_what_is_carried_already() -> None:
    scene, _ = carrying()
    plan = scene.plan(Obstacle("PodsOutsidePodCIDR", "pod web"))
    assert listed(plan) == full(*NAMES)
    assert scene.says(plan) == ("False", "PodsOutsidePodCIDR")


@pytest.mark.parametrize(
    ("ip", "on", "is_outside"),
    [
        ("10.244.1.7", "a", False),
        ("10.10.0.7", "a", True),
        ("10.244.2.7", "a", True),
        ("10.10.0.7", "elsewhere", False),
        ("<none>", "a", False),
    ],
)
def test_a_pod_outside_the_networks_of_its_node_is_named(ip: str, on: str, *, is_outside: bool) -> None:
    found = outside([{"Name": "web", "IP": ip, "Node": on}], Scene().desired)
    assert (found is not None) == is_outside
    if found is not None:
        assert found.reason == "PodsOutsidePodCIDR"
        assert all(word in found.message for word in ("pod web", "Node a", ip, "10.244.1.0/24"))


def test_other_locations_need_two_of_them() -> None:
    scene, _ = carrying(nodes="OtherLocations", pods="None")
    assert scene.says() == ("False", "OneLocation")
    scene.node("a", 1, location="east")
    assert scene.says() == ("False", "OneLocation")
    scene.node("b", 2, location="west")
    assert scene.says()[1] != "OneLocation"


def test_a_refused_address_is_the_meshs_reason_and_the_other_networks_are_certified() -> None:
    scene = Scene(**{**ON, "nodeCIDRs": ["192.0.2.0/31"]})
    scene.accepts(*NAMES)
    found = scene.condition()
    assert found is not None
    assert (found.status, found.reason) == ("False", "AddressNotCertified")
    assert "InternalIP 192.0.2.2 of Node b" in found.message
    assert listed(scene.plan())["b"] == ["10.244.2.0/24"]


def test_the_second_mesh_that_wants_to_carry_names_both_and_carries_nothing() -> None:
    scene = Scene(**ON)
    scene.mesh_says("other", "2026-11-01T12:00:00Z", **ON)
    scene.accepts(*NAMES)
    plan = scene.plan()
    assert (plan.settings, listed(plan)) == (NO_TRAFFIC, full())
    found = scene.condition(plan)
    assert found is not None
    assert (found.status, found.reason) == ("False", "Conflict")
    assert "meshes demo and other" in found.message


def test_a_mesh_that_carries_stays_the_first_when_an_older_one_wants_to() -> None:
    scene, _ = carrying()
    scene.mesh_has(
        "demo",
        Condition("TrafficCarried", "True", "Carried", "", last_transition_time="2026-11-22T12:00:00Z"),
    )
    scene.mesh_says("other", "2026-11-01T12:00:00Z", **ON)
    assert scene.says() == ("True", "Carried")


def test_a_mesh_that_is_refused_itself_keeps_no_other_from_carrying() -> None:
    scene = Scene(**ON)
    scene.mesh_says("other", "2026-11-23T12:00:00Z", **ON)
    scene.mesh_has(
        "other",
        Condition(
            "TrafficCarried", "Unknown", "WaitingForAgents", "", last_transition_time="2026-11-22T12:00:00Z"
        ),
    )
    assert scene.plan().settings == NO_TRAFFIC
    spec = scene.world.meshes["other"].spec
    assert spec is not None
    clash = spec.model_copy(update={"overlay_cidr": "10.189.0.0/16"})
    scene.world.meshes["other"] = replace(scene.world.meshes["other"], spec=clash)
    assert scene.plan().settings.is_on


def test_without_the_api_servers_address_nothing_begins_and_nothing_ends() -> None:
    scene = Scene(**ON)
    scene.world.api_server.clear()
    assert scene.plan().settings == NO_TRAFFIC
    assert scene.says() == ("False", "ApiServerUnknown")
    scene, document = carrying()
    scene.world.api_server.clear()
    assert scene.plan().settings == document.traffic
    assert scene.says() == ("True", "Carried")


@pytest.mark.parametrize("priority", range(32757, 32768))
def test_a_priority_that_the_api_server_admits_is_one_that_agents_take(priority: int) -> None:
    try:
        spec = WesherMeshSpec.model_validate(
            {"overlayCIDR": "10.189.0.0/16", "traffic": {**ON, "rulePriority": priority}}
        )
    except ValidationError:
        assert priority + LAST_RULE >= MAIN_TABLE_RULE
    else:
        assert spec.traffic_settings.rule_priority == priority
        assert priority + LAST_RULE < MAIN_TABLE_RULE
