"""What an agent changed about links that are not its own, to be restored when it no longer needs it.

A file beside the state file, written before the change, so a crash loses no former value.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from wesher_agent.files.atomic import CannotWrite, replace_file
from wesher_agent.files.regular import Unreadable, read_regular

_SUFFIX = ".links"
"""Other than the state file's, which is found by its suffix."""
_KEY = "pathFilters"
_MAX_BYTES = 64 * 1024
_MAX_FILTER = 2


class LinkMemory:
    """The reverse-path filters that links had before an agent loosened them.

    Args:
        state_dir: where the agent keeps its state file.
        interface: the agent's device.

    """

    def __init__(self, state_dir: Path, interface: str) -> None:
        self.path = state_dir / f"{interface}{_SUFFIX}"

    def load(self) -> dict[str, int]:
        """Return the filters by link name; none if the file is missing or damaged."""
        with suppress(Unreadable, OSError, ValueError):
            found = json.loads(read_regular(self.path, limit=_MAX_BYTES))
            filters = found.get(_KEY) if isinstance(found, dict) else None
            if isinstance(filters, dict):
                return {
                    name: value
                    for name, value in filters.items()
                    if isinstance(value, int) and 0 <= value <= _MAX_FILTER
                }
        return {}

    def save(self, filters: Mapping[str, int]) -> None:
        """Remember these and no others; without any, the file is removed.

        Raises:
            CannotWrite: what was remembered before stands.

        """
        if filters:
            data = json.dumps({_KEY: dict(sorted(filters.items()))}).encode() + b"\n"
            replace_file(self.path, data, mode=0o600)
            return
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise CannotWrite(self.path, error.strerror or str(error)) from error
