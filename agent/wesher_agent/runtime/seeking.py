"""Dials whom the roster wants dialled, resolves the names it wants resolved."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from wesher_agent.mesh.roster import Roster, SkippedSeed
from wesher_agent.net.addresses import resolve
from wesher_agent.net.driver import Driver
from wesher_agent.runtime.counts import Counts
from wesher_agent.swim.engine import Engine
from wesher_common.seeds import SeedAddress

log = logging.getLogger("wesher.roster")

SHORTEST_REST = 0.05
"""Seconds; a burst of events is looked at once."""


class Seeker:
    """Keeps the roster's time.

    Args:
        roster: says whom to dial when.
        engine: exchanges state with them.
        driver: runs the engine.
        on_change: called when the roster forgot somebody.
        counts: what to count seeds that lead nowhere in.

    """

    def __init__(
        self,
        roster: Roster,
        engine: Engine,
        driver: Driver,
        *,
        on_change: Callable[[], None],
        counts: Counts,
    ) -> None:
        self._roster = roster
        self._engine = engine
        self._driver = driver
        self._on_change = on_change
        self._counts = counts
        self._woken = asyncio.Event()
        self._failed: set[SeedAddress] = set()

    def wake(self) -> None:
        """Say that the roster may want something else by now."""
        self._woken.set()

    async def run(self) -> None:
        """Seek until cancelled."""
        skipped: set[SkippedSeed] = set()
        async with asyncio.TaskGroup() as resolving:
            while True:
                self._woken.clear()
                await self._look(resolving)
                for one in set(self._roster.skipped) - skipped:
                    self._counts.add("seedsSkipped")
                    log.warning(
                        "seed not dialled seed=%s address=%s reason=%r", one.seed, one.address, one.reason
                    )
                skipped = set(self._roster.skipped)
                await self._rest()

    async def _look(self, resolving: asyncio.TaskGroup) -> None:
        now = self._driver.now
        for name in self._roster.forget(now=now):
            log.warning("member forgotten, it was away too long node=%s", name)
            self._on_change()
        for target in self._roster.due(now=now, most=self._driver.free_dials):
            if isinstance(target, SeedAddress):
                resolving.create_task(self._resolve(target))
            else:
                self._driver.tell(partial(self._engine.push_pull_with, target))
                # It packs all that is known, so in a large mesh several at once would hold up the loop.
                await asyncio.sleep(0)

    async def _rest(self) -> None:
        try:
            async with asyncio.timeout(max(SHORTEST_REST, self._roster.next_timer() - self._driver.now)):
                await self._woken.wait()
        except TimeoutError:
            return
        await asyncio.sleep(SHORTEST_REST)

    async def _resolve(self, seed: SeedAddress) -> None:
        try:
            answers = await resolve(seed.host)
        # Names that cannot be encoded are ValueErrors; a machine out of threads raises RuntimeError.
        except (OSError, ValueError, RuntimeError) as error:
            self._counts.add("seedsNotResolved")
            if seed not in self._failed:
                log.warning("seed not resolved seed=%s error=%s", seed, str(error) or "no answer in time")
            self._failed.add(seed)
            return
        self._failed.discard(seed)
        self._roster.resolved(seed, answers, now=self._driver.now)
        self.wake()
