"""Writes a command's answer to standard output, whatever letters its encoding lacks."""

from __future__ import annotations

import sys


def show(text: str) -> int:
    """Print a text; return the exit code of success."""
    write(f"{text}\n")
    return 0


def write(text: str) -> None:
    """Write a text as it is and flush it."""
    sys.stdout.write(encodable(text))
    sys.stdout.flush()


def encodable(text: str) -> str:
    """Return a text with an escape for each letter that standard output has no code for."""
    encoding = sys.stdout.encoding or "ascii"
    return text.encode(encoding, "backslashreplace").decode(encoding)
