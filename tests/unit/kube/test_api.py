"""What an agent takes for an answer of an API server, and how a pod finds its own."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest

from wesher_agent.kube.api import MAX_ANSWER, Answer, ApiServer, from_kubeconfig, in_cluster, read_answer
from wesher_common.errors import ClusterUnavailable, InvalidSpec

INSIDE = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}


@pytest.mark.parametrize(
    "text",
    [
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ncontent-length:2 \r\nDate: today\r\n\r\n{}",
        b"HTTP/1.0 200\r\n\r\n{}",
    ],
)
def test_an_answer_is_its_status_and_its_body(text: bytes) -> None:
    assert read_answer(text) == Answer(status=200, body=b"{}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "it closed the connection"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "it did not answer in HTTP"),
        (b"HTTP/1.0 OK\r\n\r\n", "it did not answer in HTTP"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n", "it did not answer in HTTP"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n{}", "its answer was cut short"),
        (b"HTTP/1.0 404 Not Found\r\nContent-Length: many\r\n\r\n{}", "its answer was cut short"),
        (b"\xff\x00\r\n\r\n", "it did not answer in HTTP"),
    ],
)
def test_what_is_no_whole_answer_is_none(text: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_answer(text)


async def test_an_answer_without_an_end_is_not_kept() -> None:
    async def pour(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.0 200 OK\r\n\r\n")
        with suppress(ConnectionError):
            while True:
                writer.write(bytes(1 << 16))
                await writer.drain()
        writer.close()

    async def nobody() -> str:
        return ""

    async with await asyncio.start_server(pour, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        api = ApiServer(url=f"http://127.0.0.1:{port}", tls=pytest.fail, authorization=nobody)
        with pytest.raises(ClusterUnavailable, match=f"its answer is longer than {MAX_ANSWER} bytes"):
            await api.request("GET", "/", headers={})


async def test_a_pod_asks_by_its_service_account_whose_token_may_be_renewed_at_any_time(
    tmp_path: Path,
) -> None:
    (tmp_path / "token").write_text("first\n")
    api = in_cluster(INSIDE, tmp_path)
    assert api.url == "https://10.96.0.1:443"
    assert await api.authorization() == "Bearer first"
    (tmp_path / "token").write_text("second\n")
    assert await api.authorization() == "Bearer second"
    six = in_cluster(INSIDE | {"KUBERNETES_SERVICE_HOST": "fd00::1"}, tmp_path)
    assert six.url == "https://[fd00::1]:443"


def test_outside_a_pod_a_kubeconfig_is_asked_for(tmp_path: Path) -> None:
    for environ in ({}, INSIDE):
        with pytest.raises(InvalidSpec, match="--kubeconfig: must be given outside a pod"):
            in_cluster(environ, tmp_path)


BROKEN = [None, "", "{", "[]", "apiVersion: v1\nkind: Config\n", "contexts: 5\n", "a: b: c", "\0"]


@pytest.mark.parametrize("content", BROKEN)
async def test_a_kubeconfig_that_cannot_be_used_is_named_in_one_line(
    tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "config"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InvalidSpec) as refusal:
        await from_kubeconfig(path)
    assert str(refusal.value).startswith(f"--kubeconfig '{path}': cannot be used: ")
    assert "\n" not in str(refusal.value)
