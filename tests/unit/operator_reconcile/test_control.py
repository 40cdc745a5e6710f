from __future__ import annotations

import asyncio
from typing import Any

import pytest

from wesher_operator.kube import MESH
from wesher_operator.reconcile.control import Controller
from wesher_operator.reconcile.manifests import AgentSettings
from wesher_testing.cluster.fake_api_server import Answer, Request, Storing, answering, serving


def mesh(version: int) -> dict[str, Any]:
    metadata = {"name": "demo", "uid": "u", "generation": version, "resourceVersion": str(version)}
    return {"metadata": metadata, "spec": {"overlayCIDR": "10.189.0.0/16"}}


async def test_an_api_server_in_trouble_is_not_asked_the_more_often_the_more_happens() -> None:
    loop = asyncio.get_running_loop()
    async with answering((503, {"kind": "Status", "message": "overloaded"})) as (cluster, asked):
        controller = Controller(cluster, AgentSettings(image="wesher:test"))
        began = loop.time()
        for version in range(1, 25):
            controller.observed(MESH, mesh(version))
            await asyncio.sleep(0.05)
        tries, seconds = len(asked), loop.time() - began
        await controller.stop()
    assert 1 <= tries <= 1 + seconds / 1.0  # and a run every 0.2 s would have made many more


async def test_a_mesh_whose_deletion_was_missed_is_let_go_of_by_the_next_list() -> None:
    """Otherwise its worker would wait for ever, and take over a mesh made anew with what it knew."""
    store = Storing()
    lists = {"weshermeshes": [store.put(MESH.path("", "demo"), mesh(7))]}

    def answer(request: Request) -> Answer:
        if request.method == "GET" and request.path.endswith("s"):
            return 200, {"items": lists.get(request.name, []), "metadata": {"resourceVersion": "100000"}}
        return store(request)

    async with serving(answer) as cluster, asyncio.timeout(60):
        controller = Controller(cluster, AgentSettings(image="wesher:test"))
        await controller.load()
        while not [request for request in store.written if request.body.get("reason") == "NoNodes"]:
            await asyncio.sleep(0.05)  # that Event is the last thing it writes before it has nothing to do
        lists.clear()
        await controller._list()
        while "mesh demo" in {task.get_name() for task in asyncio.all_tasks()}:
            await asyncio.sleep(0.05)
        await controller.stop()


ENDPOINTS = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"


async def test_the_api_servers_own_addresses_are_looked_for_where_it_keeps_them() -> None:
    """And nothing else is: that namespace is full of other people's Services."""
    metadata = {"name": "kubernetes", "resourceVersion": "5"}
    slices = [{"metadata": metadata, "endpoints": [{"addresses": ["10.189.3.4"]}]}]
    store = Storing()
    lists = {"weshermeshes": [store.put(MESH.path("", "demo"), mesh(7))], "endpointslices": slices}
    asked: list[Request] = []

    def answer(request: Request) -> Answer:
        asked.append(request)
        if request.method == "GET" and request.path.endswith("s"):
            return 200, {"items": lists.get(request.name, []), "metadata": {"resourceVersion": "100000"}}
        return store(request)

    async with serving(answer) as cluster, asyncio.timeout(60):
        controller = Controller(cluster, AgentSettings(image="wesher:test"))
        await controller.load()
        while not [each for each in store.written if each.body.get("reason") == "OverlappingNetwork"]:
            await asyncio.sleep(0.05)
        await controller.stop()
    (request,) = [each for each in asked if each.name == "endpointslices"]
    assert request.path == ENDPOINTS
    assert "labelselector=kubernetes.io/service-name%3dkubernetes" in request.query


async def test_an_operator_that_may_not_see_the_api_servers_addresses_says_so_once_and_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    forbidden = (
        'endpointslices.discovery.k8s.io is forbidden: User "operator" cannot list resource "endpointslices"'
        ' in API group "discovery.k8s.io" in the namespace "default"'
    )
    lists = {"weshermeshes": [mesh(7)]}
    may_see = False
    store = Storing()

    def answer(request: Request) -> Answer:
        if request.path == ENDPOINTS and not may_see:
            return 403, {"kind": "Status", "message": forbidden}
        if request.method == "GET" and request.path.endswith("s"):
            return 200, {"items": lists.get(request.name, []), "metadata": {"resourceVersion": "100000"}}
        return store(request)

    async with serving(answer) as cluster, asyncio.timeout(60):
        controller = Controller(cluster, AgentSettings(image="wesher:test"))
        await controller.load()
        while not [each for each in store.written if each.path.endswith("/daemonsets/demo-agent")]:
            await asyncio.sleep(0.05)
        await controller._list()
        in_the_log = forbidden.replace('"', r"\"")
        assert caplog.text.count(in_the_log) == 1
        may_see = True
        await controller._list()
        may_see = False
        await controller._list()
        assert caplog.text.count(in_the_log) == 2
        await controller.stop()
