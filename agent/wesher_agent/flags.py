"""The table of ``wesher agent``'s flags: name, default and the rule of each value.

One row a flag, the Go program's and ours; each flag's environment variable
follows from its name (``--cluster-port`` is ``WESHER_CLUSTER_PORT``). Rules that
several flags keep together are in `settings`.
"""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from ipaddress import ip_address, ip_interface
from pathlib import Path
from typing import Any, NoReturn

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """One flag, its environment variable and the rule its value keeps."""

    name: str
    """With its dashes."""
    help: str
    read: Callable[[str, str], Any]
    """Turns (text, where it stands) into the value, or raises InvalidSpec."""
    default: Any = None
    metavar: str = ""
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


def _choice(*choices: str) -> Callable[[str, str], str]:
    def read(text: str, where: str) -> str:
        for choice in choices:
            if text.lower() == choice.lower():
                return choice
        raise InvalidSpec(where, f"must be one of {', '.join(choices)}", value=text)

    return read


def _cluster_key(text: str, where: str) -> ClusterKey | None:
    return ClusterKey.from_base64(text, field_name=where) if text else None


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
    if text.lower() not in LOG_LEVELS:
        raise InvalidSpec(where, f"must be one of {', '.join(LOG_LEVELS)}", value=text)
    return LOG_LEVELS[text.lower()]


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
        metavar="KEY",
        read=_cluster_key,
        help="shared key of the mesh, 32 bytes as base64 (default: the saved one, else a new one); "
        "shows in the process list, which --cluster-key-file avoids",
    ),
    Flag(
        name="--cluster-key-file",
        metavar="FILE",
        read=_path,
        help="file that holds the cluster key",
    ),
    Flag(
        name="--join",
        metavar="HOST[:PORT],…",
        read=_seeds,
        default=(),
        repeats=True,
        from_document=True,
        help="members to join through; a name may stand for many addresses, all are tried",
    ),
    Flag(
        name="--init",
        read=_yes_or_no,
        switch=True,
        default=False,
        help="begin a new mesh: ignore the saved key and members",
    ),
    Flag(
        name="--bind-addr",
        metavar="ADDRESS",
        read=_bind_address,
        help="address to listen on for gossip (default: a public address of this host, else all)",
    ),
    Flag(
        name="--bind-iface",
        metavar="LINK",
        read=_link_or_none,
        default="",
        help="listen on the first address of this link; not together with --bind-addr",
    ),
    Flag(
        name="--advertise-addr",
        metavar="ADDRESS",
        read=_advertise_address,
        help="address that others dial (default: the one bound, or the one from which this host sends to "
        "the seeds, otherwise along its default route)",
    ),
    Flag(
        name="--cluster-port",
        metavar="PORT",
        read=_whole_number(1, MAX_PORT),
        default=7946,
        from_document=True,
        help="gossip port, UDP and TCP, the same on all members (default: 7946)",
    ),
    Flag(
        name="--wireguard-port",
        metavar="PORT",
        read=_whole_number(1, MAX_PORT),
        default=51820,
        from_document=True,
        help="WireGuard's UDP port, the same on all members (default: 51820)",
    ),
    Flag(
        name="--overlay-net",
        metavar="CIDR",
        read=_octet_network,
        default=_octet_network("10.0.0.0/8", "--overlay-net"),
        from_document=True,
        help="network of the overlay addresses, the same on all members; "
        "its prefix length is a multiple of 8 (default: 10.0.0.0/8)",
    ),
    Flag(
        name="--interface",
        metavar="NAME",
        read=_link_name,
        default="wgoverlay",
        from_document=True,
        help="WireGuard interface; also names the state file and the hosts entries (default: wgoverlay)",
    ),
    Flag(
        name="--no-etc-hosts",
        read=_yes_or_no,
        switch=True,
        default=False,
        from_document=True,
        help="leave the hosts file alone",
    ),
    Flag(
        name="--hosts-file",
        metavar="FILE",
        read=_path,
        default=Path("/etc/hosts"),
        help="hosts file that gets the members' names (default: /etc/hosts)",
    ),
    Flag(
        name="--log-level",
        metavar="LEVEL",
        read=_log_level,
        default=logging.WARNING,
        help=f"one of {', '.join(LOG_LEVELS)} (default: warn)",
    ),
    Flag(
        name="--log-format",
        metavar="text|json",
        read=_choice(*FORMATS),
        default="text",
        help="json writes one object a line (default: text)",
    ),
    Flag(
        name="--ip-as-name",
        read=_yes_or_no,
        switch=True,
        default=False,
        hidden=True,
        help="use the address bound as this member's name",
    ),
    Flag(
        name="--node-name",
        metavar="NAME",
        read=_member_name,
        default="",
        help="this member's name, unique in the mesh (default: the host's name)",
    ),
    Flag(
        name="--gossip-profile",
        metavar="LAN|WAN",
        read=_choice("LAN", "WAN"),
        default="WAN",
        from_document=True,
        help="how patient gossip is; the same on all members (default: WAN)",
    ),
    Flag(
        name="--label",
        metavar="TEXT",
        read=_label,
        default="",
        from_document=True,
        help="keeps meshes with the same key apart; the same on all members",
    ),
    Flag(
        name="--wireguard-mode",
        metavar="auto|kernel|userspace",
        read=_choice("Auto", "Kernel", "Userspace"),
        default="Auto",
        from_document=True,
        help="which WireGuard to use; auto takes the kernel's where there is one (default: auto)",
    ),
    Flag(
        name="--userspace-binary",
        metavar="FILE",
        read=_text,
        default="",
        help="path of wireguard-go, to run where the kernel has no WireGuard (default: found on PATH)",
    ),
    Flag(
        name="--mtu",
        metavar="BYTES",
        read=_whole_number(MIN_MTU, MAX_MTU, zero_means="to take it from the underlay"),
        default=0,
        from_document=True,
        help="MTU of the WireGuard interface, 0 to take it from the underlay (default: 0)",
    ),
    Flag(
        name="--unreachable-route",
        metavar="auto|on|off",
        read=_choice("auto", "on", "off"),
        default="auto",
        help="whether packets to overlay addresses without a peer are refused instead of sent in clear; "
        "auto refuses all of them, but only those to members of the last day if the network is as wide as a "
        "private range or the underlay uses addresses of it (default: auto)",
    ),
    Flag(
        name="--forget-after",
        metavar="DURATION",
        read=_duration,
        default=24 * 3600.0,
        help="how long a failed member keeps its place and is looked for, such as 90m (default: 24h)",
    ),
    Flag(
        name="--leave-on-exit",
        read=_yes_or_no,
        switch=True,
        help="whether a termination signal means leaving for good: tell the others, remove device and "
        "names, keep the keys (default: yes, but in Kubernetes no)",
    ),
    Flag(
        name="--state-dir",
        metavar="DIR",
        read=_path,
        default=Path("/var/lib/wesher"),
        help="where the state file <interface>.json lives (default: /var/lib/wesher)",
    ),
    Flag(
        name="--run-dir",
        metavar="DIR",
        read=_path,
        default=Path("/run/wesher"),
        help="where the control socket <interface>.sock lives (default: /run/wesher)",
    ),
    Flag(
        name="--health-port",
        metavar="PORT",
        read=_whole_number(1, MAX_PORT, zero_means="for none"),
        default=0,
        help="TCP port of 127.0.0.1 that answers HTTP GET of /healthz and /readyz, 0 for none (default: 0)",
    ),
    Flag(
        name="--kubernetes",
        metavar="DIR",
        read=_path,
        help="run as a Kubernetes node's agent: DIR has the mounted cluster-key, accepted-keys and mesh.json",
    ),
    Flag(
        name="--kubeconfig",
        metavar="FILE",
        read=_path,
        help="how to reach the API server with --kubernetes (default: the pod's service account)",
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
        raise InvalidSpec(self.prog, message)

    def _unknown_flag(self, word: str) -> str:
        flags = [name for action in self._actions for name in action.option_strings]
        nearest = get_close_matches(word, flags, n=1, cutoff=_ALIKE)
        return f"unknown flag: {f'did you mean {nearest[0]}?' if nearest else f'see {self.prog} --help'}"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Declare flags to argparse; their values stay text, for `settings` to read."""
    for flag in FLAGS:
        options: dict[str, Any] = {
            "dest": flag.attribute,
            "action": "append" if flag.repeats else "store",
            "help": argparse.SUPPRESS if flag.hidden else f"{flag.help} [{flag.variable}]".replace("%", "%%"),
            "metavar": flag.metavar or "true|false",
        }
        if flag.switch:
            options |= {"nargs": "?", "const": "true"}
        parser.add_argument(flag.name, **options)


def find_flag(name: str) -> Flag:
    """Return the row of one flag."""
    return next(flag for flag in FLAGS if flag.name == name)
