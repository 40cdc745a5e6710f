"""A process that holds a lab's namespaces, and ends all that lives in them when its lab is gone.

Started by `wesher_testing.lab.namespaces` as a program of its own, in its own session. Each
line on its input asks for one more set of namespaces; the answer is the pid that holds
them. When its input ends, be it because the lab was closed, failed or was killed, it kills
every process inside those network namespaces, and with the last one the kernel takes
the namespaces, their devices and their mounts away. So there is one way out, and
nothing on disk to find again after a crash, but the lab's directory, removed last.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

_HOLD = ("unshare", "--net", "--mount", "--uts", "--", "sh", "-c", "echo; exec sleep infinity")
_PATIENCE = 60.0
"""Seconds in which killed processes must be gone; only the kernel can need longer."""


def main(directory: str) -> int:
    """Serve one lab whose files are in ``directory``; return the exit status."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    held: list[subprocess.Popen[bytes]] = []
    try:
        for _ in sys.stdin:
            holder = subprocess.Popen(_HOLD, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
            held.append(holder)
            if holder.stdout is None or not holder.stdout.readline():
                return 1
            print(holder.pid, flush=True)
    finally:
        emptied = _empty(held)
        shutil.rmtree(directory, ignore_errors=True)
    return 0 if emptied else 1


def _empty(held: list[subprocess.Popen[bytes]]) -> bool:
    """Kill all inside the held namespaces; tell whether all are gone."""
    with ExitStack() as kept:
        for holder in held:
            with suppress(OSError):
                # The kernel reuses a namespace's number at once: the next lab's would be taken for ours.
                kept.enter_context(open(f"/proc/{holder.pid}/ns/net"))  # noqa: PTH123 - a link to no path
        return _kill_all_in({space for holder in held if (space := _network_of(holder.pid)) is not None})


def _kill_all_in(spaces: set[str]) -> bool:
    """Kill all inside these namespaces; tell whether all are gone."""
    deadline = time.monotonic() + _PATIENCE
    # The holders die in the first round, so whoever is on the way in finds no door in the next.
    while (inside := list(_processes_in(spaces))) and time.monotonic() < deadline:
        for pid in inside:
            _kill(pid)
        time.sleep(0.02)
    return not inside


def _processes_in(spaces: set[str]) -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and _network_of(int(entry.name)) in spaces:
            yield int(entry.name)


def _network_of(pid: int) -> str | None:
    """Return what identifies a process's network namespace; a process that is gone has none."""
    try:
        return os.readlink(f"/proc/{pid}/ns/net")  # noqa: PTH115 - the link names an inode, not a path
    except OSError:
        return None


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
