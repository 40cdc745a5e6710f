"""What the tunnel does without a real device: hosts entries, problems, and what it logs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

import pytest

from wesher_agent.cli.commands import agent_settings
from wesher_agent.files.hosts import HostsFile
from wesher_agent.mesh.desired import Desired, HostEntry
from wesher_agent.mesh.device import DeviceConfig, Endpoint, Peer
from wesher_agent.tunnel.tunnel import MAX_NAMED, REPAIR_SECONDS, Tunnel, _log_change
from wesher_agent.wireguard.device import Device, Outcome
from wesher_agent.wireguard.kernel import KernelBackend
from wesher_agent.wireguard.ownership import Owner
from wesher_agent.wireguard.plan import Change, DeviceChange, LinkChange, PeerChange, PeerSession
from wesher_agent.wireguard.userspace import UserspaceBackend
from wesher_common.keys import WireGuardPrivateKey, WireGuardPublicKey
from wesher_testing.device.links import NO_LINKS
from wesher_testing.virtual.loop_clock import LoopClock

WANTED = Desired(
    device=DeviceConfig(
        interface="wgnone",
        private_key=WireGuardPrivateKey.from_random(bytes(32)),
        listen_port=51820,
        address=ip_address("10.9.0.1"),
        overlay=ip_network("10.9.0.0/16"),
        mtu=0,
        peers=(),
        unreachable=(),
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
            Owner(WANTED.device.private_key.public, WANTED.device.overlay),
            NO_WIREGUARD,
            hosts,
            on_change=self.change,
            on_sessions_lost=pytest.fail,
            on_port_moved=pytest.fail,
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


async def test_a_wireguard_that_was_chosen_is_not_yet_a_device() -> None:
    tunnel = _Heard().tunnel()
    assert not tunnel.has_device
    tunnel._device = Device(KernelBackend("wgnone"), NO_LINKS)
    assert (tunnel.mode, tunnel.has_device) == ("Kernel", False)


async def test_a_device_on_another_port_and_one_without_sessions_have_peers_sent_something() -> None:
    called = []
    tunnel = Tunnel(
        "wgnone",
        Owner(WANTED.device.private_key.public, WANTED.device.overlay),
        NO_WIREGUARD,
        None,
        on_change=lambda: None,
        on_sessions_lost=lambda: called.append("sessions lost"),
        on_port_moved=lambda: called.append("port moved"),
        count=pytest.fail,
    )
    for sessions_lost, port_moved in ((False, False), (False, True), (True, True)):
        tunnel._done(Outcome(changed=True, sessions_lost=sessions_lost, port_moved=port_moved), {})
    assert called == ["port moved", "sessions lost"]


async def test_what_changes_in_the_hosts_file_is_logged_once(
    hosts_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    tunnel = _Heard().tunnel(HostsFile(hosts_path, "wgnone"))
    other = replace(WANTED, hosts=(HostEntry(ip_address("10.9.0.3"), "c"),))
    for wanted in (WANTED, WANTED, other, other):
        await tunnel.apply(wanted, "Userspace", "Names")
    assert [message for message in caplog.messages if message.startswith("hosts entries")] == [
        "hosts entries changed count=1 added=b removed=-",
        "hosts entries changed count=1 added=c removed=b",
    ]


class _Takes(UserspaceBackend):
    """A device that takes every change and knows no session."""

    async def sessions(self) -> Mapping[WireGuardPublicKey, PeerSession]:
        return {}

    async def apply(self, change: DeviceChange) -> None:
        """Take it."""


def wanted_for(**ports: int) -> Desired:
    """Return the desired state with a peer for each member; without routes, which need an interface."""
    keys = {name: WireGuardPublicKey(name.encode() * 32) for name in ports}
    peers = [Peer(keys[name], Endpoint(ip_address("192.0.2.1"), port), ()) for name, port in ports.items()]
    return replace(
        WANTED,
        device=replace(WANTED.device, mtu=1420, peers=tuple(peers)),
        tunnels={name: (key, ip_address("10.9.0.2")) for name, key in keys.items()},
    )


async def test_what_changes_on_the_device_is_logged_with_the_members_names(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    tunnel = _Heard().tunnel()
    before, after = wanted_for(b=1, c=2, d=3), wanted_for(c=2, d=4, e=5)
    tunnel._device = device = Device(_Takes("wgnone", None), NO_LINKS)
    device._left = wanted_for().device
    for wanted in (before, after, after):
        await tunnel.apply(wanted, "Userspace", "Off")
    rest = "routes_added=- routes_removed=- addresses_added=- addresses_removed=-"
    rest += " carried_added=- carried_removed=-"
    assert [message for message in caplog.messages if message.startswith("device changed")] == [
        f"device changed peers=3 peers_added=b,c,d peers_removed=- peers_changed=- {rest}",
        f"device changed peers=3 peers_added=e peers_removed=b peers_changed=d {rest}",
    ]


def test_of_many_changes_the_log_has_the_number_and_the_first(caplog: pytest.LogCaptureFixture) -> None:
    """A peer that another program added has no name."""
    caplog.set_level(logging.DEBUG)
    stranger, *keys = (WireGuardPublicKey(bytes([number]) * 32) for number in range(1, MAX_NAMED + 3))
    change = Change(
        DeviceChange(
            peers=(PeerChange(stranger, remove=True), *(PeerChange(key, create=True) for key in keys))
        ),
        LinkChange(
            add_routes=(ip_network("10.9.0.2/32"),) * (MAX_NAMED + 1),
            remove_addresses=(ip_interface("10.9.0.9/32"),),
        ),
    )
    _log_change(change, {key: f"n{number:02}" for number, key in enumerate(keys)})
    [message] = caplog.messages
    assert message == (
        f"device changed peers={MAX_NAMED + 2} "
        f"peers_added={','.join(f'n{number:02}' for number in range(MAX_NAMED))} "
        f'peers_removed="{stranger}" peers_changed=- '
        f"routes_added={','.join(['10.9.0.2/32'] * MAX_NAMED)} routes_removed=- "
        "addresses_added=- addresses_removed=10.9.0.9/32 carried_added=- carried_removed=-"
    )


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
    assert caplog.text.count("hosts file not written") == 1
    assert tunnel.hosts_state.startswith("skipped: ")


async def test_an_mtu_that_is_set_is_taken_as_it_is_and_otherwise_the_underlay_decides() -> None:
    tunnel = _Heard().tunnel()
    await tunnel.apply(replace(WANTED, device=replace(WANTED.device, mtu=1300)), "Userspace", "Off")
    assert tunnel.mtu == 1300
    automatic = replace(WANTED, endpoints=frozenset({ip_address("127.0.0.1")}))
    await tunnel.apply(automatic, "Userspace", "Off")
    assert 1280 <= tunnel.mtu <= 65535
    assert tunnel.mtu != 1300


async def test_a_tunnel_that_is_kept_no_longer_leaves_no_task_behind() -> None:
    """The event loop logs an error for each task that was left pending."""
    tunnel = _Heard().tunnel()
    tunnel._opened.set_result(Device(KernelBackend("wgnone"), NO_LINKS))
    before = asyncio.all_tasks()
    keeping = asyncio.create_task(tunnel.keep())
    for _ in range(3):
        await asyncio.sleep(0)
    assert len(asyncio.all_tasks() - before) == 2, "it waits for the loss of the device"
    keeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await keeping
    assert asyncio.all_tasks() == before


@asynccontextmanager
async def kept(tunnel: Tunnel) -> AsyncIterator[LoopClock]:
    """Keep a tunnel whose device needs no repair; its clock is the test's."""
    clock = LoopClock()
    tunnel._opened.set_result(Device(KernelBackend("wgnone"), NO_LINKS))
    keeping = asyncio.create_task(tunnel.keep())
    try:
        yield clock
    finally:
        keeping.cancel()
        with suppress(asyncio.CancelledError):
            await keeping


