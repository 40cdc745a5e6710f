"""The mounted directory of a Kubernetes agent: key ring and mesh.json, re-read when they change."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from wesher_common.errors import InvalidSpec
from wesher_common.keys import KeyRing
from wesher_common.mesh_document import FILE_NAME, MeshDocument

KEY_FILE, ACCEPTED_FILE = "cluster-key", "accepted-keys"
POLL_SECONDS = 2.0

Signature = tuple[tuple[int, int, int] | None, ...]


@dataclass(frozen=True, slots=True)
class Mounted:
    """What the directory holds."""

    document: MeshDocument
    ring: KeyRing


class MountedDirectory:
    """A directory that the kubelet keeps up to date by swapping a symbolic link."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._read_at: Signature | None = None

    def has_changed(self) -> bool:
        """Tell whether any file is another than when last read."""
        return self._signature() != self._read_at

    def read(self) -> Mounted:
        """Read all of it.

        Raises:
            InvalidSpec: naming the file, and the key in it.

        """
        # Before the files, so that a swap while reading is seen at the next look.
        self._read_at = self._signature()
        document = MeshDocument.from_json(self._text(FILE_NAME))
        accepted = self._text(ACCEPTED_FILE) if (self._directory / ACCEPTED_FILE).exists() else ""
        return Mounted(document, KeyRing.from_files(self._text(KEY_FILE), accepted))

    def _text(self, name: str) -> str:
        path = self._directory / name
        try:
            return path.read_text()
        except FileNotFoundError as error:
            raise InvalidSpec(name, f"is missing in {self._directory}") from error
        except (OSError, UnicodeError) as error:
            raise InvalidSpec(name, f"cannot be read in {self._directory}") from error

    def _signature(self) -> Signature:
        found: list[tuple[int, int, int] | None] = []
        for name in (FILE_NAME, KEY_FILE, ACCEPTED_FILE):
            try:
                status = (self._directory / name).stat()
            except OSError:
                found.append(None)
            else:
                found.append((status.st_mtime_ns, status.st_ino, status.st_size))
        return tuple(found)
