"""One mesh's reconciler, at moments that a real API server cannot be brought to at will."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from typing import Any

import pytest

from wesher_common.conditions import rfc3339
from wesher_common.errors import ClusterUnavailable
from wesher_common.mesh_document import FILE_NAME, MeshDocument
from wesher_operator import kube
from wesher_operator.installation import ANNOTATION
from wesher_operator.kube import DAEMON_SET, MESH, NODE, POD, WESHER_NODE, Cluster
from wesher_operator.reconcile import manifests, places
from wesher_operator.reconcile.manifests import AgentSettings
from wesher_operator.reconcile.membership import Released
from wesher_operator.reconcile.mesh import MeshReconciler
from wesher_operator.reconcile.pod_troubles import RESTART_GRACE
from wesher_operator.reconcile.status import report_window
from wesher_operator.reconcile.world import World
from wesher_testing.cluster.fake_api_server import Answer, Request, Storing, serving

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
MESH_PATH = MESH.path("", "demo")
LINUX = {"kubernetes.io/os": "linux"}
"""The label that every kubelet on Linux gives its Node."""
FORBIDDEN: Answer = (403, {"kind": "Status", "code": 403, "message": "denied by policy"})


@pytest.fixture(autouse=True)
def at_full_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube, "_WRITE_SPACING", 0)


def world_of(store: Storing, nodes: int) -> World:
    """Return a world with a mesh and Nodes, and have the API server know the mesh."""
    world = World()
    for number in range(nodes):
        metadata = {"name": f"n{number:03}", "labels": LINUX, "resourceVersion": str(number + 1)}
        world.observe(NODE, {"metadata": metadata})
    metadata = {"name": "demo", "uid": "u", "generation": 1}
    body = store.put(MESH_PATH, {"metadata": metadata, "spec": {"overlayCIDR": "10.189.0.0/16"}})
    world.observe(MESH, body)
    return world


def reconciler(world: World, cluster: Cluster) -> MeshReconciler:
    return MeshReconciler("demo", world, cluster, AgentSettings(image="wesher:test"), clock=lambda: NOW)


def conditions(world: World) -> dict[str, tuple[str, str]]:
    found = world.meshes["demo"].status["conditions"]
    return {entry["type"]: (entry["status"], entry["reason"]) for entry in found}


async def test_a_run_over_many_nodes_is_cut_and_the_status_tells_how_far_it_came(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(places, "WRITES_A_RUN", 10)
    store = Storing()
    world = world_of(store, 25)
    async with serving(store) as cluster:
        runs = reconciler(world, cluster)
        placed = []
        for again in (NOW, NOW, None):
            moment = await runs.reconcile()
            assert moment == again or (again is None and moment != NOW)
            placed.append(len(world.members))
            assert world.meshes["demo"].status["members"]["desired"] == 25
    assert placed == [10, 20, 25]


async def test_a_wesher_node_that_is_refused_keeps_no_other_from_its_place_and_is_tried_again() -> None:
    store = Storing()
    world = world_of(store, 3)

    def answer(request: Request) -> Answer:
        return FORBIDDEN if request.name == "demo.n001" else store(request)

    async with serving(answer) as cluster:
        again = await reconciler(world, cluster).reconcile()
    assert set(world.members) == {"demo.n000", "demo.n002"}
    assert "demo-agent" in world.daemon_sets
    assert conditions(world)["Ready"] == ("False", "RefusedByCluster")
    assert conditions(world)["ConfigPublished"] == ("True", "Published")
    assert again is not None
    assert timedelta(0) < again - NOW <= timedelta(minutes=1)


async def test_a_mesh_that_is_refused_later_says_that_its_configuration_is_still_published() -> None:
    """Its agents go on with it; an edit that is refused as well is not published."""
    store = Storing()
    world = world_of(store, 1)
    async with serving(store) as cluster:
        runs = reconciler(world, cluster)
        await runs.reconcile()
        metadata = {"name": "a", "uid": "a", "generation": 1, "resourceVersion": "9999"}
        world.observe(MESH, {"metadata": metadata, "spec": {"overlayCIDR": "10.189.0.0/16"}})
        await runs.reconcile()
        assert conditions(world)["Ready"] == ("False", "Conflict")
        assert conditions(world)["ConfigPublished"] == ("True", "Published")
        metadata = {"name": "demo", "uid": "u", "generation": 2}
        edited = {"overlayCIDR": "10.189.0.0/16", "etcHosts": "Off"}
        world.observe(MESH, store.put(MESH_PATH, {"metadata": metadata, "spec": edited}))
        await runs.reconcile()
    assert conditions(world)["ConfigPublished"] == ("False", "Conflict")


async def test_nothing_more_is_made_for_a_mesh_that_is_deleted_during_a_run() -> None:
    store = Storing()
    world = world_of(store, 20)

    def answer(request: Request) -> Answer:
        made = store(request)
        if len(world.members) == 5:
            world.forget(MESH, {"metadata": {"name": "demo", "resourceVersion": "99999"}})
        return made

    async with serving(answer) as cluster:
        assert await reconciler(world, cluster).reconcile() is None
    assert len(world.members) <= 7
    assert world.config_maps == {}
    assert DAEMON_SET.path("wesher-system", "demo-agent") not in {request.path for request in store.written}


async def test_a_spec_that_changes_while_the_status_is_written_wakes_its_mesh_and_the_others() -> None:
    """The reply shows it first, and must not make its watch event old news that wakes nobody."""
    store = Storing()
    world = world_of(store, 1)
    metadata = {"name": "later", "uid": "l", "generation": 1, "resourceVersion": "1"}
    world.observe(MESH, {"metadata": metadata, "spec": {"overlayCIDR": "10.190.0.0/16"}})
    edited = {"overlayCIDR": "10.189.0.0/16", "etcHosts": "Off"}

    def answer(request: Request) -> Answer:
        if request.name == "status" and "members" in request.body["status"] and not watched:
            metadata = {"name": "demo", "uid": "u", "generation": 2}
            event = store.put(MESH_PATH, {"metadata": metadata, "spec": edited})
            watched.append({**event, "metadata": dict(event["metadata"])})
        return store(request)

    watched: list[dict[str, Any]] = []
    async with serving(answer) as cluster:
        runs = reconciler(world, cluster)
        await runs.reconcile()
        assert world.observe(MESH, watched[0]) == {"demo", "later"}
        await runs.reconcile()
    config = world.config_maps["demo-config"].body["data"]["mesh.json"]
    assert json.loads(config)["etcHosts"] == "Off"
    assert world.meshes["demo"].status["observedGeneration"] == 2


async def test_an_event_that_cannot_be_written_fails_no_run() -> None:
    store = Storing()
    world = world_of(store, 1)

    def answer(request: Request) -> Answer:
        return FORBIDDEN if request.name == "events" else store(request)

    async with serving(answer) as cluster:
        await reconciler(world, cluster).reconcile()
    assert conditions(world)["KeyReady"] == ("True", "KeyReady")


async def test_a_secret_that_another_makes_at_the_same_moment_is_used_and_no_trouble_told() -> None:
    store = Storing()
    world = world_of(store, 1)
    path = kube.SECRET.path("wesher-system", "demo-key")
    key = base64.b64encode(base64.b64encode(bytes(32))).decode()

    def answer(request: Request) -> Answer:
        if request.method == "POST" and request.name == "secrets":
            store.put(path, {"metadata": {"name": "demo-key"}, "data": {"cluster-key": key}})
            return 409, {"kind": "Status", "code": 409, "message": "already exists"}
        return store(request)

    async with serving(answer) as cluster:
        await reconciler(world, cluster).reconcile()
    assert conditions(world)["KeyReady"] == ("True", "KeyReady")


class Clock:
    """A time that stands until it is moved on."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        """Return it."""
        return self.now


async def test_many_refusals_neither_starve_the_other_nodes_nor_are_asked_for_again_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(places, "WRITES_A_RUN", 3)
    store, clock, asked = Storing(), Clock(), list[str]()
    world = world_of(store, 8)

    def answer(request: Request) -> Answer:
        if not request.path.startswith(WESHER_NODE.path("")):
            return store(request)
        asked.append(request.name)
        return FORBIDDEN if request.name < "demo.n005" else store(request)

    async with serving(answer) as cluster:
        runs = MeshReconciler("demo", world, cluster, AgentSettings(image="wesher:test"), clock=clock)
        again: datetime | None = NOW
        for _ in range(3):
            assert again == NOW
            again = await runs.reconcile()
        assert set(world.members) == {"demo.n005", "demo.n006", "demo.n007"}
        assert sorted(asked) == [f"demo.n{number:03}" for number in range(8)], "each was asked for once"
        assert conditions(world)["Ready"] == ("False", "RefusedByCluster")

        clock.now = NOW + timedelta(seconds=59)
        again = await runs.reconcile()
        assert len(asked) == 8, "until then nothing is tried again, whatever wakes the mesh"
        assert conditions(world)["Ready"] == ("False", "RefusedByCluster")
        assert again is not None
        assert again <= NOW + timedelta(minutes=1)
        clock.now = NOW + timedelta(minutes=1)
        await runs.reconcile()
        assert asked[8:] == ["demo.n000", "demo.n001", "demo.n002"]


async def test_many_nodes_that_leave_are_remembered_at_once_and_deleted_a_run_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(places, "WRITES_A_RUN", 3)
    store = Storing()
    world = world_of(store, 8)
    async with serving(store) as cluster:
        runs = reconciler(world, cluster)
        while await runs.reconcile() == NOW:
            pass
        for number in range(7):
            world.forget(NODE, {"metadata": {"name": f"n{number:03}", "resourceVersion": "99"}})
        store.written.clear()
        deleted = []
        for again in (NOW, NOW, None):
            moment = await runs.reconcile()
            assert (moment == NOW) == (again == NOW)
            deleted.append([request.name for request in store.written if request.method == "DELETE"])
            remembered = Released.from_json(world.config_maps["demo-released"].body["data"]["released.json"])
            assert len(remembered.names) == 7
    assert [len(names) for names in deleted] == [3, 6, 7], "though no watch has told of the deletions yet"
    assert len(set(deleted[-1])) == 7


async def test_a_deletion_that_is_refused_keeps_no_other_node_from_its_place() -> None:
    store, clock = Storing(), Clock()
    world = world_of(store, 2)

    def answer(request: Request) -> Answer:
        return FORBIDDEN if request.method == "DELETE" else store(request)

    async with serving(answer) as cluster:
        runs = MeshReconciler("demo", world, cluster, AgentSettings(image="wesher:test"), clock=clock)
        await runs.reconcile()
        world.forget(NODE, {"metadata": {"name": "n000", "resourceVersion": "99"}})
        world.observe(NODE, {"metadata": {"name": "n009", "labels": LINUX, "resourceVersion": "99"}})
        again = await runs.reconcile()
        assert "demo.n009" in world.members
        assert conditions(world)["Ready"] == ("False", "RefusedByCluster")
        assert again is not None
        assert again <= NOW + timedelta(minutes=1)


async def test_a_pod_that_cannot_be_nudged_keeps_no_status_from_being_told() -> None:
    store = Storing()
    world = world_of(store, 2)

    def answer(request: Request) -> Answer:
        broken = request.path.startswith(POD.path("wesher-system"))
        return (500, {"kind": "Status", "message": "webhook is down"}) if broken else store(request)

    async with serving(answer) as cluster:
        runs = reconciler(world, cluster)
        await runs.reconcile()
        world.forget(NODE, {"metadata": {"name": "n000", "resourceVersion": "99"}})
        metadata = {"name": "agent-1", "labels": {"wesher.dev/mesh": "demo"}, "resourceVersion": "99"}
        world.observe(POD, {"metadata": metadata, "spec": {"nodeName": "n000"}})
        world.forget(WESHER_NODE, {"metadata": {"name": "demo.n000", "resourceVersion": "9999"}})
        again = await runs.reconcile()
    assert world.meshes["demo"].status["members"]["desired"] == 1
    assert again is not None
    assert again <= NOW + timedelta(seconds=5)


@pytest.mark.parametrize("overlay", ["10.189.0.0/16", "fd00:bd::/64"])
async def test_an_annotated_address_inside_the_overlay_is_told_of_and_the_nodes_own_is_used(
    overlay: str,
) -> None:
    """Others would have to dial it through the tunnel that it is to be dialled for."""
    store, world = Storing(), World()
    inside, outside = str(ip_network(overlay)[7]), "203.0.113.7"
    for version, (name, address) in enumerate({"a": inside, "b": outside}.items(), start=1):
        metadata = {
            "name": name,
            "labels": LINUX,
            "resourceVersion": str(version),
            "annotations": {"wesher.dev/advertise-address": address},
        }
        own = [{"type": "InternalIP", "address": f"192.0.2.{version}"}]
        world.observe(NODE, {"metadata": metadata, "status": {"addresses": own}})
    metadata = {"name": "demo", "uid": "u", "generation": 1}
    world.observe(MESH, store.put(MESH_PATH, {"metadata": metadata, "spec": {"overlayCIDR": overlay}}))
    async with serving(store) as cluster:
        await reconciler(world, cluster).reconcile()
    dialled = {member.spec.node_name: member.spec.advertise_address for member in world.members.values()}
    assert dialled == {"a": "192.0.2.1", "b": outside}
    assert conditions(world)["Degraded"] == ("True", "InvalidAnnotation")
    (event,) = [each.body for each in store.written if each.body.get("reason") == "InvalidAnnotation"]
    assert event["note"] == (
        f"Degraded is True: Node a annotation wesher.dev/advertise-address '{inside}': "
        f"must be outside overlayCIDR {overlay}; the Node's addresses are used instead"
    )


async def test_a_claim_is_made_of_the_mesh_as_it_was_seen_and_a_faster_operator_keeps_it() -> None:
    store = Storing()
    world = world_of(store, 1)
    seen = world.meshes["demo"].version

    def answer(request: Request) -> Answer:
        if request.path == f"{MESH_PATH}/status":
            assert request.body["metadata"]["resourceVersion"] == seen
            assert request.body["status"]["installation"] == "wesher-system"
            return 409, {"kind": "Status", "code": 409, "message": "the object has been modified"}
        return store(request)

    async with serving(answer) as cluster:
        with pytest.raises(ClusterUnavailable, match="the object has been modified"):
            await reconciler(world, cluster).reconcile()
    assert store.written == []


@pytest.mark.parametrize(
    ("annotations", "status", "runs"),
    [
        ({}, {}, True),
        ({}, {"installation": "wesher-system"}, True),
        ({}, {"installation": "other"}, False),
        ({ANNOTATION: "wesher-system"}, {"installation": "other"}, True),
        ({ANNOTATION: "other"}, {"installation": "wesher-system"}, False),
        ({ANNOTATION: ""}, {"installation": "other"}, False),
    ],
)
async def test_a_mesh_of_another_installation_is_left_alone(
    annotations: dict[str, str], status: dict[str, str], *, runs: bool
) -> None:
    store = Storing()
    world = world_of(store, 1)
    metadata = {"name": "demo", "uid": "u", "generation": 1, "annotations": annotations}
    spec = {"overlayCIDR": "10.189.0.0/16"}
    world.observe(MESH, store.put(MESH_PATH, {"metadata": metadata, "spec": spec, "status": status}))
    async with serving(store) as cluster:
        again = await reconciler(world, cluster).reconcile()
    assert bool(store.written) == runs
    if runs:
        assert world.meshes["demo"].status["installation"] == "wesher-system"
    else:
        assert again is None


async def test_what_a_release_without_claims_wrote_is_claimed_and_kept() -> None:
    """Such as the id of its key, by which a lost Secret is not replaced with a new key."""
    store = Storing()
    world = world_of(store, 1)
    async with serving(store) as cluster:
        await reconciler(world, cluster).reconcile()
        former = {key: value for key, value in world.meshes["demo"].status.items() if key != "installation"}
        metadata = {"name": "demo", "uid": "u", "generation": 1}
        spec = {"overlayCIDR": "10.189.0.0/16"}
        world.observe(MESH, store.put(MESH_PATH, {"metadata": metadata, "spec": spec, "status": former}))
        del store.written[:]
        await reconciler(world, cluster).reconcile()
    (claim,) = [each for each in store.written if each.path == f"{MESH_PATH}/status"]
    assert claim.body["status"] == {**former, "installation": "wesher-system"}
    assert "resourceversion" in str(claim.body["metadata"]).lower()


def tell_of_an_agent(world: World, store: Storing, *, reported_at: datetime = NOW) -> None:
    """Have the agent of n000 report that it is Ready."""
    ready = {"type": "Ready", "status": "True", "reason": "Ready", "lastTransitionTime": rfc3339(NOW)}
    spec = {"meshRef": {"name": "demo", "uid": "u"}, "nodeName": "n000", "overlayIP": "10.189.0.1"}
    metadata = {"name": "demo.n000", "uid": "w", "labels": {"wesher.dev/mesh": "demo"}}
    status = {"conditions": [ready], "lastReportTime": rfc3339(reported_at)}
    body = {"metadata": metadata, "spec": spec, "status": status}
    world.observe(WESHER_NODE, store.put(WESHER_NODE.path("", "demo.n000"), body))


def tell_of_its_pod(world: World, store: Storing, *, runs: bool) -> None:
    """Say of the agent's pod what its kubelet would."""
    metadata = {"name": "agent-1", "labels": {"wesher.dev/mesh": "demo"}}
    state = {"running": {}} if runs else {"waiting": {"reason": "ContainerCreating"}}
    status = {"containerStatuses": [{"state": state}]}
    body = {"metadata": metadata, "spec": {"nodeName": "n000"}, "status": status}
    world.observe(POD, store.put(POD.path("wesher-system", "agent-1"), body))


