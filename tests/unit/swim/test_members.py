"""The table of members and the ring in which they are probed."""

from __future__ import annotations

from collections import Counter
from random import Random

from wesher_agent.swim.address import Address
from wesher_agent.swim.members import DEFAULT_VERSIONS, Member, MemberTable
from wesher_agent.wire.messages import State


def member(name: str, state: State = State.ALIVE, *, since: float = 0.0) -> Member:
    """Return some member."""
    return Member(name, Address("10.0.0.1", 7946), b"", 1, state, DEFAULT_VERSIONS, since)


def table_of(*members: Member) -> MemberTable:
    """Return a table that belongs to ``me``."""
    table = MemberTable("me", Random(1))
    for one in (member("me"), *members):
        table.put(one)
    return table


def never(_: Member) -> bool:
    return False


def test_every_living_member_has_its_turn_once_a_round() -> None:
    table = table_of(*(member(f"n{i}") for i in range(20)))
    table.next_to_probe(never)
    for _ in range(3):
        names = [m.name for m, _ in (table.next_to_probe(never) for _ in range(20)) if m]
        assert len(names) == 20
        assert "me" not in names
    # A newcomer anywhere in the ring shifts at most one other's turn.
    counts = Counter(m.name for m, _ in (table.next_to_probe(never) for _ in range(200)) if m)
    assert set(counts.values()) <= {9, 10, 11}


def test_the_order_changes_from_round_to_round() -> None:
    table = table_of(*(member(f"n{i}") for i in range(20)))
    rounds = [[m.name for m, _ in (table.next_to_probe(never) for _ in range(20)) if m] for _ in range(3)]

    assert rounds[1] != rounds[2]


def test_gone_members_have_no_turn() -> None:
    table = table_of(member("d", State.DEAD), member("l", State.LEFT), member("s", State.SUSPECT))

    assert {m.name for m, _ in (table.next_to_probe(never) for _ in range(9)) if m} == {"s"}


def test_a_table_of_one_has_no_turns() -> None:
    assert table_of().next_to_probe(never) == (None, [])


def test_old_dead_members_are_dropped_when_the_round_ends() -> None:
    table = table_of(member("old", State.DEAD, since=1.0), member("new", State.LEFT, since=9.0), member("a"))

    dropped = [gone for _ in range(5) for gone in table.next_to_probe(lambda m: m.state_change < 5.0)[1]]

    assert [m.name for m in dropped] == ["old"]
    assert set(table.view) == {"me", "new", "a"}


def test_the_table_never_drops_its_owner() -> None:
    table = table_of()
    table.put(member("me", State.LEFT))

    for _ in range(3):
        assert table.next_to_probe(lambda _: True) == (None, [])
    assert set(table.view) == {"me"}


def test_members_are_picked_at_random_and_none_twice() -> None:
    table = table_of(*(member(f"n{i}") for i in range(40)))
    counts: Counter[str] = Counter()
    for _ in range(1000):
        picked = [m.name for m in table.pick(3, lambda m: m.name != "n0")]
        assert len(set(picked)) == 3
        counts.update(picked)

    assert set(counts) == {f"n{i}" for i in range(1, 40)}
    assert max(counts.values()) < 2 * min(counts.values())


def test_among_few_all_that_are_eligible_are_found() -> None:
    table = table_of(*(member(f"n{i}", State.DEAD) for i in range(5)), member("a"), member("b"))

    for _ in range(50):
        assert {m.name for m in table.pick(3, lambda m: not m.is_gone)} == {"a", "b"}
