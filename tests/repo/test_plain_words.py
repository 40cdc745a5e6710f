"""The prose gets plainer: what its readers should not have to read becomes less, and never more."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from wesher_testing.run import plain_words
from wesher_testing.run.plain_words import LIST, WORDS, allowed, counts, files, found_in, render, risen

LOWER = "PYTHONPATH=tests/support .venv/bin/python -m wesher_testing.run.plain_words lower"
SHOW = "PYTHONPATH=tests/support .venv/bin/python -m wesher_testing.run.plain_words"
COUNTED = [
    "Whoever joins first.",
    "the member whom we dial",
    "an address that is no address",
    "It is none of these.",
    "It is another's.",
    "a fault of ours",
    "begun anew",
    "the saved one, else a new one",
    "lest it fail",
    "tried for ever",
    "it ends by itself",
    "it stands in the file",
    "Somebody else sent it.",
    "what it is told",
    "one that hears it",
    "held for dead",
    "it is looked for",
    "it gives way",
    "mended",
    "so many a run",
    "at last",
    "brought to a wish",
    "peers of the beginning",
    "An outsider.",
    "found by ourselves",
    "The operator brings the definitions up.",
    "in trouble",
]
NOT_COUNTED = [
    "There is no such member, and there are none left.",
    "It is no longer there.",
    "If there is more, or something else, `else` follows.",
    "```\nif x: lest = whoever\n```",
    "``nobody`` is a user",
    "{{- else }}{{ .Values.wish }}",
    "A fake can stand in for it.",
    "the beginning of a file",
    "custom resource definitions, CustomResourceDefinitions",
    "as its own status says",
    "a test that looks for it, where it is",
]


@cache
def now() -> dict[str, int]:
    return counts()


def count(folder: Path, text: str, name: str = "page.md") -> int:
    path = folder / name
    path.write_text(text)
    return len(found_in(path))


def test_no_file_has_more_of_these_words_than_it_may() -> None:
    former, present = allowed(LIST.read_text()), now()
    more = {name: (former.get(name, 0), n) for name, n in present.items() if n > former.get(name, 0)}
    assert more == {}, f"as (may, has); write them plainly, {SHOW} FILE shows the places"


def test_the_list_is_lowered_with_the_words() -> None:
    former, present = allowed(LIST.read_text()), now()
    fewer = {name: (n, present.get(name, 0)) for name, n in former.items() if n > present.get(name, 0)}
    assert fewer == {}, f"as (may, has); thank you, and run: {LOWER}"


def test_every_kind_of_text_is_looked_at() -> None:
    names = {path.relative_to(plain_words.REPOSITORY).as_posix() for path in files()}
    assert {
        *("README.md", "SECURITY.md", "docs/logs.md", "docs/decisions/0001-sans-io.md"),
        *("charts/wesher/values.yaml", "charts/wesher/templates/NOTES.txt"),
        *("common/wesher_common/errors.py", "agent/wesher_agent/swim/engine.py"),
        *("operator/wesher_operator/leader.py", "tests/support/wesher_testing/run/rings.py"),
    } <= names
    assert not [name for name in names if name.startswith("charts/wesher/crds")]


@pytest.mark.parametrize("text", COUNTED)
def test_a_turn_is_counted_once(text: str, tmp_path: Path) -> None:
    assert count(tmp_path, text) == 1


def test_every_pattern_has_an_example_above(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("\n\n".join(COUNTED))
    assert {instead for _, _, instead in found_in(tmp_path / "page.md")} == set(WORDS.values())


@pytest.mark.parametrize("text", NOT_COUNTED)
def test_good_english_and_code_are_not_counted(text: str, tmp_path: Path) -> None:
    assert count(tmp_path, text) == 0


def test_in_code_strings_and_comments_are_counted_and_names_are_not(tmp_path: Path) -> None:
    source = '''"""Whoever."""
lest = {"nobody": f"{lest} anew"}  # told: it is
# no node
lest = 1

# is

# no node
'''
    assert count(tmp_path, source, "module.py") == 5
    assert [line for line, _, _ in found_in(tmp_path / "module.py")] == [1, 2, 2, 2, 2]


def test_a_turn_that_is_broken_over_two_lines_is_counted(tmp_path: Path) -> None:
    assert count(tmp_path, "It is\nno node, and so\nmany.") == 2


def test_only_fewer_words_are_taken_into_the_list() -> None:
    here = "README.md"
    assert risen({here: 2}, {here: 3}) == {}
    assert risen({here: 4}, {here: 3}) == {here: 1}
    assert risen({here: 1}, {}) == {here: 1}


def test_a_file_that_was_moved_keeps_what_it_had_and_no_more() -> None:
    assert risen({"README.md": 3}, {"gone.md": 3}) == {}
    assert risen({"README.md": 4}, {"gone.md": 3}) == {"README.md": 4}


def test_the_list_is_read_as_it_was_written() -> None:
    assert allowed(render({"b c.md": 2, "a.md": 1})) == {"a.md": 1, "b c.md": 2}
