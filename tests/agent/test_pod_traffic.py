"""Pods behind a node's masquerade, and the rules of SECURITY.md that keep them out of the overlay."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from wesher_testing.agents.process import KEY, AgentProcess, pings, wait_for_ping, wait_until
from wesher_testing.lab.namespaces import Host, Lab
from wesher_testing.run.toolbox import REPOSITORY

Start = Callable[..., AgentProcess]

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]

PORT = 8080
CNI = """
table ip cni {{
    chain postrouting {{
        type nat hook postrouting priority srcnat
        ip saddr {pods} oifname != "eth1" masquerade
    }}
    chain prerouting {{
        type nat hook prerouting priority dstnat
        iifname "wgoverlay" tcp dport {port} dnat to {pod}
    }}
}}
"""
"""What a CNI does for pods: masquerade, and a hostPort."""
SERVER = f"from socketserver import *; TCPServer(('', {PORT}), StreamRequestHandler).serve_forever()"
CLIENT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 2)"


def documented_rules() -> str:
    """Return the rules as SECURITY.md offers them."""
    (rules,) = re.findall(r"```nft\n(.*?)```", (REPOSITORY / "SECURITY.md").read_text(), re.DOTALL)
    return str(rules)


@dataclass(frozen=True, slots=True)
class Site:
    """A node with a pod behind it, and a laptop in the same mesh."""

    node: Host
    pod: Host
    laptop: Host
    node_address: str
    laptop_address: str

    def pod_answers_the_laptop(self) -> bool:
        """Tell whether the laptop can open a connection to the node's hostPort."""
        client = [sys.executable, "-c", CLIENT, self.node_address, str(PORT)]
        return self.laptop.run(client, check=False).returncode == 0


@pytest.fixture
def site(lab: Lab, start: Start) -> Site:
    pods = lab.network("pods", "172.30.0.0/24")
    node, laptop, pod = lab.host("node", lab.lan, pods), lab.host("laptop"), lab.host("pod", pods)
    node.run(["sysctl", "-qw", "net.ipv4.ip_forward=1"])
    node.run(["nft", "-f", "-"], text_in=CNI.format(pods=pods.ipv4, port=PORT, pod=pod.ipv4))
    pod.run(["ip", "route", "add", "default", "via", str(node.address_on(pods))])
    pod.popen([sys.executable, "-c", SERVER])
    agents = [
        start(node, "--cluster-key", KEY, "--init"),
        start(laptop, "--cluster-key", KEY, "--join", str(node.ipv4)),
    ]
    for agent in agents:
        agent.wait_for("node", "laptop")
    addresses = [str(agent.status()["overlayIP"]) for agent in agents]
    wait_for_ping(node, addresses[1])
    return Site(node, pod, laptop, *addresses)


def test_the_documented_rules_keep_pods_out_of_the_overlay_and_let_the_host_in(site: Site) -> None:
    wait_for_ping(site.pod, site.laptop_address)
    wait_until(site.pod_answers_the_laptop, what="the pod answers the laptop")

    for _ in range(2):  # loading them again is no error
        site.node.run(["nft", "-f", "-"], text_in=documented_rules())
    assert not pings(site.pod, site.laptop_address)
    assert pings(site.node, site.laptop_address)
    assert pings(site.laptop, site.node_address)
    assert site.pod_answers_the_laptop()
    assert pings(site.pod, str(site.laptop.ipv4))

    site.node.run(["nft", "delete", "table", "inet", "wesher_overlay"])
    assert pings(site.pod, site.laptop_address)
