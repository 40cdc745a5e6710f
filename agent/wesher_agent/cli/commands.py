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
from pathlib import Path
from typing import Any

from wesher_agent.cli.command_table import COMMANDS, MEMBER_STATES, NEWS_ACTIONS, OUTPUTS, PROGRAM, SHELLS
from wesher_agent.cli.completion import completion
from wesher_agent.cli.help import agent_parser, check_command, parser_of
from wesher_agent.cli.output import encodable, show
from wesher_agent.cli.tables import (
    chosen_members,
    hindrances,
    join_text,
    left_text,
    member_table,
    member_tree,
    news_text,
    rekey_text,
    removal_hint,
    status_text,
)
from wesher_agent.cli.watch import watch
from wesher_agent.control import AgentUnreachable, ask, find_socket
from wesher_agent.files.regular import Unreadable, read_regular
from wesher_agent.flags import FLAGS, find_flag, pick
from wesher_agent.settings import Settings, parse_settings
from wesher_common.errors import InvalidSpec, WesherError
from wesher_common.keys import KEY_BYTES
from wesher_common.news import MAX_NEWS_BYTES
from wesher_common.printable import as_lines
from wesher_common.variables import unknown_variables
from wesher_common.version import VERSION

FAILURE, CANNOT_PING = 1, 2
"""`ping` has 1 for a member that does not answer, as the program of that name."""

Environ = Mapping[str, str]


def run(argv: Sequence[str], environ: Environ) -> int:
    """Run one command line and return its exit code.

    Args:
        argv: the words after the program's name.
        environ: the environment, for the flags' variables.

    """
    word = argv[0] if argv and not argv[0].startswith("-") else ""
    try:
        if not word:
            return _start(agent_parser(), argv, environ)
        return _RUN[check_command(word)](argv[1:], environ)
    except WesherError as error:
        print(f"wesher: error: {error}", file=sys.stderr)  # noqa: T201 - a command's answer
        return CANNOT_PING if word == "ping" else FAILURE


def agent_settings(argv: Sequence[str], environ: Environ) -> Settings:
    """Read the flags of ``wesher agent``.

    Raises:
        InvalidSpec: naming flag or variable, value and rule.

    """
    return parse_settings(agent_parser().parse_args(argv), environ)


def _agent(argv: Sequence[str], environ: Environ) -> int:
    return _start(parser_of("agent"), argv, environ)


def _start(parser: argparse.ArgumentParser, argv: Sequence[str], environ: Environ) -> int:
    settings = parse_settings(parser.parse_args(argv), environ)
    # A container's first process never hears of a signal that it does not handle yet. This one waits
    # until the agent, which takes a while to load, takes it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    # The other commands answer at once because they do not load the agent.
    from wesher_agent.app import run_agent  # noqa: PLC0415

    return run_agent(settings, unknown_variables(environ, [flag.variable for flag in FLAGS]))


def _socket(given: argparse.Namespace, environ: Environ) -> Path:
    chosen = _chosen(given, environ, "--interface", "--run-dir")
    run_dir: Path = chosen["--run-dir"] or find_flag("--run-dir").default
    return find_socket(run_dir, chosen["--interface"] or "")


def _ask(word: str, given: argparse.Namespace, environ: Environ) -> Any:
    return ask(_socket(given, environ), word)


def _is_json(given: argparse.Namespace) -> bool:
    return pick(given.output or "text", OUTPUTS, "--output") == "json"


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


def _laid_out(lay_out: Callable[[Any], Any], answer: Any) -> Any:
    """Return an answer as it is shown.

    Raises:
        WesherError: it lacks what this release shows: the agent was started before an upgrade.

    """
    try:
        return lay_out(answer)
    except KeyError as error:
        raise _of_another_release(error, "or use --output=json") from error


def _of_another_release(lacking: KeyError, *remedies: str) -> WesherError:
    advice = ", ".join(("restart it", *remedies))
    return WesherError(f"the agent runs another release, which does not report {lacking}: {advice}")


def _show(word: str, given: argparse.Namespace, environ: Environ, lay_out: Callable[[Any], Any]) -> int:
    """Print an answer once, or again and again with ``--watch``.

    Args:
        word: the command.
        given: its flags.
        environ: the environment.
        lay_out: returns the text of an answer, or, for JSON, the part of it to show.

    """
    as_json = _is_json(given)

    def text() -> str:
        answer = _ask(word, given, environ)
        shown = _laid_out(lay_out, answer)
        return json.dumps(shown, indent=2) if as_json else str(shown)

    if given.watch and as_json:
        raise InvalidSpec("--watch", "cannot be combined with --output json")
    if given.watch:
        watch(text, title=f"{PROGRAM} {word}", environ=environ)
    return show(text())


def _status(argv: Sequence[str], environ: Environ) -> int:
    given = parser_of("status").parse_args(argv)
    if given.check:
        problems = hindrances(_ask("status", given, environ))
        show(as_lines(problems) or "in the mesh")
        return FAILURE if problems else 0
    return _show("status", given, environ, (lambda status: status) if _is_json(given) else status_text)


def _members(argv: Sequence[str], environ: Environ) -> int:
    given = parser_of("members").parse_args(argv)
    state = pick(given.state, MEMBER_STATES, "--state") if given.state else None
    as_json = _is_json(given)

    def lay_out(members: Any) -> Any:
        chosen = chosen_members(members, given.member, state)
        if as_json:
            return chosen
        return member_tree(chosen, ascii_only=encodable("├") != "├") if given.tree else member_table(chosen)

    return _show("members", given, environ, lay_out)


