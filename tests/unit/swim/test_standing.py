"""Claims that an application can prove win over those that it cannot, whatever their incarnation."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from wesher_agent.swim.address import Address
from wesher_agent.swim.engine import Engine
from wesher_agent.swim.events import Event, MemberDisplaced, MembersFull, MemberUpdated, NameConflict
from wesher_agent.swim.members import MAX_INCARNATION, LocalNode
from wesher_agent.swim.membership import Standing
from wesher_agent.swim.profile import DEFAULT_LIMITS, LAN, Limits
from wesher_agent.swim.random_set import RandomSet
from wesher_agent.swim.streams import OpenStream
from wesher_agent.wire.messages import Alive, Dead, PushNodeState, PushPull, State, Suspect, Versions
from wesher_agent.wire.packet import PacketFormat, open_packet
from wesher_agent.wire.stream import seal_stream

HERE, THERE = Address("10.0.0.2", 7946), Address("10.0.0.3", 7946)


def standing(_name: str, meta: bytes, address: Address, _now: float) -> int:
    """Take metadata that begins with "signed" for proven, and once more where a tunnel ends at 10.0.0.2."""
    return meta.startswith(b"signed") * (1 + (address == HERE))


def engine(limits: Limits | None = None, *, standing: Standing = standing) -> Engine:
    started = Engine(
        LocalNode("me", Address("10.0.0.1", 7946)),
        LAN,
        packet_format=PacketFormat(None),
        incarnation=1,
        rng=Random(1),
        nonce=bytes,
        standing=standing,
        limits=limits or Limits(),
    )
    started.start(now=0.0)
    return started


def alive(incarnation: int, meta: bytes, address: Address = HERE, name: str = "x") -> Alive:
    return Alive(incarnation, name, address.packed, address.port, meta, Versions())


def events_of(engine: Engine) -> list[Event]:
    found = []
    while (event := engine.next_event()) is not None:
        found.append(event)
    return found


def holding(*claims: Alive | Suspect | Dead) -> Engine:
    holder = engine()
    for claim in claims:
        holder.inject(claim, now=0.0)
    events_of(holder)
    return holder


def held(engine: Engine) -> tuple[State, bytes, Address]:
    member = engine.members["x"]
    return member.state, member.meta, member.address


LEAVE, DEATH = Dead(5, "x", "x"), Dead(5, "x", "y")


@pytest.mark.parametrize("news", [(), (LEAVE,), (DEATH,), (Suspect(5, "x", "y"),)])
@pytest.mark.parametrize("where", [HERE, THERE])
def test_an_unproven_claim_changes_only_whether_a_proven_member_appears_alive(
    news: tuple[Suspect | Dead, ...], where: Address
) -> None:
    """The thief's way to a name: have it leave, then say that it is alive elsewhere with another key."""
    holder = holding(alive(5, b"signed"), *news)
    holder.inject(alive(9, b"forged", where), now=1.0)
    assert held(holder) == (State.ALIVE, b"signed", HERE)
    assert not [event for event in events_of(holder) if isinstance(event, NameConflict)]


@pytest.mark.parametrize("incarnation", [1, 9])
@pytest.mark.parametrize("news", [(), (LEAVE,), (DEATH,), (Suspect(5, "x", "y"),)])
def test_a_proven_claim_takes_name_and_address_at_once(
    news: tuple[Suspect | Dead, ...], incarnation: int
) -> None:
    holder = holding(alive(5, b"forged", THERE), *news)
    holder.inject(alive(incarnation, b"signed"), now=1.0)
    assert held(holder) == (State.ALIVE, b"signed", HERE)


def test_a_proven_claim_in_a_state_exchange_wins_at_the_same_address_too() -> None:
    holder = holding(alive(5, b"forged"))
    entry = PushNodeState("x", HERE.packed, HERE.port, b"signed", 1, State.ALIVE, Versions())
    stream = holder.stream_accepted(THERE, now=1.0)
    request = seal_stream(PushPull((entry,), join=False), PacketFormat(None), nonce=bytes)
    holder.stream_received(stream, request, now=1.0)
    holder.handle_timer(now=1.0)
    assert held(holder) == (State.ALIVE, b"signed", HERE)


