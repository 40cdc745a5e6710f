"""Each test that ``docs/support.md`` names for a promise exists."""

from __future__ import annotations

import ast
import re

import pytest

from wesher_testing.run.toolbox import REPOSITORY

NAMED = sorted({*re.findall(r"`([\w/]+\.py::\w+)`", (REPOSITORY / "docs/support.md").read_text())})


def test_it_names_tests() -> None:
    assert len(NAMED) > 5


@pytest.mark.parametrize("named", NAMED)
def test_a_promise_names_a_test_that_exists(named: str) -> None:
    path, _, test = named.partition("::")
    tree = ast.parse((REPOSITORY / "tests" / path).read_text())
    assert test in {
        node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
