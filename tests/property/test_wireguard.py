"""Whatever is wished and whatever is there: the plan gets from one to the other."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network, ip_interface

from hypothesis import given, settings
from hypothesis import strategies as st

from wesher_agent.mesh.device import DeviceConfig, Endpoint, Peer
from wesher_agent.netlink.errors import MalformedReply
from wesher_agent.netlink.messages import parse_messages
from wesher_agent.netlink.route_messages import parse_route
from wesher_agent.wireguard import uapi
from wesher_agent.wireguard.plan import (
    Change,
    DeviceChange,
    Observed,
    ObservedDevice,
    ObservedLink,
    ObservedPeer,
    needs_sessions,
    plan,
    plan_next,
)
from wesher_agent.wireguard.wireguard_messages import pack_set, parse_device, parse_sessions
from wesher_common.keys import WireGuardPrivateKey, WireGuardPublicKey
from wesher_common.overlay import IPNetwork

NOW = 1_000_000.0
OVERLAY = IPv4Network("10.0.0.0/24")
OTHER_MESH = IPv4Network("10.99.0.0/16")
"""Of the same host."""
PRIVATE = [WireGuardPrivateKey.from_random(bytes([number]) * 32) for number in (1, 2)]

keys = st.integers(1, 6).map(lambda number: WireGuardPublicKey(bytes([number]) * 32))
networks = st.integers(0, 9).map(lambda number: IPv4Network((int(OVERLAY[0]) + number, 32)))
endpoints = st.builds(Endpoint, st.integers(1, 3).map(IPv4Address), st.sampled_from([1, 65535]))
keepalives = st.sampled_from([0, 25])
covers = st.sampled_from([(), (OVERLAY,)]) | st.sets(networks).map(lambda chosen: tuple(sorted(chosen)))


@st.composite
def wishes(draw: st.DrawFn) -> DeviceConfig:
    """Draw a wish as `desired` makes it: sorted, and no network in two peers."""
    free = draw(st.lists(networks, unique=True))
    peers = []
    for key in sorted(draw(st.sets(keys))):
        own = [free.pop() for _ in range(min(len(free), draw(st.integers(0, 3))))]
        announced = draw(st.none() | endpoints)
        proven = draw(st.none() | endpoints)
        peers.append(
            Peer(
                key,
                announced,
                tuple(sorted(own)),
                persistent_keepalive=draw(keepalives),
                proven=None if announced is None or proven == announced else proven,
            )
        )
    return DeviceConfig(
        interface="wg0",
        private_key=draw(st.sampled_from(PRIVATE)),
        listen_port=draw(st.sampled_from([1, 51820])),
        address=draw(st.sampled_from([OVERLAY[200], OVERLAY[201]])),
        overlay=OVERLAY,
        mtu=draw(st.sampled_from([1280, 1420])),
        peers=tuple(peers),
        unreachable=draw(covers),
    )


@st.composite
def observations(draw: st.DrawFn) -> Observed:
    """Draw a device in any state, edited by whatever hand."""
    owner = draw(st.dictionaries(networks, keys))
    peers = {
        key: ObservedPeer(
            key,
            endpoint=draw(st.none() | endpoints),
            allowed_ips=frozenset(net for net, holder in owner.items() if holder == key),
            persistent_keepalive=draw(keepalives),
            last_handshake=draw(st.sampled_from([None, NOW - 10, NOW - 1000])),
            has_preshared_key=draw(st.booleans()),
        )
        for key in draw(st.sets(keys))
    }
    routes = draw(st.frozensets(networks))
    device = ObservedDevice(
        public_key=draw(st.sampled_from([None, *(key.public for key in PRIVATE)])),
        listen_port=draw(st.sampled_from([0, 1, 51820])),
        fwmark=draw(st.sampled_from([0, 7])),
        peers=peers,
    )
    link = ObservedLink(
        mtu=draw(st.sampled_from([1280, 1420, 9000])),
        up=draw(st.booleans()),
        addresses=draw(
            st.frozensets(st.sampled_from([ip_interface("10.0.0.200"), ip_interface("9.9.9.9/8")]))
        ),
        routes=routes,
        own_routes=frozenset(net for net in routes if draw(st.booleans())),
        unreachable=draw(st.frozensets(st.sampled_from([OVERLAY, OTHER_MESH]) | networks)),
    )
    return Observed(device, link)


@dataclass
class Model:
    """A device as WireGuard's documents describe it, independent of how changes are planned."""

    observed: Observed
    peers: dict[WireGuardPublicKey, ObservedPeer] = field(init=False)

    def __post_init__(self) -> None:
        self.peers = dict(self.observed.device.peers)

    def apply(self, change: Change) -> Observed:
        """Return what there is after the change; an allowed IP leaves whoever had it."""
        for sent in change.device.peers:
            if sent.remove:
                self.peers.pop(sent.public_key, None)
                continue
            if sent.public_key not in self.peers:
                if not sent.create:
                    continue
                self.peers[sent.public_key] = ObservedPeer(sent.public_key)
            peer = self.peers[sent.public_key]
            if sent.clear_preshared_key:
                peer = replace(peer, has_preshared_key=False)
            if sent.endpoint is not None:
                peer = replace(peer, endpoint=sent.endpoint)
            if sent.persistent_keepalive is not None:
                peer = replace(peer, persistent_keepalive=sent.persistent_keepalive)
            self.peers[sent.public_key] = peer
            if sent.add_allowed_ips or sent.remove_allowed_ips:
                left = self.peers[sent.public_key].allowed_ips.difference(sent.remove_allowed_ips)
                self._give(sent.public_key, left.union(sent.add_allowed_ips))
            elif sent.allowed_ips is not None:
                self._give(sent.public_key, frozenset(sent.allowed_ips))
        device, link = change.device, change.link
        was, net = self.observed.device, self.observed.link
        return Observed(
            ObservedDevice(
                public_key=device.private_key.public if device.private_key else was.public_key,
                listen_port=was.listen_port if device.listen_port is None else device.listen_port,
                fwmark=was.fwmark if device.fwmark is None else device.fwmark,
                peers=self.peers,
            ),
            ObservedLink(
                mtu=net.mtu if link.mtu is None else link.mtu,
                up=net.up or link.up,
                addresses=net.addresses.union(link.add_addresses).difference(link.remove_addresses),
                routes=net.routes.union(link.add_routes).difference(link.remove_routes),
                own_routes=net.own_routes.union(link.add_routes).difference(link.remove_routes),
                unreachable=net.unreachable.union(link.add_unreachable).difference(link.remove_unreachable),
            ),
        )

    def _give(self, key: WireGuardPublicKey, wanted: frozenset[IPNetwork]) -> None:
        for other, peer in self.peers.items():
            self.peers[other] = replace(peer, allowed_ips=peer.allowed_ips - wanted)
        self.peers[key] = replace(self.peers[key], allowed_ips=wanted)


