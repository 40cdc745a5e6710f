"""Limits in seconds of the wall clock, for a machine that others may be using at the same time."""

from __future__ import annotations

import os

_QUEUE = 2.0
"""Processes a core that want to run at once, on the average, before a machine counts as busy.

So many are the tests' own."""


def stretched(seconds: float) -> float:
    """Return a limit meant for a machine of its own, longer by as much as this one is overloaded.

    The load of the last one and the last five minutes counts, so that it holds for what has
    just been measured too. What was measured is printed as it is.
    """
    load = max(os.getloadavg()[:2])
    return seconds * max(1.0, load / (_QUEUE * (os.cpu_count() or 1)))