def members_of(world: World) -> tuple[str, list[tuple[str, str]]]:
    status = world.meshes["demo"].status
    return status["members"]["summary"], [(m["state"], m["reason"]) for m in status["memberList"]]


async def test_a_node_that_runs_no_agent_is_not_ready_once_a_restart_would_be_over() -> None:
    store, clock = Storing(), Clock()
    world = world_of(store, 1)
    tell_of_an_agent(world, store)
    tell_of_its_pod(world, store, runs=True)
    async with serving(store) as cluster:
        runs = MeshReconciler("demo", world, cluster, AgentSettings(image="wesher:test"), clock=clock)
        await runs.reconcile()
        assert members_of(world) == ("1/1", [("Ready", "")])

        tell_of_its_pod(world, store, runs=False)
        again = await runs.reconcile()
        assert members_of(world) == ("1/1", [("Ready", "")])
        assert again == NOW + RESTART_GRACE, "nothing wakes it at the end of the grace"
        clock.now = again
        await runs.reconcile()
        assert members_of(world) == ("0/1", [("NotReady", "AgentNotRunning")])
        message = next(
            c["message"] for c in world.meshes["demo"].status["conditions"] if c["type"] == "Ready"
        )
        assert message == "not ready: n000 (AgentNotRunning); n000 runs no agent"

        tell_of_its_pod(world, store, runs=True)
        await runs.reconcile()
        assert members_of(world) == ("1/1", [("Ready", "")])


