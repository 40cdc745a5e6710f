"""The API server of the tests itself: it leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from wesher_testing.run.toolbox import REPOSITORY

_ABANDONED = """
import os, sys
from wesher_testing.cluster.api_server import api_server
with api_server() as server:
    print(server.directory, flush=True)
    if sys.argv[1] == "raise":
        raise ValueError("as a failing test would")
    os.kill(os.getpid(), int(sys.argv[1]))
"""


@pytest.mark.parametrize("end", ["raise", signal.SIGINT], ids=str)
def test_nothing_is_left_after_a_failure_or_ctrl_c(end: signal.Signals | str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", _ABANDONED, end if isinstance(end, str) else str(int(end))],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "tests/support")},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        timeout=90,
        check=False,
    )
    directory = run.stdout.strip()
    assert run.returncode != 0
    assert directory
    assert not Path(directory).exists()
    assert [path for path in Path("/proc").glob("[0-9]*/cmdline") if is_about(path, directory)] == []


def is_about(command_line: Path, directory: str) -> bool:
    """Tell whether a process was started with a word that names the directory."""
    try:
        return directory.encode() in command_line.read_bytes()
    except OSError:
        return False
