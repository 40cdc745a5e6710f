"""What the log says of events, and how often."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import ip_address

import pytest

from wesher_agent.mesh.events import (
    CertificateRefused,
    CertificateValid,
    IdentityChanged,
    ListenFailed,
    MemberReturned,
    ProblemFound,
    RestartNeeded,
)
from wesher_agent.mesh.nodemeta import META_VERSION, NodeMeta
from wesher_agent.net.event_log import BURST, LINES_A_SECOND, MAX_REMEMBERED, QUIET, EventLog
from wesher_agent.swim.address import Address
from wesher_agent.swim.events import (
    AccusationRefused,
    Event,
    MemberUpdated,
    NameConflict,
    OutdatedAlive,
    PacketRejected,
    PushPullAnswered,
    PushPullDone,
    SelfRefuted,
    StreamsFull,
    UnreadableStream,
)
from wesher_agent.swim.members import DEFAULT_VERSIONS, Member
from wesher_agent.wire.messages import State
from wesher_common.certificate import Refusal
from wesher_common.keys import WireGuardPublicKey

B = Member("b", Address("10.0.0.2", 7946), b"", 1, State.ALIVE, DEFAULT_VERSIONS, 0.0)
STANDING: list[Event] = [
    NameConflict(B, Address("10.0.0.3", 7946)),
    AccusationRefused("b", 2**32 - 1),
    OutdatedAlive("b", 7, Address("10.0.0.2", 7946)),
    StreamsFull("2001:db8::/64", 4, 8),
    UnreadableStream(Address("10.0.0.2", 7946), asked_for=True),
]


@pytest.mark.parametrize("event", STANDING, ids=lambda event: type(event).__name__)
def test_a_fault_that_keeps_coming_is_said_again_only_after_a_while(
    event: Event, caplog: pytest.LogCaptureFixture
) -> None:
    now = 1000.0
    log = EventLog(lambda: now)
    caplog.set_level(logging.INFO)
    for _ in range(5):
        log.write(event)
    assert len(caplog.messages) == 1
    now += QUIET + 1
    log.write(event)
    assert len(caplog.messages) == 2


def test_certificates_are_told_of_and_only_what_an_administrator_acts_on_is_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each node of a bound mesh joins without a certificate, which is no reason to warn of it."""
    log = EventLog(lambda: 0.0)
    caplog.set_level(logging.INFO)
    told: list[Event] = [
        ProblemFound("b", Refusal.UNCERTIFIED, "has no certificate"),
        ProblemFound("b", Refusal.BAD_SIGNATURE, "is not of what it announces"),
        CertificateValid(5, datetime(2026, 12, 30, tzinfo=UTC)),
        CertificateRefused(5, Refusal.EXPIRED),
        IdentityChanged("Verified", bound=True),
        IdentityChanged(None, bound=False),
    ]
    for event in told:
        log.write(event)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", 'member has a problem node=b reason=Uncertified problem="has no certificate"'),
        ("WARNING", 'member has a problem node=b reason=BadSignature problem="is not of what it announces"'),
        ("INFO", "own certificate valid serial=5 expires=2026-12-30T00:00:00+00:00"),
        ("WARNING", "own certificate does not count serial=5 reason=CertificateExpired"),
        ("INFO", "identity changed mode=Verified bound=true"),
        ("WARNING", "mesh.json says nothing about identity: members without a certificate get a tunnel"),
    ]


def test_dropped_packets_are_said_once_a_while_for_each_reason_with_their_number(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Anybody can send thousands a second, and a line for each would do more harm than they do."""
    now = 1000.0
    log = EventLog(lambda: now)
    caplog.set_level(logging.DEBUG)
    sender = Address("10.6.6.6", 666)
    for _ in range(20_000):
        log.write(PacketRejected("wrong-key", sender))
    log.write(PacketRejected("truncated", sender))
    now += QUIET + 1
    log.write(PacketRejected("wrong-key", sender))
    assert caplog.messages == [
        "packets rejected reason=wrong-key count=1 last_from=10.6.6.6:666",
        "packets rejected reason=truncated count=1 last_from=10.6.6.6:666",
        "packets rejected reason=wrong-key count=20000 last_from=10.6.6.6:666",
    ]


def test_whoever_has_the_key_cannot_fill_the_disk_with_lines(caplog: pytest.LogCaptureFixture) -> None:
    now = 1000.0
    log = EventLog(lambda: now)
    caplog.set_level(logging.INFO)
    for incarnation in range(3 * BURST):
        log.write(SelfRefuted(incarnation, "b"))
    assert len(caplog.messages) == BURST
    caplog.clear()
    now += 1 / LINES_A_SECOND
    log.write(SelfRefuted(1, "b"))
    assert caplog.messages == [
        f"log lines dropped: too many events lines={2 * BURST}",
        "suspicion refuted by=b incarnation=1",
    ]


def test_how_many_faults_are_remembered_is_not_for_others_to_choose() -> None:
    log = EventLog(lambda: 0.0)
    for port in range(1, 3 * MAX_REMEMBERED):
        log.write(NameConflict(B, Address("10.0.0.3", port)))
    assert len(log._said) <= MAX_REMEMBERED


def test_a_conflict_says_who_claims_the_name_and_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    EventLog(lambda: 0.0).write(STANDING[0])
    (message,) = caplog.messages
    assert message == (
        "two machines use the same name: rename one of them (ignore if it just moved) "
        "node=b holder=10.0.0.2:7946 other=10.0.0.3:7946"
    )


def test_events_of_this_machine_do_not_share_the_allowance_of_those_that_peers_can_cause(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A mesh that falls apart must not hide that this member cannot listen."""
    caplog.set_level(logging.INFO)
    log = EventLog(lambda: 0.0)
    for _ in range(BURST):
        log.write(SelfRefuted(2, "b"))
    caplog.clear()
    log.write(MemberReturned("b"))
    assert caplog.messages == []
    log.write(ListenFailed("UDP port 7946 is taken"))
    log.write(RestartNeeded())
    assert len(caplog.messages) == 2


def test_an_update_says_which_fields_changed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    key = WireGuardPublicKey(bytes(range(32)))
    former = NodeMeta(overlay_address=ip_address("10.9.0.1"), public_key=key, version=META_VERSION)
    moved = replace(former, overlay_address=ip_address("10.9.0.2"), location="berlin")
    told, known = replace(B, meta=moved.encode()), replace(B, meta=former.encode())
    EventLog(lambda: 0.0).write(MemberUpdated(told, known))
    assert caplog.messages == ["member updated node=b changed=overlay_address,location"]


def test_a_state_exchange_says_how_long_it_took(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    log = EventLog(lambda: 0.0)
    log.write(PushPullDone(B.address, join=False, members=3, seconds=0.25))
    log.write(PushPullAnswered(B.address, join=True, members=3, seconds=1 / 3))
    assert caplog.messages == [
        "state exchanged address=10.0.0.2:7946 members=3 seconds=0.25",
        "state exchange answered address=10.0.0.2:7946 members=3 join=true seconds=0.333",
    ]
