"""What the tunnel does on a machine where it cannot have a device."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from wesher_agent.cli.commands import agent_settings
from wesher_agent.files.hosts import HostsFile
from wesher_agent.mesh.desired import Desired, HostEntry
from wesher_agent.mesh.device import DeviceConfig
from wesher_agent.tunnel.tunnel import Tunnel
from wesher_common.keys import WireGuardPrivateKey

WANTED = Desired(
    device=DeviceConfig(
        interface="wgnone",
        private_key=WireGuardPrivateKey.from_random(bytes(32)),
        listen_port=51820,
        address=ip_address("10.9.0.1"),
        overlay=ip_network("10.9.0.0/16"),
        mtu=0,
        peers=(),
        unreachable_overlay=False,
    ),
    hosts=(HostEntry(ip_address("10.9.0.2"), "b"),),
    problems=(),
)
NO_WIREGUARD = agent_settings(["--userspace-binary=/nowhere/wireguard-go"], {})


class _Heard:
    """Counts the calls of a tunnel."""

    def __init__(self) -> None:
        self.changes = 0

    def change(self) -> None:
        self.changes += 1

    def tunnel(self, hosts: HostsFile | None = None) -> Tunnel:
        return Tunnel(
            "wgnone",
            NO_WIREGUARD,
            hosts,
            on_change=self.change,
            on_sessions_lost=pytest.fail,
            count=pytest.fail,
        )


@pytest.fixture
def hosts_path(tmp_path: Path) -> Path:
    """Return a hosts file with one foreign line."""
    path = tmp_path / "hosts"
    path.write_text("127.0.0.1 localhost\n")
    return path


async def test_without_wireguard_the_reason_is_told_once_and_hosts_are_written_all_the_same(
    hosts_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    heard = _Heard()
    tunnel = heard.tunnel(HostsFile(hosts_path, "wgnone"))
    for _ in range(3):
        await tunnel.apply(WANTED, "Userspace", "Names")
    assert (tunnel.ready, tunnel.reason, tunnel.mode) == (False, "InvalidSetting", "")
    assert "/nowhere/wireguard-go" in tunnel.problem
    assert heard.changes == 1
    assert caplog.text.count("device not ready") == 1
    assert "10.9.0.2\tb\t" in hosts_path.read_text()
    assert await tunnel.peers() == {}


async def test_hosts_entries_go_when_the_mesh_no_longer_wants_them(hosts_path: Path) -> None:
    tunnel = _Heard().tunnel(HostsFile(hosts_path, "wgnone"))
    await tunnel.apply(WANTED, "Userspace", "Names")
    assert tunnel.hosts_state == "written"
    await tunnel.apply(Desired(WANTED.device, (), ()), "Userspace", "Off")
    assert hosts_path.read_text() == "127.0.0.1 localhost\n"
    assert tunnel.hosts_state == "off"


async def test_a_name_that_the_hosts_file_has_already_is_one_warning(
    hosts_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hosts_path.write_text("127.0.0.1 localhost\n192.0.2.9 B\n")
    tunnel = _Heard().tunnel(HostsFile(hosts_path, "wgnone"))
    for _ in range(3):
        await tunnel.apply(WANTED, "Userspace", "Names")
    assert caplog.text.count("hosts entry not written: another line has the name node=b") == 1
    assert hosts_path.read_text() == "127.0.0.1 localhost\n192.0.2.9 B\n"


async def test_a_hosts_file_that_is_not_there_is_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tunnel = _Heard().tunnel(HostsFile(tmp_path / "none", "wgnone"))
    for _ in range(3):
        await tunnel.apply(WANTED, "Userspace", "Names")
    assert caplog.text.count("hosts file skipped") == 1
    assert tunnel.hosts_state.startswith("skipped: ")


async def test_an_mtu_that_is_set_is_taken_as_it_is_and_otherwise_the_underlay_decides() -> None:
    tunnel = _Heard().tunnel()
    await tunnel.apply(replace(WANTED, device=replace(WANTED.device, mtu=1300)), "Userspace", "Off")
    assert tunnel.mtu == 1300
    automatic = replace(WANTED, endpoints=frozenset({ip_address("127.0.0.1")}))
    await tunnel.apply(automatic, "Userspace", "Off")
    assert 1280 <= tunnel.mtu <= 65535
    assert tunnel.mtu != 1300
