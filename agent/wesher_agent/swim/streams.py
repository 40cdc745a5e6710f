"""The engine's side of TCP: what it wants done with connections.

A stream carries one request and at most one answer. The driver owns sockets and
deadlines; this package owns what is said on them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from wesher_agent.swim.address import Address

Purpose = Literal["push-pull", "ping", "user", "knock"]

StreamId = int
"""Chosen by the engine for dialled and accepted streams alike; never reused."""


@dataclass(frozen=True, slots=True)
class OpenStream:
    """Dial ``address``, write ``data``, then feed what arrives to `Engine.stream_received`."""

    id: StreamId
    address: Address
    data: bytes = field(repr=False)
    timeout: float
    """Seconds from now for the whole stream; then close it and say so with `Engine.stream_closed`."""
    purpose: Purpose
    """For logs and metrics; ``user`` has no answer, only an orderly end."""


@dataclass(frozen=True, slots=True)
class WriteStream:
    """Write ``data`` on an open stream."""

    id: StreamId
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class CloseStream:
    """Flush what was written, then close; the engine has forgotten the stream already."""

    id: StreamId


StreamAction = OpenStream | WriteStream | CloseStream
