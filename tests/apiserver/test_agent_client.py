"""The agent's own client against a real API server, with the rights of an agent's token."""

from __future__ import annotations

from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any

import pytest

from wesher_agent.kube.node_spec import ObjectGone
from wesher_agent.kube.node_status import node_status
from wesher_agent.kube.own_objects import OwnObjects
from wesher_agent.mesh.roster import MemberState
from wesher_common.errors import ClusterUnavailable
from wesher_common.report import MAX_UNREACHABLE
from wesher_testing.agents.snapshots import snapshot
from wesher_testing.cluster.api_server import ApiServer
from wesher_testing.cluster.operator_process import NAMESPACE
from wesher_testing.virtual.members import remembered

MANY = tuple(f"m{number:02}" for number in range(MAX_UNREACHABLE + 2))
LAPTOP = remembered("laptop", "192.0.2.9")
STATUS = snapshot(
    *(remembered(name, state=MemberState.FAILED) for name in MANY),
    LAPTOP,
    device_ready=False,
    device_reason="Failed",
    device_problem="waits",
    mode="Userspace",
)
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def node_a(api: ApiServer) -> dict[str, Any]:
    """Make a mesh, a node and its place in it; return the WesherNode."""
    api.node("a", "192.168.7.1")
    api.apply(_object("WesherMesh", "m", {"overlayCIDR": "10.9.0.0/16"}))
    spec = {
        "meshRef": {"name": "m", "uid": "u"},
        "nodeName": "a",
        "overlayIP": "10.9.0.5",
        "location": "east",
    }
    api.apply(_object("WesherNode", "m.a", spec))
    return api.get("weshernode", "m.a")


@pytest.fixture
async def objects(api: ApiServer, node_a: dict[str, Any]) -> OwnObjects:
    """Return the client of the agent on node a."""
    kubeconfig = api.kubeconfig_for(api.token("wesher-agent", NAMESPACE, node="a"), "agent-a")
    return await OwnObjects.connect(kubeconfig, "m", "a", agent_version="0.1.0")


def _object(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "wesher.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}


async def test_an_agent_reads_what_the_operator_gave_it(objects: OwnObjects, node_a: dict[str, Any]) -> None:
    node = await objects.node()
    assert (node.place.overlay_address, node.place.location) == (ip_address("10.9.0.5"), "east")
    assert node.uid == node_a["metadata"]["uid"]


async def test_a_whole_report_is_accepted_and_comes_back_with_the_spec(
    objects: OwnObjects, api: ApiServer, node_a: dict[str, Any]
) -> None:
    node = await objects.apply_status(node_status(STATUS, (), time=NOW))
    assert node.place.overlay_address == ip_address("10.9.0.5")
    stored = api.get("weshernode", "m.a", "--show-managed-fields")
    assert stored["spec"] == node_a["spec"]
    assert stored["status"] == node_status(STATUS, (), time=NOW)
    assert stored["status"]["peers"]["unreachable"] == list(MANY[:MAX_UNREACHABLE])
    managers = {entry["manager"] for entry in stored["metadata"]["managedFields"] if "subresource" in entry}
    assert managers == {"wesher-agent"}


async def test_a_condition_that_did_not_change_keeps_its_time(objects: OwnObjects) -> None:
    first = await objects.apply_status(node_status(STATUS, (), time=NOW))
    later = datetime(2026, 1, 2, 4, 0, 0, tzinfo=UTC)
    again = await objects.apply_status(node_status(STATUS, first.conditions, time=later))
    assert {entry["lastTransitionTime"] for entry in again.conditions} == {"2026-01-02T03:04:05Z"}


async def test_an_agent_is_gone_when_its_node_object_is_or_its_mesh_or_another_took_their_names(
    objects: OwnObjects, api: ApiServer, node_a: dict[str, Any]
) -> None:
    mesh_uid, node_uid = await objects.mesh_uid(), node_a["metadata"]["uid"]
    assert not await objects.is_gone(mesh_uid=mesh_uid, node_uid=node_uid)
    assert not await objects.is_gone(mesh_uid=mesh_uid, node_uid="")
    assert await objects.is_gone(mesh_uid="another", node_uid=node_uid)
    assert await objects.is_gone(mesh_uid=mesh_uid, node_uid="another")
    api.kubectl("delete", "weshernode", "m.a")
    assert await objects.is_gone(mesh_uid=mesh_uid, node_uid=node_uid)
    with pytest.raises(ObjectGone):
        await objects.apply_status(node_status(STATUS, (), time=NOW))


async def test_a_deleted_mesh_means_gone(objects: OwnObjects, api: ApiServer) -> None:
    mesh_uid = await objects.mesh_uid()
    api.kubectl("delete", "weshermesh", "m")
    assert await objects.is_gone(mesh_uid=mesh_uid, node_uid="")


async def test_a_token_that_is_refused_means_nothing(api: ApiServer, node_a: dict[str, Any]) -> None:
    nobody = {"apiVersion": "v1", "kind": "ServiceAccount"}
    api.apply({**nobody, "metadata": {"name": "nobody", "namespace": NAMESPACE}})
    for token in ("junk", api.token("nobody", NAMESPACE)):
        client = await OwnObjects.connect(api.kubeconfig_for(token, "refused"), "m", "a", agent_version="0")
        with pytest.raises(ClusterUnavailable, match=r"answered 401|answered 403"):
            await client.is_gone(mesh_uid="another", node_uid="another")
