"""The shell round a member, on the loopback and on real files; without WireGuard, which needs root."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from wesher_agent.cli.commands import agent_settings
from wesher_agent.files.state import StateFile
from wesher_agent.kube.mounted import Mounted
from wesher_agent.mesh.host import HostNetwork, Listening
from wesher_agent.mesh.saved_state import SavedState
from wesher_agent.mesh.view import Ending
from wesher_agent.netlink.host import look_at_host
from wesher_agent.runtime import agent as runtime_agent
from wesher_agent.runtime.agent import Agent
from wesher_agent.runtime.claim import claim_interface
from wesher_agent.runtime.startup import start_up
from wesher_agent.settings import Settings
from wesher_agent.tunnel.tunnel import REPAIR_SECONDS
from wesher_common.errors import InvalidSpec
from wesher_common.keys import ClusterKey, KeyRing
from wesher_common.mesh_document import MeshDocument
from wesher_common.overlay import IPAddress
from wesher_testing.agents.mounted_files import KUBECONFIG
from wesher_testing.lab.loopback import free_port
from wesher_testing.virtual.loop_clock import LoopClock

SECONDS = 60.0
"""For what takes a moment, on a machine that has other work."""
OTHER_RING = KeyRing(ClusterKey(b"n" * 32))
KEY = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="


class Running:
    """An agent that runs, and its files."""

    def __init__(self, agent: Agent, state_file: Path) -> None:
        self.agent = agent
        self.state_file = state_file

    @property
    def state(self) -> dict[str, Any]:
        """What its state file holds."""
        content: dict[str, Any] = json.loads(self.state_file.read_text())
        return content

    async def members(self) -> dict[str, str]:
        """Return the state of every member it knows."""
        return {entry["name"]: entry["state"] for entry in await self.agent._answer_members()}


@asynccontextmanager
async def running(directory: Path, name: str, ip: str, port: int, *flags: str) -> AsyncIterator[Running]:
    """Run an agent; at the end it is told to terminate, unless it has ended before."""
    settings = settings_of(directory, name, ip, port, *flags)
    async with AsyncExitStack() as held:
        agent = Agent(await start_up(settings, held))
        await agent.start()
        task = asyncio.create_task(agent.run())
        try:
            yield Running(agent, directory / name / f"{settings.interface}.json")
        finally:
            agent.stop()
            await task
            await agent.decide_ending()
            await agent.end()


def settings_of(directory: Path, name: str, ip: str, port: int, *flags: str) -> Settings:
    """Return what an agent is told that must not touch this machine."""
    return agent_settings(
        [
            f"--node-name={name}",
            f"--interface=wg{os.getpid()}{name}",
            f"--bind-addr={ip}",
            f"--cluster-port={port}",
            f"--cluster-key={KEY}",
            f"--state-dir={directory / name}",
            f"--run-dir={directory}",
            "--overlay-net=10.189.0.0/24",
            "--wireguard-mode=Userspace",
            "--userspace-binary=/nowhere/wireguard-go",
            "--no-etc-hosts",
            "--gossip-profile=LAN",
            *flags,
        ],
        {},
    )


async def until(reached: Callable[[], Any]) -> None:
    """Wait for something that another task brings about."""
    async with asyncio.timeout(SECONDS):
        while not await reached():
            await asyncio.sleep(0.02)


async def test_two_agents_meet_keep_each_other_and_one_that_leaves_is_known_to_have_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.3", 0))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [answer])
    # Addresses that the host does not list, which it would take for its own.
    port = free_port("127.0.0.3")

    async def both_alive() -> bool:
        return await a.members() == await b.members() == {"a": "alive", "b": "alive"}

    async def b_left() -> bool:
        return (await a.members()).get("b") == "left"

    async def both_saved() -> bool:
        return [entry["Name"] for entry in a.state["Nodes"] + b.state["Nodes"]] == ["b", "a"]

    async with running(tmp_path, "a", "127.0.0.3", port) as a:
        async with running(tmp_path, "b", "127.0.0.2", port, "--join=seed.test") as b:
            await until(both_alive)
            await until(both_saved)
            status = await b.agent._answer_status()
            assert status["gossip"]["joined"]
            assert status["state"] == "saved"
            assert status["conditions"][0]["reason"] == "InvalidSetting", "there is no such wireguard-go"
            left = asyncio.create_task(b.agent._answer_leave())
            await until(b_left)
        assert (await left)["node"] == "b"
        assert b.state["ClusterKey"] == KEY, "the next start finds the mesh"


async def test_the_time_of_a_transition_does_not_depend_on_when_it_is_asked_for(tmp_path: Path) -> None:
    async with running(tmp_path, "a", "127.0.0.1", free_port("127.0.0.1"), "--init") as a:

        async def was_judged() -> bool:
            return bool(a.agent._transitions._last)

        # No client asks.
        await until(was_judged)
        status = await a.agent._answer_status()
        assert all(entry["lastTransitionTime"].endswith("Z") for entry in status["conditions"])
        assert status["wireguard"]["mode"] == "none"


async def test_the_routes_to_the_members_are_looked_at_while_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gateways on the way to them must not be reached through the overlay."""
    asked: list[frozenset[IPAddress]] = []

    def look(*arguments: Any, endpoints: frozenset[IPAddress], **options: Any) -> HostNetwork:
        asked.append(endpoints)
        return look_at_host(*arguments, endpoints=endpoints, **options)

    async def is_asked_for() -> bool:
        return frozenset({ip_address("127.0.0.3")}) in asked

    monkeypatch.setattr(runtime_agent, "REPAIR_SECONDS", 0.01)
    monkeypatch.setattr(runtime_agent, "look_at_host", look)
    port = free_port("127.0.0.3")
    async with (
        running(tmp_path, "a", "127.0.0.3", port),
        running(tmp_path, "b", "127.0.0.5", port, "--join=127.0.0.3"),
    ):
        await until(is_asked_for)


