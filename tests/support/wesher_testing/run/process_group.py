"""Ending a command that leads a process group of its own, with everything it started."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from typing import Any

_GRACES = ((signal.SIGINT, 10.0), (signal.SIGTERM, 5.0))
"""What ends it, and the seconds it then has to remove its temporary files."""
_LOOK_SECONDS = 0.05


def end_group(leader: subprocess.Popen[Any]) -> None:
    """End a command started with ``process_group=0`` and its children, as Ctrl-C would, then by force."""
    if leader.poll() is not None:
        return
    try:
        for how, grace in _GRACES:
            os.killpg(leader.pid, how)
            if _ends_within(leader.pid, grace):
                break
    finally:
        # Its pid is not used again before it is waited for.
        os.killpg(leader.pid, signal.SIGKILL)
        leader.wait()


def _ends_within(pid: int, seconds: float) -> bool:
    """Wait for a child to end, without taking note of it."""
    deadline = time.monotonic() + seconds
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.monotonic() > deadline:
            return False
        time.sleep(_LOOK_SECONDS)
    return True
