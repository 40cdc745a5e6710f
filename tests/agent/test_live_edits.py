"""Each field of mesh.json is edited while pings run between all nodes, and no pair is down for long.

The kubelets of a cluster show a new file at different moments, up to two seconds apart where the
operator nudges them, and more than a minute where it cannot.
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

import pytest

from wesher_agent.wireguard.kernel import kernel_has_wireguard
from wesher_testing.agents import mounted_files
from wesher_testing.agents.mounted_files import document, mounted_flags, remember
from wesher_testing.agents.process import KEY, AgentProcess, wait_for_ping, wait_until
from wesher_testing.lab.namespaces import Host, Lab
from wesher_testing.lab.pings import Pinging
from wesher_testing.run.machine_load import stretched

Start = Callable[..., AgentProcess]

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]

NAMES = ("a", "b", "c")
USERSPACE = {"mode": "Userspace"}
"""Whatever the kernel has: `device` asks wireguard-go."""
DOWN_SECONDS = 3.0
"""The longest that an edit may keep a pair from reaching each other."""
LATE_APART = 30.0
"""Seconds between two kubelets that nobody nudges: members that do not hear each other fail meanwhile."""
AGAIN_SECONDS = 5.0
"""From the last node's look until all see each other alive."""
NUDGED_APART = 2.0
"""Seconds between the first and the last node's look at a new file, where the operator nudges them."""


@dataclass(frozen=True)
class Mesh:
    """Three nodes of one mesh, whose files show what a test mounts."""

    agents: dict[str, AgentProcess]

    @property
    def hosts(self) -> dict[str, Host]:
        """The nodes by name."""
        return {name: agent.host for name, agent in self.agents.items()}

    @property
    def addresses(self) -> dict[str, str]:
        """Their overlay addresses by name."""
        return {name: f"10.99.0.{number}" for number, name in enumerate(self.agents, start=10)}

    def mount(self, name: str, **changes: Any) -> None:
        """Show one node another mesh.json."""
        changes = {**changes, "wireguard": USERSPACE | changes.get("wireguard", {})}
        mounted_files.mount(self.hosts[name], document(*self.hosts.values(), **changes), key=KEY)

    def edit(self, *, apart: float = 0.0, **changes: Any) -> None:
        """Show all nodes another mesh.json, one after the other."""
        for number, name in enumerate(self.agents):
            if number and apart:
                # The time between the kubelets is what is tested, and nothing else tells it.
                time.sleep(apart / (len(self.agents) - 1))
            self.mount(name, **changes)
        interface = changes.get("wireguard", {}).get("interface", "wgoverlay")
        for agent in self.agents.values():
            agent.interface = interface

    def is_whole(self) -> bool:
        """Tell whether each sees all alive and reaches all."""
        return all(self._is_well(agent) for agent in self.agents.values())

    def _is_well(self, agent: AgentProcess) -> bool:
        status = agent.ask("status")
        members = agent.ask("members") or []
        # Those that have left are shown for a while.
        states = [entry["state"] for entry in members if entry["state"] != "left"]
        return (
            status is not None
            and states == ["alive"] * len(self.agents)
            and {entry["type"]: entry["status"] for entry in status["conditions"]}["Ready"] == "True"
        )

    @contextmanager
    def carrying(self, seconds: float = DOWN_SECONDS) -> Iterator[None]:
        """Ping from everyone to everyone meanwhile; no pair may go without an answer for longer."""
        with Pinging(self.agents, self.addresses) as pinging:
            yield
        assert max(pinging.outages.values()) <= stretched(seconds), pinging.outages


@pytest.fixture
def mesh(lab: Lab, start: Start) -> Mesh:
    hosts = [lab.host(name) for name in NAMES]
    for number, host in enumerate(hosts, start=10):
        mounted_files.mount(host, document(*hosts, wireguard=USERSPACE), key=KEY)
        remember(host, ip_address(f"10.99.0.{number}"))
    made = Mesh({host.name: start(host, *mounted_flags(host), bare=True) for host in hosts})
    wait_until(made.is_whole, what="the mesh is whole")
    return made


