"""Each import rule, broken on purpose once, is seen to be caught."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from wesher_testing.run.toolbox import REPOSITORY

_PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
CONTRACTS = [contract["name"] for contract in _PROJECT["tool"]["importlinter"]["contracts"]]

VIOLATIONS = {
    "The agent and the operator never import each other": (
        "operator/wesher_operator/crd.py",
        "import wesher_agent.settings",
    ),
    "wesher_common is a vocabulary": ("common/wesher_common/names.py", "import wesher_agent.settings"),
    "In the agent, each layer imports only the ones below it": (
        "agent/wesher_agent/wire/messages.py",
        "import wesher_agent.mesh.device",
    ),
    "Shells do what a member asks for": (
        "agent/wesher_agent/runtime/agent.py",
        "import wesher_agent.mesh.roster",
    ),
    "In the operator, handlers wake reconcilers": (
        "operator/wesher_operator/reconcile/allocation.py",
        "import wesher_operator.handlers",
    ),
    "The kubectl plugin starts at once": ("operator/wesher_operator/kubectl/reach.py", "import kopf"),
    "Engines and policies are told the time": ("agent/wesher_agent/swim/engine.py", "import time"),
    "The wire format and the SWIM engine know nothing of wesher": (
        "agent/wesher_agent/wire/messages.py",
        "import wesher_common.keys",
    ),
    "pydantic and kopf never reach the agent": ("agent/wesher_agent/settings.py", "import pydantic"),
}
"""How a contract's name begins, a file, and the line that breaks the contract there."""


def lint(tree: Path) -> str:
    """Run the linter over a tree, and return its verdicts when it found a rule broken."""
    # The linter must import the copy, not the installed packages.
    folders = [str(tree / folder) for folder in ("common", "agent", "operator")]
    program = (
        f"import sys; sys.path[:0] = {folders}; import importlinter.cli as cli; cli.lint_imports_command()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "--no-logo", "--no-cache"],
        cwd=tree,
        env={**os.environ, "COLUMNS": "1000"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.stdout + done.stderr if done.returncode else ""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the packages and the rules, in which a test may break one rule at a time."""
    copy = tmp_path_factory.mktemp("tree")
    shutil.copy(REPOSITORY / "pyproject.toml", copy)
    for folder in ("common", "agent", "operator"):
        shutil.copytree(REPOSITORY / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def test_every_import_rule_has_its_violation_here() -> None:
    unbroken = [name for name in CONTRACTS if not any(name.startswith(start) for start in VIOLATIONS)]
    assert unbroken == []


@pytest.mark.parametrize("start", VIOLATIONS)
def test_a_broken_import_rule_is_caught_by_its_name(start: str, tree: Path) -> None:
    (name,) = (name for name in CONTRACTS if name.startswith(start))
    file, line = VIOLATIONS[start]
    target = tree / file
    unbroken = target.read_text()
    try:
        target.write_text(f"{unbroken}\n{line}\n")
        verdicts = lint(tree)
    finally:
        target.write_text(unbroken)
    assert re.search(rf"^{re.escape(name)} *BROKEN$", verdicts, re.MULTILINE)