def test_a_members_own_words_replayed_from_elsewhere_move_it_nowhere() -> None:
    """Its certificate is in them; but the tunnel to it ends where it is."""
    holder = holding(alive(5, b"signed"))
    holder.inject(alive(9, b"signed", THERE), now=1.0)
    assert held(holder) == (State.ALIVE, b"signed", HERE)


def test_a_member_that_moved_is_followed_to_where_its_tunnel_ends() -> None:
    holder = holding(alive(5, b"signed", THERE))
    holder.inject(alive(6, b"signed"), now=1.0)
    assert held(holder) == (State.ALIVE, b"signed", HERE)


def test_of_equally_proven_claims_the_incarnation_decides_as_ever() -> None:
    holder = holding(alive(5, b"signed 1"))
    holder.inject(alive(5, b"signed 2"), now=1.0)
    assert held(holder)[1] == b"signed 1"
    holder.inject(alive(6, b"signed 2"), now=1.0)
    assert held(holder)[1] == b"signed 2"
    assert [event for event in events_of(holder) if isinstance(event, MemberUpdated)]


def test_a_proven_member_is_declared_dead_as_any_other() -> None:
    holder = holding(alive(5, b"signed"), DEATH)
    assert held(holder)[0] is State.DEAD


@pytest.mark.parametrize("limits", [Limits(unproven=10), Limits(members=11)])
def test_invented_names_keep_no_other_out(limits: Limits) -> None:
    crowded = engine(limits)
    for number in range(100):
        crowded.inject(alive(1, b"forged", name=f"invented-{number}"), now=1.0)
    assert len(crowded.members) == 11
    crowded.inject(alive(1, b"signed", name="proven"), now=1.0)
    crowded.inject(alive(1, b"invited", name="newcomer"), now=1.0)
    assert {"proven", "newcomer"} < crowded.members.keys()
    for number in range(100, 200):
        crowded.inject(alive(1, b"forged", name=f"invented-{number}"), now=2.0)
    assert "proven" in crowded.members
    displaced = [event.member.name for event in events_of(crowded) if isinstance(event, MemberDisplaced)]
    assert not {*displaced} & crowded.members.keys()


def test_5000_members_without_proof_fit_where_the_mesh_is_not_bound() -> None:
    crowded = engine(Limits())
    for number in range(DEFAULT_LIMITS.unproven + 10):
        crowded.inject(alive(1, b"forged", name=f"invented-{number}"), now=1.0)
    assert len(crowded.members) == 5_001


def test_a_member_that_is_suspected_can_be_displaced() -> None:
    crowded = engine(Limits(unproven=1))
    crowded.inject(alive(1, b"", name="a"), now=1.0)
    crowded.inject(Suspect(1, "a", "y"), now=1.0)
    crowded.inject(alive(1, b"", name="b"), now=1.0)
    crowded.handle_timer(now=100.0)
    assert crowded.members.keys() == {"me", "b"}


def test_where_all_are_proven_the_limit_of_members_is_kept() -> None:
    full = engine(Limits(members=3))
    for name in "abc":
        full.inject(alive(1, b"signed", name=name), now=1.0)
    assert full.members.keys() == {"me", "a", "b"}
    assert [event for event in events_of(full) if isinstance(event, MembersFull)] == [MembersFull("c")]


def test_a_member_that_is_proven_later_is_not_displaced_any_more() -> None:
    crowded = engine(Limits(unproven=1))
    crowded.inject(alive(1, b"", name="a"), now=1.0)
    crowded.inject(replace(alive(2, b"signed"), node="a"), now=1.0)
    crowded.inject(alive(1, b"", name="b"), now=1.0)
    assert crowded.members.keys() == {"me", "a", "b"}


def test_lowering_the_limit_lets_them_go_as_others_come() -> None:
    crowded = engine()
    for number in range(20):
        crowded.inject(alive(1, b"", name=f"invented-{number}"), now=1.0)
    crowded.set_most_unproven(5)
    for number in range(20, 40):
        crowded.inject(alive(1, b"", name=f"invented-{number}"), now=1.0)
    assert len(crowded.members) == 6


