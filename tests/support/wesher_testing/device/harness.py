"""The bench on which devices are tried: what to wish, what to ask an agent, what to look at.

What must come of it is told by `device.cases`.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
import re
import socket
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address, IPv4Network, ip_network
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from wesher_agent.files.link_memory import LinkMemory
from wesher_agent.mesh.device import DeviceConfig, Endpoint, Peer
from wesher_agent.netlink.mtu import overlay_mtu
from wesher_agent.netlink.route_messages import PROTOCOL
from wesher_agent.wireguard import userspace
from wesher_agent.wireguard.backend import BackendKind
from wesher_agent.wireguard.device import Device, Outcome, open_device
from wesher_agent.wireguard.kernel import KernelBackend
from wesher_agent.wireguard.ownership import Owner
from wesher_agent.wireguard.plan import PeerSession
from wesher_common.errors import WesherError
from wesher_common.keys import WireGuardPrivateKey, WireGuardPublicKey
from wesher_common.overlay import IPAddress, IPNetwork
from wesher_testing.device.private_hosts import (
    Agent,
    AgentRaised,
    Host,
    mount,
)

INTERFACE = "wgstory"
PORT = 51820
OVERLAY = IPv4Network("10.189.0.0/16")


@dataclass(frozen=True, slots=True)
class Carrier:
    """Which WireGuard the stories are about."""

    kind: BackendKind
    binary: str | None = None
    """Path of wireguard-go, for user space."""


# What an agent is asked to do in its own process.


async def open_it(mode: str, binary: str | None, interface: str = INTERFACE) -> Device:
    memory = memory_of(interface)
    return await open_device(mode, interface, memory, userspace_binary=binary)  # type: ignore[arg-type]


def memory_of(interface: str = INTERFACE) -> LinkMemory:
    """Return the memory of an agent's device, in a directory that each host has to itself."""
    return LinkMemory(Path("/run/wireguard"), interface)


async def nothing() -> None:
    return None


async def configure(device: Device, config: DeviceConfig) -> tuple[Outcome, float]:
    start = time.perf_counter()
    outcome = await device.configure(config)
    return outcome, time.perf_counter() - start


async def repair(device: Device) -> Outcome:
    return await device.repair()


async def repair_when_lost(device: Device) -> Outcome:
    await device.wait_lost()
    return await device.repair()


async def peers(device: Device) -> Sequence[PeerSession]:
    return await device.peers()


async def remove(device: Device) -> float:
    start = time.perf_counter()
    await device.remove(Owner(private_key(1001).public, OVERLAY))
    return time.perf_counter() - start


async def kind_of(device: Device) -> str:
    return device.kind


async def carrier_pid(device: Device) -> int:
    pid: int = device._backend._pid  # type: ignore[attr-defined]
    return pid


async def open_again(_: Any, mode: str, binary: str | None, interface: str = INTERFACE) -> str:
    return (await open_it(mode, binary, interface)).kind


async def count_messages(device: Device) -> None:
    """From now on, remember how many messages each change takes."""
    backend = device._backend
    backend.sent = []  # type: ignore[attr-defined]
    if isinstance(backend, KernelBackend):
        send = backend._send

        def counting_send(bodies: list[bytes], listen_port: int | None) -> None:
            backend.sent.append(len(bodies))  # type: ignore[attr-defined]
            send(bodies, listen_port)

        backend._send = counting_send  # type: ignore[method-assign]
        return
    ask = backend._ask  # type: ignore[attr-defined]

    async def counting_ask(request: bytes) -> bytes:
        if request.startswith(b"set"):
            backend.sent.append(1)  # type: ignore[attr-defined]
        return await ask(request)  # type: ignore[no-any-return]

    backend._ask = counting_ask  # type: ignore[attr-defined]


async def messages(device: Device) -> list[int]:
    """Return how many messages each change took since the last time, unsent ones left out."""
    sent: list[int] = device._backend.sent  # type: ignore[attr-defined]
    device._backend.sent = []  # type: ignore[attr-defined]
    return sent


async def remove_and_watch_the_loop(device: Device) -> tuple[float, float]:
    """Return how long a removal took, and the longest time in which the event loop did nothing."""
    longest = 0.0

    async def tick() -> None:
        nonlocal longest
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.005)
            longest = max(longest, time.perf_counter() - before)

    watching = asyncio.create_task(tick())
    took = await remove(device)
    watching.cancel()
    return took, longest


async def repair_at_once_when_gone(device: Device) -> Outcome:
    await device._backend._watch  # type: ignore[attr-defined]
    return await device.repair()


async def open_without_tun(binary: str | None) -> Device:
    mount("tmpfs", "/dev/net")
    return await open_it("Userspace", binary)


async def open_with_a_secret(binary: str | None) -> Device:
    os.environ["WESHER_CLUSTER_KEY"] = "SECRET"
    return await open_it("Userspace", binary)


