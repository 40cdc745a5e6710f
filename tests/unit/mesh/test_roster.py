"""Who is expected, and whom the roster asks for; time is a number here."""

from dataclasses import replace
from ipaddress import ip_address, ip_network
from itertools import pairwise
from random import Random

import pytest

from wesher_agent.mesh.dialling import LONGEST_WAIT, REACHED_WAIT, TRIES_A_SECOND
from wesher_agent.mesh.events import SeedSkipped
from wesher_agent.mesh.roster import (
    FAILED_CAP,
    MOST_FAILED,
    SECOND_LOOK,
    SEED_CAP,
    MemberState,
    Roster,
    SavedMember,
)
from wesher_agent.swim.address import Address
from wesher_agent.swim.events import (
    LeaveLearned,
    MemberAlive,
    MemberFailed,
    MemberForgotten,
    MemberJoined,
    MemberLeft,
    MemberSuspected,
    MemberUpdated,
    NameConflict,
    PushPullDone,
)
from wesher_agent.wire.messages import State
from wesher_common.overlay import IPNetwork
from wesher_common.seeds import SeedAddress, parse_seed
from wesher_testing.virtual.members import OVERLAY, gossiped, meta, nobody_certified

DAY = 24 * 3600.0
B = Address("192.0.2.2", 7946)
C = Address("192.0.2.3", 7946)


def roster(*, overlay: IPNetwork = OVERLAY, apart: bool = False) -> Roster:
    return Roster(
        "a",
        gossip_port=7946,
        overlay=overlay,
        overlay_is_apart=apart,
        forget_after=DAY,
        identity=nobody_certified(),
        rng=Random(1),
    )


def joined(who: Roster, name: str, ip: str, *, now: float = 0.0) -> None:
    assert who.observe(MemberJoined(gossiped(name, ip)), now=now)


def failed(who: Roster, name: str, ip: str, *, now: float) -> None:
    event = MemberFailed(gossiped(name, ip, state=State.DEAD), from_node="a", confirmations=0)
    assert who.observe(event, now=now)


def skipped(who: Roster) -> list[SeedSkipped]:
    """Return what it has reported since last asked."""
    found = []
    while (event := who.next_event()) is not None:
        if isinstance(event, SeedSkipped):
            found.append(event)
    return found


def run(who: Roster, *, start: float, end: float) -> list[tuple[float, Address | SeedAddress]]:
    """Wake the roster whenever it asks to be, and return what it handed out and when."""
    tries = []
    now = start
    while now <= end:
        who.forget(now=now)
        tries += [(now, target) for target in who.due(now=now)]
        assert who.next_timer() > now
        now = who.next_timer()
    return tries


def gaps(tries: list[tuple[float, Address | SeedAddress]]) -> list[float]:
    times = [time for time, _ in tries]
    return [later - earlier for earlier, later in pairwise(times)]


def test_members_are_remembered_with_the_state_gossip_gives_them() -> None:
    who = roster()
    joined(who, "b", "192.0.2.2", now=1.0)
    assert who.members["b"].state is MemberState.ALIVE
    who.observe(MemberSuspected(gossiped("b", "192.0.2.2", state=State.SUSPECT), from_node="c"), now=2.0)
    assert (who.members["b"].state, who.members["b"].since) == (MemberState.SUSPECT, 2.0)
    who.observe(MemberAlive(gossiped("b", "192.0.2.2")), now=3.0)
    assert (who.members["b"].state, who.members["b"].since) == (MemberState.ALIVE, 3.0)


