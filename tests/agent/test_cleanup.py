"""What is left on a host whose agent is gone, as after its namespace was deleted, goes with one command."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from wesher_testing.agents.process import KEY, PATIENCE, WESHER, AgentProcess, wait_for_ping
from wesher_testing.lab.namespaces import Host, Lab

Start = Callable[..., AgentProcess]
OVERLAY = "10.189.0.0/16"

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]


def left_of_wesher(host: Host) -> dict[str, str]:
    """Return what shows that an agent was there; each empty where nothing does."""
    routes = host.run(["ip", "route", "show", "table", "all", "proto", "87"]).stdout
    state = host.root / "var/lib/wesher"
    return {
        "device": "wgoverlay" if "wgoverlay" in host.run(["ip", "-o", "link"]).stdout else "",
        "routes": routes + host.run(["ip", "-6", "route", "show", "table", "all", "proto", "87"]).stdout,
        "hosts": "".join(line for line in (host.root / "etc/hosts").read_text().splitlines() if "!" in line),
        "files": " ".join(sorted(path.name for path in state.iterdir())),
        "socket": " ".join(path.name for path in (host.root / "run/wesher").iterdir()),
    }


@pytest.fixture
def pair(lab: Lab, start: Start) -> tuple[AgentProcess, AgentProcess]:
    """Start two agents that reach each other."""
    flags = ("--cluster-key", KEY, f"--overlay-net={OVERLAY}")
    first = start(lab.host("a"), *flags)
    first.wait_device()
    second = start(lab.host("b"), *flags, "--join", str(first.host.ipv4))
    second.wait_for("a", "b")
    wait_for_ping(second.host, "a")
    return first, second


def test_the_leftovers_of_an_agent_that_was_killed_are_removed_and_a_second_time_there_is_nothing(
    pair: tuple[AgentProcess, AgentProcess],
) -> None:
    second = pair[1]
    second.end(signal.SIGKILL)
    assert all(left_of_wesher(second.host).values()), left_of_wesher(second.host)
    command: list[str | Path] = [WESHER, "cleanup", f"--overlay-net={OVERLAY}"]
    assert second.host.run(command).stdout.splitlines() == [
        "device wgoverlay removed, with its routes",
        "hosts entries removed from /etc/hosts",
        "state file /var/lib/wesher/wgoverlay.json removed, with the keys",
    ]
    assert not any(left_of_wesher(second.host).values()), left_of_wesher(second.host)
    assert second.host.run(command).stdout == "nothing to remove\n"


def test_a_device_whose_wireguard_go_ended_with_its_container_is_removed(
    pair: tuple[AgentProcess, AgentProcess],
) -> None:
    second = pair[1]
    second.end(signal.SIGKILL)
    (program,) = re.findall(r"wireguard-go started interface=wgoverlay pid=(\d+)", second.own_log)
    os.kill(int(program), signal.SIGKILL)
    second.host.run([str(WESHER), "cleanup", f"--overlay-net={OVERLAY}"])
    assert not any(left_of_wesher(second.host).values()), left_of_wesher(second.host)


def test_unreachable_routes_that_outlived_their_device_are_removed(
    pair: tuple[AgentProcess, AgentProcess],
) -> None:
    second = pair[1]
    second.end(signal.SIGKILL)
    second.host.run(["ip", "link", "del", "wgoverlay"])
    assert "unreachable" in left_of_wesher(second.host)["routes"]
    said = second.host.run([str(WESHER), "cleanup", f"--overlay-net={OVERLAY}"]).stdout
    assert "unreachable routes removed" in said
    assert not any(left_of_wesher(second.host).values()), left_of_wesher(second.host)


def test_a_running_agent_is_left_alone(pair: tuple[AgentProcess, AgentProcess]) -> None:
    first, second = pair
    before = left_of_wesher(second.host) | {"files": ""}  # it saves at any moment
    refused = second.host.run([WESHER, "cleanup"], check=False)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == (
        "wesher: error: interface 'wgoverlay': an agent runs on it: "
        "stop it first, or run `wesher leave --forget`\n"
    )
    assert left_of_wesher(second.host) | {"files": ""} == before
    assert "wgoverlay.json" in left_of_wesher(second.host)["files"]
    wait_for_ping(first.host, "b")


def test_a_device_of_another_program_stays(lab: Lab) -> None:
    host = lab.host("a")
    host.run(["ip", "tuntap", "add", "dev", "wgoverlay", "mode", "tun"])
    host.run(["ip", "address", "add", "192.0.2.1/24", "dev", "wgoverlay"])
    said = host.run([WESHER, "cleanup"], timeout=PATIENCE).stdout
    assert said == "device wgoverlay kept: it belongs to another program\n"
    assert "wgoverlay" in host.run(["ip", "-o", "link"]).stdout


def test_of_several_interfaces_with_a_state_file_one_must_be_named(lab: Lab) -> None:
    host = lab.host("a")
    state = host.root / "var/lib/wesher"
    state.mkdir(parents=True, exist_ok=True)
    for interface in ("wgone", "wgtwo"):
        (state / f"{interface}.json").write_text("{}")
    refused = host.run([WESHER, "cleanup"], check=False)
    assert refused.returncode == 1
    assert "there are state files for wgone, wgtwo" in refused.stderr
    host.run([WESHER, "cleanup", "--interface=wgone"])
    assert [path.name for path in state.glob("wg*")] == ["wgtwo.json"]