async def test_an_operator_that_starts_keeps_saying_that_a_node_runs_no_agent() -> None:
    """Its report is still young enough: without a memory the mesh would be Ready again for a while."""
    store, clock = Storing(), Clock()
    world = world_of(store, 1)
    tell_of_an_agent(world, store)
    tell_of_its_pod(world, store, runs=False)
    settings = AgentSettings(image="wesher:test")
    async with serving(store) as cluster:
        first = MeshReconciler("demo", world, cluster, settings, clock=clock)
        await first.reconcile()
        clock.now += RESTART_GRACE
        await first.reconcile()
        before = dict(world.meshes["demo"].status)
        assert members_of(world) == ("0/1", [("NotReady", "AgentNotRunning")])

        clock.now += timedelta(seconds=1)
        store.written.clear()
        await MeshReconciler("demo", world, cluster, settings, clock=clock).reconcile()
    assert world.meshes["demo"].status == before
    assert not store.written


async def test_an_operator_that_starts_keeps_saying_that_views_differ() -> None:
    store, clock = Storing(), Clock()
    world = world_of(store, 2)
    for number, view in enumerate(["one", "other"]):
        spec = {
            "meshRef": {"name": "demo", "uid": "u"},
            "nodeName": f"n{number:03}",
            "overlayIP": f"10.189.0.{number + 1}",
        }
        metadata = {"name": f"demo.n{number:03}", "uid": f"w{number}", "labels": {"wesher.dev/mesh": "demo"}}
        body = {
            "metadata": metadata,
            "spec": spec,
            "status": {"viewHash": view, "lastReportTime": rfc3339(NOW)},
        }
        world.observe(WESHER_NODE, store.put(WESHER_NODE.path("", metadata["name"]), body))
    settings = AgentSettings(image="wesher:test")
    async with serving(store) as cluster:
        first = MeshReconciler("demo", world, cluster, settings, clock=clock)
        await first.reconcile()
        assert conditions(world)["Converged"] == ("True", "ViewsAgree")
        clock.now += report_window(2)
        await first.reconcile()
        assert conditions(world)["Converged"] == ("False", "ViewsDiffer")
        await MeshReconciler("demo", world, cluster, settings, clock=clock).reconcile()
        assert conditions(world)["Converged"] == ("False", "ViewsDiffer")


