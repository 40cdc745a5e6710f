"""How both sides lay facts out for people; pure."""

from __future__ import annotations

from collections.abc import Sequence

from wesher_common.printable import as_lines, printable

MINUTE, HOUR, DAY = 60, 3600, 86400
_KIB, _ONE_DIGIT = 1024, 10
_WIDEST = 64
"""Characters of a column. A longer entry, such as a member's name of 253, sticks out of its own row alone."""


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows under a heading, a line each; very long entries do not widen their column."""
    shown = [[printable(cell) for cell in row] for row in (columns, *rows)]
    widths = [max(min(len(row[index]), _WIDEST) for row in shown) for index in range(len(columns))]
    return as_lines(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in shown
    )


def size(count: int | None) -> str:
    """Return a number of bytes as people say it: ``512B``, ``1.2KiB``, ``34MiB``; ``-`` for none."""
    if count is None:
        return "-"
    if count < _KIB:
        return f"{count}B"
    value, unit = count / _KIB, "KiB"
    for larger in ("MiB", "GiB", "TiB", "PiB"):
        if round(value, 1) < _KIB:
            break
        value, unit = value / _KIB, larger
    return f"{value:.1f}{unit}" if round(value, 1) < _ONE_DIGIT else f"{value:.0f}{unit}"


def age(seconds: float | None) -> str:
    """Return a length of time as people say it: ``12s``, ``5m``, ``3h``, ``2d``; ``-`` for none."""
    if seconds is None:
        return "-"
    for unit, letter in ((DAY, "d"), (HOUR, "h"), (MINUTE, "m")):
        if seconds >= unit:
            return f"{int(seconds // unit)}{letter}"
    return f"{int(seconds)}s"
