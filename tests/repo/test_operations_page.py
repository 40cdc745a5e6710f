"""Each console block of ``docs/operations.md`` is run by a test, and each that a test runs is there."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator

from wesher_testing.operations_page import PAGE, blocks
from wesher_testing.run.toolbox import REPOSITORY


def run_by_tests() -> Iterator[str]:
    """Yield the names of the blocks that tests take commands from."""
    for path in (REPOSITORY / "tests").glob("*/test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(func=ast.Name(id="commands"), args=[ast.Constant(value=str() as block), *_]):
                    yield block


def test_every_block_has_a_name_of_its_own_and_commands_with_a_prompt() -> None:
    text = PAGE.read_text()
    names = re.findall(r"^<!-- block: (\S+) -->$", text, re.MULTILINE)
    assert [name for name, count in Counter(names).items() if count > 1] == []
    # Every fence is a console block with a name right above it, so no command escapes.
    assert len(re.findall(r"^```", text, re.MULTILINE)) == 2 * len(names) == 2 * len(blocks())
    assert [name for name, found in blocks().items() if not all(found)] == []


def test_every_block_is_run_by_a_test() -> None:
    assert {*run_by_tests()} == blocks().keys()
