"""What an agent tells an API server when, over real connections."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest

from wesher_agent.kube import reporter as kubernetes
from wesher_agent.kube.api import ApiServer
from wesher_agent.kube.own_objects import OwnObjects
from wesher_agent.kube.reporter import KubernetesLink
from wesher_testing.agents.snapshots import snapshot
from wesher_testing.virtual.members import remembered

NODE = {"metadata": {"name": "m.a", "uid": "u-a", "generation": 1}, "spec": {"overlayIP": "10.9.0.5"}}
WELL = snapshot(remembered("b"))
CLASHING = snapshot(remembered("b"), rival="192.0.2.9:7946")


@asynccontextmanager
async def api_server(reports: asyncio.Queue[dict[str, Any]]) -> AsyncIterator[OwnObjects]:
    """Serve this node's object for ever, and pass on what is reported of it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first, *headers = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
        lengths = [line.partition(":")[2] for line in headers if line.startswith("Content-Length:")]
        if first.startswith("PATCH"):
            reports.put_nowait(json.loads(await reader.readexactly(int(lengths[0])))["status"])
        writer.write(b"HTTP/1.0 200 OK\r\n\r\n" + json.dumps(NODE).encode())
        writer.close()

    async def nobody() -> str:
        return ""

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        api = ApiServer(url=f"http://127.0.0.1:{port}", tls=pytest.fail, authorization=nobody)
        yield OwnObjects(api, "m", "a", agent_version="1")


async def test_a_fault_that_time_alone_ends_is_reported_as_ended(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever used our name and no longer does wakes nobody."""
    monkeypatch.setattr(kubernetes, "SETTLE_SECONDS", 0.01)
    monkeypatch.setattr(kubernetes, "LOOK_SECONDS", 0.05)
    caplog.set_level(logging.DEBUG)
    reports: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    present = [CLASHING]
    async with api_server(reports) as objects, asyncio.timeout(60.0):
        link = KubernetesLink(objects, "u-m")
        running = asyncio.create_task(link.run(lambda: present[0], lambda _: None, rng=Random(1)))
        assert (await reports.get())["conditions"][0]["reason"] == "NameConflict"
        # The server has the second report only after its answer to the first was read.
        present[0] = WELL
        assert (await reports.get())["conditions"][0]["reason"] == "Ready"
        assert "status reported" in caplog.messages
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


class _NotingDice(Random):
    """Says when it was thrown, and what came."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.thrown: asyncio.Queue[float] = asyncio.Queue()

    def uniform(self, a: float, b: float) -> float:
        result = super().uniform(a, b)
        self.thrown.put_nowait(result)
        return result


async def test_a_missing_object_is_asked_for_at_times_of_each_agents_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All agents of a mesh start together, and none has an object while the operator is away."""
    monkeypatch.setattr(kubernetes, "SETTLE_SECONDS", 0.01)
    monkeypatch.setattr(kubernetes, "MISSING_FIRST", 0.01)

    async def nobody() -> str:
        return ""

    shares = []
    for seed in (1, 2):
        dice = _NotingDice(seed)
        away = ApiServer(url="http://127.0.0.1:1", tls=pytest.fail, authorization=nobody)
        link = KubernetesLink(OwnObjects(away, "m", "a", agent_version="1"), "u-m")
        async with asyncio.timeout(60.0):
            running = asyncio.create_task(link.run(pytest.fail, pytest.fail, rng=dice))
            shares += [await dice.thrown.get() for _ in range(3)]
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
    assert len({*shares}) == 6
    assert all(0.5 <= share <= 1.0 for share in shares)
