"""What of a running agent is kept for its next start, written whenever there is reason to."""

from __future__ import annotations

import asyncio
import logging

from wesher_agent.files.atomic import CannotWrite
from wesher_agent.files.state_format import State
from wesher_agent.mesh.roster import Roster
from wesher_agent.net.driver import Driver
from wesher_agent.runtime.beginning import Beginning
from wesher_agent.runtime.counts import Counts
from wesher_agent.swim.engine import Engine

log = logging.getLogger("wesher.agent")


class StateSaver:
    """Writes the state file.

    Args:
        begun: where it lies, and what it held that is not ours to change.
        roster: the members to find again.
        engine: our last words, and who is gone.
        driver: its clock.
        counts: what to count failures in.

    """

    def __init__(
        self, begun: Beginning, *, roster: Roster, engine: Engine, driver: Driver, counts: Counts
    ) -> None:
        self.failed = False
        """Whether the last try did."""
        self._begun = begun
        self._roster = roster
        self._engine = engine
        self._driver = driver
        self._counts = counts

    async def save(self) -> None:
        """Write everything as it is now; what cannot be written is said once."""
        try:
            await asyncio.to_thread(self._begun.state_file.save, self._state())
        except CannotWrite as error:
            self._counts.add("stateNotSaved")
            if not self.failed:
                log.warning("state not saved, running on from memory error=%s", error)
            self.failed = True
        else:
            self.failed = False

    def forget(self) -> None:
        """Take the file away, keys included."""
        try:
            self._begun.state_file.remove()
        except CannotWrite as error:
            log.warning("state of a mesh that was left stays, remove it by hand error=%s", error)

    def _state(self) -> State:
        me, now = self._begun.myself, self._driver.now
        node = me.node
        return State(
            key_ring=me.ring,
            nodes=self._roster.saved(now=now),
            private_key=me.key,
            name=me.name,
            gossip_address=self._engine.me.address,
            overlay_address=me.overlay_address,
            advertise_address=node.advertise_address if node is not None else None,
            location=node.location if node is not None else "",
            routes=node.routes if node is not None else (),
            incarnation=max(self._begun.incarnation, self._engine.me.incarnation),
            tombstones=self._engine.tombstones(now=now),
            mesh=me.document if me.in_kubernetes else None,
            unknown=self._begun.saved.unknown,
        )
