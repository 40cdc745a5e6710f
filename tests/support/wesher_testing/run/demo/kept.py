"""Scripts that reach into a demo that is left up."""

from __future__ import annotations

import os
from pathlib import Path

from wesher_testing.lab.namespaces import Lab


def on_script(lab: Lab, programs: Path) -> Path:
    """Write ``on HOST [COMMAND...]``, which runs a command or a shell on a host, and return its path.

    Args:
        lab: whose hosts.
        programs: the directory that has wesher, put first on PATH.

    """
    shell = 'shift; [ $# -gt 0 ] || set -- "${SHELL:-/bin/sh}"'
    enter = (
        f'{name}) {shell}; exec {" ".join(host.command([]))} "$@" ;;' for name, host in lab.hosts.items()
    )
    path = lab.directory / "on"
    script(
        path,
        f'export PATH="{programs}:$PATH"',
        'case "${1:-}" in',
        *enter,
        "esac",
        f'echo "usage: $0 HOST [COMMAND...], with HOST one of {", ".join(lab.hosts)}" >&2',
        "exit 2",
    )
    return path


def how_to_end() -> str:
    """Return the line that says how to end a demo that is left up."""
    return f"Press Ctrl-C here (or run: kill {os.getpid()}) and all of it is gone."


def script(path: Path, *lines: str) -> None:
    """Write an executable shell script."""
    path.write_text("\n".join(("#!/bin/sh", *lines)) + "\n")
    path.chmod(0o755)
