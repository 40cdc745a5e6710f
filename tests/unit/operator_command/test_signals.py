"""Which signals end the operator in order."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from wesher_testing.agents.mounted_files import KUBECONFIG


def started(tmp_path: Path, *, wrapper: Sequence[str] = ()) -> subprocess.Popen[str]:
    """Return an operator that waits for an API server."""
    path = tmp_path / "config"
    path.write_text(json.dumps(KUBECONFIG))
    process = subprocess.Popen(
        [
            *(*wrapper, sys.executable, "-m", "wesher_operator", "run", "--agent-image=x", "--namespace=n"),
            *(f"--kubeconfig={path}", "--manage-crds=false"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    while "waiting for the api server" not in process.stderr.readline():
        assert process.poll() is None
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_end_is_exit_code_0(tmp_path: Path, number: signal.Signals) -> None:
    with started(tmp_path) as process:
        process.send_signal(number)
        assert process.wait(timeout=30) == 0


def test_a_hangup_that_was_ignored_at_the_start_stays_ignored(tmp_path: Path) -> None:
    with started(tmp_path, wrapper=["nohup"]) as process:
        process.send_signal(signal.SIGHUP)
        status = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        (ignored,) = (line.split()[1] for line in status if line.startswith("SigIgn:"))
        assert int(ignored, 16) >> (signal.SIGHUP - 1) & 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
