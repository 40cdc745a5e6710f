from __future__ import annotations

from datetime import UTC, datetime, timedelta

from wesher_operator.reconcile.publish import EventBudget

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def test_a_mesh_that_flaps_all_day_causes_a_bounded_number_of_events() -> None:
    budget = EventBudget()
    told = sum(budget.spend(NOW + timedelta(seconds=second)) for second in range(0, 86_400, 10))
    assert told == 25 + 86_400 // 300 - 1


def test_a_mesh_that_is_quiet_for_long_may_tell_as_much_as_a_new_one_and_no_more() -> None:
    budget = EventBudget()
    assert [budget.spend(NOW) for _ in range(26)] == [True] * 25 + [False]
    later = NOW + timedelta(days=7)
    assert [budget.spend(later) for _ in range(26)] == [True] * 25 + [False]
