"""How both sides lay facts out for people; pure."""

from __future__ import annotations

from collections.abc import Sequence

MINUTE, HOUR, DAY = 60, 3600, 86400


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows under a heading, each column as wide as its widest entry."""
    widths = [max(len(row[index]) for row in (columns, *rows)) for index in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (columns, *rows)
    )


def age(seconds: float | None) -> str:
    """Return a length of time as people say it: ``12s``, ``5m``, ``3h``, ``2d``; ``-`` for none."""
    if seconds is None:
        return "-"
    for unit, letter in ((DAY, "d"), (HOUR, "h"), (MINUTE, "m")):
        if seconds >= unit:
            return f"{int(seconds // unit)}{letter}"
    return f"{int(seconds)}s"
