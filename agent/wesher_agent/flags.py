"""The table of ``wesher agent``'s flags: name, default and the rule of each value.

One row a flag, the Go program's and ours; each flag's environment variable
follows from its name (``--cluster-port`` is ``WESHER_CLUSTER_PORT``). Rules that
several flags keep together are in `settings`.
"""

from __future__ import annotations

import argparse
import logging
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from ipaddress import ip_address, ip_interface
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args

from wesher_common.certificate import AuthorityKey
from wesher_common.errors import InvalidSpec
from wesher_common.event_logger import FORMATS, TRACE
from wesher_common.keys import ClusterKey
from wesher_common.mesh_document import MAX_LABEL, MAX_MTU, MIN_MTU
from wesher_common.names import MAX_MEMBER_NAME, check_interface_name, is_member_name
from wesher_common.overlay import IPAddress, IPNetwork
from wesher_common.seeds import MAX_PORT, SeedAddress, parse_seed
from wesher_common.variables import PREFIX

# logrus names, the Go program's; Python has no level above CRITICAL.
LOG_LEVELS = {
    "panic": logging.CRITICAL,
    "fatal": logging.CRITICAL,
    "error": logging.ERROR,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "trace": TRACE,
}


Group = Literal["mesh", "addresses", "WireGuard", "files", "logging", "Kubernetes", "advanced"]
GROUPS: tuple[Group, ...] = get_args(Group)
"""The groups of the help, in its order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """One flag, its environment variable and the rule its value keeps."""

    name: str
    """With its dashes."""
    group: Group
    help: str
    read: Callable[[str, str], Any]
    """Turns (text, where it stands) into the value, or raises InvalidSpec."""
    default: Any = None
    metavar: str = ""
    """What stands for the value in help; empty for a switch or for choices, which name themselves."""
    choices: tuple[str, ...] = ()
    """Every value it takes, if they can be listed."""
    switch: bool = False
    """Whether the flag may stand without a value, meaning true."""
    repeats: bool = False
    hidden: bool = False
    from_document: bool = False
    """Whether mesh.json decides it in Kubernetes, so that saying it twice is refused."""

    @property
    def attribute(self) -> str:
        """The field of `Settings`."""
        return self.name.removeprefix("--").replace("-", "_")

    @property
    def placeholder(self) -> str:
        """What stands for the value in help."""
        return self.metavar or "|".join(self.choices) or "true|false"

    @property
    def variable(self) -> str:
        """The environment variable."""
        return PREFIX + self.attribute.upper()


def _text(text: str, _where: str) -> str:
    return text


def _path(text: str, _where: str) -> Path:
    return Path(text)


def _yes_or_no(text: str, where: str) -> bool:
    match text.lower():
        case "true" | "1" | "yes":
            return True
        case "false" | "0" | "no":
            return False
    raise InvalidSpec(where, "must be true, 1, yes, false, 0 or no", value=text)


# Python itself refuses to read a number of thousands of digits.
_WHOLE_NUMBER = re.compile(r"[0-9]{1,9}")
_DURATION = re.compile(r"(?:([0-9]{1,9})h)?(?:([0-9]{1,9})m)?(?:([0-9]{1,9})s)?")


def _whole_number(low: int, high: int, *, zero_means: str = "") -> Callable[[str, str], int]:
    def read(text: str, where: str) -> int:
        number = int(text) if _WHOLE_NUMBER.fullmatch(text) else -1
        if (number == 0 and zero_means) or low <= number <= high:
            return number
        rule = f"must be a whole number from {low} to {high}"
        raise InvalidSpec(where, f"{rule}, or 0 {zero_means}" if zero_means else rule, value=text)

    return read


def pick(text: str, choices: Iterable[str], where: str) -> str:
    """Return the choice that a text means, in upper or lower case.

    Args:
        text: as given.
        choices: as the help spells them.
        where: the flag or variable, for the error.

    Raises:
        InvalidSpec: none of them.

    """
    spelled = {choice.lower(): choice for choice in choices}
    if text.lower() not in spelled:
        raise InvalidSpec(where, f"must be one of {', '.join(spelled.values())}", value=text)
    return spelled[text.lower()]


def _choice(*choices: str) -> Callable[[str, str], str]:
    return lambda text, where: pick(text, choices, where)


def _wireguard_mode(text: str, where: str) -> str:
    # The mesh document and the custom resource spell it with a capital.
    return pick(text, ("auto", "kernel", "userspace"), where).capitalize()


def _cluster_key(text: str, where: str) -> ClusterKey | None:
    return ClusterKey.from_base64(text, field_name=where) if text else None


def _authority(text: str, where: str) -> AuthorityKey:
    return AuthorityKey.from_base64(text, field_name=where)


def _seeds(text: str, where: str) -> tuple[SeedAddress, ...]:
    seeds = tuple(parse_seed(part, field=where) for part in text.split(",") if part.strip())
    if text.strip() and not seeds:
        raise InvalidSpec(where, "names no member: give host names or IP addresses", value=text)
    return seeds


def _bind_address(text: str, where: str) -> IPAddress:
    try:
        return ip_address(text)
    except ValueError as error:
        raise InvalidSpec(where, "must be an IP address", value=text) from error


def _advertise_address(text: str, where: str) -> IPAddress:
    address = _bind_address(text, where)
    if address.is_unspecified or address.is_multicast:
        raise InvalidSpec(where, "must be an address that other members can dial", value=text)
    return address


def _link_name(text: str, where: str) -> str:
    return check_interface_name(text, field=where)


def _link_or_none(text: str, where: str) -> str:
    return _link_name(text, where) if text else ""


def _octet_network(text: str, where: str) -> IPNetwork:
    """Read an overlay network by the Go program's rule; host bits are cleared, as its hash does."""
    try:
        network = ip_interface(text if "/" in text else "").network
    except ValueError as error:
        raise InvalidSpec(where, "must be a network such as 10.0.0.0/8", value=text) from error
    if network.prefixlen % 8 or not network.prefixlen:
        raise InvalidSpec(
            where,
            f"unsupported overlay network size: the prefix length must be a multiple of 8, "
            f"not {network.prefixlen}",
            value=text,
        )
    return network


