"""What every tracked file keeps to."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from wesher_testing.run.toolbox import REPOSITORY, repository_files

NOT_THESE_TESTS = ":!tests/repo"
"""They must name what they refuse."""

SOURCES = ("common", "agent", "operator", "tests/support/wesher_testing", "tools")


def lines_of(*patterns: str) -> Iterator[tuple[str, str]]:
    """Yield (place, line) for every line of text."""
    for path in repository_files(*patterns):
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            yield f"{path.relative_to(REPOSITORY)}:{number}", line


def test_no_folder_hides_a_module_of_the_standard_library() -> None:
    """An operator/__init__.py, or tests/x/__init__.py with a stdlib name, kills imports from 3.11 on."""
    packages = {
        path.parent.relative_to(REPOSITORY) for path in repository_files("*/__init__.py", "__init__.py")
    }
    top = {package for package in packages if len(package.parts) <= 1}
    in_tests = {
        package
        for package in packages
        if package.parts[:1] == ("tests",) and package.parts[:3] != ("tests", "support", "wesher_testing")
    }
    # A script's own folder comes first on the path, and so do the folders that pytest is told of.
    first_on_path = ("*.py", "scripts/*.py", "tests/*.py", "tests/support/*.py", "tools/*.py")
    shadowing = [
        path
        for path in repository_files(*(f":(glob){name}" for name in first_on_path))
        if path.stem in sys.stdlib_module_names
    ]
    assert (top, in_tests, shadowing) == (set(), set(), [])


@pytest.mark.parametrize("folder", SOURCES)
def test_every_module_says_what_it_owns(folder: str) -> None:
    silent = [
        path
        for path in repository_files(f"{folder}/*.py")
        if not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert silent == []


def test_nothing_is_marked_as_unfinished() -> None:
    marks = re.compile(r"\b(TODO|FIXME|XXX)\b")
    assert [place for place, line in lines_of(NOT_THESE_TESTS) if marks.search(line)] == []


def test_no_file_names_a_place_on_a_developers_machine() -> None:
    places = re.compile(r"(?<![\w.}])/(home|Users|work|root)/\w")
    assert [
        (place, line) for place, line in lines_of(":!tests/support/go/**/go.sum") if places.search(line)
    ] == []


def test_no_file_names_the_host_of_a_package_registry() -> None:
    """Which mirror answers is the machine's setting, never the project's."""
    hosts = ("pypi.org", "pythonhosted.org", "proxy.golang.org", "deb.debian.org", "archive.ubuntu.com")
    assert [place for place, line in lines_of(NOT_THESE_TESTS) if any(host in line for host in hosts)] == []


def test_shell_scripts_parse() -> None:
    scripts = [
        path
        for path in repository_files()
        if path.read_bytes().startswith((b"#!/usr/bin/env bash", b"#!/bin/sh"))
    ]
    assert REPOSITORY / ".ci/run" in scripts
    for script in scripts:
        checked = subprocess.run(["bash", "-n", script], capture_output=True, text=True, check=False)
        assert checked.stderr == ""


def test_the_verbs_are_listed_with_what_they_do() -> None:
    listed = subprocess.run(
        ["make", "help"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout
    for verb in ("demo", "demo-machines", "test", "check", "format", "lock"):
        assert re.search(rf"^  make {verb} +\w", listed, re.MULTILINE)


def test_continuous_integration_runs_the_test_command_of_the_readmes_first_screen() -> None:
    first_screen = (REPOSITORY / "README.md").read_text().splitlines()[:25]
    assert {"$ make demo", "$ make test"} <= {line.partition("#")[0].strip() for line in first_screen}
    commands = (REPOSITORY / ".ci/run").read_text().splitlines()
    (test,) = [line for line in commands if line.startswith("make ")]
    assert "test" in test.partition(">")[0].split()


def test_the_licence_stands_at_the_root() -> None:
    assert "Apache License" in (REPOSITORY / "LICENSE").read_text()
