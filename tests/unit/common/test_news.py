"""News: their bytes, and what a damaged or forged item is worth."""

import base64
import json
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from wesher_common import certificate
from wesher_common.certificate import Authority, AuthorityKey, Kind, Subject, name_hash
from wesher_common.enrolment import enrol, is_enrolled
from wesher_common.errors import PeerMisbehaved
from wesher_common.keys import WireGuardPrivateKey, WireGuardPublicKey
from wesher_common.news import (
    MAX_NEWS_BYTES,
    NewsKind,
    PeerCertificate,
    RingItem,
    Statement,
    pack_news,
    revocation_second,
    seal_ring,
    sign_statement,
    statement_in,
    unpack_news,
)

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "identity_vectors.json").read_text())
OURS = Authority(bytes.fromhex(VECTORS["authority_seed"]))
OTHERS = Authority(bytes(range(1, 33)))
MINE = WireGuardPrivateKey(bytes.fromhex(VECTORS["wireguard_private"]))
NUMBER: int = VECTORS["serial"]
REVOKED = {name_hash("web1"): NUMBER // 1000, name_hash("web2"): NUMBER // 1000 + 5}
STATEMENT = sign_statement(OURS, number=NUMBER, revoked=REVOKED)
ITEM = seal_ring(
    OURS,
    [bytes(32), bytes(32)],
    MINE.public,
    number=VECTORS["ring_number"],
    ephemeral=WireGuardPrivateKey(bytes.fromhex(VECTORS["ring_ephemeral"])),
)
SUBJECT = Subject(
    name="web1",
    public_key=MINE.public,
    address=ip_address("10.189.3.7"),
    location="berlin",
    networks=(ip_network("10.0.0.0/24"),),
)
PEER = PeerCertificate(subject=SUBJECT, certificate=OURS.issue(SUBJECT, serial=NUMBER, kind=Kind.PEER))


def test_statement_and_ring_item_are_the_vectors_byte_for_byte() -> None:
    assert STATEMENT.packed().hex() == VECTORS["news"]
    assert ITEM.packed().hex() == VECTORS["ring_item"]


@pytest.mark.parametrize("successor", [None, OTHERS.key])
def test_a_statement_is_read_as_it_was_signed(successor: AuthorityKey | None) -> None:
    signed = sign_statement(OURS, number=NUMBER, revoked=REVOKED, successor=successor)
    assert Statement.unpacked(signed.packed()) == signed
    assert signed.is_signed_by(OURS.key)
    assert not signed.is_signed_by(OTHERS.key)


def test_no_changed_bit_of_a_statement_is_believed() -> None:
    packed = STATEMENT.packed()
    for bit in range(len(packed) * 8):
        flipped = bytearray(packed)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            read = Statement.unpacked(bytes(flipped))
        except PeerMisbehaved:
            continue
        assert not read.is_signed_by(OURS.key)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "statement-truncated"),
        (b"\2" + STATEMENT.packed()[1:], "statement-version"),
        (STATEMENT.packed()[:-1], "statement-truncated"),
        (STATEMENT.packed() + b"\0", "statement-trailing-bytes"),
        (STATEMENT.packed()[:11] + b"\1\0" + STATEMENT.packed()[12:], "statement-successor"),
        (STATEMENT.packed()[:12] + b"\xff" * 4 + STATEMENT.packed()[16:], "statement-too-many-names"),
    ],
)
def test_what_is_not_a_statement_is_refused_with_its_reason(data: bytes, reason: str) -> None:
    with pytest.raises(PeerMisbehaved) as refusal:
        Statement.unpacked(data)
    assert refusal.value.reason == reason


def test_names_of_a_statement_have_one_order_and_stand_there_once() -> None:
    body, entries = STATEMENT.packed()[:16], STATEMENT.packed()[16:40]
    for wrong in (entries[12:] + entries[:12], entries[:12] * 2):
        with pytest.raises(PeerMisbehaved, match="statement-name-order"):
            Statement.unpacked(body + wrong + bytes(64))


def test_a_statement_that_is_not_signed_is_not_read() -> None:
    assert Statement.head(STATEMENT.packed()) == (OURS.key.id, NUMBER)
    assert Statement.verified(STATEMENT.packed(), OURS.key) == STATEMENT
    foreign = sign_statement(OTHERS, number=NUMBER, revoked=REVOKED).packed()
    for data in (foreign, STATEMENT.packed()[:-1], STATEMENT.packed() + b"\0", STATEMENT.packed()[:11]):
        with pytest.raises(PeerMisbehaved, match="statement-bad-signature"):
            Statement.verified(data, OURS.key)


