"""What we make of it when others hold us to be somewhere else."""

from __future__ import annotations

from random import Random

import pytest

from wesher_agent.swim.address import Address
from wesher_agent.swim.engine import Engine
from wesher_agent.swim.events import NameConflict
from wesher_agent.swim.members import LocalNode
from wesher_agent.swim.profile import LAN
from wesher_agent.wire.messages import PushNodeState, PushPull, State, Versions
from wesher_agent.wire.packet import PacketFormat
from wesher_agent.wire.stream import seal_stream

IN_CLEAR = PacketFormat(None, compress=False)
HERE, BEFORE, PEER = (Address(f"10.0.0.{number}", 7946) for number in (1, 2, 3))


def conflicts_after(
    state: State, address: Address, *, leaving: bool = False, asked: bool = False
) -> list[NameConflict]:
    """Return what follows when a peer says so of us, at an incarnation long past, whether we asked or not."""
    engine = Engine(
        LocalNode("me", HERE), LAN, packet_format=IN_CLEAR, incarnation=9, rng=Random(1), nonce=bytes
    )
    engine.start(now=0.0)
    if leaving:
        engine.leave(now=0.0)
    entry = PushNodeState("me", address.packed, address.port, b"", 1, state, Versions())
    if asked:
        engine.push_pull_with(PEER, now=0.0)
        (opened,) = engine.stream_actions()
        stream = opened.id
    else:
        accepted = engine.stream_accepted(PEER, now=0.0)
        assert accepted is not None
        stream = accepted
    said = seal_stream(PushPull((entry,), join=False), IN_CLEAR, nonce=bytes, answer=asked)
    engine.stream_received(stream, said, now=0.0)
    assert engine.me.address == HERE
    return [event for event in iter(engine.next_event, None) if isinstance(event, NameConflict)]


@pytest.mark.parametrize("asked", [False, True], ids=["by itself", "when asked"])
@pytest.mark.parametrize("state", [State.ALIVE, State.SUSPECT])
def test_one_that_still_looks_for_us_elsewhere_is_a_conflict(state: State, *, asked: bool) -> None:
    """It refuses our words for as long: for minutes in the WAN profile."""
    (conflict,) = conflicts_after(state, BEFORE, asked=asked)
    assert (conflict.member.name, conflict.claimed, conflict.asked_for) == ("me", BEFORE, asked)


@pytest.mark.parametrize("state", [State.DEAD, State.LEFT])
def test_one_that_has_given_up_on_us_elsewhere_is_none(state: State) -> None:
    assert conflicts_after(state, BEFORE) == []


@pytest.mark.parametrize("state", State)
def test_what_is_believed_of_us_here_is_none(state: State) -> None:
    assert conflicts_after(state, HERE) == []


@pytest.mark.parametrize("state", State)
def test_who_leaves_does_not_care(state: State) -> None:
    assert conflicts_after(state, BEFORE, leaving=True) == []