def device(host: Host, interface: str = "wgoverlay") -> str:
    """Return what WireGuard says of a device over its own protocol."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(str(host.root / f"run/wireguard/{interface}.sock"))
        client.sendall(b"get=1\n\n")
        with client.makefile() as answer:
            return "".join(iter(answer.readline, "\n"))


def private_key(host: Host, interface: str = "wgoverlay") -> str:
    return next(line for line in device(host, interface).splitlines() if line.startswith("private_key="))


def links(host: Host) -> dict[str, dict[str, Any]]:
    found = json.loads(host.run(["ip", "-json", "address", "show"]).stdout)
    return {link["ifname"]: link for link in found}


def hosts_file(host: Host) -> str:
    return (host.root / "etc/hosts").read_text()


@dataclass(frozen=True)
class Edit:
    """One edit, and what shows on a node that it took effect."""

    changes: dict[str, Any]
    shows: Callable[[Host], bool]
    restarts: bool = False
    """Whether the agent starts again inside its process."""


EDITS = {
    "wireguard.mtu": Edit({"wireguard": {"mtu": 1300}}, lambda host: links(host)["wgoverlay"]["mtu"] == 1300),
    "wireguard.persistentKeepalive": Edit(
        {"wireguard": {"persistentKeepalive": 25}},
        lambda host: device(host).count("persistent_keepalive_interval=25\n") == len(NAMES) - 1,
    ),
    "wireguard.port": Edit(
        {"wireguard": {"port": 51999}}, lambda host: "listen_port=51999\n" in device(host)
    ),
    "wireguard.mode": Edit(
        {"wireguard": {"mode": "Auto"}}, lambda host: "wgoverlay" in links(host), restarts=True
    ),
    "wireguard.interface": Edit(
        {"wireguard": {"interface": "wgother"}},
        lambda host: "wgother" in links(host) and "wgoverlay" not in links(host),
        restarts=True,
    ),
    "gossip.port": Edit(
        {"gossip": {"profile": "LAN", "port": 7999}},
        lambda host: ":7999 " in host.run(["ss", "-lun"]).stdout,
    ),
    "gossip.profile": Edit({"gossip": {"profile": "WAN"}}, lambda _: True, restarts=True),
    "gossip.label": Edit({"gossip": {"profile": "LAN", "label": "other"}}, lambda _: True, restarts=True),
    "clusterName": Edit(
        {"clusterName": "east"},
        lambda host: hosts_file(host).count(".east.m.wesher.internal") == 2,
        restarts=True,
    ),
    "etcHosts": Edit({"etcHosts": "Off"}, lambda host: "wesher" not in hosts_file(host)),
}


@pytest.mark.parametrize(
    ("field", "apart"),
    [(field, NUDGED_APART) for field in EDITS]
    + [(field, 0.0) for field in ("wireguard.port", "wireguard.interface", "gossip.port")],
)
def test_an_edit_takes_effect_on_all_nodes_and_keeps_no_pair_apart(
    mesh: Mesh, field: str, apart: float
) -> None:
    edit = EDITS[field]
    with mesh.carrying():
        mesh.edit(apart=apart, **edit.changes)
        wait_until(
            lambda: all(edit.shows(host) for host in mesh.hosts.values()),
            what=f"every node has the new {field}",
        )
        wait_until(mesh.is_whole, what="the mesh is whole")
    for agent in mesh.agents.values():
        assert agent.process.poll() is None, "the process goes on"
        assert ("restarting to apply it" in agent.own_log) == edit.restarts
        assert len(re.findall("agent started", agent.own_log)) == 1 + edit.restarts


@pytest.mark.parametrize("field", ["gossip.port", "gossip.label"])
def test_nodes_that_learn_of_it_long_after_each_other_keep_their_tunnels_and_meet_again(
    mesh: Mesh, field: str
) -> None:
    """Until the last has it, members with different ports or labels do not hear each other."""
    with mesh.carrying():
        mesh.edit(apart=LATE_APART, **EDITS[field].changes)
        took = wait_until(mesh.is_whole, what="the mesh is whole", deadline=stretched(AGAIN_SECONDS))
    assert took <= stretched(AGAIN_SECONDS)
    for agent in mesh.agents.values():
        assert agent.process.poll() is None


def test_an_edit_that_one_node_cannot_apply_is_named_there_until_it_can_and_its_tunnels_stay(
    mesh: Mesh, start: Start
) -> None:
    """Another agent has the new name there. It is not for this one to give up its own device then."""
    host = mesh.hosts["a"]
    other = start(host, "--init", "--cluster-port=7999", "--wireguard-port=51999", interface="wgother")
    wait_until(lambda: other.ask("status") is not None, what="the other agent runs")
    agent = mesh.agents["a"]
    with mesh.carrying():
        for name in mesh.agents:
            mesh.mount(name, wireguard={"interface": "wgother"})
        wait_until(lambda: agent.conditions()["KeyCurrent"] == "InvalidConfig", what="it is said")
        assert "interface 'wgother': is used by another agent" in agent.own_log
        other.end()
        wait_until(lambda: "wgoverlay" not in links(host), what="the new name is taken")
        for each in mesh.agents.values():
            each.interface = "wgother"
        wait_until(mesh.is_whole, what="the mesh is whole")


def test_a_restart_that_fails_is_tried_again_and_the_tunnels_stay(mesh: Mesh) -> None:
    host, agent = mesh.hosts["a"], mesh.agents["a"]
    state = host.root / "var/lib/wesher/wgoverlay.json"
    agent.wait_saved("b", "c")
    with mesh.carrying():
        state.rename(state.with_suffix(".kept"))
        state.mkdir()
        mesh.edit(**EDITS["gossip.label"].changes)
        wait_until(lambda: agent.own_log.count("restart failed: trying again") > 1, what="it is tried again")
        assert "wgoverlay.json': is a directory" in agent.own_log
        state.rmdir()
        state.with_suffix(".kept").rename(state)
        wait_until(mesh.is_whole, what="the mesh is whole")
    assert agent.process.poll() is None


def test_an_agent_told_to_end_while_its_restart_fails_ends_at_once(mesh: Mesh) -> None:
    host, agent = mesh.hosts["a"], mesh.agents["a"]
    state = host.root / "var/lib/wesher/wgoverlay.json"
    state.rename(state.with_suffix(".kept"))
    state.mkdir()
    mesh.edit(**EDITS["gossip.label"].changes)
    wait_until(lambda: agent.own_log.count("restart failed: trying again") > 2, what="it is tried again")
    assert agent.end(deadline=2.0) == 0
    assert "wgoverlay" in links(host)


def test_a_name_that_another_device_has_is_refused_and_the_device_stays(mesh: Mesh) -> None:
    with mesh.carrying():
        for name in mesh.agents:
            mesh.mount(name, wireguard={"interface": "eth0"})
        for agent in mesh.agents.values():
            wait_until(lambda a=agent: a.conditions()["KeyCurrent"] == "InvalidConfig", what="it is said")  # type: ignore[misc]
            assert "wireguard.interface 'eth0': belongs to another program" in agent.own_log


def test_another_kind_of_wireguard_takes_over_or_is_named_where_the_kernel_lacks_it(mesh: Mesh) -> None:
    with mesh.carrying():
        mesh.edit(wireguard={"mode": "Kernel"})
        for agent in mesh.agents.values():
            if kernel_has_wireguard():
                wait_until(lambda a=agent: a.status()["wireguard"]["mode"] == "Kernel", what="it is there")  # type: ignore[misc]
            else:
                wait_until(lambda a=agent: a.conditions()["KeyCurrent"] == "InvalidConfig", what="it is said")  # type: ignore[misc]
                assert "mesh.json wireguard: the kernel has no WireGuard" in agent.own_log
        if kernel_has_wireguard():
            wait_until(mesh.is_whole, what="the mesh is whole")


def test_a_pod_that_was_ended_before_it_read_of_another_interface_leaves_nothing_of_the_former(
    mesh: Mesh, start: Start
) -> None:
    """As where an edit rolls the pods: the next one starts with the new name."""
    agent, host = mesh.agents["a"], mesh.hosts["a"]
    agent.wait_saved("b", "c")
    key = private_key(host)
    assert agent.end() == 0
    assert "wgoverlay" in links(host)
    mesh.edit(wireguard={"interface": "wgother"})
    mesh.agents["a"] = again = start(host, *mounted_flags(host), bare=True, interface="wgother")
    wait_until(mesh.is_whole, what="the mesh is whole")
    wait_for_ping(host, mesh.addresses["b"])
    # Compared here: a failure must not print a key.
    is_same_key = private_key(host, "wgother") == key
    assert is_same_key
    assert "wgoverlay" not in links(host)
    assert "wgoverlay" not in host.run(["ip", "route"]).stdout
    assert "interface wgoverlay" not in hosts_file(host)
    assert [path.name for path in (host.root / "var/lib/wesher").glob("*.json")] == ["wgother.json"]
    assert "former interface removed" in again.own_log


def test_a_seed_that_is_added_joins_its_mesh(lab: Lab, mesh: Mesh, start: Start) -> None:
    outside = lab.host("d")
    start(outside, f"--cluster-key={KEY}", "--overlay-net=10.99.0.0/16").wait_for("d")
    with mesh.carrying():
        mesh.edit(seedNodes=[str(outside.ipv4)])
        for agent in mesh.agents.values():
            agent.wait_for(*NAMES, "d")


def test_another_address_of_a_node_is_announced_and_keeps_no_pair_apart(lab: Lab, start: Start) -> None:
    """As `addresses.prefer` and a Node's annotation have the operator write it."""
    further = lab.network("further")
    hosts = [lab.host(name, lab.lan, further) for name in ("a", "b")]

    def place(host: Host, generation: int, advertised: str) -> dict[str, Any]:
        return {
            "apiVersion": "wesher.dev/v1alpha1",
            "kind": "WesherNode",
            "metadata": {"name": f"m.{host.name}", "uid": "n", "generation": generation},
            "spec": {
                "overlayIP": f"10.99.0.{10 + hosts.index(host)}",
                "advertiseAddress": advertised,
            },
        }

    def mount(host: Host, nudge: str) -> None:
        files = document(*hosts, wireguard=USERSPACE)
        mounted_files.mount(host, files, key=KEY, nudge=nudge)

    with ExitStack() as servers:
        for host in hosts:
            mount(host, "abc.1")
            servers.enter_context(mounted_files.serve(host, place(host, 1, str(host.ipv4))))
        mesh = Mesh({host.name: start(host, *mounted_flags(host), bare=True) for host in hosts})
        wait_until(mesh.is_whole, what="the mesh is whole")
        with mesh.carrying():
            for host in hosts:
                mounted_files.say_again(host, place(host, 2, str(host.address_on(further))))
                mount(host, "abc.2")
            for host, agent in zip(hosts, mesh.agents.values(), strict=True):
                there = f"{host.address_on(further)}:7946"
                wait_until(
                    lambda a=agent, t=there: a.status()["gossip"]["address"] == t, what="it is announced"
                )  # type: ignore[misc]
            wait_until(mesh.is_whole, what="the mesh is whole")
