"""Control groups of containers: their share of the processors, and what those leave that are killed.

Works on both versions of the kernel's interface. Only groups that bear the name of a
known container are touched: the machine's own containerd uses the same parent.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_PARENT = "k8s.io"
"""Where containerd puts what a kubelet gives no parent: its namespace for Kubernetes."""

_WEIGHTS = ((_ROOT / "cpu", "cpu.shares", 16 * 1024), (_ROOT, "cpu.weight", 16 * 100))
"""Where either version has which file, and sixteen times the usual value."""

_PATIENCE = 10.0
"""Seconds in which killed processes must have left their group."""


def favour_containers() -> None:
    """Let all containers of the machine together count for more than one process, if they may.

    Otherwise a busy machine starves pods, which have one share of the processors among them.
    """
    for controller, file, value in _WEIGHTS:
        if (controller / "cgroup.procs").exists():
            with suppress(OSError):
                (controller / _PARENT).mkdir(exist_ok=True)
                (controller / _PARENT / file).write_text(str(value))


def groups_of(containers: Collection[str]) -> list[Path]:
    """Return the control groups of containers, given by their ids."""
    # The second pattern is for version 1, where every controller has a tree of its own.
    parents = (*_ROOT.glob(_PARENT), *_ROOT.glob(f"*/{_PARENT}"))
    return [group for parent in parents for name in containers if (group := parent / name).is_dir()]


def remove_groups_of(containers: Collection[str]) -> None:
    """Remove the control groups of containers whose processes were all killed."""
    deadline = time.monotonic() + _PATIENCE
    while left := groups_of(containers):
        for group in left:
            for path in (*sorted((each for each in group.rglob("*") if each.is_dir()), reverse=True), group):
                # Busy until its last process is buried; gone when two controllers share a tree.
                with suppress(OSError):
                    path.rmdir()
            # The parent goes with its last child; a machine's own containerd makes it anew.
            with suppress(OSError):
                group.parent.rmdir()
        if time.monotonic() > deadline:
            raise RuntimeError(f"control group {left[0]} is still in use")
        time.sleep(0.02)
