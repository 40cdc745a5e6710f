"""``wesher news add FILE``: which file is sent to the agent, and what is said of each that cannot be."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from wesher_agent.cli.commands import run
from wesher_agent.control import ControlServer, socket_path
from wesher_agent.status.answers import news_answer, refused_news
from wesher_common.certificate import Authority
from wesher_common.errors import WesherError
from wesher_common.news import MAX_NEWS_BYTES, sign_statement

STATEMENT = sign_statement(Authority(bytes(32)), number=1_790_000_000_000, revoked={bytes(8): 1})


@pytest.fixture
async def sent(tmp_path: Path) -> AsyncIterator[list[bytes]]:
    """Return what is sent to an agent that takes each statement but a bad one."""
    taken: list[bytes] = []

    async def add(data: bytes) -> dict[str, Any]:
        taken.append(data)
        if data == b"bad":
            raise WesherError(refused_news("statement-bad-signature"))
        return news_answer(STATEMENT, is_new=len(taken) == 1)

    server = ControlServer(socket_path(tmp_path, "wg0"), {}, {"news-add": add})
    await server.start()
    yield taken
    await server.close()


async def news(directory: Path, *words: str) -> int:
    """Run the command; return its exit code."""
    return await asyncio.to_thread(run, ["news", *words, f"--run-dir={directory}"], {})


async def test_the_file_is_sent_as_it_is_and_the_answer_shown(
    tmp_path: Path, sent: list[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    longest = bytes(range(256)) * (2 * MAX_NEWS_BYTES // 256)
    (tmp_path / "statement").write_bytes(longest)
    assert await news(tmp_path, "add", str(tmp_path / "statement")) == 0
    assert await news(tmp_path, "add", str(tmp_path / "statement")) == 0
    assert sent == [longest, longest]
    assert capsys.readouterr().out.splitlines() == [
        "the agent accepted statement 1790000000000, which revokes 1 name, and passes it on",
        "the agent already has statement 1790000000000, which revokes 1 name",
    ]


async def test_standard_input_is_read_for_a_dash(
    tmp_path: Path, sent: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff\0 statement")))
    assert await news(tmp_path, "add", "-") == 0
    assert sent == [b"\xff\0 statement"]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (None, "FILE '{}': cannot be read: No such file or directory"),
        ("folder", "FILE '{}': is a directory, not a regular file"),
        (bytes(2 * MAX_NEWS_BYTES + 1), f"FILE '{{}}': is larger than {2 * MAX_NEWS_BYTES} bytes"),
        (b"bad", "FILE '{}': damaged, or not signed by this mesh's authority: copy it again"),
    ],
)
async def test_a_file_that_cannot_be_used_is_named_in_one_line(
    tmp_path: Path,
    sent: list[bytes],
    capsys: pytest.CaptureFixture[str],
    content: bytes | str | None,
    line: str,
) -> None:
    path = tmp_path / "statement"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        path.mkdir()
    assert await news(tmp_path, "add", str(path)) == 1
    assert capsys.readouterr().err == f"wesher: error: {line.format(path)}\n"
    assert sent == ([content] if content == b"bad" else [])


async def test_standard_input_that_does_not_end_is_refused(
    tmp_path: Path,
    sent: list[bytes],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(bytes(3 * MAX_NEWS_BYTES))))
    assert await news(tmp_path, "add", "-") == 1
    assert f"FILE '-': must not be longer than {2 * MAX_NEWS_BYTES} bytes" in capsys.readouterr().err
    assert sent == []


async def test_a_mistyped_action_and_a_missing_file_are_named(
    tmp_path: Path, sent: list[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    assert await news(tmp_path, "ad", "statement") == 1
    assert await news(tmp_path, "add") == 1
    actions, files = capsys.readouterr().err.splitlines()
    assert "ACTION 'ad'" in actions
    assert "FILE" in files
    assert sent == []


def test_without_an_agent_the_file_is_not_blamed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "statement").write_bytes(b"x")
    words = ["news", "add", os.fspath(tmp_path / "statement"), f"--run-dir={tmp_path}"]
    assert run(words, {}) == 1
    assert run([*words, "--interface=wg0"], {}) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert "no agent is running" in first
    assert "no agent runs for interface wg0" in second
