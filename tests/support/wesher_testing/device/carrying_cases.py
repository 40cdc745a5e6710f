"""How packets of the cluster itself are carried by the device: stories of rules, routes and filters."""

from __future__ import annotations

import socket
import struct
from collections import Counter
from contextlib import suppress
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any

from wesher_agent.mesh.device import CarriedRoute, Carrying, DeviceConfig, DirectRule, Endpoint
from wesher_agent.wireguard.carrying import remove_carrying
from wesher_agent.wireguard.device import find_device
from wesher_common.overlay import IPAddress, IPNetwork
from wesher_common.traffic import DEFAULT_MARK, DEFAULT_RULE_PRIORITY, DEFAULT_TABLE
from wesher_testing.device.harness import (
    INTERFACE,
    OVERLAY,
    PORT,
    Carrier,
    a_peer,
    a_wish,
    an_agent,
    configure,
    equal,
    holds,
    lost_pings,
    memory_of,
    nothing,
    ping,
    remove,
    repair,
    wg,
)
from wesher_testing.device.private_hosts import Agent, Host, two_hosts
from wesher_testing.device.registry import Chapter

CHAPTER = Chapter()

_ALL, _IP, _IPV6 = 3, 0x0800, 0x86DD
_TCP, _UDP, _ICMPV6 = 6, 17, 58
_NEIGHBOUR_DISCOVERY = range(133, 138)
_PODS = {1: IPv4Network("10.244.1.0/24"), 2: IPv4Network("10.244.2.0/24")}
_NODES6 = {1: IPv6Address("2001:db8::1"), 2: IPv6Address("2001:db8::2")}


def node(number: int) -> IPv4Address:
    """Return a host's address on the cable, which is its node address and its endpoint."""
    return IPv4Address(f"192.0.2.{number}")


def host_network(address: IPAddress) -> IPNetwork:
    return ip_network(address)


def carried(number: int) -> tuple[IPNetwork, ...]:
    """Return what is certified for the host with that number."""
    return (_PODS[number], host_network(node(number)), host_network(_NODES6[number]))


def carrying(number: int, **other: Any) -> Carrying:
    """Return how the host with that number carries what is certified for the other one."""
    theirs = 3 - number
    sources: dict[int, IPAddress] = {4: node(number), 6: _NODES6[number]}
    values: dict[str, Any] = {
        "mark": DEFAULT_MARK,
        "table": DEFAULT_TABLE,
        "priority": DEFAULT_RULE_PRIORITY,
        "routes": tuple(CarriedRoute(network, sources[network.version]) for network in carried(theirs)),
        "sources": (*carried(number), host_network(OVERLAY[number])),
        "loose_links": ("eth0",),
    }
    return Carrying(**{**values, **other})


def accepting(number: int) -> Carrying:
    return carrying(number, routes=(), sources=(), direct=())


def a_carrying_wish(number: int, what: Carrying | None, **other: Any) -> DeviceConfig:
    """Return the desired state of one of two hosts whose endpoints are the carried addresses."""
    theirs = 3 - number
    peer = a_peer(
        theirs,
        host_network(OVERLAY[theirs]),
        *carried(theirs),
        endpoint=Endpoint(node(theirs), PORT),
    )
    return a_wish(peer, number=number, carrying=what, **other)


def two_carrying_hosts(carrier: Carrier, *, strict: bool = False, **other: Any) -> list[tuple[Host, Agent]]:
    """Return two hosts with a pod each, that carry everything for each other."""
    hosts = two_hosts()
    for number, host in enumerate(hosts, start=1):
        add_pod(host, number)
        if strict:
            host.agent(nothing).call(write_filters, {"all": 1, "eth0": 1})
    agents = [an_agent(host, carrier) for host in hosts]
    for number, agent in enumerate(agents, start=1):
        agent.call(configure, a_carrying_wish(number, accepting(number)))
    for number, agent in enumerate(agents, start=1):
        outcome, _ = agent.call(configure, a_carrying_wish(number, carrying(number, **other)))
        equal(outcome.carry_problems, (), "problems")
    return list(zip(hosts, agents, strict=True))


def add_pod(host: Host, number: int) -> None:
    """Give a host the gateway of its pod network and the address of a pod of the host network's namespace."""
    host.run("ip", "link", "add", "pods", "type", "veth", "peer", "name", "podend")
    for link in ("pods", "podend"):
        host.run("ip", "link", "set", link, "up")
    host.run("ip", "address", "add", f"{_PODS[number][1]}/24", "dev", "pods")


# What an agent of a story does in its host beside the device.


async def write_filters(_: Any, values: dict[str, int]) -> None:
    """Set ``rp_filter`` as an administrator does."""
    for link, value in values.items():
        Path(f"/proc/sys/net/ipv4/conf/{link}/rp_filter").write_text(str(value))


async def read_filters(_: Any, *links: str) -> list[int]:
    return [int(Path(f"/proc/sys/net/ipv4/conf/{link}/rp_filter").read_text()) for link in links]


async def start_capture() -> socket.socket:
    """Capture what passes the cable's end in a host."""
    packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL))
    packets.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
    packets.bind(("eth0", 0))
    packets.settimeout(0)
    return packets


async def captured(packets: socket.socket) -> dict[str, int]:
    """Return what was captured since the last call, as kinds of packets with their number."""
    kinds: Counter[str] = Counter()
    while True:
        try:
            kinds[_kind(packets.recv(2048))] += 1
        except BlockingIOError:
            del kinds["link"]
            return dict(kinds)


