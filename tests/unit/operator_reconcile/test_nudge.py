"""Which agents' pods are nudged, and what a nudge that fails costs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from wesher_common.keys import ClusterKey, KeyRing
from wesher_common.mesh_document import MeshDocument, parse_overlay_network
from wesher_common.names import NUDGE_ANNOTATION
from wesher_operator import kube
from wesher_operator.kube import POD, WESHER_NODE
from wesher_operator.reconcile.nudge import Nudges
from wesher_operator.reconcile.world import World
from wesher_testing.cluster.fake_api_server import Answer, Request, Storing, serving

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
NETWORK = parse_overlay_network("10.189.0.0/16", field="overlayCIDR")
DOCUMENT = MeshDocument(name="demo", uid="u", overlay=NETWORK, allocation=NETWORK)
RING = KeyRing(ClusterKey(bytes(32)))


@pytest.fixture(autouse=True)
def at_full_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube, "_WRITE_SPACING", 0)


def report(**changes: Any) -> dict[str, Any]:
    """Return what an agent reports that has everything."""
    key = RING.primary.id
    return {
        "configHash": DOCUMENT.config_hash,
        "primaryKeyID": key,
        "keyIDs": [key],
        "observedGeneration": 1,
    } | changes


def place(world: World, node: str, status: dict[str, Any], *, generation: int = 1, version: int = 1) -> None:
    spec = {"meshRef": {"name": "demo", "uid": "u"}, "nodeName": node, "overlayIP": "10.189.0.7"}
    metadata = {"name": f"demo.{node}", "uid": node, "generation": generation, "resourceVersion": version}
    world.observe(WESHER_NODE, {"metadata": metadata, "spec": spec, "status": status})


def run_agents(world: World, store: Storing, *nodes: str) -> None:
    ready = [{"name": "agent", "ready": True, "started": True, "state": {"running": {}}}]
    status = {"phase": "Running", "containerStatuses": ready}
    for node in nodes:
        metadata = {"name": f"agent-{node}", "labels": {"wesher.dev/mesh": "demo"}}
        path = POD.path("wesher-system", f"agent-{node}")
        world.observe(
            POD, store.put(path, {"metadata": metadata, "spec": {"nodeName": node}, "status": status})
        )


def nudged(store: Storing) -> list[str]:
    """Return the names of the pods that were nudged since this was last asked."""
    names = [request.name for request in store.written]
    store.written.clear()
    return names


async def test_an_agent_is_nudged_once_for_each_thing_that_is_new_to_it() -> None:
    store, world = Storing(), World()
    news = {"b": {"configHash": "0ld"}, "c": {"keyIDs": []}, "d": {"observedGeneration": 0}}
    for node in "abcd":
        place(world, node, report(**news.get(node, {})))
    run_agents(world, store, *"abcd")
    async with serving(store) as cluster:
        nudges = Nudges("demo", world, cluster)
        for expected in (["agent-b", "agent-c", "agent-d"], []):
            assert await nudges.send(DOCUMENT, RING, 0, world.members.values(), now=NOW) is None
            assert nudged(store) == expected, "the second time it is known though no watch has told of it"
        place(world, "a", report(), generation=2, version=2)
        await nudges.send(DOCUMENT, RING, 0, world.members.values(), now=NOW)
        assert nudged(store) == ["agent-a"], "its WesherNode says something new"
        place(world, "a", report(observedGeneration=2), generation=2, version=3)
        await nudges.send(DOCUMENT, RING, 0, world.members.values(), now=NOW)
        assert nudged(store) == []


async def test_an_agent_without_a_place_is_nudged_only_when_it_was_removed() -> None:
    store, world = Storing(), World()
    run_agents(world, store, "new", "gone")
    removed = MeshDocument(name="demo", uid="u", overlay=NETWORK, allocation=NETWORK, removed=("gone",))
    async with serving(store) as cluster:
        await Nudges("demo", world, cluster).send(removed, RING, 0, [], now=NOW)
    assert nudged(store) == ["agent-gone"]


@pytest.mark.parametrize("status", [403, 500])
async def test_a_pod_that_cannot_be_patched_fails_nothing_and_is_tried_again_some_seconds_later(
    status: int,
) -> None:
    """Such as while a webhook that looks at pods is down: the mesh's status must be told all the same."""
    asked: list[Request] = []
    world = World()
    run_agents(world, Storing(), "a", "b")
    for node in "ab":
        place(world, node, report(configHash="0ld"))

    def answer(request: Request) -> Answer:
        asked.append(request)
        return status, {"kind": "Status", "code": status, "message": "webhook"}

    async with serving(answer) as cluster:
        nudges = Nudges("demo", world, cluster)
        for seconds, tries in ((0, 1), (1, 1), (5, 2)):
            moment = NOW + timedelta(seconds=seconds)
            again = await nudges.send(DOCUMENT, RING, 0, world.members.values(), now=moment)
            assert again == NOW + timedelta(seconds=5 if seconds < 5 else 10)
            assert len(asked) == tries
    assert NUDGE_ANNOTATION in asked[0].body["metadata"]["annotations"]


async def test_three_agents_are_nudged_for_a_new_statement_of_revocations_once() -> None:
    """The others learn of it by gossip."""
    store, world = Storing(), World()
    for node in "abcdef":
        place(world, node, report(newsNumber=7))
    run_agents(world, store, *"abcdef")
    async with serving(store) as cluster:
        nudges = Nudges("demo", world, cluster)
        await nudges.send(DOCUMENT, RING, 7, world.members.values(), now=NOW)
        assert nudged(store) == []
        for number in (8, 9):
            await nudges.send(DOCUMENT, RING, number, world.members.values(), now=NOW)
            assert len(nudged(store)) == 3
            # Also by another operator.
            await Nudges("demo", world, cluster).send(DOCUMENT, RING, number, world.members.values(), now=NOW)
            assert nudged(store) == []


async def test_three_agents_are_nudged_for_a_certificate_that_an_external_machine_awaits_once() -> None:
    """Each sends it to the machine; without a nudge, a kubelet may show the new file a minute later."""
    store, world = Storing(), World()
    for node in "abcdef":
        place(world, node, report(newsNumber=7))
    run_agents(world, store, *"abcdef")
    async with serving(store) as cluster:
        nudges = Nudges("demo", world, cluster)
        for serial in (8, 9):
            for expected in (3, 0):
                await nudges.send(DOCUMENT, RING, 7, world.members.values(), awaited=serial, now=NOW)
                assert len(nudged(store)) == expected
        await nudges.send(DOCUMENT, RING, 7, world.members.values(), now=NOW)
        assert nudged(store) == [], "the machine has it"


async def test_an_agent_whose_pod_does_not_run_passes_no_statement_on() -> None:
    store, world = Storing(), World()
    for node in "abcd":
        place(world, node, report())
    run_agents(world, store, *"abcd")
    async with serving(store) as cluster:
        await Nudges("demo", world, cluster).send(DOCUMENT, RING, 8, world.members.values(), now=NOW)
        first = nudged(store)
        metadata = {"name": first[0], "labels": {"wesher.dev/mesh": "demo"}}
        spec = {"nodeName": first[0].removeprefix("agent-")}
        body = {"metadata": metadata, "spec": spec, "status": {"phase": "Pending"}}
        world.observe(POD, store.put(POD.path("wesher-system", first[0]), body))
        await Nudges("demo", world, cluster).send(DOCUMENT, RING, 8, world.members.values(), now=NOW)
        assert len(nudged(store)) == 1
