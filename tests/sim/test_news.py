"""How news reaches everyone: joins, leaves, metadata, user messages, state exchange."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from wesher_agent.swim.address import Address
from wesher_agent.swim.events import (
    LeaveDone,
    MemberFailed,
    MemberJoined,
    MemberLeft,
    MemberSuspected,
    MemberUpdated,
    PushPullDone,
    PushPullFailed,
    UserMessageFailed,
    UserMessageReceived,
)
from wesher_agent.swim.profile import LAN, LOCAL, WAN, Profile
from wesher_agent.wire.messages import Alive, Dead, State, Suspect
from wesher_testing.virtual.network import VirtualNetwork, messages_in

Make = Callable[..., VirtualNetwork]
NOBODY = Address("10.9.9.9", 7946)


@pytest.mark.parametrize("profile", [LAN, WAN, LOCAL], ids=["lan", "wan", "local"])
def test_members_that_join_one_all_find_each_other(make_net: Make, profile: Profile) -> None:
    net = make_net(profile=profile)
    nodes = net.start(*(f"n{i}" for i in range(20)))

    for node in nodes:
        joined = [e.member.name for e in node.happened(MemberJoined)]
        assert sorted(joined) == sorted(n.name for n in nodes if n is not node), "each reported once"


def test_a_joiner_knows_everyone_after_one_exchange_and_is_known_within_a_second(net: VirtualNetwork) -> None:
    nodes = net.start(*(f"n{i}" for i in range(49)))
    newcomer = net.add("newcomer", meta=b"hello")

    net.join(newcomer, nodes[30])
    net.run_until(lambda: len(newcomer.alive) == 50, deadline=0.1)
    took = net.run_until(lambda: all("newcomer" in n.alive for n in nodes), deadline=2.0)

    assert took < 1.0
    assert nodes[0].knows(newcomer).meta == b"hello"
    [done] = newcomer.happened(PushPullDone)
    assert isinstance(done, PushPullDone)
    assert replace(done, seconds=0.0) == PushPullDone(nodes[30].address, join=True, members=49)
    # A connection and one round trip through the simulated network.
    assert 0.0 < done.seconds < 0.1


def test_a_join_nobody_answers_fails_at_once_where_the_port_is_closed(net: VirtualNetwork) -> None:
    a = net.add("a")

    a.act(lambda engine, now: engine.join([NOBODY], now=now))
    net.run(1.0)

    assert a.happened(PushPullFailed) == [PushPullFailed(NOBODY, join=True, error="connection refused")]


def test_a_join_into_the_void_fails_after_the_tcp_timeout(net: VirtualNetwork) -> None:
    a, b = net.start("a", "b", join=False)
    net.cut(b)

    net.join(a, b)
    net.run(9.9)
    assert not a.happened(PushPullFailed)
    net.run(0.2)

    assert a.happened(PushPullFailed) == [PushPullFailed(b.address, join=True, error="timed out")]


def test_one_seed_of_two_is_enough(net: VirtualNetwork) -> None:
    a, b = net.start("a", "b", join=False)

    a.act(lambda engine, now: engine.join([NOBODY, b.address], now=now))
    net.run_until(lambda: b.name in a.alive and a.name in b.alive, deadline=1.0)


@pytest.mark.parametrize(("profile", "deadline"), [(LAN, 2.0), (WAN, 5.0)], ids=["lan", "wan"])
def test_a_leave_is_known_to_all_of_fifty_at_once_and_is_no_failure(
    make_net: Make, profile: Profile, deadline: float
) -> None:
    """Each is told directly, so that nobody waits for gossip to come by."""
    net = make_net(profile=profile)
    nodes = net.start(*(f"n{i}" for i in range(50)))
    leaver, rest = nodes[0], nodes[1:]

    leaver.act(lambda engine, now: engine.leave(now=now))
    net.run_until(lambda: all(n.sees(leaver) is State.LEFT for n in rest), deadline=0.05)
    net.run_until(lambda: leaver.happened(LeaveDone), deadline=deadline)

    assert leaver.engine.next_timer() is None
    assert all(len(n.happened(MemberLeft)) == 1 for n in rest)
    assert not [e for n in rest for e in n.happened(MemberFailed)]


def test_a_leave_reaches_all_through_heavy_loss(make_net: Make) -> None:
    """The direct word and the gossip make up for each other."""
    net = make_net(loss=0.2)
    nodes = net.start(*(f"n{i}" for i in range(20)))

    nodes[0].act(lambda engine, now: engine.leave(now=now))

    net.run_until(lambda: all(n.sees(nodes[0]) is State.LEFT for n in nodes[1:]), deadline=5.0)


def test_a_lone_member_leaves_at_once(net: VirtualNetwork) -> None:
    a = net.add("a")

    a.act(lambda engine, now: engine.leave(now=now))

    assert a.events == [LeaveDone()]


def test_a_leave_with_nobody_reachable_ends_in_time(net: VirtualNetwork) -> None:
    a, b = net.start("a", "b")
    net.cut(b)

    a.act(lambda engine, now: engine.leave(now=now, timeout=3.0))

    net.run_until(lambda: a.happened(LeaveDone), deadline=3.1)


def test_a_leave_is_said_once_even_if_asked_for_twice(net: VirtualNetwork) -> None:
    a, b = net.start("a", "b")

    a.act(lambda engine, now: engine.leave(now=now))
    a.act(lambda engine, now: engine.leave(now=now))
    net.run(5.0)
    a.act(lambda engine, now: engine.leave(now=now))

    assert len(a.happened(LeaveDone)) == len(b.happened(MemberLeft)) == 1


def test_a_member_that_leaves_is_not_talked_back_into_the_cluster(net: VirtualNetwork) -> None:
    """Others' state says it is alive, for a moment; that is no reason to deny the leave."""
    a, b = net.start("a", "b")
    net.block_udp(a)
    a.act(lambda engine, now: engine.leave(now=now, timeout=60.0))

    b.act(lambda engine, now: engine.push_pull_with(a.address, now=now))
    net.run_until(lambda: b.sees(a) is State.LEFT, deadline=1.0)

    assert a.engine.me.state is State.LEFT
    assert a.engine.me.incarnation == 1


