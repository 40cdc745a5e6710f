"""The driver's TCP side: dials, listens, carries bytes, and keeps every stream's deadline."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, cast

from wesher_agent.mesh.dialling import MAX_OPEN
from wesher_agent.net.core import Core
from wesher_agent.net.sockets import BACKLOG, open_outgoing
from wesher_agent.swim.address import Address
from wesher_agent.swim.events import PacketRejected
from wesher_agent.swim.profile import DEFAULT_LIMITS
from wesher_agent.swim.streams import CloseStream, OpenStream, StreamAction, StreamId, WriteStream
from wesher_common.event_logger import EventLogger

log = EventLogger("wesher.net")

CHUNK = 1 << 14
"""Bytes read at once: asyncio's own 256 KiB would stay as a buffer of twice that with each connection."""

FLUSH_SECONDS = 1.0
"""How long the last answers may take to leave when everything is closed."""

ACCEPT_PAUSE = 1.0
"""Seconds without accepting after the kernel refused: without file descriptors it would refuse again."""
ACCEPT_QUIET = 300.0
"""Seconds before that is logged again."""

Tell = Callable[[Any], Any]
"""Calls the engine with the time; never raises."""


class Streams:
    """Every TCP connection of one engine, dialled and accepted."""

    def __init__(
        self,
        core: Core,
        tell: Tell,
        on_rejected: Callable[[PacketRejected], None],
        *,
        mark: int = 0,
    ) -> None:
        self._core = core
        self._mark = mark
        self._tell = tell
        self._on_rejected = on_rejected
        self._loop = asyncio.get_running_loop()
        self._listeners: dict[socket.socket, asyncio.TimerHandle | None] = {}
        """With what ends each one's pause."""
        self._accepting: set[asyncio.Task[None]] = set()
        self._refusal_logged_at = -ACCEPT_QUIET
        self._open: dict[StreamId, _Stream] = {}
        self._dialling: dict[StreamId, asyncio.Task[None]] = {}
        self._connected: set[_Stream] = set()
        """Those that the engine ended too, until what was written on them has left."""
        self._disconnected = asyncio.Event()
        self.buffer = bytearray(CHUNK)
        """Of all connections: what one has read is copied before the next reads."""

    @property
    def _in_use(self) -> int:
        # One that has just been connected is in both.
        return len(self._open.keys() | self._dialling.keys())

    def listen(self, listener: socket.socket) -> None:
        """Accept connections on a socket that listens already."""
        # By hand: out of file descriptors asyncio's server logs thousands of tracebacks a second.
        self._listeners[listener] = None
        self._loop.add_reader(listener, self._accept, listener)

    def stop_listening(self) -> None:
        """Accept no more; what is open stays."""
        for listener, pause in self._listeners.items():
            if pause is not None:
                pause.cancel()
            self._loop.remove_reader(listener)
            listener.close()
        self._listeners.clear()

    async def close(self) -> None:
        """Stop listening and dialling, and end what is open once what was written has left."""
        self.stop_listening()
        dialling = [*self._dialling.values(), *self._accepting]
        for task in dialling:
            task.cancel()
        for stream in list(self._open.values()):
            stream.end()
        await asyncio.gather(*dialling, return_exceptions=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_SECONDS):
                while self._connected:
                    self._disconnected.clear()
                    await self._disconnected.wait()
        for stream in list(self._connected):
            stream.abort()

    def act(self, actions: Sequence[StreamAction]) -> bool:
        """Do what the engine asks, in order; tell whether it asked for anything."""
        for action in actions:
            match action:
                case OpenStream(id=stream, address=address) if self._in_use >= MAX_OPEN:
                    # Not from here: the engine is still handing out its actions.
                    self._loop.call_soon(self._not_opened, stream, address, "too many connections at once")
                case OpenStream(id=stream):
                    self._dialling[stream] = self._loop.create_task(self._dial(action))
                case WriteStream(id=stream, data=data) if stream in self._open:
                    self._open[stream].write(data)
                case CloseStream(id=stream):
                    if stream in self._dialling:
                        self._dialling[stream].cancel()
                    if stream in self._open:
                        self._open[stream].end()
        return bool(actions)

    async def _dial(self, request: OpenStream) -> None:
        deadline = self._loop.time() + request.timeout
        address = request.address
        try:
            async with asyncio.timeout_at(deadline):
                await self._connect(address, partial(_Stream, self, request.id, deadline, request.data))
        except TimeoutError:
            self._not_opened(request.id, address, "timed out")
        except OSError as error:
            text = os.strerror(error.errno).lower() if error.errno else str(error)
            self._not_opened(request.id, address, text)
        else:
            log.debug("connection opened", to=address)
        finally:
            self._dialling.pop(request.id, None)

    async def _connect(self, address: Address, stream: Callable[[], _Stream]) -> None:
        sock = open_outgoing(address.ip, mark=self._mark)
        try:
            await self._loop.sock_connect(sock, address)
            await self._loop.create_connection(stream, sock=sock)
        except BaseException:
            sock.close()
            raise

    def _not_opened(self, stream: StreamId, address: Address, error: str) -> None:
        log.debug("connection not opened", to=address, error=error)
        self.ended(stream, error)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(BACKLOG):
            try:
                sock, remote = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._pause(listener, error)
                return
            task = self._loop.create_task(self._adopt(sock, Address(remote[0], remote[1])))
            self._accepting.add(task)
            task.add_done_callback(partial(self._adopted, sock))

    def _adopted(self, sock: socket.socket, task: asyncio.Task[None]) -> None:
        self._accepting.discard(task)
        if task.cancelled():
            # Perhaps before it began.
            sock.close()

    def _pause(self, listener: socket.socket, error: OSError) -> None:
        now = self._loop.time()
        if now >= self._refusal_logged_at + ACCEPT_QUIET:
            self._refusal_logged_at = now
            log.warning("connections not accepted: trying again", error=error)
        self._loop.remove_reader(listener)
        resume = partial(self._loop.add_reader, listener, self._accept, listener)
        self._listeners[listener] = self._loop.call_later(ACCEPT_PAUSE, resume)

    async def _adopt(self, sock: socket.socket, caller: Address) -> None:
        deadline = self._loop.time() + DEFAULT_LIMITS.accepted_stream_timeout
        try:
            await self._loop.connect_accepted_socket(
                partial(_Stream, self, None, deadline, caller=caller), sock
            )
        except OSError:
            # It has ended already.
            sock.close()

    # What a stream reports.

    def admit(self, remote: Address) -> StreamId | None:
        """Name an accepted connection; None when the core failed."""
        return cast("StreamId | None", self._tell(partial(self._core.stream_accepted, remote)))

    def connected(self, stream: _Stream) -> None:
        """Know of a connection, whether or not the engine will."""
        self._connected.add(stream)

    def disconnected(self, stream: _Stream) -> None:
        """Know that nothing is left of a connection."""
        self._connected.discard(stream)
        self._disconnected.set()

    def opened(self, name: StreamId, stream: _Stream) -> None:
        """Keep a stream under its name."""
        self._open[name] = stream

    def received(self, name: StreamId, data: bytes) -> None:
        """Hand on bytes."""
        self._tell(partial(self._core.stream_received, name, data))

    def ended(self, name: StreamId, error: str | None) -> None:
        """Report that a stream has ended, unless the engine ended it; no error when in order."""
        self._open.pop(name, None)
        self._tell(partial(self._core.stream_closed, name, error=error))

    def never_asked(self, remote: Address) -> None:
        """Count a connection on which no whole request came in time."""
        self._on_rejected(PacketRejected("request-timed-out", remote))

    def forget(self, name: StreamId) -> None:
        """Drop a stream that the engine ended."""
        self._open.pop(name, None)