def test_names_that_take_the_place_of_others_are_not_spread() -> None:
    """Members would go on displacing each other's invented names for good."""
    crowded = engine(Limits(unproven=3))
    for number in range(10):
        crowded.inject(alive(1, b"forged", name=f"invented-{number}"), now=1.0)
    spread = {name for name in crowded.members if crowded._gossip.is_spreading(name)}
    assert spread <= {"me", "invented-0", "invented-1", "invented-2"}
    crowded.inject(alive(1, b"signed", name="proven"), now=1.0)
    assert crowded._gossip.is_spreading("proven")


def gossiped_to(engine: Engine, *, now: float) -> set[Address]:
    """Let an engine gossip once; return to whom."""
    engine.datagrams_to_send()
    engine._gossip.tick(now=now)
    return {address for _, address in engine.datagrams_to_send()}


def test_where_most_are_invented_the_proven_hear_gossip_and_exchange_state_all_the_same() -> None:
    crowded = engine()
    proven = Address("10.0.0.7", 7946)
    crowded.inject(alive(1, b"signed", proven, name="proven"), now=1.0)
    for number in range(1000):
        invented = Address(f"10.1.{number // 250}.{number % 250 + 1}", 7946)
        crowded.inject(alive(1, b"forged", invented, name=f"invented-{number}"), now=1.0)
    assert all(proven in gossiped_to(crowded, now=1.0) for _ in range(5))
    crowded.stream_actions()
    crowded._push_pull(2.0)
    opened = {action.address for action in crowded.stream_actions() if isinstance(action, OpenStream)}
    assert proven in opened


def test_where_most_are_invented_a_proven_member_is_asked_to_probe_too() -> None:
    """Otherwise a member whose packets are lost once would be declared failed."""
    crowded = engine()
    proven = Address("10.0.0.7", 7946)
    crowded.inject(alive(1, b"signed", proven, name="proven"), now=1.0)
    for number in range(1000):
        invented = Address(f"10.1.{number // 250}.{number % 250 + 1}", 7946)
        crowded.inject(alive(1, b"forged", invented, name=f"invented-{number}"), now=1.0)
    crowded._prober.turn(now=2.0)
    crowded.datagrams_to_send()
    crowded._prober.timed_out(now=2.5)
    assert proven in {address for _, address in crowded.datagrams_to_send()}


def test_what_is_proven_later_or_no_more_is_preferred_from_then_on_or_no_more() -> None:
    """As when a mesh becomes certified, or a member is revoked."""
    proven: set[str] = {"revoked"}
    crowded = engine(standing=lambda name, *_: name in proven)
    for name in ("revoked", "late", *(f"invented-{number}" for number in range(8))):
        crowded.inject(alive(1, b"", name=name), now=1.0)
    proven.symmetric_difference_update({"revoked", "late"})
    crowded.weigh_again(now=2.0)
    assert [member.name for member in crowded._table.pick_proven(3, lambda _: True)] == ["late"]


def test_a_proven_claim_brings_no_incarnation_after_which_the_member_could_deny_nothing() -> None:
    """Anyone can repeat a member's proof beside another incarnation."""
    holder = holding(alive(5, b"forged"), alive(MAX_INCARNATION, b"signed"))
    assert held(holder) == (State.ALIVE, b"signed", HERE)
    assert holder.members["x"].incarnation == 6


def test_news_of_proven_members_is_sent_before_that_of_invented_ones() -> None:
    crowded = engine()
    crowded.inject(alive(1, b"signed", name="proven"), now=1.0)
    for number in range(1000):
        crowded.inject(alive(1, b"forged" + bytes(100), name=f"invented-{number}"), now=1.0)
    crowded.datagrams_to_send()
    crowded._gossip.tick(now=1.0)
    first, _ = crowded.datagrams_to_send()[0]
    told = [
        message.node
        for message in open_packet(first, PacketFormat(None)).messages
        if isinstance(message, Alive)
    ]
    assert {*told[:2]} == {"me", "proven"}


def test_every_name_is_drawn_sooner_or_later() -> None:
    names = RandomSet(Random(1))
    for name in "abcdef":
        names.add(name)
        names.add(name)
    names.discard("a")
    names.discard("f")
    names.discard("never there")
    assert len(names) == 4
    assert {names.draw() for _ in range(100)} == {*"bcde"}
