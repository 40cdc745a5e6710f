"""A peer's WireGuard gets another port or address, or a holder of the cluster key announces that it has."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import IPv4Address, ip_address
from subprocess import PIPE

import pytest

from wesher_agent.mesh.device import Endpoint
from wesher_agent.mesh.nodemeta import NodeMeta
from wesher_agent.wire.keyring import Keyring
from wesher_agent.wire.messages import Alive, Versions, encode
from wesher_agent.wire.packet import PacketFormat, seal
from wesher_agent.wireguard.plan import PeerSession
from wesher_agent.wireguard.uapi import GET, parse_sessions
from wesher_common.keys import WireGuardPublicKey
from wesher_testing.agents import mounted_files
from wesher_testing.agents.mesh import ask_device, device
from wesher_testing.agents.mounted_files import document, mounted_flags, remember
from wesher_testing.agents.process import KEY, SECRET, AgentProcess, pings, wait_for_ping, wait_until
from wesher_testing.lab.namespaces import Host, Lab
from wesher_testing.lab.pings import Pinging
from wesher_testing.peers.gossip_mesh import GOSSIP_PORT
from wesher_testing.run.machine_load import stretched

Start = Callable[..., AgentProcess]

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]

MOVED_WITHIN = 3.0
"""Seconds without an answer to a ping when a port is edited."""
OLD_PORT, NEW_PORT = 51820, 51999
_SEND = """
import socket, sys, time
to = (sys.argv[1], int(sys.argv[2]))
datagrams = [bytes.fromhex(line) for line in sys.stdin.read().split()]
print(flush=True)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    for datagram in datagrams:
        sock.sendto(datagram, to)
        time.sleep(float(sys.argv[3]))
"""


class Inside:
    """Agents with a mounted mesh.json each, which can be edited."""

    def __init__(self, lab: Lab, start: Start, *names: str) -> None:
        self.hosts = {name: lab.host(name) for name in names}
        self._seed = self.hosts[names[0]]
        self.agents: dict[str, AgentProcess] = {}
        self.addresses: dict[str, str] = {}
        for number, (name, host) in enumerate(self.hosts.items(), start=10):
            self.addresses[name] = f"10.99.0.{number}"
            self.listen_at(OLD_PORT, name)
            remember(host, ip_address(self.addresses[name]))
            self.agents[name] = start(host, *mounted_flags(host), bare=True)
        for name, agent in self.agents.items():
            agent.wait_for(*names)
            for other in self.addresses.keys() - {name}:
                wait_for_ping(self.hosts[name], self.addresses[other])

    def listen_at(self, port: int, *names: str) -> None:
        """Edit the port of WireGuard in the mesh.json of some hosts."""
        for name in names:
            mesh = document(self._seed, wireguard={"port": port})
            mounted_files.mount(self.hosts[name], mesh, key=KEY)

    def session(self, name: str, peer: str) -> PeerSession:
        """Return what a host's WireGuard knows of a peer."""
        key = WireGuardPublicKey.from_base64(self.agents[name].members()[peer]["publicKey"])
        return parse_sessions(ask_device(self.hosts[name], GET))[key]

    def wait_sent_to(self, name: str, peer: str, port: int) -> None:
        """Wait until a host's WireGuard sends to a peer at another port."""

        def is_there() -> bool:
            endpoint = self.session(name, peer).endpoint
            return endpoint is not None and endpoint.port == port

        wait_until(is_there, what=f"{name} sends to {peer} at port {port}")


def test_a_peer_whose_port_is_edited_is_out_of_reach_for_a_moment_only(lab: Lab, start: Start) -> None:
    """It sends each peer a packet from its new port; the others still have the old mesh.json."""
    mesh = Inside(lab, start, "a", "b", "c")
    # Towards it only: what it would send by itself is no help.
    with Pinging(mesh.agents, mesh.addresses, [("a", "b"), ("c", "b")]) as going:
        mesh.listen_at(NEW_PORT, "b")
        for name in ("a", "c"):
            mesh.wait_sent_to(name, "b", NEW_PORT)
    assert max(going.outages.values()) <= stretched(MOVED_WITHIN)


