"""An IPv6 overlay on a host where IPv6 is off."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from wesher_testing.agents.process import KEY, AgentProcess, wait_until
from wesher_testing.lab.namespaces import Host, Lab

Start = Callable[..., AgentProcess]

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]

FLAGS = ("--cluster-key", KEY, "--overlay-net=fd00:db8::/32")


def test_the_switch_that_is_off_is_named_and_turning_it_on_is_enough(lab: Lab, start: Start) -> None:
    host = lab.host("a")
    for which in ("all", "default"):
        _set(host, which, "1")
    agent = start(host, *FLAGS)
    wait_until(lambda: _problem(agent), what="the device failed")
    assert _problem(agent).startswith(
        "IPv6 is switched off: set net.ipv6.conf.wgoverlay.disable_ipv6=0 and, "
    )
    assert "ermission" not in agent.own_log
    _set(host, "wgoverlay", "0")
    agent.wait_device()
    assert _problem(agent) == ""


def test_a_kernel_without_ipv6_is_named(lab: Lab, start: Start) -> None:
    """Its settings are then not there, as here."""
    host = lab.host("a")
    host.run(["mount", "-t", "tmpfs", "none", "/proc/sys/net"])
    agent = start(host, *FLAGS)
    wait_until(lambda: _problem(agent), what="the device failed")
    assert _problem(agent).startswith("this kernel has no IPv6: boot it without ipv6.disable=1, ")


def test_an_ipv4_overlay_does_not_need_ipv6(lab: Lab, start: Start) -> None:
    host = lab.host("a")
    host.run(["mount", "-t", "tmpfs", "none", "/proc/sys/net"])
    start(host, "--cluster-key", KEY).wait_device()


def _set(host: Host, which: str, value: str) -> None:
    host.run(["sh", "-ec", f"echo {value} > /proc/sys/net/ipv6/conf/{which}/disable_ipv6"])


def _problem(agent: AgentProcess) -> str:
    """Return what the agent says of its device; empty while nothing is wrong."""
    (condition,) = (entry for entry in agent.status()["conditions"] if entry["type"] == "WireGuardReady")
    return condition["message"] if condition["reason"] == "WireGuardUnavailable" else ""
