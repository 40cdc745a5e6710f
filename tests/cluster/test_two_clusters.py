"""Two clusters in one mesh: API servers, authorities, gateways and private networks of their own, one key.

The private networks have the same addresses.

Set up as ``deploy/examples`` says, with its very files: the clouds' external addresses are
those that stand there. Only the gossip profile is another, so that losses show in seconds.
What was on the wires is recorded from before the first agent starts.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from socket import IPPROTO_TCP, IPPROTO_UDP
from typing import Any

import pytest
import yaml

from wesher_common.traffic import DEFAULT_TABLE
from wesher_testing.agents.process import WESHER, pings
from wesher_testing.cluster.gateways import PODS
from wesher_testing.cluster.image import Image
from wesher_testing.cluster.installation import NAMESPACE, Mesh, install
from wesher_testing.cluster.operator_process import eventually
from wesher_testing.cluster.pod_host import PodHost
from wesher_testing.cluster.pods import restricted_pod
from wesher_testing.cluster.two_clouds import Cloud, two_clouds
from wesher_testing.lab.capture import Capture, Packet, addressed_in, holding, wireguard_pairs
from wesher_testing.lab.namespaces import Host
from wesher_testing.run import toolbox
from wesher_testing.run.toolbox import REPOSITORY

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]

_EXAMPLES = REPOSITORY / "deploy/examples"
_GOSSIP, _WIREGUARD, _HTTP = 7946, 51820, 8080
_CARRIED_SECONDS = 240.0
_SOON = 120.0
_LOST_SECONDS = 180.0
"""Until the last member of the other cloud has failed, and every agent has said so."""
_FOUND_SECONDS = 240.0
"""Until all of both clouds talk again; a seed or failed member is tried at least once a minute."""


@dataclass(frozen=True, slots=True)
class Side:
    """One cloud with its part of the mesh."""

    cloud: Cloud
    mesh: Mesh

    @property
    def members(self) -> dict[str, Host]:
        """The hosts of its nodes, by the nodes' names in the mesh."""
        return {f"{name}.{self.cloud.name}": node.host for name, node in self.cloud.cluster.nodes.items()}

    @property
    def addresses(self) -> dict[str, str]:
        """The overlay addresses, by name in the mesh."""
        return {f"{name}.{self.cloud.name}": address for name, address in self.mesh.addresses().items()}

    def listed(self, kind: str) -> dict[str, str]:
        """Return the state of each member of a kind that the mesh's status lists."""
        entries = self.mesh.status().get("memberList", [])
        return {entry["name"]: entry["state"] for entry in entries if entry["kind"] == kind}


@dataclass(frozen=True, slots=True)
class Meeting:
    """Two clouds that have become one mesh, and what went over the wires until then."""

    east: Side
    west: Side
    inside: dict[str, list[Packet]]
    """In each cloud's private network, as its nodes saw it."""
    between: list[Packet]
    """In the public network."""
    markers: list[bytes]
    """What was sent through the overlay, from each member to each other."""
    clear: bytes
    """What was sent beside it."""
    pods: dict[str, list[PodHost]]
    """In each cloud, one on each node."""

    @property
    def sides(self) -> tuple[Side, Side]:
        """Both."""
        return self.east, self.west


@pytest.fixture(scope="module")
def meeting(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Meeting]:
    """Do what the examples' README says, and wait until every member has pinged every other."""
    directory = tmp_path_factory.mktemp("clouds")
    with two_clouds(image) as clouds:
        with ThreadPoolExecutor() as at_once:
            for _ in at_once.map(
                lambda cloud: install(cloud.cluster, image, "--set", "mesh.create=false"), clouds
            ):
                pass
        sides = [Side(cloud, Mesh(cloud.cluster, "clouds")) for cloud in clouds]
        with ExitStack() as stack:
            inside = {
                cloud.name: [
                    stack.enter_context(Capture(node.host, "eth0", directory / f"{cloud.name}-{name}.pcap"))
                    for name, node in cloud.cluster.nodes.items()
                ]
                for cloud in clouds
            }
            between = stack.enter_context(Capture(clouds[0].gateway, "eth1", directory / "between.pcap"))
            _apply_examples(clouds, directory / "cluster-key")
            for side in sides:
                side.mesh.wait_until_ready()
            _trust_each_other(*sides)
            markers = _ping_all(*sides)
            pods = {side.cloud.name: _start_pods(side, image) for side in sides}
            for side in sides:
                eventually(
                    partial(side.mesh.condition, "TrafficCarried"),
                    within=_CARRIED_SECONDS,
                    until=lambda condition: condition.get("status") == "True",
                )
            markers += _ping_pods(pods)
            clear = _ping_beside_the_overlay(*clouds)
        east, west = sides
        yield Meeting(
            east,
            west,
            {
                name: [packet for capture in each for packet in capture.packets()]
                for name, each in inside.items()
            },
            between.packets(),
            markers,
            clear,
            pods,
        )


