"""What of an earlier run counts for the next one."""

from __future__ import annotations

import pytest

from wesher_agent.mesh.saved_state import first_incarnation


def test_incarnations_only_rise_even_when_the_clock_goes_back_or_the_state_is_lost() -> None:
    assert first_incarnation(wall_clock=1_700_000_000.5, saved=0) == 1_700_000_000
    assert first_incarnation(wall_clock=1000.0, saved=1_700_000_000) == 1_700_000_001
    assert first_incarnation(wall_clock=0.0, saved=0) == 1


@pytest.mark.parametrize("last", [2**32 - 1, 2**32 - 2, 2**32 - 100])
def test_no_run_begins_near_the_last_incarnation_for_an_attack_or_a_wrong_clock(last: int) -> None:
    """There nothing could be said any more, run after run."""
    assert first_incarnation(wall_clock=1_700_000_000.0, saved=last) == 1_700_000_000
    assert first_incarnation(wall_clock=float(last), saved=1_700_000_000) == 1_700_000_001
    assert first_incarnation(wall_clock=2.0**40, saved=last) == 1
