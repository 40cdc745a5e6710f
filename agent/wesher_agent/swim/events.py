"""What an engine reports, in the order it happened.

Events are facts for the roster, the log and the metrics; nothing has to be done
about them for the engine to go on.
"""

from __future__ import annotations

from dataclasses import dataclass

from wesher_agent.swim.address import Address
from wesher_agent.swim.members import Member
from wesher_agent.swim.source import Way


@dataclass(frozen=True, slots=True)
class MemberJoined:
    """A member became alive that was unknown, dead or had left."""

    member: Member


@dataclass(frozen=True, slots=True)
class MemberUpdated:
    """A living member changed its metadata or its port."""

    member: Member
    previous: Member


@dataclass(frozen=True, slots=True)
class MemberSuspected:
    """``from_node`` got no answer from a member; it may still deny."""

    member: Member
    from_node: str


@dataclass(frozen=True, slots=True)
class ProbeUnanswered:
    """A member did not answer the direct ping in time; others were asked to ping it."""

    member: Member
    helpers: tuple[str, ...]
    """Names of those that were asked."""
    tcp: bool
    """Whether it was also pinged over TCP."""


@dataclass(frozen=True, slots=True)
class ProbeFailed:
    """No ping of a probe was answered, in any way; the local member suspects the member."""

    member: Member
    missing_nacks: int
    """How many helpers did not even say that they got no answer; 1 if none could."""


@dataclass(frozen=True, slots=True)
class MemberAlive:
    """A suspected member denied it with a higher incarnation."""

    member: Member


@dataclass(frozen=True, slots=True)
class MemberFailed:
    """A member is dead: nobody saw it deny in time."""

    member: Member
    from_node: str
    """The member that declared it; the local member if its own suspicion ran out."""
    confirmations: int
    """How many other members had confirmed our suspicion by then."""


@dataclass(frozen=True, slots=True)
class MemberLeft:
    """A member said itself that it goes."""

    member: Member


@dataclass(frozen=True, slots=True)
class LeaveLearned:
    """A member that is known no more, if it ever was, had said itself that it goes; we could not hear it."""

    node: str
    incarnation: int
    """At which it left; it may have come back since."""


@dataclass(frozen=True, slots=True)
class MemberDisplaced:
    """A member of standing 0 was dropped for another one: there are too many of them."""

    member: Member


@dataclass(frozen=True, slots=True)
class MemberForgotten:
    """A dead or left member was dropped; its name is unknown from now on."""

    member: Member


@dataclass(frozen=True, slots=True)
class NameConflict:
    """A name is claimed from another address than its living holder's; the holder keeps it.

    ``member`` may be this node itself: then somebody else uses its name, or others
    still look for it at an address that it had before (`Engine.change_address`).
    """

    member: Member
    claimed: Address
    asked_for: bool = False
    """Whether the claim came in the answer to an exchange that we began: somebody holds it for true now.

    Any other may be an old packet sent again by somebody who has no key.
    """
    meta: bytes = b""
    """What the claim announces."""


@dataclass(frozen=True, slots=True)
class MembersFull:
    """A new name was not admitted, since ``Limits.members`` are known."""

    name: str


@dataclass(frozen=True, slots=True)
class UdpUnreachable:
    """A member answers over TCP only: its UDP port is blocked somewhere."""

    member: Member


@dataclass(frozen=True, slots=True)
class SelfRefuted:
    """Somebody held this node for suspect, dead or different; it denied."""

    incarnation: int
    """The new one."""
    accused_by: str
    """Empty when it was an alive message in our name that said something else."""


@dataclass(frozen=True, slots=True)
class OutdatedAlive:
    """A member that was gone and forgotten is claimed to live by news from before: a replay, or its restart.

    The news is not believed; whoever is at ``claimed`` is asked, and is believed.
    """

    node: str
    incarnation: int
    claimed: Address


