"""What the driver drives: the verbs that `swim.engine.Engine` and `mesh.member.MeshMember` share."""

from __future__ import annotations

from typing import Protocol

from wesher_agent.mesh.events import Event
from wesher_agent.swim.address import Address
from wesher_agent.swim.streams import StreamAction, StreamId


class Core(Protocol):
    """A state machine without I/O; `now` is the driver's clock, in seconds."""

    def receive_datagram(self, data: bytes, sender: Address, *, now: float) -> None:
        """Take one UDP payload."""

    def message_types(self, data: bytes) -> list[str]:
        """Return the types of the messages in a UDP payload, for the log: this opens it once more."""

    def stream_accepted(self, remote: Address, *, now: float) -> StreamId:
        """Name a connection that was accepted."""

    def stream_received(self, stream: StreamId, data: bytes, *, now: float) -> None:
        """Take bytes that arrived on a stream."""

    def stream_closed(self, stream: StreamId, *, now: float, error: str | None = None) -> None:
        """Take note that a stream has ended; no error means in order."""

    def handle_timer(self, *, now: float) -> None:
        """Do what was due at or before ``now``."""

    def next_timer(self) -> float | None:
        """When `handle_timer` wants to be called, possibly a time past."""

    def datagrams_to_send(self) -> list[tuple[bytes, Address]]:
        """Take the UDP payloads to send now."""

    def stream_actions(self) -> list[StreamAction]:
        """Take what is to be done with TCP connections now, in order."""

    def next_event(self) -> Event | None:
        """Take the oldest event that was not taken yet."""
