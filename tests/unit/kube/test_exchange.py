"""What an agent asks, and what it takes for an answer of an API server."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from wesher_agent.kube.api import ApiServer
from wesher_agent.kube.exchange import MAX_ANSWER, Answer, Exchange
from wesher_common.errors import ClusterUnavailable


def answer_of(text: bytes, *, size: int = 1 << 20) -> Answer | None:
    """Return what the bytes of a whole connection answer, read in pieces of a size."""
    exchange = Exchange("GET", "/x", {"Host": "h"})
    for piece in [*(text[start : start + size] for start in range(0, len(text), size)), b""]:
        if (answer := exchange.receive(piece)) is not None:
            return answer
    return None


@pytest.mark.parametrize(
    "text",
    [
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ncontent-length:2 \r\nDate: today\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.0 200\r\n\r\n{}",
    ],
)
@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_an_answer_is_its_status_and_its_body(text: bytes, size: int) -> None:
    assert answer_of(text, size=size) == Answer(status=200, body=b"{}")


def test_an_answer_is_whole_before_its_connection_ends() -> None:
    exchange = Exchange("GET", "/x", {"Host": "h"})
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
    assert exchange.receive(whole) == Answer(status=200, body=b"{}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "the API server closed the connection"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n", "the API server closed the connection"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "the API server's answer is not HTTP"),
        (b"HTTP/1.0 OK\r\n\r\n", "the API server's answer is not HTTP"),
        (b"HTTP/1.0 404 Not Found\r\nContent-Length: many\r\n\r\n{}", "the API server's answer is not HTTP"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "the API server's answer is not HTTP"),
        (b"HTTP/1.1 200 OK\r\nLong: " + bytes(1 << 17), "the API server's answer is not HTTP"),
        (b"\xff\x00\r\n\r\n", "the API server's answer is not HTTP"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n{}", "the API server's answer was cut short"),
    ],
)
def test_what_is_no_whole_answer_is_none(text: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        answer_of(text)


def test_a_request_tells_of_its_body_and_of_the_connections_end() -> None:
    assert Exchange("GET", "/x?a=b", {"Host": "h"}).request == (
        b"GET /x?a=b HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    )
    assert Exchange("PATCH", "/x", {"Host": "h"}, b"{}").request == (
        b"PATCH /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}"
    )


def test_what_http_cannot_carry_is_refused_without_being_shown() -> None:
    with pytest.raises(ValueError, match="characters that HTTP does not allow") as refusal:
        Exchange("GET", "/x", {"Host": "h", "Authorization": "Bearer tok\nen"})
    assert "tok" not in str(refusal.value)
    assert refusal.value.__cause__ is None


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
        with pytest.raises(
            ClusterUnavailable, match=f"the API server's answer is longer than {MAX_ANSWER} bytes"
        ):
            await api.request("GET", "/", headers={})
