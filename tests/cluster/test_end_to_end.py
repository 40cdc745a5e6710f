"""``helm install``, and the mesh that it gives: Ready, carrying traffic, and showing none of it."""

from __future__ import annotations

import itertools
import os
import re
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from wesher_testing.cluster.helm import VERSIONS, HelmVersion
from wesher_testing.cluster.image import Image
from wesher_testing.cluster.installation import NAMESPACE, Mesh, check
from wesher_testing.cluster.kubelets import Cluster, Node
from wesher_testing.cluster.operator_process import eventually
from wesher_testing.cluster.pods import node_daemonset
from wesher_testing.lab.capture import Capture, addressed_in, holding, wireguard_pairs

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]

_SOON = 60.0
"""Until what one agent has learnt another knows too, and the status tells; it takes some seconds."""
_PING = """
import signal, socket, struct, sys
identifier = 0x7765
packet = struct.pack("!BBHHH", 8, 0, 0xFFFF & ~(0x0800 + identifier), identifier, 0)
for address in sys.argv[1:]:
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as icmp:
        icmp.settimeout(10)
        icmp.sendto(packet, (address, 0))
        # A raw socket also hears what is meant for others.
        while True:
            reply, (sender, _) = icmp.recvfrom(1500)
            kind, _, _, whose, _ = struct.unpack("!BBHHH", reply[20:28])
            if (sender, kind, whose) == (address, 0, identifier):
                break
    print(address, "answered", flush=True)
signal.pause()
"""
"""The image has no ping, and needs none."""


def test_every_pair_of_nodes_talks_and_no_wire_shows_what(
    running: Cluster, mesh: Mesh, tmp_path: Path
) -> None:
    """The mesh is Ready, every node reaches every other, and the underlay carries WireGuard alone."""
    markers: dict[tuple[str, str], bytes] = {}
    with ExitStack() as stack:
        captures = [
            stack.enter_context(Capture(node.host, "eth0", tmp_path / f"{name}.pcap"))
            for name, node in running.nodes.items()
        ]
        for pair in itertools.permutations(running.nodes, 2):
            markers[pair] = os.urandom(16)
            mesh.wait_for_ping(*pair, marker=markers[pair])
        clear = os.urandom(16)
        one, other = (node.host for node in [*running.nodes.values()][:2])
        one.run(["ping", "-c", "1", "-p", clear.hex(), str(other.ipv4)])
    packets = [packet for capture in captures for packet in capture.packets()]

    seen = wireguard_pairs(packets)
    hosts = {name: node.host.ipv4 for name, node in running.nodes.items()}
    assert [pair for pair in markers if not seen[hosts[pair[0]], hosts[pair[1]]]] == []
    assert [pair for pair, marker in markers.items() if holding(packets, marker)] == []
    assert addressed_in(packets, mesh.overlay) == []
    assert holding(packets, clear), "what is sent in clear on purpose is caught"


def test_pods_on_the_nodes_network_reach_every_node(running: Cluster, mesh: Mesh, image: Image) -> None:
    """What runs on a node has the overlay by being there, in a container too."""
    addresses = sorted(mesh.addresses().values())
    running.api.apply(node_daemonset("pinging", image, ["python3", "-c", _PING, *addresses]))
    try:
        running.repeat("rollout", "status", "daemonset/pinging", "--timeout=10s")
        pods = running.api.get("pods", "-l", "app=pinging")["items"]
        all_answered = "".join(f"{address} answered\n" for address in addresses)
        assert len(pods) == len(running.nodes)
        for pod in pods:
            log = partial(running.api.kubectl, "logs", pod["metadata"]["name"])
            eventually(log, within=_SOON, until=all_answered.__eq__)
    finally:
        running.api.kubectl("delete", "daemonset", "pinging")


@pytest.mark.parametrize("version", VERSIONS)
def test_helm_test_passes_and_leaves_nothing(running: Cluster, mesh: Mesh, version: HelmVersion) -> None:
    """It waits for what agents measured: every node reaches every other."""
    assert re.search(r"^Phase:\s+Succeeded$", check(running, version=version), re.MULTILINE)
    kinds = "pods,serviceaccounts,clusterroles,clusterrolebindings"
    named = ("wesher-test", f"--namespace={NAMESPACE}", "--ignore-not-found", "--output=name")
    eventually(lambda: running.api.kubectl("get", kinds, *named), within=_SOON, until="".__eq__)


def test_members_names_lead_into_the_tunnel(running: Cluster, mesh: Mesh) -> None:
    """Each node resolves each other's qualified name, to its overlay address."""
    addresses = mesh.addresses()
    for source, target in itertools.permutations(running.nodes, 2):
        name = f"{target}.{mesh.name}.wesher.internal"
        look_up = partial(_address_of, running.nodes[source], name)
        eventually(look_up, within=_SOON, until=[addresses[target]].__eq__)
        told = running.nodes[source].run(["ip", "route", "get", addresses[target]]).stdout
        assert f" dev {mesh.interface} " in told


def test_an_administrator_sees_what_is_so(running: Cluster, mesh: Mesh) -> None:
    """Columns, conditions and the agents' own words agree."""
    eventually(
        lambda: running.api.kubectl("get", "wmesh", mesh.name, "--no-headers").split()[:4],
        within=_SOON,
        until=[mesh.name, "True", "3/3", str(mesh.overlay)].__eq__,
    )

    agents = mesh.agents()
    assert agents.keys() == running.nodes.keys()
    for agent in agents.values():
        ask = partial(_members_seen_by, running, agent["metadata"]["name"])
        eventually(ask, within=_SOON, until=sorted(running.nodes).__eq__)


def test_agents_run_as_root_with_the_nodes_network_and_the_operator_as_nobody(
    running: Cluster, mesh: Mesh
) -> None:
    """Each has what it needs, and the operator no more."""

    def user_of(pod: str) -> str:
        ask = ("--", "python3", "-c", "import os; print(os.getuid(), os.getgid())")
        return running.api.kubectl("exec", f"--namespace={NAMESPACE}", pod, *ask).strip()

    for agent in mesh.agents().values():
        assert agent["spec"]["hostNetwork"]
        assert user_of(agent["metadata"]["name"]).startswith("0 ")
    assert user_of("deploy/wesher-operator") == "65532 65532"


def _address_of(node: Node, name: str) -> list[str]:
    """Return the address of a name as a node resolves it, nothing where it does not."""
    return node.run(["getent", "hosts", name], check=False).stdout.split()[:1]


def _members_seen_by(running: Cluster, agent: str) -> list[str]:
    """Return whom an agent, given by its pod, lists as members."""
    said = running.api.kubectl("exec", f"--namespace={NAMESPACE}", agent, "--", "wesher", "members")
    return [line.split()[0] for line in said.splitlines()[1:]]
