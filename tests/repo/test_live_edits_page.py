"""``docs/live-edits.md`` has a row for each field of a WesherMesh's spec, each with tests that exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from wesher_operator.crd import definition
from wesher_operator.resources.mesh import WesherMesh

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs/live-edits.md").read_text()
ROWS = {
    field.strip(" `"): re.findall(r"`([^`]+::[^`]+)`", tests)
    for field, tests in re.findall(r"^\| (`[^|]+`) \|.*\|([^|]*)\|$", PAGE, re.MULTILINE)
}


def fields(schema: dict[str, Any], path: str = "") -> Iterator[str]:
    """Yield the path of every field that is edited as a whole: a list or map is one."""
    if "properties" not in schema:
        yield path
        return
    for name, part in schema["properties"].items():
        yield from fields(part, f"{path}.{name}" if path else name)


def test_each_field_of_the_spec_has_a_row_and_no_other() -> None:
    schema = definition(WesherMesh)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    assert sorted(ROWS) == sorted(fields(schema))


@pytest.mark.parametrize("field", ROWS)
def test_each_row_names_tests_that_exist(field: str) -> None:
    assert ROWS[field]
    for named in ROWS[field]:
        path, _, name = named.partition("::")
        tree = ast.parse((TESTS / path).read_text())
        found = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        assert name in found, named