@dataclass(frozen=True, slots=True)
class AccusationRefused:
    """A claim about a member with an incarnation too near 2^32 to be denied was ignored.

    When the member is this node, others may believe it: `BegunAnew` follows.
    """

    node: str
    incarnation: int


@dataclass(frozen=True, slots=True)
class BegunAnew:
    """This node was held at the last incarnation, and has returned with another that leaves room for more."""

    incarnation: int


@dataclass(frozen=True, slots=True)
class PushPullDone:
    """A state exchange that this node began came back and was merged."""

    address: Address
    join: bool
    members: int
    """How many the other side knows."""
    seconds: float = 0.0
    """From its begin to its end."""
    user_state: bytes = b""
    """The application's part of the other side's state."""


@dataclass(frozen=True, slots=True)
class PushPullAnswered:
    """A state exchange that another member began was answered and merged."""

    address: Address
    """Where it came from; the port is not the gossip port."""
    join: bool
    members: int
    """How many the other side knows."""
    seconds: float
    """From the connection to the answer."""
    user_state: bytes = b""
    """As of `PushPullDone`."""


@dataclass(frozen=True, slots=True)
class PushPullFailed:
    """A state exchange that this node began came to nothing."""

    address: Address
    join: bool
    error: str
    """One line: what the transport said, or why the other's state was refused."""
    unanswered: bool = False
    """Whether the other side took the connection and closed it in order, without a byte."""


@dataclass(frozen=True, slots=True)
class UserMessageReceived:
    """Bytes for the application, from whoever sits at ``sender``."""

    payload: bytes
    sender: Address
    way: Way = Way.DATAGRAM


@dataclass(frozen=True, slots=True)
class UserMessageFailed:
    """A reliable user message could not be delivered."""

    address: Address
    error: str


@dataclass(frozen=True, slots=True)
class KnockAnswered:
    """A host has answered a request that needs no key; anyone on the way can have written the answer."""

    address: Address
    answer: bytes
    """Empty if it has nothing to give."""


@dataclass(frozen=True, slots=True)
class UnreadableStream:
    """What a peer sent on a stream is encrypted, but not with a key of our ring."""

    remote: Address
    asked_for: bool
    """Whether it is the answer on a stream that we opened."""


@dataclass(frozen=True, slots=True)
class StreamsFull:
    """An accepted stream was ended to make room for another one."""

    holder: str
    """The address, or the IPv6 /64, that held the most streams."""
    held: int
    """How many."""
    holders: int
    """How many addresses or /64 networks held streams."""


@dataclass(frozen=True, slots=True)
class PacketRejected:
    """Bytes from a peer, datagram or stream, were dropped."""

    reason: str
    """Short and from a fixed set, fit for a metric label."""
    sender: Address


@dataclass(frozen=True, slots=True)
class AddressChanged:
    """This node has told the others of its new address (`Engine.change_address`)."""

    member: Member


@dataclass(frozen=True, slots=True)
class FailedElsewhere:
    """Another member has this one as failed, at another address, and refuses its present one for a while."""

    address: Address
    asked_for: bool = False
    """As of `NameConflict`."""


@dataclass(frozen=True, slots=True)
class LeaveDone:
    """The leave has gone out as often as a broadcast does, or there was nobody to tell.

    The engine does nothing more; stop driving it.
    """


Event = (
    MemberJoined
    | MemberUpdated
    | MemberSuspected
    | ProbeUnanswered
    | ProbeFailed
    | MemberAlive
    | MemberFailed
    | MemberLeft
    | LeaveLearned
    | MemberDisplaced
    | MemberForgotten
    | NameConflict
    | MembersFull
    | UdpUnreachable
    | SelfRefuted
    | OutdatedAlive
    | AccusationRefused
    | BegunAnew
    | PushPullDone
    | PushPullAnswered
    | PushPullFailed
    | UserMessageReceived
    | UserMessageFailed
    | KnockAnswered
    | StreamsFull
    | UnreadableStream
    | PacketRejected
    | AddressChanged
    | FailedElsewhere
    | LeaveDone
)
