"""What a member reports beside its engine's events, in the order it happened.

Facts for the log, the counters and the status, like `swim.events`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from wesher_agent.mesh.cover import Extent
from wesher_agent.swim.address import Address
from wesher_agent.swim.events import Event as EngineEvent
from wesher_common.certificate import AuthorityKey, Refusal
from wesher_common.keys import WireGuardPublicKey
from wesher_common.mesh_document import IdentityMode
from wesher_common.overlay import IPAddress, IPNetwork
from wesher_common.seeds import SeedAddress


@dataclass(frozen=True, slots=True)
class MemberReturned:
    """A failed member is alive again."""

    node: str


@dataclass(frozen=True, slots=True)
class FailedMemberLeft:
    """A failed member turned out to have left: it is not expected back."""

    node: str


@dataclass(frozen=True, slots=True)
class FailedMemberForgotten:
    """A failed member was away for too long: it is not expected back."""

    node: str


@dataclass(frozen=True, slots=True)
class SeedSkipped:
    """A seed's address must not be dialled."""

    seed: SeedAddress
    address: IPAddress
    reason: str


@dataclass(frozen=True, slots=True)
class SeedNotResolved:
    """A seed's name has no answer."""

    seed: SeedAddress
    error: str
    is_first: bool
    """Whether it had one before, or was never asked for."""


@dataclass(frozen=True, slots=True)
class ProblemFound:
    """A member has no tunnel, or lacks something else it should have."""

    node: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class OverlayAddressGiven:
    """The operator gave this member an overlay address."""

    address: IPAddress


@dataclass(frozen=True, slots=True)
class OverlayAddressGivenUp:
    """Another member keeps this member's overlay address, so this one moved."""

    former: IPAddress
    address: IPAddress


@dataclass(frozen=True, slots=True)
class OverlayNotCovered:
    """``unreachable`` routes do not cover the whole overlay, so packets into it may leave in clear."""

    overlay: IPNetwork
    covered: Extent
    reason: str


@dataclass(frozen=True, slots=True)
class AddressLost:
    """The single address that gossip listens on is missing from this host."""

    address: IPAddress


@dataclass(frozen=True, slots=True)
class NoAddressToAnnounce:
    """The host has no address that others could dial; the former one stays announced."""

    error: str


@dataclass(frozen=True, slots=True)
class RoutesNotAnnounced:
    """The node's routes do not fit into its gossip metadata."""

    error: str


@dataclass(frozen=True, slots=True)
class DialledAtFormerAddress:
    """Other members look for this one at its former address; it announces the move again."""

    former: Address


@dataclass(frozen=True, slots=True)
class ListenFailed:
    """Gossip cannot listen, and tries again."""

    error: str


@dataclass(frozen=True, slots=True)
class ListeningChanged:
    """Gossip listens at other addresses, or on a port that was taken before."""

    addresses: tuple[IPAddress, ...]
    port: int


@dataclass(frozen=True, slots=True)
class KeyRingChanged:
    """Gossip seals and reads with another key ring."""

    primary: str
    """The primary key's id."""
    keys: int


@dataclass(frozen=True, slots=True)
class CertificateReceived:
    """The mesh's authority has certified this machine, or has renewed its certificate."""

    address: IPAddress | None
    """The overlay address that it gives."""
    serial: int


@dataclass(frozen=True, slots=True)
class NewsAskedFor:
    """Seeds are asked for news: no node has answered for a while, or an invited machine is not certified."""

    asked: int
    """How many hosts."""
    is_certified: bool
    """Whether this member has a certificate, so that it only lacks a newer key ring."""


@dataclass(frozen=True, slots=True)
class KeyCopied:
    """Another running machine has this member's WireGuard key: most likely a copy of its disk."""

    other: str
    """The other machine's name, or its address if it has this member's name too."""


@dataclass(frozen=True, slots=True)
class KeyReplaced:
    """This member has another WireGuard key from its next start on, which follows at once."""

    former: WireGuardPublicKey
    key: WireGuardPublicKey


@dataclass(frozen=True, slots=True)
class IdentityChanged:
    """The mesh document says otherwise who gets a tunnel."""

    mode: IdentityMode | None
    """None where it says nothing of identity, as that of an operator without certificates."""
    bound: bool


@dataclass(frozen=True, slots=True)
class CertificateValid:
    """This member's certificate counts."""

    serial: int
    expires: datetime


@dataclass(frozen=True, slots=True)
class CertificateRefused:
    """This member's certificate does not count, by what this member knows."""

    serial: int
    reason: Refusal


@dataclass(frozen=True, slots=True)
class TrafficCarried:
    """Packets of the cluster itself go through the tunnels from now on."""

    networks: int
    """To how many networks of other members."""


@dataclass(frozen=True, slots=True)
class TrafficNotCarried:
    """Packets of the cluster itself no longer go through the tunnels."""


@dataclass(frozen=True, slots=True)
class RestartNeeded:
    """The mesh document changed in what only a restart can apply."""


@dataclass(frozen=True, slots=True)
class StateNotSaved:
    """The state could not be written; the member runs on from memory and tries again."""

    error: str
    is_first: bool
    """Whether the save before it had succeeded."""


@dataclass(frozen=True, slots=True)
class StateSavedAgain:
    """The state was written after one or more failures."""


@dataclass(frozen=True, slots=True)
class StateFileLost:
    """Another program removed the file in which the state was saved; it is written again."""


@dataclass(frozen=True, slots=True)
class StatementTaken:
    """An authority revokes certificates, or says again which are void."""

    authority: AuthorityKey
    number: int
    """Of the statement."""
    names: int
    """How many it names."""
    source: str
    """Where it came from: a member's IP address, the mounted file or an administrator."""


@dataclass(frozen=True, slots=True)
class StatementRejected:
    """A statement in the mounted file does not count."""

    reason: str
    """As of `PacketRejected`."""


MeshEvent = (
    MemberReturned
    | FailedMemberLeft
    | FailedMemberForgotten
    | SeedSkipped
    | SeedNotResolved
    | ProblemFound
    | OverlayAddressGiven
    | OverlayAddressGivenUp
    | OverlayNotCovered
    | AddressLost
    | NoAddressToAnnounce
    | RoutesNotAnnounced
    | DialledAtFormerAddress
    | ListenFailed
    | ListeningChanged
    | KeyRingChanged
    | CertificateReceived
    | NewsAskedFor
    | KeyCopied
    | KeyReplaced
    | IdentityChanged
    | CertificateValid
    | CertificateRefused
    | TrafficCarried
    | TrafficNotCarried
    | RestartNeeded
    | StateNotSaved
    | StateSavedAgain
    | StateFileLost
    | StatementTaken
    | StatementRejected
)
Event = EngineEvent | MeshEvent
"""Everything a member reports."""
