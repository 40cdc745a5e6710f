"""What Nodes say of their tunnels, and what of it is written when."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from wesher_common.conditions import find_condition, rfc3339
from wesher_common.names import TUNNELS_READY
from wesher_operator import kube
from wesher_operator.kube import MESH, NODE, WESHER_NODE, Cluster
from wesher_operator.reconcile import places, readiness
from wesher_operator.reconcile.allocation import machine
from wesher_operator.reconcile.readiness import ReadinessKeeper, clear
from wesher_operator.reconcile.status import Findings, stale_after
from wesher_operator.reconcile.world import World
from wesher_testing.cluster.fake_api_server import Answer, Request, Storing, serving

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
TAINT = "wesher.dev/tunnels-not-ready:NoSchedule"
STARTUP = {"key": "wesher.dev/tunnels-not-ready", "effect": "NoSchedule"}
OTHER = {"key": "gpu", "value": "yes", "effect": "NoExecute", "timeAdded": "2026-11-30T10:00:00Z"}
ALIVE = {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": rfc3339(NOW)}
CARRIED = {"type": "TrafficCarried", "status": "True", "reason": "Carried"}
NOT_AUTHORIZED = 'nodes "a" is forbidden: User "system:x" cannot patch resource "{}" in API group ""'


@pytest.fixture(autouse=True)
def at_full_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube, "_WRITE_SPACING", 0)


@dataclass
class Stage:
    """A mesh with its Nodes, before an API server that keeps them."""

    _cluster: Cluster | None = None
    store: Storing = field(default_factory=Storing)
    world: World = field(default_factory=World)
    refuses: dict[str, Answer] = field(default_factory=dict)
    """What is answered to a write of a path that ends so."""
    asked: list[Request] = field(default_factory=list)
    meanwhile: Callable[[], None] = lambda: None
    """Called after each read of a Node."""
    now: datetime = NOW
    keepers: dict[str, ReadinessKeeper] = field(default_factory=dict)

    @property
    def cluster(self) -> Cluster:
        """The API server, as the operator uses it."""
        assert self._cluster is not None
        return self._cluster

    def answer(self, request: Request) -> Answer:
        """Answer one request."""
        self.asked.append(request)
        for end, refusal in self.refuses.items():
            if request.method != "GET" and request.path.endswith(end):
                return refusal
        based_on = (request.body.get("metadata") or {}).get("resourceVersion")
        current = self.store(Request("GET", request.path, "", {}))[1].get("metadata") or {}
        if based_on not in {None, current.get("resourceVersion")}:
            return 409, {"kind": "Status", "code": 409, "message": "the object has been modified"}
        answer = self.store(request)
        if request.method == "GET" and "/nodes/" in request.path:
            self.meanwhile()
        return answer

    def mesh(self, name: str = "demo", *, created: str = "2026-11-01T00:00:00Z", **spec: Any) -> None:
        """Make a mesh, or change its spec."""
        before = self.world.meshes.get(name)
        metadata = {"name": name, "uid": name, "creationTimestamp": created}
        body = {"metadata": metadata, "spec": {"overlayCIDR": "10.189.0.0/16", **spec}}
        body["status"] = dict(before.status) if before else {}
        self.world.observe(MESH, self.store.put(MESH.path("", name), body))

    def mesh_says(self, **condition: str) -> None:
        """Have the mesh's status say this alone."""
        body = self.store(Request("GET", MESH.path("", "demo"), "", {}))[1]
        body["status"] = {"conditions": [condition]}
        self.world.observe(MESH, self.store.put(MESH.path("", "demo"), body))

    def node(self, name: str, *, boot: str = "1", taints: Any = (STARTUP, OTHER)) -> None:
        """Make a Node, or have its kubelet write it after a boot."""
        metadata = {"name": name, "uid": f"uid-{name}", "labels": {"kubernetes.io/os": "linux"}}
        found = self.node_object(name)
        conditions = (found.get("status") or {}).get("conditions") or [ALIVE]
        said = {"conditions": conditions, "nodeInfo": {"bootID": boot}}
        body = {"metadata": metadata, "spec": {"taints": list(taints)}, "status": said}
        self.world.observe(NODE, self.store.put(NODE.path("", name), body))

    def report(
        self,
        name: str,
        *,
        mesh: str = "demo",
        ready: str = "True",
        ago: float = 0,
        former: bool = False,
        **status: Any,
    ) -> None:
        """Report as the node's agent does, which has applied what its WesherNode says."""
        is_machine = machine(self.world.nodes[name])
        spec = {"meshRef": {"name": mesh, "uid": mesh}, "nodeName": name, "overlayIP": "10.189.0.1"}
        spec["machine"] = is_machine
        conditions = [{"type": "Ready", "status": ready, "reason": "Some"}, *status.pop("conditions", [])]
        said = {
            "conditions": [{"lastTransitionTime": rfc3339(self.now), "message": "", **c} for c in conditions],
            "machine": "another" if former else is_machine,
            "lastReportTime": rfc3339(self.now - timedelta(seconds=ago)),
            **status,
        }
        metadata = {"name": f"{mesh}.{name}", "uid": f"{mesh}.{name}"}
        body = self.store.put(
            WESHER_NODE.path("", f"{mesh}.{name}"), {"metadata": metadata, "spec": spec, "status": said}
        )
        self.world.observe(WESHER_NODE, body)

    def node_object(self, name: str) -> dict[str, Any]:
        """Return a Node as the API server has it."""
        return self.store(Request("GET", NODE.path("", name), "", {}))[1]

    def watch(self) -> None:
        """Take in what was written, as the watch brings it."""
        for name in list(self.world.nodes):
            self.world.observe(NODE, self.node_object(name))

    async def run(
        self, mesh: str = "demo", *, of: tuple[str, ...] | None = None, seen: bool = True
    ) -> tuple[tuple[str, str, str] | None, datetime | None]:
        """Run once; return what the mesh says, and when to go on."""
        facts = self.world.meshes[mesh]
        desired = [node for name, node in sorted(self.world.nodes.items()) if of is None or name in of]
        findings = Findings(desired=desired, members=self.world.members_of(mesh))
        keeper = self.keepers.setdefault(mesh, ReadinessKeeper(mesh, self.world, self.cluster))
        findings, again = await keeper.keep(facts, findings, now=self.now)
        if seen:
            self.watch()
        said = findings.node_readiness
        return (None if said is None else (said.status, said.reason, said.message)), again

    def said(self, name: str) -> tuple[str, str] | None:
        """Return status and reason of a Node's condition; None if it has none."""
        found = find_condition(
            (self.node_object(name).get("status") or {}).get("conditions") or [], TUNNELS_READY
        )
        return None if found is None else (found.status, found.reason)

    def taints(self, name: str) -> list[dict[str, Any]]:
        """Return a Node's taints."""
        return self.node_object(name)["spec"].get("taints") or []

    def writes(self) -> int:
        """Return how many writes there were since this was last asked."""
        count = sum(request.method != "GET" for request in self.asked)
        self.asked.clear()
        return count


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    made = Stage()
    async with serving(made.answer) as made._cluster:
        yield made


