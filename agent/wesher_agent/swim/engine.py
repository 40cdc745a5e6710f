"""One member's SWIM state machine: what comes in, what goes out, and when to wake.

`Engine` only dispatches; the rules live in the modules beside it. It owns no
socket, clock or random source. A driver calls one of its inputs, then picks up
`datagrams_to_send`, `stream_actions` and every `next_event`, and arranges to call
`handle_timer` at `next_timer`, in that order, after every input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from random import Random

from wesher_agent.swim.address import Address
from wesher_agent.swim.events import Event
from wesher_agent.swim.members import LocalNode, Member
from wesher_agent.swim.profile import DEFAULT_LIMITS, Limits, Profile
from wesher_agent.swim.streams import StreamAction, StreamId
from wesher_agent.wire.messages import Alive, Dead, Suspect


class Engine:
    """A member of one gossip cluster, compatible with hashicorp/memberlist.

    Args:
        me: this member as it presents itself.
        profile: memberlist's timing constants.
        packet_format: keys, label, encryption version and compression of all that is sent and read.
        incarnation: the first of our own; higher than any used under this name before.
        rng: for schedules and choices; seeded, it makes a run repeatable.
        nonce: returns that many fresh bytes for AES-GCM; unpredictable in production.
        limits: caps on what others can make us keep.

    Times (``now``) are seconds on any monotonic clock, never going back.

    """

    def __init__(
        self,
        me: LocalNode,
        profile: Profile,
        *,
        packet_format: object,
        incarnation: int,
        rng: Random,
        nonce: Callable[[int], bytes],
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        raise NotImplementedError

    @property
    def members(self) -> Mapping[str, Member]:
        """Every known member by name, this one included, whatever its state; a live view."""
        raise NotImplementedError

    @property
    def me(self) -> Member:
        """This member."""
        raise NotImplementedError

    @property
    def health_score(self) -> int:
        """Lifeguard's local health: 0 is healthy, below ``awareness_max_multiplier``."""
        raise NotImplementedError

    def start(self, *, now: float) -> None:
        """Become alive and begin probing, gossiping and exchanging state."""
        raise NotImplementedError

    def next_timer(self) -> float | None:
        """When `handle_timer` wants to be called; ``None`` before start and after leaving."""
        raise NotImplementedError

    def handle_timer(self, *, now: float) -> None:
        """Do everything that was due at or before ``now``."""
        raise NotImplementedError

    def next_event(self) -> Event | None:
        """Take the oldest event that was not taken yet."""
        raise NotImplementedError

    def receive_datagram(self, data: bytes, sender: Address, *, now: float) -> None:
        """Take one UDP payload as it came. Never raises for what a peer sent."""
        raise NotImplementedError

    def datagrams_to_send(self) -> list[tuple[bytes, Address]]:
        """Take the UDP payloads to send now."""
        raise NotImplementedError

    def stream_actions(self) -> list[StreamAction]:
        """Take what is to be done with TCP connections now, in order."""
        raise NotImplementedError

    def stream_accepted(self, remote: Address, *, now: float) -> StreamId | None:
        """Name a connection that somebody opened; ``None`` means close it at once (too many).

        The driver closes it, and says so, after ``Limits.accepted_stream_timeout``.
        """
        raise NotImplementedError

    def stream_received(self, stream: StreamId, data: bytes, *, now: float) -> None:
        """Take bytes that arrived on a stream. Never raises for what a peer sent."""
        raise NotImplementedError

    def stream_closed(self, stream: StreamId, *, now: float, error: str = "closed by peer") -> None:
        """Say that a stream could not be opened, timed out or ended; unknown ids are ignored.

        Not called for a stream the engine itself closed with `CloseStream`.
        """
        raise NotImplementedError

    def join(self, addresses: Iterable[Address], *, now: float) -> None:
        """Exchange state with each address as a joiner; each ends in PushPullDone or PushPullFailed."""
        raise NotImplementedError

    def push_pull_with(self, address: Address, *, now: float, join: bool = True) -> None:
        """Exchange state with one address, at any time, whether a member is known there or not."""
        raise NotImplementedError

    def leave(self, *, now: float, timeout: float = 10.0) -> None:
        """Tell the others that this member goes; ends in LeaveDone within ``timeout`` seconds."""
        raise NotImplementedError

    def update_meta(self, meta: bytes, *, now: float) -> None:
        """Announce new metadata for this member.

        Raises:
            ValueError: longer than 512 bytes.

        """
        raise NotImplementedError

    def change_address(self, address: Address, *, now: float) -> None:
        """Move this member: leave from the old address, then come back from the new one.

        Ends in AddressChanged. memberlist accepts a new address only for a name that has left.
        """
        raise NotImplementedError

    def set_packet_format(self, packet_format: object) -> None:
        """Seal and read with other keys, label or versions from now on."""
        raise NotImplementedError

    def send_user_message(self, address: Address, payload: bytes, *, now: float, reliable: bool) -> None:
        """Send bytes to the application at ``address``.

        Args:
            address: where to; best a known member's.
            payload: the bytes.
            now: the time.
            reliable: over a stream (may end in UserMessageFailed), else as one datagram.

        Raises:
            ValueError: too long for a datagram (`Limits.user_message`).

        """
        raise NotImplementedError

    def inject(self, claim: Alive | Suspect | Dead, *, now: float) -> None:
        """Judge a claim about a member as if a peer had just gossiped it."""
        raise NotImplementedError
