"""Writes a command's answer to standard output."""

from __future__ import annotations

import sys
from io import TextIOWrapper


def show(text: str) -> int:
    """Print a text; return the exit code of success."""
    if isinstance(sys.stdout, TextIOWrapper):
        # A letter that the terminal's encoding lacks must not end the command.
        sys.stdout.reconfigure(errors="backslashreplace")
    print(text, flush=True)  # noqa: T201 - a command's answer
    return 0


def can_show(character: str) -> bool:
    """Tell whether standard output has a code for a character."""
    try:
        character.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True
