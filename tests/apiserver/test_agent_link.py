"""An agent's reporting and its question whether it is gone, against a real API server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from ipaddress import ip_address
from random import Random
from typing import Any

import pytest

from wesher_agent.kube import reporter as kubernetes
from wesher_agent.kube.node_spec import NodeSpec
from wesher_agent.kube.own_objects import OwnObjects
from wesher_agent.kube.reporter import KubernetesLink
from wesher_common.errors import ClusterUnavailable
from wesher_testing.agents.snapshots import snapshot
from wesher_testing.cluster.api_server import ApiServer
from wesher_testing.cluster.operator_process import NAMESPACE, SOON
from wesher_testing.virtual.members import remembered

FIRST = snapshot(remembered("b"), device_ready=False, device_reason="Failed", device_problem="not yet")
READY = snapshot(remembered("b"))


@pytest.fixture
def mesh_uid(api: ApiServer) -> str:
    """Make a mesh and a node, without a place in it yet; return the mesh's uid."""
    api.node("a", "192.168.7.1")
    api.apply(_object("WesherMesh", "m", {"overlayCIDR": "10.9.0.0/16"}))
    return str(api.get("weshermesh", "m")["metadata"]["uid"])


@pytest.fixture
async def link(api: ApiServer, mesh_uid: str) -> KubernetesLink:
    """Return the link of the agent on node a."""
    kubeconfig = api.kubeconfig_for(api.token("wesher-agent", NAMESPACE, node="a"), "agent-a")
    return KubernetesLink(await OwnObjects.connect(kubeconfig, "m", "a", agent_version="0"), mesh_uid)


@pytest.fixture
def doomed(api: ApiServer) -> Iterator[str]:
    """Make an account that may ask as agents may, until the ClusterRoleBinding of its name is deleted."""
    account = {"kind": "ServiceAccount", "name": "doomed", "namespace": NAMESPACE}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "wesher-agent"}
    api.apply(
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": "doomed", "namespace": NAMESPACE},
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "doomed"},
            "roleRef": role,
            "subjects": [account],
        },
    )
    yield "doomed"
    api.kubectl("delete", "clusterrolebinding", "doomed", "--ignore-not-found")
    api.kubectl("delete", "serviceaccount", "doomed", "-n", NAMESPACE)


@pytest.fixture
async def losing(api: ApiServer, mesh_uid: str, doomed: str) -> OwnObjects:
    """Return the client of an agent that is refused after `_lose`, as one's is whose pod was deleted."""
    kubeconfig = api.kubeconfig_for(api.token(doomed, NAMESPACE), doomed)
    return await OwnObjects.connect(kubeconfig, "m", "a", agent_version="0")


async def _lose(api: ApiServer, objects: OwnObjects) -> None:
    """Take the account's rights away, and wait until an answer says so."""
    await asyncio.to_thread(api.kubectl, "delete", "clusterrolebinding", "doomed")
    async with asyncio.timeout(SOON):
        while True:
            try:
                await objects.mesh_uid()
            except ClusterUnavailable as error:
                if "answered 403" in str(error):
                    return


def _object(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "wesher.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def _give_place(api: ApiServer) -> None:
    spec = {"meshRef": {"name": "m", "uid": "u"}, "nodeName": "a", "overlayIP": "10.9.0.5"}
    api.apply(_object("WesherNode", "m.a", spec))


async def test_an_agent_waits_for_its_place_then_reports_and_at_once_again_when_it_is_ready(
    api: ApiServer, link: KubernetesLink, caplog: pytest.LogCaptureFixture
) -> None:
    assert not await link.look(SOON)
    assert "this node has no WesherNode: the operator has not created it yet" in caplog.text
    present, seen = [FIRST], asyncio.Queue[NodeSpec]()
    running = asyncio.create_task(link.run(lambda: present[-1], seen.put_nowait, rng=Random(1)))
    await asyncio.to_thread(_give_place, api)
    async with asyncio.timeout(SOON):
        while not (node := await seen.get()).conditions:
            continue
        assert node.place.overlay_address == ip_address("10.9.0.5")
        assert node.conditions[0]["reason"] == "Failed"
        present.append(READY)
        link.wake()
        while (await seen.get()).conditions[0]["status"] != "True":
            continue
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    stored = await asyncio.to_thread(api.get, "weshernode", "m.a")
    reasons = [entry["reason"] for entry in stored["status"]["conditions"]]
    assert reasons == ["Ready", "DeviceReady", "Joined", "Current", "Saved"]


async def test_an_object_deleted_while_it_is_asked_for_means_gone(
    api: ApiServer, link: KubernetesLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An agent asks for seconds, in which kubectl need not have started.
    monkeypatch.setattr(kubernetes, "GONE_SECONDS", SOON)
    _give_place(api)
    assert await link.look(SOON)
    asking = asyncio.create_task(link.is_gone())
    await asyncio.to_thread(api.kubectl, "delete", "weshernode", "m.a")
    assert await asking


async def test_an_object_that_stays_means_a_restart(api: ApiServer, link: KubernetesLink) -> None:
    _give_place(api)
    await link.look(SOON)
    assert not await link.is_gone()


async def test_an_agent_that_was_told_that_it_is_removed_leaves_when_its_token_is_dead_by_then(
    api: ApiServer, mesh_uid: str, losing: OwnObjects, caplog: pytest.LogCaptureFixture
) -> None:
    _give_place(api)
    link, seen = KubernetesLink(losing, mesh_uid), asyncio.Queue[NodeSpec]()
    running = asyncio.create_task(link.run(lambda: READY, seen.put_nowait, rng=Random(1)))
    async with asyncio.timeout(SOON):
        while (await seen.get()).conditions[:1] == ():
            continue
        await asyncio.to_thread(api.kubectl, "delete", "weshernode", "m.a")
        link.doubt()
        while not link.removed:
            await seen.get()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert "device and tunnels stay until the agent ends" in caplog.text

    await _lose(api, losing)

    assert await link.is_gone()


async def test_a_token_that_is_dead_never_means_removed_where_the_last_word_was_that_we_have_a_place(
    api: ApiServer, mesh_uid: str, losing: OwnObjects
) -> None:
    link = KubernetesLink(losing, mesh_uid)
    _give_place(api)
    assert await link.look(SOON)
    api.kubectl("delete", "weshernode", "m.a")
    assert not await link.look(SOON)
    assert link.removed
    _give_place(api)
    assert await link.look(SOON)

    await _lose(api, losing)

    assert not await link.look(SOON)
    assert not await link.is_gone()
