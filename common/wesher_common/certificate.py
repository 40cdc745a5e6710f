"""Certificates: which member has which WireGuard key and addresses, signed by the authority of its mesh.

Owns a certificate's 77 bytes, the text that is signed, and which certificates count
(`Trust`). A member announces its certificate in its gossip metadata; the operator signs.
What a certificate decides in the mesh is `wesher_agent.mesh`'s.

Times are milliseconds of Unix time. The serial of a certificate is the time at which it
was signed, so of two certificates of one name the higher serial is the newer one.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from wesher_common.byte_reader import ByteReader, counted, packed_networks
from wesher_common.errors import InvalidSpec, PeerMisbehaved
from wesher_common.keys import KEY_BYTES, WireGuardPrivateKey, WireGuardPublicKey
from wesher_common.names import is_member_name
from wesher_common.overlay import IPAddress, IPNetwork, host_network

CERTIFICATE_BYTES: Final = 77
DEFAULT_HOURS: Final = 720
"""How long a certificate is valid: 30 days."""
MAX_HOURS: Final = 2160
GRACE_DAYS: Final = 10
"""How far a clock alone can be ahead of what the authority has signed.

Certificates are renewed at two thirds of their 30 days, so a valid one has this many days left when it
is replaced. A clock that is wrong, or an authority that is away, then makes no certificate expire that
was valid before."""
EARLY_MS: Final = 24 * 3_600_000
"""How far in the future a certificate may have been signed."""
SKEW_MS: Final = 300_000
"""By how much two clocks that are set may differ."""

FIRST_MS: Final = 1_767_225_600_000
"""The start of 2026. A clock before it was never set: wesher issued no certificates then."""

_AUTHORITY_ID_BYTES: Final = 4
_SERIAL_BYTES: Final = 6
MAX_SERIAL: Final = 2 ** (8 * _SERIAL_BYTES) - 1
_HOURS_BYTES: Final = 2
_SIGNATURE_BYTES: Final = 64
_ADDRESS_BYTES: Final = frozenset({4, 16})
_HOUR_MS: Final = 3_600_000
_DAY_MS: Final = 24 * _HOUR_MS
_MAX_REMEMBERED: Final = 2048
"""Bytes of the longest signed text whose check is remembered: longer than any certificate's."""
_DOMAIN: Final = b"wesher certificate 1\0"
"""Begins the signed text, so that no signature for another purpose is one for a certificate."""


class Kind(IntEnum):
    """What a certificate is issued to."""

    NODE = 0
    """A Node of the authority's cluster."""
    PEER = 1
    """A machine outside Kubernetes."""


