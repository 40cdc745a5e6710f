"""Loopback addresses and ports that tests running side by side do not share.

All of 127.0.0.0/8 is the host's own on Linux, so each test can have as many
hosts as it likes, every one with the port it is used to. Where a test must make do
with one address, as in IPv6, it takes ports that nobody is given unasked.
"""

from __future__ import annotations

import errno
import random
import socket
from contextlib import ExitStack

_GOSSIP_PORT = 7946
_ASKED_FOR = range(10_000, 32_768)
"""Ports below those that Linux gives to whoever names none (``ip_local_port_range``)."""


def loopback_addresses(count: int) -> list[str]:
    """Return that many addresses of 127.0.0.0/8, all in one /24 that nobody gossips in now."""
    dice = random.SystemRandom()
    while True:
        network = f"127.{dice.randrange(1, 255)}.{dice.randrange(256)}"
        if _is_free(f"{network}.1", _GOSSIP_PORT):
            return [f"{network}.{host}" for host in range(1, count + 1)]


def free_port(ip: str) -> int:
    """Return a port that nobody holds at an address now, for UDP and for TCP."""
    while not _is_free(ip, port := random.SystemRandom().choice(_ASKED_FOR)):
        pass
    return port


def _is_free(ip: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    with ExitStack() as held:
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            probe = held.enter_context(socket.socket(family, kind))
            # As whoever listens there does: connections that are over do not count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, kind == socket.SOCK_STREAM)
            try:
                probe.bind((ip, port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                return False
    return True
