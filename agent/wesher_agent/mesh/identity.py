"""Which members are proven to be who they say they are.

Holds the authorities that the mesh trusts and judges what members announce against them.
What follows from a verdict is decided elsewhere: `roster` keeps the best proven claim of a
name, `desired` gives peers to those that may have one, and the engine asks for `standing`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from ipaddress import ip_address
from typing import Final

from wesher_agent.mesh.nodemeta import NodeMeta
from wesher_agent.mesh.signature_budget import SignatureBudget
from wesher_agent.swim.address import Address
from wesher_agent.swim.profile import DEFAULT_LIMITS
from wesher_agent.swim.source import Source
from wesher_common.certificate import AuthorityKey, Refusal, Trust, refusal
from wesher_common.errors import PeerMisbehaved
from wesher_common.keys import WireGuardPublicKey
from wesher_common.mesh_document import IdentitySettings
from wesher_common.overlay import IPAddress

_MOST_SIGNED: Final = DEFAULT_LIMITS.members
MOST_UNCERTIFIED_BOUND = 64
"""Members without a certificate that are remembered where they get no tunnel."""


class Rank(IntEnum):
    """Whose certificate a member has; the higher wins a name, a key or an address."""

    NONE = 0
    TRUSTED = 1
    """Of the authority of another cluster."""
    OWN = 2
    """Of the mesh's own authority."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a member's certificate is worth."""

    rank: Rank = Rank.NONE
    serial: int = 0
    """Of the certificate; of two claims of one name with equal rank the higher wins."""
    refusal: Refusal | None = Refusal.UNCERTIFIED
    """Why there is no rank; beside a rank `Refusal.EXPIRED`, for one that was valid when it came."""

    @property
    def is_certified(self) -> bool:
        """Whether the member is proven to be who it says it is."""
        return self.rank > Rank.NONE

    @property
    def weight(self) -> tuple[Rank, int]:
        """What two claims are compared by."""
        return self.rank, self.serial


NOT_CERTIFIED: Final = Verdict()


@dataclass(frozen=True, slots=True)
class SavedTrust:
    """What is kept of an authority for the next start."""

    key: AuthorityKey
    newest: int
    """As `Trust.newest`."""


class Identity:
    """The trust of one member.

    Args:
        settings: the mesh's; None where the operator, or no operator, sets any.
        saved: what an earlier run knew of its authorities.
        now: the time.
        wall: Unix time in seconds; it may be wrong.

    """

    def __init__(
        self, settings: IdentitySettings | None, saved: Iterable[SavedTrust] = (), *, now: float, wall: float
    ) -> None:
        self._newest = {entry.key: entry.newest for entry in saved}
        self._offset = wall - now
        self._settings = settings
        self._own: frozenset[bytes] = frozenset()
        self._trusted: Mapping[bytes, Trust] = {}
        self._endpoints: Mapping[WireGuardPublicKey, IPAddress] = {}
        self._budget = SignatureBudget()
        self._signed: dict[tuple[str, bytes], None] = {}
        """Names and metadata whose signature was checked and is good, the oldest first."""
        self.configure(settings)

    @property
    def is_bound(self) -> bool:
        """Whether only certified members get a tunnel."""
        return self._settings is not None and self._settings.mode == "Verified" and self._settings.bound

    @property
    def is_compact(self) -> bool:
        """Whether metadata is announced in compact form."""
        return self._settings is not None and self._settings.form == "Compact"

    def configure(self, settings: IdentitySettings | None) -> bool:
        """Take the mesh's settings; tell whether verdicts may change by them."""
        before = self._trusted, self.is_bound
        self._settings = settings
        self._own = frozenset(key.id for key in settings.authorities) if settings is not None else frozenset()
        self._trusted = {} if settings is None else {trust.key.id: trust for trust in self._trust(settings)}
        self._signed.clear()
        return before != (self._trusted, self.is_bound)

    def wall_clock(self, wall: float, *, now: float) -> None:
        """Take the wall clock, which may have been set."""
        self._offset = wall - now

    def tunnels_end(self, endpoints: Mapping[WireGuardPublicKey, IPAddress]) -> None:
        """Take where WireGuard has proven peers to be, by a fresh handshake."""
        self._endpoints = endpoints

    def verdict(self, name: str, meta: NodeMeta | None, *, now: float) -> Verdict:
        """Judge what a member announces."""
        subject = meta.subject(name) if meta is not None else None
        if meta is None or subject is None or meta.certificate is None:
            return Verdict()
        certificate = meta.certificate
        clock = int((now + self._offset) * 1000)
        refused = refusal(certificate, subject, self._trusted, clock=clock)
        if refused is not None:
            return Verdict(refusal=refused)
        self._note_signed(certificate.authority, certificate.serial)
        rank = Rank.OWN if certificate.authority in self._own else Rank.TRUSTED
        return Verdict(rank, certificate.serial, None)

    def judged_again(self, former: Verdict, name: str, meta: NodeMeta | None, *, now: float) -> Verdict:
        """Judge a member again; a certificate that counted and has expired since keeps its rank."""
        verdict = self.verdict(name, meta, now=now)
        if former.is_certified and verdict.refusal is Refusal.EXPIRED:
            return replace(former, refusal=Refusal.EXPIRED)
        return verdict

    def vet(self, name: str, raw_meta: bytes, source: Source, now: float) -> None:
        """Drop an alive with a false signature, and one whose signature there is no time to check.

        A member with a certificate that does not fit what it announces leaves it out, so a false
        signature is forged. It is not stored, so that this member does not spread it.

        Raises:
            PeerMisbehaved: its signature is false, or too many others were.

        """
        claim = name, raw_meta
        if not self._trusted or claim in self._signed:
            return
        try:
            meta = NodeMeta.decode(raw_meta)
        except PeerMisbehaved:
            return
        if meta.certificate is None or meta.certificate.authority not in self._trusted:
            return
        if not self._budget.allows(source, now=now):
            raise PeerMisbehaved("certificate-limit")
        refused = self.verdict(name, meta, now=now).refusal
        if refused is Refusal.BAD_SIGNATURE:
            self._budget.failed(source)
            raise PeerMisbehaved("certificate-signature")
        if refused not in {None, Refusal.NOT_YET_VALID, Refusal.EXPIRED}:
            # Refused before its signature was checked.
            return
        if len(self._signed) >= _MOST_SIGNED:
            del self._signed[next(iter(self._signed))]
        self._signed[claim] = None

    def standing(self, name: str, raw_meta: bytes, address: Address, now: float) -> int:
        """Return how well an alive is proven: 0 not, 1 certified, 2 certified and its tunnel ends there."""
        if not self._trusted:
            return 0
        try:
            meta = NodeMeta.decode(raw_meta)
        except PeerMisbehaved:
            return 0
        if not self.verdict(name, meta, now=now).is_certified or meta.public_key is None:
            return 0
        return 2 if self._endpoints.get(meta.public_key) == ip_address(address.ip) else 1

    def saved(self) -> tuple[SavedTrust, ...]:
        """Return what the next start needs."""
        return tuple(SavedTrust(key, newest) for key, newest in self._newest.items())

    def _note_signed(self, authority: bytes, moment: int) -> None:
        if moment <= self._trusted[authority].newest:
            return
        trust = self._trusted[authority].with_signed(moment)
        self._newest[trust.key] = trust.newest
        self._trusted = {**self._trusted, authority: trust}

    def _trust(self, settings: IdentitySettings) -> Iterable[Trust]:
        for key in settings.authorities:
            yield Trust(key=key, newest=self._newest.get(key, 0))
        for other in settings.trusted:
            yield Trust(
                key=other.key,
                newest=self._newest.get(other.key, 0),
                suffix=other.cluster_name,
                cidrs=other.cidrs,
            )
