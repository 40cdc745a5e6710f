"""How a machine outside Kubernetes proves that it was invited.

An invite holds the seed of an Ed25519 pair whose public half is in the WesherPeer. The machine signs
its name and WireGuard key with it and announces the signature. So the API server holds no secret, none
goes over the wire, and an invite is good for one name.
"""

from __future__ import annotations

from typing import Final

from wesher_common.certificate import Authority, AuthorityKey
from wesher_common.keys import WireGuardPublicKey

_DOMAIN: Final = b"wesher enrolment 1\0"


def enrol(seed: bytes, *, mesh_uid: str, name: str, key: WireGuardPublicKey) -> bytes:
    """Return the 64 bytes that a machine announces in place of a certificate.

    Raises:
        InvalidSpec: the seed is not 32 bytes.

    """
    return Authority(seed).sign(_text(mesh_uid, name, key))


def is_enrolled(
    enrol_key: AuthorityKey, enrolment: bytes, *, mesh_uid: str, name: str, key: WireGuardPublicKey
) -> bool:
    """Tell whether the holder of the invite with this public key has signed name and WireGuard key."""
    return enrol_key.has_signed(_text(mesh_uid, name, key), enrolment)


def _text(mesh_uid: str, name: str, key: WireGuardPublicKey) -> bytes:
    return _DOMAIN + mesh_uid.encode() + b"\0" + name.encode() + b"\0" + key.raw
