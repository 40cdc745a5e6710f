"""How long a suspected member has to deny, given how many others suspect it too.

`suspicion.go` and `util.go`; the idea is Lifeguard's: start patient, grow sure
with each independent confirmation.
"""

from __future__ import annotations

import math


def suspicion_timeout(suspicion_mult: int, n: int, interval: float) -> float:
    """Return the shortest time a suspicion lasts, in ``interval``'s unit (`util.go`).

    Args:
        suspicion_mult: the profile's.
        n: members known.
        interval: the probe interval.

    """
    scale = int(max(1.0, math.log10(max(1.0, n))) * 1000)
    return suspicion_mult * scale * interval / 1000


def timeout_after(confirmations: int, wanted: int, shortest: float, longest: float) -> float:
    """Return how long a suspicion lasts from its start, once so many have confirmed it.

    Args:
        confirmations: independent ones so far.
        wanted: how many it takes to reach ``shortest``; at least 1.
        shortest: seconds.
        longest: seconds.

    """
    fraction = math.log(confirmations + 1.0) / math.log(wanted + 1.0)
    raw = longest - fraction * (longest - shortest)
    return max(shortest, math.floor(1000.0 * raw) / 1000)


class Suspicion:
    """One member under suspicion.

    Args:
        from_node: who raised it; it does not count as a confirmation.
        wanted: confirmations that would make us sure; 0 when there are too few members to ask.
        shortest: seconds.
        longest: seconds.
        now: the time.

    """

    __slots__ = ("_from", "_longest", "_shortest", "_start", "_wanted", "deadline")

    def __init__(self, from_node: str, wanted: int, shortest: float, longest: float, *, now: float) -> None:
        self._from = {from_node}
        self._wanted = wanted
        self._shortest = shortest
        self._longest = longest
        self._start = now
        self.deadline = now + (longest if wanted > 0 else shortest)

    @property
    def confirmations(self) -> int:
        """How many others have confirmed it, as far as that counts."""
        return len(self._from) - 1

    def confirm(self, from_node: str) -> bool:
        """Take another member's word for it.

        Returns:
            Whether it was news, and so is worth passing on; the deadline moved then.

        """
        if self.confirmations >= self._wanted or from_node in self._from:
            return False
        self._from.add(from_node)
        self.deadline = self._start + timeout_after(
            self.confirmations, self._wanted, self._shortest, self._longest
        )
        return True