def test_the_addresses_that_are_expected_are_those_of_seeds_and_members_but_not_our_own() -> None:
    who = roster()
    seed = SeedAddress("seed.example", None)
    who.set_own_addresses([ip_address("192.0.2.1")], overlay_address=None, location="berlin", now=0.0)
    who.set_seeds([seed, SeedAddress("192.0.2.1", None)], now=0.0)
    who.resolved(seed, [ip_address("192.0.2.9"), ip_address("2001:db8::9")], now=0.0)
    inside = meta("c", location="berlin", internal_address=ip_address("10.1.0.3")).encode()
    who.observe(MemberJoined(gossiped("c", "192.0.2.3", raw_meta=inside)), now=0.0)
    failed(who, "b", "192.0.2.2", now=0.0)

    who.due(now=0.0)

    expected = {"192.0.2.9", "2001:db8::9", "192.0.2.3", "10.1.0.3", "192.0.2.2"}
    assert who.expected_ips == expected


def test_an_event_that_says_nothing_new_changes_nothing() -> None:
    who = roster()
    joined(who, "b", "192.0.2.2", now=1.0)
    assert not who.observe(MemberAlive(gossiped("b", "192.0.2.2")), now=2.0)
    assert who.members["b"].since == 1.0


def test_new_metadata_is_read_and_keeps_the_time_of_the_state() -> None:
    who = roster()
    joined(who, "b", "192.0.2.2", now=1.0)
    told = gossiped("b", "192.0.2.2", raw_meta=meta("b", location="berlin").encode())
    assert who.observe(MemberUpdated(told, previous=gossiped("b", "192.0.2.2")), now=2.0)
    member = who.members["b"]
    assert member.meta is not None
    assert (member.meta.location, member.since) == ("berlin", 1.0)


def test_metadata_that_cannot_be_read_is_a_problem_of_that_member_only() -> None:
    who = roster()
    who.observe(MemberJoined(gossiped("b", "192.0.2.2", raw_meta=b"junk")), now=0.0)
    assert (who.members["b"].meta, who.members["b"].problem) == (None, "gob-truncated")


def test_this_member_is_never_listed() -> None:
    who = roster()
    assert not who.observe(MemberJoined(gossiped("a", "192.0.2.1")), now=0.0)
    assert not who.members


def test_a_failed_member_is_asked_for_in_seconds_then_within_a_minute_for_as_long_as_it_is_expected() -> None:
    who = roster()
    joined(who, "b", "192.0.2.2")
    assert run(who, start=0.0, end=100.0) == []
    failed(who, "b", "192.0.2.2", now=100.0)
    tries = run(who, start=100.0, end=100.0 + DAY)
    assert {target for _, target in tries} == {B}
    assert tries[0][0] == 100.0
    assert gaps(tries)[0] <= 2.0
    assert max(gaps(tries)) <= FAILED_CAP
    assert tries[-1][0] >= DAY + 100.0 - FAILED_CAP
    assert len(tries) <= DAY / (FAILED_CAP / 2) + 10


def test_a_failed_member_is_forgotten_after_a_day_and_no_longer_asked_for() -> None:
    who = roster()
    joined(who, "b", "192.0.2.2")
    failed(who, "b", "192.0.2.2", now=100.0)
    assert who.forget(now=100.0 + DAY - 1) == ()
    assert who.members["b"].state is MemberState.FAILED
    assert who.forget(now=100.0 + DAY) == ("b",)
    assert not who.members
    assert run(who, start=100.0 + DAY, end=200.0 + DAY) == []


def test_of_more_failed_members_than_gossip_admits_those_that_failed_first_are_forgotten() -> None:
    """Else whoever has the key fills our memory with names that it makes up and declares dead."""
    who = roster()
    joined(who, "alive", "192.0.2.2")
    for number in range(MOST_FAILED + 5):
        address = f"198.18.{number >> 8 & 255}.{number & 255}"
        gone = gossiped(f"n{number}", address, state=State.DEAD, raw_meta=b"")
        who.observe(MemberFailed(gone, from_node="x", confirmations=0), now=float(number))
    assert who.members.keys() == {"alive"} | {f"n{number}" for number in range(5, MOST_FAILED + 5)}
    assert who.forget(now=DAY + 6.0) == ("n5", "n6")


