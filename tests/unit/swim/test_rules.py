"""Every state, every claim, older, equal and newer: what is believed afterwards (`state.go`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from random import Random

import pytest

from wesher_agent.swim.address import Address
from wesher_agent.swim.engine import Engine
from wesher_agent.swim.events import Event, NameConflict
from wesher_agent.swim.members import DEFAULT_VERSIONS, LocalNode, Member
from wesher_agent.swim.profile import LAN
from wesher_agent.swim.source import Source, Way
from wesher_agent.swim.timers import Kind, Timer
from wesher_agent.swim.versions import verify_protocol
from wesher_agent.wire.messages import Alive, Dead, PushNodeState, State, Suspect, Versions
from wesher_agent.wire.packet import PacketFormat, open_packet
from wesher_common.errors import PeerMisbehaved

HERE, THERE = Address("10.0.0.2", 7946), Address("10.0.0.3", 7946)
KNOWN = 5
PERIODIC = Timer(Kind.PUSH_PULL)
GO_VERSIONS = Versions()
ALIVE, SUSPECT, DEAD, LEFT = State.ALIVE, State.SUSPECT, State.DEAD, State.LEFT


def engine_that_holds_x(state: State, versions: Versions = GO_VERSIONS) -> Engine:
    """Return an engine that believes x to be in ``state`` at incarnation 5."""
    engine = Engine(
        LocalNode("me", Address("10.0.0.1", 7946)),
        LAN,
        packet_format=PacketFormat(None),
        incarnation=1,
        rng=Random(1),
        nonce=bytes,
    )
    engine.start(now=0.0)
    engine.inject(replace(alive(KNOWN), vsn=versions), now=0.0)
    match state:
        case State.SUSPECT:
            engine.inject(Suspect(KNOWN, "x", "y"), now=0.0)
        case State.DEAD:
            engine.inject(Dead(KNOWN, "x", "y"), now=0.0)
        case State.LEFT:
            engine.inject(Dead(KNOWN, "x", "x"), now=0.0)
    assert engine.members["x"].state is state
    return engine


def events_of(engine: Engine) -> Iterator[Event]:
    """Yield what an engine has reported."""
    while (event := engine.next_event()) is not None:
        yield event


def alive(incarnation: int, address: Address = HERE) -> Alive:
    """Return an alive message of x."""
    return Alive(incarnation, "x", address.packed, address.port, b"", Versions())


CLAIMS = {
    "alive": alive,
    "alive elsewhere": lambda incarnation: alive(incarnation, THERE),
    "suspect": lambda incarnation: Suspect(incarnation, "x", "z"),
    "dead": lambda incarnation: Dead(incarnation, "x", "z"),
    "left": lambda incarnation: Dead(incarnation, "x", "x"),
}

# For each claim and known state: what it is afterwards when the claim's incarnation is lower, equal, higher.
RULES = {
    ("alive", ALIVE): (ALIVE, ALIVE, ALIVE),
    ("alive", SUSPECT): (SUSPECT, SUSPECT, ALIVE),
    ("alive", DEAD): (DEAD, DEAD, ALIVE),
    ("alive", LEFT): (LEFT, LEFT, ALIVE),
    ("alive elsewhere", ALIVE): (ALIVE, ALIVE, ALIVE),
    ("alive elsewhere", SUSPECT): (SUSPECT, SUSPECT, SUSPECT),
    ("alive elsewhere", DEAD): (DEAD, DEAD, DEAD),
    # memberlist believes all three; but an older one may be a replay from a former address.
    ("alive elsewhere", LEFT): (LEFT, LEFT, ALIVE),
    ("suspect", ALIVE): (ALIVE, SUSPECT, SUSPECT),
    ("suspect", SUSPECT): (SUSPECT, SUSPECT, SUSPECT),
    ("suspect", DEAD): (DEAD, DEAD, DEAD),
    ("suspect", LEFT): (LEFT, LEFT, LEFT),
    ("dead", ALIVE): (ALIVE, DEAD, DEAD),
    ("dead", SUSPECT): (SUSPECT, DEAD, DEAD),
    ("dead", DEAD): (DEAD, DEAD, DEAD),
    ("dead", LEFT): (LEFT, LEFT, LEFT),
    ("left", ALIVE): (ALIVE, LEFT, LEFT),
    ("left", SUSPECT): (SUSPECT, LEFT, LEFT),
    # memberlist lets the dead be dead; but one that was found dead behind a cut may have left there.
    ("left", DEAD): (DEAD, LEFT, LEFT),
    ("left", LEFT): (LEFT, LEFT, LEFT),
}


@pytest.mark.parametrize("age", [-1, 0, 1], ids=["older", "equal", "newer"])
@pytest.mark.parametrize(("claim", "known"), RULES, ids=lambda value: str(getattr(value, "name", value)))
def test_what_is_believed_afterwards(claim: str, known: State, age: int) -> None:
    engine = engine_that_holds_x(known)

    engine.inject(CLAIMS[claim](KNOWN + age), now=1.0)

    assert engine.members["x"].state is RULES[claim, known][age + 1]
    moved = claim == "alive elsewhere" and known is LEFT and age > 0
    assert engine.members["x"].address == (THERE if moved else HERE)


OTHER_PORT = Address(HERE.ip, HERE.port + 1)


@pytest.mark.parametrize("known", [ALIVE, SUSPECT, DEAD])
def test_another_port_of_its_host_needs_no_leave(known: State) -> None:
    engine = engine_that_holds_x(known)

    engine.inject(alive(KNOWN + 1, OTHER_PORT), now=1.0)

    assert (engine.members["x"].state, engine.members["x"].address) == (ALIVE, OTHER_PORT)


@pytest.mark.parametrize(
    "claim",
    [
        alive(KNOWN, OTHER_PORT),
        alive(KNOWN - 1, OTHER_PORT),
        replace(alive(KNOWN + 1, OTHER_PORT), meta=b"another machine's"),
        replace(alive(KNOWN + 1, OTHER_PORT), vsn=Versions(protocol_max=4)),
    ],
    ids=["no news", "a replay", "another machine", "another program"],
)
def test_who_else_uses_the_name_on_another_port_is_refused(claim: Alive) -> None:
    """Two machines behind one address translator can have one name."""
    engine = engine_that_holds_x(ALIVE)

    engine.inject(claim, now=1.0)

    assert engine.members["x"].address == HERE


@pytest.mark.parametrize(
    ("known", "versions", "matter"),
    [
        (ALIVE, DEFAULT_VERSIONS, []),
        (ALIVE, GO_VERSIONS, [NameConflict]),
        (DEAD, GO_VERSIONS, [NameConflict]),
        (LEFT, GO_VERSIONS, []),
    ],
)
def test_what_others_know_of_a_former_port_matters_where_a_member_does_not_follow(
    known: State, versions: Versions, matter: list[type[Event]]
) -> None:
    """One that failed may come back and refuse this member at its new port."""
    engine = engine_that_holds_x(ALIVE, versions)
    former = engine.me
    engine.change_address(Address(former.address.ip, 7999), now=1.0)
    engine.handle_timer(now=20.0)
    assert engine.me.address.port == 7999
    if known is not ALIVE:
        engine.inject(Dead(KNOWN, "x", "x" if known is LEFT else "y"), now=20.0)
    list(events_of(engine))

    addr, port = former.address.packed, former.address.port
    engine.inject(Alive(1, "me", addr, port, former.meta, former.versions), now=20.0)

    assert [type(event) for event in events_of(engine)] == matter


def test_a_member_that_changes_its_port_keeps_its_turn_to_exchange_state() -> None:
    """Otherwise members that do so together would exchange in step from then on."""
    engine, other = (engine_that_holds_x(ALIVE, DEFAULT_VERSIONS) for _ in range(2))
    assert engine._timers._due[PERIODIC] == other._timers._due[PERIODIC]

    engine.change_address(Address(engine.me.address.ip, 7999), now=0.1)
    engine.handle_timer(now=0.1)

    assert engine._timers._due[PERIODIC] == other._timers._due[PERIODIC]


def test_an_unknown_name_is_admitted_only_alive_and_with_an_incarnation() -> None:
    engine = engine_that_holds_x(ALIVE)
    for claim in (Suspect(1, "n", "z"), Dead(1, "n", "z"), replace(alive(0), node="n")):
        engine.inject(claim, now=1.0)
        assert "n" not in engine.members

    engine.inject(replace(alive(1), node="n"), now=1.0)
    assert engine.members["n"].state is ALIVE


def push_state(name: str, versions: Versions, state: State = ALIVE) -> PushNodeState:
    """Return one entry of another's view."""
    return PushNodeState(name, HERE.packed, HERE.port, b"", 1, state, versions)


