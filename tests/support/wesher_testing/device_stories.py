"""What every WireGuard device of ours must do, told as stories that both backends pass.

Run where the device is: on this machine for user space, in a VM for the kernel's
WireGuard. `tell` runs one story in a world of its own; the rings show each as a
test.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Any

from wesher_agent.mesh.device import Endpoint, Peer
from wesher_agent.wireguard.backend import BackendKind
from wesher_agent.wireguard.route_messages import PROTOCOL
from wesher_testing.device_bench import (
    INTERFACE,
    OVERLAY,
    PORT,
    Carrier,
    a_peer,
    a_wish,
    addresses,
    an_agent,
    carrier_pid,
    configure,
    connect,
    count_messages,
    equal,
    hide_programs,
    hold_the_port,
    holds,
    kind_of,
    link,
    looks_as_wished,
    lost_pings,
    made_up_peers,
    messages,
    mtu_towards,
    nothing,
    open_again,
    open_it,
    open_with_a_secret,
    open_without_tun,
    peers,
    private_key,
    refusal,
    remove,
    remove_and_watch_the_loop,
    repair,
    repair_at_once_when_gone,
    repair_when_lost,
    routes,
    unreachable,
    wait_for_it,
    wg,
    wg_peers,
    wish_of,
)
from wesher_testing.small_lab import (
    in_private_world,
    make_host,
    two_hosts,
)

_STORY_TIMEOUT = 90.0

Story = Callable[[Carrier], Any]
STORIES: dict[str, Story] = {}
"""By name, in the order they are told; a story may return figures worth printing."""
ONLY: dict[str, BackendKind] = {}
"""Stories that make sense for one backend."""


def names(kind: BackendKind) -> list[str]:
    """Return the stories that a backend must pass."""
    return [name for name in STORIES if ONLY.get(name, kind) == kind]


def tell(name: str, carrier: Carrier) -> Any:
    """Run one story in a world of its own and return its figures.

    Raises:
        StoryFailed: it did not go as it should.

    """
    return in_private_world(partial(STORIES[name], carrier), timeout=_STORY_TIMEOUT)


def _story(story: Story) -> Story:
    STORIES[story.__name__] = story
    return story


def _only(kind: BackendKind) -> Callable[[Story], Story]:
    def mark(story: Story) -> Story:
        ONLY[story.__name__] = kind
        return _story(story)

    return mark


# The stories.


@_story
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


@_story
def a_device_serves_an_ipv6_overlay(carrier: Carrier) -> None:
    host = make_host()
    overlay = IPv6Network("fd00:5::/64")
    peer = Peer(
        private_key(9).public,
        Endpoint(IPv6Address("2001:db8::9"), PORT),
        (IPv6Network("fd00:5::9/128"), IPv4Network("10.7.0.0/16")),
    )
    wish = a_wish(peer, overlay=overlay, address=overlay[1])
    agent = an_agent(host, carrier)
    agent.call(configure, wish)
    equal(addresses(host), {"fd00:5::1/128"}, "addresses")
    equal(routes(host, version=6) | routes(host), {"fd00:5::9/128", "10.7.0.0/16"}, "routes")
    equal(wg_peers(host, "endpoints"), {str(peer.public_key): f"[2001:db8::9]:{PORT}"}, "endpoints")
    shown = host.run("ip", "-6", "route", "show", "type", "unreachable", "proto", str(PROTOCOL))
    equal(shown.split()[:2], ["unreachable", "fd00:5::/64"], "unreachable")
    holds(not agent.call(repair).changed, "second look")
    agent.call(remove)
    holds("proto 87" not in host.run("ip", "-6", "route", "show"), "routes left")


@_story
def the_same_wish_again_sends_nothing(carrier: Carrier) -> None:
    agent = an_agent(make_host(), carrier)
    agent.call(count_messages)
    wish = a_wish(a_peer(2), a_peer(3))
    agent.call(configure, wish)
    equal(agent.call(messages), [1], "messages at first")
    outcome, _ = agent.call(configure, wish)
    equal((outcome.changed, agent.call(messages)), (False, []), "the same wish")
    equal((agent.call(repair).changed, agent.call(messages)), (False, []), "a look")


@_story
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


@_story
def fifty_peers_are_one_message(carrier: Carrier) -> dict[str, float]:
    host = make_host()
    agent = an_agent(host, carrier)
    agent.call(count_messages)
    wish = a_wish(*made_up_peers(50))
    _, took = agent.call(configure, wish)
    equal(agent.call(messages), [1], "messages")
    looks_as_wished(host, wish)
    return {"50 peers and the device": took}


@_story
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


@_story
def a_change_after_the_device_was_removed_makes_it_whole(carrier: Carrier) -> None:
    host = make_host()
    agent = an_agent(host, carrier)
    agent.call(configure, a_wish(a_peer(2)))
    host.run("ip", "link", "del", INTERFACE)
    wish = a_wish(a_peer(2), a_peer(3))
    agent.call(configure, wish)
    looks_as_wished(host, wish)


@_story
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


@_story
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


@_story
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
    holds(agent.call(configure, wish)[0].sessions_lost, "a new key loses the sessions")
    looks_as_wished(host, wish)


@_story
def two_hosts_reach_each_other_through_the_tunnel(carrier: Carrier) -> None:
    first, second = two_hosts()
    connect(first, second, carrier)
    # 1372 bytes of data make a packet of the whole MTU.
    said = first.run("ping", "-c", "5", "-i", "0.2", "-M", "do", "-s", "1372", "-w", "10", "10.189.0.2")
    equal(lost_pings(said), 0, "pings lost")
    holds(int(wg(second, "transfer").split()[1]) > 5 * 1372, "bytes through the tunnel")


@_story
def nothing_for_the_overlay_leaves_in_clear(carrier: Carrier) -> None:
    first, second = two_hosts()
    first.run("ip", "route", "add", "default", "via", str(second.address))
    agent = an_agent(first, carrier)
    agent.call(configure, a_wish())
    said = first.run("ip", "route", "get", "10.189.0.77", check=False)
    holds("No route to host" in said, f"the way to a stranger in the overlay: {said}")
    agent.call(configure, a_wish(unreachable_overlay=False))
    said = first.run("ip", "route", "get", "10.189.0.77")
    holds("dev eth0" in said, f"the way without the unreachable route: {said}")


@_story
def a_restarted_agent_adopts_the_device_and_loses_no_packet(carrier: Carrier) -> None:
    first, second = two_hosts()
    agent, _ = connect(first, second, carrier)
    first.run("ping", "-c", "1", "-w", "5", "10.189.0.2")
    first.start("ping", "-i", "0.02", "-c", "100", "-W", "1", "10.189.0.2")
    agent.kill()
    again = first.agent(partial(open_it, "Auto", carrier.binary))
    outcome, _ = again.call(configure, wish_of(first, second, 1))
    equal((outcome.changed, outcome.sessions_lost), (False, False), "what the second start did")
    equal(again.call(kind_of), carrier.kind, "the living device's backend")
    equal(lost_pings(first.finish()), 0, "pings lost over the restart")


@_story
def an_endpoint_that_roamed_is_left_alone_while_it_works(carrier: Carrier) -> None:
    first, second = two_hosts()
    agent, other = connect(first, second, carrier)
    first.run("ping", "-c", "1", "-w", "5", "10.189.0.2")
    other.call(configure, replace(wish_of(second, first, 2), listen_port=40000))
    second.run("ping", "-c", "2", "-i", "0.2", "-w", "5", "10.189.0.1")
    learned = {str(private_key(1002).public): f"{second.address}:40000"}
    equal(wg_peers(first, "endpoints"), learned, "the learned endpoint")
    holds(not agent.call(repair).changed, "a look")
    moved = wish_of(first, second, 1, endpoint=Endpoint(second.address, 41000))
    agent.call(configure, moved)
    equal(wg_peers(first, "endpoints"), learned, "the endpoint after another was wished")
    (peer,) = agent.call(peers)
    holds(abs(time.time() - peer.last_handshake) < 60, f"handshake at {peer.last_handshake}")
    holds(peer.rx_bytes > 0 and peer.tx_bytes > 0, "counters")


@_story
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
    equal((again.changed, again.conflicts), (False, outcome.conflicts), "the same wish")
    holds(not agent.call(repair).changed, "a look changes nothing")
    first.run("ip", "route", "del", *foreign)
    equal(len(agent.call(repair).conflicts), 1, "conflicts once the first is gone")
    equal(routes(first), {"10.189.0.2/32", "10.189.0.4/32"}, "our routes once it is gone")
    agent.call(configure, a_wish(a_peer(4)))
    equal(len(first.json("route", "show", "dev", "eth0", "root", "10.189.0.0/16")), 1, "foreign routes left")


@_story
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


@_story
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


@_story
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


@_story
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


@_only("Kernel")
def auto_picks_the_kernel(carrier: Carrier) -> None:
    agent = make_host().agent(partial(open_it, "Auto", None))
    equal(agent.call(kind_of), "Kernel", "kind")


@_only("Kernel")
def removing_a_thousand_peers_does_not_hold_up_the_event_loop(carrier: Carrier) -> dict[str, float]:
    agent = an_agent(make_host(), carrier)
    agent.call(configure, a_wish(*made_up_peers(1000)))
    took, longest_stall = agent.call(remove_and_watch_the_loop)
    holds(longest_stall < max(took / 2, 0.25), f"stalled {longest_stall:.3f} of {took:.3f} s")
    return {"removing 1000 peers": took, "longest stall": longest_stall}


@_only("Userspace")
def a_killed_program_is_started_again_with_everything_back(carrier: Carrier) -> dict[str, float]:
    first, second = two_hosts()
    agent, _ = connect(first, second, carrier)
    first.run("ping", "-c", "1", "-w", "5", "10.189.0.2")
    victim = agent.call(carrier_pid)
    os.kill(victim, signal.SIGKILL)
    start = time.perf_counter()
    outcome = agent.call(repair_when_lost)
    took = time.perf_counter() - start
    equal((outcome.changed, outcome.sessions_lost), (True, True), "outcome")
    holds(agent.call(carrier_pid) != victim, "another process")
    looks_as_wished(first, wish_of(first, second, 1))
    equal(lost_pings(first.run("ping", "-c", "2", "-i", "0.2", "-w", "10", "10.189.0.2")), 0, "pings lost")
    return {"back after": took}


@_only("Userspace")
def the_program_gets_none_of_our_environment(carrier: Carrier) -> None:
    """Show that what an agent was started with, perhaps the cluster key, stays with it."""
    agent = make_host().agent(partial(open_with_a_secret, carrier.binary))
    agent.call(configure, a_wish(a_peer(2)))
    environment = Path(f"/proc/{agent.call(carrier_pid)}/environ").read_text()
    holds("LOG_LEVEL" in environment and "SECRET" not in environment, environment)


@_only("Userspace")
def address_and_routes_stay_while_the_program_is_away(carrier: Carrier) -> None:
    host = make_host()
    agent = an_agent(host, carrier)
    wish = a_wish(a_peer(2))
    agent.call(configure, wish)
    victim = agent.call(carrier_pid)
    agent.kill()
    os.kill(victim, signal.SIGKILL)
    os.waitid(os.P_PID, victim, os.WEXITED)
    equal(addresses(host), {"10.189.0.1/32"}, "addresses")
    equal(routes(host), {"10.189.0.2/32"}, "routes")
    outcome, _ = an_agent(host, carrier).call(configure, wish)
    holds(outcome.sessions_lost, "a new program has no sessions")
    looks_as_wished(host, wish)


@_only("Userspace")
def a_program_that_keeps_ending_is_held_back(carrier: Carrier) -> None:
    host = make_host()
    agent = an_agent(host, carrier)
    agent.call(configure, a_wish(a_peer(2)))
    for _ in range(2):
        os.kill(agent.call(carrier_pid), signal.SIGKILL)
        agent.call(repair_when_lost)
    os.kill(agent.call(carrier_pid), signal.SIGKILL)
    error = refusal(lambda: agent.call(repair_at_once_when_gone))
    equal((error.kind, "keeps ending" in error.text), ("WireGuardUnavailable", True), error.text)
    agent.call(repair_when_lost)
    looks_as_wished(host, a_wish(a_peer(2)))


@_only("Userspace")
def a_machine_without_tun_says_what_to_do(carrier: Carrier) -> None:
    agent = make_host().agent(partial(open_without_tun, carrier.binary))
    error = refusal(lambda: agent.call(configure, a_wish(a_peer(2))))
    equal((error.kind, "/dev/net/tun" in error.text, "modprobe tun" in error.text),
          ("WireGuardUnavailable", True, True), error.text)  # fmt: skip


@_only("Userspace")
def auto_without_a_kernel_module_takes_user_space(carrier: Carrier) -> None:
    agent = make_host().agent(nothing)
    equal(agent.call(open_again, "Auto", carrier.binary), "Userspace", "kind")
    agent.call(hide_programs)
    error = refusal(lambda: agent.call(open_again, "Auto", None))
    equal(
        (error.kind, "modprobe wireguard" in error.text, "install it" in error.text),
        ("WireGuardUnavailable", True, True),
        error.text,
    )
    error = refusal(lambda: agent.call(open_again, "Userspace", "/bin/true"))
    equal((error.kind, "--userspace-binary '/bin/true': is not wireguard-go" in error.text),
          ("InvalidSpec", True), error.text)  # fmt: skip
    error = refusal(lambda: agent.call(open_again, "Userspace", "/nonexistent"))
    equal(error.text, "--userspace-binary '/nonexistent': there is no such program", "text")
