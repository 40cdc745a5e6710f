"""The state file: where an agent keeps what it must still know after a restart.

A file that cannot be read as it should is set aside, never overwritten, and what
is good in it is used. What it says is `state_format`'s.
"""

from __future__ import annotations

import fcntl
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wesher_agent.files.atomic import CannotWrite, replace_file
from wesher_agent.files.state_format import parse_state, render_state
from wesher_agent.mesh.saved_state import SavedState
from wesher_common.errors import InvalidSpec

FORMER_NAME: Final = "state.json"
"""Of the one state file before wesher 0.3; read when there is no other."""

_FILE_MODE, _DIRECTORY_MODE = 0o600, 0o700


@dataclass(frozen=True, slots=True)
class Loaded:
    """What came of reading a state file."""

    state: SavedState
    warnings: tuple[str, ...] = ()
    """One line each: what could not be read, and where the file was set aside."""


class StateFile:
    """One interface's state file.

    Args:
        path: such as ``/var/lib/wesher/wgoverlay.json``.
        gossip_port: of saved members without one: Go does not save it.

    """

    def __init__(self, path: Path, *, gossip_port: int) -> None:
        self._path = path
        self._lock_path = path.with_name(f".{path.name}.lock")
        self._gossip_port = gossip_port
        self._lock: int | None = None
        self._broken: bytes | None = None
        """Content that still has to be set aside before anything may be saved."""
        self._unreadable = ""

    def lock(self) -> None:
        """Keep other agents from this file until `unlock`, or until the process ends.

        Raises:
            InvalidSpec: another agent holds it.
            CannotWrite: the directory is closed to us; run on without.

        """
        path = self._lock_path
        try:
            self._make_directory()
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _FILE_MODE)
        except OSError as error:
            raise CannotWrite(path, error.strerror or str(error)) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise InvalidSpec(
                "state file", "is in use by another agent: give each its own --interface", value=self._path
            ) from error
        self._lock = descriptor

    def unlock(self) -> None:
        """Let go of the lock; without one, do nothing."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def load(self) -> Loaded:
        """Read the file, or the one of wesher before 0.3 beside it, or start empty."""
        for path in (self._path, self._path.with_name(FORMER_NAME)):
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                continue
            except OSError as error:
                why = f"{path} could not be read: {error.strerror}"
                if path == self._path:
                    self._unreadable = why
                return Loaded(SavedState(), (f"{why}; starting without it",))
            return self._parsed(path, content)
        return Loaded(SavedState())

    def save(self, state: SavedState) -> None:
        """Replace the file.

        Raises:
            CannotWrite: warn once and run on from memory.

        """
        if self._unreadable:
            raise CannotWrite(self._path, f"what it holds is not known ({self._unreadable})")
        try:
            self._make_directory()
            with suppress(FileNotFoundError):
                if stat.S_IMODE(self._path.stat().st_mode) != _FILE_MODE:
                    self._path.chmod(_FILE_MODE)
        except OSError as error:
            raise CannotWrite(self._path, error.strerror or str(error)) from error
        if self._broken is not None:
            self._set_aside(self._broken)
        replace_file(self._path, render_state(state).encode(), mode=_FILE_MODE)

    def remove(self) -> None:
        """Take the file away, and the lock's beside it, which is still held.

        Raises:
            CannotWrite: it stays.

        """
        for path in (self._path, self._lock_path):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise CannotWrite(path, error.strerror or str(error)) from error

    def _parsed(self, path: Path, content: bytes) -> Loaded:
        state, problems = parse_state(content, gossip_port=self._gossip_port)
        warnings = [f"{path}: {problem}" for problem in problems]
        if problems and path == self._path:
            self._broken = content
            try:
                warnings.append(f"{path} is kept as {self._set_aside(content)}")
            except CannotWrite as error:
                warnings.append(f"{error}; the state is not saved until it can")
        return Loaded(state, tuple(warnings))

    def _set_aside(self, content: bytes) -> Path:
        number = 1
        while (aside := self._path.with_name(f"{self._path.name}.corrupt-{number}")).exists():
            with suppress(OSError):
                if aside.read_bytes() == content:
                    break
            number += 1
        else:
            replace_file(aside, content, mode=_FILE_MODE)
        self._broken = None
        return aside

    def _make_directory(self) -> None:
        self._path.parent.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
