"""Our lines in the hosts file, in Go wesher's format (``etchosts/etchosts.go``).

A line is ours when it ends with our banner. Every other line stays byte for
byte, line endings and all; Go rewrites those.
"""

from __future__ import annotations

from collections.abc import Iterable
from io import BytesIO
from itertools import chain
from pathlib import Path

from wesher_agent.files.atomic import CannotWrite, update_file
from wesher_agent.files.mounted_file import DELETED, mounted_from
from wesher_agent.mesh.desired import HostEntry

_MARK = b"# ! managed automatically by wesher interface "


class HostsFile:
    """The lines of one interface in a hosts file.

    Args:
        path: ``/etc/hosts``, or where the host's is mounted. It is never created.
        interface: whose lines are ours; other interfaces' are as foreign as any.

    """

    def __init__(self, path: Path, interface: str) -> None:
        self._path = path
        self._interface = interface
        self._mounted_from = ""
        """The mounted file's name on the host, as first seen; empty if it is not a mount."""
        self.skipped: tuple[str, ...] = ()
        """The names that the last `apply` left out: lines of others have them."""

    def apply(self, entries: Iterable[HostEntry]) -> bool:
        """Make our lines say this; tell whether the file had to change.

        A name that another line has already is left out, see `skipped`.

        Raises:
            CannotWrite: missing, read-only, or not the host's file any more; warn once.

        """
        self._check_mount()
        wanted = tuple(entries)

        def change(old: bytes) -> bytes:
            taken = foreign_names(old)
            self.skipped = tuple(entry.name for entry in wanted if entry.name.lower() in taken)
            kept = (entry for entry in wanted if entry.name.lower() not in taken)
            return render_hosts(old, kept, self._interface)

        return update_file(self._path, change, tag=self._interface)

    def remove(self) -> bool:
        """Take all our lines out; tell whether there were any.

        Raises:
            CannotWrite: missing or read-only.

        """
        return self.apply(())

    def _check_mount(self) -> None:
        """Refuse a mounted file that the host has replaced by another: no program there reads it.

        Raises:
            CannotWrite: naming what to do.

        """
        try:
            now = mounted_from(self._path)
        except OSError:
            return
        self._mounted_from = self._mounted_from or now
        if now.endswith(DELETED) or now != self._mounted_from:
            raise CannotWrite(
                self._path,
                "the host replaced the file, but this container still mounts the old one: "
                "restart the container",
            )


def render_hosts(old: bytes, entries: Iterable[HostEntry], interface: str) -> bytes:
    """Return a hosts file with exactly these entries as the lines of ``interface``.

    As in Go, an address that is still known keeps its place, others go, new ones
    are appended.
    """
    banner = _MARK + interface.encode()
    wanted = {str(entry.address).encode(): _line(entry, banner) for entry in entries}
    lines = []
    # Not splitlines: the resolver ends a line at a line feed and nowhere else.
    for line in BytesIO(old):
        if not line.strip().endswith(banner):
            lines.append(line)
        elif ours := wanted.pop(line.split(maxsplit=1)[0], None):
            lines.append(ours)
    if wanted and lines and not lines[-1].endswith(b"\n"):
        lines[-1] += b"\n"
    return b"".join(lines) + b"".join(wanted.values())


def foreign_names(hosts: bytes) -> frozenset[str]:
    """Return the names in the lines of other programs, in lower case.

    A machine in two meshes may meet the same member in both: wesher's lines do not count,
    of whatever interface.
    """
    lines = (line for line in BytesIO(hosts) if _MARK not in line)
    words = chain.from_iterable(line.partition(b"#")[0].split()[1:] for line in lines)
    return frozenset(word.decode(errors="replace").lower().removesuffix(".") for word in words)


def _line(entry: HostEntry, banner: bytes) -> bytes:
    return f"{entry.address}\t{entry.name}\t".encode() + banner + b"\n"
