"""One request or answer on a TCP stream: label, encryption, compression, message.

Unlike datagrams, streams have no checksum and no compound, a frame length where
they are encrypted, and none where they are not; so reading is incremental. A
connection carries one request and, back, at most one answer; the answer has no
label header, though its encryption authenticates the label all the same.
"""

from __future__ import annotations

import struct
from collections.abc import Generator
from typing import Any, Final

import msgpack

from wesher_agent.wire import fields, limits, lzw
from wesher_agent.wire.compress import compress_body, compressed_bytes
from wesher_agent.wire.fields import Field, Layout
from wesher_agent.wire.keyring import Nonce, sealed_size
from wesher_agent.wire.limits import Limit
from wesher_agent.wire.messages import (
    LAYOUTS,
    PUSH_NODE_STATE,
    Knock,
    Message,
    MessageType,
    PushNodeState,
    PushPull,
    User,
    encode,
    message_type,
)
from wesher_agent.wire.packet import ENCRYPTION, MAX_LABEL, PacketFormat, Wrapper, label_header
from wesher_common.errors import PeerMisbehaved

PUSH_PULL_HEADER: Final = Layout(
    dict,
    (
        Field(b"Join", "join", fields.flag),
        Field(b"Nodes", "nodes", fields.u32),
        Field(b"UserStateLen", "user_state", fields.u32),
    ),
)
USER_HEADER: Final = Layout(dict, (Field(b"UserMsgLen", "size", fields.u32),))

KNOCK: Final = 0x57
"""The first byte of a `Knock`; memberlist has no such type."""
KNOCK_VERSION: Final = 1
TOKEN_BYTES: Final = 16
_FRAME_HEADER: Final = 5
"""Bytes of an encrypted frame's type and length."""
_HEADERS: Final = 2 + MAX_LABEL + _FRAME_HEADER
"""The most bytes before what a reader's limit counts."""
_NODES_A_SLICE: Final = 256
_STREAM_TYPES: Final = frozenset({MessageType.PING, MessageType.ACK_RESP, MessageType.ERR})

_Hungry = bool
_Reading = Generator[_Hungry, None, Any]
"""Yields True for want of bytes, False only to let others run."""


def seal_stream(message: Message, fmt: PacketFormat, *, nonce: Nonce, answer: bool = False) -> bytes:
    """Return the bytes that carry one message over a stream.

    Args:
        message: what a stream can carry: `PushPull`, `User`, `Ping`, `AckResp`, `ErrResp`.
        fmt: the mesh's format.
        nonce: where nonces come from.
        answer: whether it goes back on a connection the other side opened, and so
            without a label header.

    """
    if isinstance(message, User):
        header = fields.pack({b"UserMsgLen": len(message.payload)})
        body = bytes((MessageType.USER,)) + header + message.payload
    else:
        body = encode(message)
    if fmt.compress:
        body = compress_body(body) or body
    if fmt.keyring is not None:
        size = sealed_size(len(body), fmt.encryption_version)
        header = struct.pack(">BI", MessageType.ENCRYPT, size)
        sealed = fmt.keyring.seal(body, header + fmt.label, version=fmt.encryption_version, nonce=nonce)
        body = header + sealed
    return body if answer else label_header(fmt.label) + body


def knock(token: bytes) -> bytes:
    """Return the bytes of a `Knock`, which has neither label nor encryption."""
    return bytes((KNOCK, KNOCK_VERSION)) + token


