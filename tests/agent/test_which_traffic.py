"""README's table *Which traffic is encrypted*: each kind of packet, looked at on the wire."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from wesher_common.certificate import Authority
from wesher_testing.agents.mounted_files import document, mount, mounted_flags, remember_certified
from wesher_testing.agents.process import KEY, AgentProcess, wait_for_ping, wait_until
from wesher_testing.lab.capture import Capture, Packet, holding
from wesher_testing.lab.namespaces import Host, Lab, Network

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]

OVERLAY = IPv4Network("10.189.0.0/16")
FLAGS = ("--cluster-key", KEY, "--overlay-net", str(OVERLAY))
MASQUERADE = """
table ip cni {{
    chain postrouting {{
        type nat hook postrouting priority srcnat
        ip saddr {pods} ip daddr != 172.30.0.0/16 masquerade
    }}
}}
"""
"""What a CNI does with packets of pods that leave the pod network."""
_ELSEWHERE = "OtherLocations"
MARKER = bytes.fromhex("77657368657221")
"""What the pings carry."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node of a cluster with one pod behind it."""

    host: Host
    pod: Host
    pods: Network
    overlay_address: str


@dataclass(frozen=True, slots=True)
class Cluster:
    """Two nodes and a machine outside, in one mesh."""

    here: Node
    there: Node
    machine: Host
    machine_address: str
    directory: Path

    def sent_in_clear(self, sender: Host, target: str, *, answered: bool = True) -> bool:
        """Ping a target and tell whether what the ping carries was readable on the underlay.

        Raises:
            AssertionError: the target answers although it should not, or does not although it should.

        """
        hosts = (self.here.host, self.there.host, self.machine)
        return _sent_in_clear(hosts, self.directory, sender, target, answered=answered)


def _sent_in_clear(
    hosts: Iterable[Host], directory: Path, sender: Host, target: str, *, answered: bool = True
) -> bool:
    seen: list[Packet] = []
    captures = [Capture(host, "eth0", directory / f"{host.name}-to-{target}.pcap") for host in hosts]
    ping = ["ping", "-c1", "-W2", "-p", MARKER.hex(), "-s", "64", target]
    assert (sender.run(ping, check=False).returncode == 0) is answered
    for capture in captures:
        capture.stop()
        seen += capture.packets()
    assert seen, "no packet on the wire at all"
    return bool(holding(seen, MARKER))


def _start_node(lab: Lab, name: str, pod_network: str, *seeds: Host) -> Node:
    host, pod, pods = _host_with_pod(lab, name, pod_network)
    agent = AgentProcess(host, *FLAGS, *(f"--join={seed.ipv4}" for seed in seeds))
    agent.wait_for(name, *(seed.name for seed in seeds))
    return Node(host, pod, pods, str(agent.status()["overlayIP"]))


