"""A demo as a process that a test watches, uses as its last lines say, and ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

HOW_TO_END = "Press Ctrl-C here"
_PATIENCE = 60.0


class WatchedDemo:
    """A running demo.

    Attributes:
        process: the command.
        said: its lines so far, standard output and standard error in their order.

    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.said: list[str] = []
        self._lines = self._read()

    def read_until(self, start: str) -> str:
        """Read on until a line starts so, and return it.

        Raises:
            EOFError: the demo ends before.

        """
        for line in self._lines:
            if line.startswith(start):
                return line
        raise EOFError(f"no line starts with {start!r}")

    def read_all(self) -> None:
        """Read on until the demo ends."""
        for _ in self._lines:
            pass

    def _read(self) -> Iterator[str]:
        if self.process.stdout is None:
            raise RuntimeError("the demo was started without a pipe")
        for line in self.process.stdout:
            # So that the ring shows where it is.
            sys.stdout.write(line)
            sys.stdout.flush()
            self.said.append(line.strip())
            yield self.said[-1]


@contextmanager
def watched_demo(argv: Sequence[str], directory: Path, env: Mapping[str, str]) -> Iterator[WatchedDemo]:
    """Start a demo, and end it by Ctrl-C with the context if it still runs."""
    with subprocess.Popen(
        argv,
        cwd=directory,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield WatchedDemo(process)
        finally:
            process.send_signal(signal.SIGINT)


def run_as_told(command: str, text_in: str = "") -> str:
    """Run a command that a demo names, as in another terminal, and return its output."""
    shell = ["sh", "-c", command]
    return subprocess.run(
        shell, cwd="/", input=text_in, capture_output=True, text=True, check=True, timeout=_PATIENCE
    ).stdout


def processes_about(place: Path) -> list[bytes]:
    """Return the command lines of processes that name a path there or in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words, environment = ((process / name).read_bytes() for name in ("cmdline", "environ"))
        except OSError:
            continue
        if bytes(place) in words or bytes(place) in environment:
            found.append(words)
    return found


def wait_for_end(pid: int) -> None:
    """Wait until a process that was killed is gone.

    Raises:
        AssertionError: it is still there after a minute.

    """
    deadline = time.monotonic() + _PATIENCE
    while _is_alive(pid):
        assert time.monotonic() < deadline, f"process {pid} still runs"
        time.sleep(0.01)


def _is_alive(pid: int) -> bool:
    try:
        # A dead process stays a zombie until its parent waits for it.
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
