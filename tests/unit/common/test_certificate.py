"""Certificates: their bytes, and which of them count."""

import json
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from wesher_common.byte_reader import ByteReader, packed_networks
from wesher_common.certificate import (
    CERTIFICATE_BYTES,
    MAX_HOURS,
    Authority,
    AuthorityKey,
    Certificate,
    Kind,
    Refusal,
    Subject,
    Trust,
    name_hash,
    refusal,
)
from wesher_common.errors import InvalidSpec, PeerMisbehaved
from wesher_common.keys import WireGuardPublicKey
from wesher_common.overlay import IPNetwork

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "identity_vectors.json").read_text())
"""Bytes that every implementation of this encoding has to meet."""
OURS = Authority(bytes.fromhex(VECTORS["authority_seed"]))
SUBJECT = Subject(
    name=VECTORS["name"],
    public_key=WireGuardPublicKey(bytes.fromhex(VECTORS["wireguard_public"])),
    address=ip_address(VECTORS["address"]),
    location=VECTORS["location"],
    networks=tuple(map(ip_network, VECTORS["networks"])),
)
SIGNED_AT: int = VECTORS["serial"]
CERTIFICATE = OURS.issue(SUBJECT, serial=SIGNED_AT)
DAY = 24 * 3_600_000
OTHERS = Authority(bytes(range(1, 33)))


def judged(
    certificate: Certificate | None = CERTIFICATE,
    *,
    subject: Subject = SUBJECT,
    clock: int = SIGNED_AT,
    **trust: Any,
) -> Refusal | None:
    trusted = Trust(**{"key": OURS.key, "newest": SIGNED_AT, **trust})
    return refusal(certificate, subject, {OURS.key.id: trusted}, clock=clock)


def read(data: bytes) -> Certificate:
    reader = ByteReader(data, "metadata")
    certificate = Certificate.read(reader)
    reader.end()
    return certificate


def read_networks(data: bytes) -> tuple[IPNetwork, ...]:
    reader = ByteReader(data, "metadata")
    networks = reader.networks()
    reader.end()
    return networks


def test_the_vectors_are_met_byte_for_byte() -> None:
    assert OURS.key.raw.hex() == VECTORS["authority_public"]
    assert OURS.key.id.hex() == VECTORS["authority_id"]
    assert CERTIFICATE.signed_text(SUBJECT).hex() == VECTORS["signed"]
    assert CERTIFICATE.packed().hex() == VECTORS["certificate"]
    assert len(CERTIFICATE.packed()) == CERTIFICATE_BYTES
    assert read(CERTIFICATE.packed()) == CERTIFICATE
    assert judged() is None


CHANGES: list[tuple[str, dict[str, Any]]] = [
    ("another name", {"name": "other.cluster-a.example"}),
    ("another overlay address", {"address": ip_address("10.189.3.8")}),
    ("another WireGuard key", {"public_key": WireGuardPublicKey(bytes(31) + b"\1")}),
    ("another location", {"location": "elsewhere"}),
    ("a route added", {"networks": (*SUBJECT.networks, ip_network("10.0.1.0/24"))}),
    ("a route dropped", {"networks": ()}),
]


@pytest.mark.parametrize("change", [change for _, change in CHANGES], ids=[name for name, _ in CHANGES])
def test_a_certificate_is_of_everything_that_its_subject_announces(change: dict[str, Any]) -> None:
    assert judged(subject=replace(SUBJECT, **change)) is Refusal.BAD_SIGNATURE


@pytest.mark.parametrize("change", [{"serial": SIGNED_AT + 1}, {"kind": Kind.PEER}, {"hours": 2000}])
def test_serial_kind_and_life_are_signed_too(change: dict[str, Any]) -> None:
    assert judged(replace(CERTIFICATE, **change)) is Refusal.BAD_SIGNATURE


def test_only_a_trusted_authority_counts() -> None:
    assert judged(None) is Refusal.UNCERTIFIED
    assert judged(OTHERS.issue(SUBJECT, serial=SIGNED_AT)) is Refusal.UNKNOWN_AUTHORITY
    forged = replace(OTHERS.issue(SUBJECT, serial=SIGNED_AT), authority=OURS.key.id)
    assert judged(forged) is Refusal.BAD_SIGNATURE


def test_another_clusters_authority_certifies_only_its_names_and_networks() -> None:
    assert judged(suffix="cluster-a.example") is None
    assert judged(suffix="cluster-b.example") is Refusal.NAME_NOT_ALLOWED
    assert judged(suffix="a.example") is Refusal.NAME_NOT_ALLOWED, "a suffix begins after a dot"
    assert judged(cidrs=(ip_network("2001:db8::/64"), ip_network("10.189.0.0/16"))) is None
    assert judged(cidrs=(ip_network("10.190.0.0/16"), ip_network("2001:db8::/64"))) is (
        Refusal.NETWORK_NOT_ALLOWED
    )


def test_a_revocation_voids_what_was_signed_up_to_then_and_nothing_later() -> None:
    revoked = {name_hash(SUBJECT.name): SIGNED_AT}
    assert judged(revoked=revoked) is Refusal.REVOKED
    assert judged(OURS.issue(SUBJECT, serial=SIGNED_AT + 1), revoked=revoked) is None
    assert judged(revoked={name_hash("another"): SIGNED_AT}) is None


