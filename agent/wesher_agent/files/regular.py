"""Reading a file that a user named, without waiting for a FIFO and without reading a device."""

from __future__ import annotations

import errno
import os
import shlex
import stat
from contextlib import suppress
from pathlib import Path

from wesher_common.errors import WesherError

_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class Unreadable(WesherError):  # noqa: N818 - reads as the fact it states
    """A file exists and was not read.

    Args:
        why: continues a sentence that names the file, such as ``is a FIFO, not a regular file``.
        wrong_kind: whether no later attempt can read what is there.

    """

    def __init__(self, why: str, *, wrong_kind: bool = False) -> None:
        super().__init__(why)
        self.why = why
        self.wrong_kind = wrong_kind


def read_regular(path: Path, *, limit: int, private: bool = False, secret: bool = False) -> bytes:
    """Return the content of a regular file.

    Args:
        path: the file; symbolic links are followed.
        limit: bytes that it may have.
        private: make the file this user's and close it to others before it is read, if that is possible.
        secret: refuse a file that is open to others, as ssh does: they may have read it already.

    Raises:
        FileNotFoundError: there is no such file.
        Unreadable: it is not a regular file, too large, open to others, or cannot be read.

    """
    try:
        # Before it is opened, too: opening some devices has effects.
        _check(path.stat())
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:  # noqa: PTH123 - flags that Path.open lacks
            status = os.fstat(descriptor)
            _check(status)
            if secret and stat.S_IMODE(status.st_mode) & (stat.S_IRWXG | stat.S_IRWXO):
                raise Unreadable(f"must be closed to other users: run chmod 600 {shlex.quote(str(path))}")
            if private:
                _make_private(descriptor, status)
            content = file.read(limit + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        why = f"cannot be read: {error.strerror or error}"
        raise Unreadable(why, wrong_kind=error.errno == errno.ELOOP) from error
    if len(content) > limit:
        raise Unreadable(f"is larger than {limit} bytes", wrong_kind=True)
    return content


def _check(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "a file of another type")
        raise Unreadable(f"is {kind}, not a regular file", wrong_kind=True)


def _make_private(descriptor: int, status: os.stat_result) -> None:
    # A file system without owners, or a process that is not root, is not a reason against reading.
    with suppress(OSError):
        if status.st_uid != os.geteuid():
            os.fchown(descriptor, os.geteuid(), os.getegid())
    with suppress(OSError):
        if stat.S_IMODE(status.st_mode) != stat.S_IRUSR | stat.S_IWUSR:
            os.fchmod(descriptor, stat.S_IRUSR | stat.S_IWUSR)
