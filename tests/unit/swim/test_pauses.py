"""Saying something to one only once in a while."""

from __future__ import annotations

from wesher_agent.swim.pauses import Pauses


def test_each_is_told_once_in_a_pause() -> None:
    pauses = Pauses(1.0, 10)
    said = [pauses.allow("x", now=tenth / 10) for tenth in range(25)]

    assert [tenth for tenth, allowed in enumerate(said) if allowed] == [0, 10, 20]
    assert pauses.allow("y", now=2.4)


def test_what_is_remembered_ends_with_the_pause_and_has_a_limit() -> None:
    pauses = Pauses(1.0, 10)
    for number in range(50):
        assert pauses.allow(number, now=0.0) == (number < 10)
    assert len(pauses) == 10

    assert pauses.allow("later", now=1.0)
    assert len(pauses) == 1
