"""Completion scripts for shells, made from the table of the commands; pure.

Names of members are not completed: they are other machines' texts, and a shell expands what it is
given as candidates.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from wesher_agent.cli.command_table import COMMANDS, DEFAULT_COMMAND, PROGRAM, Argument, Option

_HELP = Option(name="--help", short="-h", help="show this help")
_VERSION = Option(name="--version", help="print the version")
_FILES, _FOLDERS = frozenset({"FILE"}), frozenset({"DIR"})


def completion(shell: str) -> str:
    """Return the script of one of `command_table.SHELLS`."""
    lines = {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell]
    return "\n".join([*lines()])


def _options(word: str) -> tuple[Option, ...]:
    more = (_HELP, _VERSION) if word == DEFAULT_COMMAND else (_HELP,)
    return (*COMMANDS[word].options, *more)


def _words_for(argument: Argument) -> tuple[str, ...]:
    return tuple(COMMANDS) if argument.name == "COMMAND" else argument.choices


def _brief(text: str) -> str:
    """Return the first part of a flag's help."""
    return re.split(r"; | \(default", text)[0]


def _zsh_text(text: str) -> str:
    """Return a text for a description in single quotes, in which brackets and colons end one."""
    return re.sub(r"([\[\]:])", r"\\\1", _brief(text)).replace("'", "'\\''")


def _bash() -> Iterator[str]:
    yield f"# bash completion for {PROGRAM}; written by `{PROGRAM} completion bash`"
    yield f"_{PROGRAM}() {{"
    yield "    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}"
    yield f"    local command={DEFAULT_COMMAND} flags= words="
    yield "    COMPREPLY=()"
    yield "    if ((COMP_CWORD > 1)) && [[ ${COMP_WORDS[1]} != -* ]]; then command=${COMP_WORDS[1]}; fi"
    yield "    # bash splits --flag=value into three words."
    yield "    if [[ $word == = ]]; then"
    yield "        word="
    yield "    elif [[ $before == = ]]; then"
    yield "        before=${COMP_WORDS[COMP_CWORD - 2]}"
    yield "    fi"
    yield '    case "$command $before" in'
    for word in COMMANDS:
        for option in _options(word):
            if option.placeholder and not option.optional_value:
                names = "|".join(f'"{word} {name}"' for name in option.names)
                yield f"        {names}) {_bash_value(option)} return ;;"
    yield "    esac"
    yield "    case $command in"
    for word, command in COMMANDS.items():
        flags = " ".join(name for option in _options(word) for name in option.names)
        words = " ".join(each for argument in command.arguments for each in _words_for(argument))
        yield f"        {word}) flags={shlex.quote(flags)} words={shlex.quote(words)} ;;"
    yield "    esac"
    yield f"    if ((COMP_CWORD == 1)); then words={shlex.quote(' '.join(COMMANDS))}; fi"
    yield "    if [[ $word == -* ]]; then words=$flags; fi"
    yield '    COMPREPLY=($(compgen -W "$words" -- "$word"))'
    yield "}"
    yield f"complete -F _{PROGRAM} {PROGRAM}"


def _bash_value(option: Option) -> str:
    if option.choices:
        return f'COMPREPLY=($(compgen -W {shlex.quote(" ".join(option.choices))} -- "$word"));'
    if option.metavar in _FILES:
        return 'compopt -o filenames; COMPREPLY=($(compgen -f -- "$word"));'
    if option.metavar in _FOLDERS:
        return 'compopt -o filenames; COMPREPLY=($(compgen -d -- "$word"));'
    return ""


def _zsh() -> Iterator[str]:
    yield f"#compdef {PROGRAM}"
    yield f"# written by `{PROGRAM} completion zsh`"
    yield f"_{PROGRAM}() {{"
    yield f"    local command={DEFAULT_COMMAND}"
    yield "    local -a commands=("
    for word, command in COMMANDS.items():
        yield f"        '{word}:{_zsh_text(command.summary)}'"
    yield "    )"
    yield "    if [[ $words[2] != -* ]]; then"
    yield "        if ((CURRENT == 2)); then"
    yield "            _describe command commands"
    yield "            return"
    yield "        fi"
    yield "        command=$words[2]"
    yield "        shift words"
    yield "        ((CURRENT--))"
    yield "    fi"
    yield "    case $command in"
    for word, command in COMMANDS.items():
        specs = [_zsh_option(option) for option in _options(word)]
        specs += [_zsh_argument(argument) for argument in command.arguments]
        yield f"        {word})"
        yield "            _arguments -s \\"
        yield from (f"                {spec} \\" for spec in specs[:-1])
        yield f"                {specs[-1]}"
        yield "            ;;"
    yield "    esac"
    yield "}"
    # A file of $fpath is the function's body; `source` only defines it.
    yield f'if [[ $zsh_eval_context[-1] == loadautofunc ]]; then _{PROGRAM} "$@"'
    yield f"else compdef _{PROGRAM} {PROGRAM}; fi"


def _zsh_option(option: Option) -> str:
    value = ""
    if option.placeholder:
        colons = "::" if option.optional_value else ":"
        action = f"({' '.join(option.choices)})" if option.choices else ""
        if option.metavar in _FILES:
            action = "_files"
        elif option.metavar in _FOLDERS:
            action = "_files -/"
        value = f"{colons}{_zsh_text(option.metavar or option.name.lstrip('-'))}:{action}"
    what = f"[{_zsh_text(option.help)}]{value}"
    equals = "=" if option.placeholder else ""
    if option.short:
        plus = "+" if option.placeholder else ""
        both = f"{{{option.short}{plus},{option.name}{equals}}}"
        return f"'({' '.join(option.names)})'{both}'{what}'"
    return f"'{option.name}{equals}{what}'"


def _zsh_argument(argument: Argument) -> str:
    words = _words_for(argument)
    action = f"({' '.join(words)})" if words else " "
    return f"'{'*' if argument.repeats else ''}:{argument.name}:{action}'"


def _fish() -> Iterator[str]:
    others = " ".join(word for word in COMMANDS if word != DEFAULT_COMMAND)
    yield f"# fish completion for {PROGRAM}; written by `{PROGRAM} completion fish`"
    yield f"complete -c {PROGRAM} -f"
    for word, command in COMMANDS.items():
        summary = shlex.quote(command.summary)
        yield f"complete -c {PROGRAM} -n __fish_use_subcommand -a {word} -d {summary}"
    for word, command in COMMANDS.items():
        seen = f"__fish_seen_subcommand_from {word}"
        when = f"not __fish_seen_subcommand_from {others}" if word == DEFAULT_COMMAND else seen
        for option in _options(word):
            short = f" -s {option.short.lstrip('-')}" if option.short else ""
            flag = f"-l {option.name.lstrip('-')}{short}{_fish_value(option)}"
            yield f"complete -c {PROGRAM} -n '{when}' {flag} -d {shlex.quote(_brief(option.help))}"
        for argument in command.arguments:
            if words := _words_for(argument):
                yield f"complete -c {PROGRAM} -n '{seen}' -a {shlex.quote(' '.join(words))}"


def _fish_value(option: Option) -> str:
    if not option.placeholder or option.optional_value:
        return ""
    if option.choices:
        return f" -x -a {shlex.quote(' '.join(option.choices))}"
    if option.metavar in _FILES:
        return " -r -F"
    if option.metavar in _FOLDERS:
        return " -x -a '(__fish_complete_directories)'"
    return " -x"