def test_a_failed_member_outlives_the_engine_forgetting_it() -> None:
    who = roster()
    joined(who, "b", "192.0.2.2")
    failed(who, "b", "192.0.2.2", now=10.0)
    assert not who.observe(MemberForgotten(gossiped("b", "192.0.2.2", state=State.DEAD)), now=70.0)
    assert who.members["b"].state is MemberState.FAILED


def test_a_failed_member_that_returns_is_asked_for_no_more() -> None:
    who = roster()
    joined(who, "b", "192.0.2.2")
    failed(who, "b", "192.0.2.2", now=10.0)
    assert run(who, start=10.0, end=30.0)
    joined(who, "b", "192.0.2.2", now=30.0)
    assert run(who, start=30.0, end=1000.0) == []


def test_a_failed_member_that_returns_elsewhere_leaves_its_old_address_alone() -> None:
    who = roster()
    joined(who, "b", "192.0.2.2")
    failed(who, "b", "192.0.2.2", now=10.0)
    joined(who, "b", "192.0.2.3", now=30.0)
    assert run(who, start=30.0, end=1000.0) == []
    assert who.members["b"].address == C


def test_left_is_final() -> None:
    who = roster()
    joined(who, "b", "192.0.2.2")
    who.observe(MemberLeft(gossiped("b", "192.0.2.2", state=State.LEFT)), now=10.0)
    assert who.members["b"].state is MemberState.LEFT
    assert run(who, start=10.0, end=1000.0) == []
    assert who.saved(now=20.0) == ()
    assert who.observe(MemberForgotten(gossiped("b", "192.0.2.2", state=State.LEFT)), now=70.0)
    assert not who.members


def test_a_seed_is_asked_for_until_somebody_is_alive_there_and_again_when_nobody_is() -> None:
    who = roster()
    who.set_seeds([SeedAddress("192.0.2.2")], now=0.0)
    tries = run(who, start=0.0, end=3 * DAY)
    assert tries[0] == (0.0, B)
    assert max(gaps(tries)) <= SEED_CAP
    joined(who, "b", "192.0.2.2", now=3 * DAY)
    assert run(who, start=3 * DAY, end=4 * DAY) == []
    failed(who, "b", "192.0.2.2", now=4 * DAY)
    tries = run(who, start=4 * DAY, end=6 * DAY)
    assert max(gaps(tries)) <= SEED_CAP, "a failed member that is a seed is asked as often as a seed"
    assert tries[-1][0] >= 6 * DAY - SEED_CAP, "even after it was forgotten"


def test_a_seed_keeps_its_port() -> None:
    who = roster()
    who.set_seeds([SeedAddress("192.0.2.2", 7000), SeedAddress("2001:db8::1")], now=0.0)
    assert who.due(now=0.0) == [Address("192.0.2.2", 7000), Address("2001:db8::1", 7946)]


def test_a_seed_with_an_address_is_dialled_before_many_names_are_resolved() -> None:
    """Eight targets are tried a second: after sixty names its turn would come in eight seconds."""
    who = roster()
    names = [SeedAddress(f"seed-{number}.example") for number in range(60)]
    who.set_seeds([*names, SeedAddress("192.0.2.2")], now=0.0)
    assert who.due(now=0.0)[0] == Address("192.0.2.2", 7946)


def test_this_member_is_not_dialled_as_its_own_seed() -> None:
    """The operator names cluster seeds without asking who reads them."""
    who = roster()
    who.set_seeds([SeedAddress("192.0.2.1"), SeedAddress("192.0.2.2")], now=0.0)
    who.set_own_addresses([ip_address("192.0.2.1")], overlay_address=None, now=0.0)
    assert who.due(now=0.0) == [B]


def test_another_gossip_port_is_that_of_seeds_without_one_and_of_this_member() -> None:
    who = roster()
    named = SeedAddress("seed.example")
    who.set_own_addresses([ip_address("192.0.2.1")], overlay_address=None, now=0.0)
    who.set_seeds([SeedAddress("192.0.2.1"), SeedAddress("192.0.2.2"), named], now=0.0)
    who.resolved(named, [ip_address("192.0.2.3")], now=0.0)
    who.set_gossip_port(7999, now=0.0)
    assert set(who.due(now=0.0)) == {Address("192.0.2.2", 7999), Address("192.0.2.3", 7999), named}