async def test_a_node_is_ready_once_its_agent_says_so(stage: Stage) -> None:
    stage.mesh(nodeReadiness={"condition": True})
    for name in "abcd":
        stage.node(name)
    stage.report("a")
    stage.report("b", ready="False")
    stage.report("c", ago=stale_after(4).total_seconds() + 1)
    said, _ = await stage.run()
    assert said == ("True", "NodesWritten", "the tunnels of 1 of 4 Nodes are ready")
    assert [stage.said(name) for name in "abcd"] == [
        ("True", "TunnelsReady"),
        ("False", "Some"),
        ("Unknown", "NoReport"),
        ("Unknown", "NotReported"),
    ]
    assert stage.node_object("a")["status"]["conditions"][0] == ALIVE
    assert all(stage.taints(name) == [STARTUP, OTHER] for name in "abcd")


async def test_a_report_from_before_the_last_boot_does_not_count(stage: Stage) -> None:
    stage.mesh(nodeReadiness={"condition": True, "taint": TAINT})
    stage.node("a")
    stage.report("a", former=True)
    await stage.run()
    assert stage.said("a") == ("Unknown", "NotReported")
    stage.report("a")
    stage.node("a", boot="2")  # before its WesherNode says so
    await stage.run()
    assert stage.said("a") == ("Unknown", "NotReported")
    assert stage.taints("a") == [STARTUP, OTHER]


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ({}, ("Unknown", "NotReported")),
        ({"conditions": [CARRIED]}, ("Unknown", "NotReported")),
        ({"conditions": [CARRIED], "traffic": {"accepts": False}}, ("Unknown", "NotReported")),
        (
            {
                "conditions": [{**CARRIED, "status": "Unknown", "reason": "Accepting"}],
                "traffic": {"accepts": True},
            },
            ("Unknown", "Accepting"),
        ),
        ({"conditions": [CARRIED], "traffic": {"accepts": True}}, ("True", "TunnelsReady")),
    ],
)
async def test_a_node_of_a_mesh_that_carries_traffic_is_ready_once_it_carries(
    stage: Stage, status: dict[str, Any], said: tuple[str, str]
) -> None:
    stage.mesh(
        nodeReadiness={"condition": True, "taint": TAINT},
        traffic={"nodes": "All", "nodeCIDRs": ["10.0.0.0/8"]},
    )
    stage.node("a")
    stage.report("a", **status)
    await stage.run()
    assert stage.said("a") == said
    assert (stage.taints("a") == [OTHER]) is (said[0] == "True")


