"""A mesh that carries all traffic of nodes and pods in one LAN, whose hosts filter reverse paths strictly.

The tests are one story, in their order; the last one switches off.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from wesher_common.traffic import DEFAULT_MARK
from wesher_testing.agents.process import pings
from wesher_testing.cluster.carried_traffic import (
    foreign_allowed_ips,
    in_clear,
    is_own,
    path_filter,
    switch,
    traces_on,
    wait_until_carried,
)
from wesher_testing.cluster.echo_pods import PORT, STREAM, EchoPods, echo_pods
from wesher_testing.cluster.image import Image
from wesher_testing.cluster.installation import Mesh
from wesher_testing.cluster.kubelets import Cluster, Node
from wesher_testing.cluster.operator_process import eventually
from wesher_testing.lab.capture import Capture, Packet, wireguard_pairs
from wesher_testing.lab.pings import OnHost, Pinging

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]

_SOON = 90.0
_STRICT = 1
_OFF_SECONDS = 5.0
"""From mesh.json on a node to nothing left."""
_GLASS_SECONDS = 30.0
"""From the edit to packets that pass in clear; the kubelets bring mesh.json, which takes some seconds."""
_WIREGUARD = 51820
_ARP = None


@pytest.fixture(scope="module")
def pods(running: Cluster, installed: Mesh, image: Image) -> Iterator[EchoPods]:
    """Run pods on hosts with strict reverse-path filters."""
    for node in running.nodes.values():
        for link in ("all", "default", "eth0"):
            node.host.run(["sysctl", "-q", "-w", f"net.ipv4.conf.{link}.rp_filter={_STRICT}"])
    made = echo_pods(running, image)
    try:
        yield made
    finally:
        made.delete()
        for node in running.nodes.values():
            for link in ("all", "default", "eth0"):
                node.host.run(["sysctl", "-q", "-w", f"net.ipv4.conf.{link}.rp_filter=0"])


def test_switching_on_under_traffic_loses_no_packet(
    running: Cluster, mesh: Mesh, pods: EchoPods, say: Callable[[str], None]
) -> None:
    """Neither between nodes nor between pods of all pairs, and a connection goes on."""
    first, second = list(pods.by_node.values())[:2]
    stream = first.popen([sys.executable, "-c", STREAM, second.address, str(PORT)], stdout=subprocess.DEVNULL)
    began = time.monotonic()
    try:
        with _pinging(pods, running) as pinging:
            switch(mesh, nodes="All", pods="All", nodeCIDRs=[str(running.lab.lan.ipv4)])
            wait_until_carried(mesh, len(running.nodes))
            took = time.monotonic() - began
        assert stream.poll() is None, "the connection lives"
    finally:
        stream.kill()
        stream.wait()
    assert pinging.lost == dict.fromkeys(pinging.lost, 0)
    say(f"carried after {took:.0f} s, {sum(pinging.counted.values())} pings, 0 lost")


def test_no_wire_shows_packets_of_nodes_or_pods(
    running: Cluster, mesh: Mesh, pods: EchoPods, tmp_path: Path
) -> None:
    """With 10 MB both ways between two pods; what else is between nodes is WireGuard and gossip."""
    first, second = list(pods.by_node)[:2]
    with ExitStack() as stack:
        captures = [
            stack.enter_context(Capture(node.host, "eth0", tmp_path / f"{name}.pcap"))
            for name, node in running.nodes.items()
        ]
        with _pinging(pods, running):
            assert pods.exchange(first, pods.by_node[second].address, 10)
        # What is marked as the tunnels' own packets leaves in clear.
        one, other = (running.nodes[name].host for name in (first, second))
        one.run(["ping", "-c", "1", "-m", str(DEFAULT_MARK), str(other.ipv4)])
    packets = [packet for capture in captures for packet in capture.packets()]
    networks = [running.lab.lan.ipv4, *_pod_networks(running)]
    seen = [packet for packet in in_clear(packets, networks, networks) if not _is_own(packet, running)]
    assert wireguard_pairs(packets)
    assert {packet.protocol for packet in seen} == {1}, "what is sent in clear on purpose is caught"
    assert {frozenset((packet.source, packet.destination)) for packet in seen} == {
        frozenset((one.ipv4, other.ipv4))
    }


def test_switching_off_under_traffic_loses_no_packet_and_leaves_nothing(
    running: Cluster, mesh: Mesh, pods: EchoPods, say: Callable[[str], None]
) -> None:
    """Rules and routes are gone at once; the filters and allowed IPs follow, once nobody sends any more."""
    began = time.monotonic()
    with _pinging(pods, running) as pinging:
        switch(mesh, nodes="None", pods="None")
        slowest = max(_seconds_until_gone(running, mesh).values())
        for node in running.nodes.values():
            eventually(partial(foreign_allowed_ips, node, mesh), within=_SOON, until=lambda left: not left)
            eventually(partial(path_filter, node.host, "eth0"), within=_SOON, until=_STRICT.__eq__)
        took = time.monotonic() - began
    assert pinging.lost == dict.fromkeys(pinging.lost, 0)
    assert slowest < _OFF_SECONDS
    assert mesh.condition("TrafficCarried") == {} or mesh.condition("TrafficCarried")["status"] != "True"
    say(f"gone {slowest:.1f} s after mesh.json came, allowed IPs after {took:.0f} s")


def test_switching_off_needs_no_tunnel(
    running: Cluster, mesh: Mesh, pods: EchoPods, say: Callable[[str], None]
) -> None:
    """What is carried stays away from the wires while no tunnel works, until the spec says None."""
    switch(mesh, nodes="All", pods="All")
    wait_until_carried(mesh, len(running.nodes))
    one, other = list(running.nodes.values())[:2]
    answered = partial(pings, one.host, str(other.host.ipv4))
    eventually(answered, within=_SOON)
    for node in running.nodes.values():
        node.host.drop("udp", _WIREGUARD)
    try:
        assert not answered(), "it does not leave in clear"
        began = time.monotonic()
        switch(mesh, nodes="None", pods="None")
        eventually(answered, within=_GLASS_SECONDS)
        took = time.monotonic() - began
        for name in pods.by_node:
            assert pings(running.nodes[name].host, pods.by_node[next(iter(pods.by_node))].address)
    finally:
        for node in running.nodes.values():
            node.host.allow_all()
    mesh.wait_until_ready()
    say(f"off {took:.1f} s after the edit, with every tunnel dead")


def _pinging(pods: EchoPods, running: Cluster) -> Pinging:
    """Ping every node from every other by its InternalIP, and every pod from every other."""
    places: Mapping[str, OnHost] = {
        **running.nodes,
        **{f"pod {name}": pod for name, pod in pods.by_node.items()},
    }
    addresses = {name: str(node.host.ipv4) for name, node in running.nodes.items()}
    addresses |= {f"pod {name}": pod.address for name, pod in pods.by_node.items()}
    pairs = [
        *itertools.permutations(running.nodes, 2),
        *((f"pod {one}", f"pod {other}") for one, other in itertools.permutations(pods.by_node, 2)),
    ]
    return Pinging(places, addresses, pairs)


def _pod_networks(running: Cluster) -> list[IPv4Network]:
    return [IPv4Network(node["spec"]["podCIDR"]) for node in running.api.get("nodes")["items"]]


def _is_own(packet: Packet, running: Cluster) -> bool:
    """Tell whether a packet is the mesh's own, a question for a hardware address, or the API server's."""
    if packet.protocol is _ARP or running.control_plane.ipv4 in {packet.source, packet.destination}:
        return True
    return is_own(packet)


def _seconds_until_gone(running: Cluster, mesh: Mesh) -> dict[str, float]:
    """Return how long after mesh.json came to each node its rules and routes were gone."""
    came: dict[str, float] = {}
    gone: dict[str, float] = {}
    files = {name: _mesh_json(running.nodes[name], pod) for name, pod in _agent_pods(mesh).items()}

    def look() -> bool:
        for name, node in running.nodes.items():
            if name not in came and "traffic" not in json.loads(files[name]()):
                came[name] = time.monotonic()
            if name not in gone and not traces_on(node):
                gone[name] = time.monotonic()
        return came.keys() == gone.keys() == running.nodes.keys()

    eventually(look, within=_SOON)
    return {name: gone[name] - came[name] for name in gone}


def _agent_pods(mesh: Mesh) -> dict[str, str]:
    return {name: pod["metadata"]["uid"] for name, pod in mesh.agents().items()}


def _mesh_json(node: Node, pod: str) -> Callable[[], str]:
    """Return what reads mesh.json as a pod on a node has it mounted."""
    file = f"/var/lib/kubelet/pods/{pod}/volumes/kubernetes.io~projected/mesh/mesh.json"
    command: Sequence[str] = ["cat", file]
    return lambda: node.run(command).stdout
