"""Carries out what `endpoint_trials` decides: sets endpoints on the device and asks peers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from wesher_agent.mesh.device import Endpoint
from wesher_agent.tunnel.endpoint_trials import EndpointTrials
from wesher_agent.tunnel.prober import Prober
from wesher_agent.tunnel.tunnel import Tunnel
from wesher_common.event_logger import EventLogger
from wesher_common.keys import WireGuardPublicKey
from wesher_common.report import SHOWN_NAMES

log = EventLogger("wesher.endpoints")

LOOK_SECONDS = 0.25
"""At least, between two looks: each reads every peer, and announcements may come in a flood."""
NO_DEVICE_SECONDS = 1.0
"""Until the next attempt while there is no device to look at."""


class EndpointKeeper:
    """Keeps each peer at an endpoint where it answers.

    Args:
        tunnel: whose peers are moved.
        prober: what asks them, and knows their sessions.

    """

    def __init__(self, tunnel: Tunnel, prober: Prober) -> None:
        self._tunnel = tunnel
        self._prober = prober
        self._trials = EndpointTrials()
        self._woken = asyncio.Event()
        self._began = asyncio.get_running_loop().time()
        self._moved: dict[WireGuardPublicKey, float] = {}
        """When each peer was last moved."""

    def proven(self) -> dict[WireGuardPublicKey, Endpoint]:
        """Return where handshakes proved peers to be, as last looked at.

        A handshake proves the endpoint only if it is later than the last move: this agent sends
        to announced endpoints too, and an earlier run may have ended during a try.
        """
        now, wall = asyncio.get_running_loop().time(), time.time()
        return {
            key: session.endpoint
            for key, session in self._prober.observed.items()
            if session.endpoint is not None
            and session.has_fresh_handshake(now=wall, within=now - self._moved.get(key, self._began))
        }

    def set_announced(
        self, endpoints: Mapping[str, Endpoint], proven: Mapping[str, Endpoint] = MappingProxyType({})
    ) -> None:
        """Replace the announced and the proven endpoints, by the names that the prober has."""
        self._trials.set_announced(endpoints, proven, now=asyncio.get_running_loop().time())
        present = {self._prober.find_key(name) for name in endpoints}
        self._moved = {key: moved for key, moved in self._moved.items() if key in present}
        self._woken.set()

    def doubt(self, names: Iterable[str]) -> None:
        """Take note that these peers did not answer a probe in time."""
        self._trials.doubt(names, now=asyncio.get_running_loop().time())
        self._woken.set()

    async def run(self) -> None:
        """Go on until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            self._woken.clear()
            timer = self._trials.next_timer()
            if timer is not None and timer <= loop.time():
                has_looked = self._tunnel.ready and await self._prober.look()
                if has_looked:
                    await self._step(loop.time())
                await asyncio.sleep(LOOK_SECONDS if has_looked else NO_DEVICE_SECONDS)
            else:
                await self._rest(None if timer is None else timer - loop.time())

    async def _step(self, now: float) -> None:
        step = self._trials.step(self._prober.sessions(), self._prober.plan.quick, now=now, wall=time.time())
        if step.tried:
            log.info("announced endpoints tried", count=len(step.tried), peers=step.tried[:SHOWN_NAMES])
        if step.restored:
            log.info("former endpoints restored", count=len(step.restored), peers=step.restored[:SHOWN_NAMES])
        if step.moves:
            keys = {
                key: endpoint
                for name, endpoint in step.moves.items()
                if (key := self._prober.find_key(name)) is not None
            }
            self._moved |= dict.fromkeys(keys, now)
            await self._tunnel.move_peers(keys)
        await self._prober.ask(step.asks)
        self._trials.sent(step.asks, took=asyncio.get_running_loop().time() - now)

    async def _rest(self, seconds: float | None) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            pass
