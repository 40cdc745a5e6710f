"""Control groups of a lab's containers: named after the process that made them, and removed with them.

Works on both versions of the kernel's interface. A container's group outlives the
container when nobody removes it, so what a killed run left is swept by the next.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from os import getpid
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_PREFIX = "wesher-lab-"
_PATIENCE = 10.0
"""Seconds in which the killed processes inside must have left."""


@contextmanager
def group() -> Iterator[str]:
    """Name a control group, such as ``/wesher-lab-42``, and remove it with all below it at the end.

    Whoever puts processes into it makes it, and has ended them before.
    """
    for name in {path.name for path in _made()}:
        if not Path("/proc", name.removeprefix(_PREFIX)).exists():
            _remove(name)
    name = f"{_PREFIX}{getpid()}"
    try:
        yield f"/{name}"
    finally:
        _remove(name)


def _made() -> list[Path]:
    # The second pattern is for version 1, where every controller has a tree of its own.
    return [*_ROOT.glob(f"{_PREFIX}*"), *_ROOT.glob(f"*/{_PREFIX}*")]


def _remove(name: str) -> None:
    deadline = time.monotonic() + _PATIENCE
    while tops := [path for path in _made() if path.name == name]:
        for top in tops:
            deepest_first = sorted((path for path in top.rglob("*") if path.is_dir()), reverse=True)
            for path in (*deepest_first, top):
                # Busy until its last process is buried; gone when another controller's tree is the same one.
                with suppress(OSError):
                    path.rmdir()
        if time.monotonic() > deadline:
            raise RuntimeError(f"control group {name} is still in use: {tops[0]}")
        time.sleep(0.02)
