"""What of an earlier run counts for the next one."""

from __future__ import annotations

import pytest

from wesher_agent.mesh.saved_state import SavedState, first_incarnation
from wesher_agent.swim.address import Address
from wesher_agent.swim.tombstones import Tombstone


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


HERE, GONE = (
    Address("192.0.2.1", 7946),
    Tombstone(name="d", incarnation=3, address=Address("192.0.2.4", 7946)),
)
STATE = SavedState(name="a", gossip_address=HERE, incarnation=7, tombstones=(GONE,))


def test_under_another_name_a_member_says_that_the_former_one_has_left() -> None:
    renamed = STATE.under_name("a.east")
    assert (renamed.name, renamed.incarnation, renamed.gossip_address) == ("a.east", 7, HERE)
    assert renamed.tombstones == (GONE, Tombstone(name="a", incarnation=7, address=HERE, left=True))


def test_under_its_own_name_a_member_has_left_nothing() -> None:
    assert STATE.under_name("a") == STATE
    assert SavedState(name="a").under_name("a.east").tombstones == (), "it never was in a mesh"
