"""Finds the command that was meant, runs it, and turns errors into one line and exit code 1.

``agent`` is the default command, as in the Go program, so that its flags work
with or without the word.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Any, NamedTuple

from wesher_agent.cli.exit_codes import exit_code_help
from wesher_agent.cli.tables import hindrances, left_text, member_table, removal_hint, status_text
from wesher_agent.control import AgentUnreachable, ask, find_socket
from wesher_agent.flags import FLAGS, OneLineParser, add_flags, find_flag
from wesher_agent.settings import Settings, parse_settings
from wesher_common.errors import InvalidSpec, WesherError
from wesher_common.keys import KEY_BYTES
from wesher_common.printable import as_lines
from wesher_common.variables import unknown_variables
from wesher_common.version import VERSION

FAILURE = 1

Environ = Mapping[str, str]


class Command(NamedTuple):
    """One word of the command line."""

    run: Callable[[Sequence[str], Environ], int]
    help: str


def run(argv: Sequence[str], environ: Environ) -> int:
    """Run one command line and return its exit code.

    Args:
        argv: the words after the program's name.
        environ: the environment, for the flags' variables.

    """
    word, rest = ("agent", argv) if not argv or argv[0].startswith("-") else (argv[0], argv[1:])
    try:
        if word not in COMMANDS:
            raise InvalidSpec("command", f"must be one of {', '.join(COMMANDS)}", value=word)
        return COMMANDS[word].run(rest, environ)
    except WesherError as error:
        print(f"wesher: error: {error}", file=sys.stderr)  # noqa: T201 - a command's answer
        return FAILURE


def agent_parser() -> OneLineParser:
    """Return the parser of ``wesher agent``, which is also that of ``wesher`` alone."""
    others = "\n".join(f"  {word:8} {command.help}" for word, command in COMMANDS.items())
    parser = OneLineParser(
        prog="wesher",
        usage="wesher [agent] [flags]\n       wesher status|members|leave|cleanup|keygen [flags]",
        description="Encrypted WireGuard overlay between the members of a mesh.",
        epilog=f"commands:\n{others}\n\nEach flag may be given as the environment variable in brackets.\n\n"
        + exit_code_help("agent"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version", action="version", version=f"%(prog)s {VERSION}", help="print the version"
    )
    add_flags(parser)
    return parser


def agent_settings(argv: Sequence[str], environ: Environ) -> Settings:
    """Read the flags of ``wesher agent``.

    Raises:
        InvalidSpec: naming flag or variable, value and rule.

    """
    return parse_settings(agent_parser().parse_args(argv), environ)


def _agent(argv: Sequence[str], environ: Environ) -> int:
    settings = agent_settings(argv, environ)
    # A container's first process never hears of a signal that it does not handle yet. This one waits
    # until the agent, which takes a while to load, takes it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    # The other commands answer at once because they do not load the agent.
    from wesher_agent.app import run_agent  # noqa: PLC0415

    return run_agent(settings, unknown_variables(environ, [flag.variable for flag in FLAGS]))


def _parser(word: str) -> OneLineParser:
    return OneLineParser(
        prog=f"wesher {word}",
        description=COMMANDS[word].help,
        epilog=exit_code_help(word),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def _ask_parser(word: str) -> OneLineParser:
    parser = _parser(word)
    parser.add_argument(
        "--interface", metavar="NAME", help="which agent, when several run here [WESHER_INTERFACE]"
    )
    parser.add_argument(
        "--run-dir",
        metavar="DIR",
        help="where the agents' control sockets live (default: /run/wesher) [WESHER_RUN_DIR]",
    )
    parser.add_argument("-o", "--output", metavar="text|json", default="text", help="(default: text)")
    return parser


def _ask(word: str, given: argparse.Namespace, environ: Environ) -> tuple[Any, bool]:
    output = given.output.lower()
    if output not in {"text", "json"}:
        raise InvalidSpec("--output", "must be text or json", value=given.output)
    chosen = _chosen(given, environ, "--interface", "--run-dir")
    run_dir: Path = chosen["--run-dir"] or find_flag("--run-dir").default
    return ask(find_socket(run_dir, chosen["--interface"] or ""), word), output == "json"


def _chosen(given: argparse.Namespace, environ: Environ, *names: str) -> dict[str, Any]:
    """Return the values of some of the agent's flags; None for one that neither flag nor variable gives."""
    chosen = {}
    for name in names:
        flag = find_flag(name)
        where, text = name, getattr(given, flag.attribute)
        if not text:
            where, text = flag.variable, environ.get(flag.variable)
        chosen[name] = flag.read(text, where) if text else None
    return chosen


