"""What `wesher-operator` was told, as one checked value: a flag beats its variable, that its default."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wesher_common.errors import InvalidSpec
from wesher_common.event_logger import FORMATS
from wesher_common.names import is_member_name
from wesher_common.seeds import MAX_PORT
from wesher_common.version import VERSION
from wesher_operator.agent_pods import AgentPods, parse_agent_pods
from wesher_operator.exit_codes import OPERATOR, exit_code_help
from wesher_operator.one_line import OneLineParser

_JOB_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?\Z")
_LOG_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True)
class _Flag:
    name: str
    variable: str
    metavar: str
    help: str
    default: str = ""
    choices: tuple[str, ...] = ()
    required: bool = False

    @property
    def attribute(self) -> str:
        return self.name.removeprefix("--").replace("-", "_")

    @property
    def text(self) -> str:
        default = f" (default: {self.default})" if self.default else ""
        choices = f": {', '.join(self.choices)}" if self.choices else ""
        return f"{self.help}{choices}{default} [{self.variable}]"


_REACH = (
    _Flag(
        "--kubeconfig",
        "KUBECONFIG",
        "FILE",
        "kubeconfig for the API server (default: the pod's ServiceAccount)",
    ),
    _Flag(
        "--namespace",
        "WESHER_NAMESPACE",
        "NAME",
        "namespace of Secrets, ConfigMaps and agents (default: the pod's namespace)",
    ),
    _Flag("--log-level", "WESHER_LOG_LEVEL", "LEVEL", "log level of the operator", "info", _LOG_LEVELS),
    _Flag("--log-format", "WESHER_LOG_FORMAT", "FORMAT", "json writes one object per line", "text", FORMATS),
)
_RUN = (
    *_REACH,
    _Flag("--agent-image", "WESHER_AGENT_IMAGE", "IMAGE", "image of the agents", required=True),
    _Flag(
        "--agent-image-pull-policy",
        "WESHER_AGENT_IMAGE_PULL_POLICY",
        "POLICY",
        "when nodes pull that image",
        "IfNotPresent",
        ("Always", "IfNotPresent", "Never"),
    ),
    _Flag(
        "--agent-log-level", "WESHER_AGENT_LOG_LEVEL", "LEVEL", "log level of the agents", "info", _LOG_LEVELS
    ),
    _Flag(
        "--agent-pods",
        "WESHER_AGENT_PODS",
        "JSON",
        "more settings for agent pods, as JSON: the chart's agent values",
    ),
    _Flag(
        "--manage-crds",
        "WESHER_MANAGE_CRDS",
        "true|false",
        "update the CustomResourceDefinitions to this release at startup",
        "true",
        ("true", "false"),
    ),
    _Flag(
        "--health-port",
        "WESHER_HEALTH_PORT",
        "PORT",
        "TCP port of the liveness endpoint (default: none)",
    ),
)
_UNINSTALL = (
    *_REACH,
    _Flag(
        "--release",
        "WESHER_RELEASE",
        "NAME",
        "name of the Helm release whose meshes are deleted",
        required=True,
    ),
    _Flag(
        "--hook-job",
        "WESHER_HOOK_JOB",
        "NAME",
        "name of the Helm hook Job; if set, delete only while Helm uninstalls the release",
    ),
    _Flag("--timeout", "WESHER_TIMEOUT", "SECONDS", "seconds to wait for agents to leave", "60"),
)
_CHECK = (
    *_REACH,
    _Flag("--mesh", "WESHER_MESH", "NAME", "the mesh to check", required=True),
    _Flag("--timeout", "WESHER_TIMEOUT", "SECONDS", "seconds to wait until it is ready", "120"),
)
_SIGN = (
    _Flag(
        "--seed-file",
        "WESHER_SEED_FILE",
        "FILE",
        "file with the authority's seed in base64; - reads standard input",
        required=True,
    ),
    _Flag("--news-file", "WESHER_NEWS_FILE", "FILE", "copy of the mesh's current news file", required=True),
    _Flag("--names", "WESHER_NAMES", "NAME,…", "member names to revoke, separated by commas", required=True),
    _Flag("--output", "WESHER_OUTPUT", "FILE", "new file to write", required=True),
)
_COMMANDS = {
    "run": (_RUN, "run until SIGTERM; with several replicas only the leader acts"),
    "uninstall": (
        _UNINSTALL,
        "delete the meshes that a Helm release created and wait until their agents have left",
    ),
    "check": (
        _CHECK,
        "wait until a mesh is ready and all its nodes reach each other; exit with 1 after the timeout",
    ),
    "sign-revocation": (
        _SIGN,
        "sign offline that certificates are void; members learn it by wesher news add",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """What every command is told."""

    kubeconfig: Path | None
    """None means the pod's ServiceAccount."""
    namespace: str
    log_level: str
    log_format: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions(Reach):
    """What ``run`` was told."""

    agent_image: str
    agent_image_pull_policy: str
    agent_log_level: str
    agent_pods: AgentPods
    manage_crds: bool
    health_port: int
    """0 is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UninstallOptions(Reach):
    """What ``uninstall`` was told."""

    release: str
    hook_job: str
    """Empty means that a person runs it."""
    timeout: int
    """Seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckOptions(Reach):
    """What ``check`` was told."""

    mesh: str
    timeout: int
    """Seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignOptions:
    """Options of ``sign-revocation``, which needs no API server."""

    seed_file: str
    news_file: str
    names: tuple[str, ...]
    output: str


Options = RunOptions | UninstallOptions | CheckOptions | SignOptions


VARIABLES = frozenset(flag.variable for flags, _ in _COMMANDS.values() for flag in flags)
"""The environment variables of all flags."""


def parse_options(arguments: Sequence[str], environ: Mapping[str, str], pod_namespace: str) -> Options:
    """Read the command line and the environment.

    Args:
        arguments: without the program's name.
        environ: variables; an empty one counts as absent.
        pod_namespace: the namespace of the pod this runs in; empty outside one.

    Raises:
        InvalidSpec: naming the flag or variable, its value and the rule.

    """
    given = vars(_parser().parse_args(arguments))
    flags, _ = _COMMANDS[given["command"]]
    values: dict[str, Any] = {}
    for flag in flags:
        where, value = flag.name, given[flag.attribute]
        if value is None:
            where, value = flag.variable, environ.get(flag.variable) or flag.default
        if flag.choices:
            value = _choose(flag.choices, value, where)
        if flag.required and not value:
            raise InvalidSpec(flag.name, f"is required, or set {flag.variable}")
        values[flag.attribute] = _read(flag, value, where)
    if flags is _SIGN:
        return SignOptions(**values)
    values["namespace"] = values["namespace"] or pod_namespace
    if not values["namespace"]:
        raise InvalidSpec("--namespace", "is required outside a pod")
    made: dict[str, type[RunOptions | UninstallOptions | CheckOptions]] = {
        "run": RunOptions,
        "uninstall": UninstallOptions,
        "check": CheckOptions,
    }
    return made[given["command"]](**values)


def _read(flag: _Flag, text: str, where: str) -> Any:
    match flag.attribute:
        case "kubeconfig":
            return Path(text) if text else None
        case "agent_pods":
            return parse_agent_pods(text, where=where)
        case "manage_crds":
            return text == "true"
        case "health_port" | "timeout":
            return _number(text or "0", where)
        case "names":
            return _names(text, where)
        case "hook_job":
            if text and not _JOB_NAME.match(text):
                raise InvalidSpec(where, "must be the name of a Job", value=text)
    return text


def _names(text: str, where: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if not is_member_name(name):
            raise InvalidSpec(where, "must be member names, separated by commas", value=name)
    return names


def _choose(choices: tuple[str, ...], text: str, where: str) -> str:
    for choice in choices:
        if text.lower() == choice.lower():
            return choice
    raise InvalidSpec(where, f"must be one of {', '.join(choices)}", value=text)


def _number(text: str, where: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(MAX_PORT)) and int(text) <= MAX_PORT):
        raise InvalidSpec(where, f"must be a whole number from 0 to {MAX_PORT}", value=text)
    return int(text)


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="wesher-operator",
        description="Run the wesher operator.",
        epilog="Exit codes: 0 for success, 1 for a failure, 2 for an invalid flag, 3 for lost leadership.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version", action="version", version=f"%(prog)s {VERSION}", help="print the version"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (flags, text) in _COMMANDS.items():
        command = commands.add_parser(
            name,
            help=text,
            description=text,
            epilog="Variables in brackets set the same flags; flags take precedence.",
            allow_abbrev=False,
        )
        for flag in flags:
            command.add_argument(flag.name, metavar=flag.metavar, help=flag.text)
        command.epilog = f"{command.epilog}\n\n{exit_code_help(OPERATOR[name])}"
        command.formatter_class = argparse.RawDescriptionHelpFormatter
    return parser