def test_new_metadata_reaches_all(net: VirtualNetwork) -> None:
    nodes = net.start(*(f"n{i}" for i in range(20)))
    changer, rest = nodes[0], nodes[1:]

    changer.act(lambda engine, now: engine.update_meta(b"moved", now=now))
    net.run_until(lambda: all(n.knows(changer).meta == b"moved" for n in rest), deadline=2.0)

    for node in rest:
        [update] = node.happened(MemberUpdated)
        assert (update.previous.meta, update.member.meta) == (b"", b"moved")


def test_metadata_over_512_bytes_is_refused_where_it_is_set(net: VirtualNetwork) -> None:
    a = net.add("a", meta=bytes(512))

    with pytest.raises(ValueError, match="at most 512 bytes, not 513"):
        a.act(lambda engine, now: engine.update_meta(bytes(513), now=now))
    assert a.engine.me.meta == bytes(512)


def test_the_largest_metadata_and_names_travel(net: VirtualNetwork) -> None:
    """A packet's budget holds the largest member there can be."""
    labels = ".".join(["x" * 63] * 3 + ["y" * 61])
    a, b, big = net.add("a"), net.add("b"), net.add(labels, meta=bytes(512))

    net.join(b, a)
    net.join(big, a)

    net.run_until(lambda: labels in b.alive, deadline=2.0)


def test_state_exchange_heals_what_gossip_missed(make_net: Make) -> None:
    """All datagrams are lost; the periodic push/pull carries the news."""
    net = make_net(profile=replace(LAN, probe_interval=10_000.0))
    nodes = net.start(*(f"n{i}" for i in range(5)))
    for node in nodes:
        net.block_udp(node)
    nodes[0].act(lambda engine, now: engine.update_meta(b"news", now=now))

    net.run(0.2)
    assert b"news" not in [n.knows(nodes[0]).meta for n in nodes[1:]]
    net.run_until(lambda: all(n.knows(nodes[0]).meta == b"news" for n in nodes), deadline=120.0)


def test_what_others_hold_for_dead_is_only_suspected_after_an_exchange(net: VirtualNetwork) -> None:
    """So that one confused member cannot bury a healthy one."""
    a, b, c = net.start("a", "b", "c")
    net.block_udp(a)
    a.act(lambda engine, now: engine.inject(Dead(b.engine.me.incarnation, "b", "a"), now=now))
    assert a.sees(b) is State.DEAD

    c.act(lambda engine, now: engine.push_pull_with(a.address, now=now))
    net.run_until(lambda: c.happened(MemberSuspected), deadline=0.1)
    net.run_until(lambda: c.sees(b) is State.ALIVE, deadline=3.0)

    assert not c.happened(MemberFailed)


def test_a_user_message_arrives_as_a_datagram(net: VirtualNetwork) -> None:
    a, b = net.start("a", "b")

    a.act(lambda e, now: e.send_user_message(b.address, b"hello", now=now, reliable=False))
    net.run(0.1)

    assert b.happened(UserMessageReceived) == [UserMessageReceived(b"hello", a.address)]


