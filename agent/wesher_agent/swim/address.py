"""A transport address as a value that sockets take as it is."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import NamedTuple

from wesher_common.errors import PeerMisbehaved


class Address(NamedTuple):
    """Where a member's datagram and stream sockets listen, or a packet came from.

    A tuple on purpose: ``sock.sendto(data, address)`` takes it unchanged, for
    IPv4 and IPv6 alike.
    """

    ip: str
    """In its canonical text form, IPv4 when it is an IPv4-mapped IPv6 address."""
    port: int

    @property
    def packed(self) -> bytes:
        """The 4 or 16 bytes memberlist calls ``Addr``."""
        return _pack(self.ip)

    def __str__(self) -> str:
        """Return ``192.0.2.1:7946`` or ``[2001:db8::1]:7946``."""
        return f"[{self.ip}]:{self.port}" if ":" in self.ip else f"{self.ip}:{self.port}"

    @classmethod
    def from_wire(cls, addr: bytes, port: int, default_port: int = 0, *, protocol: int = 2) -> Address:
        """Read a message's address (`net.go`, which masks ports in the same way).

        Args:
            addr: its 4 or 16 bytes.
            port: its port, 0 when the message has none.
            default_port: the port to use for a message without one.
            protocol: the version that the local member speaks; in protocol 1 no message has a port.

        Raises:
            PeerMisbehaved: not 4 or 16 bytes, unspecified, multicast, or no valid port.

        """
        if port == 0 or protocol <= 1:
            port = default_port
        ip = _unpack(bytes(addr))
        if ip is None or not 0 < port <= 0xFFFF:  # noqa: PLR2004 - a port is 16 bits
            raise PeerMisbehaved("bad-address", f"{addr!r}:{port}")
        return cls(ip, port)


@lru_cache(maxsize=4096)
def _pack(ip: str) -> bytes:
    return ip_address(ip).packed


@lru_cache(maxsize=4096)
def _unpack(addr: bytes) -> str | None:
    try:
        ip = ip_address(addr)
    except ValueError:
        return None
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return None if ip.is_unspecified or ip.is_multicast else str(ip)