def test_each_cluster_sees_its_own_nodes_and_those_of_the_other(meeting: Meeting) -> None:
    """Nodes of one name in both are told apart, and no address is given twice."""
    for side, other in itertools.permutations(meeting.sides):
        _wait_for(side, "Node", dict.fromkeys(side.members, "Ready"), within=_SOON)
        _wait_for(side, "OtherCluster", dict.fromkeys(other.members, "Alive"), within=_SOON)
        allocated_from = IPv4Network(_example(side.cloud)["spec"]["allocationCIDR"])
        assert all(IPv4Address(address) in allocated_from for address in side.addresses.values())
        for host, (name, address) in itertools.product(side.members.values(), other.addresses.items()):
            look_up = partial(_look_up, host, f"{name}.clouds.wesher.internal")
            eventually(look_up, within=_SOON, until=[address].__eq__)
    assert meeting.east.mesh.status()["key"]["id"] == meeting.west.mesh.status()["key"]["id"]


def test_members_use_internal_addresses_inside_a_cloud_and_external_ones_across(meeting: Meeting) -> None:
    """From the first packet on, of gossip as of tunnels: no other would arrive."""
    for side, other in itertools.permutations(meeting.sides):
        here, there = set(side.cloud.internal.values()), set(other.cloud.external.values())
        near = set(itertools.permutations(here, 2))
        far = {*itertools.product(here, there), *itertools.product(there, here)}
        packets = meeting.inside[side.cloud.name]

        assert set(wireguard_pairs(packets)) == near | far
        assert _pairs(packets, IPPROTO_UDP, _WIREGUARD) == near | far
        for protocol in (IPPROTO_TCP, IPPROTO_UDP):
            gossiped = _pairs(packets, protocol, _GOSSIP)
            assert gossiped <= near | far
            assert gossiped & near
            assert gossiped & far
        assert not here & there


def test_between_the_clouds_there_is_nothing_but_gossip_and_tunnels_of_external_addresses(
    meeting: Meeting,
) -> None:
    """What crosses the public network is encrypted, and neither private network shows in it."""
    east, west = (set(side.cloud.external.values()) for side in meeting.sides)
    crossing = {*itertools.product(east, west), *itertools.product(west, east)}
    packets = [packet for packet in meeting.between if packet.protocol in {IPPROTO_TCP, IPPROTO_UDP}]

    assert {(packet.source, packet.destination) for packet in packets} == crossing
    assert [packet for packet in packets if not {_GOSSIP, _WIREGUARD} & {*packet.ports}] == []
    for side in meeting.sides:
        assert addressed_in(meeting.between, side.cloud.network) == []


def test_each_cluster_certifies_its_own_members_and_accepts_those_of_the_other(meeting: Meeting) -> None:
    """Neither gives a member without a certificate a tunnel."""
    authorities = set()
    for side, other in itertools.permutations(meeting.sides):
        status = side.mesh.status()
        assert (status["identity"]["mode"], status["identity"]["bound"]) == ("Verified", True)
        assert status["identity"]["certified"] == "2/2"
        authorities.add(status["identity"]["authority"])
        trusted = side.mesh.condition("AuthoritiesTrusted")
        assert (trusted["status"], trusted["reason"]) == ("True", "AllTrusted")
        assert trusted["message"].endswith(other.cloud.name)
    assert len(authorities) == 2


def test_pods_reach_pods_of_the_other_cluster_and_no_node_address_there_is_routed(meeting: Meeting) -> None:
    """Only networks of its pods: the addresses of its nodes are those of this cluster's nodes."""
    for side, other in itertools.permutations(meeting.sides):
        theirs = {IPv4Network(network) for network in _pod_networks(other.cloud)}
        for host in side.members.values():
            carried = host.run(["ip", "-json", "route", "show", "table", str(DEFAULT_TABLE)]).stdout
            routes = [route for route in json.loads(carried) if route.get("type") != "unreachable"]
            assert {IPv4Network(route["dst"]) for route in routes} == theirs
            shown = host.run(["wg", "show", side.mesh.interface, "allowed-ips"]).stdout
            allowed = {IPv4Network(text) for text in shown.split() if "/" in text and "." in text}
            beside = {network for network in allowed if not network.subnet_of(side.mesh.overlay)}
            assert beside >= theirs
            assert not any(network.prefixlen == network.max_prefixlen for network in beside)


