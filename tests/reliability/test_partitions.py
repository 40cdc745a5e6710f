"""A mesh torn in two becomes one again by itself, beside Go's memberlist under the same cut."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

import pytest

from wesher_testing.agents.partitions import ALONE, GO, LENGTHS, SEEDED, Cut, Result
from wesher_testing.run.soak import soaking

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]

WITHIN, WITH_SEEDS = 60.0, 30.0
"""Seconds after healing in which all must be as before: by itself, and with a seed to ask."""
ALL_OF_IT = soaking(600.0, 7200.0)
"""Seconds in which the cuts, which began before the first test, must have been made and measured."""


@pytest.fixture(scope="module")
def result(cuts: Future[Result]) -> Result:
    return cuts.result(ALL_OF_IT)


@pytest.fixture(params=LENGTHS, ids=lambda seconds: f"{seconds:.0f}s")
def cut(request: pytest.FixtureRequest, result: Result) -> Cut:
    made: Cut = result.cuts[request.param]
    return made


def test_two_halves_are_one_mesh_with_tunnels_a_minute_after_the_cut(
    cut: Cut, say: Callable[[str], None]
) -> None:
    say(str(cut))
    whole = cut.whole[ALONE]
    assert whole is not None
    assert whole <= cut.stretch * WITHIN


def test_half_a_minute_is_enough_where_a_seed_can_be_asked(cut: Cut) -> None:
    whole = cut.whole[SEEDED]
    assert whole is not None
    assert whole <= cut.stretch * WITH_SEEDS


def test_the_cut_was_one_that_both_kinds_of_member_saw(result: Result) -> None:
    """Else the comparison says nothing; whether Go's halves meet again is shown, and is its own affair."""
    longest = result.cuts[max(result.cuts)]
    assert None not in (longest.split[ALONE], longest.split[SEEDED], longest.split[GO])


def test_nothing_of_the_overlay_was_readable_on_the_underlay(
    result: Result, say: Callable[[str], None]
) -> None:
    say(str(result.seen))
    assert result.seen.encrypted > 0
    assert result.seen.in_clear == 0


def test_a_cut_leaves_a_line_a_member_and_is_counted(result: Result) -> None:
    assert "member failed node=f0 by=" in result.log
    assert result.log.count("member joined node=f0 ") >= 2
    assert result.counts["membersFailed"] >= 4
    assert result.counts["membersReturned"] >= 4
