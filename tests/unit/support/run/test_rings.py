"""No test is in no ring, where it would never run; and what a ring needs can be had."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from wesher_testing.run import __main__ as run_rings
from wesher_testing.run import rings, system_packages
from wesher_testing.run.ring_tools import TOOLS
from wesher_testing.run.rings import RINGS, UnknownRing, named
from wesher_testing.run.toolbox import REPOSITORY

MARKED = re.compile(r"\bmark\.needs_root\b")
WHOLE_FILE = re.compile(r"^pytestmark = .*\bneeds_root\b", re.MULTILINE)


def chosen() -> Iterator[tuple[str, str]]:
    """Yield each path that a ring gives to pytest, and the mark by which it picks tests there."""
    for step in (step for ring in RINGS for step in ring.steps if step.counts_itself):
        words = step.argv[step.argv.index("pytest") :]
        mark = words[words.index("-m") + 1] if "-m" in words else ""
        yield from ((word, mark) for word in words if word.startswith("tests/"))


def marks_of(file: Path) -> list[str]:
    """Return the marks by which rings pick tests of a file, named from the repository's root."""
    return [mark for path, mark in chosen() if file.is_relative_to(path)]


def runs_whole(file: Path) -> bool:
    """Tell whether every test of a file, named from the repository's root, runs in some ring."""
    marks = {*marks_of(file)}
    text = (REPOSITORY / file).read_text()
    return (
        "" in marks
        or {"needs_root", "not needs_root"} <= marks
        or ("not needs_root" in marks and not MARKED.search(text))
        or ("needs_root" in marks and WHOLE_FILE.search(text) is not None)
    )


@pytest.fixture(scope="module")
def files() -> list[Path]:
    found = [path.relative_to(REPOSITORY) for path in sorted((REPOSITORY / "tests").rglob("test_*.py"))]
    assert len(found) > 100
    return found


def test_every_test_runs_in_a_ring(files: list[Path]) -> None:
    assert [str(file) for file in files if not runs_whole(file)] == []


def test_no_test_runs_twice(files: list[Path]) -> None:
    for file in files:
        marks = marks_of(file)
        assert len(marks) == len({*marks}), file
        assert "" not in marks or len(marks) == 1, file


def test_every_path_of_a_ring_is_there() -> None:
    assert [path for path, _ in chosen() if not (REPOSITORY / path).exists()] == []


def test_steps_of_a_ring_have_names_of_their_own() -> None:
    for ring in RINGS:
        names = [step.name for step in ring.steps]
        assert len(names) == len({*names}), ring.name


def test_what_rings_need_is_known() -> None:
    assert {program for ring in RINGS for program in ring.programs} <= system_packages.PACKAGES.keys()
    assert {tool for ring in RINGS for tool in ring.tools} == TOOLS.keys()


def test_only_the_named_rings_are_taken_each_once() -> None:
    assert [ring.name for ring in named(["agent", "check", "agent"])] == ["agent", "check"]
    assert named([]) == RINGS
    with pytest.raises(UnknownRing, match=r"no ring 'chek': choose from check, lab, "):
        named(["check", "chek"])


def test_an_unknown_ring_is_refused_before_anything_is_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(system_packages, "install", pytest.fail)
    for main in (rings.main, run_rings.main):
        assert main(["nonsense"]) == 2
        assert "there is no ring 'nonsense'" in capsys.readouterr().err


def test_only_what_the_named_rings_use_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def refuse(packages: list[str]) -> int:
        asked.append(packages)
        return 1

    monkeypatch.setattr(system_packages, "find", lambda _: None)
    monkeypatch.setattr(system_packages, "install", refuse)
    assert run_rings.main(["wireguard"]) == 1
    assert run_rings.main(["check"]) == 1
    assert asked == [["iproute2", "iputils-ping", "wireguard-tools"], []]
