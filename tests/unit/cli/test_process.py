"""The installed command as a process: a closed output, a full one, Ctrl-C."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

import pytest

from wesher_testing.agents.process import WESHER

SECONDS = 60


def run_into(output: BinaryIO, *words: str) -> subprocess.CompletedProcess[bytes]:
    # Buffered, as users have it: what cannot be written then shows at the end only.
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(
        [WESHER, *words], stdout=output, stderr=subprocess.PIPE, env=buffered, timeout=SECONDS, check=False
    )


@pytest.mark.parametrize("words", [["keygen"], ["--help"], ["--version"]])
def test_a_reader_that_has_seen_enough_is_no_error_to_speak_of(words: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as closed:
        done = run_into(closed, *words)
    assert (done.returncode, done.stderr) == (1, b"")


def test_an_answer_that_cannot_be_written_is_one_line() -> None:
    with Path("/dev/full").open("wb") as full:
        done = run_into(full, "keygen")
    assert done.returncode == 1
    assert done.stderr == b"wesher: error: [Errno 28] No space left on device\n"


def test_ctrl_c_while_waiting_for_an_answer_ends_without_a_word(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "wg0.sock"))
        silent.listen()
        silent.settimeout(SECONDS)
        asking = subprocess.Popen([WESHER, "status", f"--run-dir={tmp_path}"], stderr=subprocess.PIPE)
        asked, _ = silent.accept()
        with asked:
            asking.send_signal(signal.SIGINT)
            _, said = asking.communicate(timeout=SECONDS)
    assert (asking.returncode, said) == (-signal.SIGINT, b"")


def test_a_command_without_its_libraries_says_how_to_get_them() -> None:
    """As where only kubectl's plugin was asked for: the same wheel brings this command too."""
    lacking = "import sys; sys.modules['cryptography'] = None; from wesher_agent.__main__ import main"
    done = subprocess.run(
        [sys.executable, "-c", f"{lacking}; sys.exit(main())"],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    said = "wesher: error: the library cryptography is missing: install wesher[agent]\n"
    assert (done.returncode, done.stderr) == (1, said)
