"""Commands reach the agent over a real socket, and what stands in the way is said clearly."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import socket
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from wesher_agent import control
from wesher_agent.control import (
    LOOK_SECONDS,
    MAX_CONNECTIONS,
    MAX_REQUEST,
    AgentUnreachable,
    ControlServer,
    ask,
    find_socket,
    socket_path,
)
from wesher_common.errors import InvalidSpec, WesherError
from wesher_testing.virtual.loop_clock import LoopClock


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
    with pytest.raises(WesherError, match="one of the commands leave, status"):
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
        b"x" * (MAX_REQUEST + 1) + b"\n",
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


async def test_the_content_of_a_file_comes_with_its_command(tmp_path: Path) -> None:
    path = socket_path(tmp_path, "wg0")
    taken: list[bytes] = []

    async def take(data: bytes) -> int:
        taken.append(data)
        return len(data)

    server = ControlServer(path, {"status": _status}, {"news-add": take})
    await server.start()
    largest = bytes(range(256)) * 5000
    assert await asyncio.to_thread(ask, path, "news-add", largest) == len(largest)
    assert await asyncio.to_thread(ask, path, "news-add", b"") == 0
    assert taken == [largest, b""]
    assert await asyncio.to_thread(ask, path, "status", b"ignored") == {"node": "a"}
    with pytest.raises(WesherError, match=r"^news-add: data must be the content of a file in base64$"):
        await asyncio.to_thread(ask, path, "news-add")
    for data in ('"!"', "5", "null", "[]", '"\u00e9"'):
        line = f'{{"command": "news-add", "data": {data}}}\n'.encode()
        with pytest.raises(WesherError, match="in base64"):
            control.read_request(line, ["status"], ["news-add"])
    with pytest.raises(WesherError, match="one of the commands news-add, status"):
        await asyncio.to_thread(ask, path, "stop")
    await server.close()


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
        with pytest.raises(WesherError, match=r"^8 other commands are waiting for this agent: try again$"):
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


def _leave_dead_socket(path: Path) -> None:
    """Leave what a killed program leaves."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()


async def test_a_socket_left_behind_by_a_killed_agent_is_replaced(tmp_path: Path) -> None:
    path = socket_path(tmp_path, "wg0")
    _leave_dead_socket(path)
    server = ControlServer(path, {"status": _status})
    await server.start()
    assert await asyncio.to_thread(ask, path, "status") == {"node": "a"}
    await server.close()
    assert not path.exists()


@asynccontextmanager
async def kept(path: Path) -> AsyncIterator[LoopClock]:
    """Run a server that looks after its socket; each look is due when the clock is advanced."""
    server = ControlServer(path, {"status": _status})
    await server.start()
    keeping = asyncio.create_task(server.keep())
    try:
        yield LoopClock()
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        await server.close()


async def after_a_look(clock: LoopClock) -> None:
    """Let one look pass, which takes no thread and no I/O that waits."""
    clock.advance(LOOK_SECONDS)
    for _ in range(20):
        await asyncio.sleep(0)


def _remove_directory(path: Path) -> None:
    shutil.rmtree(path.parent)


def _replace_by_file(path: Path) -> None:
    path.unlink()
    path.write_text("another program's")


def _replace_by_dead_socket(path: Path) -> None:
    path.unlink()
    _leave_dead_socket(path)


