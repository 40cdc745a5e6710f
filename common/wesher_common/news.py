"""News: what an authority has signed beside certificates, and how it reaches members.

Owns the bytes. The operator publishes all news of a mesh as one file beside mesh.json; agents pass
them on by gossip. Nothing here is secret: a ring item can only be opened with the private WireGuard
key of the machine that it is for.

- A `Statement` revokes: certificates of a name that were signed up to a moment are void.
- A `PeerCertificate` brings a machine outside Kubernetes its certificate.
- A `RingItem` brings one machine the mesh's key ring, so that it can come back after a key rotation.

Who publishes and keeps them is decided elsewhere: `wesher_operator.reconcile` and `wesher_agent.mesh`.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import IntEnum
from types import MappingProxyType
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from wesher_common.byte_reader import ByteReader, counted
from wesher_common.certificate import Authority, AuthorityKey, Certificate, Subject
from wesher_common.errors import PeerMisbehaved
from wesher_common.keys import KEY_BYTES, WireGuardPrivateKey, WireGuardPublicKey

NEWS_FILE: Final = "news"
"""The file beside mesh.json, in ``binaryData`` of the ConfigMap ``<mesh>-config``."""
MAX_NEWS_BYTES: Final = 900 * 1024
"""Of the file; a ConfigMap takes 1 MiB."""
MAX_REVOKED: Final = 65536
"""Names in one statement: 12 bytes each."""
MAX_RING_KEYS: Final = 16
"""Keys in one ring item."""

_VERSION: Final = 1
_AUTHORITY_ID_BYTES: Final = 4
_NUMBER_BYTES: Final = 6
_NAME_HASH_BYTES: Final = 8
_SECONDS_BYTES: Final = 4
_SIGNATURE_BYTES: Final = 64
_KEY_HASH_BYTES: Final = 16
_TAG_BYTES: Final = 16
_STATEMENT: Final = b"wesher news 1\0"
_SEAL: Final = b"wesher sealed ring 1\0"
_RING: Final = b"wesher ring item 1\0"


class NewsKind(IntEnum):
    """What one item of the news file, or of a gossiped message, is."""

    STATEMENT = 1
    RING = 2
    CERTIFICATE = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What one authority has revoked; a later one names at least what is still of use."""

    authority: bytes
    """The id of the `AuthorityKey`."""
    number: int
    """Milliseconds of Unix time at which it was signed; of two statements the higher number is the newer."""
    successor: AuthorityKey | None = None
    """The authority that replaces this one."""
    revoked: Mapping[bytes, int] = field(default_factory=lambda: MappingProxyType({}))
    """By `name_hash`: certificates of that name signed up to this Unix time, in seconds, are void."""
    signature: bytes = b""

    def packed(self) -> bytes:
        """Return its bytes."""
        return self._body() + self.signature

    def signed_text(self) -> bytes:
        """Return what the authority signs."""
        return _STATEMENT + self._body()

    @property
    def revoked_ms(self) -> dict[bytes, int]:
        """`revoked` in the unit of a certificate's serial, as `Trust.revoked` takes it."""
        return {name: seconds * 1000 for name, seconds in self.revoked.items()}

    @staticmethod
    def head(data: bytes) -> tuple[bytes, int]:
        """Return the id of the authority and the number that the bytes of a statement begin with.

        Raises:
            PeerMisbehaved: they do not begin as a statement does.

        """
        return _read_head(ByteReader(data, "statement"))

    @classmethod
    def verified(cls, data: bytes, key: AuthorityKey) -> Statement:
        """Read its bytes if the authority has signed them. What is forged costs one check of a signature.

        Raises:
            PeerMisbehaved: they are not a statement of this authority.

        """
        if cls.head(data)[0] != key.id or not key.has_signed(
            _STATEMENT + data[:-_SIGNATURE_BYTES], data[-_SIGNATURE_BYTES:]
        ):
            raise PeerMisbehaved("statement-bad-signature")
        return cls.unpacked(data)

    @classmethod
    def unpacked(cls, data: bytes) -> Statement:
        """Read its bytes; the signature is not checked.

        Raises:
            PeerMisbehaved: they are not a statement.

        """
        reader = ByteReader(data, "statement")
        authority, number = _read_head(reader)
        successor = reader.counted()
        if len(successor) not in {0, KEY_BYTES}:
            raise reader.refusal("successor")
        count = reader.number(4)
        if count > MAX_REVOKED:
            raise reader.refusal("too-many-names")
        revoked: dict[bytes, int] = {}
        last = b""
        for _ in range(count):
            name = reader.take(_NAME_HASH_BYTES)
            if name <= last:
                raise reader.refusal("name-order")
            revoked[name] = reader.number(_SECONDS_BYTES)
            last = name
        signature = reader.take(_SIGNATURE_BYTES)
        reader.end()
        return cls(
            authority=authority,
            number=number,
            successor=AuthorityKey(successor) if successor else None,
            revoked=revoked,
            signature=signature,
        )

    def is_signed_by(self, key: AuthorityKey) -> bool:
        """Tell whether the authority has signed it."""
        return self.authority == key.id and key.has_signed(self.signed_text(), self.signature)

    def _body(self) -> bytes:
        names = b"".join(
            name + seconds.to_bytes(_SECONDS_BYTES) for name, seconds in sorted(self.revoked.items())
        )
        return (
            bytes([_VERSION])
            + self.authority
            + self.number.to_bytes(_NUMBER_BYTES)
            + counted(self.successor.raw if self.successor is not None else b"")
            + len(self.revoked).to_bytes(4)
            + names
        )


