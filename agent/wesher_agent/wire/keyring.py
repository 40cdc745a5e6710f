"""Gossip encryption: AES-GCM under a ring of keys, both of memberlist's versions (`security.go`).

An encrypted payload is a version byte, the nonce, ciphertext and tag. Where it
stands in a datagram or stream, and what it authenticates beside itself, is
`packet`'s and `stream`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from wesher_common.errors import PeerMisbehaved

NONCE_SIZE: Final = 12
TAG_SIZE: Final = 16
KEY_SIZES: Final = (16, 24, 32)
PADDED: Final = 0
"""The encryption version of protocol 1: the plaintext is padded as PKCS#7 says."""
UNPADDED: Final = 1
OVERHEAD: Final = {PADDED: 1 + NONCE_SIZE + 16 + TAG_SIZE, UNPADDED: 1 + NONCE_SIZE + TAG_SIZE}
"""The most bytes each version adds to a plaintext (`encryptOverhead`)."""

_BLOCK: Final = 16

Nonce = Callable[[int], bytes]
"""Returns that many bytes that no other call returned under the same key."""


class Keyring:
    """The keys a member accepts; it encrypts with the primary only.

    Args:
        primary: 16, 24 or 32 bytes.
        others: further keys that only decrypt, in the order they are tried.

    Raises:
        ValueError: a key of another size.

    """

    __slots__ = ("_ciphers",)

    def __init__(self, primary: bytes, others: Sequence[bytes] = ()) -> None:
        keys = (primary, *others)
        if any(len(key) not in KEY_SIZES for key in keys):
            raise ValueError("a gossip key is 16, 24 or 32 bytes")
        self._ciphers = tuple(AESGCM(key) for key in keys)

    def __repr__(self) -> str:
        """Return how many keys there are, and nothing of them."""
        return f"Keyring({len(self._ciphers)} keys)"

    def seal(self, plain: bytes, associated: bytes, *, version: int, nonce: Nonce) -> bytes:
        """Return the encrypted payload of a plaintext.

        Args:
            plain: what to encrypt.
            associated: what is authenticated with it but sent elsewhere.
            version: `PADDED` or `UNPADDED`.
            nonce: where nonces come from.

        """
        if version == PADDED:
            padding = _BLOCK - len(plain) % _BLOCK
            plain += bytes((padding,)) * padding
        salt = nonce(NONCE_SIZE)
        return bytes((version,)) + salt + self._ciphers[0].encrypt(salt, plain, associated)

    def open(self, payload: bytes, associated: bytes) -> tuple[bytes, int]:
        """Return the plaintext of an encrypted payload and the version it came in.

        Raises:
            PeerMisbehaved: ``unknown-encryption`` version, ``truncated``,
                ``wrong-key``, or ``bad-padding``.

        """
        if not payload:
            raise PeerMisbehaved("truncated", "encryption version")
        version = payload[0]
        if version not in OVERHEAD:
            raise PeerMisbehaved("unknown-encryption", str(version))
        if len(payload) < sealed_size(0, version):
            raise PeerMisbehaved("truncated", "encrypted payload")
        salt, sealed = payload[1 : 1 + NONCE_SIZE], payload[1 + NONCE_SIZE :]
        for cipher in self._ciphers:
            try:
                plain = cipher.decrypt(salt, sealed, associated)
            except InvalidTag:
                continue
            return (_unpad(plain) if version == PADDED else plain), version
        raise PeerMisbehaved("wrong-key")


def sealed_size(plain_size: int, version: int) -> int:
    """Return the bytes of an encrypted payload (`encryptedLength`)."""
    padding = _BLOCK - plain_size % _BLOCK if version == PADDED else 0
    return 1 + NONCE_SIZE + plain_size + padding + TAG_SIZE


def _unpad(plain: bytes) -> bytes:
    padding = plain[-1] if plain else 0
    if not 1 <= padding <= _BLOCK or plain[-padding:] != bytes((padding,)) * padding:
        raise PeerMisbehaved("bad-padding")
    return plain[:-padding]