async def test_reports_from_before_an_installation_make_no_node_ready() -> None:
    """WesherNodes are in no namespace: they and their reports outlive the one that had the agents."""
    store = Storing()
    world = world_of(store, 1)
    tell_of_an_agent(world, store, reported_at=NOW - timedelta(minutes=1))

    def answer(request: Request) -> Answer:
        if request.name == "demo-agent" and request.method == "PATCH":
            request.body["metadata"]["creationTimestamp"] = rfc3339(NOW)
        return store(request)

    async with serving(answer) as cluster:
        await reconciler(world, cluster).reconcile()
    assert members_of(world) == ("0/1", [("NotReady", "AgentNotRunning")])


async def test_a_mesh_whose_secret_and_agents_are_gone_says_where_the_key_is() -> None:
    store = Storing()
    world = world_of(store, 1)
    body = {
        "metadata": {"name": "demo", "uid": "u", "generation": 1},
        "spec": {"overlayCIDR": "10.189.0.0/16", "wireguard": {"interface": "wg7"}},
        "status": {"key": {"id": "27aeab63"}, "conditions": [{"type": "Ready", "status": "True"}]},
    }
    world.observe(MESH, store.put(MESH_PATH, body))
    tell_of_an_agent(world, store)
    async with serving(store) as cluster:
        await reconciler(world, cluster).reconcile()
    assert members_of(world)[0] == "0/1"
    assert conditions(world)["Ready"] == ("False", "InvalidKey")
    found = {c["type"]: c["message"] for c in world.meshes["demo"].status["conditions"]}
    assert "has the key as ClusterKey in /var/lib/wesher/wg7.json" in found["KeyReady"]