def _ping(argv: Sequence[str], environ: Environ) -> int:
    given = parser_of("ping").parse_args(argv)
    # Loads what no other command needs.
    from wesher_agent.cli.ping import ping, read_count  # noqa: PLC0415

    count = read_count(given.count)
    try:
        return ping(given.member, count, _socket(given, environ))
    except KeyError as error:
        raise _of_another_release(error) from error


def _join_command(argv: Sequence[str], environ: Environ) -> int:
    given = parser_of("join-command").parse_args(argv)
    reach = [
        f"{name}={value}"
        for name in ("--interface", "--run-dir")
        if (value := _text_of(given, environ, name))
    ]
    return show(_laid_out(lambda answer: join_text(answer, reach=reach), _ask("join", given, environ)))


def _text_of(given: argparse.Namespace, environ: Environ, name: str) -> str:
    flag = find_flag(name)
    return getattr(given, flag.attribute) or environ.get(flag.variable) or ""


def _key(argv: Sequence[str], environ: Environ) -> int:
    return show(_ask("key", parser_of("key").parse_args(argv), environ)["clusterKey"])


def _rekey(argv: Sequence[str], environ: Environ) -> int:
    given = parser_of("rekey").parse_args(argv)
    as_json = _is_json(given)
    rekeyed = _ask("rekey", given, environ)
    return show(json.dumps(rekeyed) if as_json else rekey_text(rekeyed))


def _news(argv: Sequence[str], environ: Environ) -> int:
    given = parser_of("news").parse_args(argv)
    pick(given.action, NEWS_ACTIONS, "ACTION")
    path = _socket(given, environ)
    content = _read_news(given.file)
    try:
        answer = ask(path, "news-add", content)
    except AgentUnreachable:
        raise
    except WesherError as error:
        raise InvalidSpec("FILE", str(error), value=given.file) from error
    return show(_laid_out(news_text, answer))


def _read_news(name: str) -> bytes:
    """Return the content of a file, or of standard input for ``-``.

    Raises:
        InvalidSpec: it cannot be read, or is longer than news are.

    """
    # Twice, for a file in base64.
    most = 2 * MAX_NEWS_BYTES
    try:
        content = sys.stdin.buffer.read(most + 1) if name == "-" else read_regular(Path(name), limit=most)
    except Unreadable as error:
        raise InvalidSpec("FILE", error.why, value=name) from error
    except FileNotFoundError as error:
        raise InvalidSpec("FILE", f"cannot be read: {error.strerror}", value=name) from error
    if len(content) > most:
        raise InvalidSpec("FILE", f"must not be longer than {most} bytes", value=name)
    return content


def _leave(argv: Sequence[str], environ: Environ) -> int:
    given = parser_of("leave").parse_args(argv)
    as_json = _is_json(given)
    try:
        left = _ask("leave-and-forget" if given.forget else "leave", given, environ)
    except AgentUnreachable as error:
        if not given.forget:
            raise
        hint = "`wesher cleanup` removes what a stopped agent left"
        raise AgentUnreachable(f"{error}; {hint}") from error
    if given.forget and left["kept"]:
        raise WesherError(
            f"{left['node']} left the mesh, but its keys could not be deleted: "
            f"run {removal_hint(left['kept'])}"
        )
    return show(json.dumps(left) if as_json else left_text(left, forgot=given.forget))


def _cleanup(argv: Sequence[str], environ: Environ) -> int:
    names = [option.name for option in COMMANDS["cleanup"].options]
    chosen = _chosen(parser_of("cleanup").parse_args(argv), environ, *names)
    from wesher_agent.runtime.cleanup import (  # noqa: PLC0415 - loads what only an agent needs
        Leftovers,
        clean_up,
        interfaces_with_state,
    )

    paths = {name: chosen[name] or find_flag(name).default for name in names}
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
    return show("\n".join(lines) or "nothing to remove")


def _keygen(argv: Sequence[str], _environ: Environ) -> int:
    parser_of("keygen").parse_args(argv)
    return show(base64.b64encode(os.urandom(KEY_BYTES)).decode())


def _completion(argv: Sequence[str], _environ: Environ) -> int:
    given = parser_of("completion").parse_args(argv)
    return show(completion(pick(given.shell, SHELLS, "SHELL")))


def _help(argv: Sequence[str], _environ: Environ) -> int:
    word = parser_of("help").parse_args(argv).command
    parser = parser_of(check_command(word, field="COMMAND")) if word else agent_parser()
    return show(parser.format_help().rstrip())


def _version(argv: Sequence[str], _environ: Environ) -> int:
    parser_of("version").parse_args(argv)
    return show(f"{PROGRAM} {VERSION}")


_RUN: Mapping[str, Callable[[Sequence[str], Environ], int]] = {
    "agent": _agent,
    "status": _status,
    "members": _members,
    "ping": _ping,
    "join-command": _join_command,
    "key": _key,
    "rekey": _rekey,
    "news": _news,
    "leave": _leave,
    "cleanup": _cleanup,
    "keygen": _keygen,
    "completion": _completion,
    "help": _help,
    "version": _version,
}
"""What each command of the table does."""
