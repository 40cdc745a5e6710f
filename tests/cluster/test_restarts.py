"""Whatever is restarted or out of reach, the mesh goes on: agents, the operator, the API server."""

from __future__ import annotations

import itertools
import json
import sys
from typing import Any
from urllib.parse import urlsplit

import pytest

from wesher_testing.installation import NAMESPACE, OPERATOR, Mesh
from wesher_testing.kubelets import Cluster, Node
from wesher_testing.operator_process import eventually
from wesher_testing.pinging import Pinging

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]

_LONGEST_OUTAGE = 30.0
"""Seconds without an answer at most, where each node's user-space WireGuard is started anew once.

On a machine with nothing else to do it is a tenth of that; what must not happen at all is
in what stays: the device, its address and its routes.
"""


def test_an_update_of_the_agents_leaves_devices_addresses_and_routes_in_place(
    running: Cluster, mesh: Mesh, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nodes are updated one by one, and each is out of reach only until its new agent has started."""
    before = {name: _network_of(node, mesh) for name, node in running.nodes.items()}
    uids = {agent["metadata"]["uid"] for agent in mesh.agents().values()}
    daemonset = ("daemonset/default-agent", f"--namespace={NAMESPACE}")

    with Pinging(running.nodes, mesh.addresses()) as pinging:
        running.api.kubectl("rollout", "restart", *daemonset)
        running.repeat("rollout", "status", *daemonset, "--timeout=10s")
        _wait_until_all_talk(running, mesh)

    with capsys.disabled():
        sys.stdout.write(f"\n  longest outage in user space: {max(pinging.outages.values()):.1f} s")
    assert {name: _network_of(node, mesh) for name, node in running.nodes.items()} == before
    assert not uids & {agent["metadata"]["uid"] for agent in mesh.agents().values()}
    assert max(pinging.outages.values()) < _LONGEST_OUTAGE


def test_an_agent_killed_while_the_api_server_is_away_starts_from_its_state(
    running: Cluster, mesh: Mesh
) -> None:
    """It needs the API server for nothing that it knew before, and reports once it is back."""
    node = running.nodes["node-2"]
    port = urlsplit(running.api.url).port
    assert port is not None
    restarts = _restarts(mesh, node)
    addresses = mesh.addresses()
    running.control_plane.drop("tcp", port)
    try:
        killed = _agent_process(node)
        node.run(["kill", "-KILL", killed])
        eventually(lambda: _agent_process(node), within=60, until=lambda pid: pid not in {"", killed})
        others = running.nodes.keys() - {node.name}
        for other in others:
            _wait_until_it_answers(node, addresses[other])
            _wait_until_it_answers(running.nodes[other], addresses[node.name])
    finally:
        running.control_plane.allow_all()
    eventually(lambda: _restarts(mesh, node), within=60, until=lambda number: number == restarts + 1)
    mesh.wait_until_ready()


def test_an_operator_that_is_replaced_goes_on_where_the_former_stopped(running: Cluster, mesh: Mesh) -> None:
    """Agents do not notice, and what is changed afterwards is acted on."""
    uids = {agent["metadata"]["uid"] for agent in mesh.agents().values()}
    deployment = ("deployment/wesher-operator", f"--namespace={NAMESPACE}")

    running.api.kubectl(
        "delete", "pods", f"--namespace={NAMESPACE}", f"--selector={OPERATOR}", "--wait=false"
    )
    _change_keepalive(running, mesh, 25)

    try:
        eventually(lambda: _settled(running, mesh), within=90)
        running.repeat("rollout", "status", *deployment, "--timeout=10s")
    finally:
        _change_keepalive(running, mesh, 0)
    eventually(lambda: _settled(running, mesh), within=60)
    assert uids == {agent["metadata"]["uid"] for agent in mesh.agents().values()}


def _change_keepalive(running: Cluster, mesh: Mesh, seconds: int) -> None:
    change = json.dumps({"spec": {"wireguard": {"persistentKeepalive": seconds}}})
    running.api.kubectl("patch", "wmesh", mesh.name, "--type=merge", f"--patch={change}")


def _settled(running: Cluster, mesh: Mesh) -> bool:
    """Tell whether every agent reports the configuration that belongs to the mesh's spec as it stands."""
    stored = running.api.get("wmesh", mesh.name)
    config = running.api.get("configmap", f"{mesh.name}-config", f"--namespace={NAMESPACE}")
    document = json.loads(config["data"]["mesh.json"])
    wanted = stored["spec"]["wireguard"]["persistentKeepalive"]
    hashes = {node.get("status", {}).get("configHash") for node in mesh.weshernodes()}
    return (
        stored["status"]["observedGeneration"] == stored["metadata"]["generation"]
        and document["wireguard"]["persistentKeepalive"] == wanted
        and len(hashes) == 1
        and mesh.condition("Ready")["status"] == "True"
    )


def _network_of(node: Node, mesh: Mesh) -> dict[str, Any]:
    """Return a node's device as its users know it: by its index, which a new one would not have."""
    (link,) = json.loads(node.host.run(["ip", "-json", "address", "show", "dev", mesh.interface]).stdout)
    routes = json.loads(node.host.run(["ip", "-json", "route", "show", "dev", mesh.interface]).stdout)
    return {
        "index": link["ifindex"],
        "mtu": link["mtu"],
        "addresses": [each["local"] for each in link["addr_info"] if each["family"] == "inet"],
        "routes": sorted(route["dst"] for route in routes),
    }


def _wait_until_all_talk(running: Cluster, mesh: Mesh) -> None:
    addresses = mesh.addresses()
    for source, target in itertools.permutations(running.nodes, 2):
        _wait_until_it_answers(running.nodes[source], addresses[target])


def _wait_until_it_answers(node: Node, address: str) -> None:
    ping = ["ping", "-n", "-q", "-c", "1", "-W", "1", address]
    eventually(lambda: node.host.run(ping, check=False).returncode == 0, within=60)


def _agent_process(node: Node) -> str:
    """Return the pid of the agent as its node sees it, empty while there is none."""
    return node.run(["pgrep", "--full", "bin/wesher agent"], check=False).stdout.partition("\n")[0]


def _restarts(mesh: Mesh, node: Node) -> int:
    return int(mesh.agents()[node.name]["status"]["containerStatuses"][0]["restartCount"])
