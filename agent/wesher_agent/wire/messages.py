"""memberlist's messages as values, and their msgpack bodies.

Names are the library's. On the wire a message is a type byte and a msgpack map
keyed by the Go field names (`net.go`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


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


Message = Ping | IndirectPing | AckResp | NackResp | Suspect | Alive | Dead | PushPull | User | ErrResp