async def test_a_secret_without_a_cluster_key_is_brought_to_no_node() -> None:
    """Who may create meshes could name the authority of another while an earlier DaemonSet is there."""
    store = Storing()
    world = world_of(store, 1)
    async with serving(store) as cluster:
        await reconciler(world, cluster).reconcile()
        assert {"demo-agent"} == set(world.daemon_sets)
        metadata = {"name": "demo", "uid": "another", "generation": 1}
        spec = {"overlayCIDR": "10.189.0.0/16", "clusterKeySecretRef": {"name": "demo-authority"}}
        world.observe(MESH, store.put(MESH_PATH, {"metadata": metadata, "spec": spec}))
        store.written.clear()
        await reconciler(world, cluster).reconcile()
    assert conditions(world)["KeyReady"][0] == "False"
    assert not [each for each in store.written if "/daemonsets/" in each.path]


async def test_agents_keep_the_hosts_file_until_all_have_taken_their_entries_out() -> None:
    """A pod that ends before it reads the new mesh.json leaves its entries to the next one."""
    store = Storing()
    world = world_of(store, 2)

    def has_hosts() -> bool:
        return manifests.mounts_hosts(world.daemon_sets["demo-agent"].body)

    def report(node: str) -> None:
        document = MeshDocument.from_json(world.config_maps["demo-config"].body["data"][FILE_NAME])
        path = WESHER_NODE.path("", f"demo.{node}")
        body = {**store._objects[path], "status": {"configHash": document.config_hash}}
        world.observe(WESHER_NODE, store.put(path, body))

    async with serving(store) as cluster:
        runs = reconciler(world, cluster)
        await runs.reconcile()
        assert has_hosts()
        for node in ("n000", "n001"):
            report(node)
        await runs.reconcile()
        metadata = {"name": "demo", "uid": "u", "generation": 2}
        spec = {"overlayCIDR": "10.189.0.0/16", "etcHosts": "Off"}
        world.observe(MESH, store.put(MESH_PATH, {"metadata": metadata, "spec": spec}))
        await runs.reconcile()
        assert has_hosts()
        report("n000")
        await runs.reconcile()
        assert has_hosts(), "n001 still has its entries"
        report("n001")
        await runs.reconcile()
        assert not has_hosts()


async def test_a_mesh_that_never_had_hosts_entries_never_has_the_file() -> None:
    store = Storing()
    world = world_of(store, 1)
    metadata = {"name": "demo", "uid": "u", "generation": 2}
    spec = {"overlayCIDR": "10.189.0.0/16", "etcHosts": "Off"}
    world.observe(MESH, store.put(MESH_PATH, {"metadata": metadata, "spec": spec}))
    async with serving(store) as cluster:
        await reconciler(world, cluster).reconcile()
    assert not manifests.mounts_hosts(world.daemon_sets["demo-agent"].body)
