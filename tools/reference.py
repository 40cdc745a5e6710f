"""What the generated pages of ``docs/reference`` have in common: their folder, head and tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from wesher_testing.run.toolbox import REPOSITORY

FOLDER = REPOSITORY / "docs/reference"


def page(title: str, source: str, *parts: str) -> str:
    """Return a page.

    Args:
        title: its heading.
        source: what it is made from, to change instead of the page.
        parts: paragraphs, tables and sections.

    """
    note = f"<!-- Made from {source} by `make generate`: change that, not this page. -->"
    return "\n\n".join([f"# {title}", note, *(part.strip("\n") for part in parts)]) + "\n"


def table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table."""
    lines = ["|---" * len(heading) + "|", *map(_row, rows)]
    return "\n".join([_row(heading), *lines])


def code(text: str) -> str:
    """Return text as code that may be in a cell of a table; empty for none."""
    return f"`{text.replace('|', chr(92) + '|')}`" if text else ""


def _row(cells: Sequence[str]) -> str:
    return "|".join(["", *(f" {' '.join(cell.split())} " if cell else " " for cell in cells), ""])


def prose(text: str) -> str:
    """Return text in which nothing outside code is taken for HTML."""
    parts = text.split("`")
    return "`".join(part if index % 2 else part.replace("<", "&lt;") for index, part in enumerate(parts))
