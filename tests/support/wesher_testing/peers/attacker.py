"""The program that does to an agent what somebody without the key can do; its words are in its source."""

from __future__ import annotations

from pathlib import Path

from wesher_testing.run import toolbox


def binary() -> Path:
    """Return ``tests/support/go/attacker``, built."""
    return toolbox.go_binary(toolbox.REPOSITORY / "tests/support/go/attacker", ".", "attacker")
