"""The fragments in ``changelog.d`` become ``CHANGELOG.md`` at a release."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from wesher_testing.run.toolbox import REPOSITORY

KINDS = {
    "added": "Added",
    "changed": "Changed",
    "fixed": "Fixed",
    "removed": "Removed",
    "security": "Security",
}
TOWNCRIER = Path(sys.executable).with_name("towncrier")
BUILD = ("build", "--version", "9.9.9", "--date", "2099-12-31")
FRAGMENTS = [path for path in sorted((REPOSITORY / "changelog.d").glob("*.md")) if path.stem != "README"]


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture(scope="module")
def draft() -> str:
    return subprocess.run(
        [TOWNCRIER, *BUILD, "--draft"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_each_fragment_is_in_the_draft_under_its_kind(draft: str) -> None:
    assert "## 9.9.9 (2099-12-31)\n" in draft
    parts = re.split(r"^### (\w+)$", draft, flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    for path in FRAGMENTS:
        _, kind, _ = path.name.split(".")
        assert f"- {words(path.read_text())}" in words(sections[KINDS[kind]]), path.name
    entries = [line for line in draft.splitlines() if line.startswith("- ")]
    assert len(entries) == len(FRAGMENTS)


def test_a_fragment_is_short_and_ends_as_a_sentence() -> None:
    for path in FRAGMENTS:
        text = words(path.read_text())
        assert len(text) <= 330, path.name
        assert re.search(r"[.)`]$", text), path.name


def test_a_release_moves_the_fragments_below_the_changelogs_head(tmp_path: Path) -> None:
    """``make changelog`` on a copy."""
    for name in ("CHANGELOG.md", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, tmp_path)
    shutil.copytree(REPOSITORY / "changelog.d", tmp_path / "changelog.d")
    (tmp_path / "changelog.d/new-thing.added.md").write_text("A thing that is new.\n")
    before = (tmp_path / "CHANGELOG.md").read_text()
    for command in (["git", "init", "--quiet"], ["git", "add", "."], [TOWNCRIER, *BUILD, "--yes"]):
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    after = (tmp_path / "CHANGELOG.md").read_text()
    mark = "<!-- towncrier release notes start -->\n"
    head, _, older = before.partition(mark)
    assert after.startswith(f"{head}{mark}\n## 9.9.9 (2099-12-31)\n\n### Added\n")
    assert "- A thing that is new.\n" in after
    assert after.endswith(older)
    left = {path.name for path in (tmp_path / "changelog.d").iterdir()}
    assert left == {"README.md", "template.md.jinja"}