def _log_level(text: str, where: str) -> int:
    return LOG_LEVELS[pick(text, LOG_LEVELS, where)]


def _member_name(text: str, where: str) -> str:
    if not is_member_name(text):
        raise InvalidSpec(
            where, f"must be DNS labels joined by dots, at most {MAX_MEMBER_NAME} bytes", value=text
        )
    return text


def _label(text: str, where: str) -> str:
    if len(text.encode(errors="surrogateescape")) > MAX_LABEL:
        raise InvalidSpec(where, f"must be at most {MAX_LABEL} bytes", value=text)
    return text


def _duration(text: str, where: str) -> float:
    """Read a duration as Go writes it, in whole hours, minutes and seconds."""
    found = _DURATION.fullmatch(text)
    hours, minutes, seconds = (int(part or 0) for part in found.groups()) if found else (0, 0, 0)
    total = hours * 3600 + minutes * 60 + seconds
    if total == 0:
        raise InvalidSpec(where, "must be a duration above zero such as 24h, 90m or 1h30m", value=text)
    return float(total)


FLAGS: tuple[Flag, ...] = (
    Flag(
        name="--cluster-key",
        group="mesh",
        metavar="KEY",
        read=_cluster_key,
        help="shared key of the mesh, 32 bytes in base64 (default: the saved key, or a new one); the process "
        "list shows it, so prefer --cluster-key-file",
    ),
    Flag(
        name="--cluster-key-file",
        group="mesh",
        metavar="FILE",
        read=_path,
        help="file with the cluster key",
    ),
    Flag(
        name="--join",
        group="mesh",
        metavar="HOST[:PORT],…",
        read=_seeds,
        default=(),
        repeats=True,
        from_document=True,
        help="members to join through; if a name has several addresses, all are tried",
    ),
    Flag(
        name="--join-file",
        group="mesh",
        metavar="FILE",
        read=_path,
        from_document=True,
        help="join as the machine for which `kubectl wesher invite` wrote this file; "
        "only the first start needs it",
    ),
    Flag(
        name="--authority",
        group="mesh",
        metavar="KEY",
        read=_authority,
        from_document=True,
        help="public key of the mesh's authority, as `kubectl wesher authority` prints it: only members that "
        "it has certified get a tunnel (default: every member with the cluster key)",
    ),
    Flag(
        name="--init",
        group="mesh",
        read=_yes_or_no,
        switch=True,
        default=False,
        help="start a new mesh: ignore the saved key and members",
    ),
    Flag(
        name="--bind-addr",
        group="addresses",
        metavar="ADDRESS",
        read=_bind_address,
        help="address to listen on for gossip (default: a public address of this host, or all its addresses)",
    ),
    Flag(
        name="--bind-iface",
        group="addresses",
        metavar="LINK",
        read=_link_or_none,
        default="",
        help="listen on the first address of this link; cannot be combined with --bind-addr",
    ),
    Flag(
        name="--advertise-addr",
        group="addresses",
        metavar="ADDRESS",
        read=_advertise_address,
        help="address that other members dial (default: the bound address, or the one from which this host "
        "reaches the seeds, or that of its default route)",
    ),
    Flag(
        name="--cluster-port",
        group="addresses",
        metavar="PORT",
        read=_whole_number(1, MAX_PORT),
        default=7946,
        from_document=True,
        help="gossip port, UDP and TCP, the same on all members (default: 7946)",
    ),
    Flag(
        name="--wireguard-port",
        group="WireGuard",
        metavar="PORT",
        read=_whole_number(1, MAX_PORT),
        default=51820,
        from_document=True,
        help="WireGuard's UDP port, the same on all members (default: 51820)",
    ),
    Flag(
        name="--overlay-net",
        group="addresses",
        metavar="CIDR",
        read=_octet_network,
        default=_octet_network("10.0.0.0/8", "--overlay-net"),
        from_document=True,
        help="network of the overlay addresses, the same on all members; "
        "the prefix length must be a multiple of 8 (default: 10.0.0.0/8)",
    ),
    Flag(
        name="--interface",
        group="WireGuard",
        metavar="NAME",
        read=_link_name,
        default="wgoverlay",
        from_document=True,
        help="WireGuard interface; the state file and the hosts entries carry its name (default: wgoverlay)",
    ),
    Flag(
        name="--no-etc-hosts",
        group="files",
        read=_yes_or_no,
        switch=True,
        default=False,
        from_document=True,
        help="do not write the members' names to the hosts file",
    ),
    Flag(
        name="--hosts-file",
        group="files",
        metavar="FILE",
        read=_path,
        default=Path("/etc/hosts"),
        help="hosts file for the members' names (default: /etc/hosts)",
    ),
    Flag(
        name="--log-level",
        group="logging",
        metavar="LEVEL",
        choices=tuple(LOG_LEVELS),
        read=_log_level,
        default=logging.WARNING,
        help=f"one of {', '.join(LOG_LEVELS)} (default: warn)",
    ),
    Flag(
        name="--log-format",
        group="logging",
        choices=FORMATS,
        read=_choice(*FORMATS),
        default="text",
        help="json writes one object per line (default: text)",
    ),
    Flag(
        name="--ip-as-name",
        group="advanced",
        read=_yes_or_no,
        switch=True,
        default=False,
        hidden=True,
        help="use the bound address as the name of this member",
    ),
    Flag(
        name="--node-name",
        group="mesh",
        metavar="NAME",
        read=_member_name,
        default="",
        help="name of this member, unique in the mesh (default: the host's name)",
    ),
    Flag(
        name="--gossip-profile",
        group="mesh",
        choices=("LAN", "WAN"),
        read=_choice("LAN", "WAN"),
        default="WAN",
        from_document=True,
        help="LAN notices failures sooner, WAN tolerates slower networks; the same on all members "
        "(default: WAN)",
    ),
    Flag(
        name="--label",
        group="mesh",
        metavar="TEXT",
        read=_label,
        default="",
        from_document=True,
        help="separates meshes that share a key; the same on all members",
    ),
    Flag(
        name="--wireguard-mode",
        group="WireGuard",
        choices=("auto", "kernel", "userspace"),
        read=_wireguard_mode,
        default="Auto",
        from_document=True,
        help="WireGuard implementation; auto prefers the kernel's (default: auto)",
    ),
    Flag(
        name="--userspace-binary",
        group="WireGuard",
        metavar="FILE",
        read=_text,
        default="",
        help="path of wireguard-go, used if the kernel has no WireGuard (default: found on PATH)",
    ),
    Flag(
        name="--mtu",
        group="WireGuard",
        metavar="BYTES",
        read=_whole_number(MIN_MTU, MAX_MTU, zero_means="to derive it from the underlay"),
        default=0,
        from_document=True,
        help="MTU of the WireGuard interface; 0 derives it from the underlay (default: 0)",
    ),
    Flag(
        name="--unreachable-route",
        group="advanced",
        choices=("auto", "on", "off"),
        read=_choice("auto", "on", "off"),
        default="auto",
        help="reject packets to overlay addresses without a member instead of sending them unencrypted; auto "
        "rejects all of them, unless the overlay is as wide as a private range or the underlay uses "
        "addresses in it: then only those to members of the last 24 hours (default: auto)",
    ),
    Flag(
        name="--forget-after",
        group="advanced",
        metavar="DURATION",
        read=_duration,
        default=24 * 3600.0,
        help="keep trying to reach a failed member for this long, such as 90m (default: 24h)",
    ),
    Flag(
        name="--leave-on-exit",
        group="advanced",
        read=_yes_or_no,
        switch=True,
        help="when a signal ends the agent, leave the mesh for good: tell the members, remove the device and "
        "the hosts entries, keep the keys (default: true; in Kubernetes: false)",
    ),
    Flag(
        name="--state-dir",
        group="files",
        metavar="DIR",
        read=_path,
        default=Path("/var/lib/wesher"),
        help="directory of the state file INTERFACE.json (default: /var/lib/wesher)",
    ),
    Flag(
        name="--run-dir",
        group="files",
        metavar="DIR",
        read=_path,
        default=Path("/run/wesher"),
        help="directory of the control socket INTERFACE.sock (default: /run/wesher)",
    ),
    Flag(
        name="--health-port",
        group="advanced",
        metavar="PORT",
        read=_whole_number(1, MAX_PORT, zero_means="for none"),
        default=0,
        help="TCP port on 127.0.0.1 for HTTP GET of /healthz and /readyz; 0 for none (default: 0)",
    ),
    Flag(
        name="--kubernetes",
        group="Kubernetes",
        metavar="DIR",
        read=_path,
        help="run as the agent of a Kubernetes node: DIR contains the mounted cluster-key, accepted-keys "
        "and mesh.json",
    ),
    Flag(
        name="--kubeconfig",
        group="Kubernetes",
        metavar="FILE",
        read=_path,
        help="kubeconfig for the API server, with --kubernetes (default: the pod's service account)",
    ),
)


