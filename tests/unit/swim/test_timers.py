"""The table of deadlines."""

from __future__ import annotations

from wesher_agent.swim.timers import Kind, Timer, Timers

PROBE, GOSSIP = Timer(Kind.PROBE), Timer(Kind.GOSSIP)


def test_deadlines_come_in_order_and_not_before_their_time() -> None:
    timers = Timers()
    timers.set(PROBE, 2.0)
    timers.set(GOSSIP, 1.0)

    assert timers.next() == 1.0
    assert timers.pop_due(0.9) is None
    assert [timers.pop_due(2.0) for _ in range(3)] == [GOSSIP, PROBE, None]


def test_equal_deadlines_come_in_the_order_they_were_set() -> None:
    timers = Timers()
    for name in "bca":
        timers.set(Timer(Kind.SUSPICION, name), 1.0)

    due = [timers.pop_due(1.0) for _ in range(3)]
    assert [timer.subject for timer in due if timer] == ["b", "c", "a"]


def test_a_deadline_that_is_set_again_moves_either_way() -> None:
    timers = Timers()
    timers.set(PROBE, 1.0)
    timers.set(PROBE, 3.0)
    assert timers.next() == 3.0
    timers.set(PROBE, 2.0)

    assert timers.pop_due(2.0) == PROBE
    assert timers.next() is None


def test_a_cancelled_deadline_never_comes() -> None:
    timers = Timers()
    timers.set(PROBE, 1.0)
    timers.cancel(PROBE)
    timers.cancel(GOSSIP)

    assert PROBE not in timers
    assert timers.pop_due(9.0) is None


def test_moving_one_deadline_for_ever_takes_no_memory() -> None:
    timers = Timers()
    for at in range(10_000):
        timers.set(PROBE, float(at))

    assert len(timers._heap) < 100
    assert timers.next() == 9999.0