def test_a_seed_no_longer_named_is_left_alone() -> None:
    who = roster()
    who.set_seeds([SeedAddress("192.0.2.2")], now=0.0)
    who.set_seeds([], now=1.0)
    assert run(who, start=1.0, end=1000.0) == []
    assert who.next_timer() == float("inf")


def test_a_seed_that_answers_for_a_member_elsewhere_is_asked_seldom() -> None:
    """Behind 1:1 NAT a seed's address is none that its member announces."""
    who = roster()
    who.set_seeds([SeedAddress("198.51.100.7")], now=0.0)
    seed = Address("198.51.100.7", 7946)
    assert who.due(now=0.0) == [seed]
    joined(who, "b", "192.0.2.2", now=1.0)
    who.observe(PushPullDone(seed, join=True, members=2), now=1.0)
    tries = run(who, start=1.0, end=1.0 + REACHED_WAIT)
    assert tries[0][0] >= 1.0 + REACHED_WAIT / 2


def test_a_seed_that_answers_for_a_failed_member_at_its_new_address_is_asked_on() -> None:
    """Gossip takes the new address half a minute after the failure."""
    who = roster()
    failed(who, "b", "192.0.2.2", now=0.0)
    moved, seed = Address("198.51.100.7", 7946), SeedAddress("198.51.100.7")
    who.set_seeds([seed], now=0.0)
    run(who, start=0.0, end=10.0)
    conflict = NameConflict(gossiped("b", "192.0.2.2", state=State.DEAD), moved, asked_for=True)
    assert not who.observe(conflict, now=10.0)
    who.observe(PushPullDone(moved, join=True, members=1), now=10.0)
    assert moved in {target for _, target in run(who, start=10.0, end=10.0 + SEED_CAP)}

    who.observe(PushPullDone(moved, join=True, members=1), now=40.0)
    again = run(who, start=40.0, end=40.0 + REACHED_WAIT / 2)
    assert moved not in {target for _, target in again}, "an exchange without a conflict"


def test_a_seed_that_answered_and_then_no_longer_does_is_asked_in_seconds_again() -> None:
    who = roster()
    who.set_seeds([SeedAddress("198.51.100.7")], now=0.0)
    run(who, start=0.0, end=100.0)
    who.observe(PushPullDone(Address("198.51.100.7", 7946), join=True, members=2), now=100.0)
    tries = run(who, start=100.0, end=100.0 + REACHED_WAIT + 10.0)
    assert gaps(tries)[0] <= 2.0


def test_a_name_is_resolved_and_each_answer_dialled() -> None:
    who = roster()
    seed = SeedAddress("seeds.example")
    who.set_seeds([seed], now=0.0)
    assert who.due(now=0.0) == [seed]
    who.resolved(seed, [ip_address("192.0.2.2"), ip_address("192.0.2.3")], now=1.0)
    assert who.due(now=1.0) == [B, C]
    joined(who, "b", "192.0.2.2", now=2.0)
    assert B not in {target for _, target in run(who, start=2.0, end=100.0)}


def test_a_name_is_resolved_again_since_its_answer_may_change() -> None:
    who = roster()
    seed = SeedAddress("seeds.example")
    who.set_seeds([seed], now=0.0)
    who.resolved(seed, [ip_address("192.0.2.2")], now=1.0)
    joined(who, "b", "192.0.2.2", now=2.0)
    assert {target for _, target in run(who, start=2.0, end=300.0)} == {seed}
    who.resolved(seed, [ip_address("192.0.2.3")], now=300.0)
    assert C in who.due(now=300.0)


