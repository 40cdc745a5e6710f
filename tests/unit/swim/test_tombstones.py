"""What is remembered of the gone: for a day, up to a number, and told on by those who saw them go."""

from __future__ import annotations

from random import Random

import pytest

from wesher_agent.swim.address import Address
from wesher_agent.swim.members import MAX_INCARNATION
from wesher_agent.swim.tombstones import KEPT_SECONDS, TOLD, Tombstone, Tombstones

WHERE = Address("10.0.0.2", 7946)


def tombstone(name: str, incarnation: int = 5, age: float = 0.0, *, left: bool = False) -> Tombstone:
    return Tombstone(name=name, incarnation=incarnation, address=WHERE, age=age, left=left)


@pytest.fixture
def kept() -> Tombstones:
    return Tombstones(4, Random(1))


def test_a_tombstone_counts_for_a_day_from_the_members_end(kept: Tombstones) -> None:
    kept.bury(tombstone("x", age=100.0), now=1000.0)

    assert kept.last_incarnation("x", now=900.0 + KEPT_SECONDS - 1) == 5
    assert kept.last_incarnation("x", now=900.0 + KEPT_SECONDS) == 0
    assert len(kept) == 0


def test_what_is_over_is_neither_told_nor_saved(kept: Tombstones) -> None:
    kept.bury(tombstone("old"), now=0.0)
    kept.bury(tombstone("new"), now=100.0)
    kept.hear("hearsay", 3, left=False, now=0.0)

    assert [t.name for t in kept.told(most=9, now=KEPT_SECONDS)] == ["new"]
    assert list(kept.ours(now=KEPT_SECONDS)) == [tombstone("new", age=KEPT_SECONDS - 100.0)]
    assert len(kept) == 1


def test_hearsay_counts_but_is_not_told_on(kept: Tombstones) -> None:
    kept.hear("x", 5, left=False, now=0.0)

    assert kept.last_incarnation("x", now=1.0) == 5
    assert kept.told(most=9, now=1.0) == []
    assert list(kept.ours(now=1.0)) == []


def test_hearing_of_one_again_and_again_does_not_keep_it_for_longer(kept: Tombstones) -> None:
    """Else members would remind each other of it for ever."""
    kept.bury(tombstone("x"), now=0.0)
    kept.hear("y", 5, left=False, now=0.0)
    for hour in range(24):
        kept.hear("x", 5, left=False, now=hour * 3600.0)
        kept.hear("y", 5, left=False, now=hour * 3600.0)

    assert kept.last_incarnation("x", now=KEPT_SECONDS) == kept.last_incarnation("y", now=KEPT_SECONDS) == 0


@pytest.mark.parametrize(("known", "heard", "counts"), [(5, 7, 7), (7, 5, 7)])
def test_the_highest_incarnation_of_all_that_is_known_counts(
    kept: Tombstones, known: int, heard: int, counts: int
) -> None:
    kept.bury(tombstone("x", known), now=0.0)
    kept.hear("x", heard, left=False, now=1.0)
    kept.hear("y", heard, left=False, now=1.0)
    kept.bury(tombstone("y", known), now=2.0)

    assert kept.last_incarnation("x", now=3.0) == kept.last_incarnation("y", now=3.0) == counts
    assert {t.name: t.incarnation for t in kept.told(most=9, now=3.0)} == {"x": counts, "y": counts}
    assert len(kept) == 2


def test_there_is_none_that_nobody_could_pass(kept: Tombstones) -> None:
    kept.bury(tombstone("x", MAX_INCARNATION), now=0.0)
    kept.hear("y", MAX_INCARNATION, left=False, now=0.0)
    assert len(kept) == 0

    kept.bury(tombstone("x", MAX_INCARNATION - 1), now=0.0)
    kept.hear("x", MAX_INCARNATION, left=False, now=0.0)
    assert kept.last_incarnation("x", now=0.0) == MAX_INCARNATION - 1


@pytest.mark.parametrize("own", [True, False], ids=["seen go", "hearsay"])
@pytest.mark.parametrize(
    ("known", "heard", "left"),
    [
        ((5, False), (5, True), True),
        ((5, True), (5, False), True),
        ((5, True), (6, False), False),
        ((5, False), (6, True), True),
        ((6, False), (5, True), False),
        ((6, True), (5, False), True),
    ],
)
def test_whether_one_has_left_is_told_by_the_newest_and_a_leave_outdoes_a_death(
    kept: Tombstones, known: tuple[int, bool], heard: tuple[int, bool], *, left: bool, own: bool
) -> None:
    """In whichever order the two are learned."""
    if own:
        kept.bury(tombstone("x", known[0], left=known[1]), now=0.0)
    else:
        kept.hear("x", known[0], left=known[1], now=0.0)

    is_news = kept.hear("x", heard[0], left=heard[1], now=0.0)

    assert is_news == (heard[0] > known[0] or (heard[0] == known[0] and heard[1] > known[1]))
    assert not kept.hear("x", heard[0], left=heard[1], now=0.0), "it is none any more"
    kept.bury(tombstone("x", known[0], left=known[1]), now=1.0)
    [told] = kept.told(most=9, now=1.0)
    assert (told.incarnation, told.left) == (max(known[0], heard[0]), left)


def test_one_that_lives_again_has_none(kept: Tombstones) -> None:
    kept.bury(tombstone("x"), now=0.0)
    kept.hear("y", 5, left=False, now=0.0)
    kept.remove("x")
    kept.remove("y")

    assert "x" not in kept
    assert "y" not in kept
    assert kept.last_incarnation("x", now=0.0) == 0


def test_the_oldest_gives_way_and_hearsay_before_it(kept: Tombstones) -> None:
    kept.hear("hearsay", 5, left=False, now=0.0)
    for number, name in enumerate("abcd"):
        kept.bury(tombstone(name), now=float(number))
    assert "hearsay" not in kept
    kept.hear("more hearsay", 5, left=False, now=9.0)
    assert "more hearsay" not in kept

    kept.bury(tombstone("e"), now=10.0)

    assert [t.name for t in kept.ours(now=10.0)] == ["b", "c", "d", "e"]


def test_of_many_each_exchange_tells_others_until_all_are_told() -> None:
    many = Tombstones(4 * TOLD, Random(1))
    for number in range(2 * TOLD):
        many.bury(tombstone(f"n{number}"), now=0.0)

    told = [{t.name for t in many.told(most=10_000, now=0.0)} for _ in range(20)]

    assert {len(names) for names in told} == {TOLD}
    assert len(set().union(*told)) > 1.99 * TOLD


@pytest.mark.parametrize(("most", "told"), [(3, 3), (0, 0), (-5, 0), (10_000, 4)])
def test_no_more_are_told_than_there_is_room_for(kept: Tombstones, most: int, told: int) -> None:
    for name in "abcd":
        kept.bury(tombstone(name), now=0.0)

    assert len(kept.told(most=most, now=0.0)) == told