@pytest.mark.parametrize(
    "content",
    [
        STATEMENT.packed(),
        pack_news([(NewsKind.RING, ITEM.packed()), (NewsKind.STATEMENT, STATEMENT.packed())]),
    ],
)
def test_a_statement_is_found_in_each_form_of_a_file(content: bytes) -> None:
    text = base64.b64encode(content)
    for form in (
        content,
        text,
        text + b"\n",
        b"\n".join(text[at : at + 76] for at in range(0, len(text), 76)),
    ):
        assert statement_in(form) == STATEMENT.packed()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "statement-truncated"),
        (b"hello", "statement-version"),
        (pack_news([(NewsKind.RING, ITEM.packed())]), "statement-version"),
        (pack_news([(NewsKind.STATEMENT, b"")] * 2), "statement-not-alone"),
    ],
)
def test_a_file_without_one_statement_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(PeerMisbehaved, match=reason):
        statement_in(content)


def test_long_texts_do_not_stay_in_memory_once_their_signature_is_checked() -> None:
    before = certificate._is_known_signature.cache_info().currsize
    many = {number.to_bytes(8): 1 for number in range(1000)}
    statement = sign_statement(OURS, number=NUMBER, revoked=many)
    assert statement.is_signed_by(OURS.key)
    assert certificate._is_known_signature.cache_info().currsize == before


def test_a_certificate_issued_after_a_revocation_is_later_than_its_second() -> None:
    assert revocation_second(NUMBER) == NUMBER // 1000
    assert revocation_second(NUMBER + 1) == NUMBER // 1000 + 1
    assert STATEMENT.revoked_ms[name_hash("web1")] == NUMBER


def test_only_the_owner_of_the_wireguard_key_opens_a_ring() -> None:
    read = RingItem.unpacked(ITEM.packed())
    assert read.is_signed_by(OURS.key)
    assert not read.is_signed_by(OTHERS.key)
    assert read.opened(MINE) == (bytes(32), bytes(32))
    other = WireGuardPrivateKey(bytes.fromhex(VECTORS["proof_private"]))
    assert read.opened(other) is None


def test_no_changed_bit_of_a_ring_item_is_believed() -> None:
    packed = ITEM.packed()
    for bit in range(len(packed) * 8):
        flipped = bytearray(packed)
        flipped[bit // 8] ^= 1 << bit % 8
        assert not RingItem.unpacked(bytes(flipped)).is_signed_by(OURS.key)


@pytest.mark.parametrize("cut", [0, 1, 31, 33, len(ITEM.packed()) - 1])
def test_a_ring_item_of_another_size_is_refused(cut: int) -> None:
    with pytest.raises(PeerMisbehaved, match="ring-item-"):
        RingItem.unpacked(ITEM.packed()[:cut])


def test_no_ring_is_sealed_to_a_key_without_a_secret() -> None:
    with pytest.raises(ValueError, match="shared"):
        seal_ring(OURS, [bytes(32)], WireGuardPublicKey(bytes(32)), number=1, ephemeral=MINE)


def test_a_peers_certificate_is_read_with_its_subject() -> None:
    read = PeerCertificate.unpacked(PEER.packed())
    assert read == PEER
    assert OURS.key.has_signed(read.certificate.signed_text(read.subject), read.certificate.signature)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "peer-certificate-truncated"),
        (PEER.packed() + b"\0", "peer-certificate-trailing-bytes"),
        (b"\4we 1" + PEER.packed()[5:], "peer-certificate-name"),
        (b"\4\xff\xff\xff\xff" + PEER.packed()[5:], "peer-certificate-text"),
        (PEER.packed()[:37] + b"\5" + PEER.packed()[38:], "peer-certificate-address"),
    ],
)
def test_what_is_not_a_peers_certificate_is_refused_with_its_reason(data: bytes, reason: str) -> None:
    with pytest.raises(PeerMisbehaved) as refusal:
        PeerCertificate.unpacked(data)
    assert refusal.value.reason == reason


def test_the_news_file_holds_items_and_an_older_reader_skips_new_kinds() -> None:
    items = [
        (NewsKind.STATEMENT, STATEMENT.packed()),
        (NewsKind.RING, ITEM.packed()),
        (NewsKind.CERTIFICATE, PEER.packed()),
    ]
    packed = pack_news(items)
    assert unpack_news(packed) == items
    assert unpack_news(b"\x09\0\0\0\1x" + packed) == items
    assert unpack_news(b"") == []


@pytest.mark.parametrize("data", [b"\1", b"\1\0\0\0\2x", bytes(MAX_NEWS_BYTES + 1)])
def test_a_damaged_news_file_is_refused(data: bytes) -> None:
    with pytest.raises(PeerMisbehaved, match="news-"):
        unpack_news(data)


def test_an_enrolment_is_good_for_one_mesh_name_and_key() -> None:
    seed = bytes(range(64, 96))
    good: dict[str, Any] = {"mesh_uid": "uid", "name": "web1", "key": MINE.public}
    enrolment = enrol(seed, **good)
    key = Authority(seed).key
    assert is_enrolled(key, enrolment, **good)
    assert not is_enrolled(OTHERS.key, enrolment, **good)
    other_key = replace(MINE.public, raw=bytes(31) + b"\1")
    for other in ({"mesh_uid": "uid2"}, {"name": "web2"}, {"key": other_key}):
        assert not is_enrolled(key, enrolment, **(good | other))