CLOCKS: list[tuple[str, int]] = [
    ("1970", 0),
    ("right", SIGNED_AT),
    ("11 years ahead", SIGNED_AT + 4000 * DAY),
]


@pytest.mark.parametrize("clock", [clock for _, clock in CLOCKS], ids=[name for name, _ in CLOCKS])
def test_no_clock_ends_what_is_valid(clock: int) -> None:
    """Nor does an operator that is away for as long."""
    assert judged(clock=clock) is None
    renewed_late = OURS.issue(SUBJECT, serial=SIGNED_AT - 20 * DAY)
    assert judged(renewed_late, clock=clock) is None


def test_a_certificate_expires_by_what_its_authority_has_signed_since() -> None:
    later = SIGNED_AT + 31 * DAY
    assert judged(newest=later, clock=later) is Refusal.EXPIRED
    assert judged(newest=later, clock=0) is Refusal.EXPIRED, "a clock that is behind revives nothing"
    assert judged(newest=0, clock=later) is Refusal.EXPIRED, "nothing else is known of the time"


def test_a_certificate_of_the_future_waits_unless_the_clock_is_known_to_be_behind() -> None:
    future = SIGNED_AT + DAY + 1
    assert judged(OURS.issue(SUBJECT, serial=future)) is Refusal.NOT_YET_VALID
    assert judged(OURS.issue(SUBJECT, serial=future), clock=SIGNED_AT + 2) is None
    # 20 days after what was last heard, on a machine whose clock starts in 1970.
    assert judged(OURS.issue(SUBJECT, serial=SIGNED_AT + 20 * DAY), clock=0) is None


def test_trust_keeps_the_latest_moment_that_was_signed() -> None:
    trust = Trust(key=OURS.key, newest=5)
    assert trust.with_signed(4) == trust
    assert trust.with_signed(6).newest == 6


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda data: data[:-1], "metadata-truncated"),
        (lambda data: data + b"\0", "metadata-trailing-bytes"),
        (lambda data: data[:12] + b"\2" + data[13:], "metadata-certificate-kind"),
        (lambda data: data[:10] + b"\0\0" + data[12:], "metadata-certificate-hours"),
        (lambda data: data[:10] + (MAX_HOURS + 1).to_bytes(2) + data[12:], "metadata-certificate-hours"),
    ],
)
def test_bytes_that_no_writer_makes_are_refused(spoil: Callable[[bytes], bytes], reason: str) -> None:
    with pytest.raises(PeerMisbehaved) as refused:
        read(spoil(CERTIFICATE.packed()))
    assert refused.value.reason == reason


@pytest.mark.parametrize("hours", [0, MAX_HOURS + 1])
def test_an_authority_signs_no_life_that_readers_refuse(hours: int) -> None:
    with pytest.raises(ValueError, match=f"1 to {MAX_HOURS} hours"):
        OURS.issue(SUBJECT, serial=SIGNED_AT, hours=hours)


def test_the_seed_is_never_shown() -> None:
    shown = f"{OURS!r} {OURS}"
    assert OURS.seed.hex() not in shown
    assert str(OURS.seed) not in shown
    with pytest.raises(InvalidSpec, match="authority seed: must be 32 bytes, not 5"):
        Authority(b"short")


def test_an_authoritys_key_is_read_as_it_is_written() -> None:
    assert AuthorityKey.from_base64(str(OURS.key), field_name="authorities[0]") == OURS.key
    with pytest.raises(InvalidSpec, match=r"authorities\[0\]: must be standard base64"):
        AuthorityKey.from_base64("-", field_name="authorities[0]")


NETWORKS = [
    ("10.0.0.0/8", "080a"),
    ("10.189.3.7/32", "200abd0307"),
    ("0.0.0.0/0", "00"),
    ("2001:db8::/32", "6020010db8"),
    ("::/0", "40"),
    ("2001:db8::1/128", "c020010db8" + "00" * 11 + "01"),
]


@pytest.mark.parametrize(("text", "packed"), NETWORKS)
def test_a_network_is_its_prefix_length_and_the_bytes_it_covers(text: str, packed: str) -> None:
    network = ip_network(text)
    assert packed_networks([network]).hex() == "01" + packed
    assert read_networks(packed_networks([network])) == (network,)


def test_the_same_networks_have_one_form() -> None:
    networks = [ip_network(text) for text, _ in NETWORKS]
    assert packed_networks(networks) == packed_networks([*reversed(networks), networks[0]])
    found = read_networks(packed_networks(networks))
    assert packed_networks(found) == packed_networks(networks)
    assert {*found} == {*networks}


@pytest.mark.parametrize(
    ("packed", "reason"),
    [
        ("", "truncated"),
        ("01", "truncated"),
        ("0121", "network-prefix"),
        ("013f", "network-prefix"),
        ("01c1", "network-prefix"),
        ("01080a080b", "trailing-bytes"),
        ("0109" + "0aff", "network-host-bits"),
        ("02080b080a", "network-order"),
        ("02080a080a", "network-order"),
        ("024008" + "0a", "network-order"),
    ],
)
def test_networks_in_another_form_are_refused(packed: str, reason: str) -> None:
    with pytest.raises(PeerMisbehaved) as refused:
        read_networks(bytes.fromhex(packed))
    assert refused.value.reason == f"metadata-{reason}"


def test_more_networks_than_can_be_counted_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 255 networks"):
        packed_networks(ip_network((10 << 24 | number << 8, 24)) for number in range(256))
