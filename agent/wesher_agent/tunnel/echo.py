"""Echo requests (ICMP, ICMPv6) to one peer, through the tunnel only.

Used by ``wesher ping``, in its own process. What a missing answer means is not decided here.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from contextlib import suppress
from typing import Final, Self

from wesher_common.errors import WesherError
from wesher_common.overlay import IPAddress

_HEADER: Final = struct.Struct("!BBHHH")
"""Type, code, checksum, identifier and sequence number (RFC 792, RFC 4443 4.1)."""
_TYPES: Final = {4: (8, 0), 6: (128, 129)}
"""Echo request and echo reply by IP version."""
_TOKEN_BYTES: Final = 16
_MAX_PACKET: Final = 65535
_IPV4_WORD: Final = 4


def echo_request(version: int, identifier: int, sequence: int, token: bytes) -> bytes:
    """Return the ICMP message; the kernel fills in the checksum of ICMPv6."""
    kind, _ = _TYPES[version]
    without = _HEADER.pack(kind, 0, 0, identifier, sequence) + token
    if version != 4:  # noqa: PLR2004 - an IP version
        return without
    return _HEADER.pack(kind, 0, checksum(without), identifier, sequence) + token


def is_reply(version: int, data: bytes, *, sequence: int, token: bytes, has_ip_header: bool) -> bool:
    """Tell whether a packet answers the request with that sequence number and token.

    The identifier is not compared: for a datagram socket the kernel chooses it.

    Args:
        version: of IP.
        data: as the socket gave it.
        sequence: of the request.
        token: of the request.
        has_ip_header: whether the IP header comes first, as it does from a raw IPv4 socket.

    """
    if has_ip_header and data:
        data = data[_IPV4_WORD * (data[0] & 0x0F) :]
    if len(data) < _HEADER.size:
        return False
    kind, _, _, _, answered = _HEADER.unpack_from(data)
    return (kind, answered, data[_HEADER.size :]) == (_TYPES[version][1], sequence, token)


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071) of a message of an even length."""
    total = sum(int(word) for (word,) in struct.iter_unpack("!H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class Echo:
    """Sends echo requests to one address, from one interface.

    Args:
        target: an overlay address.
        interface: the WireGuard interface. What it cannot send is not sent at all: not unencrypted either.

    Raises:
        WesherError: the kernel permits neither kind of socket.
        OSError: there is no such interface.

    """

    def __init__(self, target: IPAddress, interface: str) -> None:
        self._version = target.version
        self._socket, self._is_raw = _open(target.version)
        self._token = os.urandom(_TOKEN_BYTES)
        self._identifier = os.getpid() & 0xFFFF
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
            self._socket.connect((str(target), 0))
        except OSError:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the socket."""
        self._socket.close()

    def ask(self, sequence: int, *, timeout: float) -> float | None:
        """Send one request; return the seconds until its answer, or None if none came in time.

        Raises:
            OSError: the request could not be sent.

        """
        request = echo_request(self._version, self._identifier, sequence, self._token)
        sent = time.monotonic()
        self._socket.send(request)
        while (left := sent + timeout - time.monotonic()) > 0:
            self._socket.settimeout(left)
            # What the kernel says about an earlier packet is not an answer to this one.
            with suppress(OSError):
                data = self._socket.recv(_MAX_PACKET)
                received = time.monotonic()
                if is_reply(
                    self._version,
                    data,
                    sequence=sequence,
                    token=self._token,
                    has_ip_header=self._is_raw and self._version == 4,  # noqa: PLR2004 - an IP version
                ):
                    return received - sent
        return None


def _open(version: int) -> tuple[socket.socket, bool]:
    """Return an ICMP socket, and whether it is a raw one."""
    family, protocol = (
        (socket.AF_INET, socket.IPPROTO_ICMP) if version == 4 else (socket.AF_INET6, socket.IPPROTO_ICMPV6)  # noqa: PLR2004 - an IP version
    )
    # A raw socket sees all that comes in, so only where the sysctl forbids the other.
    for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW):
        with suppress(PermissionError):
            return socket.socket(family, kind, protocol), kind == socket.SOCK_RAW
    raise WesherError(
        "not allowed to send a ping: run this as root, or set the sysctl net.ipv4.ping_group_range"
    )
