"""Carried traffic after upgrades and crashes of the operator, on a real API server."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from wesher_operator.crd import definition
from wesher_operator.resources.mesh import WesherMesh
from wesher_testing.cluster.api_server import ApiServer
from wesher_testing.cluster.carrying_agents import (
    KEYS,
    TRAFFIC,
    Agents,
    all_routes,
    condition,
    routes,
    three_nodes,
    until,
    until_published,
    until_routes,
)
from wesher_testing.cluster.certified_agents import document
from wesher_testing.cluster.operator_process import SOON, eventually, run_operator

Mesh = Callable[..., None]
Report = Callable[..., None]


@pytest.fixture
def agents(api: ApiServer, report: Report) -> Agents:
    three_nodes(api)
    return Agents(api, report)


def test_an_operator_killed_between_the_steps_is_followed_by_one_that_takes_the_second(
    api: ApiServer, mesh: Mesh, agents: Agents
) -> None:
    with run_operator(api, name="killed-between-steps") as killed:
        mesh(traffic=TRAFFIC)
        agents.start(*KEYS)
        until_published(api, is_on=True)
        agents.says("a", "Accepting")
        agents.says("b", "Accepting")
        until(api, "WaitingForAgents", ": c")
        killed.kill()
    assert [routes(api, name) for name in KEYS] == [[], [], []]
    agents.says("c", "Accepting")
    with run_operator(api, name="takes-the-second-step"):
        for name in KEYS:
            until_routes(api, name, *all_routes(name))
            agents.says(name, "Carried", routed=4)
        until(api, "Carried")


def without_traffic() -> dict[str, Any]:
    """Return the definition of WesherMeshes as a release had it that carried no traffic of the cluster."""
    older = deepcopy(definition(WesherMesh))
    schema = older["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    for field in ("traffic", "nodeReadiness", "trustedAuthorities"):
        del schema["properties"][field]
    del schema["properties"]["addresses"]["properties"]["locationLabel"]
    rules = schema["x-kubernetes-validations"]
    schema["x-kubernetes-validations"] = [each for each in rules if "traffic" not in each["rule"]]
    return older


def etc_hosts(api: ApiServer) -> str:
    read = document(api)
    return read.etc_hosts if read is not None else ""


def test_a_mesh_of_a_release_without_carried_traffic_carries_none_after_the_upgrade(
    api: ApiServer, mesh: Mesh, agents: Agents
) -> None:
    """Nor does its mesh.json change, which agents of that release would apply again."""
    api.apply(without_traffic())
    try:
        mesh()
        with run_operator(api, name="before-the-upgrade"):
            former = eventually(lambda: document(api), within=SOON)
    finally:
        api.apply(definition(WesherMesh))
    stored = eventually(lambda: api.get("wmesh", "demo")["spec"].get("traffic"), within=SOON)
    assert (stored["nodes"], stored["pods"]) == ("None", "None")
    with run_operator(api, name="after-the-upgrade"):
        mesh(etcHosts="Off")
        eventually(lambda: etc_hosts(api), within=SOON, until="Off".__eq__)
        mesh(etcHosts="Qualified")
        eventually(lambda: etc_hosts(api), within=SOON, until="Qualified".__eq__)
        read = document(api)
    assert former is not None
    assert read is not None
    assert read.config_hash == former.config_hash
    assert "traffic" not in read.to_dict()
    assert condition(api) == {}
