"""What a mesh publishes for its machines outside Kubernetes: certificates and sealed key rings; pure.

A machine outside reads nothing of the cluster. Agents pass these items on, or it fetches them from one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from wesher_common.certificate import Authority, Certificate, Subject
from wesher_common.errors import PeerMisbehaved
from wesher_common.keys import KeyRing, WireGuardPrivateKey
from wesher_common.news import (
    NewsKind,
    PeerCertificate,
    RingItem,
    key_hash,
    seal_ring,
)
from wesher_operator.reconcile.news import Item


@dataclass(frozen=True, slots=True, kw_only=True)
class CertifiedPeer:
    """A machine outside with its certificate."""

    subject: Subject
    certificate: Certificate
    ring: str
    """First two digits of the id of its primary key, if agents see it now; otherwise empty."""


@dataclass(frozen=True, slots=True)
class NumberedRing:
    """A key ring, and the number by which a machine tells a newer one."""

    ring: KeyRing
    number: int
    """Milliseconds of Unix time."""


def ring_number(ring: KeyRing, key_status: Mapping[str, Any], *, now: datetime) -> int:
    """Return the number of a mesh's key ring: another, higher one after each change of the ring.

    Args:
        ring: as the Secret has it.
        key_status: ``status.key`` of the mesh as last written.
        now: the time.

    """
    former = int(key_status.get("ringNumber") or 0)
    ids = [key_status.get("id"), *(key_status.get("acceptedIDs") or [])]
    if former and ids == [key.id for key in ring]:
        return former
    return max(round(now.timestamp() * 1000), former + 1)


def certificate_items(peers: Iterable[CertifiedPeer]) -> list[Item]:
    """Return an item with the certificate of each machine."""
    return [
        (
            NewsKind.CERTIFICATE,
            PeerCertificate(subject=each.subject, certificate=each.certificate).packed(),
        )
        for each in peers
    ]


def ring_items(
    peers: Iterable[CertifiedPeer],
    signer: Authority | None,
    ring: NumberedRing | None,
    published: Sequence[Item],
    ephemeral: Callable[[], WireGuardPrivateKey],
) -> list[Item]:
    """Return the key ring, sealed to each machine that agents do not see with its primary key.

    An item stays until the ring changes, so that a machine that comes and goes causes no writes.

    Args:
        peers: the machines.
        signer: the mesh's authority; without it the published items stay.
        ring: the mesh's.
        published: items of the news as they stand.
        ephemeral: returns a new key pair.

    """
    known = {
        item.key_hash: item
        for kind, data in published
        if kind is NewsKind.RING
        if (item := _ring_item(data)) is not None
    }
    found = []
    for each in peers:
        public_key = each.subject.public_key
        item = known.get(key_hash(public_key))
        if signer is not None and ring is not None:
            is_current = item is not None and item.number == ring.number and item.is_signed_by(signer.key)
            has_ring = each.ring == f"{ring.ring.primary.hint:02x}"
            if not is_current:
                item = None
            if item is None and not has_ring:
                keys = [key.secret for key in ring.ring]
                item = seal_ring(signer, keys, public_key, number=ring.number, ephemeral=ephemeral())
        if item is not None:
            found.append((NewsKind.RING, item.packed()))
    return found


def _ring_item(data: bytes) -> RingItem | None:
    try:
        return RingItem.unpacked(data)
    except PeerMisbehaved:
        return None
