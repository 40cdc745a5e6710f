"""Restarts inside the process: what may fail there without an end of the process."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from wesher_agent import app
from wesher_agent.cli.commands import agent_settings
from wesher_agent.kube import mounted, reporter
from wesher_agent.netlink.errors import MalformedReply
from wesher_agent.runtime.startup import Startup, start_up
from wesher_agent.settings import Settings
from wesher_testing.agents.mounted_files import KUBECONFIG
from wesher_testing.lab.loopback import free_port

SECONDS = 60.0
"""For what takes a moment, on a machine that has other work."""
KEY = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="


async def test_a_host_that_cannot_be_looked_at_does_not_end_the_process_not_even_after_hours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The kernel may be out of descriptors or buffers just then, and wireguard-go would end too.

    With the longest pause, a thousand tries take nine hours.
    """
    monkeypatch.setattr(mounted, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(reporter, "GONE_SECONDS", 0.0)
    monkeypatch.setattr(app, "FIRST_PAUSE", 0.0001)
    monkeypatch.setattr(app, "LONGEST_PAUSE", 0.0001)
    monkeypatch.setattr(app, "check_rights", lambda: None)
    signalled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    monkeypatch.setattr(app, "_catch_signals", lambda: signalled)
    port = free_port("127.0.0.1")

    def mount(profile: str) -> None:
        mesh: dict[str, object] = {"version": 1, "name": "m", "uid": "u", "overlayCIDR": "10.99.0.0/16"}
        mesh |= {"wireguard": {"interface": f"wg{os.getpid()}r"}}
        mesh |= {"gossip": {"port": port, "profile": profile}}
        (tmp_path / "mesh.json").write_text(json.dumps(mesh))

    failures = [OSError(errno.ENFILE, os.strerror(errno.ENFILE)), MalformedReply("kernel addresses: x")] * 520
    started: list[Startup] = []

    async def start(settings: Settings, held: AsyncExitStack) -> Startup:
        if started and failures:
            raise failures.pop(0)
        started.append(await start_up(settings, held))
        if len(started) == 1:
            mount("LAN")
        else:
            signalled.set_result(None)
        return started[-1]

    monkeypatch.setattr(app, "start_up", start)
    mount("WAN")
    (tmp_path / "cluster-key").write_text(KEY)
    (tmp_path / "kubeconfig").write_text(json.dumps(KUBECONFIG))
    flags = [f"--kubernetes={tmp_path}", f"--kubeconfig={tmp_path / 'kubeconfig'}", "--node-name=a"]
    flags += [f"--state-dir={tmp_path}", f"--run-dir={tmp_path}", f"--hosts-file={tmp_path / 'hosts'}"]
    async with asyncio.timeout(SECONDS):
        await app._run(agent_settings(flags, {}))
    assert [each.local.document.gossip.profile for each in started] == ["WAN", "LAN"]
    assert caplog.text.count("restart failed: trying again") == 1040
