"""What ``kubectl wesher`` does: its words, its commands and its exit codes."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from io import TextIOWrapper
from pathlib import Path
from typing import NamedTuple

from wesher_common.errors import InvalidSpec, WesherError
from wesher_common.printable import as_lines
from wesher_common.tables import table
from wesher_common.version import VERSION
from wesher_operator.exit_codes import PLUGIN, exit_code_help
from wesher_operator.installation import installation_of
from wesher_operator.kubectl.admit import admit
from wesher_operator.kubectl.admit_peer import admit_peer
from wesher_operator.kubectl.authority import authorities_of, trusted_entry
from wesher_operator.kubectl.checks import Finding
from wesher_operator.kubectl.doctor import examine
from wesher_operator.kubectl.invite import new_file, parse_ttl, prepare
from wesher_operator.kubectl.join import join_text
from wesher_operator.kubectl.meshes import find_mesh, find_meshes, name_of, nodes_of
from wesher_operator.kubectl.new_authority import new_authority
from wesher_operator.kubectl.peers import peers_of
from wesher_operator.kubectl.reach import ApiServer, connect, operator_deployment
from wesher_operator.kubectl.revoke import WITHIN_SECONDS, revoke
from wesher_operator.kubectl.status import overview, overview_text
from wesher_operator.kubectl.sysdump import write_sysdump
from wesher_operator.one_line import OneLineParser

EXIT_FAILED, EXIT_USAGE = 1, 2
_STDOUT = "-"


class _Command(NamedTuple):
    run: Callable[[ApiServer, argparse.Namespace], int]
    help: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit code is 1 when something is wrong or not to be had, 2 for bad usage."""
    try:
        given = _parser().parse_args(sys.argv[1:] if arguments is None else arguments)
    except InvalidSpec as error:
        return _complain(error, EXIT_USAGE)
    try:
        return _COMMANDS[given.command].run(connect(given.kubeconfig, given.context), given)
    except InvalidSpec as error:
        return _complain(error, EXIT_USAGE)
    except WesherError as error:
        return _complain(error, EXIT_FAILED)
    except BrokenPipeError:
        # Whoever read has seen enough, as `head` has; what is left must not be tried again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED


def findings_text(findings: Sequence[Finding]) -> str:
    """Return a line for each finding, and below it what to do."""
    rows = [(finding.verdict, finding.check, finding.says) for finding in findings]
    lines = table(("", "CHECK", "FOUND"), rows).splitlines()[1:]
    return as_lines(
        row
        for line, finding in zip(lines, findings, strict=True)
        for row in ([line, f"      → {finding.do}"] if finding.do else [line])
    )


def _complain(error: WesherError, code: int) -> int:
    print(f"kubectl wesher: error: {error}", file=sys.stderr)  # noqa: T201 - a command's answer
    return code


def _say(text: str) -> None:
    if isinstance(sys.stdout, TextIOWrapper):
        # A letter that the terminal's encoding lacks must not end the command.
        sys.stdout.reconfigure(errors="backslashreplace")
    print(text, flush=True)  # noqa: T201 - a command's answer


def _status(api: ApiServer, given: argparse.Namespace) -> int:
    meshes = find_meshes(api, given.mesh)
    shown = [overview(mesh, nodes_of(api, name_of(mesh)), peers_of(api, name_of(mesh))) for mesh in meshes]
    if given.output == "json":
        _say(json.dumps([each.to_dict() for each in shown], indent=2))
    else:
        _say("\n\n".join(overview_text(each, now=api.now) for each in shown))
    return 0 if all(each.is_ready and not each.is_degraded for each in shown) else EXIT_FAILED


def _doctor(api: ApiServer, given: argparse.Namespace) -> int:
    findings = list(examine(api, given.namespace, given.mesh))
    _say(findings_text(findings))
    return EXIT_FAILED if any(finding.verdict == "FAIL" for finding in findings) else 0