def test_a_service_leads_to_pods_of_the_other_cluster(meeting: Meeting) -> None:
    """Without a selector: its EndpointSlice has their addresses."""
    for side, other in itertools.permutations(meeting.sides):
        address = _service(side.cloud, [pod.address for pod in meeting.pods[other.cloud.name]])
        for pod in meeting.pods[side.cloud.name]:
            fetch = partial(_status_of, pod, address)
            eventually(fetch, within=_SOON, until="200".__eq__)


def test_no_wire_shows_what_members_say_to_each_other(meeting: Meeting) -> None:
    """Not inside the clouds and not between them; neither do wires show what their pods say."""
    everywhere = [*meeting.between, *itertools.chain.from_iterable(meeting.inside.values())]

    assert [marker for marker in meeting.markers if holding(everywhere, marker)] == []
    assert addressed_in(everywhere, meeting.east.mesh.overlay) == []
    for here, there in itertools.permutations(map(IPv4Network, PODS.values())):
        from_here = [packet for packet in everywhere if _is_in(packet.source, here)]
        assert [packet for packet in from_here if _is_in(packet.destination, there)] == []
    for packets in (meeting.between, *meeting.inside.values()):
        assert holding(packets, meeting.clear), "what is sent in clear on purpose is caught"


def test_clouds_that_lost_each_other_become_one_mesh_again_by_themselves(
    meeting: Meeting, capsys: pytest.CaptureFixture[str]
) -> None:
    """While the way is gone each cloud goes on alone and says whom it misses."""
    gateway = meeting.east.cloud.gateway
    began = time.monotonic()
    gateway.cut()
    try:
        for side in meeting.sides:
            _wait_for(side, "OtherCluster", {}, within=_LOST_SECONDS)
        lost = time.monotonic() - began
        for side, other in itertools.permutations(meeting.sides):
            degraded = eventually(
                lambda side=side: side.mesh.condition("Degraded"),  # type: ignore[misc]
                within=_SOON,
                until=lambda condition: condition["status"] == "True",
            )
            assert any(f"cannot reach {name}" in degraded["message"] for name in other.members)
            for one, another in itertools.permutations(side.members, 2):
                reaches = partial(pings, side.members[one], side.addresses[another])
                eventually(reaches, within=_SOON)
    finally:
        gateway.restore()

    began = time.monotonic()
    for side, other in itertools.permutations(meeting.sides):
        _wait_for(side, "OtherCluster", dict.fromkeys(other.members, "Alive"), within=_FOUND_SECONDS)
    _ping_all(*meeting.sides)
    _ping_pods(meeting.pods)
    found = time.monotonic() - began
    for side in meeting.sides:
        side.mesh.wait_until_ready()
    with capsys.disabled():
        sys.stdout.write(f"\n  lost each other in {lost:.0f} s, found each other in {found:.0f} s")


def _example(cloud: Cloud) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((_EXAMPLES / f"two-clouds-{cloud.name}.yaml").read_text())
    return content


def _apply_examples(clouds: Iterable[Cloud], key_file: Path) -> None:
    with key_file.open("w") as file:
        key_file.chmod(0o600)
        subprocess.run([WESHER, "keygen"], stdout=file, check=True)
    for cloud in clouds:
        secret = ("create", "secret", "generic", "clouds-key", "-n", NAMESPACE, f"--from-file={key_file}")
        cloud.cluster.api.kubectl(*secret)
        mesh = _example(cloud)
        mesh["spec"]["gossip"] = {"profile": "LAN"}
        cloud.cluster.api.apply(mesh)


def _trust_each_other(east: Side, west: Side) -> None:
    """Give each mesh the entry that the other cluster's administrator gets, with all its pods."""
    for side, other in ((east, west), (west, east)):
        plugin = ("wesher", "authority", "--mesh=clouds", "--entry")
        api = other.cloud.cluster.api
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        printed = subprocess.run(
            [
                *(*api.enter, toolbox.kubernetes_binary("kubectl")),
                *(*plugin, f"--kubeconfig={api.kubeconfig}"),
            ],
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            check=True,
            timeout=_SOON,
        ).stdout
        (entry,) = yaml.safe_load(printed)
        allocation, pods = entry["cidrs"]
        whole = PODS[other.cloud.name]
        assert IPv4Network(pods).subnet_of(IPv4Network(whole))
        entry["cidrs"] = [allocation, whole]
        change = json.dumps({"spec": {"trustedAuthorities": [entry]}})
        patch = ("patch", "wmesh", "clouds", "--type=merge", f"--patch={change}")
        side.cloud.cluster.api.kubectl(*patch)


