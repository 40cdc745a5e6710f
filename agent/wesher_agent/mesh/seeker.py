"""Looks for members: dials the addresses that the roster wants dialled, and has names resolved.

When an address is due is `dialling`'s, which addresses are wanted is `roster`'s. Here
no more are dialled than there is room for, and one at a time: each dial packs all that
is known, and in a mesh of thousands several at once would take long.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from math import inf

from wesher_agent.mesh.dialling import MOST_DIALS
from wesher_agent.mesh.events import SeedNotResolved
from wesher_agent.mesh.roster import Roster
from wesher_agent.swim.address import Address
from wesher_agent.swim.engine import Engine
from wesher_common.overlay import IPAddress
from wesher_common.seeds import SeedAddress

SEEK_PAUSE = 0.05
"""Seconds between two looks at what to dial: a burst of events costs one look."""


class Seeker:
    """The dials that are due, and the names that are being resolved.

    Args:
        roster: wants addresses dialled and names resolved.
        engine: dials.

    """

    def __init__(self, roster: Roster, engine: Engine) -> None:
        self._roster = roster
        self._engine = engine
        self._looked_at = -inf
        self._dials: deque[Address] = deque()
        self._resolving: set[SeedAddress] = set()
        self._unresolved: set[SeedAddress] = set()

    @property
    def due(self) -> float:
        """When `work` wants to be called."""
        return -inf if self._dials else max(self._roster.next_timer(), self._looked_at + SEEK_PAUSE)

    def work(self, *, now: float) -> list[SeedAddress]:
        """Dial one address, or look at what is wanted; return the names to resolve."""
        if self._dials:
            self._engine.push_pull_with(self._dials.popleft(), now=now)
            return []
        self._looked_at = now
        to_resolve = []
        room = max(0, MOST_DIALS - self._engine.open_streams)
        for target in self._roster.due(now=now, most=room):
            if isinstance(target, Address):
                self._dials.append(target)
            elif target not in self._resolving:
                self._resolving.add(target)
                to_resolve.append(target)
        return to_resolve

    def resolved(
        self, seed: SeedAddress, answers: Iterable[IPAddress], error: str, *, now: float
    ) -> SeedNotResolved | None:
        """Take a resolver's answers; return what there is to report of a name that has none."""
        self._resolving.discard(seed)
        if found := tuple(answers):
            self._unresolved.discard(seed)
            self._roster.resolved(seed, found, now=now)
            return None
        is_first = seed not in self._unresolved
        self._unresolved.add(seed)
        return SeedNotResolved(seed, error, is_first)