class _Stream(asyncio.BufferedProtocol):
    """One connection."""

    def __init__(
        self,
        streams: Streams,
        name: StreamId | None,
        deadline: float,
        data: bytes = b"",
        *,
        caller: Address | None = None,
    ) -> None:
        self._streams = streams
        self._name = name
        self._caller = caller
        """The host that dialled, when it was not this one; a connection that was reset has no peer to ask."""
        self._deadline = deadline
        self._data = data
        self._transport: asyncio.Transport | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._streams.connected(self)
        if self._caller is not None:
            self._name = self._streams.admit(self._caller)
        if self._name is None:
            self._ended = True
            self._transport.abort()
            return
        self._streams.opened(self._name, self)
        self._expiry = asyncio.get_running_loop().call_at(self._deadline, self._expire)
        if self._data:
            self._transport.write(self._data)

    def get_buffer(self, sizehint: int) -> bytearray:  # noqa: ARG002 - asyncio's to name
        return self._streams.buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._name is not None and not self._ended:
            self._streams.received(self._name, bytes(self._streams.buffer[:nbytes]))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        self._streams.disconnected(self)
        self._report(None if exc is None else str(exc))

    def write(self, data: bytes) -> None:
        """Send bytes in the order of calls."""
        if self._transport is not None:
            self._transport.write(data)

    def end(self) -> None:
        """Close once everything written has left, or when the deadline comes."""
        self._ended = True
        if self._name is not None:
            self._streams.forget(self._name)
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once, whatever was written."""
        if self._transport is not None:
            self._transport.abort()

    def _expire(self) -> None:
        if self._caller is not None and not self._ended:
            self._streams.never_asked(self._caller)
        self._report("timed out")
        self.abort()

    def _report(self, error: str | None) -> None:
        if not self._ended and self._name is not None:
            self._ended = True
            self._streams.ended(self._name, error)
