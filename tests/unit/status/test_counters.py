"""What is counted of gossip's faults."""

from __future__ import annotations

from wesher_agent.mesh.events import MemberReturned
from wesher_agent.status.counters import KINDS, Counts
from wesher_agent.swim.address import Address
from wesher_agent.swim.events import (
    AccusationRefused,
    MemberFailed,
    MemberJoined,
    MembersFull,
    NameConflict,
    OutdatedAlive,
    PushPullFailed,
    SelfRefuted,
    StreamsFull,
    UdpUnreachable,
)
from wesher_testing.virtual.members import gossiped


def test_every_kind_is_there_before_anything_happened() -> None:
    assert Counts().numbers == dict.fromkeys(KINDS, 0)


def test_a_return_is_told_from_a_first_arrival() -> None:
    counts, member = Counts(), gossiped("b", "192.0.2.1")

    counts.observe(MemberJoined(member))
    counts.observe(MemberFailed(member, from_node="c", confirmations=1))
    counts.observe(MemberReturned("b"))

    assert (counts.numbers["membersFailed"], counts.numbers["membersReturned"]) == (1, 1)


def test_denials_conflicts_and_claims_about_the_forgotten_are_counted() -> None:
    counts, member = Counts(), gossiped("b", "192.0.2.1")

    counts.observe(SelfRefuted(incarnation=2, accused_by="c"))
    counts.observe(NameConflict(member, claimed=member.address))
    counts.observe(OutdatedAlive("d", incarnation=1, claimed=member.address))

    assert (counts.numbers["suspicionsDenied"], counts.numbers["nameConflicts"]) == (1, 1)
    assert counts.numbers["outdatedClaims"] == 1


def test_what_is_blocked_refused_or_fails_is_counted() -> None:
    counts, member = Counts(), gossiped("b", "192.0.2.1")

    for event in (
        UdpUnreachable(member),
        StreamsFull("192.0.2.7", 4, 8),
        MembersFull("c"),
        AccusationRefused("b", incarnation=2**32 - 1),
        PushPullFailed(Address("192.0.2.1", 7946), join=True, error="timed out"),
    ):
        counts.observe(event)

    kinds = ("udpBlocked", "connectionsEnded", "membersRefused", "accusationsRefused", "pushPullsFailed")
    assert [counts.numbers[kind] for kind in kinds] == [1, 1, 1, 1, 1]
