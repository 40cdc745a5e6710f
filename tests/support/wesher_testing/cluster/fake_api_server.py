"""Servers that answer as an API server does in moments and troubles that a real one cannot be brought to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime
from typing import Any

from kubernetes.aio.client import ApiClient, Configuration

from wesher_operator.kube import Cluster

Answer = tuple[int, dict[str, Any]]
"""HTTP status and body."""


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked."""

    method: str
    path: str
    """Without the query."""
    query: str
    body: dict[str, Any]

    @property
    def name(self) -> str:
        """Last part of the path."""
        return self.path.rpartition("/")[2]


@asynccontextmanager
async def serving(
    answer: Callable[[Request], Answer | None], *, clock: Callable[[], datetime] | None = None
) -> AsyncIterator[Cluster]:
    """Run an HTTP server and yield a cluster that asks it; an answer of None is silence.

    With a ``clock`` its replies have a Date.
    """
    connections: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(writer)
        first, *headers = (await reader.readuntil(b"\r\n\r\n")).decode().lower().splitlines()
        length = next((line.split(":")[1] for line in headers if line.startswith("content-length:")), "0")
        text = await reader.readexactly(int(length))
        method, target, _ = first.split()
        path, _, query = target.partition("?")
        found = answer(Request(method.upper(), path, query, json.loads(text) if text else {}))
        if found is not None:
            body = json.dumps(found[1]).encode()
            writer.write(b"HTTP/1.1 %d X\r\nConnection: close\r\n" % found[0])
            if clock is not None:
                writer.write(f"Date: {format_datetime(clock(), usegmt=True)}\r\n".encode())
            writer.write(b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body))
            writer.write(body)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        async with ApiClient(Configuration(host=f"http://127.0.0.1:{port}")) as api:
            yield Cluster(api, "wesher-system")
    finally:
        server.close()
        for writer in connections:
            writer.close()


@asynccontextmanager
async def answering(*answers: Answer) -> AsyncIterator[tuple[Cluster, list[Request]]]:
    """Give these answers in turn, the last for ever, none at all is silence; yield the requests too."""
    asked: list[Request] = []

    def answer(request: Request) -> Answer | None:
        asked.append(request)
        return answers[min(len(asked), len(answers)) - 1] if answers else None

    async with serving(answer) as cluster:
        yield cluster, asked


class Storing:
    """Answers writes by what they wrote, as a healthy API server without controllers; keeps them in order."""

    def __init__(self) -> None:
        self.written: list[Request] = []
        self._objects: dict[str, dict[str, Any]] = {}
        self._version = 1000

    def __call__(self, request: Request) -> Answer:
        """Answer one request."""
        key = request.path.removesuffix("/status")
        if request.method == "GET":
            found = self._objects.get(key)
            return (200, found) if found else (404, {"kind": "Status", "code": 404, "message": "not found"})
        self.written.append(request)
        if request.method == "DELETE":
            gone = self._objects.pop(key, None)
            return (200 if gone else 404), {"kind": "Status"}
        if request.method == "POST":
            key = f"{key}/{request.body['metadata']['name']}"
        self._version += 1
        before = self._objects.get(key, {"metadata": {"uid": f"uid-{self._version}", "generation": 1}})
        given = request.body.get("metadata") or {}
        metadata = {
            **before["metadata"],
            **given,
            "resourceVersion": str(self._version),
        }
        body = dict(request.body)
        if request.path.endswith("/status"):
            # By server-side apply: what another manager wrote stays.
            body["status"] = _merged(before.get("status") or {}, body["status"])
        self._objects[key] = {**before, **body, "metadata": metadata}
        return 200, self._objects[key]

    def put(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Have an object there already; return it as it stands."""
        self._version += 1
        body["metadata"]["resourceVersion"] = str(self._version)
        self._objects[path] = body
        return body


def _merged(before: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """Return a status after an apply: conditions are a map by type."""
    conditions = {entry["type"]: entry for entry in before.get("conditions") or []}
    conditions |= {entry["type"]: entry for entry in wanted.get("conditions") or []}
    kept = [entry for entry in conditions.values() if entry.get("$patch") != "delete"]
    return {**before, **wanted, "conditions": kept}
