"""Whatever is claimed in whatever order, some things always hold of a gossip engine."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from wesher_agent.swim.address import Address
from wesher_agent.swim.broadcasts import Broadcasts
from wesher_agent.swim.engine import Engine
from wesher_agent.swim.members import MAX_INCARNATION, LocalNode
from wesher_agent.swim.profile import LAN
from wesher_agent.swim.timers import Kind, Timer
from wesher_agent.wire.messages import Alive, Dead, State, Suspect, Versions
from wesher_agent.wire.packet import UDP_PAYLOAD, PacketFormat

names = st.sampled_from(["me", "x", "y", "z"])
incarnations = st.one_of(st.integers(0, 6), st.integers(2**32 - 4, 2**32 - 1))
addresses = st.sampled_from([Address("10.0.0.1", 7946), Address("10.0.0.2", 7946)])
claims = st.one_of(
    st.builds(
        lambda incarnation, node, address, meta: Alive(
            incarnation, node, address.packed, address.port, meta, Versions()
        ),
        incarnations,
        names,
        addresses,
        st.sampled_from([b"", b"meta"]),
    ),
    st.builds(Suspect, incarnations, names, names),
    st.builds(Dead, incarnations, names, names),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(claims, st.sampled_from([0.0, 0.1, 3.0, 40.0])), max_size=30))
def test_an_engine_never_wraps_never_doubts_itself_and_times_every_suspicion(
    story: list[tuple[Alive | Suspect | Dead, float]],
) -> None:
    engine = Engine(
        LocalNode("me", Address("10.0.0.1", 7946)),
        LAN,
        packet_format=PacketFormat(None),
        incarnation=1,
        rng=Random(1),
        nonce=bytes,
    )
    now = 0.0
    engine.start(now=now)
    before = engine.me

    def look() -> None:
        nonlocal before
        me = engine.me
        assert engine.members["me"] == me
        if me.state is State.ALIVE:
            assert me.incarnation <= MAX_INCARNATION
            assert before.incarnation <= me.incarnation or before.state is State.LEFT
        else:
            # For a moment, to return with an incarnation that leaves room.
            assert (me.state, me.incarnation) == (State.LEFT, MAX_INCARNATION)
        before = me

    for claim, pause in story:
        engine.inject(claim, now=now)
        look()
        for name, member in engine.members.items():
            timed = Timer(Kind.SUSPICION, name) in engine._timers
            assert timed == (member.state is State.SUSPECT)
        now += pause
        while (at := engine.next_timer()) is not None and at <= now:
            engine.handle_timer(now=at)
            look()
            engine.stream_actions()
            assert all(len(data) <= UDP_PAYLOAD for data, _ in engine.datagrams_to_send())


@settings(max_examples=25, deadline=None)
@given(st.lists(claims, max_size=30))
def test_whatever_was_claimed_of_the_gone_brings_none_of_them_back(
    story: list[Alive | Suspect | Dead],
) -> None:
    """Said again after they were forgotten, in the same run and in the next."""
    here = Address("10.0.0.1", 7946).packed
    # Of one that ended at the last incarnation no tombstone is kept: it could not pass it itself.
    story = [claim for claim in story if claim.incarnation < MAX_INCARNATION]
    story = [replace(claim, addr=here) if isinstance(claim, Alive) else claim for claim in story]

    def engine() -> Engine:
        made = Engine(
            LocalNode("me", Address("10.0.0.9", 7946)),
            LAN,
            packet_format=PacketFormat(None),
            incarnation=1,
            rng=Random(1),
            nonce=bytes,
        )
        made.start(now=0.0)
        return made

    first, now = engine(), 0.0
    for claim in story:
        first.inject(claim, now=now)
    while now < 120.0:
        # Nobody answers a probe, so all that can die are dead and forgotten.
        first.handle_timer(now=now)
        first.stream_actions()
        first.datagrams_to_send()
        now = max(now + 0.1, first.next_timer() or 0.0)
    gone = {claim.node for claim in story} - first.members.keys()
    second = engine()
    second.bury(first.tombstones(now=now), now=0.0)

    for claim in story:
        first.inject(claim, now=now)
        second.inject(claim, now=0.0)

    assert not gone & first.members.keys()
    assert not gone & second.members.keys()


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.binary(min_size=1, max_size=300)), max_size=40),
    st.lists(st.integers(0, 1400), max_size=60),
)
def test_the_queue_keeps_its_budget_and_ends(pieces: list[tuple[int, bytes]], limits: list[int]) -> None:
    broadcasts = Broadcasts(4)
    for name, message in pieces:
        broadcasts.queue(str(name), message)
    newest = {str(name): message for name, message in pieces}
    assert len(broadcasts) == len(newest)

    for limit in limits:
        taken = broadcasts.take(overhead=2, limit=limit, n=50)
        assert sum(len(message) + 2 for message in taken) <= limit

    while broadcasts.take(overhead=2, limit=1400, n=50):
        pass
    assert len(broadcasts) == 0
