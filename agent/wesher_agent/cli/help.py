"""The parsers of ``wesher`` and their help, made from the tables; pure."""

from __future__ import annotations

import argparse
from difflib import get_close_matches
from textwrap import fill
from typing import Any

from wesher_agent.cli.command_table import (
    COMMANDS,
    DEFAULT_COMMAND,
    EXAMPLE,
    PROGRAM,
    PURPOSE,
    VARIABLES_NOTE,
    Argument,
    Option,
    usage_of,
)
from wesher_agent.cli.exit_codes import exit_code_help
from wesher_agent.flags import OneLineParser, add_flags
from wesher_common.errors import InvalidSpec
from wesher_common.version import VERSION

_WIDTH = 78
"""Columns of the sentences that argparse does not lay out."""


def parser_of(word: str) -> OneLineParser:
    """Return the parser of one command."""
    if word == DEFAULT_COMMAND:
        return agent_parser(usage=f"{PROGRAM} [{DEFAULT_COMMAND}] [flags]", description=_summary(word))
    command = COMMANDS[word]
    parser = OneLineParser(
        prog=f"{PROGRAM} {word}",
        usage=usage_of(word),
        description="\n\n".join(filter(None, (_summary(word), fill(command.details, _WIDTH)))),
        epilog=exit_code_help(word),
        formatter_class=_Formatter,
        allow_abbrev=False,
        add_help=False,
    )
    if command.arguments:
        arguments = parser.add_argument_group("arguments")
        for argument in command.arguments:
            _add_argument(arguments, argument)
    flags = parser.add_argument_group("flags")
    for option in command.options:
        _add_option(flags, option)
    _add_help(flags)
    return parser


def agent_parser(*, usage: str = "", description: str = "") -> OneLineParser:
    """Return the parser of the agent's flags; without arguments its help is the whole program's."""
    words = "\n".join(f"  {word:13} {command.summary}" for word, command in COMMANDS.items())
    example = "\n".join(f"  # {purpose}\n  {line}" for purpose, line in EXAMPLE)
    about = f"{PURPOSE}\n\ncommands:\n{words}\n\n`{PROGRAM} help COMMAND` shows the flags of a command."
    parser = OneLineParser(
        prog=PROGRAM,
        usage=usage or f"{PROGRAM} COMMAND [flags]\n       {PROGRAM} [{DEFAULT_COMMAND}] [flags]",
        description=description or f"{about} The flags below are those of the agent.",
        epilog=f"example:\n{example}\n\n{VARIABLES_NOTE}\n\n{exit_code_help(DEFAULT_COMMAND)}",
        formatter_class=_Formatter,
        allow_abbrev=False,
        add_help=False,
    )
    add_flags(parser)
    other = parser.add_argument_group("other")
    _add_help(other)
    other.add_argument(
        "--version", action="version", version=f"{PROGRAM} {VERSION}", help="print the version"
    )
    return parser


def check_command(word: str, *, field: str = "command") -> str:
    """Return the word of a command.

    Raises:
        InvalidSpec: there is no such command.

    """
    if word in COMMANDS:
        return word
    nearest = get_close_matches(word, COMMANDS, n=1)
    advice = f"did you mean {nearest[0]}?" if nearest else f"see {PROGRAM} --help"
    raise InvalidSpec(field, f"unknown command: {advice}", value=word)


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Leaves room for long flags in front of their help."""

    def __init__(self, prog: str, **options: Any) -> None:
        super().__init__(prog, max_help_position=32, **options)


def _summary(word: str) -> str:
    summary = COMMANDS[word].summary
    return f"{summary[0].upper()}{summary[1:]}."


def _add_help(group: argparse._ArgumentGroup) -> None:
    group.add_argument("-h", "--help", action="help", help="show this help")


def _add_argument(group: argparse._ArgumentGroup, argument: Argument) -> None:
    options: dict[str, Any] = {"metavar": argument.name}
    if argument.repeats:
        options["nargs"] = "*"
    elif not argument.required:
        options["nargs"] = "?"
    group.add_argument(argument.name.lower(), help=_escaped(argument.help), **options)


def _add_option(group: argparse._ArgumentGroup, option: Option) -> None:
    shown = f"{option.help} [{option.variable}]" if option.variable else option.help
    options: dict[str, Any] = {"help": _escaped(shown)}
    if option.placeholder:
        options["metavar"] = option.placeholder
    else:
        options["action"] = "store_true"
    group.add_argument(*option.names, **options)


def _escaped(text: str) -> str:
    return text.replace("%", "%%")
