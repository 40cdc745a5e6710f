"""No test is in no ring, where nobody would notice that it never runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from wesher_testing.rings import RINGS
from wesher_testing.toolbox import REPOSITORY

WHOLE_FILE = re.compile(r"^pytestmark = .*\bneeds_root\b", re.MULTILINE)


def chosen() -> Iterator[tuple[str, str]]:
    """Yield each path that a ring gives to pytest, and the mark by which it picks tests there."""
    for step in (step for ring in RINGS for step in ring.steps if step.counts_itself):
        words = step.argv[step.argv.index("pytest") :]
        mark = words[words.index("-m") + 1] if "-m" in words else ""
        yield from ((word, mark) for word in words if word.startswith("tests/"))


def runs_whole(file: Path) -> bool:
    """Tell whether every test of a file, named from the repository's root, runs in some ring."""
    marks = {mark for path, mark in chosen() if file.is_relative_to(path)}
    text = (REPOSITORY / file).read_text()
    return (
        "" in marks
        or {"needs_root", "not needs_root"} <= marks
        or ("not needs_root" in marks and "needs_root" not in text)
        or ("needs_root" in marks and WHOLE_FILE.search(text) is not None)
    )


def test_every_test_runs_in_a_ring() -> None:
    files = [path.relative_to(REPOSITORY) for path in sorted((REPOSITORY / "tests").rglob("test_*.py"))]
    assert len(files) > 100
    assert [str(file) for file in files if not runs_whole(file)] == []


def test_every_path_of_a_ring_is_there() -> None:
    assert [path for path, _ in chosen() if not (REPOSITORY / path).exists()] == []