@settings(deadline=None, max_examples=80)
@given(wishes(), observations())
def test_a_plan_reaches_the_wish_and_a_second_one_is_empty(wish: DeviceConfig, before: Observed) -> None:
    reached = Model(before).apply(plan(wish, before, now=NOW))
    assert not plan(wish, reached, now=NOW)
    assert reached.device.public_key == wish.private_key.public
    assert {key: peer.allowed_ips for key, peer in reached.device.peers.items()} == {
        peer.public_key: frozenset(peer.allowed_ips) for peer in wish.peers
    }
    for peer in wish.peers:
        there = reached.device.peers[peer.public_key]
        known = before.device.peers.get(peer.public_key)
        learned = known is not None and known.last_handshake == NOW - 10 and known.endpoint is not None
        assert learned or peer.endpoint is None or there.endpoint in {peer.endpoint, peer.proven}
    assert set(wish.routes) <= reached.link.routes
    assert reached.link.addresses == {ip_interface(wish.address)}
    assert reached.link.unreachable - {OTHER_MESH} == {*wish.unreachable}
    assert OTHER_MESH not in before.link.unreachable - reached.link.unreachable


@settings(deadline=None, max_examples=80)
@given(wishes(), wishes(), observations())
def test_the_next_change_from_a_wish_is_as_good_as_a_look(
    first: DeviceConfig, second: DeviceConfig, start: Observed
) -> None:
    reached = Model(start).apply(plan(first, start, now=NOW))
    change = plan_next(first, second, reached.device.peers, now=NOW)
    left = plan(second, Model(reached).apply(change), now=NOW)
    assert not left.link
    assert not left.device.peers