def test_a_long_user_message_arrives_over_a_stream(net: VirtualNetwork) -> None:
    a, b = net.start("a", "b")
    payload = bytes(range(256)) * 400

    a.act(lambda e, now: e.send_user_message(b.address, payload, now=now, reliable=True))
    net.run(0.5)

    [message] = b.happened(UserMessageReceived)
    assert message.payload == payload
    assert not a.happened(UserMessageFailed)


def test_a_user_message_too_long_for_a_datagram_is_refused(net: VirtualNetwork) -> None:
    a, b = net.start("a", "b")

    with pytest.raises(ValueError, match="at most 1394 bytes"):
        a.act(lambda e, now: e.send_user_message(b.address, bytes(1395), now=now, reliable=False))
    a.act(lambda e, now: e.send_user_message(b.address, bytes(1394), now=now, reliable=False))
    net.run(0.1)

    assert len(b.happened(UserMessageReceived)) == 1


def test_a_reliable_user_message_that_cannot_be_delivered_is_reported(net: VirtualNetwork) -> None:
    a = net.add("a")

    a.act(lambda e, now: e.send_user_message(NOBODY, b"hello", now=now, reliable=True))
    net.run(1.0)

    assert a.happened(UserMessageFailed) == [UserMessageFailed(NOBODY, "connection refused")]


def test_two_halves_that_forgot_each_other_meet_again_by_one_exchange(net: VirtualNetwork) -> None:
    nodes = net.start(*(f"n{i}" for i in range(10)))
    left, right = nodes[:5], nodes[5:]
    net.partition(left, right)
    net.run_until(lambda: all(n.sees(o) is o.sees(n) is None for n in left for o in right), deadline=240.0)
    net.heal()

    left[2].act(lambda engine, now: engine.push_pull_with(right[3].address, now=now))

    net.run_until(lambda: all(len(n.alive) == 10 for n in nodes), deadline=3.0)


def test_news_is_sent_as_often_as_memberlist_sends_it_and_then_no_more(net: VirtualNetwork) -> None:
    """RetransmitMult x ceil(log10(n + 1)) times by each member, in whatever packets."""
    nodes = net.start("a", "b", "c", "d")
    net.run(5.0)
    net.record = True

    nodes[0].act(lambda engine, now: engine.inject(Dead(1, "d", "a"), now=now))
    net.partition(nodes[:3], nodes[3:])
    net.run(10.0)

    for node in nodes[:3]:
        sent = [m for _, _, data in node.sent for m in messages_in(data) if isinstance(m, Dead)]
        assert len(sent) == LAN.retransmit_mult


def test_the_dead_are_gossiped_to_for_their_time_and_those_who_left_never(net: VirtualNetwork) -> None:
    """So that one wrongly held for dead hears of it; who left wants to hear nothing."""
    a, b, dead, left = net.start("a", "b", "dead", "left")
    left.act(lambda engine, now: engine.leave(now=now))
    net.run(5.0)
    net.crash(left)
    net.crash(dead)
    net.run_until(lambda: a.sees(dead) is b.sees(dead) is State.DEAD, deadline=40.0)
    net.record = True

    def told(target: Address, seconds: float) -> int:
        a.sent.clear()
        a.act(lambda engine, now: engine.update_meta(b"%f" % now, now=now))
        net.run(seconds)
        return sum(to == target for _, to, _ in a.sent)

    assert told(dead.address, 5.0) > 0
    assert told(left.address, 5.0) == 0
    net.run(LAN.gossip_to_the_dead_time - 9.0)
    assert told(dead.address, 5.0) == 0


def test_each_confirmation_of_a_suspicion_is_passed_on(net: VirtualNetwork) -> None:
    """Else nobody could gather the voices of several accusers."""
    a, b, _ = net.start("a", "b", "c")
    net.cut(b)
    for i in range(6):
        name = f"x{i}"
        claim = Alive(1, name, Address(f"10.60.0.{i + 1}", 7946).packed, 7946, b"", b.engine.me.versions)
        a.act(lambda engine, now, claim=claim: engine.inject(claim, now=now))
    net.run(0.1)
    net.record = True

    for accuser in ("first", "second", "third", "fourth"):
        a.act(lambda engine, now, accuser=accuser: engine.inject(Suspect(1, "b", accuser), now=now))
        net.run(0.3)

    sent = {
        m.from_node
        for _, _, data in a.sent
        for m in messages_in(data)
        if isinstance(m, Suspect) and m.node == "b"
    }
    assert {"first", "second", "third"} <= sent
    assert "fourth" not in sent, "two confirmations are enough, so a third is not news"
