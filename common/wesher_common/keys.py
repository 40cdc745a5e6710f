"""Cluster keys and WireGuard keys as values that do not print themselves.

A secret's ``repr`` and ``str`` never show it; code that needs the text calls a
method whose name says so.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from wesher_common.errors import InvalidSpec

KEY_BYTES = 32
MAX_KEYS = 16
"""In a ring: each packet that none of them opens costs as many tries, and agents report the ids of all."""


def _decode_key(text: str, field_name: str) -> bytes:
    try:
        raw = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidSpec(field_name, f"must be standard base64 of {KEY_BYTES} bytes") from error
    if len(raw) != KEY_BYTES:
        raise InvalidSpec(field_name, f"must decode to exactly {KEY_BYTES} bytes, not {len(raw)}")
    return raw


@dataclass(frozen=True, slots=True)
class ClusterKey:
    """The pre-shared key under which a mesh gossips: 32 bytes, AES-256."""

    secret: bytes = field(repr=False)

    @classmethod
    def from_base64(cls, text: str, *, field_name: str = "cluster key") -> ClusterKey:
        """Read the form that ``--cluster-key`` takes and the Secret holds.

        Raises:
            InvalidSpec: not standard base64, or not 32 bytes. The text is not repeated.

        """
        return cls(_decode_key(text, field_name))

    def reveal_base64(self) -> str:
        """Return the secret itself, for files and for the one print on a terminal."""
        return base64.b64encode(self.secret).decode()

    @property
    def id(self) -> str:
        """A name for the key that gives nothing of it away: 8 hex digits of a hash."""
        return hashlib.sha256(b"wesher cluster key id\0" + self.secret).hexdigest()[:8]

    @property
    def hint(self) -> int:
        """The first byte of `id`, which members announce."""
        return int(self.id[:2], 16)


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The keys a member accepts; it encrypts with the first only."""

    primary: ClusterKey
    accepted: tuple[ClusterKey, ...] = ()
    """Further keys that only decrypt, in the order they are tried."""
    number: int = field(default=0, compare=False)
    """Of two rings of one mesh the one with the higher number is the newer; 0 if it came without one."""

    def __iter__(self) -> Iterator[ClusterKey]:
        """Yield every key, primary first."""
        yield self.primary
        yield from self.accepted

    @classmethod
    def from_files(cls, cluster_key: str, accepted_keys: str = "") -> KeyRing:
        """Read the two entries of the key Secret.

        Args:
            cluster_key: the primary, base64.
            accepted_keys: further keys, one a line; blank lines are skipped.

        Raises:
            InvalidSpec: naming the entry, and the line where there are several.

        """
        further = [
            ClusterKey.from_base64(line, field_name=f"accepted-keys line {number}")
            for number, line in enumerate(accepted_keys.splitlines(), start=1)
            if line.strip()
        ]
        primary = ClusterKey.from_base64(cluster_key, field_name="cluster-key")
        accepted = tuple(key for key in dict.fromkeys(further) if key != primary)
        if len(accepted) >= MAX_KEYS:
            raise InvalidSpec("accepted-keys", f"must be at most {MAX_KEYS - 1} keys, not {len(accepted)}")
        return cls(primary, accepted)


@dataclass(frozen=True, slots=True, order=True)
class WireGuardPublicKey:
    """A peer's Curve25519 public key, WireGuard's name for a peer."""

    raw: bytes

    def __str__(self) -> str:
        """Return the base64 form that ``wg`` shows."""
        return base64.b64encode(self.raw).decode()

    @classmethod
    def from_base64(cls, text: str, *, field_name: str = "public key") -> WireGuardPublicKey:
        """Read the base64 form.

        Raises:
            InvalidSpec: not base64 of 32 bytes.

        """
        return cls(_decode_key(text, field_name))


@dataclass(frozen=True)
class WireGuardPrivateKey:
    """A node's Curve25519 private key; made once per node and mesh, and kept."""

    secret: bytes = field(repr=False)

    @classmethod
    def from_random(cls, entropy: bytes) -> WireGuardPrivateKey:
        """Clamp 32 random bytes to a Curve25519 scalar, as ``wg genkey`` does."""
        if len(entropy) != KEY_BYTES:
            raise InvalidSpec("private key", f"needs {KEY_BYTES} random bytes, not {len(entropy)}")
        scalar = bytearray(entropy)
        scalar[0] &= 248
        scalar[31] = (scalar[31] & 127) | 64
        return cls(bytes(scalar))

    @classmethod
    def from_base64(cls, text: str, *, field_name: str = "private key") -> WireGuardPrivateKey:
        """Read the form the state file holds.

        Raises:
            InvalidSpec: not base64 of 32 bytes. The text is not repeated.

        """
        return cls(_decode_key(text, field_name))

    def reveal_base64(self) -> str:
        """Return the secret itself, for the state file."""
        return base64.b64encode(self.secret).decode()

    @cached_property
    def public(self) -> WireGuardPublicKey:
        """The public half."""
        return WireGuardPublicKey(
            X25519PrivateKey.from_private_bytes(self.secret).public_key().public_bytes_raw()
        )