class Refusal(StrEnum):
    """Why a certificate does not count; the names are condition reasons."""

    UNCERTIFIED = "Uncertified"
    UNKNOWN_AUTHORITY = "UnknownAuthority"
    NAME_NOT_ALLOWED = "NameNotAllowed"
    """The authority of another cluster signed a name of this cluster or of a third one."""
    NETWORK_NOT_ALLOWED = "NetworkNotAllowed"
    """The same of an overlay address."""
    REVOKED = "Revoked"
    BAD_SIGNATURE = "BadSignature"
    NOT_YET_VALID = "NotYetValid"
    EXPIRED = "CertificateExpired"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What a certificate is about: all that decides whether and how traffic to a member is encrypted."""

    name: str
    public_key: WireGuardPublicKey
    address: IPAddress
    """In the overlay."""
    location: str = ""
    networks: tuple[IPNetwork, ...] = ()
    """Further overlay addresses, as networks of one address, and routes."""

    def packed(self) -> bytes:
        """Return its part of the signed text."""
        return (
            counted(self.name.encode())
            + self.public_key.raw
            + counted(self.address.packed)
            + counted(self.location.encode())
            + packed_networks(self.networks)
        )

    @classmethod
    def read(cls, reader: ByteReader) -> Subject:
        """Read what `packed` packed.

        Raises:
            PeerMisbehaved: it is something else.

        """
        name = reader.text()
        if not is_member_name(name):
            raise reader.refusal("name")
        public_key = WireGuardPublicKey(reader.take(KEY_BYTES))
        size = reader.number(1)
        if size not in _ADDRESS_BYTES:
            raise reader.refusal("address")
        address, location = reader.address(size), reader.text()
        return cls(
            name=name,
            public_key=public_key,
            address=address,
            location=location,
            networks=reader.networks(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """An authority's signature on a `Subject`, which it does not repeat."""

    authority: bytes
    """The id of the `AuthorityKey`."""
    serial: int
    hours: int
    """For which it is valid from ``serial`` on."""
    kind: Kind
    signature: bytes = b""

    def packed(self) -> bytes:
        """Return its 77 bytes."""
        return self._head() + self.signature

    def signed_text(self, subject: Subject) -> bytes:
        """Return what the authority signs."""
        return _DOMAIN + self._head() + subject.packed()

    @property
    def expires(self) -> int:
        """Until when it is valid."""
        return self.serial + self.hours * _HOUR_MS

    def to_base64(self) -> str:
        """Return the form that a WesherNode holds."""
        return base64.b64encode(self.packed()).decode()

    @classmethod
    def from_base64(cls, text: str) -> Certificate | None:
        """Read the form that a WesherNode holds; None if it is not a certificate."""
        try:
            reader = ByteReader(base64.b64decode(text, validate=True), "certificate")
            certificate = cls.read(reader)
            reader.end()
        except (ValueError, PeerMisbehaved):
            return None
        return certificate

    @classmethod
    def read(cls, reader: ByteReader) -> Certificate:
        """Read the next 77 bytes.

        Raises:
            PeerMisbehaved: they are not a certificate.

        """
        authority = reader.take(_AUTHORITY_ID_BYTES)
        serial, hours = reader.number(_SERIAL_BYTES), reader.number(_HOURS_BYTES)
        kind = reader.number(1)
        if kind not in {*Kind}:
            raise reader.refusal("certificate-kind")
        if not 0 < hours <= MAX_HOURS:
            raise reader.refusal("certificate-hours")
        signature = reader.take(_SIGNATURE_BYTES)
        return cls(authority=authority, serial=serial, hours=hours, kind=Kind(kind), signature=signature)

    def _head(self) -> bytes:
        numbers = self.serial.to_bytes(_SERIAL_BYTES) + self.hours.to_bytes(_HOURS_BYTES)
        return self.authority + numbers + bytes([self.kind])


@dataclass(frozen=True)
class AuthorityKey:
    """The public key of an authority."""

    raw: bytes
    """Ed25519."""

    def __str__(self) -> str:
        """Return the base64 form."""
        return base64.b64encode(self.raw).decode()

    @classmethod
    def from_base64(cls, text: str, *, field_name: str) -> AuthorityKey:
        """Read the base64 form.

        Raises:
            InvalidSpec: not base64 of 32 bytes.

        """
        return cls(WireGuardPublicKey.from_base64(text, field_name=field_name).raw)

    @cached_property
    def id(self) -> bytes:
        """What names it in a certificate: 4 bytes of a hash."""
        return hashlib.sha256(b"wesher authority id\0" + self.raw).digest()[:_AUTHORITY_ID_BYTES]

    def has_signed(self, text: bytes, signature: bytes) -> bool:
        """Tell whether ``signature`` is this authority's on ``text``."""
        is_short = len(text) <= _MAX_REMEMBERED
        return (_is_known_signature if is_short else _is_signature)(self.raw, text, signature)


