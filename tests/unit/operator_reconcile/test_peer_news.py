"""What a mesh publishes for its machines outside Kubernetes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any

import pytest

from wesher_common.certificate import Authority, Kind, Subject
from wesher_common.keys import ClusterKey, KeyRing, WireGuardPrivateKey
from wesher_common.news import NewsKind, PeerCertificate, RingItem
from wesher_operator.reconcile.news import Item
from wesher_operator.reconcile.peer_news import (
    CertifiedPeer,
    NumberedRing,
    certificate_items,
    ring_items,
    ring_number,
)

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
MS = round(NOW.timestamp() * 1000)
OURS, OTHER = Authority(bytes(range(32))), Authority(bytes(range(1, 33)))
OLD, NEW = ClusterKey(bytes([1]) * 32), ClusterKey(bytes([2]) * 32)
HINT = f"{NEW.hint:02x}"


def private(seed: str) -> WireGuardPrivateKey:
    return WireGuardPrivateKey.from_random(hashlib.sha256(seed.encode()).digest())


LAPTOP = private("laptop")


def peer(ring: str = "", name: str = "laptop") -> CertifiedPeer:
    subject = Subject(name=name, public_key=private(name).public, address=ip_address("10.189.0.9"))
    return CertifiedPeer(
        subject=subject, certificate=OURS.issue(subject, serial=MS, kind=Kind.PEER), ring=ring
    )


@pytest.fixture
def pairs() -> Iterator[WireGuardPrivateKey]:
    return (private(f"ephemeral {number}") for number in range(100))


def sealed(
    peers: list[CertifiedPeer], pairs: Iterator[WireGuardPrivateKey], *published: Item, **more: Any
) -> list[RingItem]:
    content = {"signer": OURS, "ring": NumberedRing(KeyRing(NEW, (OLD,)), 7), "published": published, **more}
    found = ring_items(peers, ephemeral=lambda: next(pairs), **content)
    assert {kind for kind, _ in found} <= {NewsKind.RING}
    return [RingItem.unpacked(data) for _, data in found]


def test_each_machine_has_its_certificate_with_all_that_it_is_about() -> None:
    ((kind, data),) = certificate_items([peer()])
    found = PeerCertificate.unpacked(data)
    assert (kind, found.subject, found.certificate) == (
        NewsKind.CERTIFICATE,
        peer().subject,
        peer().certificate,
    )


def test_the_ring_is_sealed_to_those_that_are_not_seen_with_its_primary_key(
    pairs: Iterator[WireGuardPrivateKey],
) -> None:
    found = sealed([peer(), peer("00", "tablet"), peer(HINT, "phone")], pairs)
    keys = (NEW.secret, OLD.secret)
    assert [each.opened(LAPTOP) for each in found] == [keys, None]
    assert [each.opened(private("tablet")) for each in found] == [None, keys]
    assert all(each.is_signed_by(OURS.key) for each in found)
    assert found[0].ephemeral != found[1].ephemeral


def test_an_item_stays_until_the_ring_changes_also_while_the_machine_is_seen(
    pairs: Iterator[WireGuardPrivateKey],
) -> None:
    """A machine that comes and goes must not have the file written each time."""
    (item,) = sealed([peer()], pairs)
    published = (NewsKind.RING, item.packed())
    assert sealed([peer(HINT)], pairs, published) == [item]
    (later,) = sealed([peer()], pairs, published, ring=NumberedRing(KeyRing(NEW), 8))
    assert later.number == 8
    assert sealed([peer(HINT)], pairs, published, ring=NumberedRing(KeyRing(NEW), 8)) == []
    assert sealed([], pairs, published) == []


def test_an_item_of_another_authority_is_replaced_and_without_ours_it_stays(
    pairs: Iterator[WireGuardPrivateKey],
) -> None:
    (item,) = sealed([peer()], pairs, signer=OTHER)
    published = (NewsKind.RING, item.packed())
    (ours,) = sealed([peer()], pairs, published)
    assert ours.is_signed_by(OURS.key)
    assert sealed([peer()], pairs, published, signer=None) == [item]
    assert sealed([peer()], pairs, published, ring=None) == [item]
    assert sealed([peer()], pairs, signer=None) == []


def test_an_item_that_cannot_be_read_is_replaced(pairs: Iterator[WireGuardPrivateKey]) -> None:
    (found,) = sealed([peer()], pairs, (NewsKind.RING, b"broken"))
    assert found.opened(LAPTOP) is not None


def test_the_number_of_the_ring_rises_with_each_change() -> None:
    ring = KeyRing(NEW, (OLD,))
    assert ring_number(ring, {"id": NEW.id, "acceptedIDs": [OLD.id]}, now=NOW) == MS
    status = {"id": NEW.id, "acceptedIDs": [OLD.id], "ringNumber": 5}
    assert ring_number(ring, status, now=NOW) == 5
    assert ring_number(KeyRing(NEW), status, now=NOW) == MS
    assert ring_number(KeyRing(OLD, (NEW,)), status, now=NOW) == MS
    assert ring_number(KeyRing(NEW), {**status, "ringNumber": MS + 9}, now=NOW) == MS + 10
