"""Tells which file a mounted file is: the mount keeps it when another program puts a new one in its place."""

from __future__ import annotations

import os
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
DELETED = "//deleted"
"""What the kernel adds to the name of a file that has none any more (``fs/d_path.c``)."""


def mounted_from(path: Path) -> str:
    """Return the name that a mounted file has on its file system now; empty if the path is not a mount.

    It ends with `DELETED` once another file has been renamed over it, and is another name once it was
    moved aside (proc(5), mountinfo).

    Raises:
        OSError: the kernel does not list this process's mounts.

    """
    wanted = os.path.realpath(path)
    found = ""
    for line in MOUNTS.read_text(errors="surrogateescape").splitlines():
        _, _, _, root, mount_point, *_ = line.split(" ")
        if _unescaped(mount_point) == wanted:
            found = root
    return found


def _unescaped(text: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text
