"""Who is found dead, who is saved, and how long both take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from wesher_agent.swim.events import (
    MemberAlive,
    MemberFailed,
    MemberForgotten,
    MemberJoined,
    MemberSuspected,
    ProbeFailed,
    ProbeUnanswered,
    SelfRefuted,
    UdpUnreachable,
)
from wesher_agent.swim.profile import LAN, WAN
from wesher_agent.wire.messages import AckResp, Alive, IndirectPing, NackResp, State
from wesher_testing.virtual.network import VirtualNetwork, messages_in

Make = Callable[..., VirtualNetwork]


def test_a_silent_member_is_suspected_then_declared_dead(net: VirtualNetwork) -> None:
    """Losing one of three costs at most a round of probes and a suspicion's 4 s."""
    a, b, c = net.start("a", "b", "c")
    net.cut(b)

    suspected = net.run_until(lambda: a.sees(b) is State.SUSPECT, deadline=4.0)
    failed = net.run_until(lambda: b.name not in a.alive and b.name not in c.alive, deadline=5.0)

    assert 0.9 < suspected + failed < 8.0
    assert 3.5 < failed < 4.6
    [suspicion] = a.happened(MemberSuspected)
    [failure] = a.happened(MemberFailed)
    assert suspicion.member.name == failure.member.name == "b"
    assert failure.confirmations == 0, "with three members there is nobody to confirm"


def test_a_probe_tells_whom_it_asked_for_help_and_that_it_failed(net: VirtualNetwork) -> None:
    a, b, _ = net.start("a", "b", "c")
    net.cut(b)

    net.run_until(lambda: a.happened(ProbeFailed), deadline=5.0)

    [failed] = a.happened(ProbeFailed)
    unanswered = a.happened(ProbeUnanswered)[-1]
    assert failed.member.name == unanswered.member.name == "b"
    assert (unanswered.helpers, unanswered.tcp) == (("c",), True)


def test_a_crashed_member_of_fifty_is_gone_for_all_in_the_time_memberlist_takes(net: VirtualNetwork) -> None:
    """Two confirmations bring 40 s down to 6.8 s, plus probing and spreading."""
    nodes = net.start(*(f"n{i}" for i in range(50)))
    victim, rest = nodes[17], [*nodes[:17], *nodes[18:]]
    net.crash(victim)

    took = net.run_until(lambda: all(victim.name not in n.alive for n in rest), deadline=15.0)

    assert took > 6.7
    confirmations = [e.confirmations for n in rest for e in n.happened(MemberFailed)]
    assert max(confirmations) == LAN.suspicion_mult - 2


def test_without_confirmations_a_suspicion_lasts_six_times_as_long(make_net: Make) -> None:
    """Whoever cannot be heard while it suspects has only its own word, and takes its time."""
    net = make_net()
    nodes = net.start(*(f"n{i}" for i in range(10)))
    lonely, others = nodes[0], nodes[1:]
    net.partition([lonely], others)

    net.run_until(lambda: State.SUSPECT in [lonely.sees(o) for o in others], deadline=20.0)
    first = next(o for o in others if lonely.sees(o) is State.SUSPECT)
    took = net.run_until(lambda: lonely.sees(first) is State.DEAD, deadline=30.0)

    shortest = LAN.suspicion_mult * LAN.probe_interval
    assert abs(took - LAN.suspicion_max_timeout_mult * shortest) < 0.1


def test_a_suspected_member_that_lives_denies_it(net: VirtualNetwork) -> None:
    """A cut shorter than the suspicion costs nothing but an incarnation."""
    a, b, c = net.start("a", "b", "c")
    net.cut(b)
    net.run_until(lambda: a.sees(b) is State.SUSPECT and c.sees(b) is State.SUSPECT, deadline=6.0)
    before = b.engine.me.incarnation
    net.heal()

    net.run_until(lambda: a.sees(b) is c.sees(b) is State.ALIVE, deadline=3.0)

    assert a.knows(b).incarnation == b.engine.me.incarnation == before + 1
    assert b.happened(SelfRefuted)
    assert a.happened(MemberAlive)
    assert not a.happened(MemberFailed)