async def after_a_repair(clock: LoopClock, reached: Callable[[], object]) -> None:
    """Let repair rounds pass until something is reached; each does its work in a thread."""
    for _ in range(200):
        clock.advance(REPAIR_SECONDS)
        for _ in range(10):
            if reached():
                return
            await asyncio.sleep(0.01)
    raise AssertionError("not in 200 repair rounds")


async def test_hosts_entries_that_another_program_erased_come_back_with_the_next_repair(
    hosts_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    tunnel = _Heard().tunnel(HostsFile(hosts_path, "wgnone"))
    await tunnel.apply(WANTED, "Userspace", "Names")
    whole = hosts_path.read_text()
    async with kept(tunnel) as clock:
        for text in ("127.0.0.1 localhost\n", "", whole.replace("10.9.0.2", "10.9.0.7")):
            hosts_path.write_text(text)
            await after_a_repair(clock, lambda: "10.9.0.2\tb\t" in hosts_path.read_text())
            assert "10.9.0.7" not in hosts_path.read_text()
        assert tunnel.hosts_state == "written"
    assert caplog.text.count("hosts entries restored interface=wgnone") == 3


async def test_a_hosts_file_that_is_as_desired_is_not_written_again(hosts_path: Path) -> None:
    tunnel = _Heard().tunnel(HostsFile(hosts_path, "wgnone"))
    await tunnel.apply(WANTED, "Userspace", "Names")
    before = hosts_path.stat()
    async with kept(tunnel):
        for _ in range(3):
            await tunnel._repair_hosts()
    after = hosts_path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


async def test_a_hosts_file_that_went_away_is_reported_once_and_written_when_it_is_back(
    hosts_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    heard = _Heard()
    tunnel = heard.tunnel(HostsFile(hosts_path, "wgnone"))
    await tunnel.apply(WANTED, "Userspace", "Names")
    hosts_path.unlink()
    async with kept(tunnel) as clock:
        await after_a_repair(clock, lambda: tunnel.hosts_state.startswith("skipped: "))
        changes = heard.changes
        for _ in range(3):
            await tunnel._repair_hosts()
        assert caplog.text.count("hosts file not written") == 1
        assert heard.changes == changes, "nothing new to report"
        hosts_path.write_text("127.0.0.1 localhost\n")
        await after_a_repair(clock, lambda: tunnel.hosts_state == "written")
        assert heard.changes > changes
    assert "10.9.0.2\tb\t" in hosts_path.read_text()


async def test_a_mesh_without_hosts_entries_repairs_none(hosts_path: Path) -> None:
    tunnel = _Heard().tunnel(HostsFile(hosts_path, "wgnone"))
    await tunnel.apply(WANTED, "Userspace", "Off")
    hosts_path.write_text("127.0.0.1 localhost\n")
    await tunnel._repair_hosts()
    assert hosts_path.read_text() == "127.0.0.1 localhost\n"
