"""What the one-file program runs first: it unpacks the libraries once and starts wesher from there.

Python cannot load compiled libraries from inside an archive. `one_file` packs this module as the
archive's ``__main__``. It must also parse in a Python that is too old for wesher, to say so.
"""

import json
import os
import shutil
import stat
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any, NoReturn

VARIABLE = "WESHER_UNPACK_DIR"


def main() -> int:
    """Run the command; return its exit code."""
    with zipfile.ZipFile(sys.argv[0]) as archive:
        facts = json.loads(archive.read("facts.json").decode())
        _check_python(facts)
        # Popped: no flag of the command reads it.
        given = os.environ.pop(VARIABLE, "")
        root = Path(given) if given else _usual_root()
        try:
            libraries = _unpacked(archive, root, facts["digest"])
        except OSError as error:
            _fail("cannot unpack into {}: {}: {}".format(root, error.strerror, _remedy()))
    sys.path[0] = str(libraries)
    from wesher_agent.__main__ import main as run  # noqa: PLC0415 - it has just been put there

    return run()


def _check_python(facts: "dict[str, Any]") -> None:
    """End unless the libraries were compiled for this Python and this machine."""
    here = "{}.{}".format(*sys.version_info[:2])
    pythons = facts["pythons"]
    if sys.implementation.name != "cpython" or here not in pythons:
        text = "{} needs CPython {} to {}, and this is {} {}: run it as python{} {}"
        _fail(
            text.format(
                *(Path(sys.argv[0]).name, pythons[0], pythons[-1]),
                *(sys.implementation.name, here, pythons[0], sys.argv[0]),
            )
        )
    machine = "{} {}".format(sys.platform, os.uname().machine)
    if machine != facts["machine"]:
        text = "{} is for {}, and this is {}: install the wheel with pip instead"
        _fail(text.format(Path(sys.argv[0]).name, facts["machine"], machine))


def _usual_root() -> Path:
    if os.geteuid() == 0:
        return Path("/var/cache/wesher")
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wesher"
    except RuntimeError:
        _fail("this user has no home to unpack into: {}".format(_remedy()))


def _unpacked(archive: zipfile.ZipFile, root: Path, digest: str) -> Path:
    """Return the folder with the libraries; unpack them into it unless an earlier run did.

    Raises:
        OSError: they cannot be written.

    """
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_root(root)
    libraries = root / digest
    if not libraries.is_dir():
        # Renamed when whole: another start may be doing the same, or this one may be killed.
        unfinished = Path(tempfile.mkdtemp(prefix=".new-", dir=str(root)))
        try:
            members = [name for name in archive.namelist() if name.startswith("libraries/")]
            archive.extractall(str(unfinished), members)
            (unfinished / "libraries").rename(libraries)
        except OSError:
            if not libraries.is_dir():
                raise
        finally:
            shutil.rmtree(str(unfinished), ignore_errors=True)
    return libraries


def _check_root(root: Path) -> None:
    """End if another user could change what is run from there, or nothing can be."""
    status = root.stat()
    if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        _fail("other users can write in {}: {}".format(root, _remedy()))
    if os.statvfs(str(root)).f_flag & os.ST_NOEXEC:
        _fail("{} is mounted noexec, and libraries are run from there: {}".format(root, _remedy()))


def _remedy() -> str:
    return "set {} to a directory that only this user can write".format(VARIABLE)


def _fail(text: str) -> NoReturn:
    sys.exit("wesher: error: {}".format(text))


if __name__ == "__main__":
    sys.exit(main())
