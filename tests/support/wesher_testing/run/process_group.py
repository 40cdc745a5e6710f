"""Ending a command that leads a process group of its own, with everything it started."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def signals_held() -> Iterator[None]:
    """Hold SIGINT and SIGTERM back until the end of the block: a process started in it is known by then.

    Signals that are not handled in Python, and other threads than the main one, are left alone.
    """
    came: list[int] = []
    former = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if callable(handler := signal.getsignal(number)):
                former[number] = handler
                signal.signal(number, lambda number, _frame: came.append(number))
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
        for held in came:
            signal.raise_signal(held)
