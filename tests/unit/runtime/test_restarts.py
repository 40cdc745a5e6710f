"""Restarts inside the process: what may fail there without an end of the process."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest

from wesher_agent import app
from wesher_agent.cli.commands import agent_settings
from wesher_agent.kube import mounted, reporter
from wesher_agent.netlink.errors import MalformedReply
from wesher_agent.runtime.startup import Startup, start_up
from wesher_agent.settings import Settings
from wesher_common.errors import InvalidSpec
from wesher_testing.agents.mounted_files import KUBECONFIG
from wesher_testing.lab.loopback import free_port

SECONDS = 60.0
"""For what takes a moment, on a machine that has other work."""
KEY = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="


class World:
    """A directory with what Kubernetes shows an agent, and the process round that agent."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(mounted, "POLL_SECONDS", 0.01)
        monkeypatch.setattr(reporter, "GONE_SECONDS", 0.0)
        monkeypatch.setattr(app, "check_rights", lambda: None)
        self.signalled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        monkeypatch.setattr(app, "_catch_signals", lambda: self.signalled)
        monkeypatch.setattr(app, "start_up", self._start)
        self.failures: Iterator[Exception] = iter(())
        """What the tries of a restart end with, before one succeeds."""
        self.started: list[Startup] = []
        self._directory, self._port = directory, free_port("127.0.0.1")
        (directory / "cluster-key").write_text(KEY)
        (directory / "kubeconfig").write_text(json.dumps(KUBECONFIG))
        self._mount("WAN")

    async def run(self, *flags: str) -> None:
        """Run until it was signalled: by us, or by the start of a second agent."""
        at = self._directory
        flags += (f"--kubernetes={at}", f"--kubeconfig={at / 'kubeconfig'}", "--node-name=a")
        flags += (f"--state-dir={at}", f"--run-dir={at}", f"--hosts-file={at / 'hosts'}")
        async with asyncio.timeout(SECONDS):
            await app._run(agent_settings(flags, {}))

    def _mount(self, profile: str) -> None:
        mesh: dict[str, object] = {"version": 1, "name": "m", "uid": "u", "overlayCIDR": "10.99.0.0/16"}
        mesh |= {"wireguard": {"interface": f"wg{os.getpid()}r"}}
        mesh |= {"gossip": {"port": self._port, "profile": profile}}
        (self._directory / "mesh.json").write_text(json.dumps(mesh))

    async def _start(self, settings: Settings, held: AsyncExitStack) -> Startup:
        if self.started and (failure := next(self.failures, None)) is not None:
            raise failure
        self.started.append(await start_up(settings, held))
        if len(self.started) == 1:
            self._mount("LAN")
        else:
            self.signalled.set_result(None)
        return self.started[-1]


async def test_a_host_that_cannot_be_looked_at_does_not_end_the_process_not_even_after_hours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The kernel may be out of descriptors or buffers just then, and wireguard-go would end too.

    With the longest pause, a thousand tries take nine hours.
    """
    monkeypatch.setattr(app, "FIRST_PAUSE", 0.0001)
    monkeypatch.setattr(app, "LONGEST_PAUSE", 0.0001)
    world = World(tmp_path, monkeypatch)
    full = OSError(errno.ENFILE, os.strerror(errno.ENFILE))
    world.failures = iter([full, MalformedReply("kernel addresses: x")] * 520)
    await world.run()
    assert [each.local.document.gossip.profile for each in world.started] == ["WAN", "LAN"]
    assert caplog.text.count("restart failed: trying again") == 1040


async def test_while_restarts_fail_the_kubelet_hears_that_the_process_runs_and_is_not_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends a container that does not answer, and wireguard-go with it."""
    monkeypatch.setattr(app, "FIRST_PAUSE", SECONDS)
    monkeypatch.setattr(app, "LONGEST_PAUSE", SECONDS)
    world, port = World(tmp_path, monkeypatch), free_port("127.0.0.1")
    failed = asyncio.Event()

    def failures() -> Iterator[Exception]:
        failed.set()
        yield InvalidSpec("state file", "is a directory")

    async def probe(path: str) -> str:
        while True:
            with suppress(ConnectionRefusedError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
                answer = (await reader.read()).decode()
                writer.close()
                return answer
            await asyncio.sleep(0.01)

    world.failures = failures()
    running = asyncio.create_task(world.run(f"--health-port={port}"))
    async with asyncio.timeout(SECONDS):
        await failed.wait()
        alive, ready = await probe("/healthz"), await probe("/readyz")
    world.signalled.set_result(None)
    await running
    assert alive.startswith("HTTP/1.1 200 ")
    assert ready.startswith("HTTP/1.1 503 ")
    assert ready.endswith("Ready False RestartFailed\n")
