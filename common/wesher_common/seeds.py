"""Addresses to join through, as users write them.

Both ``--join`` and ``spec.seedNodes`` take them: a name, an IP address,
``name:port``, ``1.2.3.4:port`` or ``[v6]:port``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address

from wesher_common.errors import InvalidSpec
from wesher_common.overlay import IPAddress

MAX_PORT = 65535
_FORM = "a host name or IP address of a member, with :port or without, such as 192.0.2.1:7946"
_BRACKETS = "an IPv6 address with a port is written [address]:port, such as [2001:db8::1]:7946"
_HOST_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\Z")
_MAX_HOST = 253
_PORT_DIGITS = 5


@dataclass(frozen=True, slots=True)
class SeedAddress:
    """One place to ask for the mesh's members."""

    host: str
    """A DNS name or the text of an IP address, without brackets."""
    port: int | None = None
    """None means the mesh's gossip port."""

    def __str__(self) -> str:
        """Return the form `parse_seed` reads."""
        if self.port is None:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def address(self) -> IPAddress | None:
        """The host as an IP address, or None when it is a name to resolve."""
        try:
            return ip_address(self.host)
        except ValueError:
            return None


def parse_seed(text: str, *, field: str) -> SeedAddress:
    """Read one seed.

    Args:
        text: as the user wrote it.
        field: where it stands, for the error.

    Raises:
        InvalidSpec: neither one machine's address nor a host name, or a port outside 1 to 65535.

    """
    host, port = text.strip(), None
    if "://" in host:
        raise InvalidSpec(field, f"a seed is not a URL: it must be {_FORM}", value=text)
    if host.startswith("["):
        host, bracket, rest = host[1:].partition("]")
        # Go programs write IPv4 so too (net.SplitHostPort), and Go wesher took it.
        if not bracket or (rest and not rest.startswith(":")) or SeedAddress(host).address is None:
            raise InvalidSpec(field, _BRACKETS, value=text)
        port = _port(rest[1:], field, text) if rest else None
    elif host.count(":") == 1:
        host, _, after = host.partition(":")
        port = _port(after, field, text)
    seed = SeedAddress(host, port)
    if seed.address is None and not _is_host_name(host):
        raise InvalidSpec(
            field, _BRACKETS if _is_ipv6(host.rpartition(":")[0]) else f"must be {_FORM}", value=text
        )
    if seed.address is not None and (seed.address.is_unspecified or seed.address.is_multicast):
        raise InvalidSpec(field, "must be one machine's address", value=text)
    return seed


def _is_ipv6(text: str) -> bool:
    return ":" in text and SeedAddress(text).address is not None


def _is_host_name(host: str) -> bool:
    labels = host.removesuffix(".").split(".")
    # All digits would be a mistyped IPv4 address, which a resolver may read as something else.
    return (
        0 < len(host) <= _MAX_HOST
        and all(_HOST_LABEL.match(label) for label in labels)
        and not labels[-1].isdigit()
    )


def _port(text: str, field: str, value: str) -> int:
    # The length first: Python refuses to read a number of thousands of digits.
    if not text.isascii() or not text.isdigit() or len(text) > _PORT_DIGITS or not 1 <= int(text) <= MAX_PORT:
        raise InvalidSpec(field, f"the port must be a number from 1 to {MAX_PORT}", value=value)
    return int(text)
