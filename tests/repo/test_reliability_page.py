"""The reliability page names the ring and the test that print each figure, and what is really logged."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest

from wesher_agent.status.counters import KINDS
from wesher_testing.fuzz.targets import TARGETS
from wesher_testing.run.log_events import is_logged
from wesher_testing.run.rings import RINGS

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs/reliability.md").read_text()
SOURCES = "\n".join(
    path.read_text()
    for package in ("agent/wesher_agent", "operator/wesher_operator")
    for path in (REPOSITORY / package).rglob("*.py")
)
PATHS = {
    ring.name: [REPOSITORY / word for step in ring.steps for word in step.argv if word.startswith("tests/")]
    for ring in RINGS
}
COMMANDS = {"make check": "check", **{f"make test RING={name}": name for name in PATHS}}
WRITERS = frozenset({"say", "figure"})
"""What tests call to have a figure printed: the fixture, and the simulator's method."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table whose last column says what to run."""

    goal: str
    measured: str
    tests: tuple[tuple[str, str], ...]
    """Each ring with a test in it."""


@dataclass(slots=True)
class Table:
    """One table of the page."""

    columns: list[str]
    rows: list[list[str]] = field(default_factory=list)


def tables() -> list[Table]:
    """Return every table."""
    found, inside = [], False
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            inside = False
        elif not inside:
            found.append(Table(cells))
            inside = True
        elif not set(line) <= set("|-"):
            found[-1].rows.append(cells)
    return found


def measurements() -> Iterator[Row]:
    """Yield each row of what was measured."""
    for table in tables():
        if "measured" not in table.columns:
            continue
        assert table.columns[-1] == "command and test"
        named: list[tuple[str, str]] = []
        for cells in table.rows:
            if cells[-1] != "the same":
                named, ring = [], ""
                for word in re.findall(r"`([^`]+)`", cells[-1]):
                    if word.startswith("make "):
                        ring = COMMANDS[word]
                    else:
                        named.append((ring, word))
            yield Row(cells[0], cells[table.columns.index("measured")], tuple(named))


ROWS = list(measurements())


@cache
def functions(ring: str) -> dict[str, bool]:
    """Return each function in a ring's test files, and whether it has a figure printed, if by another one."""
    found: dict[str, bool] = {}
    for path in PATHS[ring]:
        for file in [path] if path.is_file() else path.rglob("test_*.py"):
            here = {
                node.name: set(uses(node))
                for node in ast.walk(ast.parse(file.read_text()))
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            }
            printing = WRITERS
            for _ in here:
                printing |= {name for name, used in here.items() if used & printing}
            found |= {name: name in printing for name in here}
    return found


def uses(function: ast.AST) -> Iterator[str]:
    """Yield the names of all that a function calls, and of the fixtures that it is given."""
    for node in ast.walk(function):
        match node:
            case ast.Call(func=ast.Name(name) | ast.Attribute(attr=name)):
                yield name
            case ast.arg(arg=name) if name not in WRITERS:
                yield name


def test_the_page_has_its_tables() -> None:
    assert len(ROWS) > 25
    assert all(row.tests for row in ROWS)


def test_the_number_of_decoders_is_that_of_what_is_fuzzed() -> None:
    assert f"each of {len(TARGETS.keys() - {'engine'})} decoders and the whole engine" in PAGE


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.goal[:40])
def test_every_test_that_a_row_names_is_in_the_ring_that_it_names(row: Row) -> None:
    assert [test for ring, test in row.tests if test not in functions(ring)] == []


@pytest.mark.parametrize(
    "row", [row for row in ROWS if re.search(r"\d", row.measured)], ids=lambda row: row.goal[:40]
)
def test_every_number_has_a_test_that_prints_it(row: Row) -> None:
    assert any(functions(ring)[test] for ring, test in row.tests)


def seen() -> list[list[str]]:
    """Return the rows that say how an event is seen."""
    [table] = [table for table in tables() if table.columns[0] == "event"]
    return table.rows


def test_every_line_that_the_page_shows_is_logged() -> None:
    lines = [line for row in seen() for line in re.findall(r"`([^`]+)`", row[1])]
    assert len(lines) > 12
    assert [line for line in lines if not is_logged(line)] == []


def test_every_counter_of_the_page_is_counted_and_every_one_is_here_or_among_the_troubles() -> None:
    named = {name for row in seen() for name in re.findall(r"`([^`]+)`", row[2])}
    assert named <= {*KINDS, "gossip.rejected"}
    troubles = (REPOSITORY / "docs/troubleshooting.md").read_text()
    assert [kind for kind in KINDS if kind not in named and f"| `{kind}` |" not in troubles] == []


def test_every_reason_of_the_page_is_given() -> None:
    named = {name for row in seen() for name in re.findall(r"`([^`]+)`", row[3])}
    assert len(named) > 5
    assert [name for name in named if f'"{name}"' not in SOURCES] == []
