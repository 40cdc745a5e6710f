"""How packets of the cluster itself are carried by the device: stories of rules, routes and filters.

Most are about the network stack, whatever WireGuard there is. Those run in user space alone, so that
the VM's ring stays short.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any

from wesher_agent.mesh.device import CarriedRoute, Carrying, DeviceConfig, DirectRule, Endpoint
from wesher_agent.runtime.cleanup import CARRIED_REMOVED, Leftovers, clean_up
from wesher_agent.wireguard.device import Outcome, find_device
from wesher_common.overlay import IPAddress, IPNetwork
from wesher_common.traffic import DEFAULT_MARK, DEFAULT_RULE_PRIORITY, DEFAULT_TABLE, LAST_RULE
from wesher_testing.device.harness import (
    INTERFACE,
    OVERLAY,
    PORT,
    Carrier,
    a_peer,
    a_wish,
    an_agent,
    configure,
    count_messages,
    equal,
    holds,
    lost_pings,
    made_up_peers,
    memory_of,
    messages,
    nothing,
    ping,
    remove,
    repair,
    wg,
    wg_peers,
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


async def listen(address: str, port: int) -> asyncio.Server:
    """Be a server that says hello."""

    async def say_hello(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        await writer.drain()
        writer.close()

    return await asyncio.start_server(say_hello, address, port)


async def ready(server: asyncio.Server) -> int:
    return int(server.sockets[0].getsockname()[1])


async def fetch(_: Any, address: str, port: int) -> str:
    """Return what a server says; empty where there is none."""
    try:
        async with asyncio.timeout(10.0):
            reader, writer = await asyncio.open_connection(address, port)
            said = await reader.read()
            writer.close()
    except ConnectionRefusedError:
        return ""
    return said.decode()


async def clean(_: Any) -> list[str]:
    """Do what ``wesher cleanup`` does."""
    directory = memory_of().path.parent
    left = Leftovers(
        interface=INTERFACE,
        state_dir=directory,
        run_dir=directory,
        hosts_file=directory / "hosts",
        overlay=OVERLAY,
    )
    return await asyncio.to_thread(clean_up, left)


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
    # The other port is one that the sender has for a moment.
    what = f"{'tcp' if protocol == _TCP else 'udp'} {min(ports)}" if ports else f"protocol {protocol}"
    return f"{ends[0]} > {ends[1]} {what}"


# What is looked at.


def capture_on(host: Host) -> Agent:
    capture = host.agent(start_capture)
    # It has begun once it answers.
    capture.call(captured)
    return capture


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


def reasons(outcome: Outcome) -> list[str]:
    return [problem.reason for problem in outcome.carry_problems]


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
    captures = [capture_on(host) for host, _ in hosts]
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
    holds("192.0.2.1 > 192.0.2.2 udp 9" in captures[1].call(captured), "the direct packet")


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


@CHAPTER.only("Userspace")
def a_killed_agent_s_rules_and_filters_are_found_and_removed(carrier: Carrier) -> None:
    (first, agent), (second, other) = two_carrying_hosts(carrier, strict=True)
    agent.kill()
    first.agent(partial(find_device, INTERFACE, memory_of())).call(remove)
    nothing_is_left(first)
    equal(first.agent(nothing).call(read_filters, "eth0"), [1], "filter")
    other.kill()
    second.run("ip", "link", "del", INTERFACE)
    cleaner = second.agent(nothing)
    removed = [CARRIED_REMOVED, "1 unreachable routes removed"]
    equal(cleaner.call(clean), removed, "what was removed without a device")
    nothing_is_left(second)
    equal(cleaner.call(read_filters, "eth0"), [1], "filter without a device")
    equal(cleaner.call(clean), [], "a second time")


@CHAPTER.only("Userspace")
def what_other_hands_changed_about_carried_packets_is_put_back(carrier: Carrier) -> None:
    (first, agent), _ = two_carrying_hosts(carrier)
    admin = first.agent(nothing)

    def looks() -> tuple[list[str], list[str], str]:
        return sorted(rules(first)), sorted(table(first)), wg(first, "fwmark")

    before = looks()
    equal(len(before[1]), 2 * len(carried(2)), f"carried routes, each above an unreachable one: {before[1]}")
    for edit in (
        *(("ip", "rule", "del", "pref", line.partition(":")[0]) for line in before[0][:4]),
        ("ip", "-6", "rule", "flush"),
        ("ip", "route", "flush", "table", str(DEFAULT_TABLE)),
        ("ip", "-6", "route", "flush", "table", str(DEFAULT_TABLE)),
        ("ip", "route", "del", str(_PODS[2]), "table", str(DEFAULT_TABLE), "dev", INTERFACE),
        (
            "ip",
            "route",
            "replace",
            str(_PODS[2]),
            "table",
            str(DEFAULT_TABLE),
            "dev",
            INTERFACE,
            "proto",
            "87",
        ),
        ("ip", "route", "del", "unreachable", str(_PODS[2]), "table", str(DEFAULT_TABLE)),
        ("wg", "set", INTERFACE, "fwmark", "7"),
    ):
        first.run(*edit)
        if edit == ("ip", "-6", "rule", "flush"):
            first.run("ip", "-6", "rule", "add", "pref", "32766", "lookup", "main")
        holds(agent.call(repair).changed, f"repair of {' '.join(edit)}")
        equal(looks(), before, f"after {' '.join(edit)}")
        holds(not agent.call(repair).changed, f"a second repair of {' '.join(edit)}")
    admin.call(write_filters, {"eth0": 1, INTERFACE: 1, "all": 1})
    holds(agent.call(repair).changed, "repair of strict filters")
    equal(admin.call(read_filters, "eth0", INTERFACE, "all"), [2, 2, 1], "filters")
    reaches_everything(first, 1)


@CHAPTER.story
def nothing_leaves_in_clear_without_the_device(carrier: Carrier) -> None:
    """Show a deleted device, and an agent that is away, keep in what was carried until it is back."""
    (first, agent), (second, _) = two_carrying_hosts(carrier)
    capture = capture_on(second)
    sender = first.agent(nothing)
    first.run("ip", "link", "del", INTERFACE)
    capture.call(captured)
    for source in ("", str(node(1)), str(_PODS[1][1])):
        for target in (str(node(2)), str(_PODS[2][1])):
            sender.call(exchange, source, target, 9)
    said = first.run(*("ping", "-n", "-c", "2", "-i", "0.05", "-W", "1", str(_NODES6[2])), check=False)
    holds("unreachable" in said.lower() or "no route" in said.lower(), f"an IPv6 ping: {said}")
    seen = capture.call(captured)
    equal({kind for kind in seen if kind != "wireguard"}, set(), "what left in clear")
    first.run("ip", "rule", "del", "pref", str(DEFAULT_RULE_PRIORITY + 5))
    sender.call(exchange, "", str(node(2)), 9)
    in_clear = set(capture.call(captured)) - {"wireguard"}
    equal(in_clear, {f"{node(1)} > {node(2)} udp 9"}, "one without the rule is captured")
    agent.call(repair)
    reaches_everything(first, 1)


@CHAPTER.story
def wireguard_s_own_packets_stay_out_of_the_device_by_their_mark(carrier: Carrier) -> None:
    (first, _), (second, _) = two_carrying_hosts(carrier)
    equal(wg(first, "fwmark"), f"{DEFAULT_MARK:#x}", "mark")
    way = ("ip", "route", "get", str(node(2)), "from", str(node(1)))
    holds(f"dev {INTERFACE}" in first.run(*way), "the way of other packets")
    holds("dev eth0" in first.run(*way, "mark", f"{DEFAULT_MARK:#x}"), "the way of marked packets")
    first.run("ip", "rule", "del", "pref", str(DEFAULT_RULE_PRIORITY))
    said = first.run("ping", "-n", "-c", "3", "-i", "0.05", "-W", "1", str(node(2)), check=False)
    holds(" 0 received" in said, f"pings without the mark's rule: {said}")
    uncertified = "192.0.2.99"
    for host, own in ((first, uncertified), (second, "192.0.2.98")):
        host.run("ip", "address", "add", f"{own}/32", "dev", "eth0")
    holds(
        "dev eth0" in first.run("ip", "route", "get", str(node(2)), "from", uncertified),
        "the way of a source that is not certified",
    )


@CHAPTER.story
def a_direct_port_stays_in_clear_both_ways(carrier: Carrier) -> None:
    port = 6443
    direct = (
        DirectRule("tcp", destination_port=port),
        DirectRule("tcp", source_port=port),
    )
    (first, agent), (second, other) = two_carrying_hosts(carrier, direct=direct)
    captures = [capture_on(host) for host in (first, second)]
    server = second.agent(partial(listen, str(node(2)), port))
    equal(server.call(ready), port, "the port")
    equal(first.agent(nothing).call(fetch, str(node(2)), port), "hello", "what was served")
    both_ways = {f"{node(1)} > {node(2)} tcp {port}", f"{node(2)} > {node(1)} tcp {port}"}
    for capture in captures:
        seen = capture.call(captured)
        equal({kind for kind in seen if kind != "wireguard"}, both_ways, "what passed in clear")
    # Another port between the same addresses is carried.
    first.agent(nothing).call(fetch, str(node(2)), port + 1)
    for capture in captures:
        # The end of the first connection may come late.
        equal(set(capture.call(captured)) - both_ways, {"wireguard"}, "what another port sends")
    narrower = (DirectRule("tcp", destinations=host_network(node(2)), destination_port=port), *direct[1:])
    agent.call(configure, a_carrying_wish(1, carrying(1, direct=narrower)))
    holds(not agent.call(repair).changed, "a look")
    holds(any(f"to {node(2)} " in line and f"dport {port}" in line for line in rules(first)), "the rule")
    equal(sum(f"dport {port}" in line for line in rules(first)), 1, "rules of the port")
    # IPv6, where no rule applies to a source that is not chosen yet.
    far = host_network(_NODES6[2])
    sources = (ip_network("::/128"), host_network(_NODES6[1]))
    direct6 = tuple(DirectRule("tcp", source, far, destination_port=port) for source in sources)
    back6 = (DirectRule("tcp", sources=far, source_port=port),)
    agent.call(configure, a_carrying_wish(1, carrying(1, direct=direct6)))
    other.call(configure, a_carrying_wish(2, carrying(2, direct=back6)))
    server = second.agent(partial(listen, str(_NODES6[2]), port))
    equal(server.call(ready), port, "the port")
    equal(first.agent(nothing).call(fetch, str(_NODES6[2]), port), "hello", "what was served over IPv6")
    both_ways = {f"{_NODES6[1]} > {_NODES6[2]} tcp {port}", f"{_NODES6[2]} > {_NODES6[1]} tcp {port}"}
    for capture in captures:
        holds(both_ways <= set(capture.call(captured)), "IPv6 passed in clear both ways")
    first.agent(nothing).call(fetch, str(_NODES6[2]), port + 1)
    for capture in captures:
        equal(set(capture.call(captured)) - both_ways, {"wireguard"}, "what another IPv6 port sends")


@CHAPTER.only("Userspace")
def another_table_priority_or_mark_leaves_nothing_of_the_former(carrier: Carrier) -> None:
    (first, agent), _ = two_carrying_hosts(carrier)
    for other in (
        {"mark": 0x10},
        {"table": 4000},
        {"priority": 3000},
        {"mark": 8, "table": 4001, "priority": 900},
    ):
        what = carrying(1, **other)
        first.start(*ping(str(node(2)), 20, "-i", "0.02"))
        outcome, _ = agent.call(configure, a_carrying_wish(1, what))
        equal(outcome.carry_problems, (), "problems")
        holds(len(lost_pings(first.finish(), 20)) <= 1, f"pings lost while it changes: {other}")
        inside = range(what.priority, what.priority + LAST_RULE + 1)
        equal(
            [line for line in rules(first) if int(line.partition(":")[0]) not in inside], [], "former rules"
        )
        equal(sum(f"lookup {what.table}" in line for line in rules(first)), 6, "rules into the table")
        equal(sum("fwmark" in line for line in rules(first)), 2, "rules of the mark")
        equal(len(table(first, what.table)), 2 * len(carried(2)), "carried routes")
        equal(wg(first, "fwmark"), f"{what.mark:#x}", "mark")
        holds(not agent.call(repair).changed, "a look")
    for number in (DEFAULT_TABLE, 4000):
        equal(table(first, number), [], f"routes of the table {number}")
    agent.call(configure, a_carrying_wish(1, None))
    nothing_is_left(first)
    equal(table(first, 4001), [], "routes left")


@CHAPTER.only("Userspace")
def carried_routes_have_the_mtu_of_the_device(carrier: Carrier) -> None:
    (first, agent), _ = two_carrying_hosts(carrier)
    for mtu in (1400, 1320):
        agent.call(configure, a_carrying_wish(1, carrying(1), mtu=mtu))
        shown = [line for line in table(first) if f"dev {INTERFACE}" in line]
        for network, line in zip(sorted(map(str, carried(2))), sorted(shown), strict=True):
            headers = 60 if ":" in network else 40
            holds(f"mtu {mtu}" in line and f"advmss {mtu - headers}" in line, f"{network}: {line}")
        holds(not agent.call(repair).changed, "a look")


@CHAPTER.only("Userspace")
def what_others_hold_is_reported_and_never_replaced(carrier: Carrier) -> None:
    first, _ = two_hosts()
    add_pod(first, 1)
    agent = an_agent(first, carrier)
    rule = ("pref", str(DEFAULT_RULE_PRIORITY + 2), "from", "10.9.0.0/16", "lookup", "77")
    route = ("10.8.0.0/16", "dev", "eth0", "table", str(DEFAULT_TABLE))
    first.run("ip", "rule", "add", *rule)
    first.run("ip", "route", "add", *route)
    there = rules(first), table(first)
    outcome, _ = agent.call(configure, a_carrying_wish(1, carrying(1)))
    equal(
        [problem.reason for problem in outcome.carry_problems], ["RuleConflict", "TableConflict"], "reasons"
    )
    holds("10.9.0.0/16" in outcome.carry_problems[0].text, outcome.carry_problems[0].text)
    holds("10.8.0.0/16 dev eth0" in outcome.carry_problems[1].text, outcome.carry_problems[1].text)
    equal((rules(first), table(first)), there, "what others hold")
    again = agent.call(repair)
    equal((again.changed, again.carry_problems), (False, outcome.carry_problems), "a look")
    first.run("ip", "rule", "del", *rule)
    equal(reasons(agent.call(repair)), ["TableConflict"], "one is left")
    first.run("ip", "route", "del", *route)
    equal(agent.call(repair).carry_problems, (), "none is left")
    before = rules(first), table(first)
    holds(before[0] and before[1], "it carries")
    # What is carried already stays so, whatever comes beside it.
    first.run("ip", "rule", "add", *rule)
    equal(reasons(agent.call(repair)), ["RuleConflict"], "a late conflict")
    first.run("ip", "rule", "del", *rule)
    equal((rules(first), table(first)), before, "what is carried")


@CHAPTER.only("Userspace")
def another_mesh_of_the_host_keeps_what_it_carries(carrier: Carrier) -> None:
    (first, agent), _ = two_carrying_hosts(carrier)
    before = rules(first), sorted(table(first))
    other = an_agent(first, carrier, "wgother")
    elsewhere = IPv4Network("10.99.0.0/16")
    peer = a_peer(2, "10.99.0.2/32", "10.77.0.0/16")
    wish = a_wish(
        peer,
        interface="wgother",
        overlay=elsewhere,
        address=elsewhere[1],
        listen_port=PORT + 1,
        carrying=carrying(1, routes=(CarriedRoute(IPv4Network("10.77.0.0/16"), None),)),
    )
    outcome, _ = other.call(configure, wish)
    equal(
        {problem.reason for problem in outcome.carry_problems}, {"RuleConflict", "TableConflict"}, "reasons"
    )
    holds(f"dev {INTERFACE}" in outcome.carry_problems[1].text, outcome.carry_problems[1].text)
    equal((rules(first), sorted(table(first))), before, "what the first mesh carries by")
    equal((agent.call(repair).changed, agent.call(repair).carry_problems), (False, ()), "a look")
    other.call(remove)
    equal((rules(first), sorted(table(first))), before, "what the first mesh carries by, after a leave")


@CHAPTER.story
def a_network_moves_to_another_peer_without_a_gap(carrier: Carrier) -> None:
    """Show it while pings pass to another network of the peer that loses one."""
    (first, agent), _ = two_carrying_hosts(carrier)
    moving = IPv4Network("10.244.7.0/24")
    agent.call(count_messages)

    def wish(*, holder: int) -> DeviceConfig:
        nets = [host_network(OVERLAY[2]), *carried(2)]
        other = [host_network(OVERLAY[3])]
        (nets if holder == 2 else other).append(moving)
        peers = (a_peer(2, *nets, endpoint=Endpoint(node(2), PORT)), a_peer(3, *other))
        return a_wish(*peers, number=1, carrying=carrying(1))

    agent.call(configure, wish(holder=2))
    agent.call(messages)
    first.start(*ping(str(_PODS[2][1]), 200, "-i", "0.005", "-I", str(_PODS[1][1])))
    for turn in range(40):
        holder = 3 if turn % 2 == 0 else 2
        agent.call(configure, wish(holder=holder))
        held = [key for key, nets in wg_peers(first, "allowed-ips").items() if str(moving) in nets.split()]
        equal(held, [str(a_peer(holder).public_key)], "who has it")
    equal(lost_pings(first.finish(), 200), set(), "pings lost")
    equal(agent.call(messages), [1] * 40, "messages")
    holds(not agent.call(repair).changed, "a look")
    without = a_carrying_wish(1, carrying(1))
    agent.call(configure, without)
    holds(str(moving) not in wg(first, "allowed-ips"), "a network that no peer has any more")
    holds(not agent.call(repair).changed, "a look after that")


@CHAPTER.only("Userspace")
def a_thousand_peers_with_three_networks_each_are_carried(carrier: Carrier) -> dict[str, float]:
    first, _ = two_hosts()
    agent = an_agent(first, carrier)
    plain = made_up_peers(1001)
    peers = tuple(
        replace(peer, allowed_ips=(*peer.allowed_ips, *_networks_of(number)))
        for number, peer in enumerate(plain)
    )
    routes = [
        tuple(CarriedRoute(network, node(1)) for number in range(count) for network in _networks_of(number))
        for count in (1000, 1001)
    ]
    agent.call(configure, a_wish(carrying=accepting(1)))
    whole = a_wish(*peers[:1000], carrying=carrying(1, routes=routes[0]))
    _, from_empty = agent.call(configure, whole)
    equal(len(table(first)), 6000, "routes, unreachable ones included")
    holds(not agent.call(repair).changed, "a look")
    _, one_more = agent.call(configure, a_wish(*peers, carrying=carrying(1, routes=routes[1])))
    equal(len(table(first)), 6006, "routes of one more")
    _, off = agent.call(configure, a_wish(*peers))
    nothing_is_left(first)
    return {"1000 peers with 3 networks from empty": from_empty, "one more": one_more, "off": off}


def _networks_of(number: int) -> tuple[IPNetwork, ...]:
    """Return a made-up node's address and two pod networks."""
    return (
        IPv4Network((int(IPv4Address("172.16.0.0")) + number, 32)),
        IPv4Network((int(IPv4Address("10.0.0.0")) + number * 256, 24)),
        IPv4Network((int(IPv4Address("10.64.0.0")) + number * 256, 24)),
    )


