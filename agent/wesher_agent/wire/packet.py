"""One datagram: label, encryption, checksum, compression, compound, messages, from outside in.

What the messages say is `messages`'; streams, which differ in all but the
innermost layer, are `stream`'s.
"""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from wesher_agent.wire import fields, limits, lzw
from wesher_agent.wire.compress import compress_body, compressed_bytes
from wesher_agent.wire.keyring import OVERHEAD, PADDED, UNPADDED, Keyring, Nonce
from wesher_agent.wire.limits import Limit
from wesher_agent.wire.messages import Message, MessageType, decode
from wesher_common.errors import PeerMisbehaved

UDP_PAYLOAD: Final = 1400
"""Bytes that memberlist puts into one datagram, all wrappers included (UDPBufferSize)."""
COMPOUND_HEADER: Final = 2
"""Bytes of a compound's type and count."""
COMPOUND_ENTRY: Final = 2
"""Bytes of a compound's length of one part."""
COMPOUND_PARTS: Final = 255
CHECKSUM_HEADER: Final = 5
MAX_LABEL: Final = 255

_MAX_PART: Final = (1 << 16) - 1


class Wrapper(StrEnum):
    """What was found round the messages of a packet or stream."""

    LABEL = "label"
    ENCRYPTION_0 = "encryption-0"
    ENCRYPTION_1 = "encryption-1"
    CHECKSUM = "checksum"
    COMPRESSION = "compression"
    COMPOUND = "compound"


ENCRYPTION: Final = {PADDED: Wrapper.ENCRYPTION_0, UNPADDED: Wrapper.ENCRYPTION_1}
"""The wrapper of each encryption version."""


@dataclass(frozen=True, slots=True)
class PacketFormat:
    """How the members of one mesh wrap what they send each other.

    Raises:
        ValueError: a label over 255 bytes, or an encryption version that does not exist.

    """

    keyring: Keyring | None
    """None sends in clear, and then nothing encrypted is understood."""
    label: bytes = b""
    encryption_version: int = UNPADDED
    """0 for protocol-1 peers, else 1; both are understood."""
    compress: bool = True
    """Whether to send compressed what gets smaller by it; it is always understood."""

    def __post_init__(self) -> None:
        if len(self.label) > MAX_LABEL:
            raise ValueError(f"a label is at most {MAX_LABEL} bytes")
        if self.encryption_version not in OVERHEAD:
            raise ValueError(f"encryption version {self.encryption_version} does not exist")


@dataclass(frozen=True, slots=True)
class OpenedPacket:
    """What a datagram held."""

    messages: tuple[Message, ...]
    """In the order they stood, at least one."""
    wrappers: frozenset[Wrapper]
    rejected: tuple[str, ...]
    """A reason for each part that could not be read; the rest counts."""


def label_header(label: bytes) -> bytes:
    """Return what stands before everything else when a label is set (`label.go`)."""
    return bytes((MessageType.HAS_LABEL, len(label))) + label if label else b""


def overhead(fmt: PacketFormat, checksum: bool) -> int:  # noqa: FBT001 - read as "with a checksum or not"
    """Return the most bytes that the format adds to one message or compound."""
    size = len(label_header(fmt.label))
    if fmt.keyring is not None:
        size += OVERHEAD[fmt.encryption_version]
    return size + CHECKSUM_HEADER if checksum else size


def seal(parts: Sequence[bytes], fmt: PacketFormat, *, checksum: bool, nonce: Nonce) -> bytes:
    """Return the datagram that carries encoded messages.

    Args:
        parts: 1 to 255 messages as `messages.encode` returns them; several go as a compound.
        fmt: the mesh's format.
        checksum: whether the receiver's protocol_max is 5 or more.
        nonce: where nonces come from.

    Raises:
        ValueError: no part, more than 255, or one over 65535 bytes beside others.

    """
    body = parts[0] if len(parts) == 1 else _compound(parts)
    if fmt.compress:
        body = compress_body(body) or body
    if checksum:
        body = struct.pack(">BI", MessageType.HAS_CRC, zlib.crc32(body)) + body
    if fmt.keyring is not None:
        body = fmt.keyring.seal(body, fmt.label, version=fmt.encryption_version, nonce=nonce)
    return label_header(fmt.label) + body


def open_packet(data: bytes, fmt: PacketFormat) -> OpenedPacket:
    """Return the messages of one datagram.

    Raises:
        PeerMisbehaved: nothing in it can be read; the reason is the first part's.

    """
    limits.DATAGRAM.check(len(data))
    opening = _Opening()
    body = opening.authenticate(data, fmt)
    opening.unwrap(opening.verify(body), depth=0)
    if not opening.messages:
        raise PeerMisbehaved(opening.rejected[0] if opening.rejected else "empty")
    return OpenedPacket(tuple(opening.messages), frozenset(opening.wrappers), tuple(opening.rejected))


