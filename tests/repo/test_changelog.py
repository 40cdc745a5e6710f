"""The fragments in ``changelog.d`` become ``CHANGELOG.md`` at a release."""

from __future__ import annotations

import re
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
FRAGMENTS = [path for path in sorted((REPOSITORY / "changelog.d").glob("*.md")) if path.stem != "README"]


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture(scope="module")
def draft() -> str:
    towncrier = Path(sys.executable).with_name("towncrier")
    return subprocess.run(
        [towncrier, "build", "--draft", "--version", "9.9.9", "--date", "2099-12-31"],
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


def test_the_changelog_has_the_place_where_a_release_is_added() -> None:
    assert "<!-- towncrier release notes start -->\n" in (REPOSITORY / "CHANGELOG.md").read_text()
