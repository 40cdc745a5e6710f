"""memberlist's messages as values, and their msgpack bodies.

Names are the library's. On the wire a message is a type byte and a msgpack map
keyed by the Go field names (`net.go`). What wraps a message is `packet`'s and
`stream`'s; the dialect and the checks of single fields are `fields`'.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from wesher_agent.wire import fields
from wesher_agent.wire.fields import Field, Layout
from wesher_common.errors import PeerMisbehaved


class MessageType(IntEnum):
    """The first byte of a message or wrapper (`net.go`, messageType)."""

    PING = 0
    INDIRECT_PING = 1
    ACK_RESP = 2
    SUSPECT = 3
    ALIVE = 4
    DEAD = 5
    PUSH_PULL = 6
    COMPOUND = 7
    USER = 8
    COMPRESS = 9
    ENCRYPT = 10
    NACK_RESP = 11
    HAS_CRC = 12
    ERR = 13
    HAS_LABEL = 244


class State(IntEnum):
    """A member's state as a push/pull carries it (`state.go`, NodeStateType)."""

    ALIVE = 0
    SUSPECT = 1
    DEAD = 2
    LEFT = 3


@dataclass(frozen=True, slots=True)
class Versions:
    """memberlist's ``Vsn``: what a member speaks."""

    protocol_min: int = 1
    protocol_max: int = 5
    protocol_current: int = 2
    delegate_min: int = 0
    delegate_max: int = 0
    delegate_current: int = 0


@dataclass(frozen=True, slots=True)
class Ping:
    """Asks ``node`` for an `AckResp` with the same number."""

    seq_no: int
    node: str
    source_addr: bytes = b""
    """4 or 16 bytes; where the ack goes when present."""
    source_port: int = 0
    source_node: str = ""


@dataclass(frozen=True, slots=True)
class IndirectPing:
    """Asks a third member to ping ``node`` at ``target`` on the asker's behalf."""

    seq_no: int
    target: bytes
    port: int
    node: str
    nack: bool
    """Whether the asker understands a `NackResp`."""
    source_addr: bytes = b""
    source_port: int = 0
    source_node: str = ""


@dataclass(frozen=True, slots=True)
class AckResp:
    """Answers a ping."""

    seq_no: int
    payload: bytes = b""


@dataclass(frozen=True, slots=True)
class NackResp:
    """Says that an indirect ping's target has not answered the third member either."""

    seq_no: int


@dataclass(frozen=True, slots=True)
class Suspect:
    """``from_node`` got no answer from ``node``."""

    incarnation: int
    node: str
    from_node: str


@dataclass(frozen=True, slots=True)
class Alive:
    """``node`` says, at ``incarnation``, where it is and what it is."""

    incarnation: int
    node: str
    addr: bytes
    """4 or 16 bytes."""
    port: int
    meta: bytes
    vsn: Versions


@dataclass(frozen=True, slots=True)
class Dead:
    """``node`` failed; or left on purpose, when ``from_node`` is itself."""

    incarnation: int
    node: str
    from_node: str


@dataclass(frozen=True, slots=True)
class PushNodeState:
    """One member in a `PushPull`."""

    name: str
    addr: bytes
    port: int
    meta: bytes
    incarnation: int
    state: State
    vsn: Versions


@dataclass(frozen=True, slots=True)
class PushPull:
    """A member's whole view; stream only, answered by the other's."""

    nodes: tuple[PushNodeState, ...]
    join: bool
    user_state: bytes = b""


@dataclass(frozen=True, slots=True)
class User:
    """Bytes for the application above."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class ErrResp:
    """Says why a stream's request was refused; stream only."""

    error: str


@dataclass(frozen=True, slots=True)
class Knock:
    """A request without encryption, of a host that may have no valid key; our own, memberlist has none."""

    token: bytes
    """What it asks for."""


Message = Ping | IndirectPing | AckResp | NackResp | Suspect | Alive | Dead | PushPull | User | ErrResp


def _versions(value: Any, key: bytes) -> Versions:
    """Read a ``Vsn``; none at all is all zeros, which no member speaks."""
    data = fields.octets(value, key)
    if not data:
        return Versions(0, 0, 0, 0, 0, 0)
    if len(data) < _VSN_SIZE:
        raise PeerMisbehaved("bad-versions", key.decode())
    return Versions(*data[:_VSN_SIZE])


def _write_versions(value: Versions) -> bytes:
    return bytes(
        (
            value.protocol_min,
            value.protocol_max,
            value.protocol_current,
            value.delegate_min,
            value.delegate_max,
            value.delegate_current,
        )
    )


