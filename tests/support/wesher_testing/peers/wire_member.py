"""A member moved by hand: it owns sockets and our wire format, and no state machine.

What it hears it keeps; what it says the test decides. It answers pings and
push/pulls by itself, so that a real peer takes it for alive.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_address
from typing import TypeVar, cast

from wesher_agent.wire.messages import (
    AckResp,
    Alive,
    ErrResp,
    Knock,
    Message,
    Ping,
    PushNodeState,
    PushPull,
    State,
    Versions,
    encode,
)
from wesher_agent.wire.packet import PacketFormat, Wrapper, open_packet, seal
from wesher_agent.wire.stream import StreamReader, seal_stream
from wesher_common.errors import PeerMisbehaved

_PATIENCE = 60.0

SomeMessage = TypeVar("SomeMessage", bound=Message)


class WireMember(asyncio.DatagramProtocol):
    """One member whose every message is the test's.

    Made by `wire_member`.
    """

    def __init__(self, alive: Alive, fmt: PacketFormat) -> None:
        self.alive = alive
        self.format = fmt
        self.heard: list[Message] = []
        """Every message that arrived, by datagram or stream, in order."""
        self.wrappers: Counter[Wrapper] = Counter()
        """How often each wrapper was met on a datagram."""
        self.stream_wrappers: Counter[Wrapper] = Counter()
        self.rejected: list[str] = []
        """Why something that arrived could not be read."""
        self.answers_pings = True
        self.refuses_push_pulls = ""
        """What to answer a push/pull with in place of our state."""
        self._heard_more = asyncio.Condition()
        self._transport: asyncio.DatagramTransport | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def state(self) -> PushNodeState:
        """Itself, as a push/pull lists it."""
        mine = self.alive
        return PushNodeState(
            mine.node, mine.addr, mine.port, mine.meta, mine.incarnation, State.ALIVE, mine.vsn
        )

    def push_pull(self, *, join: bool = False, user_state: bytes = b"") -> PushPull:
        """Return the state exchange of a member that knows only itself."""
        return PushPull((self.state,), join=join, user_state=user_state)

    def say(self, *messages: Message, to: str, checksum: bool = False) -> None:
        """Send messages in one datagram to the same port of another address."""
        assert self._transport is not None
        parts = [encode(message) for message in messages]
        data = seal(parts, self.format, checksum=checksum, nonce=os.urandom)
        self._transport.sendto(data, (to, self.alive.port))

    async def ask(self, message: Message, *, of: str, raw: bytes | None = None) -> Message | None:
        """Send one message on a stream and return the answer, None when there is none.

        Args:
            message: what to send.
            of: the address to ask, at our own port.
            raw: sent in place of the message when given.

        """
        async with asyncio.timeout(_PATIENCE):
            incoming, outgoing = await asyncio.open_connection(of, self.alive.port)
            try:
                outgoing.write(raw or seal_stream(message, self.format, nonce=os.urandom))
                await outgoing.drain()
                return await self._read(incoming, StreamReader(self.format, answer=True))
            finally:
                outgoing.close()

    async def hear(
        self,
        kind: type[SomeMessage],
        satisfied: Callable[[SomeMessage], bool] = lambda _: True,
        *,
        timeout: float = _PATIENCE,
    ) -> SomeMessage:
        """Return the first message of that kind that arrived, waiting for it if need be."""

        def matching() -> list[SomeMessage]:
            return [message for message in self.heard if isinstance(message, kind) and satisfied(message)]

        try:
            async with self._heard_more, asyncio.timeout(timeout):
                await self._heard_more.wait_for(matching)
        except TimeoutError:
            raise AssertionError(f"no {kind.__name__} among {self.heard}") from None
        return matching()[0]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way to send."""
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Keep what was said, and answer pings."""
        try:
            opened = open_packet(data, self.format)
        except PeerMisbehaved as misbehaved:
            self.rejected.append(str(misbehaved))
            return
        self.rejected.extend(opened.rejected)
        self.wrappers.update(opened.wrappers)
        for message in opened.messages:
            if isinstance(message, Ping) and self.answers_pings:
                self.say(AckResp(message.seq_no), to=addr[0])
        self._keep(opened.messages)

    async def serve(self, incoming: asyncio.StreamReader, outgoing: asyncio.StreamWriter) -> None:
        """Take one request and answer it."""
        try:
            try:
                request = await self._read(incoming, StreamReader(self.format))
            except PeerMisbehaved as misbehaved:
                self.rejected.append(str(misbehaved))
                return
            if request is None:
                return
            answer: Message | None = None
            if isinstance(request, PushPull):
                refusal = self.refuses_push_pulls
                answer = ErrResp(refusal) if refusal else self.push_pull()
            elif isinstance(request, Ping) and self.answers_pings:
                answer = AckResp(request.seq_no)
            if answer is not None:
                outgoing.write(seal_stream(answer, self.format, nonce=os.urandom, answer=True))
                await outgoing.drain()
            self._keep((request,))
        finally:
            outgoing.close()

    async def _read(self, incoming: asyncio.StreamReader, reader: StreamReader) -> Message | None:
        while (message := reader.message()) is None:
            data = await incoming.read(65536)
            if not data:
                return None
            reader.feed(data)
        self.rejected.extend(reader.rejected)
        self.stream_wrappers.update(reader.wrappers)
        assert not isinstance(message, Knock)
        return message

    def _keep(self, messages: tuple[Message, ...]) -> None:
        self.heard.extend(messages)
        task = asyncio.ensure_future(self._tell())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tell(self) -> None:
        async with self._heard_more:
            self._heard_more.notify_all()


@asynccontextmanager
async def wire_member(
    name: str,
    address: str,
    fmt: PacketFormat,
    *,
    port: int = 7946,
    meta: bytes = b"",
    versions: Versions | None = None,
) -> AsyncIterator[WireMember]:
    """Bind a member's UDP and TCP sockets for as long as the block lasts."""
    alive = Alive(1, name, ip_address(address).packed, port, meta, versions or Versions())
    member = WireMember(alive, fmt)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: member, local_addr=(address, port))
    server = await asyncio.start_server(member.serve, address, port)
    try:
        yield member
    finally:
        server.close()
        transport.close()
        await server.wait_closed()