def test_a_port_edited_everywhere_parts_no_pair_for_longer(lab: Lab, start: Start) -> None:
    """Two that move at the same moment cannot tell each other: what each sends goes to the former port."""
    mesh = Inside(lab, start, "a", "b", "c")
    with Pinging(mesh.agents, mesh.addresses) as going:
        for host in mesh.hosts.values():
            host.cut()
        began = time.monotonic()
        mesh.listen_at(NEW_PORT, "a", "b", "c")
        for host in mesh.hosts.values():
            wait_until(lambda host=host: device(host).listen_port == NEW_PORT, what=f"{host.name} has moved")
        for host in mesh.hosts.values():
            host.restore()
        apart = time.monotonic() - began
        for name in mesh.hosts:
            for peer in mesh.hosts.keys() - {name}:
                mesh.wait_sent_to(name, peer, NEW_PORT)
    assert max(going.outages.values()) <= apart + stretched(MOVED_WITHIN)


def test_a_peer_that_moved_unseen_is_followed_as_soon_as_its_announcement_is_heard(
    lab: Lab, start: Start
) -> None:
    """Neither knows where the other is: address and port have changed while they were cut off."""
    mesh = Inside(lab, start, "a", "b")
    a, b = mesh.hosts.values()
    a.cut()
    elsewhere = b.ipv4 + 100
    b.run(["ip", "address", "del", f"{b.ipv4}/24", "dev", "eth0"])
    b.run(["ip", "address", "add", f"{elsewhere}/24", "dev", "eth0"])
    mesh.listen_at(NEW_PORT, "a", "b")
    wait_until(
        lambda: mesh.agents["b"].status()["gossip"]["address"] == f"{elsewhere}:{GOSSIP_PORT}",
        what="b announces its new address",
    )
    a.restore()
    wait_until(
        lambda: mesh.agents["a"].members()["b"]["address"] == f"{elsewhere}:{GOSSIP_PORT}",
        what="a knows where b is",
    )
    heard = time.monotonic()
    wait_for_ping(a, mesh.addresses["b"])
    assert time.monotonic() - heard <= stretched(2 * MOVED_WITHIN)
    assert mesh.session("a", "b").endpoint == Endpoint(elsewhere, NEW_PORT)


@contextmanager
def forged(lab: Lab, target: Host, member: dict[str, str], name: str, *, seconds: float) -> Iterator[None]:
    """Have a holder of the cluster key say all the time that a member's WireGuard is elsewhere."""
    fmt = PacketFormat(Keyring(SECRET), compress=False)
    meta = NodeMeta(
        overlay_address=ip_address(member["overlayIP"]),
        public_key=WireGuardPublicKey.from_base64(member["publicKey"]),
        version=1,
    )
    # Faster than the member refutes it.
    pause = 0.05
    lines = []
    for number in range(int(seconds / pause)):
        false = replace(meta, wireguard_endpoint=Endpoint(IPv4Address("198.18.0.1"), 1 + number % 7))
        address = IPv4Address(member["address"].split(":")[0])
        # Members begin at the clock's seconds.
        incarnation = int(time.time()) + 1000 * (1 + number)
        alive = Alive(incarnation, name, address.packed, GOSSIP_PORT, false.encode(), Versions())
        lines.append(seal([encode(alive)], fmt, checksum=True, nonce=os.urandom).hex())
    mallory = lab.host("mallory")
    command = [sys.executable, "-I", "-c", _SEND, str(target.ipv4), str(GOSSIP_PORT), str(pause)]
    with mallory.popen(command, stdin=PIPE, stdout=PIPE, text=True) as sender:
        assert sender.stdin is not None
        assert sender.stdout is not None
        sender.stdin.write("\n".join(lines))
        sender.stdin.close()
        sender.stdout.readline()
        try:
            yield
            assert not sender.wait(seconds * 3 + 30.0)
        finally:
            sender.kill()


def test_a_false_announcement_of_a_peers_endpoint_loses_no_ping(lab: Lab, start: Start) -> None:
    a, b = lab.host("a"), lab.host("b")
    agents = {
        "a": start(a, "--cluster-key", KEY),
        "b": start(b, "--cluster-key", KEY, "--join", str(a.ipv4)),
    }
    for agent in agents.values():
        agent.wait_for("a", "b")
    known = agents["a"].members()
    addresses = {name: known[name]["overlayIP"] for name in ("a", "b")}
    for host, other in ((a, "b"), (b, "a")):
        wait_for_ping(host, addresses[other])
    # In one direction: packets of the peer's own would bring its endpoint back.
    pinging = Pinging(agents, addresses, [("a", "b")])
    with pinging as going, forged(lab, a, known["b"], "b", seconds=15.0):
        pass
    assert going.lost == {("a", "b"): 0}
    assert agents["a"].own_log.count("member updated node=b") > 1, "it was believed"
    assert "announced endpoints tried" not in agents["a"].own_log
    assert pings(a, addresses["b"])
