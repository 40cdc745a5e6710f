"""The transmit-limited queue; stories and numbers are those of Go's queue_test.go."""

from __future__ import annotations

import pytest

from wesher_agent.swim.broadcasts import Broadcasts, retransmit_limit
from wesher_agent.swim.exchange import push_pull_scale


@pytest.mark.parametrize(("n", "limit"), [(0, 0), (1, 3), (9, 3), (10, 6), (99, 6), (100, 9)])
def test_each_piece_is_sent_by_the_logarithm_of_members(n: int, limit: int) -> None:
    """As TestUtil_retransmitLimit: 3 for n = 1, 6 for n = 99."""
    assert retransmit_limit(3, n) == limit


@pytest.mark.parametrize(("n", "factor"), [(16, 1), (32, 1), (33, 2), (64, 2), (65, 3), (128, 3), (500, 5)])
def test_exchanges_get_rarer_with_every_doubling_past_32(n: int, factor: int) -> None:
    """As TestUtil_pushPullScale."""
    assert push_pull_scale(30.0, n) == 30.0 * factor


def filled(mult: int, *names: str) -> Broadcasts:
    """Return a queue of 18-byte messages, one a name."""
    broadcasts = Broadcasts(mult)
    for number, name in enumerate(names, 1):
        broadcasts.queue(name, b"%d. this is a test." % number)
    return broadcasts


def test_as_many_messages_are_taken_as_fit_with_their_overhead() -> None:
    broadcasts = filled(3, "test", "foo", "bar", "baz")

    assert len(broadcasts.take(overhead=2, limit=80, n=10)) == 4
    assert len(broadcasts.take(overhead=3, limit=80, n=10)) == 3


def test_messages_end_after_their_transmits_and_the_least_sent_go_first() -> None:
    broadcasts = filled(1, "test", "foo", "bar", "baz")

    rounds = [broadcasts.take(overhead=3, limit=80, n=10) for _ in range(4)]

    assert [len(taken) for taken in rounds] == [3, 3, 2, 0]
    assert b"1. this is a test." not in rounds[0], "the newest go first"
    assert rounds[1][0] == b"1. this is a test.", "it was never sent, so now it leads"
    assert len(broadcasts) == 0


def test_a_newer_message_replaces_the_older_of_its_name() -> None:
    broadcasts = filled(1, "test", "foo", "bar")

    broadcasts.queue("test", b"newer")

    assert len(broadcasts) == 3
    assert sorted(broadcasts.take(overhead=0, limit=1000, n=1)) == [
        b"2. this is a test.",
        b"3. this is a test.",
        b"newer",
    ]


def test_a_replaced_message_starts_its_transmits_anew() -> None:
    broadcasts = filled(2, "test")
    broadcasts.take(overhead=0, limit=100, n=1)

    broadcasts.queue("test", b"newer")

    assert [broadcasts.take(overhead=0, limit=100, n=1) for _ in range(3)] == [[b"newer"], [b"newer"], []]


def test_among_equals_the_longest_that_fits_goes_first_then_the_newest() -> None:
    broadcasts = Broadcasts(1)
    for name, message in [("a", b"aa"), ("b", b"bbbb"), ("c", b"cc"), ("d", b"dddddddd")]:
        broadcasts.queue(name, message)

    assert broadcasts.take(overhead=0, limit=9, n=1) == [b"dddddddd"]
    assert broadcasts.take(overhead=0, limit=9, n=1) == [b"bbbb", b"cc", b"aa"]


def test_no_message_is_taken_twice_for_one_packet() -> None:
    broadcasts = filled(4, "test")

    assert len(broadcasts.take(overhead=2, limit=1400, n=1000)) == 1


def test_a_message_that_fits_nowhere_waits_and_lets_others_pass() -> None:
    broadcasts = Broadcasts(1)
    broadcasts.queue("big", bytes(100))
    broadcasts.queue("small", b"s")

    assert broadcasts.take(overhead=2, limit=50, n=1) == [b"s"]
    assert "big" in broadcasts


def test_discarded_news_is_not_sent() -> None:
    broadcasts = filled(4, "test", "foo")

    broadcasts.discard("test")
    broadcasts.discard("unknown")

    assert broadcasts.take(overhead=0, limit=1000, n=1) == [b"2. this is a test."]
