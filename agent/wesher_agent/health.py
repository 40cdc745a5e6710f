"""The health endpoint that a kubelet's probes ask: HTTP on 127.0.0.1, on a port of each mesh.

``/healthz`` answers 200 because it answers at all: the event loop runs. ``/readyz`` says what
``wesher status --check`` says: 200 for a host in its mesh, otherwise 503 with the reasons. Every local
user can ask, so no answer has more than fixed words in it.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Sequence

import h11

from wesher_agent.netlink.port_holder import find_holder
from wesher_common.conditions import Condition
from wesher_common.event_logger import EventLogger

log = EventLogger("wesher.health")

HOST = "127.0.0.1"
MAX_CONNECTIONS = 128
"""More than asyncio accepts at one go, 100: a connection is read before others can take its place."""
MAX_REQUEST = 4096
"""Bytes of a request's head."""
REQUEST_SECONDS = 2.0
"""For a request and its answer."""
RETRY_SECONDS = 2.0
"""Between two attempts to listen; an outgoing connection may have the port for a moment."""


class HealthServer:
    """Answers probes while it runs.

    Args:
        port: TCP, on `HOST`.
        failing: the conditions that keep this host out of its mesh now; none when it is in it.
        on_change: called when `problem` changed.

    """

    def __init__(
        self, port: int, failing: Callable[[], Sequence[Condition]], *, on_change: Callable[[], None]
    ) -> None:
        self.problem = ""
        """Why probes are not answered; empty while they are, and before the first attempt."""
        self._port = port
        self._failing = failing
        self._on_change = on_change
        self._connections: dict[asyncio.StreamWriter, None] = {}
        """In the order in which they came."""

    async def run(self) -> None:
        """Listen until cancelled; wait for a port that another program has."""
        while True:
            try:
                server = await asyncio.start_server(self._serve, HOST, self._port, limit=MAX_REQUEST)
            except OSError as error:
                await self._not_listening(error)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                break
        if self.problem:
            self.problem = ""
            log.warning("health port available again", port=self._port)
            self._on_change()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            server.close()
            for writer in self._connections:
                writer.transport.abort()

    async def _not_listening(self, error: OSError) -> None:
        if self.problem:
            return
        if error.errno == errno.EADDRINUSE:
            holder = await asyncio.to_thread(find_holder, "TCP", self._port) or "another program"
            self.problem = f"TCP port {self._port} of {HOST} is taken by {holder}"
        else:
            self.problem = f"cannot listen on TCP port {self._port} of {HOST}: {error.strerror or error}"
        log.warning("health port not available: probes of this agent fail", error=self.problem)
        self._on_change()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections[writer] = None
        if len(self._connections) > MAX_CONNECTIONS:
            # The oldest, not this one: idle connections of a local user must not keep the kubelet out.
            oldest = next(iter(self._connections))
            del self._connections[oldest]
            oldest.transport.abort()
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                writer.write(await self._answer(reader))
                await writer.drain()
        except (OSError, TimeoutError) as error:
            log.debug("health connection ended early", error=error)
        finally:
            self._connections.pop(writer, None)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        """Return the answer to one request; empty when none came."""
        connection = h11.Connection(our_role=h11.SERVER, max_incomplete_event_size=MAX_REQUEST)
        try:
            while (event := connection.next_event()) is h11.NEED_DATA:
                connection.receive_data(await reader.read(MAX_REQUEST))
        except h11.RemoteProtocolError as error:
            return _response(connection, error.error_status_hint, "the HTTP request is invalid or too large")
        if not isinstance(event, h11.Request):
            return b""
        if event.method != b"GET":
            return _response(connection, 405, "only GET is supported", has_body=event.method != b"HEAD")
        match event.target.partition(b"?")[0]:
            case b"/healthz":
                return _response(connection, 200, "the agent is running")
            case b"/readyz":
                reasons = [f"{each.type} {each.status} {each.reason}" for each in self._failing()]
                return _response(connection, 503 if reasons else 200, "\n".join(reasons) or "in the mesh")
        return _response(connection, 404, "no such path: use /healthz or /readyz")


def _response(connection: h11.Connection, status: int, text: str, *, has_body: bool = True) -> bytes:
    body = f"{text}\n".encode()
    headers = [
        ("Content-Type", "text/plain"),
        ("Content-Length", str(len(body))),
        ("Connection", "close"),
    ]
    said = [h11.Response(status_code=status, headers=headers), h11.Data(body if has_body else b"")]
    return b"".join(connection.send(each) or b"" for each in [*said, h11.EndOfMessage()])
