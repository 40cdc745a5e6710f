"""Keys as values that do not print themselves."""

import pytest

from wesher_common.errors import InvalidSpec
from wesher_common.keys import MAX_KEYS, ClusterKey, KeyRing, WireGuardPrivateKey, WireGuardPublicKey

SECRET = bytes(range(32))
TEXT = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
OTHER = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA="


def shown(value: object) -> list[str]:
    return [repr(value), str(value), f"{value}", f"{[value]}"]


@pytest.mark.parametrize(
    "value",
    [
        ClusterKey(SECRET),
        KeyRing(ClusterKey(SECRET), (ClusterKey(SECRET),)),
        WireGuardPrivateKey(SECRET),
    ],
)
def test_a_secret_is_in_no_text_of_its_value(value: object) -> None:
    for text in shown(value):
        assert TEXT not in text
        assert str(SECRET) not in text
        assert SECRET.hex() not in text


def test_a_cluster_key_is_read_and_revealed_on_demand() -> None:
    key = ClusterKey.from_base64(f" {TEXT}\n")
    assert (key.secret, key.reveal_base64()) == (SECRET, TEXT)


def test_a_keys_id_is_short_and_depends_on_the_key() -> None:
    one, other = ClusterKey(SECRET).id, ClusterKey.from_base64(OTHER).id
    assert one != other
    assert len(one) == 8
    assert one not in SECRET.hex()


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "must decode to exactly 32 bytes, not 0"),
        ("c2hvcnQ=", "must decode to exactly 32 bytes, not 5"),
        (TEXT + TEXT, "must be standard base64 of 32 bytes"),
        (TEXT[:-1], "must be standard base64 of 32 bytes"),
        (TEXT.replace("A", "-", 1), "must be standard base64 of 32 bytes"),
        ("schlüssel", "must be standard base64 of 32 bytes"),
    ],
)
def test_a_bad_key_is_refused_without_repeating_it(text: str, rule: str) -> None:
    for read in (ClusterKey.from_base64, WireGuardPrivateKey.from_base64, WireGuardPublicKey.from_base64):
        with pytest.raises(InvalidSpec) as refusal:
            read(text, field_name="--cluster-key")
        assert str(refusal.value) == f"--cluster-key: {rule}"


def test_a_key_ring_is_read_from_its_two_files_primary_first() -> None:
    ring = KeyRing.from_files(f"{TEXT}\n", f"{OTHER}\n\n{TEXT}\n")
    assert [key.reveal_base64() for key in ring] == [TEXT, OTHER]
    assert ring.primary.reveal_base64() == TEXT


def test_a_key_ring_holds_as_many_different_keys_as_an_agent_may_report() -> None:
    further = [ClusterKey(bytes([number]) * 32).reveal_base64() for number in range(16)]
    ring = KeyRing.from_files(TEXT, "\n".join(further[:15] * 2))
    assert len(list(ring)) == MAX_KEYS
    with pytest.raises(InvalidSpec) as refusal:
        KeyRing.from_files(TEXT, "\n".join(further))
    assert str(refusal.value) == "accepted-keys: must be at most 15 keys, not 16"


def test_a_key_ring_may_have_one_key() -> None:
    assert list(KeyRing.from_files(TEXT)) == [ClusterKey(SECRET)]


@pytest.mark.parametrize(
    ("primary", "accepted", "line"),
    [
        ("x", "", "cluster-key: must be standard base64 of 32 bytes"),
        (TEXT, f"{OTHER}\nc2hvcnQ=", "accepted-keys line 2: must decode to exactly 32 bytes, not 5"),
    ],
)
def test_a_bad_key_file_is_named_with_its_line(primary: str, accepted: str, line: str) -> None:
    with pytest.raises(InvalidSpec) as refusal:
        KeyRing.from_files(primary, accepted)
    assert str(refusal.value) == line


def test_a_private_key_has_the_public_key_of_its_curve() -> None:
    """The first iteration of RFC 7748, section 5.2, is the scalar 9 times the base point."""
    private = WireGuardPrivateKey(bytes([9]) + bytes(31))
    assert private.public.raw.hex() == "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"
    assert str(private.public) == "QiyOemIn17yhNQs+K7cnn3iXuHu2hUt4PGDoAxGuMHk="
    assert WireGuardPublicKey.from_base64(str(private.public)) == private.public


def test_a_random_private_key_is_clamped_as_wg_genkey_does() -> None:
    private = WireGuardPrivateKey.from_random(b"\xff" * 32)
    assert private.secret == b"\xf8" + b"\xff" * 30 + b"\x7f"
    assert WireGuardPrivateKey.from_base64(private.reveal_base64()) == private


def test_a_private_key_needs_all_its_entropy() -> None:
    with pytest.raises(InvalidSpec, match="private key: needs 32 random bytes, not 31"):
        WireGuardPrivateKey.from_random(bytes(31))