class StreamReader:
    """Reads the one message that a peer sends on a connection, as its bytes arrive.

    Give it bytes with `feed`, then ask for the `message`. At the end of the
    stream a reader without a message was cut off: that is the caller's to say.

    Args:
        fmt: the mesh's format.
        limit: bytes taken before anything is authenticated; labels and frame
            headers come on top.
        answer: whether this is the answer on a connection we opened.

    """

    def __init__(self, fmt: PacketFormat, *, limit: int = limits.FRAME.most, answer: bool = False) -> None:
        self._fmt = fmt
        self._limit = Limit(limit, limits.FRAME.unit, limits.FRAME.reason)
        self._answer = answer
        self._source = self._unpacker(limit + _HEADERS)
        self._whole = False
        self.received = 0
        """Bytes taken so far, all of them kept until the message is whole."""
        self._reading: _Reading = self._read()
        self._message: Message | Knock | None = None
        self._error: PeerMisbehaved | None = None
        self.is_authenticated = fmt.keyring is None
        """Whether the sender has shown that it holds the key; a mesh in clear asks for none."""
        self.hungry = True
        """Whether `step` can do nothing more before it is fed."""
        self.wrappers: set[Wrapper] = set()
        """What has been found round the message so far."""
        self.rejected: list[str] = []
        """A reason for each entry of a push/pull that was left out; the rest counts."""

    def feed(self, data: bytes) -> None:
        """Take bytes off the connection; those behind the message are dropped.

        Raises:
            PeerMisbehaved: ``frame-too-large``.

        """
        if self._message is not None or self._error is not None or self._whole:
            return
        self.received += len(data)
        if self.received > self._limit.most + _HEADERS:
            self._fail(PeerMisbehaved(self._limit.reason, f"over {self._limit.most} bytes"))
        self._source.feed(data)
        self.hungry = False

    def message(self) -> Message | Knock | None:
        """Return the message, or None while more bytes are needed.

        Raises:
            PeerMisbehaved: the bytes so far can become none, now and at every later call.

        """
        while (message := self.step()) is None and not self.hungry:
            pass
        return message

    def step(self) -> Message | Knock | None:
        """Do what `message` does, but for a few milliseconds at most.

        While it returns None and the reader is not `hungry`, call it again.

        Raises:
            PeerMisbehaved: as `message`.

        """
        if self._error is not None:
            raise self._error
        if self._message is None:
            try:
                self.hungry = next(self._reading)
            except StopIteration as done:
                self._message = done.value
                self.hungry = False
            except PeerMisbehaved as error:
                self._fail(error)
        return self._message

    def close(self) -> None:
        """Let go of what was taken, where no more will come.

        The reader and its unfinished reading hold each other, and Python, which counts objects and
        not their bytes, would leave megabytes of them lying about for long.
        """
        self._reading.close()
        self._source = self._unpacker(1)

    def _fail(self, error: PeerMisbehaved) -> None:
        self._error = error
        self.close()
        raise error

    def _read(self) -> _Reading:
        kind = (yield from self._take(1))[0]
        if not self._answer:
            if kind == KNOCK:
                return (yield from self._knock())
            label = b""
            if kind == MessageType.HAS_LABEL:
                size = (yield from self._take(1))[0]
                if not size:
                    raise PeerMisbehaved("bad-label", "empty")
                label = yield from self._take(size)
                self.wrappers.add(Wrapper.LABEL)
                kind = (yield from self._take(1))[0]
            if label != self._fmt.label:
                raise PeerMisbehaved("wrong-label")
        if self._fmt.keyring is not None:
            kind = yield from self._decrypt(kind)
        if kind == MessageType.COMPRESS:
            kind = yield from self._decompress()
        return (yield from self._body(message_type(kind)))

    def _knock(self) -> _Reading:
        version = (yield from self._take(1))[0]
        if version != KNOCK_VERSION:
            raise PeerMisbehaved("knock-version", str(version))
        return Knock((yield from self._take(TOKEN_BYTES)))

    def _decrypt(self, kind: int) -> _Reading:
        if kind != MessageType.ENCRYPT or self._fmt.keyring is None:
            raise PeerMisbehaved("not-encrypted")
        length = yield from self._take(_FRAME_HEADER - 1)
        size = int.from_bytes(length, "big")
        self._limit.check(size)
        sealed = yield from self._take(size)
        associated = bytes((MessageType.ENCRYPT,)) + length + self._fmt.label
        plain, version = self._fmt.keyring.open(sealed, associated)
        self.wrappers.add(ENCRYPTION[version])
        self.is_authenticated = True
        return self._continue_in(plain)

    def _decompress(self) -> _Reading:
        compressed = compressed_bytes((yield from self._map()))
        self.wrappers.add(Wrapper.COMPRESSION)
        slices = lzw.decompress_slices(compressed, limits.DECOMPRESSED)
        while True:
            try:
                next(slices)
            except StopIteration as done:
                return self._continue_in(done.value)
            yield False

    def _body(self, kind: MessageType) -> _Reading:
        if kind in _STREAM_TYPES:
            return LAYOUTS[kind].read((yield from self._map()))
        if kind is MessageType.PUSH_PULL:
            return (yield from self._push_pull())
        if kind is MessageType.USER:
            size = USER_HEADER.read((yield from self._map()))["size"]
            limits.USER_MESSAGE.check(size)
            return User((yield from self._take(size)))
        raise PeerMisbehaved("unexpected-type", kind.name)

    def _push_pull(self) -> _Reading:
        header = PUSH_PULL_HEADER.read((yield from self._map()))
        limits.NODES.check(header["nodes"])
        limits.USER_STATE.check(header["user_state"])
        nodes: list[PushNodeState] = []
        for number in range(header["nodes"]):
            entry = yield from self._map()
            try:
                nodes.append(PUSH_NODE_STATE.read(entry))
            except PeerMisbehaved as error:
                # One member that others put up with must not keep us from all of them.
                self.rejected.append(error.reason)
            if number % _NODES_A_SLICE == _NODES_A_SLICE - 1:
                yield False
        user_state = yield from self._take(header["user_state"])
        return PushPull(tuple(nodes), header["join"], user_state)

    def _take(self, size: int) -> _Reading:
        """Read so many bytes."""
        # Pieces, since one that grows leaves holes of every size behind it.
        pieces = [self._source.read_bytes(size)]
        missing = size - len(pieces[0])
        while missing:
            yield self._starve()
            pieces.append(self._source.read_bytes(missing))
            missing -= len(pieces[-1])
        return b"".join(pieces)

    def _map(self) -> _Reading:
        """Read one msgpack map."""
        while True:
            try:
                return fields.as_map(self._source.unpack())
            except msgpack.OutOfData:
                pass
            except fields.MALFORMED as error:
                raise PeerMisbehaved("malformed-body", type(error).__name__) from error
            yield self._starve()

    def _starve(self) -> _Hungry:
        """Ask for bytes, unless all there can be are here already."""
        if self._whole:
            raise PeerMisbehaved("truncated")
        return True

    def _continue_in(self, plain: bytes) -> int:
        """Go on reading in what a wrapper held; return its type byte."""
        if not plain:
            raise PeerMisbehaved("empty")
        self._source = self._unpacker(len(plain))
        self._source.feed(plain[1:])
        self._whole = True
        return plain[0]

    @staticmethod
    def _unpacker(most: int) -> msgpack.Unpacker:
        # A small first buffer: by default each connection would take a megabyte.
        return msgpack.Unpacker(max_buffer_size=most, read_size=min(most, 4096), **fields.UNPACK_OPTIONS)
