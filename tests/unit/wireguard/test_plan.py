"""The smallest change between a wish and a device."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, ip_interface, ip_network
from typing import Any

import pytest

from wesher_agent.mesh.device import DeviceConfig, Endpoint, Peer
from wesher_agent.wireguard.plan import (
    DeviceChange,
    LinkChange,
    Observed,
    ObservedDevice,
    ObservedLink,
    ObservedPeer,
    PeerChange,
    PeerSession,
    fulfilled,
    needs_sessions,
    plan,
    plan_next,
)
from wesher_common.keys import WireGuardPrivateKey, WireGuardPublicKey

NOW = 1_000_000.0
OURS = WireGuardPrivateKey.from_random(bytes(range(32)))
EMPTY = Observed(ObservedDevice(), ObservedLink(mtu=1420, up=False))


def key(number: int) -> WireGuardPublicKey:
    return WireGuardPublicKey(bytes([number]) * 32)


def endpoint(number: int, port: int = 51820) -> Endpoint:
    return Endpoint(IPv4Address(f"198.51.100.{number}"), port)


def peer(number: int, *networks: str, **other: Any) -> Peer:
    allowed = tuple(ip_network(net) for net in networks or (f"10.189.0.{number}/32",))
    return Peer(**{"public_key": key(number), "endpoint": endpoint(number), "allowed_ips": allowed, **other})


def wish(*peers: Peer, **other: Any) -> DeviceConfig:
    values: dict[str, Any] = {
        "interface": "wgoverlay",
        "private_key": OURS,
        "listen_port": 51820,
        "address": IPv4Address("10.189.0.1"),
        "overlay": IPv4Network("10.189.0.0/16"),
        "mtu": 1420,
        "peers": peers,
        "unreachable": (IPv4Network("10.189.0.0/16"),),
    }
    return DeviceConfig(**{**values, **other})


def with_peer(observed: Observed, changed: ObservedPeer) -> Observed:
    peers = {**observed.device.peers, changed.public_key: changed}
    return replace(observed, device=replace(observed.device, peers=peers))


def test_an_empty_device_gets_everything() -> None:
    change = plan(wish(peer(2, persistent_keepalive=25)), EMPTY, now=NOW)
    assert change.device == DeviceChange(
        private_key=OURS,
        listen_port=51820,
        peers=(
            PeerChange(
                key(2),
                create=True,
                endpoint=endpoint(2),
                persistent_keepalive=25,
                allowed_ips=(IPv4Network("10.189.0.2/32"),),
            ),
        ),
    )
    assert change.link == LinkChange(
        up=True,
        add_addresses=(ip_interface("10.189.0.1/32"),),
        add_routes=(IPv4Network("10.189.0.2/32"),),
        add_unreachable=(IPv4Network("10.189.0.0/16"),),
    )


def test_a_device_as_wished_gets_nothing() -> None:
    config = wish(peer(2), peer(3))
    assert not plan(config, fulfilled(config), now=NOW)


def test_a_stale_peer_goes_last_and_with_its_route() -> None:
    """Its address may have a new owner, who must not wait for it."""
    change = plan(wish(peer(3, "10.189.0.2/32")), fulfilled(wish(peer(2))), now=NOW)
    assert [(sent.public_key, sent.remove) for sent in change.device.peers] == [
        (key(3), False),
        (key(2), True),
    ]
    assert not change.link
    change = plan(wish(), fulfilled(wish(peer(2))), now=NOW)
    assert change.link == LinkChange(remove_routes=(IPv4Network("10.189.0.2/32"),))


def test_only_what_differs_about_a_peer_is_sent() -> None:
    before = fulfilled(wish(peer(2)))
    grown = plan(wish(peer(2, "10.189.0.2/32", "10.3.0.0/24")), before, now=NOW)
    assert grown.device.peers == (
        PeerChange(
            key(2),
            allowed_ips=(IPv4Network("10.189.0.2/32"), IPv4Network("10.3.0.0/24")),
            add_allowed_ips=(IPv4Network("10.3.0.0/24"),),
        ),
    )
    kept_alive = plan(wish(peer(2, persistent_keepalive=5)), before, now=NOW)
    assert kept_alive.device.peers == (PeerChange(key(2), persistent_keepalive=5),)
    silenced = plan(wish(peer(2)), fulfilled(wish(peer(2, persistent_keepalive=5))), now=NOW)
    assert silenced.device.peers == (PeerChange(key(2), persistent_keepalive=0),)


def test_a_learned_endpoint_stays_while_its_handshake_is_fresh() -> None:
    config = wish(peer(2))
    roamed = ObservedPeer(
        key(2),
        endpoint=endpoint(99),
        allowed_ips=frozenset({IPv4Network("10.189.0.2/32")}),
        last_handshake=NOW - 179,
    )
    observed = with_peer(fulfilled(config), roamed)
    assert not plan(config, observed, now=NOW)
    back_home = PeerChange(key(2), endpoint=endpoint(2))
    assert plan(config, observed, now=NOW + 1).device.peers == (back_home,)
    never_met = with_peer(observed, replace(roamed, last_handshake=None))
    assert plan(config, never_met, now=NOW).device.peers == (back_home,)
    clock_set_back_a_year = plan(config, observed, now=NOW - 365 * 86400)
    assert clock_set_back_a_year.device.peers == (back_home,)


def test_a_new_peer_begins_where_an_earlier_handshake_proved_it_to_be() -> None:
    config = wish(peer(2, proven=endpoint(9)))
    assert plan(config, EMPTY, now=NOW).device.peers[0].endpoint == endpoint(9)
    assert not plan(config, fulfilled(config), now=NOW)


@pytest.mark.parametrize("there", [endpoint(2), endpoint(9)])
def test_a_peer_without_a_session_stays_at_the_announced_or_the_proven_endpoint(there: Endpoint) -> None:
    config = wish(peer(2, proven=endpoint(9)))
    tried = replace(fulfilled(config).device.peers[key(2)], endpoint=there)
    assert not plan(config, with_peer(fulfilled(config), tried), now=NOW)
    elsewhere = replace(tried, endpoint=endpoint(3))
    assert plan(config, with_peer(fulfilled(config), elsewhere), now=NOW).device.peers == (
        PeerChange(key(2), endpoint=endpoint(9)),
    )


def test_another_announcement_does_not_move_a_peer_from_where_it_was_proven_to_be() -> None:
    """Whether a session is fresh or not: without one `endpoint_trials` moves it, and back again."""
    before, after = (wish(peer(2, endpoint=endpoint(at), proven=endpoint(9))) for at in (2, 3))
    session = PeerSession(key(2), endpoint=endpoint(9))
    assert needs_sessions(before, after, {key(2): session}, now=NOW)
    assert not plan_next(before, after, {key(2): session}, now=NOW)


def test_a_peer_that_is_proven_elsewhere_now_is_looked_at_before_it_is_moved() -> None:
    """The device has learned the new endpoint; what was last read of it may be older."""
    before, after = wish(peer(2, proven=endpoint(9))), wish(peer(2))
    assert needs_sessions(before, after, {}, now=NOW)
    session = PeerSession(key(2), endpoint=endpoint(2), last_handshake=NOW)
    assert not plan_next(before, after, {key(2): session}, now=NOW)


def test_a_peer_without_a_known_endpoint_keeps_the_one_it_has() -> None:
    config = wish(peer(2, endpoint=None))
    learned = replace(fulfilled(config).device.peers[key(2)], endpoint=endpoint(9))
    assert not plan(config, with_peer(fulfilled(config), learned), now=NOW)


def test_settings_of_another_hand_are_put_back() -> None:
    config = wish(peer(2))
    observed = fulfilled(config)
    edited = replace(observed.device.peers[key(2)], has_preshared_key=True)
    device = replace(with_peer(observed, edited).device, listen_port=9, fwmark=7, public_key=key(8))
    change = plan(config, replace(observed, device=device), now=NOW)
    assert change.device == DeviceChange(
        private_key=OURS,
        listen_port=51820,
        fwmark=0,
        peers=(PeerChange(key(2), clear_preshared_key=True),),
    )


def test_foreign_addresses_go_and_foreign_routes_stay() -> None:
    config = wish(peer(2))
    observed = fulfilled(config)
    link = replace(
        observed.link,
        addresses=observed.link.addresses | {ip_interface("10.1.0.1/24")},
        routes=observed.link.routes | {IPv4Network("10.44.0.0/16")},
    )
    change = plan(config, replace(observed, link=link), now=NOW)
    assert change.link == LinkChange(remove_addresses=(ip_interface("10.1.0.1/24"),))


def test_a_foreign_route_into_the_device_serves_while_it_is_wished() -> None:
    config = wish(peer(2))
    observed = fulfilled(config)
    link = replace(observed.link, own_routes=frozenset())
    assert not plan(config, replace(observed, link=link), now=NOW)
    assert not plan(wish(), replace(fulfilled(wish()), link=link), now=NOW).link


def test_only_our_own_unreachable_route_is_removed() -> None:
    """Another mesh of the host keeps its own; ours is known by our address, even a former one."""
    config = wish(unreachable=())
    other, former = IPv4Network("10.99.0.0/16"), IPv4Network("10.77.0.0/16")
    link = ObservedLink(
        mtu=1420,
        up=True,
        addresses=frozenset({ip_interface("10.189.0.1/32"), ip_interface("10.77.0.1/32")}),
        unreachable=frozenset({config.overlay, other, former}),
    )
    change = plan(config, replace(fulfilled(config), link=link), now=NOW)
    assert change.link.remove_unreachable == (former, config.overlay)


def test_host_addresses_that_need_no_cover_any_more_are_uncovered() -> None:
    """Those that are observed are this device's: another mesh's have another metric."""
    seven, nine = IPv4Network("10.189.0.7/32"), IPv4Network("10.189.0.9/32")
    before = wish(unreachable=(seven,))
    look = plan(wish(unreachable=(nine,)), fulfilled(before), now=NOW)
    assert look.link == LinkChange(add_unreachable=(nine,), remove_unreachable=(seven,))
    assert plan_next(before, wish(unreachable=(nine,)), {}, now=NOW) == look
    narrowed = plan(wish(unreachable=(nine,)), fulfilled(wish()), now=NOW)
    whole = IPv4Network("10.189.0.0/16")
    assert narrowed.link == LinkChange(add_unreachable=(nine,), remove_unreachable=(whole,))


def test_the_next_change_is_about_the_peers_that_differ() -> None:
    before, now = wish(peer(2), peer(3), peer(4)), wish(peer(3), peer(4, "10.4.0.0/24"), peer(5))
    change = plan_next(before, now, {}, now=NOW)
    assert change == plan(now, fulfilled(before), now=NOW)
    assert {sent.public_key for sent in change.device.peers} == {key(2), key(4), key(5)}


def test_another_endpoint_is_decided_with_the_handshakes_last_read() -> None:
    before, after = wish(peer(2), peer(3)), wish(peer(2, endpoint=endpoint(7)), peer(3))
    proven = {key(2): PeerSession(key(2), endpoint(2), last_handshake=NOW - 179)}
    assert not needs_sessions(before, after, proven, now=NOW)
    assert not plan_next(before, after, proven, now=NOW)
    for never_or_long_ago in (None, NOW - 180):
        sessions = {key(2): PeerSession(key(2), endpoint(2), last_handshake=never_or_long_ago)}
        assert needs_sessions(before, after, sessions, now=NOW), "it may have had one since"
        change = plan_next(before, after, sessions, now=NOW)
        assert change.device.peers == (PeerChange(key(2), endpoint=endpoint(7)),)
    assert needs_sessions(before, after, {}, now=NOW)


def test_no_session_is_read_for_a_change_of_anything_else() -> None:
    before, after = wish(peer(2), peer(3)), wish(peer(2, "10.4.0.0/24"), peer(4), listen_port=7)
    assert not needs_sessions(before, after, {}, now=NOW)


def test_a_roamed_peer_whose_networks_change_keeps_its_endpoint() -> None:
    before, after = wish(peer(2)), wish(peer(2, "10.4.0.0/24"))
    long_ago = {key(2): PeerSession(key(2), endpoint(99), last_handshake=NOW - 1000)}
    (change,) = plan_next(before, after, long_ago, now=NOW).device.peers
    assert change.endpoint is None


def test_the_private_key_shows_in_no_repr() -> None:
    change = plan(wish(), EMPTY, now=NOW)
    assert change.device.private_key == OURS
    for secret in (OURS.secret.hex(), OURS.reveal_base64(), repr(OURS.secret)):
        assert secret not in repr(change)


def test_a_network_that_moves_is_given_to_its_new_peer_and_taken_from_nobody() -> None:
    """WireGuard takes it from the former peer by that, so that it has an owner at each moment."""
    before = fulfilled(wish(peer(2, "10.189.0.2/32", "10.2.0.0/24"), peer(3)))
    moved = plan(wish(peer(2), peer(3, "10.189.0.3/32", "10.2.0.0/24")), before, now=NOW)
    assert moved.device.peers == (
        PeerChange(
            key(3),
            allowed_ips=(IPv4Network("10.189.0.3/32"), IPv4Network("10.2.0.0/24")),
            add_allowed_ips=(IPv4Network("10.2.0.0/24"),),
        ),
    )
    gone = plan(wish(peer(2), peer(3)), before, now=NOW)
    assert gone.device.peers == (
        PeerChange(
            key(2),
            allowed_ips=(IPv4Network("10.189.0.2/32"),),
            remove_allowed_ips=(IPv4Network("10.2.0.0/24"),),
        ),
    )