async def repair_until_it_answers(device: Device) -> int:
    """Repair a device whose program hangs, with short limits; return how many looks failed."""
    userspace._ANSWER_TIMEOUT, userspace._HUNG_SECONDS = 0.3, 1.0
    failed = 0
    while True:
        try:
            await device.repair()
        except WesherError:
            failed += 1
        else:
            return failed


async def hide_programs(_: Any) -> None:
    os.environ["PATH"] = "/nonexistent"


async def hold_the_port() -> socket.socket:
    holder = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    holder.bind(("", PORT))
    return holder


async def hold_a_tun() -> int:
    """Be a program with a TUN device of its own, which happens to bear our interface's name."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR)
    flags = 0x1001  # IFF_TUN | IFF_NO_PI (linux/if_tun.h)
    fcntl.ioctl(descriptor, 0x400454CA, struct.pack("16sH22x", INTERFACE.encode(), flags))  # TUNSETIFF
    return descriptor


async def wait_for_it(_: Any) -> None:
    """Return once the agent's state is there."""


async def mtu_towards(_: Any, addresses: Sequence[IPAddress]) -> int:
    return overlay_mtu(addresses)


# What is wished.


def private_key(number: int) -> WireGuardPrivateKey:
    return WireGuardPrivateKey.from_random(number.to_bytes(32))


def a_peer(number: int, *allowed: IPNetwork | str, endpoint: Endpoint | None = None) -> Peer:
    """Return the peer with the overlay address 10.189.x.y of its number."""
    networks = tuple(ip_network(net) for net in allowed) or (IPv4Network((int(OVERLAY[0]) + number, 32)),)
    where = endpoint or Endpoint(IPv4Address("198.51.100.1"), 10000 + number)
    return Peer(private_key(1000 + number).public, where, networks)


def made_up_peers(count: int, *, first: int = 2) -> tuple[Peer, ...]:
    """Return peers with keys nobody has: cheap to make in thousands."""
    dice = random.Random(first)
    return tuple(
        Peer(
            WireGuardPublicKey(dice.randbytes(32)),
            Endpoint(IPv4Address("198.51.100.1"), 10000 + number),
            (IPv4Network((int(OVERLAY[0]) + number, 32)),),
        )
        for number in range(first, first + count)
    )


def a_wish(*wished: Peer, number: int = 1, **other: Any) -> DeviceConfig:
    """Return the wish of the host with that number, listening on `PORT`."""
    values: dict[str, Any] = {
        "interface": INTERFACE,
        "private_key": private_key(1000 + number),
        "listen_port": PORT,
        "address": OVERLAY[number],
        "overlay": OVERLAY,
        "mtu": 1400,
        "peers": tuple(sorted(wished, key=lambda peer: peer.public_key)),
        "unreachable": (other.get("overlay", OVERLAY),),
    }
    return DeviceConfig(**{**values, **other})


# What is looked at, by other means than ours.


def equal(actual: object, expected: object, what: str) -> None:
    if actual != expected:
        raise AssertionError(f"{what}: {actual!r}, where {expected!r} was expected")


def holds(fact: object, what: str) -> None:
    if not fact:
        raise AssertionError(f"does not hold: {what}")


def an_agent(host: Host, carrier: Carrier, interface: str = INTERFACE) -> Agent:
    return host.agent(partial(open_it, carrier.kind, carrier.binary, interface))


def make_device(host: Host, carrier: Carrier) -> None:
    """Make a device of our interface's name as another program does."""
    if carrier.kind == "Kernel":
        host.run("ip", "link", "add", INTERFACE, "type", "wireguard")
        return
    host.run("mkdir", "-p", "/var/run/wireguard")
    host.run(str(carrier.binary), INTERFACE)


def rename(host: Host, interface: str, name: str) -> None:
    """Give a link another name, as only a link that is down can have."""
    host.run("ip", "link", "set", interface, "down")
    host.run("ip", "link", "set", interface, "name", name)
    host.run("ip", "link", "set", name, "up")


def set_up_a_vpn(host: Host, *, address: str, allowed_ips: str) -> None:
    """Give the device a key, a port, a peer and an address that are not this node's."""
    with NamedTemporaryFile("w") as file:
        file.write(private_key(78).reveal_base64())
        file.flush()
        host.run("wg", "set", INTERFACE, "private-key", file.name, "listen-port", "51999")
    peer = str(private_key(77).public)
    host.run("wg", "set", INTERFACE, "peer", peer, "allowed-ips", allowed_ips)
    host.run("ip", "address", "add", address, "dev", INTERFACE)
    host.run("ip", "link", "set", INTERFACE, "up")