def _host_with_pod(lab: Lab, name: str, pod_network: str) -> tuple[Host, Host, Network]:
    pods = lab.network(f"pods-{name}", pod_network)
    host, pod = lab.host(name, lab.lan, pods), lab.host(f"pod-{name}", pods)
    host.run(["sysctl", "-qw", "net.ipv4.ip_forward=1"])
    pod.run(["ip", "route", "add", "default", "via", str(host.address_on(pods))])
    return host, pod, pods


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Return the mesh; a test that changes a host changes it back."""
    with Lab() as lab:
        here = _start_node(lab, "here", "172.30.1.0/24")
        there = _start_node(lab, "there", "172.30.2.0/24", here.host)
        machine = lab.host("machine")
        agent = AgentProcess(machine, *FLAGS, f"--join={here.host.ipv4}")
        agent.wait_for("here", "there", "machine")
        address = str(agent.status()["overlayIP"])
        for sender, target in ((here, there.overlay_address), (here, address), (there, address)):
            wait_for_ping(sender.host, target)
        yield Cluster(here, there, machine, address, tmp_path_factory.mktemp("captures"))


@pytest.fixture
def masquerading(cluster: Cluster) -> Iterator[Cluster]:
    """Return the mesh with what a CNI does for pods that send to addresses outside the pod network."""
    hosts = [cluster.here.host, cluster.there.host]
    for node in (cluster.here, cluster.there):
        node.host.run(["nft", "-f", "-"], text_in=MASQUERADE.format(pods=node.pods.ipv4))
    yield cluster
    for host in hosts:
        host.run(["nft", "delete", "table", "ip", "cni"])


def test_packets_to_overlay_addresses_and_names_are_encrypted(cluster: Cluster) -> None:
    here, there = cluster.here, cluster.there
    assert not cluster.sent_in_clear(here.host, there.overlay_address)
    assert not cluster.sent_in_clear(here.host, "there")
    assert not cluster.sent_in_clear(cluster.machine, there.overlay_address)
    assert not cluster.sent_in_clear(there.host, "machine")


def test_packets_to_a_nodes_own_address_are_not_encrypted(cluster: Cluster) -> None:
    assert cluster.sent_in_clear(cluster.here.host, str(cluster.there.host.ipv4))


def test_a_pods_packets_to_overlay_addresses_are_encrypted(masquerading: Cluster) -> None:
    assert not masquerading.sent_in_clear(masquerading.here.pod, masquerading.there.overlay_address)
    assert not masquerading.sent_in_clear(masquerading.here.pod, masquerading.machine_address)


def test_without_masquerade_a_pods_packets_are_encrypted_and_the_peer_refuses_them(
    cluster: Cluster,
) -> None:
    """WireGuard takes from a peer only what comes from that peer's overlay address."""
    assert not cluster.sent_in_clear(cluster.here.pod, cluster.there.overlay_address, answered=False)


def test_packets_between_pods_take_the_way_of_the_pod_network(masquerading: Cluster) -> None:
    """Over routes between the nodes' own addresses, as with many CNIs: in clear."""
    here, there = masquerading.here, masquerading.there
    for node, other in ((here, there), (there, here)):
        node.host.run(["ip", "route", "add", str(other.pods.ipv4), "via", str(other.host.ipv4)])
    try:
        assert masquerading.sent_in_clear(here.pod, str(there.pod.ipv4))
        assert masquerading.sent_in_clear(here.host, str(there.pod.ipv4))
    finally:
        for node, other in ((here, there), (there, here)):
            node.host.run(["ip", "route", "delete", str(other.pods.ipv4)])


def test_a_pod_network_between_overlay_addresses_is_encrypted(cluster: Cluster) -> None:
    """A VXLAN as flannel makes it when it is told to use wesher's interface."""
    here, there = cluster.here, cluster.there
    for node, other in ((here, there), (there, here)):
        kind = ["vxlan", "id", "1", "dev", "wgoverlay", "dstport", "8472", "nolearning"]
        ends = ["local", node.overlay_address, "remote", other.overlay_address]
        own, gateway = node.pods.ipv4.network_address, other.pods.ipv4.network_address
        for words in (
            ["link", "add", "flannel.1", "type", *kind, *ends],
            ["address", "add", f"{own}/32", "dev", "flannel.1"],
            ["link", "set", "flannel.1", "up"],
            ["route", "add", str(other.pods.ipv4), "via", str(gateway), "dev", "flannel.1", "onlink"],
        ):
            node.host.run(["ip", *words])
    try:
        wait_for_ping(here.pod, str(there.pod.ipv4))
        assert not cluster.sent_in_clear(here.pod, str(there.pod.ipv4))
    finally:
        for node in (here, there):
            node.host.run(["ip", "link", "delete", "flannel.1"])


def test_the_overlay_has_routes_to_members_only_and_to_no_pod(cluster: Cluster) -> None:
    for host in (cluster.here.host, cluster.machine):
        routes = host.run(["ip", "-4", "route", "show", "dev", "wgoverlay"]).stdout.splitlines()
        assert len(routes) == 2
        assert all(IPv4Network(route.split()[0]).subnet_of(OVERLAY) for route in routes)


