"""Packets between nodes' own addresses and pods go through the tunnels of real agents, and never in clear."""

from __future__ import annotations

import hashlib
import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from ipaddress import IPv4Network, ip_network
from pathlib import Path
from typing import Any, Self

import pytest

from wesher_common.certificate import Authority, Subject
from wesher_common.keys import WireGuardPrivateKey
from wesher_common.mesh_document import MeshDocument
from wesher_testing.agents import mounted_files
from wesher_testing.agents.mesh import CARRIER, processes
from wesher_testing.agents.mounted_files import document, mount, mounted_flags, remember
from wesher_testing.agents.process import KEY, AgentProcess, pings, wait_until
from wesher_testing.lab.capture import Capture, Packet
from wesher_testing.lab.namespaces import Host, Lab
from wesher_testing.lab.pings import Pinging

Start = Callable[..., AgentProcess]

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]

AUTHORITY = Authority(bytes(range(32)))
OVERLAY = IPv4Network("10.99.0.0/16")
WIREGUARD, GOSSIP = 51820, 7946
ICMP = 1
OFF_SECONDS = 5.0


class CarriedMesh:
    """Agents of nodes whose certificates list their addresses, on a LAN where hosts filter strictly."""

    def __init__(self, lab: Lab, start: Start, *names: str) -> None:
        self.hosts = {name: lab.host(name) for name in names}
        self.agents: dict[str, AgentProcess] = {}
        self._start, self._generation = start, 0
        self._seed = next(iter(self.hosts.values()))
        self._servers = ExitStack()
        for host in self.hosts.values():
            host.run(["sysctl", "-qw", "net.ipv4.conf.all.rp_filter=1", "net.ipv4.conf.eth0.rp_filter=1"])
            host.run(["ip", "link", "add", "pods", "type", "veth", "peer", "name", "podend"])
            for link in ("pods", "podend"):
                host.run(["ip", "link", "set", link, "up"])
            host.run(["ip", "address", "add", f"{self.pod(host)}/24", "dev", "pods"])
            mount(host, self._mesh(None), key=KEY)
            remember(
                host,
                self._overlay_address(host),
                private_key=self._key(host),
                mesh=MeshDocument.from_json(json.dumps(self._mesh(None))),
            )
            self._servers.enter_context(mounted_files.serve(host, self._node(host, ())))

    def __enter__(self) -> Self:
        for name in self.hosts:
            self.start(name)
        for agent in self.agents.values():
            agent.wait_for(*self.hosts)
        return self

    def __exit__(self, *_: object) -> None:
        self._servers.close()

    def start(self, name: str) -> None:
        """Start the agent of a host."""
        host = self.hosts[name]
        self.agents[name] = self._start(host, *mounted_flags(host), bare=True)

    @staticmethod
    def pod(host: Host) -> str:
        """Return the address of a pod of a host."""
        return f"10.244.{int(host.ipv4) % 256}.1"

    @property
    def nodes(self) -> dict[str, str]:
        """The address of each node."""
        return {name: str(host.ipv4) for name, host in self.hosts.items()}

    def configure(self, traffic: dict[str, Any] | None) -> None:
        """Change ``spec.traffic`` on all hosts, as kubelets do."""
        for host in self.hosts.values():
            mount(host, self._mesh(traffic), key=KEY, nudge=f"n.{self._generation}")

    def certify(self, *, with_networks: bool) -> None:
        """Give each node another certificate, and have its agent ask for it."""
        self._generation += 1
        for host in self.hosts.values():
            networks = (ip_network(host.ipv4), ip_network(f"{self.pod(host)}/24", strict=False))
            mounted_files.say_again(host, self._node(host, networks if with_networks else ()))

    def switch_on(self) -> None:
        """Have all carry everything for each other, and wait until they do."""
        self.certify(with_networks=True)
        self.configure(self.traffic)
        self.wait_carried()

    @property
    def traffic(self) -> dict[str, Any]:
        """``spec.traffic`` when it is on."""
        lan = ip_network(f"{self._seed.ipv4}/24", strict=False)
        return {"nodes": "All", "pods": "All", "nodeCIDRs": [str(lan)]}

    def wait_carried(self) -> float:
        """Wait until each agent sends to the node and the pods of each other one."""
        return wait_until(
            lambda: all(self.routed(name) == 2 * (len(self.hosts) - 1) for name in self.agents),
            what="all carry",
        )

    def routed(self, name: str) -> int:
        """Return to how many networks an agent sends through the tunnels."""
        count: int = self.agents[name].status()["traffic"]["routed"]
        return count

    def _mesh(self, traffic: dict[str, Any] | None) -> dict[str, Any]:
        identity = {"mode": "Verified", "bound": True, "authorities": [str(AUTHORITY.key)]}
        return document(self._seed, identity=identity, **({"traffic": traffic} if traffic else {}))

    def _node(self, host: Host, networks: tuple[Any, ...]) -> dict[str, Any]:
        subject = Subject(
            name=host.name,
            public_key=self._key(host).public,
            address=self._overlay_address(host),
            networks=networks,
        )
        certificate = AUTHORITY.issue(subject, serial=int(time.time() * 1000))
        return {
            "apiVersion": "wesher.dev/v1alpha1",
            "kind": "WesherNode",
            "metadata": {"name": f"m.{host.name}", "uid": "n", "generation": self._generation + 1},
            "spec": {
                "overlayIP": str(subject.address),
                "certificate": certificate.to_base64(),
                "routes": [str(network) for network in networks],
            },
        }

    @staticmethod
    def _key(host: Host) -> WireGuardPrivateKey:
        return WireGuardPrivateKey.from_random(hashlib.sha256(host.name.encode()).digest())

    @staticmethod
    def _overlay_address(host: Host) -> Any:
        return OVERLAY[int(host.ipv4) % 256]