@dataclass(frozen=True)
class Authority:
    """The private key of an authority; never in a log, a status or an agent."""

    seed: bytes = field(repr=False)
    """Ed25519, 32 random bytes."""

    def __post_init__(self) -> None:
        """Check the seed's length.

        Raises:
            InvalidSpec: not 32 bytes.

        """
        if len(self.seed) != KEY_BYTES:
            raise InvalidSpec("authority seed", f"must be {KEY_BYTES} bytes, not {len(self.seed)}")

    @cached_property
    def key(self) -> AuthorityKey:
        """The public half."""
        return AuthorityKey(self._private.public_key().public_bytes_raw())

    @cached_property
    def proof_key(self) -> WireGuardPrivateKey:
        """With it the operator checks an agent's `key_proof`; derived, so that one Secret holds all."""
        return WireGuardPrivateKey(HKDF(SHA256(), KEY_BYTES, None, b"wesher proof key").derive(self.seed))

    def issue(
        self, subject: Subject, *, serial: int, hours: int = DEFAULT_HOURS, kind: Kind = Kind.NODE
    ) -> Certificate:
        """Sign a certificate.

        Raises:
            ValueError: ``hours`` is not 1 to 2160.

        """
        if not 0 < hours <= MAX_HOURS:
            raise ValueError(f"a certificate is valid for 1 to {MAX_HOURS} hours, not {hours}")
        unsigned = Certificate(authority=self.key.id, serial=serial, hours=hours, kind=kind)
        return replace(unsigned, signature=self.sign(unsigned.signed_text(subject)))

    def sign(self, text: bytes) -> bytes:
        """Return the 64 bytes of the signature on a text, which begins with what it is for."""
        return self._private.sign(text)

    @cached_property
    def _private(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """How far one authority is trusted, and what is known of what it has signed."""

    key: AuthorityKey
    newest: int = 0
    """The latest time at which it has signed something that was verified; 0 for none. Kept over restarts."""
    revoked: Mapping[bytes, int] = field(default_factory=lambda: MappingProxyType({}))
    """By hash of a name (`name_hash`): certificates of that name signed up to then are void."""
    suffix: str = ""
    """It may certify names that end in a dot and this; empty for the mesh's own authority: any name."""
    cidrs: tuple[IPNetwork, ...] = ()
    """It may certify overlay addresses inside these; empty for the mesh's own authority: any."""

    def refusal(self, certificate: Certificate, subject: Subject, *, clock: int) -> Refusal | None:
        """Return why a certificate of this authority does not count for ``subject`` now, or None.

        Args:
            certificate: one with this authority's id.
            subject: what the member announces beside it.
            clock: the wall clock, which may be wrong.

        """
        if (outside := self._outside(subject)) is not None:
            return outside
        if self.revoked and certificate.serial <= self.revoked.get(name_hash(subject.name), -1):
            return Refusal.REVOKED
        if not self.key.has_signed(certificate.signed_text(subject), certificate.signature):
            return Refusal.BAD_SIGNATURE
        if self.is_early(certificate.serial, clock=clock):
            return Refusal.NOT_YET_VALID
        if self.time(clock) > certificate.expires + SKEW_MS:
            return Refusal.EXPIRED
        return None

    def time(self, clock: int) -> int:
        """Return the time by which its certificates expire: the clock, within 10 days after `newest`."""
        if not self.newest:
            return clock
        return min(max(clock, self.newest), self.newest + GRACE_DAYS * _DAY_MS)

    def is_early(self, moment: int, *, clock: int) -> bool:
        """Tell whether it seems to have signed something more than a day in the future."""
        # A clock before what was signed proves nothing.
        return clock >= max(self.newest - SKEW_MS, FIRST_MS) and moment > clock + EARLY_MS

    def with_signed(self, moment: int) -> Trust:
        """Take a moment at which it has signed something that was verified."""
        return replace(self, newest=moment) if moment > self.newest else self

    def _outside(self, subject: Subject) -> Refusal | None:
        if self.suffix and not subject.name.endswith(f".{self.suffix}"):
            return Refusal.NAME_NOT_ALLOWED
        if self.cidrs and not any(_is_inside(subject.address, network) for network in self.cidrs):
            return Refusal.NETWORK_NOT_ALLOWED
        return None


def refusal(
    certificate: Certificate | None, subject: Subject, trusted: Mapping[bytes, Trust], *, clock: int
) -> Refusal | None:
    """Return why what a member announces is not certified, or None when it is.

    Args:
        certificate: what it announces.
        subject: what it announces beside it.
        trusted: the trusted authorities by id.
        clock: the wall clock.

    """
    if certificate is None:
        return Refusal.UNCERTIFIED
    trust = trusted.get(certificate.authority)
    if trust is None:
        return Refusal.UNKNOWN_AUTHORITY
    return trust.refusal(certificate, subject, clock=clock)


def name_hash(name: str) -> bytes:
    """Return what stands for a member's name in news: 8 bytes of a hash."""
    return hashlib.sha256(b"wesher name\0" + name.encode()).digest()[:8]


def _is_inside(address: IPAddress, network: IPNetwork) -> bool:
    return address.version == network.version and host_network(address).subnet_of(network)  # type: ignore[arg-type]


def _is_signature(key: bytes, text: bytes, signature: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, text)
    except InvalidSignature:
        return False
    return True


# A mesh of a thousand members judges each of them after each event.
_is_known_signature = lru_cache(maxsize=16384)(_is_signature)
