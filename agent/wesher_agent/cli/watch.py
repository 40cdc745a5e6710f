"""``--watch``: shows an answer again and again on a terminal."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import NoReturn
from unicodedata import combining, east_asian_width

from wesher_agent.cli.output import encodable, write
from wesher_common.errors import InvalidSpec, WesherError
from wesher_common.printable import printable

WATCH_SECONDS = 2.0
"""Between two looks."""
_HOME, _CLEAR_LINE, _CLEAR_BELOW, _CLEAR_ALL = "\x1b[H", "\x1b[K", "\x1b[J", "\x1b[2J"


def watch(show: Callable[[], str], *, title: str, environ: Mapping[str, str]) -> NoReturn:
    """Show a text every `WATCH_SECONDS` until Ctrl-C ends the process.

    An agent that restarts meanwhile is shown as an error and asked again.

    Args:
        show: returns the text.
        title: the command, for the first line.
        environ: for TERM.

    Raises:
        InvalidSpec: standard output is not a terminal that can be redrawn.
        WesherError: the first look failed.

    """
    if not sys.stdout.isatty() or environ.get("TERM", "dumb") == "dumb":
        raise InvalidSpec("--watch", "needs a terminal: repeat the command instead")
    text = show()
    write(_CLEAR_ALL)
    while True:
        size = os.get_terminal_size(sys.stdout.fileno())
        heading = f"{title}, every {WATCH_SECONDS:.0f} s until Ctrl-C, {time.strftime('%H:%M:%S')}"
        # Escapes are longer than the letters that they stand for, so they come before the cut.
        shown = encodable(text)
        write(frame(shown, heading, columns=size.columns, lines=size.lines, dots=_dots()))
        time.sleep(WATCH_SECONDS)
        try:
            text = show()
        except WesherError as error:
            text = f"! {error}"


def frame(text: str, heading: str, *, columns: int, lines: int, dots: str = "…") -> str:
    """Return what redraws a terminal: no line is longer than it is wide, and none scrolls.

    Args:
        text: the lines to show.
        heading: the line above them.
        columns: the terminal's width; 0 if unknown.
        lines: its height; 0 if unknown.
        dots: one character for what was cut off.

    """
    rows = [heading, "", *(printable(row) for row in text.split("\n"))]
    # The cursor stands below the last line.
    room = max(lines - 1, 1) if lines else len(rows)
    if len(rows) > room:
        rows = [*rows[: room - 1], f"{dots} {len(rows) - room + 1} more lines"]
    shown = [_cut(row, columns, dots) if columns else row for row in rows]
    return _HOME + "".join(f"{_CLEAR_LINE}{row}\n" for row in shown) + _CLEAR_BELOW


def _dots() -> str:
    return "…" if encodable("…") == "…" else "+"


def _cut(row: str, columns: int, dots: str) -> str:
    taken = 0
    for index, character in enumerate(row):
        taken += _cells(character)
        if taken > columns or (taken == columns and index < len(row) - 1):
            return row[:index] + dots
    return row


def _cells(character: str) -> int:
    if combining(character):
        return 0
    return 2 if east_asian_width(character) in {"W", "F"} else 1