def local(versions: Versions, state: State = ALIVE) -> Member:
    """Return a member of ours."""
    return Member("l", HERE, b"", 1, state, versions, 0.0)


@pytest.mark.parametrize(
    ("ours", "theirs", "compatible"),
    [
        (Versions(1, 5, 2, 0, 0, 0), Versions(1, 5, 2, 0, 0, 0), True),
        (Versions(1, 5, 2, 0, 0, 0), Versions(1, 2, 2, 0, 0, 0), True),
        (Versions(1, 5, 3, 0, 0, 0), Versions(1, 2, 2, 0, 0, 0), False),
        (Versions(1, 5, 2, 0, 0, 0), Versions(3, 5, 4, 0, 0, 0), False),
        (Versions(1, 5, 2, 2, 5, 4), Versions(1, 5, 2, 2, 4, 4), True),
        (Versions(1, 5, 2, 2, 5, 5), Versions(1, 5, 2, 2, 4, 4), False),
        (Versions(1, 5, 2, 2, 5, 4), Versions(1, 5, 2, 0, 0, 0), False),
        (Versions(1, 5, 2, 0, 0, 0), Versions(0, 0, 0, 0, 0, 0), False),
    ],
)
def test_a_merge_needs_everyone_to_understand_everyone(
    ours: Versions, theirs: Versions, *, compatible: bool
) -> None:
    if compatible:
        verify_protocol([local(ours)], [push_state("r", theirs)])
    else:
        with pytest.raises(PeerMisbehaved, match="incompatible-version"):
            verify_protocol([local(ours)], [push_state("r", theirs)])