_ALIKE = 0.8
"""How like a flag a word must be (`difflib`, 0 to 1) to be taken for it."""


class OneLineParser(argparse.ArgumentParser):
    """An argparse parser whose complaints are ours: raised, one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        """Raise what argparse found wrong.

        Raises:
            InvalidSpec: always.

        """
        found = re.match(r"argument (?P<flag>\S+): (?P<rule>.*)", message)
        if found:
            rule = found["rule"]
            # The value is left out: argparse shows it, and a key may stand there.
            rule = "takes no value" if rule.startswith("ignored explicit argument") else rule
            raise InvalidSpec(found["flag"].split("/")[0], rule)
        if message.startswith("unrecognized arguments: "):
            # Without its value: a key may stand there.
            word = message.removeprefix("unrecognized arguments: ").split()[0].partition("=")[0]
            raise InvalidSpec(
                word, self._unknown_flag(word) if word.startswith("-") else "unexpected argument"
            )
        lacking = message.removeprefix("the following arguments are required: ")
        if lacking != message:
            raise InvalidSpec(lacking, f"is missing: see {self.prog} --help")
        raise InvalidSpec(self.prog, message)

    def _print_message(self, message: str, file: Any = None) -> None:
        # argparse ignores errors here, so that a help longer than a buffer would end well on a closed pipe.
        if message:
            (file or sys.stderr).write(message)

    def _unknown_flag(self, word: str) -> str:
        flags = [name for action in self._actions for name in action.option_strings]
        nearest = get_close_matches(word, flags, n=1, cutoff=_ALIKE)
        return f"unknown flag: {f'did you mean {nearest[0]}?' if nearest else f'see {self.prog} --help'}"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Declare flags to argparse in their groups; their values stay text, for `settings` to read."""
    groups = {group: parser.add_argument_group(group) for group in GROUPS}
    for flag in FLAGS:
        options: dict[str, Any] = {
            "dest": flag.attribute,
            "action": "append" if flag.repeats else "store",
            "help": argparse.SUPPRESS if flag.hidden else f"{flag.help} [{flag.variable}]".replace("%", "%%"),
            "metavar": flag.placeholder,
        }
        if flag.switch:
            options |= {"nargs": "?", "const": "true"}
        groups[flag.group].add_argument(flag.name, **options)


def find_flag(name: str) -> Flag:
    """Return the row of one flag."""
    return next(flag for flag in FLAGS if flag.name == name)
