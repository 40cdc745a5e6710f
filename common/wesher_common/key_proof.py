"""How an agent proves to the operator that it holds the private half of the WireGuard key it publishes.

Both sides compute the same code: the agent from its private key and the public half of the mesh's
proof key, the operator from the private half of that and the agent's public key. A token that may
write a WesherNode's status is not enough for it.
"""

from __future__ import annotations

import hmac
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from wesher_common.keys import KEY_BYTES, WireGuardPrivateKey, WireGuardPublicKey

_DOMAIN: Final = b"wesher key proof 1\0"
"""Keeps the derived key apart from every other use of the same pair."""


def key_proof(mine: WireGuardPrivateKey, theirs: WireGuardPublicKey, statement: bytes) -> bytes | None:
    """Return the 32 bytes that only the holder of one of the two private keys can compute.

    None when ``theirs`` is one of the few points with which every private key gives the same result
    (RFC 7748, section 6.1): such a proof would prove nothing.
    """
    private = X25519PrivateKey.from_private_bytes(mine.secret)
    try:
        shared = private.exchange(X25519PublicKey.from_public_bytes(theirs.raw))
    except ValueError:
        return None
    return hmac.digest(HKDF(SHA256(), KEY_BYTES, None, _DOMAIN).derive(shared), statement, "sha256")


def proof_statement(mesh_uid: str, node: str, key: WireGuardPublicKey) -> bytes:
    """Return what is proven: that this node of this mesh has this key."""
    return mesh_uid.encode() + b"\0" + node.encode() + b"\0" + key.raw
