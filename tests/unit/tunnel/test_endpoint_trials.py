"""At which endpoint a peer is sent to when it announces another one, in time that is a number."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from wesher_agent.mesh.device import Endpoint
from wesher_agent.tunnel.endpoint_trials import (
    AGAIN_SECONDS,
    FIRST_REST,
    HANDSHAKE_SECONDS,
    LONGEST_REST,
    PAUSES,
    SILENT_SECONDS,
    TRY_SECONDS,
    EndpointTrials,
)
from wesher_agent.tunnel.probe_plan import ANSWER_SECONDS
from wesher_agent.wireguard.plan import HANDSHAKE_FRESH, PeerSession
from wesher_common.keys import WireGuardPublicKey

WALL = 1_700_000_000.0
OLD, NEW, FORGED = (Endpoint(IPv4Address(f"198.51.100.{number}"), 51820) for number in (1, 2, 3))
KEY = WireGuardPublicKey(bytes(32))


class _World:
    """One peer and the device that has it, stepped as `endpoint_keeper` does."""

    def __init__(
        self, *, at: Endpoint | None = OLD, quick: bool = True, handshake: float | None = WALL
    ) -> None:
        self.at = at
        """Where the peer is; None is nowhere."""
        self.now = 0.0
        self.trials = EndpointTrials()
        self.trials.set_announced({"b": OLD}, now=0.0)
        self.session = PeerSession(KEY, endpoint=OLD, last_handshake=handshake)
        self.known: Endpoint | None = None
        """Where an earlier handshake proved it to be."""
        self.moves: list[tuple[float, Endpoint]] = []
        self.asked: list[float] = []
        self._quick = {"b"} if quick else set()

    def announce(self, endpoint: Endpoint) -> None:
        proven = {} if self.known is None or self.known == endpoint else {"b": self.known}
        self.trials.set_announced({"b": endpoint}, proven, now=self.now)

    def restart(self, announced: Endpoint) -> None:
        """Begin again with a device that has no session, at the proven endpoint."""
        self.trials, self.known = EndpointTrials(), OLD
        if self.at == OLD:
            self.session = replace(self.session, last_handshake=WALL)
        self.announce(announced)

    def run(self, until: float, *, at_each: Callable[[], None] = lambda: None) -> None:
        """Let time pass; a probe to where the peer is has been answered by the next look."""
        while (timer := self.trials.next_timer()) is not None and max(timer, self.now) <= until:
            self.now = max(timer, self.now)
            step = self.trials.step({"b": self.session}, self._quick, now=self.now, wall=WALL + self.now)
            if "b" in step.moves:
                self.moves.append((self.now, step.moves["b"]))
                self.session = replace(self.session, endpoint=step.moves["b"])
            if step.asks:
                self.asked.append(self.now)
            if step.asks and self.session.endpoint == self.at:
                shaken = self.session.last_handshake or WALL + self.now
                self.session = replace(
                    self.session, rx_bytes=self.session.rx_bytes + 32, last_handshake=shaken
                )
            at_each()
            self.now += 0.25
        self.now = until


def test_while_all_peers_are_where_they_announce_there_is_nothing_to_do() -> None:
    world = _World()
    world.announce(OLD)
    assert world.trials.next_timer() is None


def test_a_false_announcement_moves_no_peer_that_answers() -> None:
    world = _World()
    world.announce(FORGED)
    world.run(3600.0)
    assert world.moves == []
    assert len(world.asked) == 1 + len(PAUSES), "the questions end"


def test_a_flood_of_false_announcements_moves_no_peer_that_answers() -> None:
    world = _World()
    for number in range(100):
        world.announce(replace(FORGED, port=number + 1))
        world.run(world.now + 0.3)
    world.run(3600.0)
    assert world.moves == []


def test_a_peer_that_has_moved_is_followed_within_two_seconds() -> None:
    world = _World(at=NEW)
    world.announce(NEW)
    world.run(60.0)
    assert [endpoint for _, endpoint in world.moves] == [NEW]
    assert world.moves[0][0] <= SILENT_SECONDS + 0.25
    assert world.trials.next_timer() is None, "it answered there"


@pytest.mark.parametrize("after", [0.1, 1.0, 5.0, 14.0])
def test_a_peer_that_announces_its_move_too_early_is_followed_all_the_same(after: float) -> None:
    world = _World()
    world.announce(NEW)
    world.run(after)
    world.at = NEW
    world.run(60.0)
    assert [endpoint for _, endpoint in world.moves] == [NEW]
    assert world.moves[0][0] <= after + max(PAUSES) + SILENT_SECONDS + 0.5


def test_a_peer_whose_packets_come_from_its_new_endpoint_is_not_asked_again() -> None:
    """WireGuard learned it from them."""
    world = _World(at=NEW)
    world.session = replace(world.session, endpoint=NEW)
    world.announce(NEW)
    world.run(60.0)
    assert (world.moves, world.asked) == ([], [])


def test_where_nobody_answers_the_two_endpoints_alternate_ever_more_slowly() -> None:
    world = _World(at=None)
    world.announce(FORGED)

    def stay_fresh() -> None:
        world.session = replace(world.session, last_handshake=WALL + world.now)

    world.run(600.0, at_each=stay_fresh)
    assert [endpoint for _, endpoint in world.moves[:6]] == [FORGED, OLD] * 3
    times = [when for when, _ in world.moves]
    stays = [after - before for before, after in itertools.pairwise(times)]
    assert stays[0::2] == pytest.approx([TRY_SECONDS] * len(stays[0::2]), abs=0.3)
    rests = [min(FIRST_REST * 2**number, LONGEST_REST) for number in range(len(stays[1::2]))]
    assert stays[1::2] == pytest.approx(rests, abs=0.3)
    assert rests[-1] == LONGEST_REST


def test_a_peer_that_comes_back_where_it_was_is_kept_there() -> None:
    world = _World(at=None)
    world.announce(FORGED)
    world.run(SILENT_SECONDS + 1.0)
    assert world.moves[-1][1] == FORGED
    world.at = OLD
    world.run(170.0)
    assert [endpoint for _, endpoint in world.moves] == [FORGED, OLD]


def test_packets_from_the_proven_endpoint_end_a_try() -> None:
    """WireGuard itself goes back to where an authentic packet comes from."""
    world = _World(at=None)
    world.announce(FORGED)
    world.run(SILENT_SECONDS + 1.0)
    world.at = OLD
    world.session = replace(world.session, endpoint=OLD, rx_bytes=1000)
    world.run(170.0)
    assert [endpoint for _, endpoint in world.moves] == [FORGED]


@pytest.mark.parametrize("counter", [200, 5000])
def test_a_peer_whose_counter_starts_over_during_a_try_has_answered_it(counter: int) -> None:
    """The device was made again, or the member has a new key: a handshake since then is an answer."""
    world = _World(at=None)
    world.session = replace(world.session, rx_bytes=1000)
    world.announce(NEW)
    world.run(SILENT_SECONDS + 0.5)
    world.at = NEW
    world.session = replace(world.session, rx_bytes=counter, last_handshake=WALL + world.now)
    world.run(170.0)
    assert [endpoint for _, endpoint in world.moves] == [NEW]


def test_a_peer_that_answers_with_keepalives_only_is_given_the_time_of_one() -> None:
    """A firewall that drops probes makes no peer silent: WireGuard owes a keepalive after ten seconds."""
    world = _World(at=NEW, quick=False)
    world.announce(NEW)
    world.run(ANSWER_SECONDS - 0.1)
    assert world.moves == []
    world.run(ANSWER_SECONDS + 1.0)
    assert [endpoint for _, endpoint in world.moves] == [NEW]


@pytest.mark.parametrize("quick", [True, False])
def test_a_peer_that_fell_silent_long_after_its_announcement_is_tried_soon(quick: bool) -> None:  # noqa: FBT001 - a row of a table
    world = _World(quick=quick)
    world.announce(NEW)
    world.run(100.0)
    world.at = NEW
    world.trials.doubt(["b"], now=world.now)
    world.run(100.0 + 2 * SILENT_SECONDS)
    assert [endpoint for _, endpoint in world.moves] == [NEW]
    assert world.moves[0][0] == pytest.approx(100.0 + SILENT_SECONDS, abs=0.3)


def test_a_lost_probe_moves_no_peer_that_answers_the_next_question() -> None:
    """A peer behind NAT announces where it cannot be reached: a try would cut it off for seconds."""
    world = _World(quick=False)
    world.announce(FORGED)
    world.run(100.0)
    for minute in range(60):
        world.run(100.0 + 60.0 * minute)
        world.session = replace(world.session, last_handshake=WALL + world.now)
        world.trials.doubt(["b"], now=world.now)
    world.run(4000.0)
    assert world.moves == []


def test_a_dead_peer_with_one_endpoint_is_left_alone() -> None:
    world = _World(at=None)
    world.trials.doubt(["b", "unknown"], now=0.0)
    world.run(60.0)
    assert (world.moves, world.asked) == ([], [])


@pytest.mark.parametrize("silent", [1, 1000])
def test_however_many_peers_are_silent_the_device_is_read_a_few_times(silent: int) -> None:
    """As often as for one: those that fell silent together are judged together."""
    names = [f"p{number}" for number in range(silent)]
    trials = EndpointTrials()
    trials.set_announced(dict.fromkeys(names, NEW), now=0.0)
    trials.doubt(names, now=0.0)
    sessions = {name: PeerSession(KEY, endpoint=OLD, last_handshake=WALL) for name in names}
    looks, now = 0, 0.0
    while (timer := trials.next_timer()) is not None:
        now = max(now, timer)
        looks += 1
        for name, endpoint in trials.step(sessions, set(), now=now, wall=WALL + now).moves.items():
            sessions[name] = replace(sessions[name], endpoint=endpoint)
    assert now <= HANDSHAKE_FRESH + LONGEST_REST
    assert looks <= 12


def test_the_time_that_many_questions_take_counts_against_nobody() -> None:
    """The last of a thousand leaves five seconds after the first; its peer has as long to answer."""
    trials = EndpointTrials()
    trials.set_announced({"b": OLD}, now=0.0)
    trials.set_announced({"b": FORGED}, now=0.0)
    session = PeerSession(KEY, endpoint=OLD, last_handshake=WALL)
    assert trials.step({"b": session}, {"b"}, now=0.0, wall=WALL).asks == ["b"]
    trials.sent(["b"], took=5.0)
    assert trials.step({"b": session}, {"b"}, now=5.25, wall=WALL).moves == {}
    assert trials.next_timer() == 5.0 + AGAIN_SECONDS
    assert trials.step({"b": session}, {"b"}, now=5.0 + SILENT_SECONDS, wall=WALL).moves == {"b": FORGED}


def test_silent_peers_that_are_where_they_announce_cost_one_look() -> None:
    names = [f"p{number}" for number in range(1000)]
    trials = EndpointTrials()
    trials.set_announced(dict.fromkeys(names, OLD), now=0.0)
    trials.doubt(names, now=0.0)
    sessions = {name: PeerSession(KEY, endpoint=OLD, last_handshake=WALL) for name in names}
    assert trials.step(sessions, set(), now=0.0, wall=WALL).moves == {}
    assert trials.next_timer() is None


@pytest.mark.parametrize("handshake", [None, WALL - HANDSHAKE_FRESH])
def test_without_a_fresh_handshake_the_plan_for_the_device_decides(handshake: float | None) -> None:
    world = _World(at=None, handshake=handshake)
    world.announce(NEW)
    world.run(60.0)
    assert (world.moves, world.asked) == ([], [])
    assert world.trials.next_timer() is None


def test_a_try_in_vain_ends_with_the_last_handshakes_proof() -> None:
    world = _World(at=None)
    world.announce(NEW)
    world.run(3600.0)
    assert world.moves[-1][0] < HANDSHAKE_FRESH
    assert world.trials.next_timer() is None


def test_what_is_announced_during_a_try_is_tried_instead_and_not_for_longer() -> None:
    world = _World(at=None)
    world.announce(FORGED)
    world.run(SILENT_SECONDS + 0.5)
    started = world.moves[-1][0]
    world.announce(NEW)
    world.run(started + TRY_SECONDS + 0.5)
    assert [endpoint for _, endpoint in world.moves] == [FORGED, NEW, OLD]


def test_a_peer_that_is_gone_is_no_longer_doubted() -> None:
    world = _World(at=None)
    world.announce(NEW)
    world.trials.set_announced({}, now=1.0)
    assert world.trials.next_timer() is None


def test_a_device_that_begins_at_the_proven_endpoint_tries_the_announced_one_after_a_handshake_in_vain() -> (
    None
):
    """The peer has moved while this machine was down."""
    world = _World(at=NEW, handshake=None)
    world.restart(NEW)
    world.run(3600.0)
    assert world.moves == [(HANDSHAKE_SECONDS, NEW)]
    assert world.trials.next_timer() is None, "the handshake settles it"


def test_a_forged_announcement_does_not_lead_a_device_away_from_the_proven_endpoint() -> None:
    world = _World(at=OLD, handshake=None)
    world.restart(FORGED)
    world.run(3600.0)
    assert world.moves == []
    assert world.session.endpoint == OLD


def test_without_a_handshake_the_two_endpoints_alternate_ever_more_slowly_and_for_as_long_as_it_takes() -> (
    None
):
    world = _World(at=None, handshake=None)
    world.restart(FORGED)
    world.run(3600.0)
    assert {endpoint for _, endpoint in world.moves[::2]} == {FORGED}
    assert {endpoint for _, endpoint in world.moves[1::2]} == {OLD}
    pauses = [after - before for (before, _), (after, _) in itertools.pairwise(world.moves)]
    assert pauses == sorted(pauses)
    assert pauses[0] == pytest.approx(HANDSHAKE_SECONDS, abs=0.5)
    assert pauses[-1] == pytest.approx(LONGEST_REST, abs=0.5)
    world.at = OLD
    world.run(world.now + 3 * LONGEST_REST)
    assert world.session.endpoint == OLD
    assert world.trials.next_timer() is None


def test_a_flood_of_forged_announcements_does_not_keep_a_device_from_the_proven_endpoint() -> None:
    world = _World(at=None, handshake=None)
    world.restart(FORGED)
    world.run(1.0)
    for number in range(100):
        world.announce(replace(FORGED, port=number + 1))
        world.run(world.now + 0.3)
    assert world.moves[0][0] >= HANDSHAKE_SECONDS, "the first handshake goes to the proven one"
    assert OLD in {endpoint for _, endpoint in world.moves}


def test_a_try_whose_last_handshake_grows_too_old_goes_on_at_the_proven_endpoint() -> None:
    """An idle tunnel that was announced elsewhere must not end there."""
    world = _World(at=None, handshake=WALL + 4.0 - HANDSHAKE_FRESH)
    world.known = OLD
    world.announce(FORGED)
    world.run(3 * HANDSHAKE_SECONDS)
    assert [endpoint for _, endpoint in world.moves[:2]] == [FORGED, OLD]
