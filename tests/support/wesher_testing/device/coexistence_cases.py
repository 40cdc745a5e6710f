"""How a device gets on with other hosts, hands, programs and devices: stories."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address

from wesher_agent.mesh.device import Endpoint
from wesher_testing.device.harness import (
    INTERFACE,
    OVERLAY,
    PORT,
    Carrier,
    a_peer,
    a_wish,
    all_of,
    an_agent,
    configure,
    connect,
    equal,
    hold_the_port,
    holds,
    kind_of,
    link,
    looks_as_wished,
    lost_pings,
    make_device,
    mtu_towards,
    nothing,
    open_it,
    peers,
    ping,
    private_key,
    refusal,
    remove,
    rename,
    repair,
    routes,
    set_up_a_vpn,
    unreachable,
    wait_for_it,
    wg,
    wg_peers,
    wish_of,
)
from wesher_testing.device.private_hosts import (
    make_host,
    two_hosts,
)
from wesher_testing.device.registry import Chapter

CHAPTER = Chapter()


@CHAPTER.story
def two_hosts_reach_each_other_through_the_tunnel(carrier: Carrier) -> None:
    first, second = two_hosts()
    connect(first, second, carrier)
    # 1372 bytes of data make a packet of the whole MTU.
    said = first.run(*ping("10.189.0.2", 5, "-i", "0.2", "-M", "do", "-s", "1372"))
    equal(lost_pings(said, 5), set(), "pings lost")
    holds(int(wg(second, "transfer").split()[1]) > 5 * 1372, "bytes through the tunnel")


@CHAPTER.story
def nothing_for_the_overlay_leaves_in_clear(carrier: Carrier) -> None:
    first, second = two_hosts()
    first.run("ip", "route", "add", "default", "via", str(second.address))
    agent = an_agent(first, carrier)
    agent.call(configure, a_wish())
    said = first.run("ip", "route", "get", "10.189.0.77", check=False)
    holds("No route to host" in said, f"the way to a stranger in the overlay: {said}")
    agent.call(configure, a_wish(unreachable=()))
    said = first.run("ip", "route", "get", "10.189.0.77")
    holds("dev eth0" in said, f"the way without the unreachable route: {said}")


@CHAPTER.story
def single_addresses_are_kept_in_and_all_others_left_alone(carrier: Carrier) -> None:
    """Where the overlay cannot be covered as a whole; a peer that goes leaves its cover below."""
    first, second = two_hosts()
    first.run("ip", "route", "add", "default", "via", str(second.address))
    foreign = "10.189.0.8 via", str(second.address), "dev eth0 proto static"
    first.run("ip", "route", "add", *" ".join(foreign).split())
    agent = an_agent(first, carrier)
    cover = tuple(IPv4Network(f"10.189.0.{number}/32") for number in (2, 8, 9))

    def way_to(address: str) -> str:
        return first.run("ip", "route", "get", address, check=False)

    config = a_wish(a_peer(2), unreachable=cover)
    holds(agent.call(configure, config)[0].changed, "the first configuration")
    looks_as_wished(first, config)
    holds(not agent.call(configure, config)[0].changed, "the same again")
    holds(not agent.call(repair).changed, "a look")
    holds(f"dev {INTERFACE}" in way_to("10.189.0.2"), "a peer's way goes through the tunnel")
    holds("No route to host" in way_to("10.189.0.9"), "an address without a peer has no way")
    holds("dev eth0" in way_to("10.189.0.8"), "a foreign route to such an address stays the way")
    holds("dev eth0" in way_to("10.189.0.77"), "what is not covered is left alone")

    agent.call(configure, a_wish(unreachable=cover))
    holds("No route to host" in way_to("10.189.0.2"), "a peer that is gone has no way")
    agent.call(configure, config)
    holds(f"dev {INTERFACE}" in way_to("10.189.0.2"), "a peer that is back is reached above its cover")
    first.run("ip", "link", "set", INTERFACE, "down")
    holds("No route to host" in way_to("10.189.0.2"), "a peer has no way while the device is down")
    first.run("ip", "route", "flush", "type", "unreachable")
    holds(agent.call(repair).changed, "the repair of a flushed cover")
    looks_as_wished(first, config)

    narrower = a_wish(a_peer(2), unreachable=cover[:1])
    agent.call(configure, narrower)
    looks_as_wished(first, narrower)
    agent.call(configure, a_wish(a_peer(2)))
    looks_as_wished(first, a_wish(a_peer(2)))
    agent.call(configure, config)
    looks_as_wished(first, config)
    agent.call(remove)
    holds("proto 87" not in first.run("ip", "route", "show"), "routes left")
    holds("dev eth0" in way_to("10.189.0.8"), "the foreign route is still there")


@CHAPTER.story
def a_thousand_addresses_are_covered_once(carrier: Carrier) -> None:
    host = make_host()
    agent = an_agent(host, carrier)
    cover = tuple(IPv4Network((int(OVERLAY[256]) + number, 32)) for number in range(1000))
    agent.call(configure, a_wish(a_peer(2), unreachable=cover))
    equal(len(unreachable(host)), 1000, "addresses covered")
    holds(not agent.call(repair).changed, "a look")
    agent.call(configure, a_wish(a_peer(2), unreachable=cover[1:]))
    equal(len(unreachable(host)), 999, "addresses covered once one is over")
    agent.call(remove)
    equal(host.json("route", "show"), [], "routes left")


@CHAPTER.story
def a_restarted_agent_adopts_the_device_and_loses_no_packet(carrier: Carrier) -> None:
    first, second = two_hosts()
    agent, _ = connect(first, second, carrier)
    first.run(*ping("10.189.0.2", 1))
    first.start(*ping("10.189.0.2", 100, "-i", "0.02"))
    agent.kill()
    again = first.agent(partial(open_it, "Auto", carrier.binary))
    outcome, _ = again.call(configure, wish_of(first, second, 1))
    equal((outcome.changed, outcome.sessions_lost), (False, False), "what the second start did")
    equal(again.call(kind_of), carrier.kind, "the living device's backend")
    equal(lost_pings(first.finish(), 100), set(), "pings lost over the restart")


@CHAPTER.story
def an_endpoint_that_roamed_is_left_alone_while_it_works(carrier: Carrier) -> None:
    begun = time.time()
    first, second = two_hosts()
    agent, other = connect(first, second, carrier)
    first.run(*ping("10.189.0.2", 1))
    other.call(configure, replace(wish_of(second, first, 2), listen_port=40000))
    second.run(*ping("10.189.0.1", 2, "-i", "0.2"))
    learned = {str(private_key(1002).public): f"{second.address}:40000"}
    equal(wg_peers(first, "endpoints"), learned, "the learned endpoint")
    holds(not agent.call(repair).changed, "a look")
    moved = wish_of(first, second, 1, endpoint=Endpoint(second.address, 41000))
    agent.call(configure, moved)
    equal(wg_peers(first, "endpoints"), learned, "the endpoint after another was wished")
    (peer,) = agent.call(peers)
    # The device counts whole seconds.
    holds(begun - 1 < peer.last_handshake <= time.time(), f"handshake at {peer.last_handshake}")
    holds(peer.rx_bytes > 0 and peer.tx_bytes > 0, "counters")


@CHAPTER.story
def a_foreign_route_is_reported_and_never_replaced(carrier: Carrier) -> None:
    first, second = two_hosts()
    foreign = ("10.189.0.2/32", "via", str(second.address), "dev", "eth0")
    first.run("ip", "route", "add", *foreign)
    first.run("ip", "route", "add", "10.189.0.3/32", "dev", "eth0", "metric", "100", "proto", "static")
    agent = an_agent(first, carrier)
    wish = a_wish(a_peer(2), a_peer(3), a_peer(4))
    outcome, _ = agent.call(configure, wish)
    equal(
        [(str(conflict.destination), conflict.holder) for conflict in outcome.conflicts],
        [
            ("10.189.0.2/32", f"10.189.0.2/32 via {second.address} dev eth0 proto boot"),
            ("10.189.0.3/32", "10.189.0.3/32 dev eth0 proto static metric 100"),
        ],
        "conflicts",
    )
    equal(routes(first), {"10.189.0.4/32"}, "our routes")
    equal(len(first.json("route", "show", "dev", "eth0", "root", "10.189.0.0/16")), 2, "foreign routes")
    again, _ = agent.call(configure, wish)
    equal((again.changed, again.conflicts), (False, outcome.conflicts), "the same again")
    holds(not agent.call(repair).changed, "a look changes nothing")
    first.run("ip", "route", "del", *foreign)
    equal(len(agent.call(repair).conflicts), 1, "conflicts once the first is gone")
    equal(routes(first), {"10.189.0.2/32", "10.189.0.4/32"}, "our routes once it is gone")
    agent.call(configure, a_wish(a_peer(4)))
    equal(len(first.json("route", "show", "dev", "eth0", "root", "10.189.0.0/16")), 1, "foreign routes left")


@CHAPTER.story
def two_meshes_on_one_host_leave_each_other_alone(carrier: Carrier) -> None:
    host = make_host()
    agent = an_agent(host, carrier)
    wish = a_wish(a_peer(2))
    agent.call(configure, wish)
    other = an_agent(host, carrier, "wgother")
    elsewhere = IPv4Network("10.99.0.0/16")
    other.call(
        configure,
        a_wish(
            a_peer(2, "10.99.0.2/32"),
            interface="wgother",
            overlay=elsewhere,
            address=elsewhere[1],
            listen_port=PORT + 1,
        ),
    )
    looks_like_two = {str(OVERLAY), str(elsewhere)}
    equal(unreachable(host), looks_like_two, "unreachable")
    equal((agent.call(repair).changed, other.call(repair).changed), (False, False), "looks")
    other.call(remove)
    looks_as_wished(host, wish)


@CHAPTER.story
def two_meshes_with_one_overlay_cover_the_same_addresses(carrier: Carrier) -> None:
    host = make_host()
    agent = an_agent(host, carrier)
    seven, nine = IPv4Network("10.189.0.7/32"), IPv4Network("10.189.0.9/32")
    wish = a_wish(a_peer(2), unreachable=(seven,))
    agent.call(configure, wish)
    other = an_agent(host, carrier, "wgother")
    another = a_wish(
        a_peer(3),
        interface="wgother",
        address=OVERLAY[4],
        listen_port=PORT + 1,
        unreachable=(seven, nine),
    )
    other.call(configure, another)
    equal(unreachable(host), {"10.189.0.7", "10.189.0.9"}, "unreachable")
    equal((agent.call(repair).changed, other.call(repair).changed), (False, False), "looks")
    other.call(remove)
    looks_as_wished(host, wish)
    holds(not agent.call(repair).changed, "a look once the other is gone")


@CHAPTER.story
def a_port_that_another_program_holds_is_named(carrier: Carrier) -> None:
    host = make_host()
    agent = an_agent(host, carrier)
    holder = host.agent(hold_the_port)
    holder.call(wait_for_it)
    error = refusal(lambda: agent.call(configure, a_wish(a_peer(2))))
    equal((error.kind, "UDP port 51820 is taken" in error.text), ("PortTaken", True), error.text)
    holder.kill()
    agent.call(configure, a_wish(a_peer(2)))
    looks_as_wished(host, a_wish(a_peer(2)))


@CHAPTER.story
def a_name_that_belongs_to_another_device_is_refused(carrier: Carrier) -> None:
    host = make_host()
    host.run("ip", "link", "add", INTERFACE, "type", "veth", "peer", "name", "otherend")
    before = link(host)
    agent = an_agent(host, carrier)
    error = refusal(lambda: agent.call(configure, a_wish(a_peer(2))))
    equal(
        (error.kind, error.text),
        (
            "InvalidSpec",
            f"interface '{INTERFACE}': is the name of another network device: choose a free one",
        ),
        "error",
    )
    agent.call(remove)
    equal(link(host), before, "the other device")


@CHAPTER.story
def a_wireguard_device_of_another_program_is_refused_and_stays_as_it_is(carrier: Carrier) -> None:
    host = make_host()
    make_device(host, carrier)
    set_up_a_vpn(host, address="172.31.7.1/24", allowed_ips="172.31.7.0/24")
    before = all_of(host)
    agent = an_agent(host, carrier)
    why = f"its address 172.31.7.1/24 is not a host address of the overlay {OVERLAY}"
    what_to_do = "choose a free name, or delete the device if it is unused"
    text = f"interface '{INTERFACE}': belongs to another program: {why}; {what_to_do}"
    for _ in range(2):
        error = refusal(lambda: agent.call(configure, a_wish(a_peer(2))))
        equal((error.kind, error.text), ("InvalidSpec", text), "error")
    agent.call(remove)
    equal(all_of(host), before, "the other program's device, after a leave")
    an_agent(host, carrier).call(remove)
    equal(all_of(host), before, "the other program's device, after a leave before the first change")


@CHAPTER.story
def a_leftover_with_another_key_is_taken_if_its_addresses_are_the_overlay_s(carrier: Carrier) -> None:
    """Go wesher makes a key a start, and an agent may have lost its state file."""
    host = make_host()
    make_device(host, carrier)
    set_up_a_vpn(host, address="10.189.7.1/32", allowed_ips="10.189.7.2/32")
    agent = an_agent(host, carrier)
    agent.call(configure, a_wish(a_peer(2)))
    looks_as_wished(host, a_wish(a_peer(2)))
    agent.call(remove)
    holds(INTERFACE not in host.run("ip", "-o", "link"), "the device is gone")


@CHAPTER.story
def a_device_that_was_renamed_gets_its_name_back(carrier: Carrier) -> None:
    host = make_host()
    agent = an_agent(host, carrier)
    wish = a_wish(a_peer(2))
    agent.call(configure, wish)
    index = link(host)["ifindex"]
    for _ in range(2):
        rename(host, INTERFACE, "wgx")
        holds(agent.call(repair).changed, "a repair")
        looks_as_wished(host, wish)
        equal(link(host)["ifindex"], index, "the same device")
    rename(host, INTERFACE, "wgx")
    agent.call(remove)
    holds("wgx" not in host.run("ip", "-o", "link"), "a leave deletes the device whatever its name")


@CHAPTER.story
def the_mtu_follows_the_narrowest_way_out(carrier: Carrier) -> None:
    first, second = two_hosts()
    agent = first.agent(nothing)
    equal(agent.call(mtu_towards, []), 1420, "no way out at all")
    first.run("ip", "link", "set", "eth0", "mtu", "9000")
    first.run("ip", "route", "add", "default", "via", str(second.address))
    equal(agent.call(mtu_towards, []), 8920, "jumbo frames on the default route")
    equal(agent.call(mtu_towards, [second.address, first.address]), 8920, "a neighbour, and ourselves")
    first.run("ip", "route", "add", "203.0.113.0/24", "via", str(second.address), "mtu", "1450")
    narrow = IPv4Address("203.0.113.9")
    equal(agent.call(mtu_towards, [second.address, narrow]), 1370, "a route with an MTU of its own")
    first.run("ip", "link", "set", "eth0", "mtu", "1300")
    equal(agent.call(mtu_towards, [IPv6Address("2001:db8::2")]), 1280, "never below IPv6's least")
