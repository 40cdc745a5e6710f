"""Runs a piece of Python where mounts are its own: bind mounts, full and read-only file systems."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

from wesher_testing.run.toolbox import system_program


def run_with_own_mounts(script: str, directory: Path) -> str:
    """Run ``script`` in a private mount namespace and return what it prints.

    Everything it mounts is gone with it. ``directory`` is its working directory, and
    ``mount(*arguments)`` runs mount(8).
    """
    prelude = """
        import subprocess
        from pathlib import Path

        def mount(*arguments):
            subprocess.run(["mount", *map(str, arguments)], check=True)

    """
    done = subprocess.run(
        [
            system_program("unshare"),
            "--mount",
            "--propagation=private",
            sys.executable,
            "-c",
            textwrap.dedent(prelude) + textwrap.dedent(script),
        ],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
