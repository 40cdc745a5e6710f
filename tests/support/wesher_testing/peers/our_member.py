"""Our own member as a peer of a test's mesh: the real engine under the real driver."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from ipaddress import ip_address
from typing import Any, TypeVar

import msgpack

from wesher_agent.mesh.events import Event
from wesher_agent.net.driver import Driver
from wesher_agent.swim.address import Address
from wesher_agent.swim.engine import Engine
from wesher_agent.swim.events import LeaveDone, PacketRejected, PushPullDone, PushPullFailed
from wesher_agent.swim.members import DEFAULT_VERSIONS, LocalNode
from wesher_agent.swim.profile import Profile
from wesher_agent.wire.messages import Versions
from wesher_agent.wire.packet import PacketFormat, Wrapper
from wesher_testing.peers.gossip_mesh import GOSSIP_PORT

_PATIENCE = 90.0
_SERF_TAGS = b"\xff"

SomeEvent = TypeVar("SomeEvent", bound=Event)


def text_of(meta: bytes) -> str:
    """Return metadata as text; out of serf's tags, the role."""
    if meta.startswith(_SERF_TAGS):
        tags: dict[str, str] = msgpack.unpackb(meta[1:], raw=False)
        return tags.get("role", "")
    return meta.decode()


class OurMember:
    """One member run by our driver on the test's event loop. Made by `our_member`."""

    def __init__(self, me: LocalNode, profile: Profile, fmt: PacketFormat) -> None:
        self.name = me.name
        self.address = me.address.ip
        self.meta = text_of(me.meta)
        self.events: list[Event] = []
        """Everything the engine reported, in order."""
        self.engine = Engine(
            me,
            profile,
            packet_format=fmt,
            incarnation=int(time.time()),
            rng=random.Random(),
            nonce=os.urandom,
        )
        self.driver = Driver(self.engine, self._on_event)
        self._reported = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def wrappers(self) -> Counter[Wrapper]:
        """How often each wrapper was met on what arrived."""
        return self.engine.wrappers

    @property
    def rejected(self) -> list[PacketRejected]:
        """What arrived and could not be read."""
        return [event for event in self.events if isinstance(event, PacketRejected)]

    async def alive(self) -> dict[str, str]:
        """Return the metadata of everyone held for alive or suspect."""
        members = self.engine.members.values()
        return {member.name: text_of(member.meta) for member in members if not member.is_gone}

    async def join(self, address: str, port: int = GOSSIP_PORT) -> None:
        """Exchange state with the member at an address."""
        target = Address(address, port)
        before = len(self.events)
        self.driver.tell(partial(self.engine.join, [target]))
        # Not just any: others are exchanged with from time to time.
        done = await self.reported(
            PushPullDone, PushPullFailed, since=before, satisfied=lambda event: event.address == target
        )
        assert isinstance(done, PushPullDone), done

    async def update(self, meta: str) -> None:
        """Announce other metadata."""
        self.meta = meta
        self.driver.tell(partial(self.engine.update_meta, meta.encode()))

    async def leave(self) -> None:
        """Leave, and stop once that has gone out."""
        before = len(self.events)
        self.driver.tell(self.engine.leave)
        await self.reported(LeaveDone, since=before)
        await self.driver.close()

    async def crash(self) -> None:
        """Close the sockets; nothing is said."""
        await self.driver.close()

    async def reported(
        self,
        *kinds: type[SomeEvent],
        since: int = 0,
        satisfied: Callable[[Any], bool] = lambda _: True,
        timeout: float = _PATIENCE,
    ) -> SomeEvent:
        """Return the first event of these kinds that is as wanted, waiting for it if need be."""

        def matching() -> list[SomeEvent]:
            return [event for event in self.events[since:] if isinstance(event, kinds) and satisfied(event)]

        try:
            async with self._reported, asyncio.timeout(timeout):
                await self._reported.wait_for(matching)
        except TimeoutError:
            raise AssertionError(f"{self.name} reported no {kinds} but {self.events[since:]}") from None
        return matching()[0]

    def _on_event(self, event: Event) -> None:
        self.events.append(event)
        task = asyncio.ensure_future(self._tell())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tell(self) -> None:
        async with self._reported:
            self._reported.notify_all()


@asynccontextmanager
async def our_member(
    name: str,
    address: str,
    meta: str,
    *,
    profile: Profile,
    fmt: PacketFormat,
    port: int = GOSSIP_PORT,
    versions: Versions = DEFAULT_VERSIONS,
) -> AsyncIterator[OurMember]:
    """Run one of our members for as long as the block lasts."""
    me = LocalNode(name, Address(address, port), meta.encode(), versions)
    member = OurMember(me, profile, fmt)
    await member.driver.listen([ip_address(address)], port)
    member.driver.tell(member.engine.start)
    try:
        yield member
    finally:
        await member.crash()
