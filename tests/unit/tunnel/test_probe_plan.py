"""Whom an agent probes when, and what it concludes, in time that is a number."""

from __future__ import annotations

from random import Random

import pytest

from wesher_agent.tunnel.probe_plan import AGAIN_SECONDS, ANSWER_SECONDS, ROUND_SECONDS, ProbePlan


def plan_for(*peers: str) -> ProbePlan:
    plan = ProbePlan(Random(1))
    plan.set_peers(peers, now=0.0)
    return plan


def answered(plan: ProbePlan, peers: list[str], *, now: float) -> None:
    """Let probes go out and all peers answer them."""
    plan.due({}, now=now)
    plan.judge(dict.fromkeys(peers, 100), now=now + 1)


def test_everybody_is_asked_at_once_after_the_start() -> None:
    peers = [f"p{number}" for number in range(20)]
    assert sorted(plan_for(*peers).due({}, now=0.0)) == sorted(peers)


def test_later_a_few_are_asked_each_round_until_all_had_their_turn() -> None:
    peers = [f"p{number}" for number in range(20)]
    plan = plan_for(*peers)
    answered(plan, peers, now=0.0)
    received, asked = dict.fromkeys(peers, 100), []
    for turn in range(1, 5):
        now = turn * ROUND_SECONDS
        assert plan.due(received, now=now - 0.1) == []
        wanted = plan.due(received, now=now)
        assert len(wanted) == 5  # log2 of 20
        asked += wanted
        received.update({peer: received[peer] + 1 for peer in wanted})
        plan.judge(received, now=now + 1)
    assert sorted(asked) == sorted(peers)


def test_a_peer_from_which_bytes_came_since_is_reachable() -> None:
    plan = plan_for("a", "b")
    plan.due({"a": 50, "b": 50}, now=0.0)
    assert not plan.judge({"a": 51, "b": 50}, now=1.0)
    assert plan.reachable == {"a"}
    assert plan.unreachable == ()


def test_a_peer_whose_counter_starts_over_is_reachable_once_bytes_came() -> None:
    """As that of a member that was installed again, under its name and with a new key."""
    plan = plan_for("a")
    plan.due({"a": 5000}, now=0.0)
    plan.judge({"a": 0}, now=1.0)
    assert plan.reachable == set()
    plan.judge({"a": 92}, now=3.0)
    assert plan.reachable == {"a"}


INITIATION, PROBE = 148, 96


@pytest.mark.parametrize("sent", [INITIATION, PROBE, 2 * INITIATION, 3 * INITIATION + PROBE])
def test_what_a_peer_sends_that_receives_nothing_is_not_an_answer(sent: int) -> None:
    """Packets from this node are lost on their way, and the peer asks and begins handshakes in vain."""
    plan = plan_for("a")
    plan.due({"a": 1000}, now=0.0)
    plan.judge({"a": 1000 + sent}, now=7.0)
    assert plan.reachable == frozenset()
    plan.judge({"a": 1000 + sent}, now=ANSWER_SECONDS)
    assert plan.unreachable == ("a",)


@pytest.mark.parametrize("answer", [32, 92, 112, 144], ids=["keepalive", "response", "icmp", "icmpv6"])
@pytest.mark.parametrize("more", [0, PROBE, INITIATION, INITIATION + PROBE, 2 * INITIATION])
def test_an_answer_counts_whatever_the_peer_sends_besides(answer: int, more: int) -> None:
    plan = plan_for("a")
    plan.due({"a": 1000}, now=0.0)
    plan.judge({"a": 1000 + answer + more}, now=1.0)
    assert plan.reachable == {"a"}


def test_a_peer_has_its_whole_time_from_when_its_probe_has_left() -> None:
    plan = plan_for("a", "b")
    plan.sent(plan.due({}, now=0.0), now=6.0)
    plan.judge({"a": 1}, now=ANSWER_SECONDS + 5.9)
    assert (plan.reachable, plan.unreachable) == ({"a"}, ())
    plan.judge({"a": 1}, now=ANSWER_SECONDS + 6.0)
    assert plan.unreachable == ("b",)


def test_the_beginning_is_over_once_each_of_its_peers_has_answered_or_had_its_time() -> None:
    plan = plan_for("a", "b")
    plan.due({}, now=0.0)
    assert not plan.judge({"a": 1}, now=1.0)
    plan.set_peers(["a", "b", "late"], now=2.0)
    plan.due({"a": 1}, now=2.0)
    assert not plan.is_settled
    assert plan.judge({"a": 1}, now=ANSWER_SECONDS)
    assert plan.is_settled


def test_a_device_made_anew_at_the_beginning_has_everybody_asked_again_first() -> None:
    plan = plan_for("a")
    plan.due({}, now=0.0)
    plan.start_over(now=1.0)
    plan.judge({}, now=1.0)
    assert not plan.is_settled
    plan.due({}, now=1.0)
    assert plan.judge({"a": 1}, now=2.0)
    assert plan.is_settled


def test_a_peer_that_stays_silent_is_unreachable_and_asked_again_soon() -> None:
    plan = plan_for("a", "b", "c")
    plan.due({}, now=0.0)
    plan.judge({"a": 1, "b": 1}, now=1.0)
    assert not plan.judge({"a": 1, "b": 1}, now=ANSWER_SECONDS - 0.1)
    assert plan.judge({"a": 1, "b": 1}, now=ANSWER_SECONDS)
    assert plan.unreachable == ("c",)
    assert not plan.mostly_failing
    assert "c" in plan.due({"a": 1, "b": 1}, now=ROUND_SECONDS)
    assert not plan.judge({"a": 2, "b": 2}, now=ROUND_SECONDS + 1)
    assert plan.next_timer() == ROUND_SECONDS + AGAIN_SECONDS
    assert plan.judge({"a": 2, "b": 2, "c": 1}, now=ROUND_SECONDS + 2)
    assert plan.unreachable == ()