def test_a_resolver_that_answers_nothing_loses_no_seed() -> None:
    who = roster()
    seed = SeedAddress("seeds.example")
    who.set_seeds([seed], now=0.0)
    who.resolved(seed, [ip_address("192.0.2.2")], now=0.0)
    who.resolved(seed, [], now=1.0)
    assert B in who.due(now=1.0)


def test_a_seed_inside_the_overlay_is_skipped_with_its_reason() -> None:
    """In Kubernetes an answer inside the overlay can only come from a hosts file of ours."""
    who = roster(apart=True)
    seed = SeedAddress("b")
    who.set_seeds([seed, SeedAddress("10.189.0.9")], now=0.0)
    who.resolved(seed, [ip_address("10.189.0.7"), ip_address("192.0.2.2")], now=0.0)
    assert who.due(now=0.0) == [seed, B]
    assert [(str(one.seed), str(one.address), one.reason) for one in skipped(who)] == [
        ("b", "10.189.0.7", "inside the overlay 10.189.0.0/24"),
        ("10.189.0.9", "10.189.0.9", "inside the overlay 10.189.0.0/24"),
    ]


def test_where_underlay_and_overlay_overlap_only_a_members_overlay_address_is_skipped() -> None:
    """Go's default overlay is 10.0.0.0/8, and many a LAN lies inside it."""
    who = roster(overlay=ip_network("10.0.0.0/8"))
    seed = SeedAddress("b")
    overlay_address = meta("b").overlay_address
    assert overlay_address is not None
    joined(who, "b", "10.1.0.2")
    failed(who, "b", "10.1.0.2", now=1.0)
    who.set_seeds([seed], now=1.0)
    who.resolved(seed, [overlay_address, ip_address("10.1.0.2")], now=1.0)
    assert who.due(now=1.0) == [seed, Address("10.1.0.2", 7946)]
    (one,) = skipped(who)
    assert (str(one.seed), one.address) == ("b", overlay_address)
    assert one.reason == "a member's overlay address"


def test_an_address_that_the_user_typed_is_dialled_though_a_member_claims_it() -> None:
    """Else a member could keep us from a seed by claiming its address."""
    who = roster(overlay=ip_network("10.0.0.0/8"))
    claimed = meta("b").overlay_address
    joined(who, "b", "10.1.0.2")
    who.set_seeds([SeedAddress(str(claimed))], now=1.0)
    assert who.due(now=1.0) == [Address(str(claimed), 7946)]


def test_members_of_an_earlier_run_are_asked_in_an_order_of_their_own_but_after_the_seeds() -> None:
    """By name, the first might be those of a site that is away, and the others would wait for long."""
    again = roster()
    where = [Address(f"192.0.2.{number}", 7946) for number in range(1, 41)]
    again.restore([SavedMember(name=f"n{a.ip:>15}", address=a, raw_meta=b"") for a in where], now=0.0)
    seed = SeedAddress("seed.example")
    again.set_seeds([seed], now=0.0)

    first, *others = again.due(now=0.0)

    assert first == seed
    assert others != where[: len(others)]
    assert {*others} < {*where}


def test_members_of_an_earlier_run_are_expected_and_asked_for_at_once() -> None:
    first = roster()
    joined(first, "b", "192.0.2.2")
    joined(first, "c", "192.0.2.3")
    failed(first, "c", "192.0.2.3", now=10.0)
    saved = first.saved(now=70.0)
    assert [(entry.name, entry.away) for entry in saved] == [("b", 0.0), ("c", 60.0)]

    second = roster()
    second.restore(saved, now=1000.0)
    assert {*second.due(now=1000.0)} == {B, C}
    assert second.members["b"].meta == meta("b")
    assert second.forget(now=1000.0 + DAY - 60.0) == ("c",)
    assert second.forget(now=1000.0 + DAY) == ("b",)


