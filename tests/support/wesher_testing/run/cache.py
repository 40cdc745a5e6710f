"""The cache outside the repository: things built or unpacked once and used by every copy.

Owns where it lies, and that an entry is either whole or absent however often a
build was interrupted and however many builds run at once. What an entry holds is
the toolbox's business.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from wesher_testing.run.process_group import end_group, signals_held

_REPORT_EVERY = 20.0
"""Seconds between two signs of life of a long step."""


class ToolUnavailable(RuntimeError):  # noqa: N818 - reads as the fact it states
    """A program cannot be had on this machine; the text is one line saying what would help."""


def cache_dir() -> Path:
    """Return the cache: ``$WESHER_CACHE``, else ``wesher`` in the user's cache directory."""
    if chosen := os.environ.get("WESHER_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wesher"


def kept(name: str, make: Callable[[Path], None]) -> Path:
    """Return the cache's entry ``name``, made by ``make`` when it is absent.

    Args:
        name: where the entry stands below the cache, such as ``go-1.2/bin``.
        make: writes the file or directory at the path it is given. What it raises
            passes through, and then no entry appears.

    """
    entry = cache_dir() / name
    if entry.exists():
        return entry
    entry.parent.mkdir(parents=True, exist_ok=True)
    with _locked(name):
        if entry.exists():
            return entry
        prefix = f".{entry.name}-draft-"
        for abandoned in entry.parent.glob(f"{prefix}*"):
            # Whoever made it held this lock, so it is nobody's by now.
            shutil.rmtree(abandoned)
        drafts = Path(tempfile.mkdtemp(prefix=prefix, dir=entry.parent))
        try:
            make(drafts / entry.name)
            (drafts / entry.name).rename(entry)
        finally:
            shutil.rmtree(drafts)
        hand_back(entry)
    return entry


def report(text: str) -> None:
    """Tell whoever waits at the terminal what a long step is about."""
    print(f"· {text}", file=sys.stderr, flush=True)


def run_reported(
    title: str,
    argv: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    may_ask: bool = False,
) -> None:
    """Run one long step, with a sign of life now and then.

    An interruption ends the step with all its children.

    Args:
        title: what the step does.
        argv: the command.
        cwd: where it runs.
        env: its environment, when not ours.
        may_ask: whether it may ask for a password on the terminal, which only our process group can.

    Raises:
        ToolUnavailable: the step failed; its last words are in the text.

    """
    report(title)
    started = time.monotonic()
    with tempfile.TemporaryFile() as words, ExitStack() as starting:
        starting.enter_context(signals_held())
        child = subprocess.Popen(
            argv,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=words,
            stderr=words,
            process_group=None if may_ask else 0,
        )
        try:
            # An interruption that came while the step was started ends it here.
            starting.close()
            while True:
                try:
                    status = child.wait(timeout=_REPORT_EVERY)
                    break
                except subprocess.TimeoutExpired:
                    report(f"{title}: {time.monotonic() - started:.0f} s so far")
        except BaseException:
            if may_ask:
                child.kill()
                child.wait()
            else:
                # The child alone would leave its own children, such as a venv's pip, running.
                end_group(child)
            raise
        words.seek(0)
        said = words.read().decode(errors="replace")
    if status != 0:
        raise ToolUnavailable(f"{title}: {argv[0]} exited with {status}: {said[-2000:].strip()}")
    report(f"{title}: done in {time.monotonic() - started:.0f} s")


@contextmanager
def _locked(name: str) -> Iterator[None]:
    locks = cache_dir() / ".locks"
    locks.mkdir(exist_ok=True)
    path = locks / name.replace("/", "--")
    with path.open("w") as lock:
        # The user may want a lock of their own before this one is released.
        hand_back(path)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report(f"{name}: waiting for another run to build it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def hand_back(entry: Path) -> None:
    """Give what root made through sudo to the user whose cache it is.

    Otherwise the next run without sudo could neither add to a directory nor lock.
    """
    root = cache_dir()
    if os.geteuid() != 0 or "SUDO_UID" not in os.environ:
        return
    user, group = int(os.environ["SUDO_UID"]), int(os.environ["SUDO_GID"])
    above = [parent for parent in entry.parents if parent.is_relative_to(root)]
    for path in (*above, *root.glob(".locks"), *root.glob(".locks/*"), entry, *entry.rglob("*")):
        os.chown(path, user, group, follow_symlinks=False)