@pytest.mark.parametrize("harm", [Path.unlink, _remove_directory, _replace_by_file, _replace_by_dead_socket])
async def test_a_socket_that_another_program_removed_or_replaced_is_back_after_the_next_look(
    tmp_path: Path, harm: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Cleaners of old files do that, and systemd at the end of another unit with that RuntimeDirectory."""
    caplog.set_level("INFO")
    path = socket_path(tmp_path / "run", "wg0")
    former = os.umask(0o077)
    try:
        async with kept(path) as clock:
            for count in (1, 2):
                harm(path)
                await after_a_look(clock)
                assert await asyncio.to_thread(ask, path, "status") == {"node": "a"}
                assert stat.S_IMODE(path.lstat().st_mode) == 0o600
                assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755
                assert caplog.text.count("control socket restored") == count
                await after_a_look(clock)
                assert caplog.text.count("control socket restored") == count
    finally:
        os.umask(former)
    assert not path.exists()


async def test_another_program_that_listens_there_keeps_its_socket_until_it_ends(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = socket_path(tmp_path, "wg0")
    async with kept(path) as clock:
        path.unlink()
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(path))
            # Holds even while it accepts nothing, and as many as it lets wait are waiting.
            other.listen(1)
            for _ in range(4):
                await after_a_look(clock)
            assert caplog.text.count("no control socket: commands cannot reach this agent") == 1
            assert f"another program listens on it: '{path}'" in caplog.text
            accepted, _ = await asyncio.to_thread(other.accept)
            accepted.close()
        await after_a_look(clock)
        assert await asyncio.to_thread(ask, path, "status") == {"node": "a"}


async def test_at_its_end_an_agent_leaves_the_socket_of_another(tmp_path: Path) -> None:
    path = socket_path(tmp_path, "wg0")
    with socket.socket(socket.AF_UNIX) as other:
        async with kept(path):
            path.unlink()
            other.bind(str(path))
            other.listen()
        assert path.is_socket()


async def test_a_directory_that_could_not_be_made_is_made_once_it_can_be(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "run").write_text("a file is in the way")
    path = socket_path(tmp_path / "run", "wg0")
    async with kept(path) as clock:
        for _ in range(3):
            await after_a_look(clock)
        assert caplog.text.count("no control socket: commands cannot reach this agent") == 1
        path.parent.unlink()
        await after_a_look(clock)
        assert await asyncio.to_thread(ask, path, "status") == {"node": "a"}


async def test_a_socket_on_which_the_loop_cannot_listen_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = socket_path(tmp_path, "wg0")
    with monkeypatch.context() as patched:
        # What `epoll_ctl` says when a user watches too much.
        patched.setattr(asyncio.Server, "start_serving", refused)
        server = ControlServer(path, {"status": _status})
        await server.start()
    keeping = asyncio.create_task(server.keep())
    await after_a_look(LoopClock())
    assert await asyncio.to_thread(ask, path, "status") == {"node": "a"}
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    await server.close()


async def test_the_only_agent_on_a_host_need_not_be_named(agent: Path) -> None:
    assert find_socket(agent.parent, "") == agent


async def test_an_agent_that_was_killed_is_not_one_to_choose_from(agent: Path) -> None:
    _leave_dead_socket(socket_path(agent.parent, "wg1"))
    assert find_socket(agent.parent, "") == agent


def test_of_killed_agents_each_may_be_asked_for(tmp_path: Path) -> None:
    for interface in ("wg0", "wg1"):
        _leave_dead_socket(socket_path(tmp_path, interface))
    with pytest.raises(InvalidSpec, match="choose one of wg0, wg1"):
        find_socket(tmp_path, "")


async def test_several_agents_on_a_host_are_listed_to_choose_from(agent: Path) -> None:
    other = ControlServer(socket_path(agent.parent, "wg1"), {})
    await other.start()
    with pytest.raises(
        InvalidSpec, match="--interface: several agents run on this host: choose one of wg0, wg1"
    ):
        find_socket(agent.parent, "")
    assert find_socket(agent.parent, "wg1").name == "wg1.sock"
    await other.close()


def test_no_agent_is_said_with_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(AgentUnreachable, match="no agent is running"):
        find_socket(tmp_path / "missing", "")
    with pytest.raises(AgentUnreachable, match="no agent runs for interface wg0: nothing listens"):
        ask(tmp_path / "wg0.sock", "status")


def test_an_agent_that_hangs_up_is_said(tmp_path: Path) -> None:
    path = tmp_path / "wg0.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        with pytest.raises(AgentUnreachable, match="nothing listens"):
            ask(path, "status")
