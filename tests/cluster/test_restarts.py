"""Whatever is killed or out of reach, the mesh goes on: an agent, an operator, the API server."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import pytest

from wesher_common.mesh_document import MeshDocument
from wesher_testing.cluster.image import Image
from wesher_testing.cluster.installation import NAMESPACE, Mesh, upgrade
from wesher_testing.cluster.kubelets import Cluster, Node
from wesher_testing.cluster.operator_process import eventually
from wesher_testing.lab.pings import Pinging
from wesher_testing.run.machine_load import share_of_a_core

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]

_AWAY_SECONDS = 120.0
_NOTHING_LOST = 1.0
"""Seconds without an answer that say nothing: the last pings of a busy machine may be on their way."""
_OTHER_ACTS = timedelta(seconds=20)
"""From the last sign of a leader that died to the next one, where the machine is not busy."""
_KEPT = timedelta(seconds=5)
_SETTLED_SECONDS = 180.0
"""Until all agents have what was declared, and say so: their reports may be half a minute apart."""


def test_an_agent_killed_while_the_api_server_is_away_starts_from_its_state(
    running: Cluster, mesh: Mesh
) -> None:
    """For two minutes nothing needs the API server: the mesh carries, and the agent is back before it."""
    node = running.nodes["node-2"]
    port = urlsplit(running.api.url).port
    assert port is not None
    restarts = _restarts(mesh, node)
    addresses = mesh.addresses()
    others = running.nodes.keys() - {node.name}
    eventually(lambda: mesh.status()["identity"]["bound"], within=_SETTLED_SECONDS)
    certified = mesh.certificates()
    assert {why for _, why in certified.values()} == {""}
    with Pinging(running.nodes, addresses) as pinging:
        running.control_plane.drop("tcp", port)
        back_at = time.monotonic() + _AWAY_SECONDS
        try:
            killed = _agent_process(node)
            node.run(["kill", "-KILL", killed])
            started = eventually(
                lambda: _agent_process(node), within=_AWAY_SECONDS, until=lambda pid: pid not in {"", killed}
            )
            for other in others:
                _wait_until_it_answers(node, addresses[other])
                _wait_until_it_answers(running.nodes[other], addresses[node.name])
            assert time.monotonic() < back_at, "it was back before the API server"
            # The device is gone with the agent; the certificate comes from the state file.
            assert mesh.certificates() == certified
            eventually(
                lambda: _agent_process(node),
                within=_AWAY_SECONDS,
                until=lambda pid: pid != started or time.monotonic() > back_at,
            )
            assert _agent_process(node) == started
        finally:
            running.control_plane.allow_all()
    untouched = [seconds for pair, seconds in pinging.outages.items() if node.name not in pair]
    assert max(untouched) < _NOTHING_LOST
    eventually(
        lambda: _restarts(mesh, node), within=_SETTLED_SECONDS, until=lambda number: number == restarts + 1
    )
    mesh.wait_until_ready()
    eventually(lambda: mesh.status()["members"]["summary"], within=_SETTLED_SECONDS, until="3/3".__eq__)


def test_of_two_operators_the_other_acts_when_the_leader_dies_or_goes(
    running: Cluster, mesh: Mesh, image: Image
) -> None:
    """What the one had begun the other finishes, and agents do not notice."""
    uids = {agent["metadata"]["uid"] for agent in mesh.agents().values()}
    upgrade(running, image, "--set", "operator.replicas=2")
    try:
        # An operator that could not reach the API server has left a lease that nobody keeps.
        killed = eventually(lambda: _lease(running), within=90, until=_is_kept)
        _change_keepalive(running, mesh, 25)
        _kill_operator(running, _pod_of(killed))
        successor = eventually(
            lambda: _lease(running),
            within=_SETTLED_SECONDS,
            until=lambda lease: lease["holderIdentity"] not in {"", killed["holderIdentity"]},
        )
        eventually(lambda: _settled(running, mesh), within=_SETTLED_SECONDS)
        waited = _moment(successor["acquireTime"]) - _moment(killed["renewTime"])
        assert waited < _OTHER_ACTS / share_of_a_core()

        _change_keepalive(running, mesh, 0)
        running.api.kubectl("delete", "pod", _pod_of(successor), f"--namespace={NAMESPACE}", "--wait=false")
        eventually(
            lambda: _lease(running)["holderIdentity"],
            within=_SETTLED_SECONDS,
            until=lambda identity: identity not in {"", successor["holderIdentity"]},
        )
        eventually(lambda: _settled(running, mesh), within=_SETTLED_SECONDS)
    finally:
        _change_keepalive(running, mesh, 0)
        upgrade(running, image)
    eventually(lambda: _settled(running, mesh), within=_SETTLED_SECONDS)
    assert uids == {agent["metadata"]["uid"] for agent in mesh.agents().values()}


def _lease(running: Cluster) -> dict[str, str]:
    """Return who leads the operators, and since when."""
    found = running.api.get("lease", "wesher-operator", f"--namespace={NAMESPACE}")["spec"]
    return {"holderIdentity": "", **found}


def _is_kept(lease: dict[str, str]) -> bool:
    """Tell whether a leader lives, which renews its lease every two seconds."""
    return bool(lease["holderIdentity"]) and datetime.now(UTC) - _moment(lease["renewTime"]) < _KEPT


def _pod_of(lease: dict[str, str]) -> str:
    """Return the pod of a leader, whose identity is its host's name, its process and a random part."""
    return lease["holderIdentity"].rsplit("-", 2)[0]


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _kill_operator(running: Cluster, name: str) -> None:
    """Kill what runs in an operator's pod, as the kernel does that is out of memory."""
    pod = running.api.get("pod", name, f"--namespace={NAMESPACE}")
    node = running.nodes[pod["spec"]["nodeName"]]
    for pid in node.run(["pgrep", "--full", "bin/wesher-operator run"]).stdout.split():
        if f"HOSTNAME={name}" in node.run(["cat", f"/proc/{pid}/environ"]).stdout.split("\0"):
            node.run(["kill", "-KILL", pid])


