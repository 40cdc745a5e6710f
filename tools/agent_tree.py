"""The agent and its libraries as one folder that every supported Python can import from.

Of the compiled libraries it has the modules for each Python side by side; their names tell which
Python loads which. So one program file and one Debian package serve several releases of a
distribution. `one_file` and `debian_package` pack the folder.
"""

from __future__ import annotations

import filecmp
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
"""For which the locked libraries have wheels."""
MACHINE = "x86_64"
"""As ``uname -m`` says it. The tests run no other."""
_PLATFORM = f"{MACHINE}-manylinux2014"
"""What the wheels may need of the system: glibc 2.17."""
_LOCK = REPOSITORY / "requirements-agent.lock"


def make(target: Path, wheel: Path) -> None:
    """Make the folder.

    Args:
        target: the folder; it does not exist yet.
        wheel: of wesher.

    Raises:
        subprocess.CalledProcessError: a library cannot be had; uv has said why.
        ValueError: a library differs between two Pythons in more than its compiled modules.

    """
    for python in PYTHONS:
        one = target.with_name(f"{target.name}-{python}")
        # Not hard links into pip's cache: packing must not change files that other programs share.
        subprocess.run(
            [
                *(str(Path(sys.executable).with_name("uv")), "pip", "install", "--quiet", "--no-deps"),
                *("--link-mode", "copy", "--only-binary", ":all:", "--require-hashes", "--target", str(one)),
                *("--python-version", python, "--python-platform", _PLATFORM, "--requirement", str(_LOCK)),
            ],
            check=True,
        )
        _add(one, target)
        shutil.rmtree(one)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(
            target, [name for name in archive.namelist() if not name.startswith("wesher_operator/")]
        )
    for path in target.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def files_of(tree: Path) -> Iterator[Path]:
    """Yield the files of a folder, always in the same order."""
    return iter(sorted(path for path in tree.rglob("*") if path.is_file()))


def _add(one: Path, target: Path) -> None:
    """Add one Python's libraries to those of the others."""
    for path in files_of(one):
        name = path.relative_to(one)
        # Programs of the libraries, and uv's own marks.
        if name.parts[0] in {"bin", ".lock"} or name.name in {"RECORD", "REQUESTED", "uv_cache.json"}:
            continue
        here = target / name
        if not here.exists():
            here.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, here)
        elif not filecmp.cmp(path, here, shallow=False) and not name.parts[0].endswith(".dist-info"):
            raise ValueError(f"{name} is not the same for all of Python {', '.join(PYTHONS)}")