def test_most_probes_fail_only_when_more_than_half_do() -> None:
    plan = plan_for("a", "b")
    plan.due({}, now=0.0)
    plan.judge({"a": 1}, now=ANSWER_SECONDS)
    assert plan.unreachable == ("b",)
    assert not plan.mostly_failing
    alone = plan_for("b")
    alone.due({}, now=0.0)
    alone.judge({}, now=ANSWER_SECONDS)
    assert alone.mostly_failing


def test_a_newcomer_is_asked_at_once_and_who_went_counts_no_more() -> None:
    plan = plan_for("a", "b")
    plan.due({}, now=0.0)
    plan.judge({"a": 1}, now=ANSWER_SECONDS)
    plan.set_peers(["a", "c"], now=20.0)
    assert plan.unreachable == ()
    assert plan.next_timer() == 20.0
    assert "c" in plan.due({"a": 1}, now=20.0)


def test_starting_over_asks_everybody_again() -> None:
    plan = plan_for("a", "b")
    answered(plan, ["a", "b"], now=0.0)
    plan.start_over(now=5.0)
    assert plan.reachable == frozenset()
    assert sorted(plan.due({"a": 100, "b": 100}, now=5.0)) == ["a", "b"]


def test_everybody_can_be_asked_without_forgetting_who_answered() -> None:
    plan = plan_for("a", "b")
    answered(plan, ["a", "b"], now=0.0)
    plan.ask_everyone(now=5.0)
    assert plan.next_timer() == 5.0
    assert plan.due({"a": 100, "b": 100}, now=5.0) == ["a", "b"]
    assert plan.reachable == {"a", "b"}
    plan.judge({"a": 101, "b": 101}, now=6.0)
    assert plan.due({"a": 101, "b": 101}, now=6.0) == [], "once"


def test_quick_is_who_answered_its_last_probe_at_once() -> None:
    plan = plan_for("a", "b")
    plan.due({}, now=0.0)
    plan.judge({"a": 1}, now=1.0)
    assert plan.quick == {"a"}
    plan.judge({"a": 1, "b": 1}, now=11.0)
    assert (plan.quick, plan.reachable) == ({"a"}, {"a", "b"})
    plan.ask_everyone(now=20.0)
    plan.due({"a": 1, "b": 1}, now=20.0)
    plan.judge({"a": 1, "b": 2}, now=23.0)
    assert plan.quick == {"a"}, "its path may be cut"
    plan.judge({"a": 33, "b": 2}, now=30.0)
    assert plan.quick == frozenset(), "its firewall was closed meanwhile"
    plan.set_peers([], now=24.0)
    assert plan.quick == frozenset()


def test_with_nobody_there_is_nothing_to_do() -> None:
    plan = plan_for()
    assert plan.next_timer() is None
    assert plan.due({}, now=0.0) == []
    assert not plan.mostly_failing


def looks(plan: ProbePlan, peers: list[str], dead: set[str], *, seconds: float) -> list[float]:
    """Probe as `prober` does; return when it read the device. The living answer within half a second."""
    received, now, made = dict.fromkeys(peers, 0), 0.0, []
    while now < seconds:
        made.append(now)
        plan.judge(received, now=now)
        wanted = plan.due(received, now=now)
        now += 0.005 * len(wanted)
        plan.sent(wanted, now=now)
        received.update({peer: received[peer] + 1 for peer in wanted if peer not in dead})
        timer = plan.next_timer()
        assert timer is not None
        now = max(now + 1.0, timer)
    return made


@pytest.mark.parametrize("dead", [0, 1, 10, 999, 1000])
def test_however_many_peers_are_dead_the_device_is_read_a_few_times_each_round(dead: int) -> None:
    """Each look reads every peer of the device: 25 ms for a thousand."""
    peers = [f"p{number}" for number in range(1000)]
    plan = plan_for(*peers)
    silent = set(peers[:dead])
    first = looks(plan, peers, silent, seconds=60.0)
    assert plan.unreachable == tuple(sorted(silent))
    settled = [when for when in looks(plan, peers, silent, seconds=600.0) if when > 60.0]
    rounds = 540.0 / (AGAIN_SECONDS if dead else ROUND_SECONDS)
    assert len(first) <= 15
    assert len(settled) <= 2 * rounds + 3


def test_answers_are_looked_for_ever_more_rarely_until_their_time_is_over() -> None:
    assert looks(plan_for("a", "b"), ["a", "b"], {"b"}, seconds=ANSWER_SECONDS + 0.1)[:5] == pytest.approx(
        [0.0, 1.01, 3.01, 7.01, ANSWER_SECONDS + 0.01]
    )


def test_a_dead_peer_that_comes_back_is_noticed_with_the_next_round() -> None:
    plan = plan_for("a")
    looks(plan, ["a"], {"a"}, seconds=30.0)
    assert plan.unreachable == ("a",)
    back = ProbePlan(Random(1))
    back.set_peers(["a"], now=0.0)
    looks(back, ["a"], {"a"}, seconds=ANSWER_SECONDS + 1.0)
    timer = back.next_timer()
    assert timer is not None
    back.due({"a": 0}, now=timer)
    assert back.next_timer() == timer + ANSWER_SECONDS
    back.judge({"a": 1}, now=timer + ANSWER_SECONDS)
    assert back.reachable == {"a"}
