"""``docs/reference/cli.md``: every command, flag, variable, default and rule of ``wesher``.

``make generate`` writes it from the tables that the parsers are made from. A flag's rule is what its
reader says about a value that no rule admits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from wesher_agent.cli.command_table import (
    COMMANDS,
    DEFAULT_COMMAND,
    EXAMPLE,
    PROGRAM,
    PURPOSE,
    Command,
    Option,
    usage_of,
)
from wesher_agent.cli.exit_codes import EXIT_CODES
from wesher_agent.flags import FLAGS, GROUPS, Flag
from wesher_common.errors import InvalidSpec

FILE = Path(__file__).resolve().parents[1] / "docs/reference/cli.md"
_NOTE = "<!-- Generated from the tables of agent/wesher_agent by `make generate`. -->\n"
_BAD = "no value! " * 30
_DEFAULT = re.compile(r"\s*\(default: ([^)]*)\)")


def default_of(text: str) -> tuple[str, str]:
    """Return a flag's help without its default, and the default; empty if it names none."""
    found = _DEFAULT.search(text)
    return _DEFAULT.sub("", text), found[1] if found else ""


def rule_of(flag: Flag) -> str:
    """Return the rule that a flag's value must keep; empty if every text will do."""
    try:
        flag.read(_BAD, flag.name)
    except InvalidSpec as error:
        return error.rule
    return ""


def text() -> str:
    """Return what the file should say."""
    return "\n".join([_NOTE, *_page()]) + "\n"


def _page() -> Iterator[str]:
    yield "# The command wesher\n"
    yield f"{PURPOSE}\n"
    yield from _table(
        ("command", "what it does"),
        ((f"[`{PROGRAM} {word}`](#wesher-{word})", command.summary) for word, command in COMMANDS.items()),
    )
    yield "\n```console"
    for purpose, line in EXAMPLE:
        yield f"# {purpose}\n$ {line}"
    yield "```\n"
    yield "A flag takes precedence over its environment variable, and a variable over the default. An empty"
    yield "variable is ignored. Choices can be given in upper or lower case."
    for word, command in COMMANDS.items():
        yield f"\n## {PROGRAM} {word}\n"
        yield f"{command.summary[0].upper()}{command.summary[1:]}. {command.details}".rstrip() + "\n"
        yield f"```\n{usage_of(word)}\n```"
        yield from _agent_flags() if word == DEFAULT_COMMAND else _flags(command)
        yield "\n| exit code | meaning |\n|---|---|"
        yield from (f"| {code} | {meaning} |" for code, meaning in EXIT_CODES[word].items())


def _agent_flags() -> Iterator[str]:
    for group in GROUPS:
        yield f"\n### {group}\n"
        rows = [_agent_row(flag) for flag in FLAGS if flag.group == group and not flag.hidden]
        yield from _table(("flag", "variable", "default", "what it does", "rule"), rows)
    yield "\nWith `--kubernetes` the mesh decides these, and the flag is refused:"
    yield ", ".join(f"`{flag.name}`" for flag in FLAGS if flag.from_document) + "."


def _agent_row(flag: Flag) -> Sequence[str]:
    about, default = default_of(flag.help)
    value = f"[={flag.placeholder}]" if flag.switch else f" {flag.placeholder}"
    return f"`{flag.name}{value}`", f"`{flag.variable}`", default, about, rule_of(flag)


def _flags(command: Command) -> Iterator[str]:
    if command.arguments:
        yield ""
        yield from _table(("argument", "meaning"), ((f"`{a.name}`", a.help) for a in command.arguments))
    if command.options:
        yield ""
        rows = (_row(option) for option in command.options)
        yield from _table(("flag", "variable", "default", "what it does"), rows)


def _row(option: Option) -> Sequence[str]:
    about, default = default_of(option.help)
    names = ", ".join(option.names)
    value = f" {option.placeholder}" if option.placeholder else ""
    return f"`{names}{value}`", f"`{option.variable}`" if option.variable else "", default, about


def _table(heading: Sequence[str], rows: Iterator[Sequence[str]] | list[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(heading)} |"
    yield "|---" * len(heading) + "|"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(text())