async def test_a_state_directory_that_another_program_removed_is_back_with_the_same_keys(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path, "a", "127.0.0.1", free_port("127.0.0.1"), "--init") as a:
        clock, before = LoopClock(), a.state
        shutil.rmtree(a.state_file.parent)
        for _ in range(200):
            clock.advance(REPAIR_SECONDS)
            # The look and the save are in threads.
            await asyncio.to_thread(a.state_file.exists)
            if a.state_file.exists():
                break
        assert a.state["PrivateKey"] == before["PrivateKey"]
        assert a.state["ClusterKey"] == KEY
    assert caplog.text.count("state file removed by another program: saving it again") == 1


async def test_a_state_that_cannot_be_written_is_shown_and_nothing_else_stops(tmp_path: Path) -> None:
    # The directory is neither there nor can it be made.
    (tmp_path / "a").symlink_to(tmp_path / "missing")
    async with running(tmp_path, "a", "127.0.0.1", free_port("127.0.0.1"), "--init") as a:
        status = await a.agent._answer_status()
        assert status["state"].startswith("not saved: ")
        assert status["counts"]["stateNotSaved"] == 1
        (saved,) = (entry for entry in status["conditions"] if entry["type"] == "StateSaved")
        assert (saved["status"], saved["reason"]) == ("False", "NotSaved")
        assert saved["message"] in status["state"]
        assert status["gossip"]["address"].startswith("127.0.0.1:")


