"""The ring of keys: who can read what, and what a broken payload is called."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from wesher_agent.wire.keyring import OVERHEAD, PADDED, UNPADDED, Keyring, sealed_size
from wesher_common.errors import PeerMisbehaved

OLD, NEW, OTHER = bytes(16), bytes(range(24)), bytes(range(32))
NONCE = bytes(range(12))


def nonce(size: int) -> bytes:
    return NONCE[:size]


@pytest.mark.parametrize("version", [PADDED, UNPADDED])
@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 1400])
def test_a_payload_comes_back_in_the_version_it_was_sealed_in(version: int, size: int) -> None:
    plain = bytes(size)
    sealed = Keyring(OLD).seal(plain, b"label", version=version, nonce=nonce)
    assert len(sealed) == sealed_size(size, version) <= size + OVERHEAD[version]
    assert Keyring(OLD).open(sealed, b"label") == (plain, version)


@pytest.mark.parametrize("key", [bytes(16), bytes(24), bytes(32)], ids=len)
def test_keys_of_every_aes_size_are_taken(key: bytes) -> None:
    ring = Keyring(key)
    assert ring.open(ring.seal(b"x", b"", version=UNPADDED, nonce=nonce), b"") == (b"x", UNPADDED)


def test_a_ring_reads_what_any_of_its_keys_sealed_and_seals_with_the_first() -> None:
    ring = Keyring(NEW, [OTHER, OLD])
    old_payload = Keyring(OLD).seal(b"old", b"", version=UNPADDED, nonce=nonce)
    assert ring.open(old_payload, b"") == (b"old", UNPADDED)
    new_payload = ring.seal(b"new", b"", version=UNPADDED, nonce=nonce)
    assert Keyring(NEW).open(new_payload, b"") == (b"new", UNPADDED)


def test_version_one_is_aes_gcm_and_nothing_more() -> None:
    payload = Keyring(OLD).seal(b"plain", b"label", version=UNPADDED, nonce=nonce)
    assert payload == b"\x01" + NONCE + AESGCM(OLD).encrypt(NONCE, b"plain", b"label")


def test_version_zero_pads_to_a_block_even_when_one_is_full() -> None:
    payload = Keyring(OLD).seal(bytes(16), b"", version=PADDED, nonce=nonce)
    assert AESGCM(OLD).decrypt(NONCE, payload[13:], b"") == bytes(16) + b"\x10" * 16


@pytest.mark.parametrize(
    "plain",
    [bytes(16), bytes(15) + b"\x11", b"\x03" * 14 + b"\x02\x03"],
    ids=["zero", "more than a block", "not alike"],
)
def test_padding_that_no_writer_writes_is_refused(plain: bytes) -> None:
    payload = b"\x00" + NONCE + AESGCM(OLD).encrypt(NONCE, plain, b"")
    with pytest.raises(PeerMisbehaved, match="bad-padding"):
        Keyring(OLD).open(payload, b"")


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "truncated"),
        (b"\x02" + bytes(60), "unknown-encryption"),
        (b"\x01" + bytes(27), "truncated"),
        (b"\x00" + bytes(43), "truncated"),
        (b"\x01" + bytes(28), "wrong-key"),
    ],
)
def test_a_payload_that_cannot_be_one_is_named(payload: bytes, reason: str) -> None:
    with pytest.raises(PeerMisbehaved) as refusal:
        Keyring(OLD).open(payload, b"")
    assert refusal.value.reason == reason


def test_what_was_sealed_beside_another_label_is_refused() -> None:
    payload = Keyring(OLD).seal(b"x", b"one", version=UNPADDED, nonce=nonce)
    with pytest.raises(PeerMisbehaved, match="wrong-key"):
        Keyring(OLD).open(payload, b"two")


@pytest.mark.parametrize("size", [0, 15, 31, 33])
def test_a_key_of_another_size_is_refused_without_showing_it(size: int) -> None:
    with pytest.raises(ValueError, match=r"16, 24 or 32 bytes") as refusal:
        Keyring(OLD, [b"k" * size])
    assert "kk" not in str(refusal.value)


def test_a_ring_does_not_print_its_keys() -> None:
    assert repr(Keyring(b"k" * 32, [OLD])) == "Keyring(2 keys)"