def test_the_answer_to_the_ping_that_tells_of_a_suspicion_carries_the_denial(net: VirtualNetwork) -> None:
    """One round trip clears a member: the denial need not wait for its gossip."""
    a, b = net.start("a", "b")
    net.cut(b)
    net.run_until(lambda: a.sees(b) is State.SUSPECT, deadline=6.0)
    net.run(1.5)  # until the suspicion's gossip is spent
    net.record = True
    net.heal()

    net.run_until(lambda: a.sees(b) is State.ALIVE, deadline=1.1)

    packets = [messages_in(data) for _, to, data in b.sent if to == a.address]
    [answer, *_] = [packet for packet in packets if isinstance(packet[0], AckResp)]
    assert "b" in [m.node for m in answer if isinstance(m, Alive)]


def test_a_member_that_cannot_hear_one_other_is_saved_by_a_third(make_net: Make) -> None:
    """A's packets never reach b; c asks b on a's behalf, and forwards the ack."""
    net = make_net(profile=replace(LAN, disable_tcp_pings=True))
    a, b, c = net.start("a", "b", "c")
    net.record = True
    net.block(a, b)

    net.run(30.0)

    assert not [e for n in (a, b, c) for e in n.happened(MemberSuspected)]
    asked = [m for _, _, data in a.sent for m in messages_in(data) if isinstance(m, IndirectPing)]
    assert asked
    assert {m.node for m in asked} == {"b"}


def test_a_member_without_udp_is_kept_by_pings_over_tcp(net: VirtualNetwork) -> None:
    """It stays, and the one who can do something about it is told."""
    a, b, _ = net.start("a", "b", "c")
    net.block_udp(b)

    net.run(30.0)

    assert b.name in a.alive
    assert not a.happened(MemberSuspected)
    assert a.happened(UdpUnreachable)


def test_without_tcp_pings_a_member_without_udp_is_lost(make_net: Make) -> None:
    """The setting is obeyed; and the story above owes its end to TCP."""
    net = make_net(profile=replace(LAN, disable_tcp_pings=True))
    a, b, _ = net.start("a", "b", "c")
    net.block_udp(b)

    net.run_until(lambda: b.name not in a.alive, deadline=10.0)

    assert not a.happened(UdpUnreachable)


def test_helpers_that_are_well_say_so_when_the_target_is_not(make_net: Make) -> None:
    """Their nacks keep the prober's own health score at 0, given that they come in time."""
    net = make_net(profile=replace(LAN, probe_timeout=0.4))
    nodes = net.start("a", "b", "c", "d", "e")
    a, b, helpers = nodes[0], nodes[1], nodes[2:]
    net.record = True
    net.cut(b)

    net.run_until(lambda: a.sees(b) is State.DEAD, deadline=20.0)

    nacks = [m for h in helpers for _, to, data in h.sent if to == a.address for m in messages_in(data)]
    assert any(isinstance(m, NackResp) for m in nacks)
    assert a.engine.health_score == 0


def test_the_health_score_rises_when_helpers_are_silent_and_falls_again(net: VirtualNetwork) -> None:
    """Cut off from everyone, a member doubts itself; back among them, it recovers."""
    nodes = net.start(*(f"n{i}" for i in range(6)))
    net.cut(nodes[0])
    net.run_until(lambda: nodes[0].engine.health_score >= 3, deadline=10.0)

    net.heal()
    net.run_until(lambda: nodes[0].engine.health_score == 0, deadline=60.0)


def test_an_unhealthy_member_gives_others_longer_to_answer(net: VirtualNetwork) -> None:
    """With score s a failed probe takes s + 1 intervals, so suspicions come slower."""
    nodes = net.start(*(f"n{i}" for i in range(12)))
    lonely = nodes[0]
    net.cut(lonely)
    net.run(20.0)

    # A healthy prober would have run through all eleven in that time.
    assert lonely.engine.health_score == LAN.awareness_max_multiplier - 1
    assert 0 < len(lonely.happened(MemberSuspected)) < 8


