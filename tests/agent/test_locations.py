"""Members of one location, whose announced addresses are for everybody else."""

from __future__ import annotations

import base64
from collections.abc import Callable
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from socket import IPPROTO_UDP

import pytest

from wesher_testing.agents.mounted_files import document, mount, mounted_flags, remember
from wesher_testing.agents.process import AgentProcess, wait_for_ping, wait_until
from wesher_testing.lab.capture import Capture
from wesher_testing.lab.namespaces import Lab
from wesher_testing.peers.gossip_mesh import GOSSIP_PORT

Start = Callable[..., AgentProcess]

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]

KEY = base64.b64encode(bytes(32)).decode()
ENOUGH = 6
"""Datagrams each way: some probes and their answers."""


def test_members_of_one_location_gossip_and_tunnel_by_their_internal_addresses(
    lab: Lab, start: Start, tmp_path: Path
) -> None:
    """Behind a NAT that turns no packet round, the announced addresses lead nowhere from inside."""
    a, b = lab.host("a"), lab.host("b")
    announced = {host: IPv4Address(f"203.0.113.{number}") for number, host in enumerate((a, b), 10)}
    for number, (host, other) in enumerate(((a, b), (b, a)), 10):
        # Else what is sent to an announced address would not even leave the host.
        host.run(["ip", "route", "add", "default", "via", str(other.ipv4)])
        mount(host, document(a, b, clusterName="east"), key=KEY)
        remember(host, ip_address(f"10.99.0.{number}"), name=f"{host.name}.east")
    with Capture(a, "eth0", tmp_path / "a.pcap") as capture:
        agents = [
            start(host, *mounted_flags(host), f"--advertise-addr={announced[host]}", bare=True)
            for host in (a, b)
        ]
        for agent in agents:
            agent.wait_for("a.east", "b.east")
        wait_for_ping(a, "b.east.m.wesher.internal")
        wait_for_ping(b, "a.east.m.wesher.internal")

        def gossiped(source: IPv4Address, destination: IPv4Address) -> int:
            return sum(
                (packet.source, packet.destination) == (source, destination)
                and packet.protocol == IPPROTO_UDP
                and packet.ports == (GOSSIP_PORT, GOSSIP_PORT)
                for packet in capture.packets()
            )

        wait_until(
            lambda: min(gossiped(a.ipv4, b.ipv4), gossiped(b.ipv4, a.ipv4)) >= ENOUGH,
            what="they probe each other",
        )
        for agent in agents:
            agent.wait_for("a.east", "b.east")
    assert agents[0].members()["b.east"]["address"] == f"{announced[b]}:{GOSSIP_PORT}"
    assert [packet for packet in capture.packets() if packet.destination in announced.values()] == []