async def test_a_mesh_with_one_location_has_nothing_to_carry_and_keeps_no_node_waiting(stage: Stage) -> None:
    traffic = {"nodes": "OtherLocations", "nodeCIDRs": ["10.0.0.0/8"]}
    stage.mesh(nodeReadiness={"condition": True}, traffic=traffic)
    stage.mesh_says(type="TrafficCarried", status="False", reason="OneLocation")
    stage.node("a")
    stage.report("a", conditions=[{**CARRIED, "status": "Unknown", "reason": "Accepting"}])
    await stage.run()
    assert stage.said("a") == ("True", "TunnelsReady")


async def test_nothing_is_written_while_nothing_changes(stage: Stage) -> None:
    stage.mesh(nodeReadiness={"condition": True, "taint": TAINT})
    stage.node("a")
    stage.report("a")
    await stage.run()
    assert stage.writes() == 2
    stage.now += timedelta(minutes=5)
    stage.report("a", peers={"summary": "7/7"})
    assert (await stage.run())[1] is None
    assert stage.writes() == 0


async def test_a_write_whose_news_is_on_its_way_is_not_repeated(stage: Stage) -> None:
    stage.mesh(nodeReadiness={"condition": True, "taint": TAINT})
    stage.node("a")
    stage.report("a")
    await stage.run(seen=False)
    assert stage.writes() == 2
    await stage.run(seen=False)
    assert stage.writes() == 0
    # News that never came: the Node may have been changed back since.
    stage.now += timedelta(seconds=6)
    await stage.run(seen=False)
    assert stage.writes() == 1


async def test_the_transition_time_is_that_of_the_status(stage: Stage) -> None:
    stage.mesh(nodeReadiness={"condition": True})
    stage.node("a")
    stage.report("a", ready="False")
    await stage.run()
    first = stage.node_object("a")["status"]["conditions"][1]
    stage.now += timedelta(minutes=1)
    stage.report("a", conditions=[], ready="Unknown")
    body = stage.node_object("a")
    body["status"]["conditions"][1]["reason"] = "Former"
    stage.world.observe(NODE, stage.store.put(NODE.path("", "a"), body))
    await stage.run()
    second = stage.node_object("a")["status"]["conditions"][1]
    assert (first["lastTransitionTime"], second["reason"]) == (rfc3339(NOW), "Some")
    assert second["lastTransitionTime"] == first["lastTransitionTime"]
    stage.report("a")
    await stage.run()
    assert stage.node_object("a")["status"]["conditions"][1]["lastTransitionTime"] == rfc3339(stage.now)


async def test_the_condition_goes_with_the_switch_and_with_the_node(stage: Stage) -> None:
    stage.mesh(nodeReadiness={"condition": True})
    for name in "ab":
        stage.node(name)
        stage.report(name)
    await stage.run()
    await stage.run(of=("a",))
    assert (stage.said("a"), stage.said("b")) == (("True", "TunnelsReady"), None)
    stage.mesh()
    assert (await stage.run())[0] is None
    assert stage.said("a") is None
    assert stage.node_object("a")["status"]["conditions"] == [ALIVE]


async def test_the_conditions_go_with_the_last_mesh(stage: Stage) -> None:
    stage.mesh(nodeReadiness={"condition": True})
    stage.node("a")
    stage.report("a")
    await stage.run()
    await clear(stage.world, stage.cluster)
    assert stage.said("a") is not None
    stage.world.forget(MESH, {"metadata": {"name": "demo", "resourceVersion": "99999"}})
    await clear(stage.world, stage.cluster)
    assert stage.said("a") is None


