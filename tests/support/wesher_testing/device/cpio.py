"""A cpio archive of the kind Linux unpacks as its first file system.

The form is "newc" of the kernel's Documentation/driver-api/early-userspace.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import BinaryIO

_TRAILER = "TRAILER!!!"


def write_archive(
    target: BinaryIO, files: dict[str, Path | bytes], *, executable: Iterable[str] = ()
) -> None:
    """Write files, and the directories above them, as one uncompressed archive.

    Args:
        target: where to; more archives may follow in the same file.
        files: absolute path in the archive to a file to copy (links are
            followed) or to content.
        executable: paths of contents that are programs.

    """
    programs = set(executable)
    folders = {str(parent) for path in files for parent in PurePosixPath(path).parents} - {"/"}
    for number, folder in enumerate(sorted(folders), start=1):
        _entry(target, folder, b"", number=number, mode=stat.S_IFDIR | 0o755)
    for number, (path, source) in enumerate(sorted(files.items()), start=len(folders) + 1):
        if isinstance(source, bytes):
            mode = stat.S_IFREG | (0o755 if path in programs else 0o644)
            _entry(target, path, source, number=number, mode=mode)
        else:
            # With its time, since Python trusts its compiled files by the time of their sources.
            status = source.stat()
            content, modified = source.read_bytes(), int(status.st_mtime)
            _entry(target, path, content, number=number, mode=status.st_mode, modified=modified)
    _entry(target, _TRAILER, b"", number=0, mode=0)
    target.write(bytes(-target.tell() % 512))


def _entry(target: BinaryIO, path: str, content: bytes, *, number: int, mode: int, modified: int = 0) -> None:
    name = os.fsencode(path.removeprefix("/")) + b"\0"
    fields = (number, mode, 0, 0, 1, modified, len(content), 0, 0, 0, 0, len(name), 0)
    target.write(b"070701" + b"".join(b"%08X" % field for field in fields) + name)
    target.write(bytes(-target.tell() % 4) + content)
    target.write(bytes(-target.tell() % 4))
