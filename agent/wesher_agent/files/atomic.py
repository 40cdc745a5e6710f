"""Replacing a file so that a reader sees the old or the new, never half of one."""

from __future__ import annotations

from pathlib import Path

from wesher_common.errors import WesherError


class CannotWrite(WesherError):  # noqa: N818 - reads as the fact it states
    """A file could not be written; the old one stands. Warn once, run on."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path}: {why}")
        self.path = path


def replace_file(path: Path, data: bytes, *, mode: int = 0o644, tag: str = "wesher") -> None:
    """Replace ``path`` atomically where the file system allows it.

    Args:
        path: the file; a symbolic link stays and its target is replaced.
        data: all of the new content.
        mode: for a file that does not exist yet; else mode, owner and SELinux label are kept.
        tag: names the temporary file beside it, so that two writers do not share one.

    Raises:
        CannotWrite: and the old content stands.

    """
    raise NotImplementedError
