"""``docs/man/wesher.8``: the manual page, from the tables that the parsers are made from.

``make generate`` writes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from wesher_agent.cli.command_table import (
    COMMANDS,
    DEFAULT_COMMAND,
    EXAMPLE,
    PROGRAM,
    PURPOSE,
    Option,
    option_of,
    usage_of,
)
from wesher_agent.cli.exit_codes import EXIT_CODES
from wesher_agent.flags import FLAGS, GROUPS, find_flag

FILE = Path(__file__).resolve().parents[1] / "docs/man/wesher.8"
_FILES = (
    (f"{find_flag('--state-dir').default}/INTERFACE.json", "the state: keys, overlay address, members"),
    (f"{find_flag('--run-dir').default}/INTERFACE.sock", "the control socket that the commands ask"),
    (str(find_flag("--hosts-file").default), "gets the members' names"),
    ("/etc/default/wesher", "the settings of the systemd service, as environment variables"),
)


def text() -> str:
    """Return what the file should say."""
    return "\n".join(_page()) + "\n"


def _page() -> Iterator[str]:
    yield '.\\" Generated from the tables of agent/wesher_agent by `make generate`.'
    yield f'.TH {PROGRAM.upper()} 8 "" "{PROGRAM}"'
    yield ".SH NAME"
    yield f"{PROGRAM} \\- encrypted WireGuard network between machines"
    yield ".SH SYNOPSIS"
    for word in COMMANDS:
        yield f".B {_roff(usage_of(word))}\n.br"
    yield ".SH DESCRIPTION"
    yield _roff(PURPOSE)
    yield _roff(f"Without a command it runs as `{PROGRAM} {DEFAULT_COMMAND}`.")
    yield ".SH COMMANDS"
    for word, command in COMMANDS.items():
        yield f".SS {PROGRAM} {_roff(word)}"
        yield _roff(f"{command.summary[0].upper()}{command.summary[1:]}. {command.details}".rstrip())
        for argument in command.arguments:
            yield f".TP\n.I {_roff(argument.name)}\n{_roff(argument.help)}"
        if word != DEFAULT_COMMAND:
            yield from _options(command.options)
        yield ".PP\nExit codes:"
        for code, meaning in EXIT_CODES[word].items():
            yield f".TP\n.B {code}\n{_roff(meaning)}"
    yield ".SH FLAGS OF THE AGENT"
    yield _roff("A flag takes precedence over its environment variable, which is in brackets.")
    for group in GROUPS:
        yield f".SS {_roff(group)}"
        yield from _options(
            tuple(option_of(flag) for flag in FLAGS if flag.group == group and not flag.hidden)
        )
    yield ".SH EXAMPLES"
    for purpose, line in EXAMPLE:
        yield f".TP\n{_roff(purpose)}\n.B {_roff(line)}"
    yield ".SH FILES"
    for path, purpose in _FILES:
        yield f".TP\n.I {_roff(path)}\n{_roff(purpose)}"
    yield ".SH SEE ALSO\n.BR wg (8),\n.BR systemctl (1)"


def _options(options: tuple[Option, ...]) -> Iterator[str]:
    for option in options:
        value = f"[={option.placeholder}]" if option.optional_value else f" {option.placeholder}"
        about = f"{option.help} [{option.variable}]" if option.variable else option.help
        yield f".TP\n.B {_roff((', '.join(option.names) + value).rstrip())}\n{_roff(about)}"


def _roff(text: str) -> str:
    r"""Escape a text: a hyphen would be typeset as one that cannot be copied, ``\`` begins a request."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("…", "...")
    # A line that begins with one of these is a request.
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(text())