def test_a_failed_member_of_which_others_know_that_it_left_is_expected_no_longer() -> None:
    who = roster()
    joined(who, "b", "192.0.2.2")
    failed(who, "b", "192.0.2.2", now=1.0)
    left = LeaveLearned("b", who.members["b"].incarnation)

    assert who.observe(left, now=2.0)
    assert not who.observe(left, now=2.0)

    assert not who.members
    assert who.saved(now=3.0) == ()
    assert run(who, start=3.0, end=1000.0) == []


@pytest.mark.parametrize("restarts", [False, True])
def test_a_failed_member_that_left_and_came_back_before_is_still_expected(*, restarts: bool) -> None:
    """An old leave may be sent again, and nobody may be left who remembers that it is old."""
    who = roster()
    back = gossiped("b", "192.0.2.2", incarnation=8)
    who.observe(MemberJoined(back), now=0.0)
    who.observe(MemberFailed(replace(back, state=State.DEAD), from_node="a", confirmations=0), now=1.0)
    if restarts:
        saved = who.saved(now=2.0)
        who = roster()
        who.restore(saved, now=2.0)

    assert not who.observe(LeaveLearned("b", 7), now=3.0)

    assert who.members["b"].state is MemberState.FAILED


def test_a_living_member_is_not_dropped_for_a_leave_of_which_gossip_knows_better() -> None:
    who = roster()
    joined(who, "b", "192.0.2.2")

    assert not who.observe(LeaveLearned("b", 2**31), now=1.0)

    assert who.members["b"].state is MemberState.ALIVE


def test_what_gossip_says_beats_what_was_saved() -> None:
    who = roster()
    joined(who, "b", "192.0.2.3")
    who.restore(
        [SavedMember(name="b", address=B, raw_meta=b""), SavedMember(name="a", address=C, raw_meta=b"")],
        now=1.0,
    )
    assert who.members["b"].address == C
    assert "a" not in who.members


def test_a_removed_member_is_dropped_at_once_and_not_asked_for() -> None:
    who = roster()
    joined(who, "b", "192.0.2.2")
    joined(who, "c", "192.0.2.3")
    failed(who, "c", "192.0.2.3", now=1.0)
    assert who.set_removed(["b", "c"], now=2.0)
    assert not who.members
    assert who.saved(now=2.0) == ()
    failed_b = MemberFailed(gossiped("b", "192.0.2.2", state=State.DEAD), from_node="a", confirmations=0)
    assert not who.observe(failed_b, now=3.0)
    assert run(who, start=3.0, end=1000.0) == []


def test_a_removed_member_that_is_alive_comes_back_when_it_is_removed_no_longer() -> None:
    who = roster()
    joined(who, "b", "192.0.2.2")
    assert who.set_removed(["b"], now=1.0)
    assert not who.set_removed(["b", "x"], now=2.0)
    assert who.set_removed([], now=3.0)
    assert who.members["b"].state is MemberState.ALIVE


def test_a_seed_where_a_removed_member_fails_is_asked_again() -> None:
    who = roster()
    joined(who, "b", "192.0.2.2")
    who.set_seeds([SeedAddress("192.0.2.2")], now=0.0)
    who.set_removed(["b"], now=0.0)
    assert run(who, start=0.0, end=100.0) == []
    gone = MemberFailed(gossiped("b", "192.0.2.2", state=State.DEAD), from_node="a", confirmations=0)
    who.observe(gone, now=100.0)
    assert who.due(now=100.0) == [B]


def test_a_large_mesh_shares_the_dialling() -> None:
    """Five hundred members would otherwise all knock at once where one has failed."""
    who = roster()
    for number in range(500):
        joined(who, f"n{number}", f"198.18.{number // 250}.{number % 250 + 1}")
    who.due(now=0.0)
    failed(who, "n7", "198.18.0.8", now=0.0)
    tries = run(who, start=0.0, end=DAY - 1)
    assert DAY / LONGEST_WAIT <= len(tries) <= 2 * DAY / LONGEST_WAIT + 10


