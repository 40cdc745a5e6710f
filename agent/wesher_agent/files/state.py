"""The state file: where an agent keeps what it must still know after a restart.

What is in the file is `state_format`'s. Three rules keep what a machine cannot get back:

- A file is replaced only if its content is what this agent read or wrote last. Any other
  content, be it damaged or written by another program, is copied aside first; a state with
  another cluster key is not replaced at all.
- The generation before the last one stays beside it, and is used when the file is damaged.
- The caller learns of a file that gives no cluster key, so that it does not found a new mesh.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from wesher_agent.files.atomic import CannotWrite, replace_file
from wesher_agent.files.regular import Unreadable, read_regular
from wesher_agent.files.state_format import parse_state, render_state
from wesher_agent.mesh.saved_state import SavedState
from wesher_common.errors import InvalidSpec
from wesher_common.keys import KeyRing

FORMER_NAME: Final = "state.json"
"""Of the one state file before wesher 0.3; read when there is no other."""
MAX_BYTES: Final = 64 * 2**20
"""Of a state file; one with the 10,000 members that gossip admits has less than a fifth."""
KEPT_ASIDE: Final = 5
"""Copies that stay: the oldest, which most likely has the mesh's first key, and the newest."""

_FILE_MODE, _DIRECTORY_MODE = 0o600, 0o700


@dataclass(frozen=True, slots=True)
class Loaded:
    """What came of reading a state file."""

    state: SavedState
    warnings: tuple[str, ...] = ()
    """One line each: what could not be read, and where the file was set aside."""
    path: Path | None = None
    """The file that was read or could not be; None if there is none."""
    problem: str = ""
    """What is wrong with that file, if neither it nor the generation before it gives a cluster key."""