def message_types(data: bytes, fmt: PacketFormat) -> list[str]:
    """Return the types of a datagram's messages for a log, such as ``ping`` and ``alive*3``.

    They are in the order in which they first stand, and none where nothing can be read.
    """
    try:
        messages = open_packet(data, fmt).messages
    except PeerMisbehaved:
        return []
    # memberlist's names: ``ackResp``.
    names = (type(message).__name__ for message in messages)
    counts = Counter(name[0].lower() + name[1:] for name in names)
    return [name if count == 1 else f"{name}*{count}" for name, count in counts.items()]


@dataclass(slots=True)
class _Opening:
    """A datagram half read."""

    messages: list[Message] = field(default_factory=list)
    wrappers: set[Wrapper] = field(default_factory=set)
    rejected: list[str] = field(default_factory=list)
    parts: int = 0
    """How many parts the compounds so far have; they share one limit."""
    unpacked: int = 0
    """Bytes that compressed parts have become so far; they share one limit."""

    def authenticate(self, data: bytes, fmt: PacketFormat) -> bytes:
        label, body = _split_label(data)
        if label != fmt.label:
            raise PeerMisbehaved("wrong-label")
        if label:
            self.wrappers.add(Wrapper.LABEL)
        if fmt.keyring is not None:
            body, version = fmt.keyring.open(body, fmt.label)
            self.wrappers.add(ENCRYPTION[version])
        return body

    def verify(self, body: bytes) -> bytes:
        if body[:1] != bytes((MessageType.HAS_CRC,)):
            return body
        if len(body) < CHECKSUM_HEADER:
            raise PeerMisbehaved("truncated", "checksum")
        if zlib.crc32(body[CHECKSUM_HEADER:]) != int.from_bytes(body[1:CHECKSUM_HEADER], "big"):
            raise PeerMisbehaved("bad-checksum")
        self.wrappers.add(Wrapper.CHECKSUM)
        return body[CHECKSUM_HEADER:]

    def unwrap(self, body: bytes, depth: int) -> None:
        try:
            match body[0] if body else None:
                case MessageType.COMPOUND:
                    limits.NESTING.check(depth + 1)
                    self.split(body, depth + 1)
                case MessageType.COMPRESS:
                    limits.NESTING.check(depth + 1)
                    self.unwrap(self.decompress(body), depth + 1)
                case _:
                    self.messages.append(decode(body))
        except PeerMisbehaved as error:
            self.rejected.append(error.reason)

    def split(self, body: bytes, depth: int) -> None:
        self.wrappers.add(Wrapper.COMPOUND)
        count = body[1] if len(body) >= COMPOUND_HEADER else 0
        place = COMPOUND_HEADER + COMPOUND_ENTRY * count
        if not count or len(body) < place:
            raise PeerMisbehaved("truncated", "compound")
        self.parts += count
        limits.DATAGRAM_PARTS.check(self.parts)
        for size in struct.unpack_from(f">{count}H", body, COMPOUND_HEADER):
            if place + size > len(body):
                # Go loses this part and all behind it, and counts the rest.
                raise PeerMisbehaved("truncated", "compound part")
            self.unwrap(body[place : place + size], depth)
            place += size

    def decompress(self, body: bytes) -> bytes:
        self.wrappers.add(Wrapper.COMPRESSION)
        left = Limit(limits.DATAGRAM.most - self.unpacked, limits.DATAGRAM.unit, limits.DATAGRAM.reason)
        plain = lzw.decompress(compressed_bytes(fields.unpack(body[1:])), left)
        self.unpacked += len(plain)
        return plain


def _compound(parts: Sequence[bytes]) -> bytes:
    if not 1 <= len(parts) <= COMPOUND_PARTS:
        raise ValueError(f"a compound has 1 to {COMPOUND_PARTS} parts, not {len(parts)}")
    if any(len(part) > _MAX_PART for part in parts):
        raise ValueError(f"a compound's part is at most {_MAX_PART} bytes")
    header = struct.pack(f">BB{len(parts)}H", MessageType.COMPOUND, len(parts), *map(len, parts))
    return header + b"".join(parts)


def _split_label(data: bytes) -> tuple[bytes, bytes]:
    if data[:1] != bytes((MessageType.HAS_LABEL,)):
        return b"", data
    size = data[1] if len(data) > 1 else 0
    if not size:
        raise PeerMisbehaved("bad-label", "empty")
    if len(data) < 2 + size:
        raise PeerMisbehaved("truncated", "label")
    return data[2 : 2 + size], data[2 + size :]