def test_half_a_mesh_gone_is_dialled_a_few_a_second() -> None:
    who = roster()
    who.restore(
        [
            SavedMember(name=f"n{number}", address=Address(f"198.18.0.{number}", 7946), raw_meta=b"")
            for number in range(1, 101)
        ],
        now=0.0,
    )
    tries = run(who, start=0.0, end=100.0 / TRIES_A_SECOND + 1)
    assert len({target for _, target in tries}) == 100
    for second in range(10):
        assert sum(second <= time < second + 1 for time, _ in tries) <= TRIES_A_SECOND


@pytest.mark.parametrize("seed", [1, 2])
def test_the_same_dice_give_the_same_schedule(seed: int) -> None:
    def schedule() -> list[tuple[float, Address | SeedAddress]]:
        who = Roster(
            "a",
            gossip_port=7946,
            overlay=OVERLAY,
            overlay_is_apart=False,
            forget_after=DAY,
            identity=nobody_certified(),
            rng=Random(seed),
        )
        who.set_seeds([SeedAddress("192.0.2.2"), SeedAddress("seeds.example")], now=0.0)
        return run(who, start=0.0, end=500.0)

    assert schedule() == schedule()


def test_a_member_that_returns_is_asked_once_for_those_that_are_still_missing() -> None:
    """They were probably away together; whoever gossip passed by is found so."""
    who = roster()
    joined(who, "b", "192.0.2.2")
    joined(who, "c", "192.0.2.3")
    failed(who, "b", "192.0.2.2", now=1.0)
    failed(who, "c", "192.0.2.3", now=1.0)
    run(who, start=1.0, end=600.0)

    joined(who, "b", "192.0.2.2", now=1000.0)

    earliest, latest = SECOND_LOOK
    [asked] = [time for time, target in run(who, start=1000.0, end=1100.0) if target == B]
    assert 1000.0 + earliest <= asked <= 1000.0 + latest


def test_a_member_that_returns_is_not_asked_when_everybody_is_back() -> None:
    who = roster()
    joined(who, "b", "192.0.2.2")
    failed(who, "b", "192.0.2.2", now=1.0)
    run(who, start=1.0, end=100.0)

    joined(who, "b", "192.0.2.2", now=100.0)

    assert run(who, start=100.0, end=200.0) == []


EAST = meta("b", location="east", internal_address=ip_address("10.1.0.2"))


def in_the_east(who: Roster, name: str, ip: str, *, raw_meta: bytes = EAST.encode()) -> None:
    who.observe(MemberJoined(gossiped(name, ip, raw_meta=raw_meta)), now=0.0)


def test_a_member_of_our_location_is_reached_at_its_internal_address() -> None:
    who = roster()
    in_the_east(who, "b", "203.0.113.2")
    inside = Address("10.1.0.2", 7946)
    assert who.way_to(Address("203.0.113.2", 7946)) == Address("203.0.113.2", 7946), "we have no location"
    for location, way in (("west", "203.0.113.2"), ("east", "10.1.0.2")):
        who.set_own_addresses([], overlay_address=None, location=location, now=1.0)
        assert who.way_to(Address("203.0.113.2", 7946)) == Address(way, 7946)
    who.set_seeds([SeedAddress("10.1.0.2")], now=1.0)
    assert who.due(now=1.0) == [], "it is alive there"
    failed_there = gossiped("b", "203.0.113.2", state=State.DEAD, raw_meta=EAST.encode())
    who.observe(MemberFailed(failed_there, from_node="a", confirmations=0), now=2.0)
    assert set(who.due(now=2.0)) == {Address("203.0.113.2", 7946), inside}
    assert who.way_to(Address("203.0.113.2", 7946)) == inside, "and is looked for there"


