"""Loopback addresses that tests running side by side do not share.

All of 127.0.0.0/8 is the host's own on Linux, so each test can have as many
hosts as it likes, every one with the port it is used to.
"""

from __future__ import annotations

import errno
import random
import socket

_GOSSIP_PORT = 7946


def loopback_addresses(count: int) -> list[str]:
    """Return that many addresses of 127.0.0.0/8, all in one /24 that nobody gossips in now."""
    dice = random.SystemRandom()
    while True:
        network = f"127.{dice.randrange(1, 255)}.{dice.randrange(256)}"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind((f"{network}.1", _GOSSIP_PORT))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
        return [f"{network}.{host}" for host in range(1, count + 1)]
