"""What becomes of a decision about endpoints between the look at a device and the last probe."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import replace
from ipaddress import ip_address, ip_network
from random import Random

import pytest

from wesher_agent.cli.commands import agent_settings
from wesher_agent.mesh.device import Endpoint
from wesher_agent.netlink.errors import WireGuardUnavailable
from wesher_agent.tunnel.endpoint_keeper import EndpointKeeper
from wesher_agent.tunnel.prober import Prober
from wesher_agent.tunnel.tunnel import Tunnel
from wesher_agent.wireguard.device import Device
from wesher_agent.wireguard.ownership import Owner
from wesher_agent.wireguard.plan import DeviceChange, PeerSession
from wesher_agent.wireguard.userspace import UserspaceBackend
from wesher_common.keys import WireGuardPrivateKey, WireGuardPublicKey
from wesher_testing.device.links import NO_LINKS
from wesher_testing.virtual.loop_clock import LoopClock

OWN, KEY = (WireGuardPrivateKey.from_random(bytes([number] * 32)).public for number in (1, 2))
OLD, NEW = (Endpoint(ip_address(f"198.51.100.{number}"), 51820) for number in (1, 2))
PEERS = {"b": (KEY, ip_address("127.0.0.1"))}


class _Memory(UserspaceBackend):
    """A device that holds its peers in memory."""

    def __init__(self) -> None:
        super().__init__("wgnone", None)
        self.peers = {KEY: PeerSession(KEY, endpoint=OLD, last_handshake=time.time(), rx_bytes=100)}
        self.moves: list[Endpoint | None] = []
        self.before_apply: Callable[[], None] = lambda: None

    async def sessions(self) -> Mapping[WireGuardPublicKey, PeerSession]:
        return dict(self.peers)

    async def apply(self, change: DeviceChange) -> None:
        self.before_apply()
        for peer in change.peers:
            self.moves.append(peer.endpoint)
            if peer.public_key in self.peers:
                self.peers[peer.public_key] = replace(self.peers[peer.public_key], endpoint=peer.endpoint)


class _SlowProber(Prober):
    """A prober that takes five seconds to ask, as with a thousand peers."""

    def __init__(self, tunnel: Tunnel, device: _Memory, clock: LoopClock) -> None:
        super().__init__(tunnel, OWN, Random(1), on_change=lambda: None)
        self.asked: list[str] = []
        self.peer_answers = False
        """Whether a look finds an answer, though not yet the first after the question."""
        self._looks = 0
        self._device, self._clock = device, clock

    async def ask(self, names: Iterable[str]) -> None:
        if wanted := [*names]:
            self.asked += wanted
            self._looks = self._looks or 2
            self._clock.advance(5.0)
            await asyncio.sleep(0)

    async def look(self) -> bool:
        self._looks -= self._looks > 0
        if self.peer_answers and self.asked and not self._looks:
            session = self._device.peers[KEY]
            self._device.peers[KEY] = replace(session, rx_bytes=session.rx_bytes + 32)
        return await super().look()


class _World:
    def __init__(self) -> None:
        self.clock, self.device = LoopClock(), _Memory()
        self.tunnel = Tunnel(
            "wgnone",
            Owner(OWN, ip_network("10.9.0.0/16")),
            agent_settings([], {}),
            None,
            on_change=pytest.fail,
            on_sessions_lost=pytest.fail,
            on_port_moved=pytest.fail,
            count=pytest.fail,
        )
        self.tunnel._device = Device(self.device, NO_LINKS)
        self.tunnel.ready = True
        self.prober = _SlowProber(self.tunnel, self.device, self.clock)
        self.prober.set_peers(PEERS)
        self.prober.plan._quick.add("b")
        self.keeper = EndpointKeeper(self.tunnel, self.prober)
        self.keeper.set_announced({"b": OLD})

    async def run(self, seconds: float) -> None:
        for _ in range(int(seconds / 0.25)):
            self.clock.advance(0.25)
            for _ in range(20):
                await asyncio.sleep(0)


@pytest.fixture
async def world() -> AsyncIterator[_World]:
    world = _World()
    running = asyncio.create_task(world.keeper.run())
    await asyncio.sleep(0)
    yield world
    assert not running.done(), running.exception()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_the_time_that_questions_take_moves_no_peer_that_answers(world: _World) -> None:
    """The question to the last of a thousand has just left when the first was silent for too long."""
    world.prober.peer_answers = True
    world.keeper.set_announced({"b": NEW})
    await world.run(60.0)
    assert len(world.prober.asked) > 1
    assert world.device.moves == []


async def test_a_peer_that_is_removed_while_it_is_moved_ends_nothing(world: _World) -> None:
    def remove() -> None:
        world.device.peers.clear()
        world.prober.set_peers({})
        world.keeper.set_announced({})

    world.device.before_apply = remove
    world.keeper.set_announced({"b": NEW})
    await world.run(30.0)
    assert (world.device.moves, world.device.peers) == ([NEW], {})


async def test_a_device_that_is_lost_while_a_peer_is_moved_ends_nothing(world: _World) -> None:
    def lose() -> None:
        world.tunnel.ready = False
        raise WireGuardUnavailable("it is gone")

    world.device.before_apply = lose
    world.keeper.set_announced({"b": NEW})
    await world.run(30.0)
    assert not world.tunnel.ready
    world.device.before_apply = lambda: None
    world.tunnel.ready = True
    await world.run(30.0)
    assert NEW in world.device.moves


async def test_a_handshake_proves_no_endpoint_to_which_the_peer_was_moved_after_it(world: _World) -> None:
    """Nor one that was there when the agent started: an earlier run may have ended during a try."""

    async def proven() -> dict[WireGuardPublicKey, Endpoint]:
        assert await world.prober.look()
        return world.keeper.proven()

    session = replace(world.device.peers[KEY], last_handshake=time.time() - 100.0)
    world.device.peers[KEY] = session
    await world.run(10.0)
    assert await proven() == {}, "the handshake is older than this run"
    await world.run(140.0)
    assert await proven() == {KEY: OLD}
    world.keeper.set_announced({"b": NEW})
    while not world.device.moves:
        await world.run(0.25)
    assert world.device.peers[KEY].endpoint == NEW
    assert await proven() == {}
    world.device.peers[KEY] = replace(world.device.peers[KEY], last_handshake=time.time())
    await world.run(1.0)
    assert await proven() == {KEY: NEW}
