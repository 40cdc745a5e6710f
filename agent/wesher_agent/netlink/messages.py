"""Netlink's framing (netlink(7)): messages and attributes to bytes and back.

Packed by hand because a library that builds an object for every attribute
takes 200 ms for what takes 5 ms here. What the messages mean is left to
`wireguard_messages` and `route_messages`, sockets to `netlink_socket`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from wesher_agent.netlink.errors import MalformedReply

NLMSG_ERROR, NLMSG_DONE = 2, 3

NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP_INTR = 0x1, 0x4, 0x10
NLM_F_DUMP = 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400

NLA_F_NESTED = 0x8000
_NLA_TYPE_MASK = 0x3FFF

AF_INET, AF_INET6 = 2, 10

HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_ERROR = struct.Struct("=i")


@dataclass(frozen=True, slots=True)
class Message:
    """One netlink message as received."""

    kind: int
    flags: int
    sequence: int
    body: memoryview

    @property
    def errno(self) -> int:
        """The error number of an ``NLMSG_ERROR`` or ``NLMSG_DONE``, positive; 0 is success.

        Raises:
            MalformedReply: too short to hold one.

        """
        if len(self.body) < _ERROR.size:
            if self.kind == NLMSG_DONE:
                return 0
            raise MalformedReply("netlink: an error message without an error number")
        number: int = _ERROR.unpack_from(self.body)[0]
        return -number


def pack_message(kind: int, flags: int, body: bytes, *, sequence: int = 0) -> bytes:
    """Return a message with its header, padded to four bytes."""
    header = HEADER.pack(HEADER.size + len(body), kind, flags, sequence, 0)
    return header + body + bytes(-len(body) % 4)


def pack_attribute(kind: int, payload: bytes) -> bytes:
    """Return one attribute, padded to four bytes; a nested one's kind carries ``NLA_F_NESTED``."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(payload), kind) + payload + bytes(-len(payload) % 4)


def parse_messages(data: bytes) -> Iterator[Message]:
    """Yield the messages of one received datagram.

    Raises:
        MalformedReply: a header promises more than there is, or less than itself.

    """
    view = memoryview(data)
    while view:
        if len(view) < HEADER.size:
            raise MalformedReply(f"netlink: {len(view)} bytes are too few for a header")
        length, kind, flags, sequence, _ = HEADER.unpack_from(view)
        if not HEADER.size <= length <= len(view):
            raise MalformedReply(f"netlink: invalid message length {length}: {len(view)} bytes are left")
        yield Message(kind, flags, sequence, view[HEADER.size : length])
        view = view[length + (-length % 4) :]


def parse_attributes(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield ``(kind, payload)`` of each attribute, flags taken off the kind.

    Raises:
        MalformedReply: an attribute promises more than there is, or less than its own header.

    """
    while data:
        if len(data) < _ATTRIBUTE.size:
            raise MalformedReply(f"netlink: {len(data)} bytes are too few for an attribute")
        length, kind = _ATTRIBUTE.unpack_from(data)
        if not _ATTRIBUTE.size <= length <= len(data):
            raise MalformedReply(f"netlink: invalid attribute length {length}: {len(data)} bytes are left")
        yield kind & _NLA_TYPE_MASK, data[_ATTRIBUTE.size : length]
        data = data[length + (-length % 4) :]