@pytest.fixture
def mesh(lab: Lab, start: Start) -> Iterator[CarriedMesh]:
    with CarriedMesh(lab, start, "a", "b", "c") as made:
        yield made


def in_clear(packets: list[Packet]) -> list[Packet]:
    """Return the packets of nodes and pods that all can read: pings here."""
    return [packet for packet in packets if packet.protocol == ICMP]


def rules(host: Host) -> list[str]:
    shown = host.run(["ip", "rule"]).stdout + host.run(["ip", "-6", "rule"]).stdout
    usual = ("lookup local", "lookup main", "lookup default")
    return [line for line in shown.splitlines() if not line.endswith(usual)]


def filters(host: Host) -> str:
    return host.run(["sysctl", "-n", "net.ipv4.conf.eth0.rp_filter"]).stdout.strip()


def test_switched_on_and_off_no_ping_is_lost_and_nothing_is_left(
    mesh: CarriedMesh, tmp_path: Path, say: Callable[[str], None]
) -> None:
    a, b = mesh.hosts["a"], mesh.hosts["b"]
    with Pinging(mesh.agents, mesh.nodes) as pinging:
        mesh.switch_on()
        with Capture(a, "eth0", tmp_path / "on.pcap") as wire:
            assert pings(a, str(b.ipv4))
            assert a.run(["ping", "-c1", "-W2", "-I", mesh.pod(a), mesh.pod(b)], check=False).returncode == 0
        assert mesh.agents["a"].conditions()["TrafficCarried"] == "Carried"
        mesh.configure(None)
        took = wait_until(
            lambda: not any(map(mesh.routed, mesh.agents)), what="nobody carries", deadline=OFF_SECONDS + 5.0
        )
        mesh.certify(with_networks=False)
        mesh.configure(None)
        wait_until(lambda: not any(map(rules, mesh.hosts.values())), what="no rule is left")
        wait_until(lambda: all(filters(host) == "1" for host in mesh.hosts.values()), what="filters are back")
    lost = sum(pinging.lost.values())
    say(f"switched on and off among 3 nodes at 10 pings/s: {lost} lost; off after {took:.1f} s")
    assert in_clear(wire.packets()) == [], "captured while it was on"
    assert lost == 0
    for host in mesh.hosts.values():
        assert host.run(["ip", "route", "show", "table", "1870"], check=False).stdout == ""


def test_whatever_is_killed_nothing_leaves_in_clear(mesh: CarriedMesh, tmp_path: Path) -> None:
    a, b = mesh.hosts["a"], mesh.hosts["b"]
    mesh.switch_on()
    target = str(b.ipv4)
    with Capture(a, "eth0", tmp_path / "killed.pcap") as wire:
        sender = a.popen(["ping", "-i0.05", "-q", target])
        mesh.agents["a"].end(signal.SIGKILL)
        assert pings(a, target), "the tunnel stands without its agent"
        for pid in processes(a, CARRIER):
            a.run(["kill", "-KILL", str(pid)])
        wait_until(lambda: not processes(a, CARRIER), what="wireguard-go is gone")
        refused = a.run(["ping", "-c1", "-W1", target], check=False)
        assert refused.returncode != 0, "no way is better than one in clear"
        mesh.start("a")
        wait_until(lambda: pings(a, target), what="a restarted agent carries")
        sender.send_signal(signal.SIGINT)
        sender.wait(10)
    assert in_clear(wire.packets()) == []
    assert any(packet.is_wireguard_data for packet in wire.packets())

    with Capture(a, "eth0", tmp_path / "caught.pcap") as wire:
        # With the mark of WireGuard's own packets: what leaves in clear is seen.
        a.run(["ping", "-c1", "-W1", "-m", "128", target], check=False)
    assert len(in_clear(wire.packets())) >= 1


def test_the_mounted_file_ends_it_within_seconds_with_every_tunnel_dead(
    mesh: CarriedMesh, say: Callable[[str], None]
) -> None:
    a, b = mesh.hosts["a"], mesh.hosts["b"]
    mesh.switch_on()
    for host in mesh.hosts.values():
        host.drop("udp", WIREGUARD)
    wait_until(lambda: not pings(a, str(b.ipv4)), what="the tunnels are dead")
    mesh.configure(None)
    took = wait_until(lambda: pings(a, str(b.ipv4)), what="nodes reach each other", deadline=4 * OFF_SECONDS)
    say(f"switched off with every tunnel dead: nodes reach each other after {took:.1f} s")


def test_gossip_and_direct_ports_stay_out_of_the_tunnels(mesh: CarriedMesh, tmp_path: Path) -> None:
    a, b = mesh.hosts["a"], mesh.hosts["b"]
    mesh.certify(with_networks=True)
    mesh.configure(mesh.traffic | {"direct": ["tcp/2379"], "apiServers": [f"{b.ipv4}:6443"]})
    mesh.wait_carried()
    with Capture(a, "eth0", tmp_path / "direct.pcap") as wire:
        for port in (2379, 6443, 22):
            # Nobody listens: the answer is a reset, which returns by the way that the question took.
            a.run(["bash", "-c", f"exec 3<>/dev/tcp/{b.ipv4}/{port}"], check=False)
    ports = {port for packet in wire.packets() if packet.protocol == 6 for port in packet.ports}
    assert {2379, 6443} <= ports
    assert 22 not in ports
    gossip = [p for p in wire.packets() if p.protocol == 17 and GOSSIP in p.ports]
    assert gossip, "gossip is seen on the wire"