class StateFile:
    """One interface's state file.

    Args:
        path: such as ``/var/lib/wesher/wgoverlay.json``.
        gossip_port: of saved members without one: Go does not save it.

    """

    def __init__(self, path: Path, *, gossip_port: int) -> None:
        self._path = path
        self._previous = path.with_name(f"{path.name}.previous")
        self._lock_path = path.with_name(f".{path.name}.lock")
        self._gossip_port = gossip_port
        self._lock: int | None = None
        self._known: bytes | None = None
        """Digest of the content that may be replaced: read without problems, written by us, or set aside."""
        self._known_ring: KeyRing | None = None
        """Its cluster keys; None if it is not worth being kept as the previous generation."""

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
                "state file",
                "is used by another agent: start one of them with another --interface",
                value=self._path,
            ) from error
        self._lock = descriptor

    def unlock(self) -> None:
        """Let go of the lock; without one, do nothing."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def load(self) -> Loaded:
        """Read the file, its previous generation if it is damaged, or the one of wesher before 0.3.

        Raises:
            InvalidSpec: the file is not a regular file, or far too large.

        """
        for path in (self._path, self._path.with_name(FORMER_NAME)):
            try:
                content = read_regular(path, limit=MAX_BYTES, private=True)
            except FileNotFoundError:
                continue
            except Unreadable as error:
                if error.wrong_kind:
                    raise InvalidSpec(
                        "state file", f"{error.why}: move it away, or choose another --state-dir", value=path
                    ) from error
                return self._recovered(Loaded(SavedState(), path=path, problem=error.why))
            return self._recovered(self._parsed(path, content))
        if self._previous.exists():
            why = f"{self._path} is missing: to restore the previous state, rename {self._previous} to it"
            return Loaded(SavedState(), (why,))
        return Loaded(SavedState())

    def save(self, state: SavedState) -> None:
        """Replace the file, and keep the generation before as ``<name>.previous``.

        Raises:
            CannotWrite: the old content stands.

        """
        try:
            self._make_directory()
        except OSError as error:
            raise CannotWrite(self._path, error.strerror or str(error)) from error
        present = self._present()
        if present is not None and _digest(present) != self._known:
            self._make_replaceable(present, state)
        former, content = self._known_ring, render_state(state).encode()
        replace_file(self._path, content, mode=_FILE_MODE)
        self._known, self._known_ring = _digest(content), state.key_ring
        if present is not None and former is not None:
            if _share_a_key(former, state.key_ring):
                self._keep_previous(present)
            else:
                # A damaged file must not lead back into a mesh that this machine has left.
                with suppress(OSError):
                    self._previous.unlink(missing_ok=True)

    def present_path(self) -> Path | None:
        """Return the file's path, or None if there is no file."""
        return None if self.is_missing() else self._path

    def is_missing(self) -> bool:
        """Tell whether there is no file, as when another program removed it or its directory."""
        try:
            self._path.lstat()
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return False

    def others(self) -> Iterator[tuple[str, SavedState]]:
        """Yield the other interfaces with a state file in this directory, and what can be read of it."""
        with suppress(OSError):
            for path in sorted(self._path.parent.glob("*.json")):
                if path.name in {self._path.name, FORMER_NAME}:
                    continue
                with suppress(Unreadable):
                    content = read_regular(path, limit=MAX_BYTES)
                    yield path.stem, parse_state(content, gossip_port=self._gossip_port)[0]

    def take_over(self, former: StateFile) -> None:
        """Become another interface's file, with its previous generation and its copies; both are locked.

        A file that is here already and was written later stays, and the former one goes.

        Raises:
            CannotWrite: the former file is still there.

        """
        try:
            if _written_at(self._path) < _written_at(former._path):
                former._path.replace(self._path)
                self._previous.unlink(missing_ok=True)
                if former._previous.exists():
                    former._previous.replace(self._previous)
            for copy in former._copies():
                kept = self._path.with_name(f"{self._path.name}.corrupt-{_number_of(copy)}")
                if not kept.exists():
                    copy.replace(kept)
            for path in (former._path, former._previous, former._lock_path):
                path.unlink(missing_ok=True)
        except OSError as error:
            raise CannotWrite(former._path, error.strerror or str(error)) from error

    def remove(self) -> None:
        """Remove the file, its previous generation, its copies set aside, and the lock, still held.

        Raises:
            CannotWrite: they stay.

        """
        present = self._present()
        if present is not None and _digest(present) != self._known:
            raise CannotWrite(self._path, "another program has changed it")
        # The file itself last: as long as another with keys stays, it shows that there are some.
        for path in (self._previous, *self._copies(), self._path, self._lock_path):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise CannotWrite(path, error.strerror or str(error)) from error

    def _parsed(self, path: Path, content: bytes) -> Loaded:
        state, problems = parse_state(content, gossip_port=self._gossip_port)
        warnings = [f"{path}: {problem}" for problem in problems]
        if path == self._path:
            if not problems:
                self._known, self._known_ring = _digest(content), state.key_ring
            else:
                try:
                    warnings.append(f"a copy of {path} is in {self._set_aside(content)}")
                except CannotWrite as error:
                    warnings.append(f"{error}; the agent saves no state until this copy can be written")
        problem = "" if state.key_ring else "; ".join(problems) or "holds no cluster key"
        return Loaded(state, tuple(warnings), path, problem)

    def _recovered(self, loaded: Loaded) -> Loaded:
        """Return the previous generation if it has the cluster key that the file does not give."""
        if not loaded.problem:
            return loaded
        if loaded.path == self._path:
            with suppress(FileNotFoundError, Unreadable):
                content = read_regular(self._previous, limit=MAX_BYTES, private=True)
                state, problems = parse_state(content, gossip_port=self._gossip_port)
                if state.key_ring is not None and not problems:
                    warning = f"{loaded.path} {loaded.problem}: using the previous state, {self._previous}"
                    return Loaded(state, (warning,), loaded.path)
        warnings = loaded.warnings or (f"{loaded.path} {loaded.problem}",)
        return Loaded(loaded.state, warnings, loaded.path, loaded.problem)

    def _present(self) -> bytes | None:
        try:
            return read_regular(self._path, limit=MAX_BYTES, private=True)
        except FileNotFoundError:
            return None
        except Unreadable as error:
            raise CannotWrite(self._path, f"the current file {error.why}") from error
        except OSError as error:
            raise CannotWrite(self._path, error.strerror or str(error)) from error

    def _make_replaceable(self, present: bytes, state: SavedState) -> None:
        """Set aside what another program wrote, or what was damaged and could not be set aside before."""
        found, _ = parse_state(present, gossip_port=self._gossip_port)
        if found.key_ring is not None and not _share_a_key(found.key_ring, state.key_ring):
            raise CannotWrite(
                self._path,
                "another program wrote a state file with another cluster key: "
                "restart the agent to use that file, or move it away",
            )
        self._set_aside(present)

    def _keep_previous(self, present: bytes) -> None:
        # Room for one file only is not a reason to call the save a failure.
        with suppress(CannotWrite):
            replace_file(self._previous, present, mode=_FILE_MODE)

    def _set_aside(self, content: bytes) -> Path:
        copies = [*self._copies()]
        for copy in copies:
            with suppress(OSError, Unreadable):
                if read_regular(copy, limit=MAX_BYTES) == content:
                    break
        else:
            number = _number_of(copies[-1]) + 1 if copies else 1
            copy = self._path.with_name(f"{self._path.name}.corrupt-{number}")
            replace_file(copy, content, mode=_FILE_MODE)
            for excess in [*copies, copy][1 : 1 - KEPT_ASIDE]:
                with suppress(OSError):
                    excess.unlink()
        self._known, self._known_ring = _digest(content), None
        return copy

    def _copies(self) -> Iterator[Path]:
        """Return the copies set aside, the oldest first."""
        name = re.compile(re.escape(self._path.name) + r"\.corrupt-[0-9]{1,9}")
        with suppress(OSError):
            copies = [path for path in self._path.parent.iterdir() if name.fullmatch(path.name)]
            yield from sorted(copies, key=_number_of)

    def _make_directory(self) -> None:
        self._path.parent.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)


def _written_at(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _digest(content: bytes) -> bytes:
    return sha256(content).digest()


def _share_a_key(one: KeyRing, other: KeyRing | None) -> bool:
    return other is not None and any(key in [*other] for key in one)


def _number_of(copy: Path) -> int:
    return int(copy.name.rpartition("-")[2])
