"""What is meant for a member never leaves in clear, and what is meant for others is not cut off."""

from __future__ import annotations

import signal
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path

import pytest

from wesher_agent.files.state_format import parse_state
from wesher_agent.netlink.route_messages import PROTOCOL
from wesher_testing.agents.process import KEY, AgentProcess, pings, wait_for_ping, wait_until
from wesher_testing.lab.capture import Capture, addressed_in
from wesher_testing.lab.namespaces import Host, Lab
from wesher_testing.peers.gossip_mesh import GOSSIP_PORT

Start = Callable[..., AgentProcess]

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]

SAID = "overlay not fully covered: packets to unused addresses may leave unencrypted"


def our_unreachable_routes(host: Host) -> list[str]:
    shown = host.run(["ip", "route", "show", "type", "unreachable", "proto", str(PROTOCOL)]).stdout
    return [line.split()[1] for line in shown.splitlines()]


def is_refused(host: Host, address: str) -> bool:
    return "No route to host" in host.run(["ip", "route", "get", address], check=False).stderr


def former_addresses(host: Host) -> set[str]:
    """Return those that the state file of a host's agent keeps."""
    state = parse_state((host.root / "var/lib/wesher/wgoverlay.json").read_bytes(), gossip_port=GOSSIP_PORT)
    return {str(former.address) for former in state[0].former_addresses}


def test_a_site_behind_the_router_stays_reachable_under_the_default_overlay(lab: Lab, start: Start) -> None:
    site = lab.network("site", "10.20.0.0/16")
    a, router, server = lab.host("a"), lab.host("r", lab.lan, site), lab.host("s", site)
    a.run(["ip", "route", "add", "default", "via", str(router.ipv4)])
    server.run(["ip", "route", "add", "default", "via", str(router.address_on(site))])
    router.run(["sysctl", "-qw", "net.ipv4.ip_forward=1"])
    wait_for_ping(a, str(server.ipv4))

    agent = start(a, "--cluster-key", KEY, "--init")
    agent.wait_device()

    wait_until(lambda: SAID in agent.own_log, what="what is not covered is said")
    assert pings(a, str(server.ipv4))
    assert agent.own_log.count(f"WARNING wesher.gossip: {SAID} overlay=10.0.0.0/8 covered=Members") == 1
    assert agent.status()["unreachableRoute"]["covers"] == "Members"

    assert agent.end() == 0
    told = start(a, "--cluster-key", KEY, "--init", "--unreachable-route=on")
    told.wait_device()
    assert our_unreachable_routes(a) == ["10.0.0.0/8"]
    assert is_refused(a, str(server.ipv4))


@pytest.mark.parametrize(
    ("second_network", "flags"),
    [
        ("198.51.100.0/24", ()),
        ("10.20.0.0/24", ()),
        ("10.20.0.0/24", ("--overlay-net=10.20.0.0/16",)),
        ("198.51.100.0/24", ("--overlay-net=10.20.0.0/16",)),
    ],
    ids=["default overlay", "default, used by this host", "smaller, used by this host", "smaller"],
)
def test_a_packet_to_a_member_that_left_never_leaves_in_clear_not_even_after_a_reboot(
    lab: Lab, start: Start, tmp_path: Path, second_network: str, flags: tuple[str, ...]
) -> None:
    beside = lab.network("beside", second_network)
    a, b = lab.host("a", lab.lan, beside), lab.host("b")
    a.run(["ip", "route", "add", "default", "via", str(b.ipv4)])
    first = start(a, "--cluster-key", KEY, *flags)
    first.wait_for("a")
    second = start(b, "--cluster-key", KEY, "--join", str(a.ipv4), *flags)
    first.wait_for("a", "b")
    address = second.status()["overlayIP"]
    wait_for_ping(a, address)

    with (
        Capture(a, "eth0", tmp_path / "eth0.pcap") as lan,
        Capture(a, "eth1", tmp_path / "eth1.pcap") as other,
    ):
        assert second.end() == 0
        wait_until(lambda: is_refused(a, address), what="packets to b are refused")
        assert not pings(a, address)
        wait_until(
            lambda: first.members().get("b", {}).get("state", "left") == "left", what="a knows that b left"
        )
        assert not pings(a, address)

        wait_until(lambda: address in former_addresses(a), what="a's state file has b's address")
        # A reboot takes device and routes, and leaves the state file.
        first.end(signal.SIGKILL)
        a.run(["ip", "link", "delete", first.interface])
        a.run(["ip", "route", "flush", "type", "unreachable"])
        again = start(a, "--cluster-key", KEY, *flags)
        again.wait_device()
        assert is_refused(a, address)
        assert not pings(a, address)
    for capture in (lan, other):
        assert addressed_in(capture.packets(), ip_network(address)) == []

    assert again.end() == 0
    assert our_unreachable_routes(a) == []


def test_turned_off_nothing_is_covered_and_the_status_says_so(lab: Lab, start: Start) -> None:
    agent = start(lab.host("a"), "--cluster-key", KEY, "--unreachable-route=off")
    agent.wait_device()
    assert our_unreachable_routes(agent.host) == []
    reason = "--unreachable-route=off"
    assert agent.status()["unreachableRoute"] == {"covers": "Nothing", "reason": reason}
    wait_until(lambda: SAID in agent.own_log, what="what is not covered is said")
    assert f"INFO wesher.gossip: {SAID} overlay=10.0.0.0/8 covered=Nothing" in agent.own_log
