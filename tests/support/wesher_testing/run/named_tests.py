"""The tests that the documentation names, as ``path::name`` below ``tests/``."""

from __future__ import annotations

import ast
from functools import cache

from wesher_testing.run.toolbox import REPOSITORY


@cache
def names_in(path: str) -> frozenset[str]:
    """Return the names of the tests in a file; a device's stories are run by their names."""
    file = REPOSITORY / "tests" / path
    if not file.is_file():
        return frozenset()
    names = {
        node.name
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    return frozenset(name for name in names if name.startswith("test_") or file.stem.endswith("_cases"))