def _join_command(api: ApiServer, given: argparse.Namespace) -> int:
    mesh = find_mesh(api, given.mesh)
    place = given.namespace or installation_of(mesh)
    namespace = str(operator_deployment(api, place)["metadata"]["namespace"])
    reach = [f"--{name}={value}" for name in ("kubeconfig", "context") if (value := getattr(given, name))]
    _say(join_text(mesh, nodes_of(api, name_of(mesh)), namespace, reach=reach))
    return 0


def _revoke(api: ApiServer, given: argparse.Namespace) -> int:
    if not math.isfinite(given.timeout) or given.timeout < 0:
        raise InvalidSpec("--timeout", "must be a number of seconds", value=given.timeout)
    mesh = find_mesh(api, given.mesh)
    place = given.namespace or installation_of(mesh)
    answer = revoke(api, mesh, place, given.name, within=given.timeout)
    _say(answer.text)
    return 0 if answer.is_signed else EXIT_FAILED


def _invite(api: ApiServer, given: argparse.Namespace) -> int:
    ttl = parse_ttl(given.ttl)
    if given.output == _STDOUT and sys.stdout.isatty() and not given.force:
        rule = "the join file holds keys: name a file, or pipe it to the machine, or add --force to show it"
        raise InvalidSpec("--output", rule)
    mesh = find_mesh(api, given.mesh)
    place = given.namespace or installation_of(mesh)
    namespace = str(operator_deployment(api, place)["metadata"]["namespace"])
    nodes = nodes_of(api, name_of(mesh))
    made = prepare(api, mesh, nodes, namespace, name=given.name, ttl=ttl, entropy=os.urandom)
    text = made.join_file.to_json()
    if given.output == _STDOUT:
        made.send(api)
        _say(text.rstrip("\n"))
        print(made.explanation(""), file=sys.stderr)  # noqa: T201 - a command's answer
    else:
        with new_file(Path(given.output), text):
            made.send(api)
        _say(made.explanation(given.output))
    return 0


def _sysdump(api: ApiServer, given: argparse.Namespace) -> int:
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    target = Path(given.file or f"wesher-sysdump-{stamp}.tar.gz")
    missing = write_sysdump(api, given.namespace, target)
    for line in missing:
        print(f"left out: {line}", file=sys.stderr)  # noqa: T201 - a command's answer
    _say(f"{target}: contains objects, events and logs but no Secrets; review it before you share it")
    return 0


def _authority(api: ApiServer, given: argparse.Namespace) -> int:
    mesh = find_mesh(api, given.mesh)
    if given.entry:
        _say(trusted_entry(api, mesh))
        return 0
    current, former = authorities_of(mesh)
    _say(current)
    if former:
        print(f"it replaces {former}, which agents still trust", file=sys.stderr)  # noqa: T201 - an answer
    return 0


def _new_authority(api: ApiServer, given: argparse.Namespace) -> int:
    mesh = find_mesh(api, given.mesh)
    place = given.namespace or installation_of(mesh)
    if not place:
        raise InvalidSpec("--mesh", "no operator has claimed this mesh yet", value=name_of(mesh))
    _say(new_authority(api, mesh, place, at_once=given.now, entropy=os.urandom))
    return 0


def _admit(api: ApiServer, given: argparse.Namespace) -> int:
    mesh = find_mesh(api, given.mesh)
    is_node = any(node["spec"]["nodeName"] == given.name for node in nodes_of(api, name_of(mesh)))
    _say((admit if is_node else admit_peer)(api, mesh, given.name, given.key))
    return 0


