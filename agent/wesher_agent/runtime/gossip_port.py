"""The port on which this member gossips: opened at the start or once another program lets go of it.

Where it is open on one address of this host, it follows that address when it changes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from wesher_agent.net.driver import Driver
from wesher_agent.net.sockets import GossipPortTaken
from wesher_agent.runtime.myself import Myself
from wesher_common.errors import InvalidSpec
from wesher_common.event_logger import EventLogger
from wesher_common.overlay import IPAddress

log = EventLogger("wesher.agent")

TRY_SECONDS = 3.0
"""Between two tries to get a port that another program has."""


class GossipPort:
    """One port, UDP and TCP.

    Args:
        driver: listens, and starts the engine once it does.
        me: says where.
        on_change: called when `problem` may be another.

    """

    def __init__(self, driver: Driver, me: Myself, *, on_change: Callable[[], None]) -> None:
        self.problem = ""
        """Who has it; empty when it is ours."""
        self._driver = driver
        self._me = me
        self._on_change = on_change
        self._bound: tuple[IPAddress, ...] | None = None
        """Where it listens; None until it first did."""

    async def open(self) -> None:
        """Listen.

        In Kubernetes a port that is taken is waited for: the status tells of it, and a changed
        mesh.json takes effect at once, as it does not on a container that Kubernetes holds back.

        Raises:
            InvalidSpec: the port is taken, or its address is not this host's.

        """
        try:
            await self._listen()
        except GossipPortTaken as error:
            if not self._me.in_kubernetes:
                raise
            log.error("gossip port is taken: waiting for it", error=error)  # noqa: TRY400 - it is the user's
            self.problem = error.rule

    async def wait(self) -> None:
        """Return once the port is ours."""
        while self.problem:
            await asyncio.sleep(TRY_SECONDS)
            try:
                await self._listen()
            except InvalidSpec as error:
                self.problem = error.rule
            else:
                log.warning("gossip port is free, listening", port=self._me.document.gossip.port)
                self.problem = ""
            self._on_change()

    async def follow(self) -> None:
        """Listen where `me` is to listen by now; where that cannot be, try again at the next call."""
        bind = self._me.listening.bind
        if self._bound in {None, bind}:
            return
        self._bound = ()
        try:
            await self._driver.reopen(bind, self._me.document.gossip.port)
        except InvalidSpec as error:
            if self.problem != error.rule:
                log.error("gossip cannot listen", error=error)  # noqa: TRY400 - it is the user's
            self.problem = error.rule
        else:
            log.warning("gossip listen addresses changed", addresses=bind)
            self._bound, self.problem = bind, ""
        self._on_change()

    async def _listen(self) -> None:
        bind = self._me.listening.bind
        await self._driver.open(bind, self._me.document.gossip.port)
        self._bound = bind
