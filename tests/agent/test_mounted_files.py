"""An agent in Kubernetes as far as files go: its key ring and mesh.json, with no API server to ask."""

from __future__ import annotations

import base64
import json
import re
import signal
import sys
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest

from wesher_common.keys import ClusterKey
from wesher_common.mesh_document import MeshDocument
from wesher_testing.agents import mounted_files
from wesher_testing.agents.mounted_files import MOUNT, document, mounted_flags, remember
from wesher_testing.agents.process import (
    PATIENCE,
    WESHER,
    AgentProcess,
    pings,
    wait_for_ping,
    wait_until,
    wireguard_go,
)
from wesher_testing.lab.namespaces import Host, Lab

Start = Callable[..., AgentProcess]

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]

OLD, NEW = (base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2))


def mount(host: Host, mesh: dict[str, Any] | str, *, key: str = OLD, **files: str) -> None:
    mounted_files.mount(host, mesh, key=key, **files)


@pytest.fixture
def start_inside(start: Start) -> Start:
    """Return what starts an agent as a DaemonSet's container would be, but for the API server."""

    def start_agent(host: Host) -> AgentProcess:
        return start(host, *mounted_flags(host), bare=True)

    return start_agent


def test_without_an_api_server_a_restarted_mesh_comes_back_from_its_files(
    lab: Lab, start_inside: Start
) -> None:
    hosts = [lab.host("a"), lab.host("b")]
    for number, host in enumerate(hosts):
        mount(host, document(hosts[0]))
        remember(host, ip_address(f"10.99.0.{number + 10}"))
    agents = [start_inside(host) for host in hosts]
    for agent in agents:
        agent.wait_for("a", "b")
    wait_for_ping(hosts[0], "b.m.wesher.internal")
    assert agents[0].members()["b"]["overlayIP"] == "10.99.0.11"
    assert agents[0].status()["keyIDs"] == [ClusterKey.from_base64(OLD).id]
    # Once for each reason: on a busy machine it may first have had no answer in time.
    said = re.findall("api server request failed: .*", agents[0].own_log)
    assert said
    assert len(said) == len(set(said))


def test_without_an_api_server_an_agent_announces_what_the_operator_had_said_of_its_node(
    lab: Lab, start_inside: Start
) -> None:
    hosts = [lab.host("a"), lab.host("b")]
    for host in hosts:
        mount(host, document(hosts[0]))
    remember(hosts[0], ip_address("10.99.0.10"))
    outside = ip_address("198.51.100.7")
    mesh = MeshDocument.from_json(json.dumps(document(hosts[0])))
    remember(hosts[1], ip_address("10.99.0.11"), advertise_address=outside, location="west", mesh=mesh)
    start_inside(hosts[0])
    second = start_inside(hosts[1])
    second.wait_for("a", "b")
    assert second.status()["gossip"]["address"] == f"{outside}:7946"
    assert second.end() == 0
    saved = json.loads((hosts[1].root / "var/lib/wesher/wgoverlay.json").read_text())
    assert (saved["AdvertiseAddress"], saved["Location"]) == (str(outside), "west")


def test_an_agent_that_is_nudged_asks_for_its_place_and_announces_what_is_new_there(
    lab: Lab, start_inside: Start
) -> None:
    """Its next report, in whose answer it would find that too, is minutes away."""
    host = lab.host("a")
    mount(host, document(host), nudge="abc.1")

    def place(generation: int, advertised: str) -> dict[str, Any]:
        return {
            "apiVersion": "wesher.dev/v1alpha1",
            "kind": "WesherNode",
            "metadata": {"name": "m.a", "uid": "n", "generation": generation},
            "spec": {"overlayIP": "10.99.0.10", "advertiseAddress": advertised},
        }

    with mounted_files.serve(host, place(1, "198.51.100.7")):
        agent = start_inside(host)
        agent.wait_for("a")
        wait_until(
            lambda: agent.status()["gossip"]["address"] == "198.51.100.7:7946",
            what="the address it has first",
        )
        wait_until(lambda: "PATCH" in mounted_files.asked(host), what="its first report")
        before = len(mounted_files.asked(host))
        mounted_files.say_again(host, place(2, "198.51.100.8"))
        mount(host, document(host), nudge="abc.2")
        wait_until(lambda: "GET" in mounted_files.asked(host)[before:], what="it asks")
        wait_until(
            lambda: agent.status()["gossip"]["address"] == "198.51.100.8:7946", what="the other address"
        )


def test_before_the_operator_gave_an_address_an_agent_gossips_and_says_what_it_waits_for(
    lab: Lab, start_inside: Start
) -> None:
    host = lab.host("a")
    mount(host, document(host))
    agent = start_inside(host)
    agent.wait_for("a")
    wait_until(
        lambda: agent.conditions()["WireGuardReady"] == "NoAddress", what="the device waits for an address"
    )
    assert agent.conditions()["GossipJoined"] == "OnlyMember"