_COMMANDS = {
    "status": _Command(
        _status, "show meshes, their members and problems; exit 1 if a mesh is not Ready or is Degraded"
    ),
    "doctor": _Command(_doctor, "check the installation step by step and suggest fixes; exit 1 on a failure"),
    "join-command": _Command(_join_command, "print the commands that join an external machine to a mesh"),
    "revoke": _Command(_revoke, "void the certificates of a member, and keep it out of the mesh"),
    "invite": _Command(_invite, "admit an external machine to a mesh, and write the file that it joins with"),
    "admit": _Command(
        _admit,
        "let the operator certify the WireGuard key of an external machine, or the changed one of a node",
    ),
    "authority": _Command(_authority, "print the public key of a mesh's authority"),
    "new-authority": _Command(
        _new_authority, "replace the authority of a mesh: the key that signs its certificates"
    ),
    "sysdump": _Command(_sysdump, "collect objects, events and logs in one file, without secrets"),
}


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="kubectl wesher",
        description="Show the state of WesherMeshes and how to fix problems.",
        epilog="Exit codes: 0 for success, 1 when something is wrong or the API server does not answer, "
        "2 for an invalid flag.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version", action="version", version=f"%(prog)s {VERSION}", help="print the version"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in _COMMANDS.items():
        sub = commands.add_parser(name, help=command.help, description=command.help, allow_abbrev=False)
        sub.add_argument("--context", default="", metavar="NAME", help="kubeconfig context to use")
        sub.add_argument(
            "--kubeconfig",
            default="",
            metavar="FILE",
            help="kubeconfig file (default: $KUBECONFIG or ~/.kube/config)",
        )
        sub.add_argument(
            *("-n", "--namespace"),
            default="",
            metavar="NAME",
            help="namespace of the operator (default: found automatically)",
        )
        if name == "sysdump":
            written = "file to write, .tar.gz (default: wesher-sysdump-<time>.tar.gz)"
            sub.add_argument("-f", "--file", default="", metavar="FILE", help=written)
        elif name in {"admit", "authority", "invite", "new-authority", "revoke"}:
            mesh_help = "name of the WesherMesh (required if there are several)"
            sub.add_argument("--mesh", default="", metavar="MESH", help=mesh_help)
        else:
            named = "required if there are several" if name == "join-command" else "default: all"
            sub.add_argument(
                "mesh", nargs="?", default="", metavar="MESH", help=f"name of the WesherMesh ({named})"
            )
        if name == "revoke":
            sub.add_argument("name", metavar="NAME", help="name of the Node or of the external machine")
            timeout_help = f"how long to wait for the operator (default: {WITHIN_SECONDS:g})"
            sub.add_argument(
                "--timeout", type=float, default=WITHIN_SECONDS, metavar="SECONDS", help=timeout_help
            )
        if name == "admit":
            sub.add_argument("name", metavar="NAME", help="name of the Node, or of the external machine")
            key_help = "the whole WireGuard public key of the machine, as wg show prints it there"
            sub.add_argument("--key", required=True, metavar="KEY", help=key_help)
        if name == "invite":
            _add_invite(sub)
        if name == "authority":
            entry_help = (
                "print the entry of spec.trustedAuthorities with which another cluster trusts this mesh"
            )
            sub.add_argument("--entry", action="store_true", help=entry_help)
        if name == "new-authority":
            now_help = (
                "drop the former authority at once, as after a theft of its key; "
                "this interrupts tunnels for some seconds"
            )
            sub.add_argument("--now", action="store_true", help=now_help)
        if name == "status":
            forms = ("text", "json")
            sub.add_argument(
                "-o", "--output", default="text", type=str.lower, choices=forms, help="(default: text)"
            )
        sub.epilog = exit_code_help(PLUGIN[name])
        sub.formatter_class = argparse.RawDescriptionHelpFormatter
    return parser


def _add_invite(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("name", metavar="NAME", help="name of the machine in the mesh")
    ttl_help = "how long the invite is valid, from 1m to 7d (default: 1h)"
    sub.add_argument("--ttl", default="1h", metavar="DURATION", help=ttl_help)
    output_help = "new file to write, readable only by you (default: -, standard output unless a terminal)"
    sub.add_argument("--output", default=_STDOUT, metavar="FILE", help=output_help)
    sub.add_argument("--force", action="store_true", help="write the keys to a terminal")
