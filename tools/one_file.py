"""The program as one file: the agent, its libraries, and `one_file_entry`, which unpacks them."""

from __future__ import annotations

import hashlib
import json
import time
import zipfile
from pathlib import Path

import agent_tree
import one_file_entry

_SHEBANG = b"#!/usr/bin/env python3\n"


def name(version: str) -> str:
    """Return what the file of a release is called."""
    return f"wesher-{version}-linux-{agent_tree.MACHINE}.pyz"


def make(target: Path, tree: Path, epoch: int) -> None:
    """Make the file.

    Args:
        target: the file.
        tree: as `agent_tree` makes it.
        epoch: seconds since 1970 that everything in it is dated.

    """
    contents = {f"libraries/{path.relative_to(tree)}": path for path in agent_tree.files_of(tree)}
    digest = hashlib.sha256()
    for member, path in contents.items():
        digest.update(f"{member}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    facts = {
        "pythons": agent_tree.PYTHONS,
        "machine": f"linux {agent_tree.MACHINE}",
        "digest": digest.hexdigest()[:16],
    }
    with target.open("wb") as file:
        file.write(_SHEBANG)
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            _write(archive, "__main__.py", Path(one_file_entry.__file__).read_bytes(), epoch)
            _write(archive, "facts.json", json.dumps(facts).encode(), epoch)
            for member, path in contents.items():
                _write(archive, member, path.read_bytes(), epoch)
    target.chmod(0o755)


def _write(archive: zipfile.ZipFile, member: str, content: bytes, epoch: int) -> None:
    entry = zipfile.ZipInfo(member, time.gmtime(epoch)[:6])
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, content)
