"""A machine is replaced under the same Node: real API server, operator, agents and tunnels."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from wesher_testing.lab.namespaces import Host
from wesher_testing.run.demo.world import MESH, Node, World
from wesher_testing.run.toolbox import REPOSITORY

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]

NODES = ("node-a", "node-b", "node-c")
SOON = 90.0
"""Seconds for what takes a few where nothing else runs."""
HEALED = 20.0
"""Seconds from the start of the new machine's agent: it takes 5, and 154 without the former address."""


def until(is_so: Callable[[], Any], *, within: float = SOON) -> None:
    """Wait until something holds."""
    began = time.monotonic()
    while not is_so():
        assert time.monotonic() - began < within, "not in time"
        time.sleep(0.2)


def boot(world: World, node: str, boot_id: str, address: str) -> None:
    """Have a Node say what its kubelet says after a start."""
    info = dict.fromkeys(
        ("containerRuntimeVersion", "kubeletVersion", "kubeProxyVersion", "kernelVersion", "osImage"), "v1"
    ) | {"operatingSystem": "linux", "architecture": "amd64", "machineID": "cloned", "systemUUID": ""}
    addresses = [{"type": "InternalIP", "address": address}]
    status = {"status": {"nodeInfo": {**info, "bootID": boot_id}, "addresses": addresses}}
    api = world.api
    api.kubectl("patch", "node", node, "--subresource=status", "--type=merge", "-p", json.dumps(status))


def machine(world: World, node: str) -> str:
    """Return which machine the operator says that a Node is."""
    return str((world.api.get("wnode", f"{MESH}.{node}") or {}).get("spec", {}).get("machine", ""))


def pings(host: Host, address: str) -> bool:
    return host.run(["ping", "-c1", "-W1", address], check=False).returncode == 0


@pytest.fixture
def world() -> Iterator[World]:
    """Three nodes in one mesh that is ready, with the WAN profile, which is the default."""
    with World() as made:
        control = made.lab.host("control-plane")
        made.start_api_server(control)
        for files in ("deploy/namespace.yaml", "charts/wesher/crds", "deploy/wesher.yaml"):
            made.api.kubectl("apply", "-f", str(REPOSITORY / files))
        made.start_operator(control)
        for name in NODES:
            node = made.register(made.lab.host(name))
            boot(made, name, f"{name}-1", str(node.host.ipv4))
        mesh = {"apiVersion": "wesher.dev/v1alpha1", "kind": "WesherMesh", "metadata": {"name": MESH}}
        made.api.apply({**mesh, "spec": {"overlayCIDR": "10.189.0.0/16"}})
        until(lambda: all(machine(made, name) for name in NODES) and made.daemon_set())
        for node in made.nodes.values():
            assert made.mount(node)
            node.start_agent()
        until(lambda: made.condition()["status"] == "True")
        yield made
        for node in made.nodes.values():
            node.end_agent()


def test_a_machine_replaced_under_the_same_node_is_reached_soon_and_is_not_ready_before(world: World) -> None:
    former = world.nodes["node-c"]
    assert former.agent is not None
    overlay = {name: world.overlay_address(name) for name in NODES}
    former.agent.kill()
    former.end_agent()
    former.host.run(["ip", "link", "set", "eth0", "down"])

    fresh = world.lab.host("fresh")
    boot(world, "node-c", "node-c-2", str(fresh.ipv4))
    until(lambda: world.condition()["status"] != "True", within=10.0)

    heir = Node(
        fresh, world.lab.directory / "fresh-mount", former.kubeconfig, world.lab.directory / "fresh.log"
    )
    world.nodes["node-c"] = heir
    assert world.mount(heir)
    heir.start_agent(name="node-c")
    until(lambda: all(pings(world.nodes[name].host, overlay["node-c"]) for name in NODES[:2]), within=HEALED)
    assert pings(fresh, overlay["node-a"])
    until(lambda: world.condition()["status"] == "True")