def test_the_ranges_of_members_that_are_not_alive_do_not_count_but_what_they_speak_does() -> None:
    narrow = Versions(1, 2, 2, 0, 0, 0)
    verify_protocol([local(Versions(1, 5, 3, 0, 0, 0))], [push_state("r", narrow, SUSPECT)])

    with pytest.raises(PeerMisbehaved, match="r uses protocol version 1; supported are 2 to 5"):
        verify_protocol(
            [local(Versions(2, 5, 3, 0, 0, 0))], [push_state("r", Versions(1, 1, 1, 0, 0, 0), DEAD)]
        )


@pytest.mark.parametrize("held", [SUSPECT, DEAD])
def test_whom_a_state_exchange_makes_us_suspect_hears_of_it_from_us_once(held: State) -> None:
    """To all others it may be old news, and its denial too, so that gossip would bring neither."""
    engine = engine_that_holds_x(ALIVE)
    engine.datagrams_to_send()
    entry = PushNodeState("x", HERE.packed, HERE.port, b"", KNOWN, held, Versions())
    for _ in range(2):
        engine._membership.merge([entry], source=Source("10.0.0.9", Way.ANSWER), now=0.0)
    assert engine.members["x"].state is SUSPECT
    told = [data for data, address in engine.datagrams_to_send() if address == HERE]
    assert len(told) == 1
    assert Suspect(KNOWN, "x", "me") in open_packet(told[0], PacketFormat(None)).messages
