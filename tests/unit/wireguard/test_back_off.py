"""How often a program that fails is started again, in time that is a number."""

from __future__ import annotations

from itertools import pairwise

import pytest

from wesher_agent.wireguard.back_off import FIRST_DELAY, LONGEST_DELAY, STEADY_SECONDS, BackOff

HOUR = 3600


def attempts(
    back_off: BackOff, *, seconds: int, callers: int = 1, runs_for: float | None = None
) -> list[float]:
    """Return when a program was started, if callers ask ten times a second.

    Args:
        back_off: what they ask.
        seconds: for how long.
        callers: how many ask at each moment.
        runs_for: how long the program runs before it exits; None means it cannot be started.

    """
    made: list[float] = []
    ends = None
    for tenth in range(10 * seconds):
        now = tenth / 10
        if ends is not None and now >= ends:
            back_off.failed(now=now)
            ends = None
        for _ in range(callers):
            if ends is not None or back_off.remaining(now=now):
                continue
            made.append(now)
            if runs_for is None:
                back_off.failed(now=now)
            else:
                back_off.running(now=now)
                ends = now + runs_for
    return made


@pytest.mark.parametrize("callers", [1, 2, 5])
def test_a_program_that_cannot_be_started_is_tried_ever_more_rarely_however_many_ask(callers: int) -> None:
    made = attempts(BackOff(), seconds=HOUR, callers=callers)
    assert len(made) <= HOUR / LONGEST_DELAY + 8
    pauses = [round(later - earlier, 1) for earlier, later in pairwise(made)][1:]
    assert pauses == sorted(pauses)
    assert pauses[-1] == pytest.approx(LONGEST_DELAY, abs=0.2)


def test_a_program_that_exits_at_once_is_tried_as_rarely() -> None:
    assert len(attempts(BackOff(), seconds=HOUR, runs_for=0.1)) <= HOUR / LONGEST_DELAY + 8


def test_a_program_that_exits_after_a_steady_run_is_started_again_at_once() -> None:
    back_off = BackOff()
    for _ in range(5):
        back_off.failed(now=0.0)
    back_off.running(now=100.0)
    assert back_off.retry_at is None
    back_off.failed(now=100.0 + STEADY_SECONDS)
    assert back_off.remaining(now=100.0 + STEADY_SECONDS) == 0.0
    back_off.failed(now=100.0 + STEADY_SECONDS)
    assert back_off.remaining(now=100.0 + STEADY_SECONDS) == FIRST_DELAY


def test_a_refused_start_after_a_steady_run_is_not_taken_for_another_steady_run() -> None:
    """The time of the run that came before says nothing about the attempts that failed since."""
    back_off = BackOff()
    back_off.running(now=0.0)
    back_off.failed(now=1000.0)
    delays = []
    for turn in range(4):
        back_off.failed(now=2000.0 + 100 * turn)
        delays.append(back_off.remaining(now=2000.0 + 100 * turn))
    assert delays == [0.5, 1.0, 2.0, 4.0]
