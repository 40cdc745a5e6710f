"""An API server whose etcd was restored from a backup: operator and agents go on with what it holds then."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest

from wesher_agent.kube.node_spec import NodeSpec
from wesher_agent.kube.own_objects import OwnObjects
from wesher_agent.kube.reporter import KubernetesLink
from wesher_common.keys import KeyRing
from wesher_common.names import out_label
from wesher_testing.agents.snapshots import snapshot
from wesher_testing.cluster.api_server import ApiServer, api_server
from wesher_testing.cluster.certified_agents import (
    boot,
    certify,
    node_condition,
    place,
    private_key,
    statement,
    until_node,
    until_void,
)
from wesher_testing.cluster.operator_process import NAMESPACE, SOON, eventually, install, run_operator
from wesher_testing.virtual.members import remembered

NEWER_KEY = bytes(range(32))
READY = snapshot(remembered("b"))
FAILED = snapshot(remembered("b"), device_ready=False, device_reason="Failed", device_problem="not yet")
LEADERSHIP_LOST = 3


@pytest.fixture(scope="module")
def own() -> Iterator[ApiServer]:
    """Run an API server that nothing else uses, since it is stopped and started."""
    with api_server() as server:
        install(server)
        yield server


def declare(api: ApiServer, **spec: Any) -> None:
    spec = {"overlayCIDR": "10.189.0.0/16", **spec}
    metadata = {"name": "demo"}
    body = {"apiVersion": "wesher.dev/v1alpha1", "kind": "WesherMesh", "metadata": metadata, "spec": spec}
    api.apply(body)


def places(api: ApiServer) -> dict[str, str]:
    return {item["spec"]["nodeName"]: item["metadata"]["uid"] for item in api.get("wnode")["items"]}


def key_id(api: ApiServer) -> str:
    return str((api.get("wmesh", "demo")["status"].get("key") or {}).get("id", ""))


def hosts_mode(api: ApiServer) -> str:
    """Return what mesh.json says; empty while there is none, since places come first."""
    found = api.get("configmap", "demo-config", "-n", NAMESPACE)
    return "" if found is None else str(json.loads(found["data"]["mesh.json"])["etcHosts"])


def until_settled(api: ApiServer, nodes: str, hosts: str) -> str:
    """Wait until there is a place for exactly these nodes and mesh.json says so; return the key's id."""
    eventually(lambda: set(places(api)), within=SOON, until=set(nodes).__eq__)
    eventually(lambda: hosts_mode(api), within=SOON, until=hosts.__eq__)
    return eventually(lambda: key_id(api), within=SOON)


@pytest.fixture(scope="module")
def backup(own: ApiServer) -> Path:
    """Make a mesh of the nodes a and b, and a back-up in which Node c is new."""
    own.node("a", "192.168.7.1")
    own.node("b", "192.168.7.2")
    declare(own)
    with run_operator(own, name="before"):
        until_settled(own, "ab", "Qualified")
    own.node("c", "192.168.7.3")
    return own.back_up()


async def link_of(api: ApiServer, node: str) -> KubernetesLink:
    kubeconfig = api.kubeconfig_for(api.token("wesher-agent", NAMESPACE, node=node), f"agent-{node}")
    mesh_uid = str(api.get("wmesh", "demo")["metadata"]["uid"])
    return KubernetesLink(await OwnObjects.connect(kubeconfig, "demo", node, agent_version="0"), mesh_uid)


def reported(api: ApiServer, node: str) -> tuple[str, str]:
    """Return the uid of a WesherNode and the reason of its condition Ready."""
    found = api.get("wnode", f"demo.{node}") or {"metadata": {"uid": ""}}
    conditions = (found.get("status") or {}).get("conditions") or []
    return found["metadata"]["uid"], next((c["reason"] for c in conditions if c["type"] == "Ready"), "")


