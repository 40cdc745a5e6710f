"""How busy the machine is, for bounds in seconds that hold where a core is free for whoever wants one."""

from __future__ import annotations

import os

STRETCH_AT_MOST = 3.0
"""Beyond it a limit no longer tells good from bad: stretched fivefold, the 3 s for a killed wireguard-go
are the 15 s that it takes where peers are not asked at once."""


def share_of_a_core() -> float:
    """Return what of a core each runnable process had in the last minute; 1 at most."""
    cores = len(os.sched_getaffinity(0))
    return min(1.0, cores / max(os.getloadavg()[0], cores))


def stretched(seconds: float) -> float:
    """Return a limit meant for a machine of one's own, longer by as much as this one is overloaded.

    Two processes a core are taken for the tests' own. The last five minutes count like the
    last one, so that the limit holds for what was measured some time ago too.
    """
    cores = len(os.sched_getaffinity(0))
    overload = max(os.getloadavg()[:2]) / (2 * cores)
    return seconds * min(max(1.0, overload), STRETCH_AT_MOST)