def test_a_gossip_port_that_another_program_has_is_named_and_waited_for(
    lab: Lab, start_inside: Start
) -> None:
    """So the tunnels of an earlier run stand, and the node's status tells what is wrong."""
    host = lab.host("a")
    mount(host, document(host))
    remember(host, ip_address("10.99.0.10"))
    program = "import socket, sys; s = socket.create_server(('', 7946)); print(flush=True); sys.stdin.read()"
    with host.popen([sys.executable, "-I", "-c", program], stdin=PIPE, stdout=PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        agent = start_inside(host)
        wait_until(lambda: "gossip not listening: trying again" in agent.own_log, what="it is said")
        assert "TCP port 7946 is taken by python" in agent.own_log
        wait_until(lambda: "DeviceReady" in agent.conditions().values(), what="a device")
        assert agent.conditions()["GossipJoined"] == agent.conditions()["Ready"] == "PortTaken"
        holder.communicate()
    wait_until(lambda: agent.conditions()["GossipJoined"] == "OnlyMember", what="it listens")


def test_keys_are_exchanged_under_traffic_by_files_alone(lab: Lab, start_inside: Start) -> None:
    hosts = [lab.host("a"), lab.host("b")]
    for number, host in enumerate(hosts):
        mount(host, document(hosts[0]))
        remember(host, ip_address(f"10.99.0.{number + 10}"))
    agents = [start_inside(host) for host in hosts]
    for agent in agents:
        agent.wait_for("a", "b")
    old, new = ClusterKey.from_base64(OLD).id, ClusterKey.from_base64(NEW).id
    for key, accepted, ids in ((OLD, NEW, [old, new]), (NEW, OLD, [new, old]), (NEW, "", [new])):
        for host in hosts:
            mount(host, document(hosts[0]), key=key, accepted=accepted)
        for host, agent in zip(hosts, agents, strict=True):
            wait_until(
                lambda agent=agent, ids=ids: agent.status()["keyIDs"] == ids,  # type: ignore[misc]
                what=f"the ring of {host.name} is {ids}",
            )
    for agent in agents:
        agent.wait_for("a", "b")
        assert "member failed" not in agent.own_log
        assert not agent.status()["gossip"]["rejected"]


def test_broken_files_change_nothing_and_are_named_until_they_are_mended(
    lab: Lab, start_inside: Start
) -> None:
    host = lab.host("a")
    mount(host, document(host))
    agent = start_inside(host)
    agent.wait_for("a")
    mount(host, "{", key="junk")
    wait_until(lambda: agent.conditions()["KeyCurrent"] == "InvalidConfig", what="it is said")
    assert agent.status()["keyIDs"] == [ClusterKey.from_base64(OLD).id]
    assert agent.own_log.count("mounted files rejected") == 1
    mount(host, document(host))
    wait_until(lambda: agent.conditions()["KeyCurrent"] == "Current", what="it is well again")


def test_a_removed_member_loses_its_tunnel_at_once(lab: Lab, start_inside: Start) -> None:
    hosts = [lab.host("a"), lab.host("b")]
    for number, host in enumerate(hosts):
        mount(host, document(hosts[0]))
        remember(host, ip_address(f"10.99.0.{number + 10}"))
    first, second = start_inside(hosts[0]), start_inside(hosts[1])
    first.wait_for("a", "b")
    wait_for_ping(hosts[0], "10.99.0.11")
    second.end(signal.SIGKILL)
    mount(hosts[0], document(hosts[0], removed=["b"]))
    wait_until(lambda: first.members().keys() == {"a"}, what="b is gone")
    wait_until(lambda: not pings(hosts[0], "10.99.0.11"), what="b's tunnel is gone")
    names = hosts[0].root / "etc/hosts"
    wait_until(lambda: "b.m.wesher.internal" not in names.read_text(), what="b's name is gone")


def test_a_stopped_agent_stays_in_the_mesh_when_nobody_says_that_it_is_gone(
    lab: Lab, start_inside: Start
) -> None:
    host = lab.host("a")
    mount(host, document(host))
    remember(host, ip_address("10.99.0.10"))
    agent = start_inside(host)
    agent.wait_for("a")
    agent.wait_device()
    assert agent.end() == 0
    assert "wgoverlay" in host.run(["ip", "-o", "link"]).stdout
    assert "left=false" in agent.own_log


def test_an_agent_that_leaves_for_good_leaves_no_key_behind(lab: Lab, start_inside: Start) -> None:
    """The next agent of this node, of the same mesh or another, makes its own."""
    host = lab.host("a")
    mount(host, document(host))
    agent = start_inside(host)
    agent.wait_for("a")
    assert (host.root / "var/lib/wesher/wgoverlay.json").exists()
    host.run([WESHER, "leave"])
    assert agent.process.wait(PATIENCE) == 0
    assert list((host.root / "var/lib/wesher").iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"version": 2}, "wesher: error: mesh.json version '2': this agent supports version 1"),
        ({"overlayCIDR": "10.0.0.1/16"}, "wesher: error: mesh.json overlayCIDR '10.0.0.1/16': must be"),
    ],
)
def test_files_that_are_broken_at_the_start_are_one_line_and_exit_code_1(
    lab: Lab, changes: dict[str, Any], line: str
) -> None:
    host = lab.host("a")
    mount(host, document(host, **changes))
    done = host.run([WESHER, *mounted_flags(host), f"--userspace-binary={wireguard_go()}"], check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(line)
    assert done.stderr.count("\n") == 1


def test_a_missing_mount_is_one_line_and_exit_code_1(lab: Lab) -> None:
    host = lab.host("a")
    done = host.run([WESHER, *mounted_flags(host)], check=False)
    assert (done.returncode, done.stderr) == (1, f"wesher: error: mesh.json: is missing in {MOUNT}\n")


def test_a_state_file_is_not_where_secrets_lie_open(lab: Lab, start_inside: Start) -> None:
    host = lab.host("a")
    mount(host, document(host))
    start_inside(host).wait_for("a")
    state: Path = host.root / "var/lib/wesher/wgoverlay.json"
    assert state.stat().st_mode & 0o777 == 0o600
    assert state.parent.stat().st_mode & 0o777 == 0o700
