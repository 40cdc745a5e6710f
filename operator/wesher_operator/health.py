"""Tells the kubelet whether this process is alive: 200 or 503, on any path of one TCP port."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

_REQUEST_SECONDS = 5.0
_MAX_LINES = 64


async def serve_health(port: int, is_alive: Callable[[], bool]) -> asyncio.Server:
    """Answer on all addresses until the server is closed.

    Raises:
        OSError: the port is taken.

    """
    return await asyncio.start_server(partial(_answer, is_alive), port=port)


async def _answer(
    is_alive: Callable[[], bool], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    try:
        async with asyncio.timeout(_REQUEST_SECONDS):
            for _ in range(_MAX_LINES):
                if (await reader.readline()).strip() == b"":
                    break
            status = b"200 OK" if is_alive() else b"503 Service Unavailable"
            writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
    except (OSError, TimeoutError, ValueError):
        pass  # whoever asked has gone, or asks no HTTP
    finally:
        writer.close()
