"""A mesh that carries all traffic of nodes and pods in one LAN, in IPv4 and IPv6, past strict filters.

The tests are one story, in their order; the last one switches off.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from wesher_common.traffic import DEFAULT_MARK
from wesher_testing.agents.process import pings
from wesher_testing.cluster.carried_traffic import (
    IPNetwork,
    foreign_allowed_ips,
    in_clear,
    is_own,
    path_filter,
    switch,
    traces_on,
    wait_until_carried,
)
from wesher_testing.cluster.components import BOTH_POD_NETWORKS
from wesher_testing.cluster.echo_pods import PORT, STREAM, EchoPods, echo_pods
from wesher_testing.cluster.image import Image
from wesher_testing.cluster.installation import Mesh, install
from wesher_testing.cluster.kubelets import Cluster, Node, cluster
from wesher_testing.cluster.operator_process import eventually
from wesher_testing.lab.capture import Capture, Packet, wireguard_pairs
from wesher_testing.lab.namespaces import Host
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
_ICMP, _ICMPV6 = 1, 58
_NEIGHBOUR_DISCOVERY = range(133, 138)
"""Types of ICMPv6 (RFC 4861)."""
_IPV6_FILTER = """
table inet {name} {{
    chain prerouting {{
        type filter hook prerouting priority raw + 10;
        icmpv6 type {{ nd-router-advert, nd-neighbor-solicit }} accept
        meta nfproto ipv6 fib {way} oif missing drop
    }}
}}
"""
"""The rules that firewalld has for its option IPv6_rpfilter; the kernel has no rp_filter of IPv6."""
_LOOSE_IPV6 = _IPV6_FILTER.format(name="loose", way="saddr . mark")
_STRICT_IPV6 = _IPV6_FILTER.format(name="strict", way="saddr . mark . iif")


@pytest.fixture(scope="module")
def running(image: Image) -> Iterator[Cluster]:
    """Run a cluster whose nodes and pods have addresses of both IP versions."""
    with cluster("node-1", "node-2", "node-3", images=[image], pods=BOTH_POD_NETWORKS) as made:
        yield made


@pytest.fixture(scope="module")
def installed(running: Cluster, image: Image) -> Mesh:
    install(running, image)
    return Mesh(running)


@pytest.fixture(scope="module")
def pods(running: Cluster, installed: Mesh, image: Image) -> EchoPods:
    """Run pods on hosts with reverse-path filters, strict ones of IPv4 and loose ones of IPv6."""
    for node in running.nodes.values():
        for link in ("all", "default", "eth0"):
            node.host.run(["sysctl", "-q", "-w", f"net.ipv4.conf.{link}.rp_filter={_STRICT}"])
        node.host.run(["nft", "-f", "-"], text_in=_LOOSE_IPV6)
    return echo_pods(running, image)


def test_switching_on_under_traffic_loses_no_packet(
    running: Cluster, mesh: Mesh, pods: EchoPods, say: Callable[[str], None]
) -> None:
    """Neither between nodes nor between pods of all pairs, and a connection of each IP version goes on."""
    first, second = list(pods.by_node.values())[:2]
    assert [ip_address(address).version for address in second.addresses] == [4, 6]
    streams = [
        first.popen([sys.executable, "-c", STREAM, address, str(PORT)], stdout=subprocess.DEVNULL)
        for address in second.addresses
    ]
    began = time.monotonic()
    try:
        with _pinging(pods, running) as pinging:
            switch(mesh, nodes="All", pods="All", nodeCIDRs=[str(network) for network in _lan(running)])
            wait_until_carried(mesh, len(running.nodes))
            took = time.monotonic() - began
        assert [stream.poll() for stream in streams] == [None, None], "the connections live"
    finally:
        for stream in streams:
            stream.kill()
            stream.wait()
    assert pinging.lost == dict.fromkeys(pinging.lost, 0)
    say(f"carried after {took:.0f} s, {sum(pinging.counted.values())} pings, 0 lost")


def test_no_wire_shows_packets_of_nodes_or_pods(
    running: Cluster, mesh: Mesh, pods: EchoPods, tmp_path: Path
) -> None:
    """With 10 MB both ways between two pods, twice; what else is between nodes is WireGuard and gossip."""
    first, second = list(pods.by_node)[:2]
    with ExitStack() as stack:
        captures = [
            stack.enter_context(Capture(node.host, "eth0", tmp_path / f"{name}.pcap"))
            for name, node in running.nodes.items()
        ]
        with _pinging(pods, running):
            for address in pods.by_node[second].addresses:
                assert pods.exchange(first, address, 10)
        # What is marked as the tunnels' own packets leaves in clear.
        one, other = (running.nodes[name].host for name in (first, second))
        for own in _addresses(other):
            one.run(["ping", "-c", "1", "-m", str(DEFAULT_MARK), own])
    packets = [packet for capture in captures for packet in capture.packets()]
    networks = [*_lan(running), *_pod_networks(running)]
    seen = [packet for packet in in_clear(packets, networks, networks) if not _is_own(packet, running)]
    assert wireguard_pairs(packets)
    assert {packet.protocol for packet in seen} == {_ICMP, _ICMPV6}, "what is sent on purpose is caught"
    assert {frozenset((packet.source, packet.destination)) for packet in seen} == {
        frozenset((one.ipv4, other.ipv4)),
        frozenset((one.ipv6, other.ipv6)),
    }


def test_a_strict_filter_of_ipv6_lets_carried_packets_pass(
    running: Cluster, mesh: Mesh, pods: EchoPods, say: Callable[[str], None]
) -> None:
    """Those in tunnels over IPv4 do, once all nodes carry; it drops the tunnels' own packets of IPv6."""
    hosts = [node.host for node in running.nodes.values()]
    one, other = hosts[:2]
    in_clear_on_purpose = ["ping", "-c", "1", "-W", "1", "-m", str(DEFAULT_MARK), str(other.ipv6)]
    for host in hosts:
        host.run(["nft", "-f", "-"], text_in=_STRICT_IPV6)
    try:
        with _pinging(pods, running) as pinging:
            first, second = list(pods.by_node)[:2]
            for address in pods.by_node[second].addresses:
                assert pods.exchange(first, address, 1)
        assert pinging.lost == dict.fromkeys(pinging.lost, 0)
        assert one.run(in_clear_on_purpose, check=False).returncode != 0, "the filter is strict"
    finally:
        for host in hosts:
            host.run(["nft", "delete", "table", "inet", "strict"])
    eventually(lambda: one.run(in_clear_on_purpose, check=False).returncode == 0, within=_SOON)
    say(f"{sum(pinging.counted.values())} pings, 0 lost")


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

    def answered() -> list[bool]:
        return [pings(one.host, address) for address in _addresses(other.host)]

    eventually(answered, within=_SOON, until=all)
    for node in running.nodes.values():
        node.host.drop("udp", _WIREGUARD)
    try:
        assert not any(answered()), "it does not leave in clear"
        began = time.monotonic()
        switch(mesh, nodes="None", pods="None")
        eventually(answered, within=_GLASS_SECONDS, until=all)
        took = time.monotonic() - began
        for name in pods.by_node:
            for address in pods.by_node[next(iter(pods.by_node))].addresses:
                assert pings(running.nodes[name].host, address)
    finally:
        for node in running.nodes.values():
            node.host.allow_all()
    mesh.wait_until_ready()
    say(f"off {took:.1f} s after the edit, with every tunnel dead")


