"""One mesh of our members and others', and what must be true of all of them at once.

A `Peer` is anybody who gossips: our driver, the Go library, serf. A `Mesh`
starts them on loopback addresses of their own and compares what they believe.
Metadata is short text here, since that is all that every kind can show.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Protocol, Self

from wesher_agent.wire.messages import PushPull, State
from wesher_agent.wire.packet import PacketFormat
from wesher_agent.wire.stream import StreamReader, seal_stream

GOSSIP_PORT = 7946


class Peer(Protocol):
    """A running member, whoever wrote it."""

    name: str
    address: str
    meta: str
    """What it says of itself, and what all others should know of it."""

    async def alive(self) -> dict[str, str]:
        """Return the metadata of everyone it holds for alive or suspect, itself included."""

    async def join(self, address: str) -> None:
        """Exchange state with the member at an address."""

    async def update(self, meta: str) -> None:
        """Say something else of itself."""

    async def leave(self) -> None:
        """Say goodbye and end."""

    async def crash(self) -> None:
        """End without a word."""


StartPeer = Callable[[str, str, str], AbstractAsyncContextManager[Peer]]
"""Starts a member given name, address and metadata; on the way out it crashes."""


class Mesh:
    """Members that should agree. Leaving the block ends those that still run.

    Args:
        addresses: unused loopback addresses, one for each name.
        patience: seconds that an agreement may take.

    """

    def __init__(self, addresses: list[str], *, patience: float) -> None:
        self.patience = patience
        self.living: dict[str, Peer] = {}
        self._addresses = iter(addresses)
        self._address_of: dict[str, str] = {}
        self._running = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._running.__aenter__()
        return self

    async def __aexit__(self, *reason: object) -> None:
        await self._running.aclose()

    async def start(self, start: StartPeer, name: str) -> Peer:
        """Start a member; a name that was here before gets the address it had."""
        if name not in self._address_of:
            self._address_of[name] = next(self._addresses)
        peer = await self._running.enter_async_context(start(name, self._address_of[name], f"{name} begins"))
        self.living[name] = peer
        return peer

    async def leave(self, *peers: Peer) -> None:
        """Let members leave, all at once."""
        for peer in peers:
            del self.living[peer.name]
        await asyncio.gather(*(peer.leave() for peer in peers))

    async def crash(self, *peers: Peer) -> None:
        """Let members crash, all at once."""
        for peer in peers:
            del self.living[peer.name]
        await asyncio.gather(*(peer.crash() for peer in peers))

    async def agree(self, *, within: float | None = None) -> None:
        """Wait until every living member knows exactly the living ones, and what they say of themselves.

        Raises:
            AssertionError: they do not in time; the text shows every member's view.

        """
        wanted = {name: peer.meta for name, peer in self.living.items()}
        views: dict[str, dict[str, str]] = {}
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (self.patience if within is None else within)
        while True:
            for name, peer in self.living.items():
                views[name] = await peer.alive()
            if all(view == wanted for view in views.values()):
                return
            if loop.time() > deadline:
                raise AssertionError(f"wanted {wanted}, but they believe {views}")
            await asyncio.sleep(0.1)

    async def stay_agreed(self, *, seconds: float) -> None:
        """See that nobody loses anybody for so long.

        Raises:
            AssertionError: somebody does.

        """
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while loop.time() < end:
            await self.agree(within=0)
            await asyncio.sleep(0.5)


async def states_at(peer: Peer, fmt: PacketFormat) -> dict[str, State]:
    """Ask a member for its whole table, which only a push/pull shows, without becoming one."""
    async with asyncio.timeout(60):
        incoming, outgoing = await asyncio.open_connection(peer.address, GOSSIP_PORT)
        try:
            outgoing.write(seal_stream(PushPull((), join=False), fmt, nonce=os.urandom))
            await outgoing.drain()
            reader = StreamReader(fmt, answer=True)
            while (answer := reader.message()) is None:
                data = await incoming.read(65536)
                assert data, f"{peer.name} hung up"
                reader.feed(data)
        finally:
            outgoing.close()
    assert isinstance(answer, PushPull), answer
    return {node.name: node.state for node in answer.nodes}


async def agree_on_states(
    peers: Iterable[Peer], fmt: PacketFormat, wanted: dict[str, State], *, within: float
) -> None:
    """Wait until the tables of all these peers hold these states.

    Raises:
        AssertionError: one does not in time.

    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within
    for peer in peers:
        while not wanted.items() <= (states := await states_at(peer, fmt)).items():
            assert loop.time() < deadline, f"{peer.name} holds {states}, wanted {wanted}"
            await asyncio.sleep(0.1)