def test_a_dead_member_is_gossiped_to_and_forgotten_after_its_time(net: VirtualNetwork) -> None:
    """GossipToTheDeadTime and one more round of probes, then the name is free."""
    a, b, c = net.start("a", "b", "c")
    net.crash(b)
    net.run_until(lambda: a.sees(b) is State.DEAD, deadline=12.0)

    took = net.run_until(lambda: a.sees(b) is None and c.sees(b) is None, deadline=60.0)

    assert took >= LAN.gossip_to_the_dead_time - 0.5
    assert took < LAN.gossip_to_the_dead_time + 5.0
    assert len(a.happened(MemberForgotten)) == 1


def test_a_member_back_within_the_time_of_gossip_to_the_dead_hears_of_its_death_and_denies_it(
    net: VirtualNetwork,
) -> None:
    a, b, c = net.start("a", "b", "c")
    net.cut(b)
    net.run_until(lambda: a.sees(b) is State.DEAD and c.sees(b) is State.DEAD, deadline=12.0)
    net.heal()

    # b lost the others as well, but still knows where they are and exchanges state with none of
    # them; the next news anyone has reaches it, and its own pings reach them.
    a.act(lambda engine, now: engine.update_meta(b"news", now=now))
    c.act(lambda engine, now: engine.push_pull_with(b.address, now=now))
    net.run_until(lambda: a.sees(b) is c.sees(b) is State.ALIVE, deadline=5.0)

    assert len([e for e in a.happened(MemberJoined) if e.member.name == "b"]) == 2


def test_fifty_idle_members_never_suspect_each_other(make_net: Make) -> None:
    """Five minutes, no faults: no suspicion, no death, every health score 0."""
    net = make_net()
    nodes = net.start(*(f"n{i}" for i in range(50)))

    net.run(300.0)

    assert not [e for n in nodes for e in n.events if isinstance(e, (MemberSuspected, MemberFailed))]
    assert {n.engine.health_score for n in nodes} == {0}


def test_at_a_quarter_of_packets_lost_nobody_healthy_is_declared_dead(make_net: Make) -> None:
    net = make_net(loss=0.25)
    nodes = net.start(*(f"n{i}" for i in range(30)))

    net.run(120.0)

    assert not [e for n in nodes for e in n.happened(MemberFailed)]


def test_members_that_pause_for_seconds_do_not_kill_the_rest(make_net: Make) -> None:
    """The Lifeguard case: a few slow members must not drag healthy ones down."""
    net = make_net()
    nodes = net.start(*(f"n{i}" for i in range(32)))
    slow, healthy = nodes[:4], nodes[4:]
    for round_ in range(8):
        for node in slow:
            net.pause(node, 1.0 + 2.0 * round_)
        net.run(20.0)

    false_deaths = [
        (n.name, e.member.name)
        for n in nodes
        for e in n.happened(MemberFailed)
        if e.member.name in {h.name for h in healthy}
    ]
    assert not false_deaths


def test_the_wan_profile_is_as_patient_as_memberlists(make_net: Make) -> None:
    """Three members: 5 s a probe, then 6 x 5 s of suspicion."""
    net = make_net(profile=WAN, delay=(0.02, 0.15))
    a, b, _ = net.start("a", "b", "c")
    net.cut(b)

    suspected = net.run_until(lambda: a.sees(b) is State.SUSPECT, deadline=20.0)
    failed = net.run_until(lambda: a.sees(b) is State.DEAD, deadline=35.0)

    assert suspected > 4.0
    assert 28.0 < failed < 31.0


def test_a_probe_is_saved_by_an_ack_from_any_address(net: VirtualNetwork) -> None:
    """Behind a NAT an answer may come from elsewhere; only its number counts."""
    a, b = net.start("a", "b")
    b.appears_as = b.address._replace(port=40_000)

    net.run(20.0)

    assert not a.happened(MemberSuspected)
    assert a.sees(b) is b.sees(a) is State.ALIVE
