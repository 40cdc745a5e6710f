"""Text of others on one line."""

from __future__ import annotations

import json
import shlex
import subprocess

import pytest

from wesher_common.errors import InvalidSpec, PeerMisbehaved, WesherError
from wesher_common.printable import as_lines, is_printable, printable, shell_line
from wesher_common.tables import table

TITLE = "\x1b]0;pwned\x07\x1b[2J\n FAKE line"
SHOWN_TITLE = r"\u001b]0;pwned\u0007\u001b[2J\n FAKE line"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("Übergröße → 日本語", "Übergröße → 日本語"),
        ("na\u0308her", "na\u0308her"),
        ("back\\slash", "back\\slash"),
        (TITLE, SHOWN_TITLE),
        ("well\rbad ", r"well\rbad "),
        ("\x9b31m\x7f\t", r"\u009b31m\u007f\t"),
        ("\u2028\u2029\x85\x0b\x0c\x1c", r"\u2028\u2029\u0085\u000b\f\u001c"),
        ("lock\u202e\u2066kcol", r"lock\u202e\u2066kcol"),
        ("a\u200b\u200d\ufeff\u00ad", r"a\u200b\u200d\ufeff\u00ad"),
        ("a\u00a0\u3000", r"a\u00a0\u3000"),
        ("\U000e0041\U000e0100", r"\udb40\udc41\udb40\udd00"),
        ("a\u3164\u115f\u2800\ufe0f\u034f", r"a\u3164\u115f\u2800\ufe0f\u034f"),
        ("\udce4", r"\udce4"),
    ],
)
def test_what_is_not_printable_is_escaped_as_in_json_and_letters_stay(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown
    assert is_printable(text) == (text == shown)
    if "\\" not in text:
        assert json.loads(f'"{shown}"') == text


def test_names_that_differ_only_in_what_cannot_be_seen_look_different() -> None:
    blanks = ("", "\u200b", "\u2060", "\u3164", "\ufe0f", "\u034f", "\u2800", "\u00ad", "\U000e0101")
    assert len({printable(f"node{blank}-a") for blank in blanks}) == len(blanks)


def test_each_row_is_a_line_whatever_it_holds() -> None:
    assert as_lines(["a", "b\nc"]) == "a\nb\\nc"
    rows = [(TITLE, "1"), ("b", "2\r3")]
    assert table(("NAME", "N"), rows).splitlines() == [
        f"{'NAME':{len(SHOWN_TITLE)}}  N",
        f"{SHOWN_TITLE}  1",
        f"{'b':{len(SHOWN_TITLE)}}  2\\r3",
    ]


def test_a_very_long_entry_does_not_push_the_other_rows_apart() -> None:
    long = "n" * 253
    _, *rows = table(("NAME", "STATE"), [(long, "alive"), ("b", "alive")]).splitlines()
    assert rows == [f"{long}  alive", f"{'b':64}  alive"]


@pytest.mark.parametrize(
    "error",
    [
        WesherError(TITLE),
        InvalidSpec("--x", TITLE),
        InvalidSpec(TITLE, "no", value=TITLE),
        PeerMisbehaved("a", TITLE),
    ],
)
def test_an_error_is_one_line_whatever_it_quotes(error: WesherError) -> None:
    assert is_printable(str(error))
    assert "FAKE line" in str(error)


@pytest.mark.parametrize("shell", ["bash"])
def test_a_shell_reads_back_the_words_that_cannot_be_shown(shell: str) -> None:
    words = ["printf", "%s|", "plain", "it's", "a b", TITLE + "\n", "é\u202e'", "$HOME"]
    line = shell_line(words)
    assert is_printable(line)
    done = subprocess.run([shell, "-c", line], capture_output=True, check=True, timeout=60)
    assert done.stdout.decode() == "".join(f"{word}|" for word in words[2:])
    assert shlex.split(shell_line(["a b", "c"])) == ["a b", "c"]