async def test_the_oldest_of_two_meshes_writes_the_condition_and_the_other_says_so(stage: Stage) -> None:
    stage.mesh("demo", created="2026-11-02T00:00:00Z", nodeReadiness={"condition": True})
    stage.mesh("older", created="2026-11-01T00:00:00Z", nodeReadiness={"condition": True})
    stage.node("a")
    stage.report("a")
    stage.report("a", mesh="older", ready="False")
    said, _ = await stage.run()
    assert said is not None
    assert said[:2] == ("False", "Conflict")
    assert "mesh older" in said[2]
    assert stage.said("a") is None
    await stage.run("older")
    await stage.run()
    assert stage.said("a") == ("False", "Some")
    stage.mesh("older")
    await stage.run("older")
    assert (await stage.run())[0] == ("True", "NodesWritten", "the tunnels of 1 of 1 Nodes are ready")
    assert stage.said("a") == ("True", "TunnelsReady")


async def test_the_oldest_of_two_meshes_that_name_one_taint_removes_it(stage: Stage) -> None:
    stage.mesh("demo", created="2026-11-02T00:00:00Z", nodeReadiness={"taint": TAINT})
    stage.mesh("older", created="2026-11-01T00:00:00Z", nodeReadiness={"taint": TAINT})
    stage.node("a")
    stage.report("a")
    stage.report("a", mesh="older", ready="False")
    said, _ = await stage.run()
    assert said is not None
    assert said[:2] == ("False", "Conflict")
    await stage.run("older")
    assert stage.taints("a") == [STARTUP, OTHER]
    stage.mesh("older", created="2026-11-01T00:00:00Z", nodeReadiness={"taint": "other.example/x:NoSchedule"})
    await stage.run()
    assert stage.taints("a") == [OTHER]


async def test_a_taint_that_comes_between_reading_and_writing_is_kept(stage: Stage) -> None:
    stage.mesh(nodeReadiness={"taint": TAINT})
    stage.node("a")
    stage.report("a")
    cordon = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}

    def interfere() -> None:
        stage.meanwhile = lambda: None
        body = stage.node_object("a")
        body["spec"] = {"taints": [*body["spec"]["taints"], cordon]}
        stage.store.put(NODE.path("", "a"), dict(body, metadata=dict(body["metadata"])))

    stage.meanwhile = interfere
    await stage.run()
    assert stage.taints("a") == [OTHER, cordon]


async def test_a_node_that_others_keep_writing_is_tried_again_a_moment_later(stage: Stage) -> None:
    stage.mesh(nodeReadiness={"taint": TAINT})
    stage.node("a")
    stage.report("a")

    def interfere() -> None:
        body = stage.node_object("a")
        stage.store.put(NODE.path("", "a"), dict(body, metadata=dict(body["metadata"])))

    stage.meanwhile = interfere
    _, again = await stage.run()
    assert stage.taints("a") == [STARTUP, OTHER]
    assert stage.writes() == 3
    assert again == NOW + timedelta(seconds=1)


@pytest.mark.parametrize(
    ("asked", "removed"),
    [
        ("k:NoSchedule", True),
        ("k=v:NoSchedule", True),
        ("k=w:NoSchedule", False),
        ("k:NoExecute", False),
    ],
)
async def test_only_the_taint_that_is_named_is_removed(stage: Stage, asked: str, *, removed: bool) -> None:
    stage.mesh(nodeReadiness={"taint": asked})
    stage.node("a", taints=[{"key": "k", "value": "v", "effect": "NoSchedule"}])
    stage.report("a")
    await stage.run()
    assert (stage.taints("a") == []) is removed


@pytest.mark.parametrize("asks", [True, False])
async def test_the_taint_comes_back_after_a_reboot_where_that_is_asked(stage: Stage, *, asks: bool) -> None:
    stage.mesh(nodeReadiness={"taint": TAINT, "taintOnReboot": asks})
    stage.node("a")
    stage.report("a")
    await stage.run()
    stage.node("a", boot="2", taints=[OTHER])
    await stage.run()
    assert stage.taints("a") == ([OTHER, STARTUP] if asks else [OTHER])
    # An administrator who removes it wants it gone.
    stage.watch()
    await stage.run()
    stage.node("a", boot="2", taints=[OTHER])
    await stage.run()
    assert stage.taints("a") == [OTHER]
    stage.report("a")
    await stage.run()
    stage.node("a", boot="3", taints=[OTHER])
    await stage.run()
    assert stage.taints("a") == ([OTHER, STARTUP] if asks else [OTHER])
    stage.report("a")
    await stage.run()
    assert stage.taints("a") == [OTHER]