@pytest.mark.parametrize("end", ["moved out", "left", "removed", "away for long"])
def test_a_way_ends_with_the_member_that_it_led_to(end: str) -> None:
    """Whoever has the announced address next may be somewhere else."""
    who = roster()
    announced = Address("203.0.113.2", 7946)
    in_the_east(who, "b", announced.ip)
    who.set_own_addresses([], overlay_address=None, location="east", now=0.0)
    assert who.way_to(announced) == Address("10.1.0.2", 7946)
    gone = gossiped("b", announced.ip, state=State.LEFT, raw_meta=EAST.encode())
    match end:
        case "moved out":
            in_the_east(who, "b", announced.ip, raw_meta=meta("b").encode())
        case "left":
            who.observe(MemberLeft(gone), now=1.0)
            who.observe(MemberForgotten(gone), now=1.0)
        case "removed":
            who.set_removed(["b"], now=1.0)
            who.observe(MemberLeft(gone), now=1.0)
        case "away for long":
            failed = replace(gone, state=State.DEAD)
            who.observe(MemberFailed(failed, from_node="a", confirmations=0), now=1.0)
            assert who.way_to(announced) == Address("10.1.0.2", 7946), "it may come back"
            assert who.forget(now=1.0 + DAY) == ("b",)
    assert who.way_to(announced) == announced


def test_of_two_with_one_announced_address_the_living_is_reached() -> None:
    """A machine that came back under another name, say."""
    who = roster()
    who.set_own_addresses([], overlay_address=None, location="east", now=0.0)
    in_the_east(who, "b", "203.0.113.2")
    former = meta("c", location="east", internal_address=ip_address("10.1.0.9")).encode()
    gone = gossiped("c", "203.0.113.2", state=State.DEAD, raw_meta=former)
    who.observe(MemberFailed(gone, from_node="a", confirmations=0), now=1.0)
    assert who.way_to(Address("203.0.113.2", 7946)) == Address("10.1.0.2", 7946)


def test_an_internal_address_inside_the_overlay_is_no_way() -> None:
    who = roster(apart=True)
    who.set_own_addresses([], overlay_address=None, location="east", now=0.0)
    inside = meta("b", location="east", internal_address=OVERLAY[9]).encode()
    in_the_east(who, "b", "203.0.113.2", raw_meta=inside)
    assert who.way_to(Address("203.0.113.2", 7946)) == Address("203.0.113.2", 7946)


@pytest.mark.parametrize(
    ("seed", "answers", "is_elsewhere"),
    [
        ("192.0.2.1", [], False),
        ("192.0.2.2", [], True),
        ("192.0.2.1:7000", [], True),
        ("a", ["127.0.1.1"], False),
        ("a", ["192.0.2.1"], False),
        ("a", ["::1", "192.0.2.1"], False),
        ("a", [], True),
        ("a", ["192.0.2.1", "192.0.2.2"], True),
        ("a:7000", ["127.0.1.1"], True),
    ],
)
def test_a_seed_that_is_this_member_is_nobody_elsewhere(
    seed: str, answers: list[str], *, is_elsewhere: bool
) -> None:
    """A lone first node that joins itself by name waits for nobody, and does not dial itself."""
    who, place = roster(), parse_seed(seed, field="--join")
    who.set_own_addresses([ip_address("192.0.2.1")], overlay_address=None, now=0.0)
    who.set_seeds([place], now=0.0)
    who.resolved(place, map(ip_address, answers), now=1.0)
    assert who.has_seeds_elsewhere is is_elsewhere
    dialled = {target for target in who.due(now=2.0) if isinstance(target, Address)}
    assert dialled.isdisjoint({Address("192.0.2.1", 7946), Address("127.0.1.1", 7946), Address("::1", 7946)})


def test_a_member_on_a_loopback_address_may_have_neighbours_there() -> None:
    who, place = roster(), SeedAddress("b")
    own = [ip_address("127.0.0.2")]
    who.set_own_addresses(own, overlay_address=None, is_on_loopback=True, now=0.0)
    who.set_seeds([place], now=0.0)
    who.resolved(place, [ip_address("127.0.0.3")], now=1.0)
    assert who.has_seeds_elsewhere
    assert Address("127.0.0.3", 7946) in who.due(now=2.0)


def test_without_seeds_none_is_elsewhere() -> None:
    assert not roster().has_seeds_elsewhere
