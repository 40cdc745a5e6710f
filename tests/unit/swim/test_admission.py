"""Which accepted stream is ended for a new one; time is a number here."""

from __future__ import annotations

from random import Random

import pytest

from wesher_agent.swim.address import Address
from wesher_agent.swim.admission import GRACE, Admission, Held
from wesher_agent.swim.members import DEFAULT_VERSIONS, Member, MemberTable
from wesher_agent.swim.profile import DEFAULT_LIMITS
from wesher_agent.wire.messages import State

NOW = 100.0
PER_IP = DEFAULT_LIMITS.accepted_streams_per_ip


def admission(*expected: str) -> Admission:
    made = Admission(DEFAULT_LIMITS, MemberTable("a", Random(1)))
    made.expected = frozenset(expected)
    return made


def held(number: int, ip: str, *, age: float = 2.0, received: int = 1, being_read: bool = False) -> Held:
    return Held(number, ip, NOW - age, received, being_read)


def ended(rules: Admission, ip: str, streams: list[Held]) -> int | None:
    least = rules.to_end(ip, streams, now=NOW)
    return None if least is None else least.id


def test_of_one_address_the_stream_that_delivered_least_is_ended_and_the_oldest_of_equals() -> None:
    streams = [
        held(1, "192.0.2.7", received=9, age=3.0),
        held(2, "192.0.2.7", received=2, age=1.0),
        held(3, "192.0.2.7", received=2, age=2.0),
        held(4, "192.0.2.7", received=9, age=1.0),
    ]
    assert ended(admission(), "192.0.2.7", streams) == 3
    assert ended(admission(), "192.0.2.7", streams[:3]) is None
    assert ended(admission(), "192.0.2.8", streams) is None


def test_a_stream_that_has_just_come_or_waits_for_us_is_ended_last() -> None:
    new = held(1, "192.0.2.7", received=0, age=GRACE / 2)
    waiting = held(2, "192.0.2.7", received=5, age=2.0, being_read=True)
    others = [held(number, "192.0.2.7", received=1000) for number in (3, 4)]
    assert ended(admission(), "192.0.2.7", [new, waiting, *others]) == 3


def test_a_stream_whose_first_bytes_are_on_their_way_outlives_new_ones_that_delivered_little() -> None:
    new = held(1, "192.0.2.7", received=0, age=0.01)
    others = [held(number, "192.0.2.7", received=1, age=0.02) for number in (2, 3, 4)]
    assert ended(admission(), "192.0.2.7", [new, *others]) == 2


def test_the_hosts_of_one_ipv6_64_count_as_one_unless_they_are_known() -> None:
    rules = admission("2001:db8::5")
    streams = [held(number, f"2001:db8::{number}") for number in range(1, PER_IP + 1)]
    assert ended(rules, "2001:db8::99", streams) == 1
    assert ended(rules, "2001:db8::5", streams) is None
    assert ended(rules, "2001:db8:0:1::99", streams) is None
    assert rules.most(streams) == ("2001:db8::/64", PER_IP)


@pytest.mark.parametrize("is_member", [True, False], ids=["member", "seed"])
def test_the_addresses_of_members_and_seeds_have_room_that_others_cannot_take(*, is_member: bool) -> None:
    rules = admission() if is_member else admission("192.0.2.1")
    if is_member:
        address = Address("192.0.2.1", 7946)
        rules.table.put(Member("b", address, b"", 1, State.ALIVE, DEFAULT_VERSIONS, 0.0))
    room = DEFAULT_LIMITS.accepted_streams - DEFAULT_LIMITS.accepted_streams_kept
    strangers = [held(number, f"198.51.100.{number}") for number in range(room)]
    assert ended(rules, "198.51.100.200", strangers) == 0
    assert ended(rules, "192.0.2.1", strangers) is None


def test_a_member_that_moved_or_was_forgotten_leaves_its_room() -> None:
    table = MemberTable("a", Random(1))
    for ip in ("192.0.2.1", "192.0.2.2"):
        table.put(Member("b", Address(ip, 7946), b"", 1, State.LEFT, DEFAULT_VERSIONS, 0.0))
        table.put(Member("a", Address("192.0.2.9", 7946), b"", 1, State.ALIVE, DEFAULT_VERSIONS, 0.0))
    assert [table.has_other_at(f"192.0.2.{number}") for number in (1, 2, 9)] == [False, True, False]
    while not table.next_to_probe(lambda member: True)[1]:
        pass
    assert not table.has_other_at("192.0.2.2")
