"""``docs/reference/exit-codes.md``: the exit codes of each command, from the tables that its help shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from reference import FOLDER, page, table
from wesher_agent.cli.exit_codes import EXIT_CODES
from wesher_operator.exit_codes import OPERATOR, PLUGIN

PAGE = FOLDER / "exit-codes.md"
_INTRODUCTION = """
A command that fails prints one line that begins with its name to standard error. `--help` and `--version` end
with 0.
"""
_CHECK = """
`wesher status --check` passes while peers are unreachable or the state file cannot be written: neither keeps
this host out of the mesh. `wesher status -o json` has every condition.
"""
_PING = """
`wesher ping` ends as the program `ping` does: 1 means that the member did not answer, 2 that it was not
asked. Ctrl-C ends it with the summary and with 0 or 1.
"""
_SIGNALS = """
A process that a signal kills has no exit code: a shell shows 128 plus the signal's number. Ctrl-C ends a
`wesher` command that waits for an answer in this way (130). A second SIGTERM or SIGINT kills an agent that is
ending.
"""


def text() -> str:
    """Return what the page should say."""
    return page(
        "Exit codes",
        "the tables `EXIT_CODES`, `PLUGIN` and `OPERATOR` in the code",
        _INTRODUCTION,
        "## wesher",
        _codes("wesher", EXIT_CODES),
        _CHECK,
        _PING,
        "## kubectl wesher",
        _codes("kubectl wesher", PLUGIN),
        "## wesher-operator",
        _codes("wesher-operator", OPERATOR),
        "## Signals",
        _SIGNALS,
    )


def _codes(program: str, commands: Mapping[str, Mapping[int, str]]) -> str:
    return table(("command", "code", "meaning"), _rows(program, commands))


def _rows(program: str, commands: Mapping[str, Mapping[int, str]]) -> Iterator[tuple[str, str, str]]:
    for command, codes in commands.items():
        # The agent is what runs without a command, too.
        shown = f"`{program} {command}`" + (f", `{program}`" if command == "agent" else "")
        for number, meaning in codes.items():
            yield shown, str(number), meaning
            shown = ""


if __name__ == "__main__":
    PAGE.write_text(text())
