"""What comes of a wish: stories of the difference between it and the device."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

from wesher_agent.mesh.device import Endpoint, Peer
from wesher_agent.netlink.route_messages import PROTOCOL
from wesher_agent.wireguard.device import find_device
from wesher_testing.device.harness import (
    INTERFACE,
    OVERLAY,
    PORT,
    Carrier,
    a_peer,
    a_wish,
    addresses,
    an_agent,
    configure,
    count_messages,
    equal,
    holds,
    looks_as_wished,
    made_up_peers,
    memory_of,
    messages,
    private_key,
    remove,
    repair,
    repair_when_lost,
    routes,
    wg_peers,
)
from wesher_testing.device.private_hosts import (
    make_host,
)
from wesher_testing.device.registry import Chapter

CHAPTER = Chapter()


@CHAPTER.story
def a_device_comes_up_as_wished_and_goes_without_a_trace(carrier: Carrier) -> None:
    host = make_host()
    agent = an_agent(host, carrier)
    wish = a_wish(a_peer(2), a_peer(3, "10.189.0.3/32", "10.200.0.0/24"), a_peer(4))
    outcome, _ = agent.call(configure, wish)
    equal((outcome.changed, outcome.sessions_lost), (True, True), "outcome")
    looks_as_wished(host, wish)
    agent.call(remove)
    equal([entry["ifname"] for entry in host.json("link", "show")], ["lo"], "devices left")
    equal(host.json("route", "show"), [], "routes left")
    equal(list(Path(f"/proc/{host.holder}/root/run/wireguard").iterdir()), [], "sockets left")
    agent.call(remove)


@CHAPTER.story
def what_a_killed_agent_left_is_found_and_goes_without_a_trace(carrier: Carrier) -> None:
    host = make_host()
    agent = an_agent(host, carrier)
    agent.call(configure, a_wish(a_peer(2)))
    agent.kill()
    host.agent(partial(find_device, INTERFACE, memory_of())).call(remove)
    equal([entry["ifname"] for entry in host.json("link", "show")], ["lo"], "devices left")
    equal(host.json("route", "show"), [], "routes left")


@CHAPTER.story
def a_device_serves_an_ipv6_overlay(carrier: Carrier) -> None:
    host = make_host()
    overlay = IPv6Network("fd00:5::/64")
    peer = Peer(
        private_key(9).public,
        Endpoint(IPv6Address("2001:db8::9"), PORT),
        (IPv4Network("10.7.0.0/16"), IPv6Network("fd00:5::9/128")),
    )
    wish = a_wish(peer, overlay=overlay, address=overlay[1])
    agent = an_agent(host, carrier)
    agent.call(configure, wish)
    equal(addresses(host), {"fd00:5::1/128"}, "addresses")
    equal(routes(host, version=6) | routes(host), {"fd00:5::9/128"}, "routes in the overlay alone")
    equal(wg_peers(host, "endpoints"), {str(peer.public_key): f"[2001:db8::9]:{PORT}"}, "endpoints")
    shown = host.run("ip", "-6", "route", "show", "type", "unreachable", "proto", str(PROTOCOL))
    equal(shown.split()[:2], ["unreachable", "fd00:5::/64"], "unreachable")
    holds(not agent.call(repair).changed, "second look")
    one_by_one = replace(wish, unreachable=(IPv6Network("fd00:5::8/128"), IPv6Network("fd00:5::9/128")))
    agent.call(configure, one_by_one)
    host.run("ip", "-6", "route", "add", "default", "dev", INTERFACE)
    for address, words in (("fd00:5::9", f"dev {INTERFACE}"), ("fd00:5::8", "No route to host")):
        said = host.run("ip", "-6", "route", "get", address, check=False)
        holds(words in said, f"the way to {address}: {said}")
    holds(not agent.call(repair).changed, "a look at single addresses")
    agent.call(configure, replace(one_by_one, peers=()))
    said = host.run("ip", "-6", "route", "get", "fd00:5::9", check=False)
    holds("No route to host" in said, f"the way to a peer that is gone: {said}")
    agent.call(remove)
    holds("proto 87" not in host.run("ip", "-6", "route", "show"), "routes left")


@CHAPTER.story
def the_same_wish_again_sends_nothing(carrier: Carrier) -> None:
    agent = an_agent(make_host(), carrier)
    agent.call(count_messages)
    wish = a_wish(a_peer(2), a_peer(3))
    agent.call(configure, wish)
    equal(agent.call(messages), [1], "messages at first")
    outcome, _ = agent.call(configure, wish)
    equal((outcome.changed, agent.call(messages)), (False, []), "the same wish")
    equal((agent.call(repair).changed, agent.call(messages)), (False, []), "a look")


@CHAPTER.story
def one_changed_peer_is_one_message_among_a_thousand(carrier: Carrier) -> dict[str, float]:
    host = make_host()
    agent = an_agent(host, carrier)
    agent.call(configure, a_wish())
    agent.call(count_messages)
    wish = a_wish(*made_up_peers(1000))
    _, from_empty = agent.call(configure, wish)
    equal(agent.call(messages), [2 if carrier.kind == "Kernel" else 1], "messages for 1000 peers")
    looks_as_wished(host, wish)
    changed = a_wish(*made_up_peers(1000), a_peer(5000))
    _, one_more = agent.call(configure, changed)
    equal(agent.call(messages), [1], "messages for one more peer")
    outcome, unchanged = agent.call(configure, changed)
    equal((outcome.changed, agent.call(messages)), (False, []), "nothing changed")
    _, one_less = agent.call(configure, wish)
    equal(agent.call(messages), [1], "messages for one peer less")
    return {
        "1000 peers from empty": from_empty,
        "one more": one_more,
        "one less": one_less,
        "unchanged": unchanged,
    }


@CHAPTER.story
def fifty_peers_are_one_message(carrier: Carrier) -> dict[str, float]:
    host = make_host()
    agent = an_agent(host, carrier)
    agent.call(count_messages)
    wish = a_wish(*made_up_peers(50))
    _, took = agent.call(configure, wish)
    equal(agent.call(messages), [1], "messages")
    looks_as_wished(host, wish)
    return {"50 peers and the device": took}


@CHAPTER.story
def what_other_hands_changed_is_put_back(carrier: Carrier) -> None:
    host = make_host()
    agent = an_agent(host, carrier)
    wish = a_wish(a_peer(2), a_peer(3))
    agent.call(configure, wish)
    second, third = (str(a_peer(number).public_key) for number in (2, 3))
    edits = (
        ("ip", "address", "add", "10.99.0.1/24", "dev", INTERFACE),
        ("ip", "address", "del", f"{wish.address}/32", "dev", INTERFACE),
        ("ip", "link", "set", INTERFACE, "mtu", "1300"),
        ("ip", "route", "del", "10.189.0.2"),
        ("ip", "route", "del", "unreachable", str(OVERLAY)),
        ("ip", "link", "set", INTERFACE, "down"),
        ("wg", "set", INTERFACE, "fwmark", "7", "listen-port", "999"),
        ("wg", "set", INTERFACE, "peer", second, "remove"),
        ("wg", "set", INTERFACE, "peer", third, "allowed-ips", "10.50.0.0/16"),
        ("wg", "set", INTERFACE, "peer", third, "endpoint", "198.51.100.9:9", "persistent-keepalive", "7"),
        ("wg", "set", INTERFACE, "peer", str(private_key(77).public), "allowed-ips", "10.60.0.0/16"),
    )
    for edit in edits:
        host.run(*edit)
        holds(agent.call(repair).changed, f"repair of {' '.join(edit[:4])}")
        looks_as_wished(host, wish)
        holds(not agent.call(repair).changed, f"a second repair of {' '.join(edit[:4])}")
    host.run("ip", "link", "del", INTERFACE)
    outcome = agent.call(repair_when_lost) if carrier.kind == "Userspace" else agent.call(repair)
    equal((outcome.changed, outcome.sessions_lost), (True, True), "repair of a removed device")
    looks_as_wished(host, wish)


@CHAPTER.story
def a_change_after_the_device_was_removed_makes_it_whole(carrier: Carrier) -> None:
    host = make_host()
    agent = an_agent(host, carrier)
    agent.call(configure, a_wish(a_peer(2)))
    host.run("ip", "link", "del", INTERFACE)
    wish = a_wish(a_peer(2), a_peer(3))
    agent.call(configure, wish)
    looks_as_wished(host, wish)


@CHAPTER.story
def a_preshared_key_set_by_hand_is_taken_off(carrier: Carrier) -> None:
    host = make_host()
    agent = an_agent(host, carrier)
    agent.call(configure, a_wish(a_peer(2)))
    peer = str(a_peer(2).public_key)
    key_file = "run/wireguard/preshared"
    Path(f"/proc/{host.holder}/root", key_file).write_text(private_key(5).reveal_base64())
    host.run("wg", "set", INTERFACE, "peer", peer, "preshared-key", f"/{key_file}")
    holds(agent.call(repair).changed, "repair")
    equal(wg_peers(host, "preshared-keys"), {peer: "(none)"}, "preshared keys")


@CHAPTER.story
def an_address_moves_to_another_peer_in_one_change(carrier: Carrier) -> None:
    """Show a node that comes back with a new key take its address over, and two that swap."""
    host = make_host()
    agent = an_agent(host, carrier)
    agent.call(configure, a_wish(a_peer(2), a_peer(3), a_peer(4)))
    for wish in (
        a_wish(a_peer(2, "10.189.0.3/32"), a_peer(3, "10.189.0.2/32"), a_peer(5, "10.189.0.4/32")),
        a_wish(a_peer(2, "10.189.0.2/32", "10.189.0.3/32", "10.189.0.4/32")),
        a_wish(a_peer(3), a_peer(4, "10.189.0.2/32", "10.189.0.4/32")),
    ):
        agent.call(configure, wish)
        looks_as_wished(host, wish)
        holds(not agent.call(repair).changed, "a look")


@CHAPTER.story
def a_changed_overlay_address_or_key_replaces_the_old_one(carrier: Carrier) -> None:
    host = make_host()
    agent = an_agent(host, carrier)
    agent.call(configure, a_wish(a_peer(2)))
    wish = a_wish(
        a_peer(2, "10.77.0.2/32"),
        number=9,
        overlay=IPv4Network("10.77.0.0/16"),
        address=IPv4Address("10.77.0.9"),
        listen_port=PORT + 1,
    )
    outcome = agent.call(configure, wish)[0]
    holds(outcome.sessions_lost, "a new key loses the sessions")
    holds(outcome.port_moved, "peers must learn another port")
    looks_as_wished(host, wish)
