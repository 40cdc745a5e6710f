"""What a change costs: how often a device is read, and how much of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

from wesher_agent.mesh.device import DeviceConfig, Endpoint, Peer
from wesher_agent.wireguard.device import Device
from wesher_agent.wireguard.plan import DeviceChange, ObservedDevice, PeerChange, PeerSession
from wesher_agent.wireguard.userspace import UserspaceBackend
from wesher_common.keys import WireGuardPrivateKey, WireGuardPublicKey
from wesher_testing.device.links import NO_LINKS

PEERS = 1000
KEYS = [WireGuardPublicKey(number.to_bytes(4) * 8) for number in range(PEERS)]
WISH = DeviceConfig(
    interface="wgnone",
    private_key=WireGuardPrivateKey.from_random(bytes(32)),
    listen_port=51820,
    address=IPv4Address("10.9.255.1"),
    overlay=IPv4Network("10.9.0.0/16"),
    mtu=1420,
    peers=tuple(
        Peer(
            key,
            Endpoint(IPv4Address("198.51.100.1"), 10000 + number),
            (IPv4Network((IPv4Address("10.9.0.0") + number, 32)),),
        )
        for number, key in enumerate(KEYS)
    ),
    unreachable=(IPv4Network("10.9.0.0/16"),),
)


class _Counted(UserspaceBackend):
    """A device of which each peer has one handshake; it counts what is asked of it."""

    def __init__(self, last_handshake: float | None) -> None:
        super().__init__("wgnone", None)
        self.last_handshake = last_handshake
        self.looks = 0
        self.sent: list[DeviceChange] = []

    async def observe(self) -> ObservedDevice:
        raise AssertionError("the whole device was read")

    async def sessions(self) -> Mapping[WireGuardPublicKey, PeerSession]:
        self.looks += 1
        return {
            peer.public_key: PeerSession(
                peer.public_key, endpoint=peer.endpoint, last_handshake=self.last_handshake
            )
            for peer in WISH.peers
        }

    async def apply(self, change: DeviceChange) -> None:
        if change:
            self.sent.append(change)


def left_as_wished(backend: _Counted) -> Device:
    device = Device(backend, NO_LINKS)
    device._wish = device._left = WISH
    return device


def moved(wish: DeviceConfig, number: int) -> DeviceConfig:
    """Return the wish in which one more peer has another endpoint."""
    peers = list(wish.peers)
    peers[number] = replace(peers[number], endpoint=Endpoint(IPv4Address("203.0.113.1"), number + 1))
    return replace(wish, peers=tuple(peers))


async def test_other_endpoints_of_proven_peers_cost_no_look_and_no_change() -> None:
    backend = _Counted(time.time() - 10)
    device, wish = left_as_wished(backend), WISH
    await device.peers()
    for number in range(100):
        wish = moved(wish, number)
        outcome = await device.configure(wish)
        assert not outcome.changed
    assert (backend.looks, backend.sent) == (1, [])


async def test_another_endpoint_of_an_idle_peer_costs_a_look_at_the_sessions_alone() -> None:
    backend = _Counted(None)
    device = left_as_wished(backend)
    await device.peers()
    await device.configure(moved(WISH, 7))
    assert backend.looks == 2
    endpoint = Endpoint(IPv4Address("203.0.113.1"), 8)
    assert backend.sent == [DeviceChange(peers=(PeerChange(KEYS[7], endpoint=endpoint),))]


async def test_a_handshake_since_the_last_look_proves_the_endpoint() -> None:
    backend = _Counted(None)
    device = left_as_wished(backend)
    await device.peers()
    backend.last_handshake = time.time()
    assert not (await device.configure(moved(WISH, 7))).changed
    assert backend.sent == []


async def test_a_peer_can_be_sent_to_elsewhere_whatever_is_wished() -> None:
    backend = _Counted(None)
    elsewhere = Endpoint(IPv4Address("203.0.113.9"), 1)
    device = left_as_wished(backend)
    await device.move_peers({KEYS[3]: elsewhere})
    assert backend.sent == [DeviceChange(peers=(PeerChange(KEYS[3], endpoint=elsewhere),))]
    assert not (await device.configure(WISH)).changed


async def test_a_living_device_on_another_port_is_reported_so_that_peers_are_sent_something() -> None:
    backend = _Counted(time.time())
    device = left_as_wished(backend)
    outcome = await device.configure(replace(WISH, listen_port=WISH.listen_port + 1))
    assert (outcome.port_moved, outcome.sessions_lost) == (True, False)
