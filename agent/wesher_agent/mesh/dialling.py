"""When each wanted address is tried: backoff, spread over the mesh, a cap on the rate.

What is wanted is `roster`'s. A target stays until it is no longer wanted; each
try makes the wait for the next longer, so a failed try need not be reported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from random import Random
from typing import Final

from wesher_agent.swim.address import Address
from wesher_agent.swim.profile import DEFAULT_LIMITS
from wesher_common.seeds import SeedAddress

Target = Address | SeedAddress
"""An address to dial, or a seed's name to resolve."""

FIRST_WAIT: Final = 2.0
"""Seconds between the first two tries; doubled from then on, up to the target's own cap."""
LONGEST_WAIT: Final = 600.0
"""Seconds, however large the mesh is."""
REACHED_WAIT: Final = 300.0
"""Seconds until an address that answered is asked again, though no member is alive there:
a seed behind an address that its member does not announce."""
TRIES_A_SECOND: Final = 8
MAX_OPEN: Final = 2 * DEFAULT_LIMITS.accepted_streams
"""Connections at a time, accepted ones included; further dials fail at once and are tried again later."""
KEPT_FREE: Final = MAX_OPEN // 4
"""Of these, for the engine's own: a ping over TCP that finds no room makes a healthy member a suspect."""
MOST_DIALS: Final = MAX_OPEN - KEPT_FREE
"""Connections beyond which no more wanted addresses are dialled."""
SHARERS: Final = 8
"""In a larger mesh each waits longer, so that all together try about as often as that number would."""


@dataclass(slots=True)
class _Plan:
    cap: float
    next_try: float
    tries: int = 0


class DialSchedule:
    """The wanted targets and when each is due."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._plans: dict[Target, _Plan] = {}
        self._stretch = 1.0
        self._closed_until = -inf
        self._earliest = inf

    def want(self, caps: Mapping[Target, float], *, alive: int, now: float) -> None:
        """Replace what is wanted; a new target is due at once, or soon in a large mesh.

        Args:
            caps: the longest wait of each target, in seconds, while few are alive.
            alive: how many members are, this one included.
            now: the time.

        """
        self._stretch = max(1.0, alive / SHARERS)
        for target in self._plans.keys() - caps.keys():
            del self._plans[target]
        for target, cap in caps.items():
            plan = self._plans.get(target)
            if plan is None:
                self._plans[target] = _Plan(cap, self._first_try(now))
            else:
                plan.cap = cap
        self._look_ahead()

    @property
    def next_try(self) -> float:
        """When something is due next; infinite when nothing is wanted."""
        return max(self._closed_until, self._earliest)

    def due(self, *, now: float, most: int = TRIES_A_SECOND) -> list[Target]:
        """Take the targets to try now, longest overdue first, ``most`` and `TRIES_A_SECOND` at most."""
        if now < self.next_try:
            return []
        overdue = [(plan.next_try, target) for target, plan in self._plans.items() if plan.next_try <= now]
        taken = [target for _, target in sorted(overdue, key=lambda entry: entry[0])]
        taken = taken[: min(most, TRIES_A_SECOND)]
        self._closed_until = now + 1.0
        for target in taken:
            plan = self._plans[target]
            wait = min(FIRST_WAIT * 2.0 ** min(plan.tries, 30), plan.cap) * self._stretch
            plan.tries += 1
            plan.next_try = now + self._jittered(min(wait, LONGEST_WAIT))
        self._look_ahead()
        return taken

    def reached(self, address: Address, *, now: float) -> None:
        """Say that an address answered as a member of our mesh."""
        if plan := self._plans.get(address):
            plan.tries = 0
            plan.next_try = now + self._jittered(REACHED_WAIT)
            self._look_ahead()

    def forget_tries(self, *, now: float) -> None:
        """Make every target due as soon as a new one would be, at the latest."""
        for plan in self._plans.values():
            plan.tries = 0
            plan.next_try = min(plan.next_try, self._first_try(now))
        self._look_ahead()

    def _first_try(self, now: float) -> float:
        spread = self._rng.uniform(0.0, FIRST_WAIT * (self._stretch - 1))
        return now + min(spread, LONGEST_WAIT)

    def _look_ahead(self) -> None:
        self._earliest = min((plan.next_try for plan in self._plans.values()), default=inf)

    def _jittered(self, wait: float) -> float:
        return wait * self._rng.uniform(0.5, 1.0)