def _laid_out(lay_out: Callable[[Any], str], answer: Any) -> str:
    """Return an answer as text.

    Raises:
        WesherError: it lacks what this release shows: the agent was started before an upgrade.

    """
    try:
        return lay_out(answer)
    except KeyError as error:
        raise WesherError(
            f"the agent runs another release, which does not report {error}: restart it, or use --output=json"
        ) from error


def _print(text: str) -> int:
    if isinstance(sys.stdout, TextIOWrapper):
        # A letter that the terminal's encoding lacks must not end the command.
        sys.stdout.reconfigure(errors="backslashreplace")
    print(text)  # noqa: T201 - a command's answer
    return 0


def _status(argv: Sequence[str], environ: Environ) -> int:
    parser = _ask_parser("status")
    parser.add_argument(
        "--check", action="store_true", help="only tell whether this host is in the mesh; exit 1 when not"
    )
    given = parser.parse_args(argv)
    status, as_json = _ask("status", given, environ)
    if given.check:
        problems = hindrances(status)
        _print(as_lines(problems) or "in the mesh")
        return FAILURE if problems else 0
    return _print(json.dumps(status, indent=2) if as_json else _laid_out(status_text, status))


def _members(argv: Sequence[str], environ: Environ) -> int:
    members, as_json = _ask("members", _ask_parser("members").parse_args(argv), environ)
    return _print(json.dumps(members, indent=2) if as_json else _laid_out(member_table, members))


def _leave(argv: Sequence[str], environ: Environ) -> int:
    parser = _ask_parser("leave")
    parser.add_argument(
        "--forget",
        action="store_true",
        help="also delete the state file with the cluster key and this machine's WireGuard key; "
        "a key file of --cluster-key-file stays",
    )
    given = parser.parse_args(argv)
    try:
        left, as_json = _ask("leave-and-forget" if given.forget else "leave", given, environ)
    except AgentUnreachable as error:
        if not given.forget:
            raise
        hint = "`wesher cleanup` removes what an agent left that no longer runs"
        raise AgentUnreachable(f"{error}; {hint}") from error
    if given.forget and left["kept"]:
        raise WesherError(
            f"{left['node']} left the mesh, but its keys stay: run {removal_hint(left['kept'])}"
        )
    return _print(json.dumps(left) if as_json else left_text(left, forgot=given.forget))


def _cleanup(argv: Sequence[str], environ: Environ) -> int:
    parser = _parser("cleanup")
    for name in _CLEANUP_FLAGS:
        flag = find_flag(name)
        parser.add_argument(name, metavar=flag.metavar, help=f"{flag.help} [{flag.variable}]")
    chosen = _chosen(parser.parse_args(argv), environ, *_CLEANUP_FLAGS)
    from wesher_agent.runtime.cleanup import (  # noqa: PLC0415 - loads what only an agent needs
        Leftovers,
        clean_up,
        interfaces_with_state,
    )

    paths = {name: chosen[name] or find_flag(name).default for name in _CLEANUP_FLAGS}
    found = interfaces_with_state(paths["--state-dir"])
    # Not guessed from another file's name: a copy that a user keeps there has the keys too.
    if chosen["--interface"] is None and found and found != [paths["--interface"]]:
        rule = f"choose the interface to clean: there are state files for {', '.join(found)}"
        raise InvalidSpec("--interface", rule)
    lines = clean_up(
        Leftovers(
            interface=paths["--interface"],
            state_dir=paths["--state-dir"],
            run_dir=paths["--run-dir"],
            hosts_file=paths["--hosts-file"],
            overlay=paths["--overlay-net"],
        )
    )
    return _print("\n".join(lines) or "nothing to remove")


def _keygen(argv: Sequence[str], _environ: Environ) -> int:
    _parser("keygen").parse_args(argv)
    return _print(base64.b64encode(os.urandom(KEY_BYTES)).decode())


_CLEANUP_FLAGS = ("--interface", "--state-dir", "--run-dir", "--hosts-file", "--overlay-net")
COMMANDS: Mapping[str, Command] = {
    "agent": Command(_agent, "join or begin a mesh and stay in it (the default)"),
    "status": Command(_status, "show how this host's agent does"),
    "members": Command(_members, "list the mesh's members as this host's agent knows them"),
    "leave": Command(
        _leave,
        "leave the mesh for good: tell the others, remove device and names, end the agent, keep the keys",
    ),
    "cleanup": Command(
        _cleanup,
        "remove what an agent that no longer runs left here: device, routes, names, state file with the keys",
    ),
    "keygen": Command(_keygen, "print a new cluster key"),
}
