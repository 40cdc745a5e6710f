"""What tests measured: noted while they run, shown when all have ended, where nothing scrolls it away."""

from __future__ import annotations

import pytest

_NOTED = pytest.StashKey[list[str]]()


def note(item: pytest.Item, figure: str) -> None:
    """Note what a test measured."""
    item.config.stash.setdefault(_NOTED, []).append(f"{item.name}: {figure}")


def noted(config: pytest.Config) -> list[str]:
    """Return all that was noted, a line each."""
    return config.stash.get(_NOTED, [])
