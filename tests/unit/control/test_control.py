"""Commands reach the agent over a real socket, and what stands in the way is said clearly."""

from __future__ import annotations

import asyncio
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from wesher_agent import control
from wesher_agent.control import (
    MAX_CONNECTIONS,
    AgentUnreachable,
    ControlServer,
    ask,
    find_socket,
    socket_path,
)
from wesher_common.errors import InvalidSpec, WesherError


async def _status() -> dict[str, Any]:
    return {"node": "a"}


async def _leave() -> None:
    raise WesherError("cannot leave now")


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[Path]:
    path = socket_path(tmp_path / "run", "wg0")
    server = ControlServer(path, {"status": _status, "leave": _leave})
    await server.start()
    yield path
    await server.close()


async def test_a_command_gets_its_answer(agent: Path) -> None:
    assert await asyncio.to_thread(ask, agent, "status") == {"node": "a"}


async def test_the_agents_refusal_is_shown_in_its_words(agent: Path) -> None:
    with pytest.raises(WesherError, match=r"^cannot leave now$"):
        await asyncio.to_thread(ask, agent, "leave")


async def test_an_unknown_command_is_refused_with_those_there_are(agent: Path) -> None:
    with pytest.raises(WesherError, match="one command of leave, status"):
        await asyncio.to_thread(ask, agent, "stop")


@pytest.mark.parametrize(
    "junk",
    [
        b"\n",
        b"[]\n",
        b"{}\n",
        b'{"command": []}\n',
        b"\xff\n",
        b"x" * 5000 + b"\n",
        # Nests deeper than Python's own reader follows.
        b"[" * 4000 + b"\n",
    ],
)
async def test_junk_is_refused_and_the_next_command_answered(agent: Path, junk: bytes) -> None:
    def send() -> bytes:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(agent))
            connection.sendall(junk)
            return connection.recv(1000)

    assert b'"error"' in await asyncio.to_thread(send)
    assert await asyncio.to_thread(ask, agent, "status") == {"node": "a"}


async def test_connections_that_ask_nothing_do_not_hold_up_the_end_nor_are_spoken_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "REQUEST_TIMEOUT", 3600.0)
    path = socket_path(tmp_path, "wg0")
    server = ControlServer(path, {"status": _status})
    await server.start()
    silent = [await asyncio.open_unix_connection(path) for _ in range(MAX_CONNECTIONS)]
    # Each time, though the agent may hang up before it was asked anything.
    for _ in range(100):
        with pytest.raises(WesherError, match=r"^8 others are asking already: try again$"):
            await asyncio.to_thread(ask, path, "status")

    async with asyncio.timeout(60.0):
        await server.close()
    for reader, writer in silent:
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
    assert caplog.text == ""


async def test_an_answer_under_way_still_gets_out_at_the_end(tmp_path: Path) -> None:
    asked, ended = asyncio.Event(), asyncio.Event()

    async def leave() -> dict[str, Any]:
        asked.set()
        await ended.wait()
        return {"node": "a"}

    path = socket_path(tmp_path, "wg0")
    server = ControlServer(path, {"leave": leave})
    await server.start()
    asking = asyncio.create_task(asyncio.to_thread(ask, path, "leave"))
    await asked.wait()
    ended.set()
    await server.close()
    assert await asking == {"node": "a"}


@pytest.mark.parametrize("answer", [b"", b"[]\n", b"{}\n", b"7\n", b"\xff\n", b"[" * 100_000 + b"\n"])
def test_what_is_no_answer_is_said(tmp_path: Path, answer: bytes) -> None:
    path = tmp_path / "wg0.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def answer_once() -> None:
            with listener.accept()[0] as connection:
                connection.recv(1000)
                connection.sendall(answer)

        peer = Thread(target=answer_once)
        peer.start()
        with pytest.raises(AgentUnreachable, match="did not answer"):
            ask(path, "status")
        peer.join()


async def test_only_the_agents_own_user_may_ask(agent: Path) -> None:
    assert stat.S_IMODE(agent.lstat().st_mode) == 0o600


async def test_a_socket_left_behind_by_a_killed_agent_is_replaced(agent: Path) -> None:
    server = ControlServer(agent, {"status": _leave})
    await server.start()
    with pytest.raises(WesherError, match="cannot leave now"):
        await asyncio.to_thread(ask, agent, "status")
    await server.close()
    assert not agent.exists()


async def test_the_only_agent_on_a_host_need_not_be_named(agent: Path) -> None:
    assert find_socket(agent.parent, "") == agent


async def test_several_agents_on_a_host_are_listed_to_choose_from(agent: Path) -> None:
    other = ControlServer(socket_path(agent.parent, "wg1"), {})
    await other.start()
    with pytest.raises(
        InvalidSpec, match="--interface: several agents run on this host: name one of wg0, wg1"
    ):
        find_socket(agent.parent, "")
    assert find_socket(agent.parent, "wg1").name == "wg1.sock"
    await other.close()


def test_no_agent_is_said_with_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(AgentUnreachable, match="no agent runs here"):
        find_socket(tmp_path / "missing", "")
    with pytest.raises(AgentUnreachable, match="no agent runs for interface wg0: nobody listens"):
        ask(tmp_path / "wg0.sock", "status")


def test_an_agent_that_hangs_up_is_said(tmp_path: Path) -> None:
    path = tmp_path / "wg0.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        with pytest.raises(AgentUnreachable, match="nobody listens"):
            ask(path, "status")