@CHAPTER.only("Userspace")
def a_filter_that_cannot_be_remembered_stays_as_it_is(carrier: Carrier) -> None:
    first, _ = two_hosts()
    admin = first.agent(nothing)
    admin.call(write_filters, {"all": 0, "eth0": 1})
    agent = an_agent(first, carrier)
    first.run("mkdir", str(memory_of().path))
    outcome, _ = agent.call(configure, a_carrying_wish(1, accepting(1)))
    equal(reasons(outcome), ["ReversePathFilter"], "reasons")
    holds(str(memory_of().path) in outcome.carry_problems[0].text, outcome.carry_problems[0].text)
    equal(admin.call(read_filters, "eth0"), [1], "filter")
    equal((agent.call(repair).changed, reasons(agent.call(repair))), (False, ["ReversePathFilter"]), "a look")
    first.run("rmdir", str(memory_of().path))
    equal(reasons(agent.call(repair)), [], "reasons once it can be remembered")
    equal(admin.call(read_filters, "eth0"), [2], "filter once it can be remembered")
    # Another hand's choice stays when nothing is carried any more.
    admin.call(write_filters, {"eth0": 0})
    holds(not agent.call(repair).changed, "a look at a filter that is off")
    agent.call(configure, a_carrying_wish(1, None))
    equal(admin.call(read_filters, "eth0"), [0], "filter at the end")
    nothing_is_left(first)


@CHAPTER.only("Userspace")
def a_source_that_is_not_on_this_host_is_named_and_nothing_leaves_in_clear(carrier: Carrier) -> None:
    first, second = two_hosts()
    capture = capture_on(second)
    agent = an_agent(first, carrier)
    gone = tuple(
        CarriedRoute(network, IPv4Address("192.0.2.77")) for network in (_PODS[2], host_network(node(2)))
    )
    outcome, _ = agent.call(configure, a_carrying_wish(1, carrying(1, routes=gone)))
    equal(reasons(outcome), ["AddressNotPresent"], "reasons")
    holds("192.0.2.77" in outcome.carry_problems[0].text, outcome.carry_problems[0].text)
    first.agent(nothing).call(exchange, "", str(node(2)), 9)
    equal(set(capture.call(captured)) - {"wireguard"}, set(), "what left in clear")
    first.run("ip", "address", "add", "192.0.2.77/32", "dev", "eth0")
    equal(agent.call(repair).carry_problems, (), "problems once it is there")
    equal(len(table(first)), 4, "carried routes")