class Carriers:
    """Three nodes of a cluster, two in one location, whose mesh carries packets to the other location.

    Args:
        lab: holds them.
        directory: for captures.

    """

    def __init__(self, lab: Lab, directory: Path) -> None:
        self._directory = directory
        authority = Authority(bytes(range(32)))
        self._identity = {"mode": "Verified", "bound": True, "authorities": [str(authority.key)]}
        places = {"here": "east", "near": "east", "far": "west"}
        self.nodes: dict[str, Node] = {}
        for number, name in enumerate(places, start=1):
            host, pod, pods = _host_with_pod(lab, name, f"172.30.{number}.0/24")
            self.nodes[name] = Node(host, pod, pods, f"10.99.0.{number}")
        for node in self.nodes.values():
            for other in self.nodes.values():
                if other is not node:
                    way = ["via", str(other.host.ipv4), "dev", "eth0"]
                    node.host.run(["ip", "route", "add", str(other.pods.ipv4), *way])
        self._mount(_ELSEWHERE)
        self.agents = {}
        for name, node in self.nodes.items():
            remember_certified(
                node.host,
                self._document(_ELSEWHERE),
                authority,
                ip_address(node.overlay_address),
                networks=(ip_network(str(node.pods.ipv4)), ip_network(f"{node.host.ipv4}/32")),
                location=places[name],
            )
            self.agents[name] = AgentProcess(node.host, *mounted_flags(node.host), bare=True)
        for agent in self.agents.values():
            agent.wait_for(*self.nodes)
        for node in self.nodes.values():
            for other in self.nodes.values():
                wait_for_ping(node.host, other.overlay_address)

    def carry(self, mode: str) -> None:
        """Have all agents carry packets to nodes and pods as ``mode`` says."""
        self._mount(mode)
        self.wait_until_routed(mode)

    def wait_until_routed(self, mode: str) -> None:
        """Wait until each node routes to as many others as ``mode`` says, each with its pods."""
        expected = {
            name: {"None": 0, _ELSEWHERE: 2 if name == "far" else 1}.get(mode, 2) for name in self.nodes
        }

        def as_said() -> bool:
            return expected == {
                name: len(carried_routes(node.host)) // 2 for name, node in self.nodes.items()
            }

        wait_until(as_said, what=f"routes for {mode}")

    def is_clear(self, target: str) -> tuple[bool, bool]:
        """Tell whether packets from a node and from a pod are readable: to another node, and to its pod."""
        here, there = self.nodes["here"], self.nodes[target]
        hosts = [node.host for node in self.nodes.values()]
        return (
            _sent_in_clear(hosts, self._directory, here.host, str(there.host.ipv4)),
            _sent_in_clear(hosts, self._directory, here.pod, str(there.pod.ipv4)),
        )

    def _mount(self, mode: str) -> None:
        for node in self.nodes.values():
            mount(node.host, self._document(mode), key=KEY)

    def _document(self, mode: str) -> dict[str, Any]:
        traffic = {"nodes": mode, "pods": mode, "nodeCIDRs": [str(self.nodes["here"].host.ipv4) + "/32"]}
        of_mesh = {"identity": self._identity, **({"traffic": traffic} if mode != "None" else {})}
        return document(self.nodes["here"].host, **of_mesh)


def carried_routes(host: Host) -> list[str]:
    """Return the routes into the tunnels beside those to overlay addresses."""
    shown = host.run(["ip", "route", "show", "table", "1870"], check=False).stdout.splitlines()
    return [route for route in shown if "dev wgoverlay" in route]


@pytest.fixture(scope="module")
def carriers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Carriers]:
    with Lab() as lab:
        yield Carriers(lab, tmp_path_factory.mktemp("carried"))


def test_packets_of_nodes_and_pods_are_encrypted_as_far_as_the_settings_say(carriers: Carriers) -> None:
    carriers.wait_until_routed(_ELSEWHERE)
    assert carriers.is_clear("near") == (True, True)
    assert carriers.is_clear("far") == (False, False)
    carriers.carry("All")
    assert carriers.is_clear("near") == carriers.is_clear("far") == (False, False)
    carriers.carry("None")
    assert carriers.is_clear("near") == carriers.is_clear("far") == (True, True)
