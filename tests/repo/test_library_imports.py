"""A library's private modules and names may change in any of its releases, so none is imported."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator

import pytest

from wesher_testing.run.toolbox import REPOSITORY

OURS = "wesher_"
PRIVATE = re.compile(r"(^|\.)_(?!_)")
DISTRIBUTIONS = {"pyroute2": "pyroute2-minimal", "yaml": "pyyaml"}
"""Those that are named otherwise than what they hold."""
FOLDERS = ("common", "agent", "operator", "tests", "scripts")


def private_imports(module: ast.AST) -> Iterator[str]:
    """Yield each import of a private module or name of a library or of Python's own."""
    for node in ast.walk(module):
        match node:
            case ast.Import(names=names):
                found = [alias.name for alias in names]
            case ast.ImportFrom(module=str(source), names=names, level=0):
                found = [f"{source}.{alias.name}" for alias in names]
            case _:
                continue
        yield from (
            name for name in found if not name.startswith(OURS) and any(map(_is_private, name.split(".")))
        )


def _is_private(part: str) -> bool:
    return part.startswith("_") and not part.startswith("__")


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_private_module_of_a_library_is_imported(folder: str) -> None:
    found = {
        f"{path.relative_to(REPOSITORY)}: {name}"
        for path in (REPOSITORY / folder).rglob("*.py")
        for name in private_imports(ast.parse(path.read_text()))
    }
    assert sorted(found) == []


@pytest.mark.parametrize(
    ("part", "folders"),
    [("agent", ("common", "agent/wesher_agent")), ("operator", ("common", "operator/wesher_operator"))],
)
def test_each_part_is_locked_with_the_libraries_that_it_imports(part: str, folders: tuple[str, ...]) -> None:
    """Its image has no others, so one that only the other part names is missing there."""
    lock = (REPOSITORY / f"requirements-{part}.lock").read_text()
    locked = set(re.findall(r"^([\w.-]+)==", lock, re.MULTILINE))
    imported = {
        name
        for folder in folders
        for path in (REPOSITORY / folder).rglob("*.py")
        for name in top_level_imports(ast.parse(path.read_text()))
    }
    # With the extra `kubeconfig`, and only when --kubeconfig is given.
    extra = {"kubernetes"} if part == "agent" else set()
    assert {DISTRIBUTIONS.get(name, name) for name in imported} - extra <= locked


def top_level_imports(module: ast.AST) -> Iterator[str]:
    """Yield the libraries that a module imports, neither Python's own nor ours."""
    for node in ast.walk(module):
        match node:
            case ast.Import(names=names):
                found = [alias.name for alias in names]
            case ast.ImportFrom(module=str(source), level=0):
                found = [source]
            case _:
                continue
        tops = {name.partition(".")[0] for name in found}
        yield from (top for top in tops - sys.stdlib_module_names if not top.startswith(OURS))


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("import kopf._core", ["kopf._core"]),
        ("from kopf._core.engines import peering", ["kopf._core.engines.peering"]),
        ("from kopf import _core", ["kopf._core"]),
        ("import _socket", ["_socket"]),
        ("from wesher_operator.options import _RUN", []),
        ("from __future__ import annotations", []),
        ("from . import _x", []),
        ("import kopf, json", []),
    ],
)
def test_a_private_import_is_seen(line: str, names: list[str]) -> None:
    assert list(private_imports(ast.parse(line))) == names
