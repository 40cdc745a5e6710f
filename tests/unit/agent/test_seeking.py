"""How the roster's wishes reach the engine, and what is said of seeds whose names cannot be resolved."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from ipaddress import ip_network
from random import Random
from typing import Any

import pytest

from wesher_agent.mesh import dialling
from wesher_agent.mesh.dialling import TRIES_A_SECOND
from wesher_agent.mesh.roster import Roster, SavedMember
from wesher_agent.net import addresses
from wesher_agent.net.driver import Driver
from wesher_agent.net.streams import KEPT_FREE, MAX_OPEN
from wesher_agent.runtime.counts import Counts
from wesher_agent.runtime.seeking import Seeker
from wesher_agent.swim.address import Address
from wesher_agent.swim.engine import Engine
from wesher_agent.swim.events import PushPullFailed
from wesher_agent.swim.members import LocalNode
from wesher_agent.swim.profile import LAN
from wesher_agent.wire.packet import PacketFormat
from wesher_common.seeds import SeedAddress


class _NotingEngine(Engine):
    """Notes in which turn of the loop it was told to dial."""

    def note(self, turn: list[int]) -> None:
        self.turn, self.dialled_in, self.dialled = turn, list[int](), list[Address]()

    def push_pull_with(self, address: Address, *, now: float, join: bool = True) -> None:
        self.dialled_in.append(self.turn[0])
        self.dialled.append(address)
        super().push_pull_with(address, now=now, join=join)


def empty_roster() -> Roster:
    """Return the roster of a, which knows nobody."""
    return Roster(
        "a",
        gossip_port=7946,
        overlay=ip_network("10.189.0.0/24"),
        overlay_is_apart=True,
        forget_after=3600.0,
        rng=Random(1),
    )


async def test_others_have_their_turn_between_two_dials() -> None:
    """Each packs all that is known: among a thousand, eight at once would hold up a tenth of a second."""
    options: dict[str, Any] = {"packet_format": PacketFormat(None), "incarnation": 1, "nonce": bytes}
    engine = _NotingEngine(LocalNode("a", Address("127.0.0.1", 7946)), LAN, rng=Random(1), **options)
    turn = [0]
    engine.note(turn)
    roster = empty_roster()
    driver = Driver(engine, lambda event: None)
    unreachable = [Address(f"127.9.9.{number}", 9) for number in range(1, TRIES_A_SECOND + 1)]
    saved = [SavedMember(name=f"n{where.ip[-1]}", address=where, raw_meta=b"") for where in unreachable]
    roster.restore(saved, now=driver.now)
    seeking = asyncio.create_task(
        Seeker(roster, engine, driver, on_change=lambda: None, counts=Counts()).run()
    )

    async with asyncio.timeout(60.0):
        while len(engine.dialled_in) < len(unreachable):
            await asyncio.sleep(0)
            turn[0] += 1

    seeking.cancel()
    with suppress(asyncio.CancelledError):
        await seeking
    await driver.close()
    assert len(set(engine.dialled_in)) == len(unreachable)


async def test_no_more_are_dialled_than_there_is_room_for_and_the_rest_stay_due(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A dial that is refused on our side would count as a try, and pings over TCP would find no room."""
    monkeypatch.setattr(dialling, "TRIES_A_SECOND", 1000)
    options: dict[str, Any] = {"packet_format": PacketFormat(None), "incarnation": 1, "nonce": bytes}
    engine = _NotingEngine(LocalNode("a", Address("127.0.0.1", 7946)), LAN, rng=Random(1), **options)
    engine.note([0])
    failed: list[PushPullFailed] = []
    roster = empty_roster()
    driver = Driver(engine, lambda event: failed.append(event) if isinstance(event, PushPullFailed) else None)
    with socket.create_server(("0.0.0.0", 0), backlog=2 * MAX_OPEN) as silent:
        port = silent.getsockname()[1]
        there = [Address(f"127.9.8.{number}", port) for number in range(100)]
        roster.restore(
            [SavedMember(name=f"n{where.ip}", address=where, raw_meta=b"") for where in there], now=driver.now
        )
        async with asyncio.timeout(60.0):
            seeking = asyncio.create_task(
                Seeker(roster, engine, driver, on_change=lambda: None, counts=Counts()).run()
            )
            while len(engine.dialled) < MAX_OPEN - KEPT_FREE:
                await asyncio.sleep(0.01)
        assert (driver.free_dials, failed) == (0, [])
        seeking.cancel()
        with suppress(asyncio.CancelledError):
            await seeking
        await driver.close()

    assert len(engine.dialled) == MAX_OPEN - KEPT_FREE
    assert {*roster.due(now=driver.now + 1.0, most=1000)} >= {*there} - {*engine.dialled}


async def test_seeds_that_lead_nowhere_are_named_with_their_reason_and_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(addresses, "RESOLVE_TIMEOUT", 0.0)
    options: dict[str, Any] = {"packet_format": PacketFormat(None), "incarnation": 1, "nonce": bytes}
    engine = Engine(LocalNode("a", Address("127.0.0.1", 7946)), LAN, rng=Random(1), **options)
    roster = empty_roster()
    driver = Driver(engine, lambda _: None)
    roster.set_seeds([SeedAddress("localhost"), SeedAddress("10.189.0.7")], now=driver.now)
    counts = Counts()
    seeking = asyncio.create_task(Seeker(roster, engine, driver, on_change=pytest.fail, counts=counts).run())

    async with asyncio.timeout(60.0):
        while "seed not resolved" not in caplog.text:
            await asyncio.sleep(0.01)

    seeking.cancel()
    with suppress(asyncio.CancelledError):
        await seeking
    assert "seed not resolved seed=localhost error=no answer in time" in caplog.text
    line = "seed not dialled seed=10.189.0.7 address=10.189.0.7 reason='inside the overlay 10.189.0.0/24'"
    assert line in caplog.text
    assert (counts.numbers["seedsNotResolved"], counts.numbers["seedsSkipped"]) == (1, 1)
