"""``KEEP=1 make demo`` to its end: its claims hold, what stays up can be used, and all of it goes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from wesher_testing.run.toolbox import REPOSITORY

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]

HOW_TO_USE, HOW_TO_END = "The mesh stays up.", "Press Ctrl-C here"


@contextmanager
def kept_demo() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-m", "wesher_testing.run.demo"],
        cwd=REPOSITORY,
        env={**os.environ, "KEEP": "1", "PYTHONPATH": str(REPOSITORY / "tests/support")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    ) as demo:
        try:
            yield demo
        finally:
            demo.send_signal(signal.SIGINT)


def told(demo: subprocess.Popen[str]) -> Iterator[str]:
    """Yield what the demo says, line by line, and show it to whoever watches the ring."""
    assert demo.stdout is not None
    for line in demo.stdout:
        sys.stdout.write(line)
        sys.stdout.flush()
        yield line.strip()


def run(command: str) -> str:
    """Run a command that the demo names, as in another terminal."""
    shell = ["sh", "-c", command]
    return subprocess.run(shell, cwd="/", capture_output=True, text=True, check=True, timeout=60).stdout


def processes_about(directory: Path) -> list[bytes]:
    """Return the command lines that name a directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes())
        except OSError:
            continue
    return [words for words in found if bytes(directory) in words]


def test_a_demo_that_is_kept_can_be_used_as_it_says_and_leaves_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with capsys.disabled(), kept_demo() as demo:
        lines = told(demo)
        said = []
        for line in lines:
            said.append(line)
            if line.startswith(HOW_TO_END):
                break
        assert any(re.search(r"done: \d+ claims hold", line) for line in said)

        begin = next(number for number, line in enumerate(said) if line.startswith(HOW_TO_USE))
        kubectl, plugin, members, ping, logs = said[begin + 1 : -1]
        assert re.search(r"^weshermesh\S+/demo +True +3/3 ", run(kubectl), re.MULTILINE)
        # It fails while one of the pairs that the demo has just cut off is still asked again.
        until_well = f"until {plugin}; do sleep 1; done"
        assert "demo: Ready, 3/3 nodes ready" in run(until_well)
        assert len(re.findall(r"^\S+ +alive ", run(members), re.MULTILINE)) == 4
        assert " 1 received" in run(f"{ping} -c 1")
        assert "node-a.log" in run(logs)

        directory = Path(kubectl.split()[0]).parent
        assert processes_about(directory)
        (kill,) = re.findall(r"or run: (kill \d+)", said[-1])
        run(kill)
        assert any("ended; nothing is left" in line for line in lines)
        assert demo.wait(30) == 128 + signal.SIGINT
    assert not directory.exists()
    assert processes_about(directory) == []
