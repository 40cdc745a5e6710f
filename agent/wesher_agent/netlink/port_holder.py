"""Finds the process that holds a port."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc")


def find_holder(protocol: str, port: int) -> str:
    """Return which process holds a port, as ``name (pid 12)``; empty when we may not see it.

    Args:
        protocol: ``UDP`` or ``TCP``.
        port: the local port.

    """
    inodes = {
        inode for family in ("", "6") for inode in _sockets_on(PROC / f"net/{protocol.lower()}{family}", port)
    }
    for process in PROC.glob("[0-9]*"):
        # Processes end while we look, and others' descriptors may be hidden from us.
        with suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                link = os.readlink(descriptor)  # noqa: PTH115 - not a path, so Path would mangle it
                if link.startswith("socket:[") and link[8:-1] in inodes:
                    return f"{(process / 'comm').read_text().strip()} (pid {process.name})"
    return ""


def _sockets_on(listing: Path, port: int) -> Iterator[str]:
    """Yield the inodes of sockets on a local port out of ``/proc/net/udp`` and its like."""
    with suppress(OSError):
        for line in listing.read_text().splitlines()[1:]:
            fields = line.split()
            if int(fields[1].rpartition(":")[2], 16) == port:
                yield fields[9]