async def test_a_fault_in_a_save_ends_the_agent_and_does_not_leave_it_half_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An agent that gossips on with nobody at its device would look well from outside."""

    def faulty(self: StateFile, state: SavedState) -> None:
        raise RuntimeError("can't start new thread")

    async with AsyncExitStack() as held:
        agent = Agent(await start_up(settings_of(tmp_path, "a", "127.0.0.1", free_port("127.0.0.1")), held))
        await agent.start()
        monkeypatch.setattr(StateFile, "save", faulty)
        agent._driver.tell(partial(agent._member.mesh_changed, agent._view().local.document, OTHER_RING))
        async with asyncio.timeout(SECONDS):
            with pytest.raises(ExceptionGroup):
                await agent.run()
            await agent.end()
    assert agent._member.ending is Ending.RESTART, "a fault is no reason to leave"


async def test_an_address_that_no_flag_named_is_waited_for(tmp_path: Path) -> None:
    """Between the look at the host and the bind it may go, or IPv6 may find a duplicate."""
    held = AsyncExitStack()
    settings = agent_settings(
        [
            "--node-name=a",
            f"--interface=wg{os.getpid()}a",
            f"--cluster-port={free_port('127.0.0.1')}",
            f"--cluster-key={KEY}",
            f"--state-dir={tmp_path}",
            f"--run-dir={tmp_path}",
            "--wireguard-mode=Userspace",
            "--userspace-binary=/nowhere/wireguard-go",
            "--advertise-addr=127.0.0.1",
            "--no-etc-hosts",
        ],
        {},
    )
    async with held:
        startup = await start_up(settings, held)
        gone = Listening((ip_address("192.0.2.77"),), ip_address("192.0.2.77"), None)
        agent = Agent(replace(startup, local=replace(startup.local, listening=gone)))
        await agent.start()
        status = await agent._answer_status()
        assert "192.0.2.77 not assigned to this host" in [c["message"] for c in status["conditions"]]
        await agent.end()


async def test_probes_are_answered_from_the_agents_own_state(tmp_path: Path) -> None:
    gossip, health = free_port("127.0.0.1"), free_port("127.0.0.1")

    async def get(path: str) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", health)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        return answer.split(b" ")[1] + b" " + answer.rpartition(b"\r\n\r\n")[2].strip()

    async def no_wireguard() -> bool:
        with suppress(ConnectionRefusedError):
            return await get("/readyz") == b"503 WireGuardReady False InvalidSetting"
        return False

    async with running(tmp_path, "a", "127.0.0.1", gossip, "--init", f"--health-port={health}"):
        await until(no_wireguard)
        assert await get("/healthz") == b"200 the agent is running"


async def test_a_device_that_cannot_be_had_holds_up_neither_the_keys_nor_a_removal(tmp_path: Path) -> None:
    """A refused edit may stand for days, and a key is rotated because someone else has it."""
    mesh = {"version": 1, "name": "m", "uid": "u", "overlayCIDR": "10.99.0.0/16"}
    interface, taken = f"wg{os.getpid()}k", f"wg{os.getpid()}t"
    (tmp_path / "mesh.json").write_text(json.dumps(mesh | {"wireguard": {"interface": interface}}))
    (tmp_path / "cluster-key").write_text(KEY)
    (tmp_path / "kubeconfig").write_text(json.dumps(KUBECONFIG))
    settings = agent_settings(
        [
            f"--kubernetes={tmp_path}",
            f"--kubeconfig={tmp_path / 'kubeconfig'}",
            f"--state-dir={tmp_path}",
            f"--run-dir={tmp_path}",
            f"--hosts-file={tmp_path / 'hosts'}",
            "--node-name=a",
        ],
        {},
    )
    edited = mesh | {"wireguard": {"interface": taken, "mtu": 1300}, "removed": ["b"]}
    async with AsyncExitStack() as held:
        agent = Agent(await start_up(settings, held))
        content = Mounted(MeshDocument.from_json(json.dumps(edited)), OTHER_RING)
        with claim_interface(taken), pytest.raises(InvalidSpec, match="used by another agent"):
            await agent._take_mounted(content)
        local = agent._view().local
        assert local.ring == OTHER_RING
        assert local.document.removed == ("b",)
        assert (local.document.wireguard.interface, local.document.wireguard.mtu) == (interface, 0)
        assert agent._member.ending is None


async def test_a_start_that_fails_in_whatever_way_holds_no_port(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next try of a restart is in the same process, and in Kubernetes waits for a port that is taken."""
    port = free_port("127.0.0.1")

    def fail(*_: Any) -> None:
        raise OSError("no such luck")

    monkeypatch.setattr(StateFile, "save", fail)
    async with AsyncExitStack() as held:
        agent = Agent(await start_up(settings_of(tmp_path, "a", "127.0.0.1", port, "--init"), held))
        with pytest.raises(OSError, match="no such luck"):
            await agent.start()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
            again.bind(("127.0.0.1", port))
