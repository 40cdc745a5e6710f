"""One cluster in two clouds, whose nodes and pods reach each other only through the mesh.

The tests are one story, in their order. What passes between the clouds is recorded from when
both ends carry until after the chart was uninstalled.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from wesher_common.overlay import IPAddress
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
from wesher_testing.cluster.echo_pods import PORT, STREAM, EchoPods, echo_pods, pod_name
from wesher_testing.cluster.image import Image
from wesher_testing.cluster.installation import NAMESPACE, Mesh, install, uninstall, upgrade
from wesher_testing.cluster.kubelets import CONTROL_PLANE, Node
from wesher_testing.cluster.operator_process import eventually
from wesher_testing.cluster.wide_cluster import LOCATION_LABEL, WideCluster, wide_cluster
from wesher_testing.lab.capture import Capture, Packet, holding, wireguard_pairs
from wesher_testing.lab.pings import OnHost, Pinging

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]

_REPLACED_WITHIN = 180.0
"""Seconds until an upgrade has replaced the operator, and it every agent, one after another."""
_SOON = 90.0
_BOUND_SECONDS = 240.0
_DIAL = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)"
_FULL = 1500 - 28
"""Bytes of a ping that fills a packet of 1500."""


@dataclass(slots=True)
class Story:
    """The cluster with its mesh, and what the tests before have left."""

    wide: WideCluster
    mesh: Mesh
    pods: EchoPods
    captures: list[Capture] = field(default_factory=list)
    removed: set[IPAddress] = field(default_factory=set)
    """Addresses of nodes that were removed: what is still sent to them is carried no longer."""
    encrypted: int = 0
    """WireGuard packets in what was recorded and judged."""

    @property
    def far(self) -> Node:
        """A node in the west."""
        return self.wide.nodes_in("west")[0]

    @property
    def near(self) -> Node:
        """A node in the east that does not have the API server."""
        return next(node for node in self.wide.nodes_in("east") if node.name != CONTROL_PLANE)

    def networks(self, cloud: str) -> list[IPv4Network]:
        """Return the networks of a cloud's nodes and pods."""
        names = {node.name for node in self.wide.nodes_in(cloud)}
        listed = self.wide.cluster.api.get("nodes")["items"]
        pods = [IPv4Network(n["spec"]["podCIDR"]) for n in listed if n["metadata"]["name"] in names]
        return [self.wide.gateways[cloud].site.network.ipv4, *pods]

    def record(self, directory: Path) -> None:
        """Record what passes each gateway: what a node sends to the other cloud in clear comes by there."""
        for cloud, gateway in self.wide.gateways.items():
            for link in ("eth0", "eth1"):
                file = directory / f"{cloud}-{link}.pcap"
                self.captures.append(Capture(gateway.host, link, file))

    def leaked(self) -> list[Packet]:
        """End the record, and return the packets between the clouds that nodes or pods sent in clear."""
        packets = []
        while self.captures:
            capture = self.captures.pop()
            capture.stop()
            packets += capture.packets()
        self.encrypted += sum(wireguard_pairs(packets).values())
        seen = in_clear(packets, self.networks("east"), self.networks("west"))
        return [
            packet
            for packet in seen
            if not is_own(packet) and not {packet.source, packet.destination} & self.removed
        ]

    def reach_across(self) -> None:
        """Wait until pods and nodes of both clouds answer each other."""
        for one, other in itertools.permutations([self.near, self.far]):
            pod, target = self.pods.by_node[one.name], self.pods.by_node[other.name]
            for source, address in (
                (one.host, str(other.host.ipv4)),
                (one.host, target.address),
                (pod, target.address),
                (pod, str(other.host.ipv4)),
            ):
                command = ["ping", "-n", "-q", "-c", "1", "-W", "1", address]
                eventually(
                    lambda source=source, command=command: (
                        source.run(  # type: ignore[misc]
                            command, check=False
                        ).returncode
                    ),
                    within=_SOON,
                    until=(0).__eq__,
                )


@pytest.fixture(scope="module")
def story(image: Image) -> Iterator[Story]:
    with wide_cluster(image) as wide:
        install(
            wide.cluster,
            image,
            *("--set", f"mesh.addresses.locationLabel={LOCATION_LABEL}"),
            *("--set", "mesh.addresses.prefer={ExternalIP,InternalIP}"),
            *("--set", "mesh.gossip.profile=LAN"),
        )
        mesh = Mesh(wide.cluster)
        mesh.wait_until_ready()
        eventually(lambda: mesh.status().get("identity", {}).get("bound"), within=_BOUND_SECONDS)
        yield Story(wide, mesh, echo_pods(wide.cluster, image))


