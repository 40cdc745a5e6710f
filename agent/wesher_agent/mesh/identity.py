"""Which members are proven to be who they say they are.

Holds the authorities that the mesh trusts and judges what members announce against them.
What follows from a verdict is decided elsewhere: `roster` keeps the best proven claim of a
name, `desired` gives peers to those that may have one, and the engine asks for `standing`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from ipaddress import ip_address
from types import MappingProxyType
from typing import Final

from wesher_agent.mesh.nodemeta import NodeMeta
from wesher_agent.mesh.signature_budget import SignatureBudget
from wesher_agent.swim.address import Address
from wesher_agent.swim.profile import DEFAULT_LIMITS
from wesher_agent.swim.source import Source
from wesher_common.certificate import (
    MAX_HOURS,
    MAX_SERIAL,
    SKEW_MS,
    AuthorityKey,
    Refusal,
    Trust,
    refusal,
)
from wesher_common.errors import PeerMisbehaved
from wesher_common.keys import WireGuardPublicKey
from wesher_common.mesh_document import IdentitySettings
from wesher_common.news import MAX_REVOKED, Statement
from wesher_common.overlay import IPAddress

_MOST_SIGNED: Final = DEFAULT_LIMITS.members
MOST_UNCERTIFIED_BOUND = 64
"""Members without a certificate that are remembered where they get no tunnel."""
LONGEST_MS = MAX_HOURS * 3_600_000 + SKEW_MS
"""After so long no certificate counts any more, so that its revocation need not be remembered."""


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
    revoked: Mapping[bytes, int] = field(default_factory=lambda: MappingProxyType({}))
    """As `Trust.revoked`: what all statements of the last 90 days have named."""
    statement: bytes = b""
    """The newest statement, packed; empty for none."""

    @property
    def number(self) -> int:
        """Of the newest statement; 0 for none."""
        return Statement.head(self.statement)[1] if self.statement else 0


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
        self._known = {entry.key: entry for entry in saved}
        self._offset = wall - now
        self._settings = settings
        self._own: frozenset[bytes] = frozenset()
        self._trusted: Mapping[bytes, Trust] = {}
        self._endpoints: Mapping[WireGuardPublicKey, IPAddress] = {}
        self._tunnel_ips: frozenset[str] = frozenset()
        self._budget = SignatureBudget()
        self._signed: dict[tuple[str, bytes], None] = {}
        """Names and metadata whose signature was checked and is good, the oldest first."""
        self.configure(settings)

    @property
    def is_bound(self) -> bool:
        """Whether only certified members get a tunnel."""
        return self._settings is not None and self._settings.only_certified

    @property
    def own_keys(self) -> tuple[AuthorityKey, ...]:
        """The keys of the mesh's own authorities."""
        return self._settings.authorities if self._settings is not None else ()

    @property
    def is_compact(self) -> bool:
        """Whether metadata is announced in compact form."""
        return self._settings is not None and self._settings.form == "Compact"

    @property
    def authorities(self) -> tuple[SavedTrust, ...]:
        """What is known of the authorities that are trusted now, the mesh's own first."""
        return tuple(self._known_of(trust.key) for trust in self._trusted.values())

    @property
    def own(self) -> SavedTrust | None:
        """What is known of the mesh's own authority, the newer one while it is replaced; None without one."""
        keys = self._settings.authorities if self._settings is not None else ()
        return self._known_of(keys[0]) if keys else None

    def known(self, authority: bytes) -> SavedTrust | None:
        """Return what is known of the authority with this id; None if it is not trusted."""
        trust = self._trusted.get(authority)
        return self._known_of(trust.key) if trust is not None else None

    def is_early(self, moment: int, authority: bytes, *, now: float) -> bool:
        """Tell whether a trusted authority seems to have signed something more than a day in the future."""
        return self._trusted[authority].is_early(moment, clock=self._clock(now))

    def take(self, statement: Statement, packed: bytes) -> None:
        """Revoke what a statement names, which is newer than the last one of its trusted authority.

        Args:
            statement: with a signature that was verified.
            packed: its bytes.

        """
        trust = self._trusted[statement.authority]
        newest = max(trust.newest, statement.number)
        revoked = _union(self._known_of(trust.key).revoked, statement.revoked_ms, newest)
        self._known[trust.key] = SavedTrust(trust.key, newest, revoked, packed)
        self._trusted = {**self._trusted, trust.key.id: replace(trust, newest=newest, revoked=revoked)}

    def configure(self, settings: IdentitySettings | None) -> bool:
        """Take the mesh's settings; tell whether verdicts may change by them."""
        before = self._trusted, self.is_bound
        if settings is not None:
            self._take_time(settings)
        self._settings = settings
        self._own = frozenset(key.id for key in settings.authorities) if settings is not None else frozenset()
        trusted: dict[bytes, Trust] = {}
        for trust in self._trust(settings) if settings is not None else ():
            # An id has 4 bytes, so another key with the same one can be found: that of the mesh's own stays.
            trusted.setdefault(trust.key.id, trust)
        self._trusted = trusted
        self._signed.clear()
        return before != (self._trusted, self.is_bound)

    def _take_time(self, settings: IdentitySettings) -> None:
        """Have a new authority of the mesh know the time that the former ones gave.

        Otherwise its certificates would count by the clock alone, which may be wrong.
        """
        former = self._settings.authorities if self._settings is not None else ()
        newest = max((self._known_of(key).newest for key in (*former, *settings.authorities)), default=0)
        for key in settings.authorities:
            if newest and key not in self._known:
                self._known[key] = SavedTrust(key, newest)

    def wall_clock(self, wall: float, *, now: float) -> None:
        """Take the wall clock, which may have been set."""
        self._offset = wall - now

    def tunnels_end(self, endpoints: Mapping[WireGuardPublicKey, IPAddress]) -> None:
        """Take where WireGuard has proven peers to be, by a fresh handshake."""
        self._endpoints = endpoints
        self._tunnel_ips = frozenset(map(str, endpoints.values()))

    def has_tunnel_to(self, ip: str) -> bool:
        """Tell whether WireGuard has proven a peer to be at an IP address."""
        return ip in self._tunnel_ips

    def verdict(self, name: str, meta: NodeMeta | None, *, now: float) -> Verdict:
        """Judge what a member announces."""
        subject = meta.subject(name) if meta is not None else None
        if meta is None or subject is None or meta.certificate is None:
            return Verdict()
        certificate = meta.certificate
        refused = refusal(certificate, subject, self._trusted, clock=self._clock(now))
        if refused is not None:
            return Verdict(refusal=refused)
        self._note_signed(certificate.authority, certificate.serial)
        rank = Rank.OWN if certificate.authority in self._own else Rank.TRUSTED
        return Verdict(rank, certificate.serial, None)

    def take_own(self, name: str, meta: NodeMeta, *, now: float) -> None:
        """Take this member's own certificate, which came from the operator and not from gossip.

        On the first start, when nothing of the authority was verified yet, it tells the time better than
        a clock that says that it has expired.
        """
        certificate = meta.certificate
        if certificate is None or self.verdict(name, meta, now=now).refusal is not Refusal.EXPIRED:
            return
        if certificate.authority in self._own and not self._trusted[certificate.authority].newest:
            self._note_signed(certificate.authority, certificate.serial)

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
        if not self._budget.allows(source, has_tunnel=self.has_tunnel_to(source.holder), now=now):
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
        """Return how well an alive is proven: 0 is not at all.

        The newer of two certificates of a name proves more, as in the roster: its owner may have another key
        and address by now. Of alives with one certificate, one from where the tunnel ends proves more.
        """
        if not self._trusted:
            return 0
        try:
            meta = NodeMeta.decode(raw_meta)
        except PeerMisbehaved:
            return 0
        rank, serial = self.verdict(name, meta, now=now).weight
        if rank is Rank.NONE or meta.public_key is None:
            return 0
        is_there = self._endpoints.get(meta.public_key) == ip_address(address.ip)
        return (rank * (MAX_SERIAL + 1) + serial) * 2 + is_there

    def saved(self) -> tuple[SavedTrust, ...]:
        """Return what the next start needs."""
        return tuple(self._known.values())

    def _clock(self, now: float) -> int:
        return int((now + self._offset) * 1000)

    def _known_of(self, key: AuthorityKey) -> SavedTrust:
        return self._known.get(key) or SavedTrust(key, 0)

    def _note_signed(self, authority: bytes, moment: int) -> None:
        trust = self._trusted[authority]
        if moment <= trust.newest:
            return
        self._known[trust.key] = replace(self._known_of(trust.key), newest=moment)
        self._trusted = {**self._trusted, authority: trust.with_signed(moment)}

    def _trust(self, settings: IdentitySettings) -> Iterable[Trust]:
        for key in settings.authorities:
            known = self._known_of(key)
            yield Trust(key=key, newest=known.newest, revoked=known.revoked)
        for other in settings.trusted:
            known = self._known_of(other.key)
            yield Trust(
                key=other.key,
                newest=known.newest,
                revoked=known.revoked,
                suffix=other.cluster_name,
                cidrs=other.cidrs,
            )


def _union(known: Mapping[bytes, int], added: Mapping[bytes, int], newest: int) -> Mapping[bytes, int]:
    """Return all revocations that can still matter; of too many the last statement's, then the latest."""
    union = {name: max(known.get(name, 0), added.get(name, 0)) for name in {*known, *added}}
    fresh = [name for name, moment in union.items() if newest <= moment + LONGEST_MS]
    if len(fresh) > MAX_REVOKED:
        fresh.sort(key=lambda name: (name in added, union[name]), reverse=True)
    return MappingProxyType({name: union[name] for name in fresh[:MAX_REVOKED]})