def _start_pods(side: Side, image: Image) -> list[PodHost]:
    """Run a pod on each node, which serves HTTP; its address is a pod's."""
    cluster = side.cloud.cluster
    for node in cluster.nodes:
        pod = restricted_pod(f"pod-{node}", image, ["python3", "-m", "http.server", str(_HTTP)])
        pod["spec"]["nodeName"] = node
        cluster.api.apply(pod)
    for node in cluster.nodes:
        cluster.repeat("wait", "--for=condition=Ready", f"pod/pod-{node}", "--timeout=5s")
    return [PodHost(cluster, f"pod-{node}") for node in cluster.nodes]


def _ping_pods(pods: dict[str, list[PodHost]], *, within: float = _FOUND_SECONDS) -> list[bytes]:
    """Have each pod ping each pod of the other cluster until it answers; return what they sent."""
    east, west = pods.values()
    deadline = time.monotonic() + within
    markers = []
    for source, target in (*itertools.product(east, west), *itertools.product(west, east)):
        marker = os.urandom(16)
        command = ["ping", "-n", "-q", "-c", "1", "-W", "1", "-p", marker.hex(), target.address]
        while source.run(command, check=False).returncode != 0:
            assert time.monotonic() < deadline, f"{source.address} does not reach {target.address}"
        markers.append(marker)
    return markers


def _is_in(address: object, network: IPv4Network) -> bool:
    return isinstance(address, IPv4Address) and address in network


def _pod_networks(cloud: Cloud) -> list[str]:
    return [node["spec"]["podCIDR"] for node in cloud.cluster.api.get("nodes")["items"]]


def _service(cloud: Cloud, addresses: Iterable[str]) -> str:
    """Make a Service that leads to these addresses, and return its own."""
    name = {"name": "elsewhere", "namespace": "default"}
    port = {"name": "http", "port": _HTTP, "protocol": "TCP"}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": name, "spec": {"ports": [port]}}
    slice_ = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {**name, "labels": {"kubernetes.io/service-name": "elsewhere"}},
        "addressType": "IPv4",
        "ports": [port],
        "endpoints": [{"addresses": [address]} for address in addresses],
    }
    cloud.cluster.api.apply(service)
    cloud.cluster.api.apply(slice_)
    return str(cloud.cluster.api.get("service", "elsewhere")["spec"]["clusterIP"])


def _status_of(pod: PodHost, address: str) -> str:
    """Return the status with which an HTTP server answers a pod; empty without an answer."""
    program = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1], timeout=2).status)"
    return pod.run([sys.executable, "-c", program, f"http://{address}:{_HTTP}/"], check=False).stdout.strip()


def _wait_for(side: Side, kind: str, members: dict[str, str], *, within: float) -> None:
    """Wait until a mesh's status lists exactly these members of a kind, in these states."""
    eventually(lambda: side.listed(kind), within=within, until=lambda seen: seen == members)


def _look_up(host: Host, name: str) -> list[str]:
    """Return the address of a name as a host resolves it, nothing where it does not."""
    return host.run(["getent", "hosts", name], check=False).stdout.split()[:1]


def _ping_all(east: Side, west: Side, *, within: float = _FOUND_SECONDS) -> list[bytes]:
    """Have every member ping every other over the overlay until it answers; return what they sent."""
    hosts, addresses = east.members | west.members, east.addresses | west.addresses
    deadline = time.monotonic() + within
    markers = []
    for source, target in itertools.permutations(hosts, 2):
        marker = os.urandom(16)
        command = ["ping", "-n", "-q", "-c", "1", "-W", "1", "-p", marker.hex(), addresses[target]]
        while hosts[source].run(command, check=False).returncode != 0:
            assert time.monotonic() < deadline, f"{source} does not reach {target}"
        markers.append(marker)
    return markers


def _ping_beside_the_overlay(east: Cloud, west: Cloud) -> bytes:
    """Have a node ping the other cloud's in clear; return what it sent."""
    clear = os.urandom(16)
    source, target = east.cluster.nodes["node-1"].host, west.external["node-1"]
    source.run(["ping", "-n", "-c", "3", "-i", "0.2", "-W", "5", "-p", clear.hex(), str(target)])
    return clear


def _pairs(packets: Iterable[Packet], protocol: int, port: int) -> set[tuple[object, object]]:
    """Return who sent to whom in a protocol from or to a port."""
    return {
        (packet.source, packet.destination)
        for packet in packets
        if packet.protocol == protocol and port in packet.ports
    }
