"""When an agent reports, in time that is a number."""

from __future__ import annotations

from random import Random

from wesher_agent.kube.schedule import ADMISSION_BURST, BURST, IDLE_SECONDS, REFILL_SECONDS, ReportSchedule


def at_rest(*, seed: int = 1, members: int = 3) -> ReportSchedule:
    """Return a schedule whose first report went out at 0."""
    schedule = ReportSchedule(Random(seed), now=0.0)
    schedule.observe("own", "view", members=members, now=0.0)
    assert schedule.next_report(now=0.0) == 0.0
    schedule.reported(now=0.0)
    return schedule


def test_a_change_of_our_own_state_is_due_at_once() -> None:
    schedule = at_rest()
    schedule.observe("other", "view", members=3, now=50.0)
    assert schedule.next_report(now=50.0) == 50.0


def test_a_change_of_what_we_see_is_spread_over_a_window_that_grows_with_the_mesh() -> None:
    for members, window in ((3, 10.0), (1000, 300.0)):
        moments = []
        for seed in range(200):
            schedule = at_rest(seed=seed, members=members)
            schedule.observe("own", "other", members=members, now=20.0)
            moments.append(schedule.next_report(now=20.0) - 20.0)
        assert 0.0 <= min(moments) < window * 0.1
        limit = min(window, IDLE_SECONDS * 1.5)
        assert window * 0.4 < max(moments) <= limit


def test_more_news_do_not_put_a_planned_report_off() -> None:
    schedule = at_rest()
    schedule.observe("own", "view 1", members=3, now=20.0)
    planned = schedule.next_report(now=20.0)
    for number in range(10):
        schedule.observe("own", f"news {number}", members=3, now=planned - 0.01)
    assert schedule.next_report(now=planned - 0.01) <= planned


def test_with_nothing_new_a_report_goes_out_every_five_minutes_give_or_take_half() -> None:
    waits = {at_rest(seed=seed).next_report(now=1.0) for seed in range(200)}
    assert IDLE_SECONDS * 0.5 <= min(waits) < IDLE_SECONDS * 0.6
    assert IDLE_SECONDS * 1.4 < max(waits) <= IDLE_SECONDS * 1.5


def test_a_state_that_flaps_may_report_a_few_times_and_then_must_wait() -> None:
    schedule, reports = at_rest(), 0
    for step in range(600):
        now = step * 0.1
        schedule.observe(f"own {step}", "view", members=3, now=now)
        if schedule.next_report(now=now) <= now:
            schedule.reported(now=now)
            reports += 1
    assert reports == BURST - 1 + 60 // REFILL_SECONDS - 1


def test_a_report_that_fails_is_tried_again_later_and_later_up_to_a_minute_or_so() -> None:
    schedule, now, waits = at_rest(), 0.0, []
    for _ in range(12):
        schedule.failed(now=now)
        wait = schedule.next_report(now=now) - now
        waits.append(wait)
        now += wait
    assert waits[0] <= 1.5
    assert waits[-1] <= 90.0
    assert waits[0] < waits[-1]


def test_an_api_server_that_is_away_for_days_is_asked_about_once_a_minute_to_the_end() -> None:
    schedule, now = at_rest(), 0.0
    while now < 3 * 24 * 3600.0:
        schedule.failed(now=now)
        wait = schedule.next_report(now=now) - now
        assert wait <= 90.0
        now += wait


def test_what_the_operator_admits_members_by_is_due_at_once() -> None:
    schedule = at_rest()
    schedule.observe("own", "other", admission=("laptop", "key"), members=1000, now=50.0)
    assert schedule.next_report(now=50.0) == 50.0
    schedule.reported(now=50.0)
    schedule.observe("own", "other", admission=("laptop", "key"), members=1000, now=60.0)
    assert schedule.next_report(now=60.0) > 60.0


def test_invented_members_hold_up_no_change_of_the_node_itself() -> None:
    """A holder of the cluster key can announce another one every second."""
    schedule, reports = at_rest(members=1000), 0
    for second in range(1, 60):
        schedule.observe("own", f"view {second}", admission=second, members=1000, now=float(second))
        if schedule.next_report(now=float(second)) <= second:
            schedule.reported(now=float(second))
            reports += 1
    assert ADMISSION_BURST <= reports <= ADMISSION_BURST + 3
    schedule.observe("changed", "view 59", admission=59, members=1000, now=60.0)
    assert schedule.next_report(now=60.0) == 60.0
