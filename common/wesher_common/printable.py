"""How both sides show text that another host or user wrote: nothing in it moves a cursor or hides; pure."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable

# The assigned ones of Unicode's Default_Ignorable_Code_Point that Python counts as printable, and U+2800,
# a blank that is not a space: two names that differ in one of them look the same.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)


def is_printable(text: str) -> bool:
    """Tell whether each character takes its place on a line: no control, no direction mark, none unseen.

    ``str.isprintable`` refuses Unicode's categories C and Z except the space, which covers escape
    sequences, line breaks and the direction marks of CVE-2021-42574.
    """
    return text.isprintable() and _INVISIBLE.search(text) is None


def printable(text: str) -> str:
    r"""Return a text on one line, with ``\u001b`` or ``\n`` for each character that is not printable.

    The escapes are JSON's, so a JSON text keeps its meaning. What is printable stays as it is,
    the backslash too, so escaping twice changes nothing.
    """
    if is_printable(text):
        return text
    return "".join(c if is_printable(c) else json.dumps(c)[1:-1] for c in text)


def as_lines(rows: Iterable[str]) -> str:
    """Return one text with a line for each row, whatever characters the rows hold."""
    return "\n".join(map(printable, rows))


def shell_line(words: Iterable[str]) -> str:
    r"""Return words as a command for a shell.

    A word that is not printable is written as ``$'\303\251'`` (POSIX.1-2024), which the shell reads back as
    the same bytes.
    """
    return " ".join(shlex.quote(word) if is_printable(word) else _octal(word) for word in words)


def _octal(word: str) -> str:
    return "$'" + "".join(f"\\{byte:03o}" for byte in word.encode(errors="surrogateescape")) + "'"
