"""Each fault of ``docs/faults.md`` names the tests that hold it, and each of them exists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from wesher_testing.run.named_tests import names_in

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs/faults.md").read_text()


@dataclass(frozen=True, slots=True)
class Case:
    """One row: a fault, or a sibling of it."""

    kind: str
    text: str
    tests: tuple[str, ...]
    """``path::name`` below ``tests/``."""


def cases() -> Iterator[Case]:
    """Yield the rows of all tables."""
    kind = ""
    for line in PAGE.splitlines():
        if line.startswith("#"):
            kind = line.lstrip("# ")
        elif line.startswith("| ") and not line.startswith("| case |"):
            text, _, tests = (cell.strip() for cell in line.strip("|").split("|"))
            yield Case(kind, text, tuple(re.findall(r"`([^`]+)`", tests)))


CASES = tuple(cases())


def test_every_kind_has_a_table() -> None:
    kinds = {line.lstrip("# ") for line in PAGE.splitlines() if line.startswith("### ")}
    assert len(kinds) > 10
    assert kinds == {case.kind for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.text[:60])
def test_every_case_names_tests_that_exist(case: Case) -> None:
    assert case.tests
    found = [test for test in case.tests if test.partition("::")[2] in names_in(test.partition("::")[0])]
    assert found == list(case.tests)
