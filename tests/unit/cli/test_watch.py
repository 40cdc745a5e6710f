"""``--watch``: one screen after another, each no wider and no longer than the terminal."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import itertools
import os
import pty
import re
import signal
import struct
import termios
import time
from pathlib import Path

import pytest

from wesher_agent.cli.watch import WATCH_SECONDS, frame
from wesher_agent.control import ControlServer, socket_path
from wesher_common.errors import WesherError
from wesher_testing.agents.process import WESHER

SECONDS = 30


def shown(screen: str) -> list[str]:
    return re.sub(r"\x1b\[[HJK]", "", screen).splitlines()


def test_a_frame_is_cut_to_the_terminal() -> None:
    text = "0123456789\nabc\x1b[2J\n界界界界界x\nfourth\nfifth"
    assert shown(frame(text, "title", columns=10, lines=8)) == [
        "title",
        "",
        "0123456789",
        "abc\\u001b…",
        "界界界界…",
        "fourth",
        "fifth",
    ]
    assert shown(frame(text, "title", columns=80, lines=5)) == ["title", "", "0123456789", "… 4 more lines"]
    assert shown(frame(text, "t", columns=1, lines=1)) == ["…"]


def test_a_terminal_of_unknown_size_gets_every_line_whole() -> None:
    assert shown(frame("a" * 200, "title", columns=0, lines=0)) == ["title", "", "a" * 200]


@pytest.fixture
def terminal() -> tuple[int, int]:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 10, 60, 0, 0))
    return ours, theirs


async def test_it_asks_every_two_seconds_until_ctrl_c_and_outlives_an_agents_restart(
    tmp_path: Path, terminal: tuple[int, int]
) -> None:
    asked: list[float] = []
    again = asyncio.Event()

    async def status() -> dict[str, object]:
        asked.append(time.monotonic())
        if len(asked) == 2:
            raise WesherError("the agent restarts: ask again")
        if len(asked) == 3:
            again.set()
        return {}

    ours, theirs = terminal
    server = ControlServer(socket_path(tmp_path, "wg0"), {"members": status})
    await server.start()
    # The first look must succeed: an answer without members is an empty table.
    process = await asyncio.create_subprocess_exec(
        WESHER,
        *("members", "--watch", f"--run-dir={tmp_path}"),
        stdout=theirs,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(theirs)
    os.set_blocking(ours, False)
    async with asyncio.timeout(SECONDS):
        await again.wait()
    process.send_signal(signal.SIGINT)
    _, said = await process.communicate()
    await server.close()
    screens = b""
    with contextlib.suppress(OSError):
        while part := os.read(ours, 65536):
            screens += part
    os.close(ours)
    assert (process.returncode, said) == (-signal.SIGINT, b"")
    assert all(b - a > WATCH_SECONDS - 0.2 for a, b in itertools.pairwise(asked))
    text = screens.decode()
    assert "wesher members, every 2 s until Ctrl-C" in text
    assert "! the agent restarts: ask again" in text


def test_a_dumb_terminal_is_not_redrawn(terminal: tuple[int, int]) -> None:
    ours, theirs = terminal
    words = [str(WESHER), "status", "--watch", "--run-dir=/nonexistent"]
    process = os.posix_spawn(
        words[0],
        words,
        {**os.environ, "TERM": "dumb"},
        file_actions=[(os.POSIX_SPAWN_DUP2, theirs, 1), (os.POSIX_SPAWN_DUP2, theirs, 2)],
    )
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 1
    os.close(theirs)
    assert "--watch: needs a terminal" in os.read(ours, 4096).decode()
    os.close(ours)