async def test_a_node_that_is_not_known_to_have_rebooted_is_never_tainted(stage: Stage) -> None:
    """Neither one that fails, nor one that had another boot before this operator saw it ready."""
    stage.mesh(nodeReadiness={"taint": TAINT, "taintOnReboot": True})
    stage.node("a", taints=[])
    stage.report("a")
    await stage.run()
    stage.report("a", ready="False")
    await stage.run()
    assert stage.taints("a") == []
    stage.keepers.clear()
    stage.node("a", boot="2", taints=[])
    await stage.run()
    assert stage.taints("a") == []


async def test_a_missing_right_is_said_with_the_chart_value_and_asked_for_once_a_minute(stage: Stage) -> None:
    stage.mesh(nodeReadiness={"condition": True, "taint": TAINT})
    for name in "abc":
        stage.node(name)
        stage.report(name)
    message = NOT_AUTHORIZED.format("nodes/status")
    stage.refuses["/status"] = 403, {"kind": "Status", "code": 403, "message": message}
    said, again = await stage.run()
    assert said is not None
    assert said[:2] == ("False", "MissingPermission")
    assert "may not patch nodes/status: run helm upgrade with rbac.nodeReadiness=true" in said[2]
    assert stage.writes() == 4  # one is refused, and three taints go all the same
    assert [stage.taints(name) for name in "abc"] == [[OTHER]] * 3
    assert again == NOW + places.REFUSED_AGAIN
    stage.now += timedelta(seconds=59)
    assert (await stage.run())[0] == said
    assert stage.writes() == 0
    stage.refuses.clear()
    stage.now += timedelta(seconds=1)
    assert (await stage.run())[0] == ("True", "NodesWritten", "the tunnels of 3 of 3 Nodes are ready")
    assert stage.said("c") == ("True", "TunnelsReady")


async def test_a_condition_that_cannot_be_removed_is_said(stage: Stage) -> None:
    """A chart may take the rights back together with the switch."""
    stage.mesh(nodeReadiness={"condition": True})
    stage.node("a")
    stage.report("a")
    await stage.run()
    stage.mesh()
    message = NOT_AUTHORIZED.format("nodes/status")
    stage.refuses["/status"] = 403, {"kind": "Status", "code": 403, "message": message}
    said, _ = await stage.run()
    assert said is not None
    assert said[1] == "MissingPermission"
    assert "Nodes still have the condition wesher.dev/TunnelsReady" in said[2]


async def test_a_node_that_a_policy_protects_keeps_no_other_waiting(stage: Stage) -> None:
    stage.mesh(nodeReadiness={"condition": True})
    for name in "ab":
        stage.node(name)
        stage.report(name)
    stage.refuses["/a/status"] = 403, {"kind": "Status", "code": 403, "message": "denied by policy"}
    said, again = await stage.run()
    assert said is not None
    assert said[:2] == ("False", "RefusedByCluster")
    assert "denied by policy" in said[2]
    assert stage.said("b") == ("True", "TunnelsReady")
    assert again == NOW + places.REFUSED_AGAIN
    stage.writes()
    await stage.run()
    assert stage.writes() == 0


async def test_a_run_writes_so_much_and_no_more_and_those_that_are_ready_first(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "WRITES_A_RUN", 3)
    stage.mesh(nodeReadiness={"condition": True})
    for name in "abcd":
        stage.node(name)
    stage.report("d")
    _, again = await stage.run()
    assert again == NOW
    assert stage.writes() == 3
    assert stage.said("d") == ("True", "TunnelsReady")
    await stage.run()
    assert stage.writes() == 1


async def test_a_taint_that_agents_do_not_tolerate_is_said(stage: Stage) -> None:
    tolerations = [{"key": "gpu", "operator": "Exists"}]
    stage.mesh(nodeReadiness={"taint": TAINT}, tolerations=tolerations)
    said, _ = await stage.run()
    assert said is not None
    assert said[:2] == ("False", "TaintNotTolerated")
    stage.mesh(nodeReadiness={"taint": TAINT}, tolerations=[*tolerations, {"operator": "Exists"}])
    assert (await stage.run())[0] == ("True", "NodesWritten", "the tunnels of 0 of 0 Nodes are ready")


async def test_a_mesh_that_is_deleted_during_a_run_writes_nothing_more(stage: Stage) -> None:
    stage.mesh(nodeReadiness={"condition": True})
    facts = stage.world.meshes["demo"]
    stage.node("a")
    stage.report("a")
    stage.world.forget(MESH, {"metadata": {"name": "demo", "resourceVersion": "99999"}})
    findings = Findings(desired=list(stage.world.nodes.values()), members=stage.world.members_of("demo"))
    await ReadinessKeeper("demo", stage.world, stage.cluster).keep(facts, findings, now=NOW)
    assert stage.writes() == 0
