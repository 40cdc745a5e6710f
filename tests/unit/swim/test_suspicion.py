"""How long a suspicion lasts; the numbers are those of Go's suspicion_test.go and util_test.go."""

from __future__ import annotations

import pytest

from wesher_agent.swim.suspicion import Suspicion, suspicion_timeout, timeout_after


@pytest.mark.parametrize(
    ("confirmations", "elapsed", "remaining"),
    [(0, 0, 30.0), (1, 2, 14.0), (2, 3, 4.810), (3, 4, -2.0), (4, 5, -3.0), (5, 10, -8.0)],
)
def test_the_time_left_falls_with_the_logarithm_of_confirmations(
    confirmations: int, elapsed: float, remaining: float
) -> None:
    timeout = timeout_after(confirmations, wanted=3, shortest=2.0, longest=30.0)
    assert timeout - elapsed == pytest.approx(remaining, abs=1e-9)


@pytest.mark.parametrize(
    ("voices", "news", "timeout"),
    [
        ([], [], 2.0),
        (["me", "foo"], [False, True], 1.25),
        (["me", "foo", "foo", "foo"], [False, True, False, False], 1.25),
        (["me", "foo", "bar"], [False, True, True], 0.81),
        (["me", "foo", "bar", "baz"], [False, True, True, True], 0.5),
        (["me", "foo", "bar", "baz", "zoo"], [False, True, True, True, False], 0.5),
    ],
)
def test_each_new_voice_counts_once_until_there_are_enough(
    voices: list[str], news: list[bool], timeout: float
) -> None:
    suspicion = Suspicion("me", wanted=3, shortest=0.5, longest=2.0, now=100.0)

    assert [suspicion.confirm(voice) for voice in voices] == news
    assert suspicion.deadline == pytest.approx(100.0 + timeout, abs=0.0015)
    assert suspicion.confirmations == sum(news)


def test_with_nobody_to_confirm_a_suspicion_is_short_from_the_start() -> None:
    suspicion = Suspicion("me", wanted=0, shortest=0.025, longest=30.0, now=0.0)

    assert suspicion.deadline == 0.025
    assert not suspicion.confirm("foo")


def test_a_late_confirmation_may_put_the_deadline_into_the_past() -> None:
    suspicion = Suspicion("me", wanted=1, shortest=0.1, longest=30.0, now=0.0)

    assert suspicion.confirm("foo")
    assert suspicion.deadline == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("n", "expected"), [(1, 3.0), (5, 3.0), (10, 3.0), (50, 5.094), (100, 6.0), (500, 8.094)]
)
def test_the_shortest_suspicion_grows_with_the_logarithm_of_members(n: int, expected: float) -> None:
    """As TestUtil_suspicionTimeout; Go cuts the logarithm after the third digit."""
    assert suspicion_timeout(3, n, 1.0) == pytest.approx(expected, abs=1e-9)
