"""Our block in the hosts file, in Go wesher's format (``etchosts/etchosts.go``)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from wesher_agent.mesh.desired import HostEntry


class HostsFile:
    """The lines of one interface in a hosts file; all others are left as they are.

    Args:
        path: ``/etc/hosts``, or where the host's is mounted. It is never created.
        interface: whose lines are ours.

    """

    def __init__(self, path: Path, interface: str) -> None:
        raise NotImplementedError

    def apply(self, entries: Iterable[HostEntry]) -> bool:
        """Make our lines say this; tell whether the file had to change.

        Raises:
            CannotWrite: missing or read-only; warn once.

        """
        raise NotImplementedError

    def remove(self) -> bool:
        """Take all our lines out; tell whether there were any."""
        raise NotImplementedError
