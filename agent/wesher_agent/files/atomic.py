"""Replacing a file so that a reader sees the old or the new, never half of one.

Mode, owner and SELinux label of the old file are kept. A file that cannot be
renamed over, since it is itself a mount or its directory is closed to us, is
rewritten in place, which a reader may catch in the middle.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from wesher_agent.files.regular import Unreadable, read_regular
from wesher_common.errors import WesherError

_SELINUX_LABEL = "security.selinux"
_NO_RENAME = {errno.EBUSY, errno.EXDEV, errno.EACCES, errno.EPERM, errno.EROFS}
_RACES = 5
_MAX_BYTES = 64 * 2**20
"""Of a file that others write too; the longest published block lists have a tenth of it."""


class CannotWrite(WesherError):  # noqa: N818 - reads as the fact it states
    """A file could not be written and stands as it was: warn once, run on."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path} could not be written: {why}")
        self.path = path


def replace_file(path: Path, data: bytes, *, mode: int = 0o644, tag: str = "wesher") -> None:
    """Replace ``path``, or create it.

    Args:
        path: the file; a symbolic link stays, and its target is replaced.
        data: all of the new content.
        mode: of a file that does not exist yet.
        tag: names the temporary file beside it, so that two writers do not share one.

    Raises:
        CannotWrite: the old content stands.

    """
    path = _target(path)
    try:
        _replace(path, data, mode=mode, tag=tag, still_valid=lambda: True)
    except OSError as error:
        raise CannotWrite(path, error.strerror or str(error)) from error


def update_file(path: Path, change: Callable[[bytes], bytes], *, tag: str) -> bool:
    """Rewrite a file that others write too; tell whether it had to change.

    When another writer was faster, the change is made again on what it wrote.

    Args:
        path: an existing file; it is never created.
        change: from old to new content; called again after a race.
        tag: as for `replace_file`.

    Raises:
        CannotWrite: missing, read-only, or others write it all the time.

    """
    path = _target(path)
    try:
        for _ in range(_RACES):
            old = read_regular(path, limit=_MAX_BYTES)
            new = change(old)
            if new == old:
                return False
            if _replace(path, new, mode=0o644, tag=tag, still_valid=lambda: path.read_bytes() == old):  # noqa: B023 - called before the next round
                return True
    except Unreadable as error:
        raise CannotWrite(path, f"it {error.why}") from error
    except OSError as error:
        raise CannotWrite(path, error.strerror or str(error)) from error
    raise CannotWrite(path, "another program keeps changing it")


def _target(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _replace(path: Path, data: bytes, *, mode: int, tag: str, still_valid: Callable[[], bool]) -> bool:
    temporary = path.with_name(f".{path.name}.{tag}.tmp")
    try:
        _write_beside(path, temporary, data, mode)
        if not still_valid():
            return False
        temporary.replace(path)
    except OSError as error:
        if error.errno not in _NO_RENAME or not path.exists():
            raise
        if not still_valid():
            return False
        _write_in_place(path, data)
        return True
    finally:
        with suppress(OSError):
            temporary.unlink()
    # The new content stands whether or not the directory's own change can be forced out at once.
    with suppress(OSError):
        _sync_directory(path.parent)
    return True


def _write_beside(path: Path, temporary: Path, data: bytes, mode: int) -> None:
    # One left by a killed writer is ours by its tag; O_EXCL keeps us from following anything put there since.
    temporary.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with open(os.open(temporary, flags, 0o600), "wb") as file:  # noqa: PTH123 - flags that Path.open lacks
        try:
            old = path.stat()
        except FileNotFoundError:
            os.fchmod(file.fileno(), mode)
        else:
            _keep_attributes(path, old, file.fileno())
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _keep_attributes(path: Path, old: os.stat_result, descriptor: int) -> None:
    if (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()):
        os.fchown(descriptor, old.st_uid, old.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(old.st_mode))
    # A file system without labels, or a process that may not set them, does not prevent the write.
    with suppress(OSError):
        os.setxattr(descriptor, _SELINUX_LABEL, os.getxattr(path, _SELINUX_LABEL))


def _write_in_place(path: Path, data: bytes) -> None:
    """Overwrite, then cut: a reader in between sees old lines rather than none.

    When the disk fills up on the way, the old content is put back, which needs no new space.
    """
    with open(path, "r+b", buffering=0) as file:  # noqa: PTH123 - beside the other open
        old = file.read()
        try:
            _overwrite(file.fileno(), data)
        except OSError:
            _overwrite(file.fileno(), old)
            raise


def _overwrite(descriptor: int, data: bytes) -> None:
    written = 0
    while written < len(data):
        written += os.pwrite(descriptor, data[written:], written)
    os.ftruncate(descriptor, len(data))
    os.fsync(descriptor)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
