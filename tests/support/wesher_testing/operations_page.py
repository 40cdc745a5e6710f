"""The commands of ``docs/operations.md``, for the tests that run them.

Each console block of the page has a name in a comment above it: ``<!-- block: NAME -->``. A
command begins with a prompt: ``$`` for an administrator's workstation, ``#`` for root on a
machine. Lines without a prompt go on with the command above; the page shows no output.
``tests/repo/test_operations_page.py`` holds that each block is run by a test.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache

from wesher_testing.run.toolbox import REPOSITORY

PAGE = REPOSITORY / "docs/operations.md"
_BLOCK = re.compile(r"^<!-- block: (\S+) -->\n```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PROMPTS = ("$ ", "# ")


@cache
def blocks() -> Mapping[str, tuple[str, ...]]:
    """Return the commands of each block, without their prompts."""
    return {name: tuple(_commands_in(text)) for name, text in _BLOCK.findall(PAGE.read_text())}


def commands(block: str, replace: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Return the commands of a block.

    Args:
        block: its name.
        replace: what the page calls otherwise than the test, as a mapping of one to the other.

    Raises:
        ValueError: what is to be replaced is not in the block.

    """
    found = "\n".join(blocks()[block])
    for shown in replace or {}:
        if shown not in found:
            raise ValueError(f"block {block} of {PAGE.name} does not say {shown!r}")
    made = []
    for command in blocks()[block]:
        text = command
        for shown, ours in (replace or {}).items():
            text = text.replace(shown, ours)
        made.append(text)
    return tuple(made)


def _commands_in(text: str) -> Iterator[str]:
    command: list[str] = []
    for line in text.splitlines():
        if line.startswith(_PROMPTS):
            if command:
                yield "\n".join(command)
            command = [line[2:]]
        else:
            command.append(line)
    yield "\n".join(command)
