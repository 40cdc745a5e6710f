"""The table of the commands of ``wesher``: words, flags and arguments; pure.

The parsers, the help, the shell completions, the man page and ``docs/reference/cli.md`` are made
from it and from the table of `flags`, so that they say the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from wesher_agent.flags import FLAGS, Flag, find_flag
from wesher_agent.mesh.roster import MemberState

PROGRAM: Final = "wesher"
DEFAULT_COMMAND: Final = "agent"
"""As in the Go program, flags without a command are this one's."""
SHELLS: Final = ("bash", "zsh", "fish")
OUTPUTS: Final = ("text", "json")
NEWS_ACTIONS: Final = ("add",)
MEMBER_STATES: Final = tuple(str(state) for state in MemberState)
VARIABLES_NOTE: Final = (
    "Each flag can also be set with the environment variable in brackets; the flag takes precedence."
)
PURPOSE: Final = "wesher connects machines with an encrypted WireGuard network and keeps it connected."
EXAMPLE: Final = (
    ("start a mesh on one machine", "wesher keygen > key && wesher --cluster-key-file key"),
    ("add another machine, with the same key", "wesher --cluster-key-file key --join 203.0.113.10"),
    ("look at the mesh", "wesher members"),
)
"""What the help shows: purpose and command."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One flag of a command."""

    name: str
    """With its dashes; argparse's attribute follows from it."""
    help: str
    short: str = ""
    """Its one-letter form, with the dash."""
    metavar: str = ""
    """What stands for the value in help; empty for a switch or for choices, which name themselves."""
    choices: tuple[str, ...] = ()
    """Every value it takes, if they can be listed."""
    variable: str = ""
    """The environment variable; empty if there is none."""
    optional_value: bool = False
    """Whether the flag may stand without its value."""

    @property
    def names(self) -> tuple[str, ...]:
        """The short form, if there is one, and the long one."""
        return (self.short, self.name) if self.short else (self.name,)

    @property
    def placeholder(self) -> str:
        """What stands for the value in help; empty for a switch."""
        return self.metavar or "|".join(self.choices)


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """One word, or several, that a command takes besides flags."""

    name: str
    """As in the help, in capitals."""
    help: str
    choices: tuple[str, ...] = ()
    required: bool = False
    repeats: bool = False

    @property
    def usage(self) -> str:
        """How the usage line shows it."""
        name = "|".join(self.choices) or self.name
        shown = name if self.required else f"[{name}]"
        return f"{shown}..." if self.repeats else shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command."""

    summary: str
    """One line, without a full stop."""
    options: tuple[Option, ...] = ()
    arguments: tuple[Argument, ...] = ()
    details: str = ""
    """What the summary leaves out; whole sentences."""


def option_of(flag: Flag) -> Option:
    """Return a flag of the agent as an option of a command."""
    return Option(
        name=flag.name,
        help=flag.help,
        metavar=flag.placeholder,
        choices=("true", "false") if flag.switch else flag.choices,
        variable=flag.variable,
        optional_value=flag.switch,
    )


def usage_of(word: str) -> str:
    """Return the usage line of a command."""
    command = COMMANDS[word]
    words = [PROGRAM, word, *(argument.usage for argument in command.arguments)]
    return " ".join([*words, "[flags]"] if command.options else words)


_RUN_DIR = find_flag("--run-dir")
_AGENT = (
    Option(
        name="--interface",
        metavar="NAME",
        variable=find_flag("--interface").variable,
        help="interface of the agent, if several agents run on this host",
    ),
    Option(
        name="--run-dir",
        metavar="DIR",
        variable=_RUN_DIR.variable,
        help=f"directory of the agents' control sockets (default: {_RUN_DIR.default})",
    ),
)
"""Which agent a command asks."""
_OUTPUT = Option(name="--output", short="-o", choices=OUTPUTS, help="form of the answer (default: text)")
_WATCH = Option(name="--watch", short="-w", help="repeat every 2 seconds until Ctrl-C; needs a terminal")

COMMANDS: Final[Mapping[str, Command]] = {
    "agent": Command(
        summary="join or start a mesh and stay in it (the default command)",
        options=tuple(option_of(flag) for flag in FLAGS if not flag.hidden),
    ),
    "status": Command(
        summary="show this host's agent and its health",
        options=(
            *_AGENT,
            _OUTPUT,
            _WATCH,
            Option(
                name="--check", help="only report whether this host is in the mesh; exit with 1 if it is not"
            ),
        ),
    ),
    "members": Command(
        summary="list the members of the mesh",
        arguments=(
            Argument(
                name="MEMBER",
                repeats=True,
                help="show only members with this name; * and ? are wildcards",
            ),
        ),
        options=(
            *_AGENT,
            _OUTPUT,
            _WATCH,
            Option(name="--state", choices=MEMBER_STATES, help="show only members in this state"),
            Option(name="--tree", help="group the members by location"),
        ),
        details=(
            "SINCE is how long the member has been in its state, as seen by this agent. RECEIVED and SENT "
            "count the bytes of its tunnel since WireGuard added the peer."
        ),
    ),
    "ping": Command(
        summary="ping a member through its tunnel",
        arguments=(Argument(name="MEMBER", required=True, help="name or overlay address of the member"),),
        options=(
            *_AGENT,
            Option(name="--count", short="-c", metavar="COUNT", help="how many packets to send (default: 4)"),
        ),
        details="If the member does not answer, the command prints what the agent knows about the reason.",
    ),
    "join-command": Command(
        summary="print the commands that add another machine to this mesh",
        options=_AGENT,
        details="The output does not contain the cluster key.",
    ),
    "key": Command(
        summary="print the cluster key of this mesh, which lets any machine join",
        options=_AGENT,
    ),
    "rekey": Command(
        summary="give this machine another WireGuard key",
        options=(*_AGENT, _OUTPUT),
        details=(
            "Use it on a copy of another machine's disk, or if others may know the key. The agent saves "
            "the new key and restarts, which interrupts its tunnels for a moment. If the mesh certifies its "
            "members, an administrator has to admit the new key with `kubectl wesher admit`."
        ),
    ),
    "news": Command(
        summary="give the agent revocations that were signed while the API server was away",
        arguments=(
            Argument(name="ACTION", choices=NEWS_ACTIONS, required=True, help="what to do with the file"),
            Argument(
                name="FILE",
                required=True,
                help="file that `wesher-operator sign-revocation` wrote; - is standard input",
            ),
        ),
        options=_AGENT,
        details=(
            "The agent verifies the signature, closes the tunnels of the revoked members, and passes the "
            "revocations on to all other members by gossip. One agent of the mesh is enough."
        ),
    ),
    "leave": Command(
        summary="leave the mesh for good and stop the agent; the keys are kept",
        options=(
            *_AGENT,
            _OUTPUT,
            Option(
                name="--forget",
                help="also delete the state file with the cluster key and this machine's WireGuard key; "
                "a file given with --cluster-key-file is kept",
            ),
        ),
        details="The agent announces its leave, then removes its device and hosts entries from this host.",
    ),
    "cleanup": Command(
        summary="remove what a stopped agent left on this host, including its keys",
        options=tuple(
            option_of(find_flag(name))
            for name in ("--interface", "--state-dir", "--run-dir", "--hosts-file", "--overlay-net")
        ),
        details="It removes the device, its routes and rules, the hosts entries and the state file. "
        "It restores the reverse-path filters that the agent changed.",
    ),
    "keygen": Command(summary="print a new cluster key"),
    "completion": Command(
        summary="print the completion script of a shell",
        arguments=(
            Argument(name="SHELL", choices=SHELLS, required=True, help=f"one of {', '.join(SHELLS)}"),
        ),
        details="To use it in the current shell: source <(wesher completion bash)",
    ),
    "help": Command(
        summary="show help for wesher or for one command",
        arguments=(Argument(name="COMMAND", help="the command"),),
    ),
    "version": Command(summary="print the version"),
}