def test_switching_on_loses_no_packet_between_nodes_of_one_place(
    story: Story, say: Callable[[str], None]
) -> None:
    """Neither of nodes nor of pods, nor of a connection between pods; nothing crossed before."""
    assert not pings(story.near.host, str(story.far.host.ipv4))
    local = [CONTROL_PLANE, story.near.name]
    hosts = {name: story.wide.cluster.nodes[name] for name in local}
    places: dict[str, OnHost] = {**hosts, **{f"pod {name}": story.pods.by_node[name] for name in local}}
    addresses = {name: str(node.host.ipv4) for name, node in hosts.items()}
    addresses |= {f"pod {name}": story.pods.by_node[name].address for name in local}
    target = story.pods.by_node[CONTROL_PLANE].address
    stream = story.pods.by_node[story.near.name].popen(
        [sys.executable, "-c", STREAM, target, str(PORT)], stdout=subprocess.DEVNULL
    )
    began = time.monotonic()
    try:
        with Pinging(places, addresses) as pinging:
            switch(
                story.mesh,
                nodes="OtherLocations",
                pods="OtherLocations",
                nodeCIDRs=[str(network) for network in story.wide.node_networks],
            )
            wait_until_carried(story.mesh, 3)
            took = time.monotonic() - began
            story.reach_across()
        assert stream.poll() is None, "the connection lives"
    finally:
        stream.kill()
        stream.wait()
    assert pinging.lost == dict.fromkeys(pinging.lost, 0)
    say(f"carried after {took:.0f} s, of {sum(pinging.counted.values())} pings 0 lost")


def test_what_the_mesh_carries_is_recorded(story: Story, tmp_path_factory: pytest.TempPathFactory) -> None:
    """From now on, both ends carry."""
    story.record(tmp_path_factory.mktemp("between"))
    assert all(path_filter(node.host, "eth0") != 1 for node in story.wide.cluster.nodes.values())


def test_pods_and_services_reach_each_other_across(story: Story) -> None:
    """With 10 MB both ways, from pods whose MTU no one has changed."""
    for one, other in itertools.permutations([story.near.name, story.far.name]):
        assert story.pods.by_node[one].mtu() == 1500
        assert story.pods.exchange(one, story.pods.by_node[other].address, 10)
        assert story.pods.exchange(one, story.pods.service(other), 1)


def test_the_api_server_reaches_far_kubelets(story: Story) -> None:
    """For logs, for a command in a pod, and for figures."""
    name = pod_name(story.far.name)
    kubectl = story.wide.cluster.api.kubectl
    assert kubectl("logs", name) == "listening\n"
    assert kubectl("exec", name, "--", "python3", "-c", "print(6 * 7)") == "42\n"
    # What kubectl top shows comes from there.
    figures = kubectl("get", "--raw", f"/api/v1/nodes/{story.far.name}/proxy/metrics/resource")
    assert "container_memory_working_set_bytes" in figures


def test_local_traffic_stays_on_the_local_wire_with_its_full_mtu(story: Story, tmp_path: Path) -> None:
    near, other = story.near, story.wide.cluster.nodes[CONTROL_PLANE]
    between_nodes, between_pods = os.urandom(16), os.urandom(16)
    pod, other_pod = (story.pods.by_node[node.name] for node in (near, other))
    ping = ["ping", "-n", "-q", "-c", "1", "-W", "5", "-M", "do", "-s", str(_FULL), "-p"]
    with Capture(near.host, "eth0", tmp_path / "local.pcap") as capture:
        near.host.run([*ping, between_nodes.hex(), str(other.host.ipv4)])
        pod.run([*ping, between_pods.hex(), other_pod.address])
    packets = capture.packets()
    assert holding(packets, between_nodes)
    assert holding(packets, between_pods)