def _read_head(reader: ByteReader) -> tuple[bytes, int]:
    if reader.number(1) != _VERSION:
        raise reader.refusal("version")
    return reader.take(_AUTHORITY_ID_BYTES), reader.number(_NUMBER_BYTES)


def sign_statement(
    authority: Authority, *, number: int, revoked: Mapping[bytes, int], successor: AuthorityKey | None = None
) -> Statement:
    """Sign a statement.

    Args:
        authority: whose.
        number: Unix time in milliseconds, higher than that of every earlier statement.
        revoked: by name hash, Unix time in seconds; see `revocation_second`.
        successor: the authority that replaces this one.

    """
    unsigned = Statement(
        authority=authority.key.id, number=number, successor=successor, revoked=dict(revoked)
    )
    return replace(unsigned, signature=authority.sign(unsigned.signed_text()))


def revocation_second(moment: int) -> int:
    """Return the second, rounded up, of a statement for a moment in milliseconds.

    A certificate that is issued again has a later serial than this second.
    """
    return -(-moment // 1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerCertificate:
    """A certificate with all that it is about: its owner learns its name and address from it."""

    subject: Subject
    certificate: Certificate

    def packed(self) -> bytes:
        """Return its bytes."""
        return self.subject.packed() + self.certificate.packed()

    @classmethod
    def unpacked(cls, data: bytes) -> PeerCertificate:
        """Read its bytes; the signature is not checked.

        Raises:
            PeerMisbehaved: they are not a certificate with its subject.

        """
        reader = ByteReader(data, "peer-certificate")
        subject = Subject.read(reader)
        certificate = Certificate.read(reader)
        reader.end()
        return cls(subject=subject, certificate=certificate)


@dataclass(frozen=True, slots=True, kw_only=True)
class RingItem:
    """A key ring sealed to one WireGuard key."""

    authority: bytes
    """The id of the `AuthorityKey`."""
    number: int
    """Milliseconds of Unix time; of two rings the one with the higher number is the newer."""
    key_hash: bytes
    """Of the WireGuard public key that opens it; see `key_hash`."""
    ephemeral: bytes
    """Public half of the pair that it was sealed with."""
    sealed: bytes = b""
    signature: bytes = b""

    def packed(self) -> bytes:
        """Return its bytes."""
        return self._head() + self.sealed + self.signature

    @classmethod
    def unpacked(cls, data: bytes) -> RingItem:
        """Read its bytes; the signature is not checked.

        Raises:
            PeerMisbehaved: they are not a ring item.

        """
        reader = ByteReader(data, "ring-item")
        authority, number = reader.take(_AUTHORITY_ID_BYTES), reader.number(_NUMBER_BYTES)
        hashed, ephemeral = reader.take(_KEY_HASH_BYTES), reader.take(KEY_BYTES)
        head = _AUTHORITY_ID_BYTES + _NUMBER_BYTES + _KEY_HASH_BYTES + KEY_BYTES
        ring = len(data) - head - _TAG_BYTES - _SIGNATURE_BYTES
        if ring % KEY_BYTES or not KEY_BYTES <= ring <= MAX_RING_KEYS * KEY_BYTES:
            raise reader.refusal("size")
        sealed = reader.take(ring + _TAG_BYTES)
        signature = reader.take(_SIGNATURE_BYTES)
        return cls(
            authority=authority,
            number=number,
            key_hash=hashed,
            ephemeral=ephemeral,
            sealed=sealed,
            signature=signature,
        )

    def is_signed_by(self, key: AuthorityKey) -> bool:
        """Tell whether the authority has signed it."""
        text = _RING + self._head() + self.sealed
        return self.authority == key.id and key.has_signed(text, self.signature)

    def opened(self, mine: WireGuardPrivateKey) -> tuple[bytes, ...] | None:
        """Return the raw keys, the primary first; None if it is for another key."""
        if self.key_hash != key_hash(mine.public):
            return None
        try:
            key = _seal_key(mine, self.ephemeral, self.ephemeral, mine.public)
            ring = ChaCha20Poly1305(key).decrypt(bytes(12), self.sealed, self._head())
        except (InvalidTag, ValueError):
            return None
        return tuple(ring[at : at + KEY_BYTES] for at in range(0, len(ring), KEY_BYTES))

    def _head(self) -> bytes:
        return self.authority + self.number.to_bytes(_NUMBER_BYTES) + self.key_hash + self.ephemeral


def seal_ring(
    authority: Authority,
    ring: Iterable[bytes],
    public_key: WireGuardPublicKey,
    *,
    number: int,
    ephemeral: WireGuardPrivateKey,
) -> RingItem:
    """Seal raw keys, the primary first, to one WireGuard key.

    Args:
        authority: signs it.
        ring: raw cluster keys.
        public_key: whose private half opens it.
        number: of this ring, higher than that of every earlier one.
        ephemeral: a new key for this item only: its nonce is constant.

    Raises:
        ValueError: the WireGuard key is a point with which no secret can be agreed.

    """
    public = ephemeral.public.raw
    unsealed = RingItem(
        authority=authority.key.id, number=number, key_hash=key_hash(public_key), ephemeral=public
    )
    key = _seal_key(ephemeral, public_key.raw, public, public_key)
    sealed = ChaCha20Poly1305(key).encrypt(bytes(12), b"".join(ring), unsealed.packed())
    signature = authority.sign(_RING + unsealed.packed() + sealed)
    return replace(unsealed, sealed=sealed, signature=signature)


def key_hash(public_key: WireGuardPublicKey) -> bytes:
    """Return the 16 bytes by which a machine asks for items sealed to its key."""
    return hashlib.sha256(public_key.raw).digest()[:_KEY_HASH_BYTES]


def pack_news(items: Iterable[tuple[NewsKind, bytes]]) -> bytes:
    """Return the content of the news file: for each item its kind, four bytes with its length, its bytes."""
    return b"".join(bytes([kind]) + len(data).to_bytes(4) + data for kind, data in items)


def unpack_news(data: bytes) -> list[tuple[NewsKind, bytes]]:
    """Read the content of the news file; kinds of a later release are left out.

    Raises:
        PeerMisbehaved: it is cut short, or longer than the file may be.

    """
    reader = ByteReader(data, "news")
    if len(data) > MAX_NEWS_BYTES:
        raise reader.refusal("size")
    items = []
    while reader.left:
        kind, body = reader.number(1), reader.take(reader.number(4))
        if kind in {*NewsKind}:
            items.append((NewsKind(kind), body))
    return items


def statement_in(content: bytes) -> bytes:
    """Return the bytes of the statement in a file, not checked.

    Args:
        content: a news file with one statement, or the statement alone; either may be in base64, as a
            WesherNode's ``status.news`` has it.

    Raises:
        PeerMisbehaved: it has no statement, or more than one.

    """
    with suppress(ValueError):
        content = base64.b64decode(b"".join(content.split()), validate=True)
    with suppress(PeerMisbehaved):
        # First: some statements can also be read as a file, while the lengths in a file fit no statement.
        Statement.unpacked(content)
        return content
    try:
        items = unpack_news(content)
    except PeerMisbehaved:
        items = []
    match [data for kind, data in items if kind is NewsKind.STATEMENT]:
        case [data]:
            return data
        case []:
            Statement.head(content)
            return content
        case _:
            raise PeerMisbehaved("statement-not-alone")


def _seal_key(mine: WireGuardPrivateKey, theirs: bytes, ephemeral: bytes, owner: WireGuardPublicKey) -> bytes:
    private = X25519PrivateKey.from_private_bytes(mine.secret)
    shared = private.exchange(X25519PublicKey.from_public_bytes(theirs))
    return HKDF(SHA256(), KEY_BYTES, None, _SEAL + ephemeral + owner.raw).derive(shared)
