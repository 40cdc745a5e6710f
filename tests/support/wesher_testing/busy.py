"""How busy the machine is, for bounds in seconds that hold where a core is free for whoever wants one."""

from __future__ import annotations

import os


def share_of_a_core() -> float:
    """Return what of a core each runnable process had in the last minute; 1 at most."""
    cores = len(os.sched_getaffinity(0))
    return min(1.0, cores / max(os.getloadavg()[0], cores))