def _pinging(pods: EchoPods, running: Cluster) -> Pinging:
    """Ping every node from every other by its InternalIPs, and every pod from every other."""
    places: dict[str, OnHost] = {}
    addresses: dict[str, str] = {}
    pairs: list[tuple[str, str]] = []
    for index, version in enumerate(("IPv4", "IPv6")):
        nodes = {f"{name} {version}": node for name, node in running.nodes.items()}
        on_nodes = {f"pod {name} {version}": pod for name, pod in pods.by_node.items()}
        addresses |= {name: _addresses(node.host)[index] for name, node in nodes.items()}
        addresses |= {name: pod.addresses[index] for name, pod in on_nodes.items()}
        places |= {**nodes, **on_nodes}
        pairs += [*itertools.permutations(nodes, 2), *itertools.permutations(on_nodes, 2)]
    return Pinging(places, addresses, pairs)


def _addresses(host: Host) -> list[str]:
    return [str(host.ipv4), str(host.ipv6)]


def _lan(running: Cluster) -> list[IPNetwork]:
    return [running.lab.lan.ipv4, running.lab.lan.ipv6]


def _pod_networks(running: Cluster) -> list[IPNetwork]:
    nodes = running.api.get("nodes")["items"]
    return [ip_network(network) for node in nodes for network in node["spec"]["podCIDRs"]]


def _is_own(packet: Packet, running: Cluster) -> bool:
    """Tell whether a packet is the mesh's own, a question for a hardware address, or the API server's."""
    if packet.protocol is _ARP or running.control_plane.ipv4 in {packet.source, packet.destination}:
        return True
    if packet.protocol == _ICMPV6 and packet.payload[0] in _NEIGHBOUR_DISCOVERY:
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
