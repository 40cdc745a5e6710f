"""The Debian package: the agent with its libraries, its service, its settings and its manual.

Debian's own libraries are too old, so they come along in ``/usr/lib/wesher``. ``deploy/debian``
has the package's scripts.
"""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import agent_tree

REPOSITORY = agent_tree.REPOSITORY
_ARCHITECTURE = {"x86_64": "amd64"}[agent_tree.MACHINE]
_SCRIPTS = REPOSITORY / "deploy/debian"
_MANUAL = REPOSITORY / "docs/man/wesher.8"
_COMPLETIONS = {
    "bash": "usr/share/bash-completion/completions/wesher",
    "zsh": "usr/share/zsh/vendor-completions/_wesher",
    "fish": "usr/share/fish/vendor_completions.d/wesher.fish",
}
_COPYRIGHT = """\
Licensed under the Apache License, Version 2.0, which is in /usr/share/common-licenses/Apache-2.0.
The licences of the libraries in /usr/lib/wesher are in the folders *.dist-info beside them.
"""


@dataclass(frozen=True, slots=True)
class About:
    """What the package says of itself."""

    version: str
    description: str
    """One line."""
    maintainer: str
    home: str
    """A URL; empty if the project names none."""


def name(version: str) -> str:
    """Return what the file of a release is called."""
    return f"wesher_{version}_{_ARCHITECTURE}.deb"


def make(target: Path, tree: Path, about: About, epoch: int) -> None:
    """Make the package; needs ``dpkg-deb``, but not root.

    Args:
        target: the file.
        tree: as `agent_tree` makes it.
        about: the package.
        epoch: seconds since 1970 that everything in it is dated.

    Raises:
        subprocess.CalledProcessError: dpkg-deb refused, and has said why.

    """
    root = target.with_name(f"{target.name}-root")
    shutil.copytree(tree, root / "usr/lib/wesher")
    _put(root, "usr/bin/wesher", (_SCRIPTS / "wesher").read_bytes(), mode=0o755)
    unit = (REPOSITORY / "deploy/systemd/wesher.service").read_text()
    _put(
        root, "usr/lib/systemd/system/wesher.service", unit.replace("/opt/wesher/bin/", "/usr/bin/").encode()
    )
    # It may hold the cluster key.
    settings = (REPOSITORY / "deploy/systemd/wesher.default").read_bytes()
    _put(root, "etc/default/wesher", settings, mode=0o600)
    _put(root, "usr/share/doc/wesher/copyright", _COPYRIGHT.encode())
    _put(root, "usr/share/doc/wesher/changelog.gz", _compressed(REPOSITORY / "CHANGELOG.md"))
    _put(root, "usr/share/man/man8/wesher.8.gz", _compressed(_MANUAL))
    for shell, place in _COMPLETIONS.items():
        _put(root, place, _completion(tree, shell))
    size = sum(path.stat().st_size for path in agent_tree.files_of(root)) // 1024
    _put(root, "DEBIAN/control", _control(about, size).encode())
    _put(root, "DEBIAN/conffiles", b"/etc/default/wesher\n")
    for script in ("postinst", "prerm", "postrm"):
        _put(root, f"DEBIAN/{script}", (_SCRIPTS / script).read_bytes(), mode=0o755)
    for path in (root, *root.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)
    # dpkg-deb dates what is younger than this; everything here is.
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch)}
    command = ["dpkg-deb", "--root-owner-group", "-Zxz", "--build", str(root), str(target)]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(root)


def _control(about: About, size: int) -> str:
    major, minor = agent_tree.PYTHONS[-1].split(".")
    fields = {
        "Package": "wesher",
        "Version": about.version,
        "Architecture": _ARCHITECTURE,
        "Maintainer": about.maintainer,
        "Homepage": about.home,
        "Section": "net",
        "Priority": "optional",
        "Installed-Size": str(size),
        "Depends": f"python3 (>= {agent_tree.PYTHONS[0]}), python3 (<< {major}.{int(minor) + 1})",
        "Suggests": "wireguard-go",
        "Description": about.description,
    }
    return "".join(f"{field}: {value}\n" for field, value in fields.items() if value)


def _completion(tree: Path, shell: str) -> bytes:
    command = [sys.executable, "-B", "-m", "wesher_agent", "completion", shell]
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    return subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout


def _compressed(path: Path) -> bytes:
    return gzip.compress(path.read_bytes(), mtime=0)


def _put(root: Path, place: str, content: bytes, mode: int = 0o644) -> None:
    path = root / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)
