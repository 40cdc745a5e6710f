"""Opens the gossip port, and says who has it when it is taken."""

from __future__ import annotations

import errno
import socket
from ipaddress import IPv6Address
from typing import NamedTuple

from wesher_agent.netlink.port_holder import find_holder
from wesher_common.errors import InvalidSpec
from wesher_common.overlay import IPAddress

RECEIVE_BUFFER = 2 << 20
"""Bytes; memberlist's ``udpRecvBufSize``: a burst waits here while the loop is busy."""
BACKLOG = 64
_SO_RCVBUFFORCE = 33  # asm-generic/socket.h; Python has no name for it


class GossipPortTaken(InvalidSpec):
    """Another program listens on the gossip port; it may end."""


class AddressUnavailable(InvalidSpec):
    """The host does not have the address, or not yet."""


class GossipSockets(NamedTuple):
    """The two sockets of one address, bound and not blocking."""

    datagram: socket.socket
    listener: socket.socket

    def close(self) -> None:
        """Let go of the port."""
        self.datagram.close()
        self.listener.close()


def open_sockets(address: IPAddress, port: int, *, mark: int = 0) -> GossipSockets | None:
    """Bind UDP and TCP on one address.

    Args:
        address: one of this host's, or an unspecified one.
        port: the gossip port.
        mark: as of `mark_packets`.

    Returns:
        None when the address is unspecified and this host has no such family.

    Raises:
        GossipPortTaken: names the program, as far as we may see it.
        AddressUnavailable: the address is not this host's now.
        InvalidSpec: we may not listen there.

    """
    family = socket.AF_INET6 if isinstance(address, IPv6Address) else socket.AF_INET
    opened: list[socket.socket] = []
    try:
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            sock = socket.socket(family, kind)
            opened.append(sock)
            sock.setblocking(False)  # noqa: FBT003 - the library's signature
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if kind == socket.SOCK_STREAM:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            else:
                _enlarge(sock)
            mark_packets(sock, mark)
            sock.bind((str(address), port))
        opened[1].listen(BACKLOG)
    except OSError as error:
        for sock in opened:
            sock.close()
        if address.is_unspecified and error.errno in {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}:
            return None
        protocol = "TCP" if len(opened) > 1 else "UDP"
        raise _cannot_bind(error, protocol, address, port) from error
    return GossipSockets(*opened)


def open_outgoing(ip: str, *, mark: int = 0) -> socket.socket:
    """Return a TCP socket to connect to an IP address with.

    Raises:
        OSError: as of the kernel.

    """
    sock = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)  # noqa: FBT003 - the library's signature
        mark_packets(sock, mark)
    except OSError:
        sock.close()
        raise
    return sock


def mark_packets(sock: socket.socket, mark: int) -> None:
    """Give a socket's packets a mark, which its accepted connections inherit; 0 for none.

    Routing rules tell gossip's own packets by it, so that none of them enters a tunnel.

    Raises:
        NotAllowedToMark: the process may not.

    """
    if not mark:
        return
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
    except PermissionError as error:
        raise NotAllowedToMark(error.errno, error.strerror) from error


class NotAllowedToMark(OSError):  # noqa: N818 - reads as the fact it states
    """The process lacks the right to mark packets."""


def _enlarge(sock: socket.socket) -> None:
    # net.core.rmem_max leaves room for a few hundred packets on most hosts, which a flood sends while
    # one is read. Who may make the device may also pass that limit.
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)


def _cannot_bind(error: OSError, protocol: str, address: IPAddress, port: int) -> InvalidSpec:
    if isinstance(error, NotAllowedToMark):
        return InvalidSpec(
            "CAP_NET_ADMIN",
            "is missing, so the agent cannot mark its packets (SO_MARK), by which they stay out of the "
            "tunnels: grant the container the capability",
        )
    match error.errno:
        case errno.EADDRINUSE:
            holder = find_holder(protocol, port) or "another program"
            return GossipPortTaken(
                "--cluster-port",
                f"{protocol} port {port} is taken by {holder}: set --cluster-port, or spec.gossip.port "
                "of the mesh, to a port that is free on all members",
                value=port,
            )
        case errno.EADDRNOTAVAIL:
            return AddressUnavailable("--bind-addr", "is not an address of this host", value=address)
        case errno.EAFNOSUPPORT:
            family = "IPv6" if isinstance(address, IPv6Address) else "IPv4"
            return InvalidSpec("--bind-addr", f"cannot be used: this kernel has no {family}", value=address)
        case errno.EACCES:
            return InvalidSpec(
                "--cluster-port",
                f"not allowed to listen on {protocol} port {port}: run as root or choose another port",
                value=port,
            )
    return InvalidSpec(
        "--bind-addr", f"cannot listen on {protocol} port {port}: {error.strerror}", value=address
    )