def test_killed_agents_tunnels_updates_and_replaced_nodes_show_nothing(
    story: Story, image: Image, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Pings between the clouds go on all the while, and nothing of them crosses in clear."""
    wide, mesh = story.wide, story.mesh
    pairs = [(f"pod {a}", f"pod {b}") for a, b in itertools.permutations([story.near.name, story.far.name])]
    pairs += list(itertools.permutations([story.near.name, story.far.name]))
    nodes = {node.name: node for node in (story.near, story.far)}
    places: dict[str, OnHost] = {**nodes, **{f"pod {name}": story.pods.by_node[name] for name in nodes}}
    addresses = {name: str(node.host.ipv4) for name, node in nodes.items()}
    addresses |= {f"pod {name}": story.pods.by_node[name].address for name in nodes}
    with Pinging(places, addresses, pairs):
        for program in ("bin/wesher agent", "wireguard-go"):
            for node in nodes.values():
                for pid in node.run(["pgrep", "--full", program]).stdout.split():
                    node.run(["kill", "-KILL", pid], check=False)
            story.reach_across()
        wide.cluster.api.kubectl(
            "rollout", "restart", f"daemonset/{mesh.name}-agent", f"--namespace={NAMESPACE}"
        )
        status = ("rollout", "status", f"daemonset/{mesh.name}-agent", f"--namespace={NAMESPACE}")
        wide.cluster.repeat(*status, "--timeout=60s")
        story.reach_across()

    assert story.leaked() == []
    assert story.encrypted, "what crosses is encrypted"

    gone = story.far.name
    story.removed.add(story.far.host.ipv4)
    story.record(tmp_path_factory.mktemp("replaced"))
    wide.cluster.remove_node(gone)
    wide.add_nodes("west", "west-2", images=(image,))
    story.pods = echo_pods(wide.cluster, image, *(set(wide.cluster.nodes) - {gone}))
    wait_until_carried(mesh, 3)
    story.reach_across()


def test_the_api_server_is_reached_at_a_private_address_through_the_mesh(story: Story, image: Image) -> None:
    """From pods in the other cloud; agents and kubelets dial its external address."""
    wide, mesh = story.wide, story.mesh
    port = urlsplit(wide.cluster.api.url).port
    upgrade(wide.cluster, image, "--reuse-values", "--set", f"agent.apiServer={wide.public}:{port}")
    switch(mesh, apiServer="Mesh")
    wide.cluster.api.advertise(str(wide.cluster.control_plane.ipv4))
    eventually(
        lambda: wide.cluster.api.get("endpoints", "kubernetes")["subsets"][0]["addresses"],
        within=_SOON,
        until=[{"ip": str(wide.cluster.control_plane.ipv4)}].__eq__,
    )
    # Before, the DaemonSet can still be as it was: the operator is replaced first.
    eventually(
        lambda: {_api_server_of(pod) for pod in mesh.agents().values()},
        within=_REPLACED_WITHIN,
        until={str(wide.public)}.__eq__,
    )
    status = ("rollout", "status", f"daemonset/{mesh.name}-agent", f"--namespace={NAMESPACE}")
    wide.cluster.repeat(*status, "--timeout=60s")
    wait_until_carried(mesh, 3)
    service = wide.cluster.api.get("service", "kubernetes")["spec"]["clusterIP"]
    dial = [sys.executable, "-c", _DIAL, service, "443"]
    pod = story.pods.by_node[story.far.name]
    eventually(lambda: pod.run(dial, check=False).returncode, within=_SOON, until=(0).__eq__)
    agent = mesh.agents()[story.far.name]["metadata"]["name"]
    told = wide.cluster.api.kubectl(
        *("exec", f"--namespace={NAMESPACE}", agent, "--"),
        *("python3", "-c", "import os; print(os.environ['KUBERNETES_SERVICE_HOST'])"),
    )
    assert told.strip() == str(wide.public)
    mesh.wait_until_ready()


def _api_server_of(pod: dict[str, Any]) -> str:
    """Return the host at which an agent's pod is to dial the API server; empty if the kubelet says it."""
    (container,) = pod["spec"]["containers"]
    values = [each.get("value") for each in container["env"] if each["name"] == "KUBERNETES_SERVICE_HOST"]
    return str(values[0]) if values else ""


def test_uninstalling_leaves_nothing_on_nodes_and_no_wire_has_shown_anything(
    story: Story, say: Callable[[str], None]
) -> None:
    """The same captures catch a packet that is sent in clear on purpose."""
    near, far = story.near, story.far
    uninstall(story.wide.cluster)
    nodes = story.wide.cluster.nodes.values()
    assert [trace for node in nodes for trace in traces_on(node)] == []
    assert [trace for node in nodes for trace in story.mesh.traces_on(node)] == []
    assert [each for node in nodes for each in foreign_allowed_ips(node, story.mesh)] == []
    clear = os.urandom(16)
    ping = ["ping", "-n", "-q", "-c", "1", "-W", "1", "-p", clear.hex(), str(far.host.ipv4)]
    near.host.run(ping, check=False)
    leaked = story.leaked()
    assert holding(leaked, clear), "what is sent in clear on purpose is caught"
    assert [packet for packet in leaked if clear not in packet.frame] == []
    say(f"0 carried packets in clear among {story.encrypted} WireGuard packets")
