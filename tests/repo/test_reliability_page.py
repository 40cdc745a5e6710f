"""Each figure on the reliability page names the test that prints it."""

from __future__ import annotations

import re
from pathlib import Path

from wesher_agent.runtime.counts import KINDS

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs/reliability.md").read_text()
TESTS = "\n".join(path.read_text() for path in (REPOSITORY / "tests").rglob("test_*.py"))


def test_every_test_that_the_page_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert len(named) > 15
    assert sorted(name for name in named if f"def {name}(" not in TESTS) == []


def test_every_counter_of_the_page_is_counted() -> None:
    named = set(re.findall(r"`((?:members|device|route|overlay|name|suspicions)[A-Z]\w+)`", PAGE))
    assert named
    assert named <= set(KINDS)