def _change_keepalive(running: Cluster, mesh: Mesh, seconds: int) -> None:
    change = json.dumps({"spec": {"wireguard": {"persistentKeepalive": seconds}}})
    running.api.kubectl("patch", "wmesh", mesh.name, "--type=merge", f"--patch={change}")


def _settled(running: Cluster, mesh: Mesh) -> bool:
    """Tell whether a mesh is Ready and all agents report the configuration of its spec as it stands."""
    stored = running.api.get("wmesh", mesh.name)
    config = running.api.get("configmap", f"{mesh.name}-config", f"--namespace={NAMESPACE}")
    document = MeshDocument.from_json(config["data"]["mesh.json"])
    wanted = stored["spec"]["wireguard"]["persistentKeepalive"]
    hashes = {node.get("status", {}).get("configHash") for node in mesh.weshernodes()}
    return (
        stored["status"]["observedGeneration"] == stored["metadata"]["generation"]
        and document.wireguard.persistent_keepalive == wanted
        and hashes == {document.config_hash}
        and mesh.condition("Ready")["status"] == "True"
    )


def _wait_until_it_answers(node: Node, address: str) -> None:
    ping = ["ping", "-n", "-q", "-c", "1", "-W", "1", address]
    eventually(lambda: node.host.run(ping, check=False).returncode == 0, within=_AWAY_SECONDS)


def _agent_process(node: Node) -> str:
    """Return the pid of the agent as its node sees it, empty while there is none."""
    return node.run(["pgrep", "--full", "bin/wesher agent"], check=False).stdout.partition("\n")[0]


def _restarts(mesh: Mesh, node: Node) -> int:
    return int(mesh.agents()[node.name]["status"]["containerStatuses"][0]["restartCount"])
