"""Two clusters in one mesh: API servers, private networks and gateways of their own, one key.

Set up as ``deploy/examples`` says, with its very files: the clouds' external addresses are
those that stand there. Only the gossip profile is another, so that losses show in seconds.
What was on the wires is recorded from before the first agent starts.
"""

from __future__ import annotations

import itertools
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

from wesher_testing.agents.process import WESHER, pings
from wesher_testing.cluster.image import Image
from wesher_testing.cluster.installation import NAMESPACE, Mesh, install
from wesher_testing.cluster.operator_process import eventually
from wesher_testing.cluster.two_clouds import Cloud, two_clouds
from wesher_testing.lab.capture import Capture, Packet, addressed_in, holding, wireguard_pairs
from wesher_testing.lab.namespaces import Host
from wesher_testing.run.toolbox import REPOSITORY

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]

_EXAMPLES = REPOSITORY / "deploy/examples"
_GOSSIP, _WIREGUARD = 7946, 51820
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
            markers = _ping_all(*sides)
            clear = _ping_beside_the_overlay(*clouds)
        yield Meeting(
            *sides,
            {
                name: [packet for capture in each for packet in capture.packets()]
                for name, each in inside.items()
            },
            between.packets(),
            markers,
            clear,
        )


def test_each_cluster_sees_its_own_nodes_and_those_of_the_other(meeting: Meeting) -> None:
    """Nodes of one name in both are told apart, and no address is given twice."""
    for side, other in itertools.permutations(meeting.sides):
        _wait_for(side, "Node", dict.fromkeys(side.members, "Ready"), within=_SOON)
        _wait_for(side, "Outsider", dict.fromkeys(other.members, "Alive"), within=_SOON)
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
        for host in side.members.values():
            assert not any(pings(host, str(address)) for address in other.cloud.internal.values())


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


def test_no_wire_shows_what_members_say_to_each_other(meeting: Meeting) -> None:
    """Not inside the clouds and not between them."""
    everywhere = [*meeting.between, *itertools.chain.from_iterable(meeting.inside.values())]

    assert [marker for marker in meeting.markers if holding(everywhere, marker)] == []
    assert addressed_in(everywhere, meeting.east.mesh.overlay) == []
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
            _wait_for(side, "Outsider", {}, within=_LOST_SECONDS)
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
        _wait_for(side, "Outsider", dict.fromkeys(other.members, "Alive"), within=_FOUND_SECONDS)
    _ping_all(*meeting.sides)
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