def _state(value: Any, key: bytes) -> State:
    number = fields.u32(value, key)
    if number > State.LEFT:
        raise PeerMisbehaved("bad-state", key.decode())
    return State(number)


_VSN_SIZE: Final = 6

_SOURCE: Final = (
    Field(b"SourceAddr", "source_addr", fields.optional_address, omit_empty=True),
    Field(b"SourceNode", "source_node", fields.optional_name, omit_empty=True),
    Field(b"SourcePort", "source_port", fields.u16, omit_empty=True),
)
_ACCUSATION: Final = (
    Field(b"From", "from_node", fields.optional_name),
    Field(b"Incarnation", "incarnation", fields.u32),
    Field(b"Node", "node", fields.name),
)

LAYOUTS: Final[dict[MessageType, Layout]] = {
    MessageType.PING: Layout(
        Ping, (Field(b"Node", "node", fields.optional_name), Field(b"SeqNo", "seq_no", fields.u32), *_SOURCE)
    ),
    MessageType.INDIRECT_PING: Layout(
        IndirectPing,
        (
            Field(b"Nack", "nack", fields.flag),
            Field(b"Node", "node", fields.optional_name),
            Field(b"Port", "port", fields.u16),
            Field(b"SeqNo", "seq_no", fields.u32),
            *_SOURCE,
            Field(b"Target", "target", fields.address),
        ),
    ),
    MessageType.ACK_RESP: Layout(
        AckResp, (Field(b"Payload", "payload", fields.octets), Field(b"SeqNo", "seq_no", fields.u32))
    ),
    MessageType.NACK_RESP: Layout(NackResp, (Field(b"SeqNo", "seq_no", fields.u32),)),
    MessageType.SUSPECT: Layout(Suspect, _ACCUSATION),
    MessageType.DEAD: Layout(Dead, _ACCUSATION),
    MessageType.ALIVE: Layout(
        Alive,
        (
            Field(b"Addr", "addr", fields.address),
            Field(b"Incarnation", "incarnation", fields.u32),
            Field(b"Meta", "meta", fields.meta),
            Field(b"Node", "node", fields.name),
            Field(b"Port", "port", fields.u16),
            Field(b"Vsn", "vsn", _versions, write=_write_versions),
        ),
    ),
    MessageType.ERR: Layout(ErrResp, (Field(b"Error", "error", fields.error_text),)),
}
"""The messages that are one map. `PushPull` is a header and entries, `User` raw bytes."""

PUSH_NODE_STATE: Final = Layout(
    PushNodeState,
    (
        Field(b"Addr", "addr", fields.address),
        Field(b"Incarnation", "incarnation", fields.u32),
        Field(b"Meta", "meta", fields.meta),
        Field(b"Name", "name", fields.name),
        Field(b"Port", "port", fields.u16),
        Field(b"State", "state", _state, write=int),
        Field(b"Vsn", "vsn", _versions, write=_write_versions),
    ),
)

_TYPES: Final = {layout.build: kind for kind, layout in LAYOUTS.items()}


def encode(message: Message) -> bytes:
    """Return a message as it lies in a datagram: type byte and body.

    A `PushPull` comes out as its stream form, the only one it has. A `User` on
    a stream has a header of its own: see `stream.seal_stream`.
    """
    match message:
        case User(payload):
            return bytes((MessageType.USER,)) + payload
        case PushPull(nodes, join, user_state):
            header = fields.pack({b"Join": join, b"Nodes": len(nodes), b"UserStateLen": len(user_state)})
            entries = [PUSH_NODE_STATE.write(node) for node in nodes]
            return b"".join((bytes((MessageType.PUSH_PULL,)), header, *entries, user_state))
        case _:
            kind = _TYPES[type(message)]
            return bytes((kind,)) + LAYOUTS[kind].write(message)


def decode(body: bytes) -> Message:
    """Return the message in one datagram's unwrapped body.

    Raises:
        PeerMisbehaved: ``empty``, ``unknown-type``, ``unexpected-type`` (a stream's
            message, or a wrapper where none may be), ``malformed-body``, or a
            field's own reason.

    """
    if not body:
        raise PeerMisbehaved("empty")
    kind = message_type(body[0])
    if kind is MessageType.USER:
        return User(body[1:])
    layout = LAYOUTS.get(kind)
    if layout is None or kind is MessageType.ERR:
        raise PeerMisbehaved("unexpected-type", kind.name)
    message: Message = layout.read(fields.unpack(body[1:]))
    return message


def message_type(byte: int) -> MessageType:
    """Return the type a first byte stands for.

    Raises:
        PeerMisbehaved: ``unknown-type``.

    """
    try:
        return MessageType(byte)
    except ValueError as error:
        raise PeerMisbehaved("unknown-type", str(byte)) from error