@settings(deadline=None, max_examples=80)
@given(wishes(), wishes(), observations())
def test_sessions_are_read_again_only_for_endpoints_without_proof(
    first: DeviceConfig, second: DeviceConfig, start: Observed
) -> None:
    reached = Model(start).apply(plan(first, start, now=NOW))
    sessions = reached.device.peers
    former = {peer.public_key: (peer.endpoint, peer.proven) for peer in first.peers}
    moved = [
        peer.public_key
        for peer in second.peers
        if peer.public_key in former and former[peer.public_key] != (peer.endpoint, peer.proven)
    ]
    assert needs_sessions(first, second, sessions, now=NOW) == any(
        not sessions[key].has_fresh_handshake(now=NOW) for key in moved
    )


@settings(deadline=None, max_examples=60)
@given(observations())
def test_a_device_survives_both_protocols(observed: Observed) -> None:
    """What either backend is told to set reads back as it was meant."""
    wish = DeviceConfig(
        interface="wg0",
        private_key=PRIVATE[0],
        listen_port=51820,
        address=OVERLAY[1],
        overlay=OVERLAY,
        mtu=1420,
        peers=tuple(
            Peer(key, peer.endpoint, tuple(sorted(peer.allowed_ips)), peer.persistent_keepalive)
            for key, peer in sorted(observed.device.peers.items())
        ),
        unreachable=(OVERLAY,),
    )
    change = plan(wish, Observed(ObservedDevice(), observed.link), now=NOW).device
    request = uapi.render_set(change).removeprefix(b"set=1\n").replace(b"replace_allowed_ips=true\n", b"")
    spoken = uapi.parse_get(request.removesuffix(b"\n") + b"errno=0\n\n")
    packed = parse_device([memoryview(body) for body in pack_set("wg0", change, limit=400)])
    assert spoken.peers == packed.peers
    assert {(key, peer.endpoint, peer.allowed_ips) for key, peer in spoken.peers.items()} == {
        (peer.public_key, peer.endpoint, frozenset(peer.allowed_ips)) for peer in wish.peers
    }


_WORDS = st.sampled_from(
    ["public_key", "endpoint", "allowed_ip", "listen_port", "private_key", "errno", "rx_bytes", "x", ""]
)
_VALUES = st.one_of(
    st.text(max_size=30),
    st.sampled_from(["00" * 32, "1.2.3.4:5", "[::1]:5", "10.0.0.0/8", "0", "-1", "9" * 40, "\u0661"]),
)
_ANSWERS = st.lists(st.tuples(_WORDS, _VALUES).map("=".join), max_size=8).map(
    lambda lines: "\n".join([*lines, "errno=0", "", ""]).encode()
)


@settings(deadline=None, max_examples=200)
@given(_ANSWERS | st.binary(max_size=200))
def test_no_answer_of_wireguard_go_raises_anything_else(answer: bytes) -> None:
    for parse in (uapi.parse_get, uapi.parse_set, uapi.parse_sessions):
        with suppress(MalformedReply):
            parse(answer)


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=200), st.integers(0, 199), st.integers(0, 255))
def test_no_answer_of_the_kernel_raises_anything_else(junk: bytes, at: int, value: int) -> None:
    change = DeviceChange(listen_port=5, peers=plan(_A_WISH, _NOTHING, now=NOW).device.peers)
    damaged = bytearray(pack_set("wg0", change)[0])
    damaged[at % len(damaged)] = value
    for data in (junk, bytes(damaged)):
        for parse in (
            lambda data: parse_device([memoryview(data)]),
            lambda data: parse_sessions([memoryview(data)]),
            lambda data: parse_route(memoryview(data)),
            lambda data: [message.errno for message in parse_messages(data)],
        ):
            with suppress(MalformedReply):
                parse(data)


_NOTHING = Observed(ObservedDevice(), ObservedLink(mtu=1420, up=False))
_A_WISH = DeviceConfig(
    interface="wg0",
    private_key=PRIVATE[0],
    listen_port=51820,
    address=OVERLAY[1],
    overlay=OVERLAY,
    mtu=1420,
    peers=(
        Peer(
            WireGuardPublicKey(b"\x05" * 32),
            Endpoint(IPv4Address("1.2.3.4"), 5),
            (IPv4Network("10.0.0.2/32"), IPv4Network("10.9.0.0/16")),
        ),
    ),
    unreachable=(OVERLAY,),
)
