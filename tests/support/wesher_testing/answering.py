"""A server that answers as an API server in trouble does, which a healthy one cannot be made to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from kubernetes.aio.client import ApiClient, Configuration

from wesher_operator.kube import Cluster


@asynccontextmanager
async def answering(*answers: tuple[int, dict[str, Any]]) -> AsyncIterator[tuple[Cluster, list[str]]]:
    """Run an HTTP server that gives these answers, the last for ever; none at all is silence.

    Yields a cluster that asks it, and the requests it got.
    """
    asked: list[str] = []
    connections: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(writer)
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        asked.append(head.splitlines()[0].removesuffix(" HTTP/1.1"))
        if answers:
            status, content = answers[min(len(asked), len(answers)) - 1]
            body = json.dumps(content).encode()
            writer.write(
                b"HTTP/1.1 %d X\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % (status, len(body))
            )
            writer.write(body)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        async with ApiClient(Configuration(host=f"http://127.0.0.1:{port}")) as api:
            yield Cluster(api, "wesher-system"), asked
    finally:
        server.close()
        for writer in connections:
            writer.close()