async def test_after_a_restore_the_operator_begins_again_and_agents_report_to_what_there_is(
    own: ApiServer, backup: Path
) -> None:
    former_key = key_id(own)
    with run_operator(own, name="leading") as leading:
        until_settled(own, "abc", "Qualified")
        former = places(own)
        link, seen = await link_of(own, "c"), asyncio.Queue[NodeSpec]()
        present = [READY]
        running = asyncio.create_task(link.run(lambda: present[-1], seen.put_nowait, rng=Random(1)))
        await until_reported(own, (former["c"], "Ready"))

        declare(own, etcHosts="Off")
        rotated = base64.b64encode(base64.b64encode(NEWER_KEY)).decode()
        secret = {"apiVersion": "v1", "kind": "Secret", "data": {"cluster-key": rotated}}
        own.apply({**secret, "metadata": {"name": "demo-key", "namespace": NAMESPACE}})
        own.kubectl("delete", "node", "b")
        until_settled(own, "ac", "Off")
        newer = KeyRing.from_files(base64.b64encode(NEWER_KEY).decode()).primary.id
        eventually(lambda: key_id(own), within=SOON, until=newer.__eq__)

        # As one whose API server is away only for a moment: it has lost no lease.
        leading.pause()
        await asyncio.to_thread(own.restore, backup)
        assert set(places(own)) == set("ab")
        leading.resume()
        assert leading.process.wait(timeout=SOON) == LEADERSHIP_LOST
        assert "lease went back to an earlier state" in leading.log
    assert set(places(own)) == set("ab")  # it wrote nothing by what it knew of before

    with run_operator(own, name="next"):  # as the kubelet does
        assert until_settled(own, "abc", "Qualified") == former_key
        remade = places(own)
        assert (remade["a"], remade["b"]) == (former["a"], former["b"])
        assert remade["c"] != former["c"]
        present.append(FAILED)
        link.wake()
        await until_reported(own, (remade["c"], "Failed"))
        assert not await link.is_gone()
        eventually(lambda: not_ready(own), within=SOON, until={"c": "Failed"}.items().__le__)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def until_reported(api: ApiServer, wanted: tuple[str, str]) -> None:
    await asyncio.to_thread(eventually, lambda: reported(api, "c"), within=SOON, until=wanted.__eq__)


def not_ready(api: ApiServer) -> Any:
    entries = api.get("wmesh", "demo")["status"].get("memberList") or []
    return {entry["name"]: entry["reason"] for entry in entries if entry["state"] != "Ready"}.items()


def report(api: ApiServer, node: str, **status: Any) -> None:
    """Report as the agent of a node does."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    body = {"status": {"lastReportTime": now, **status}}
    patch = ("--subresource=status", "--type=merge", "-p", json.dumps(body))
    api.kubectl("patch", "wnode", f"demo.{node}", *patch)


def test_a_node_that_was_revoked_after_the_backup_stays_out_after_the_restore(own: ApiServer) -> None:
    """Its Node is there again, without the label, as its WesherNode is; but an agent has the statement."""
    keys = {node: private_key(node) for node in "de"}
    for number, node in enumerate(keys, start=8):
        own.node(node, f"192.168.7.{number}")
        boot(own, node, f"boot-{node}")
    declare(own)
    with run_operator(own, name="certifying"):
        certify(own, partial(report, own), **keys)
        until_node(own, "e", "Issued")
        had = place(own, "e")
        backup, older = own.back_up(), statement(own)
        own.kubectl("label", "node", "e", f"{out_label('demo')}=stolen")
        until_void(own, "e", had["serial"])
        newest = statement(own)
    assert older is not None
    assert newest is not None

    own.restore(backup)
    assert statement(own) == older
    assert place(own, "e") == had
    text = base64.b64encode(newest.packed()).decode()
    with run_operator(own, name="restored"):
        report(own, "d", newsNumber=newest.number, news=text)
        until_void(own, "e", had["serial"])
        until_node(own, "e", "Revoked")
        assert place(own, "e")["serial"] == had["serial"], "it gets no other certificate"
        assert node_condition(own, "d")["reason"] == "Issued"
