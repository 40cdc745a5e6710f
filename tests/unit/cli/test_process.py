"""The installed command as a process: a closed output, a full one, Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, BinaryIO

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


def answered(directory: Path, answer: dict[str, Any]) -> subprocess.CompletedProcess[bytes]:
    """Run `wesher leave` against an agent that gives this answer, on a terminal that knows only ASCII."""
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(str(directory / "wg0.sock"))
        agent.listen()
        agent.settimeout(SECONDS)
        asking = subprocess.Popen(
            [WESHER, "leave", f"--run-dir={directory}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONIOENCODING": "ascii:strict"},
        )
        asked, _ = agent.accept()
        with asked:
            asked.sendall(json.dumps(answer).encode() + b"\n")
            said, complaint = asking.communicate(timeout=SECONDS)
    return subprocess.CompletedProcess(asking.args, asking.returncode, said, complaint)


def test_an_answer_is_shown_escaped_whatever_it_holds_and_the_terminal_can_show(tmp_path: Path) -> None:
    left = {"node": "M\u00fcnchen\x1b[2J\nFAKE", "interface": "wg0", "kept": ""}
    done = answered(tmp_path, {"result": left})
    text = rb"M\xfcnchen\u001b[2J\nFAKE left the mesh on wg0; it has no state file with keys"
    assert (done.returncode, done.stdout, done.stderr) == (0, text + b"\n", b"")


def test_an_agents_refusal_is_one_line_and_shown_escaped(tmp_path: Path) -> None:
    done = answered(tmp_path, {"error": "no\r\x1b[2K way\nFAKE"})
    text = rb"wesher: error: no\r\u001b[2K way\nFAKE"
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", text + b"\n")


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
