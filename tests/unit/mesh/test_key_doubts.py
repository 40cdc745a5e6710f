"""What shows that others have another cluster key, and what does not."""

from __future__ import annotations

from wesher_agent.mesh.key_doubts import MOST, KeyDoubts
from wesher_agent.swim.address import Address
from wesher_agent.swim.events import Event, PacketRejected, PushPullDone, PushPullFailed, UnreadableStream

SEED = Address("192.0.2.1", 7946)
EXPECTED = {SEED.ip}
CLOSED = PushPullFailed(SEED, join=True, error="connection closed without an answer", unanswered=True)
REFUSED = PushPullFailed(SEED, join=True, error="connection refused")


def after(*events: Event) -> str:
    doubts = KeyDoubts()
    for event in events:
        former = doubts.address
        assert doubts.observe(event, EXPECTED) is (doubts.address != former)
    return doubts.address


def test_an_answer_that_does_not_open_shows_it_at_once() -> None:
    assert after(UnreadableStream(SEED, asked_for=True)) == str(SEED)


def test_a_request_that_does_not_open_shows_it_only_from_where_we_dial() -> None:
    """Anyone can seal a request with any key."""
    dialler = Address(SEED.ip, 40_000)
    assert after(UnreadableStream(dialler, asked_for=False)) == str(dialler)
    assert after(UnreadableStream(Address("192.0.2.66", 7946), asked_for=False)) == ""


def test_a_host_that_later_fails_in_another_way_is_not_named() -> None:
    shown = UnreadableStream(SEED, asked_for=True)
    assert after(shown, REFUSED) == ""
    assert after(REFUSED, shown) == str(SEED)


def test_datagrams_show_nothing_since_their_sender_can_be_forged() -> None:
    assert after(*[PacketRejected("wrong-key", SEED)] * 9) == ""


def test_two_requests_in_a_row_that_are_closed_unanswered_show_it() -> None:
    assert after(CLOSED) == ""
    assert after(CLOSED, CLOSED) == str(SEED)
    assert after(CLOSED, REFUSED, CLOSED) == ""
    assert after(CLOSED, CLOSED, REFUSED) == ""


def test_an_exchange_that_succeeds_ends_every_doubt() -> None:
    done = PushPullDone(SEED, join=True, members=3)
    assert after(UnreadableStream(SEED, asked_for=True), CLOSED, CLOSED, done) == ""


def test_what_is_remembered_is_bounded() -> None:
    doubts = KeyDoubts()
    for number in range(9 * MOST):
        address = Address(f"10.0.{number // 256}.{number % 256}", 7946)
        doubts.observe(UnreadableStream(address, asked_for=True), EXPECTED)
        doubts.observe(PushPullFailed(address, join=True, error="", unanswered=True), EXPECTED)
    assert len(doubts._proven) == len(doubts._unanswered) == MOST
