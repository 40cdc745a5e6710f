"""The words and turns that the project's prose avoids, counted in every file that people read.

`allowed` says how many of them each file still has; that number may only fall.

    python -m wesher_testing.run.plain_words [FILE …]    shows each place with its word
    python -m wesher_testing.run.plain_words lower       takes fewer words into the list

Not counted, since no pattern tells good use from bad: "where" for "if", "its own" for "its", "deny" for
"refute", "looks for".
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator, Mapping
from pathlib import Path

from wesher_testing.run.toolbox import REPOSITORY

LIST = REPOSITORY / "tests/repo/plain_words.txt"
WORDS: Mapping[str, str] = {
    r"whom?ever": "name who or what it is",
    r"whom": "rewrite the sentence: who does what",
    r"(?<!there\s)(?:is|are|was|were) no(?! (?:longer|less|such))": "is not a",
    r"(?<!there\s)(?:is|are|was|were) none": "is not a",
    r"another's|are others": "name the owner, or write: is not the same",
    r"of ours": "our",
    r"anew": "again",
    r"(?<=[,;:]\s)else": "otherwise",
    r"lest": "so that … not, otherwise",
    r"for ever": "until it succeeds, without limit",
    r"by (?:itself|themselves)": "automatically, alone",
    r"(?:stands?|stood|lies|lay) (?:in(?! for)|under)": "is in, is under",
    r"(?:no|some)body": "no member, a user, another program",
    r"told|hears": "says who tells whom; receives, learns",
    r"held for": "considered",
    r"looked for": "searched for, retried",
    r"g(?:ives?|ave|iving) way": "yields",
    r"mend(?:s|ed|ing)?": "fix, repair",
    r"so many": "a limited number",
    r"at last": "finally, or leave it out",
    r"wish(?:es|ed|ing)?": "desired state",
    r"the beginning(?! of)": "startup",
    r"outsiders?": "external member",
    r"ourselves": "local node, this member",
    r"(?<!resource\s)definitions": "custom resource definition",
    r"hindrances?|troubles?": "reason, problem",
}
"""Pattern of a turn, a space standing for any white space, and what to write instead."""
PLACES = (
    *("common/*.py", "agent/*.py", "operator/*.py", "tests/support/*.py"),
    *("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "docs/*.md", "changelog.d/*.md"),
    *("charts/wesher/*.yaml", "charts/wesher/*.tpl", "charts/wesher/*.txt", "charts/wesher/*.md"),
)
NOT_THESE = (
    ":!charts/wesher/crds",  # generated from the operator's models
    ":!docs/reference",  # generated from tables in the code
    ":!tests/support/wesher_testing/run/plain_words.py",
)
_PATTERNS = {
    re.compile(rf"\b(?:{turn})\b".replace(" ", r"\s+"), re.IGNORECASE): instead
    for turn, instead in WORDS.items()
}
_ANY = re.compile("|".join(pattern.pattern for pattern in _PATTERNS), re.IGNORECASE)
"""One pass over a text is enough for most."""
_CODE = re.compile(r"^```.*?^```|``[^`]+``|`[^`]+`|\{\{.*?\}\}", re.MULTILINE | re.DOTALL)


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Yield what people read of a file, as (number of the first line, text); code is left out."""
    text = path.read_text()
    if path.suffix != ".py":
        yield 1, text
        return
    yield from _comments(text)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def _comments(text: str) -> Iterator[tuple[int, str]]:
    """Yield comments, those of lines that follow each other as one."""
    block: list[str] = []
    first = 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type != tokenize.COMMENT:
            continue
        if block and token.start[0] != first + len(block):
            yield first, "\n".join(block)
            block = []
        if not block:
            first = token.start[0]
        block.append(token.string.removeprefix("#").strip())
    if block:
        yield first, "\n".join(block)


def found_in(path: Path) -> list[tuple[int, str, str]]:
    """Return each turn in a file: about its line, as it is written, and what to write instead."""
    found = []
    for first, text in prose(path):
        # Lines keep their numbers, and a span of code cannot join the words around it.
        bare = _CODE.sub(lambda code: "`" + "\n" * code[0].count("\n") + "`", text)
        if not _ANY.search(bare):
            continue
        for pattern, instead in _PATTERNS.items():
            for match in pattern.finditer(bare):
                line = first + bare.count("\n", 0, match.start())
                found.append((line, " ".join(match[0].split()), instead))
    return sorted(found)


def files() -> list[Path]:
    """Return every file that is looked at."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *PLACES, *NOT_THESE],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return sorted(path for name in listed.split("\0") if name and (path := REPOSITORY / name).is_file())


def counts() -> dict[str, int]:
    """Return how many turns each file has that has any."""
    numbers = {path.relative_to(REPOSITORY).as_posix(): len(found_in(path)) for path in files()}
    return {name: number for name, number in numbers.items() if number}


def allowed(text: str) -> dict[str, int]:
    """Read the list: a number and a file a line."""
    pairs = (line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#"))
    return {name: int(number) for number, name in pairs}


def risen(present: Mapping[str, int], former: Mapping[str, int]) -> dict[str, int]:
    """Return by how much files have more than they may; a new file may have what vanished files had."""
    new = {name: number for name, number in present.items() if name not in former}
    free = sum(number for name, number in former.items() if not (REPOSITORY / name).exists())
    more = {name: n - former[name] for name, n in present.items() if n > former.get(name, n)}
    return more | (new if sum(new.values()) > free else {})


def render(numbers: Mapping[str, int]) -> str:
    """Return the list's text."""
    head = "# How many words each file has that its readers should not have to read: see CONTRIBUTING.md.\n"
    return head + "".join(f"{number} {name}\n" for name, number in sorted(numbers.items()))


def main(arguments: list[str]) -> int:
    """Show the places, or lower the list."""
    if arguments == ["lower"]:
        present = counts()
        more = risen(present, allowed(LIST.read_text())) if LIST.exists() else {}
        for name, number in more.items():
            print(f"{name}: {number} too many")
        if not more:
            LIST.write_text(render(present))
        return 1 if more else 0
    for path in [Path(name).resolve() for name in arguments] or files():
        for line, words, instead in found_in(path):
            print(f"{path.relative_to(REPOSITORY)}:{line}: {words} → {instead}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