async def exchange(_: Any, source: str, target: str, port: int) -> None:
    """Send one UDP datagram; whether it arrives does not matter."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        if source:
            sender.bind((source, 0))
        with suppress(OSError):
            sender.sendto(b"x", (target, port))


async def remove_what_it_carries(_: Any) -> int:
    return remove_carrying(INTERFACE, memory_of())


def _kind(frame: bytes) -> str:
    """Return ``wireguard``, ``link`` for what a link needs, or the packet in words."""
    (ethertype,) = struct.unpack_from("!H", frame, 12)
    packet = frame[14:]
    if ethertype == _IP:
        header, protocol = (packet[0] & 15) * 4, packet[9]
        ends = [ip_address(packet[12:16]), ip_address(packet[16:20])]
    elif ethertype == _IPV6:
        header, protocol = 40, packet[6]
        ends = [ip_address(packet[8:24]), ip_address(packet[24:40])]
        if ends[1].is_multicast or (protocol == _ICMPV6 and packet[header] in _NEIGHBOUR_DISCOVERY):
            return "link"
    else:
        return "link"
    ports = struct.unpack_from("!HH", packet, header) if protocol in {_TCP, _UDP} else ()
    if protocol == _UDP and PORT in ports:
        return "wireguard"
    return f"{ends[0]} > {ends[1]} {protocol}"


# What is looked at.


def rules(host: Host) -> list[str]:
    """Return the rules beside those of every host, as ip(8) shows them."""
    shown = []
    for version in ("-4", "-6"):
        shown += host.run("ip", version, "rule", "show").splitlines()
    found = [" ".join(line.split()) for line in shown]
    return [line for line in found if line.partition(":")[0] not in {"0", "32766", "32767"}]


def table(host: Host, number: int = DEFAULT_TABLE) -> list[str]:
    """Return the routes of a table, as ip(8) shows them."""
    shown = []
    for version in ("-4", "-6"):
        said = host.run("ip", version, "route", "show", "table", str(number), check=False)
        shown += [line for line in said.splitlines() if "FIB table does not exist" not in line]
    return [" ".join(line.split()) for line in shown if "Dump terminated" not in line]


def nothing_is_left(host: Host) -> None:
    equal(rules(host), [], "rules left")
    equal(table(host), [], "routes left")
    holds(not Path(f"/proc/{host.holder}/root{memory_of().path}").exists(), "nothing is remembered")


def reaches_everything(host: Host, number: int) -> None:
    """Ping the other host's node addresses and its pod network, from each of our own."""
    theirs = 3 - number
    for options in (
        (str(node(theirs)),),
        (str(_PODS[theirs][1]), "-I", str(_PODS[number][1])),
        (str(node(theirs)), "-I", str(_PODS[number][1])),
        (str(_PODS[theirs][1]),),
        (str(_NODES6[theirs]),),
    ):
        target, *rest = options
        equal(lost_pings(host.run(*ping(target, 3, "-i", "0.05", *rest)), 3), set(), f"pings lost: {options}")


@CHAPTER.story
def everything_between_two_nodes_goes_through_the_tunnel(carrier: Carrier) -> None:
    """Show it where endpoints are the carried addresses, and reverse-path filtering is strict."""
    hosts = two_carrying_hosts(carrier, strict=True)
    captures = [host.agent(start_capture) for host, _ in hosts]
    for capture in captures:
        capture.call(captured)
    for number, (host, _) in enumerate(hosts, start=1):
        reaches_everything(host, number)
    for capture in captures:
        seen = capture.call(captured)
        equal(set(seen), {"wireguard"}, "what passed the cable")
        holds(seen["wireguard"] >= 60, f"packets of WireGuard: {seen}")
    # One sent on purpose is captured: port 9 is direct now.
    (first, agent), _ = hosts
    direct = DirectRule("udp", destination_port=9)
    agent.call(configure, a_carrying_wish(1, carrying(1, direct=(direct,))))
    first.agent(nothing).call(exchange, "", str(node(2)), 9)
    holds("192.0.2.1 > 192.0.2.2 17" in captures[1].call(captured), "the direct packet")


@CHAPTER.story
def nothing_is_left_of_what_was_carried(carrier: Carrier) -> None:
    hosts = two_carrying_hosts(carrier, strict=True)
    (first, agent), (second, other) = hosts
    admin = first.agent(nothing)
    equal(admin.call(read_filters, "all", "eth0", INTERFACE), [1, 2, 2], "filters while it carries")
    holds(not agent.call(repair).changed, "a look")
    agent.call(configure, a_carrying_wish(1, None))
    nothing_is_left(first)
    equal(wg(first, "fwmark"), "off", "mark")
    equal(admin.call(read_filters, "all", "eth0"), [1, 1], "filters afterwards")
    other.call(remove)
    nothing_is_left(second)
    equal(second.agent(nothing).call(read_filters, "all", "eth0"), [1, 1], "filters after a leave")


@CHAPTER.story
def a_killed_agent_s_rules_and_filters_are_found_and_removed(carrier: Carrier) -> None:
    (first, agent), (second, other) = two_carrying_hosts(carrier, strict=True)
    agent.kill()
    first.agent(partial(find_device, INTERFACE, memory_of())).call(remove)
    nothing_is_left(first)
    equal(first.agent(nothing).call(read_filters, "eth0"), [1], "filter")
    other.kill()
    second.run("ip", "link", "del", INTERFACE)
    holds(second.agent(nothing).call(remove_what_it_carries) > 0, "what it carried by")
    nothing_is_left(second)
    equal(second.agent(nothing).call(read_filters, "eth0"), [1], "filter without a device")