def all_of(host: Host) -> tuple[object, ...]:
    """Return everything about the device and the IPv4 routes: IPv6 link-local ones come late."""
    routed = host.json("-4", "route", "show", "table", "all")
    return wg(host, "dump"), addresses(host), link(host), routed, unreachable(host)


def addresses(host: Host, interface: str = INTERFACE) -> set[str]:
    return _addresses(host.json("address", "show", "dev", interface)[0])


def _addresses(interface: dict[str, Any]) -> set[str]:
    entries = interface["addr_info"]
    return {f"{entry['local']}/{entry['prefixlen']}" for entry in entries if entry["scope"] != "link"}


def routes(host: Host, interface: str = INTERFACE, *, version: int = 4) -> set[str]:
    """Return what is routed into the interface with our protocol number."""
    entries = host.json(f"-{version}", "route", "show", "dev", interface, "proto", str(PROTOCOL))
    return {str(ip_network(entry["dst"])) for entry in entries}


def unreachable(host: Host) -> set[str]:
    entries = host.json("route", "show", "type", "unreachable", "proto", str(PROTOCOL))
    return {entry["dst"] for entry in entries}


def link(host: Host, interface: str = INTERFACE) -> dict[str, Any]:
    found: dict[str, Any] = host.json("link", "show", "dev", interface)[0]
    return found


def wg(host: Host, field: str, interface: str = INTERFACE) -> str:
    return host.run("wg", "show", interface, field).strip()


def wg_peers(host: Host, field: str, interface: str = INTERFACE) -> dict[str, str]:
    """Return a field of each peer by public key, as wg(8) sees them."""
    return dict(line.split("\t", 1) for line in wg(host, field, interface).splitlines())


def looks_as_wished(host: Host, config: DeviceConfig) -> None:
    """Look at everything a wish is about, with wg(8) and ip(8)."""
    device, *lines = (line.split("\t") for line in wg(host, "dump").splitlines())
    _, public_key, listen_port, fwmark = device
    equal(
        (public_key, listen_port, fwmark),
        (str(config.private_key.public), str(config.listen_port), "off"),
        "public key, listen port, fwmark",
    )
    equal(
        {key: (endpoint, set(allowed.split(","))) for key, _, endpoint, allowed, *_ in lines},
        {
            str(peer.public_key): (str(peer.endpoint), {str(net) for net in peer.allowed_ips})
            for peer in config.peers
        },
        "endpoints and allowed ips",
    )
    (interface,) = host.json("address", "show", "dev", INTERFACE)
    equal(_addresses(interface), {f"{config.address}/{config.address.max_prefixlen}"}, "addresses")
    equal(("UP" in interface["flags"], interface["mtu"]), (True, config.mtu), "up, and mtu")
    entries = host.json("route", "show", "proto", str(PROTOCOL))
    equal(
        {str(ip_network(entry["dst"])) for entry in entries if entry.get("dev") == INTERFACE},
        {str(network) for network in config.routes},
        "routes into the device",
    )
    equal(
        {entry["dst"] for entry in entries if entry.get("type") == "unreachable"},
        {_as_shown(network) for network in config.unreachable},
        "unreachable",
    )


def _as_shown(network: IPNetwork) -> str:
    """Return a network as ``ip route`` shows it: an address without its prefix."""
    return str(network if network.prefixlen < network.max_prefixlen else network.network_address)


def wish_of(me: Host, other: Host, number: int, *, endpoint: Endpoint | None = None) -> DeviceConfig:
    other_number = 3 - number
    where = endpoint or Endpoint(other.address, PORT)
    return a_wish(a_peer(other_number, endpoint=where), number=number)


def connect(first: Host, second: Host, carrier: Carrier) -> tuple[Agent, Agent]:
    """Give two hosts a device each, with the overlay addresses 10.189.0.1 and .2."""
    agents = an_agent(first, carrier), an_agent(second, carrier)
    agents[0].call(configure, wish_of(first, second, 1))
    agents[1].call(configure, wish_of(second, first, 2))
    return agents


def ping(target: str, count: int, *options: str) -> tuple[str, ...]:
    """Return the command that pings until so many were answered, or for half a minute."""
    return "ping", "-n", "-c", str(count), "-w", "30", *options, target


def lost_pings(output: str, count: int) -> set[int]:
    """Return which pings were not answered before the one that was the last of so many answers.

    Ping sends on until it has them, so that what comes late is not taken for lost.

    Raises:
        AssertionError: there are fewer answers.

    """
    answered = {int(number) for number in re.findall(r"bytes from .* icmp_seq=(\d+) ", output)}
    holds(len(answered) >= count, f"{count} pings answered: {output}")
    return set(range(1, max(answered))) - answered


def refusal(call: Callable[[], object]) -> AgentRaised:
    try:
        result = call()
    except AgentRaised as raised:
        return raised
    raise AssertionError(f"nothing was raised, but returned {result!r}")
