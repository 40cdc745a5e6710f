"""What `wesher-operator run` was told, as one checked value: a flag beats its variable, that its default."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wesher_common.errors import InvalidSpec

_LOG_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True)
class _Flag:
    name: str
    variable: str
    help: str
    default: str = ""
    choices: tuple[str, ...] = ()

    @property
    def attribute(self) -> str:
        return self.name.removeprefix("--").replace("-", "_")

    @property
    def text(self) -> str:
        default = f"; {self.default} unless set" if self.default else ""
        choices = f": {', '.join(self.choices)}" if self.choices else ""
        return f"{self.help}{choices}{default} [{self.variable}]"


_FLAGS = (
    _Flag("--kubeconfig", "KUBECONFIG", "how to reach the API server; the pod's ServiceAccount unless set"),
    _Flag(
        "--namespace",
        "WESHER_NAMESPACE",
        "where Secrets, ConfigMaps and agents live; the pod's own unless set",
    ),
    _Flag("--agent-image", "WESHER_AGENT_IMAGE", "image of the agents; required"),
    _Flag(
        "--agent-image-pull-policy",
        "WESHER_AGENT_IMAGE_PULL_POLICY",
        "when nodes pull it",
        "IfNotPresent",
        ("Always", "IfNotPresent", "Never"),
    ),
    _Flag("--agent-log-level", "WESHER_AGENT_LOG_LEVEL", "of the agents", "info", _LOG_LEVELS),
    _Flag("--log-level", "WESHER_LOG_LEVEL", "of the operator", "info", _LOG_LEVELS),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the operator was told."""

    kubeconfig: Path | None
    """None means the pod's ServiceAccount."""
    namespace: str
    agent_image: str
    agent_image_pull_policy: str
    agent_log_level: str
    log_level: str


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
    values: dict[str, Any] = {}
    for flag in _FLAGS:
        where, value = flag.name, given[flag.attribute]
        if value is None:
            where, value = flag.variable, environ.get(flag.variable) or flag.default
        if flag.choices and value not in flag.choices:
            raise InvalidSpec(where, f"must be one of {', '.join(flag.choices)}", value=value)
        values[flag.attribute] = value
    if not values["agent_image"]:
        raise InvalidSpec("--agent-image", "must be given")
    values["namespace"] = values["namespace"] or pod_namespace
    if not values["namespace"]:
        raise InvalidSpec("--namespace", "must be given outside a pod")
    values["kubeconfig"] = Path(values["kubeconfig"]) if values["kubeconfig"] else None
    return Options(**values)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="wesher-operator",
        description="Make every WesherMesh be as its spec says.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser(
        "run",
        help="run until SIGTERM; of several only the leader acts",
        epilog="Each flag can be set by the environment variable in brackets.",
    )
    for flag in _FLAGS:
        run.add_argument(flag.name, help=flag.text)
    return parser
