"""The kernel's WireGuard messages, byte by byte."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest

from wesher_agent.mesh.device import Endpoint
from wesher_agent.netlink.errors import MalformedReply
from wesher_agent.netlink.messages import NLA_F_NESTED, pack_attribute
from wesher_agent.wireguard.plan import DeviceChange, ObservedDevice, ObservedPeer, PeerChange, PeerSession
from wesher_agent.wireguard.wireguard_messages import (
    MESSAGE_LIMIT,
    pack_get,
    pack_set,
    parse_device,
    parse_sessions,
)
from wesher_common.keys import WireGuardPrivateKey, WireGuardPublicKey

SECRET = WireGuardPrivateKey.from_random(bytes(range(32)))
KEY = WireGuardPublicKey(b"\x02" * 32)
HEAD = bytes((0, 1, 0, 0))


def nested(kind: int, *attributes: bytes) -> bytes:
    return pack_attribute(kind | NLA_F_NESTED, b"".join(attributes))


def allowed_ip(family: int, address: bytes, prefix: int) -> bytes:
    return nested(
        0,
        pack_attribute(1, struct.pack("=H", family)),
        pack_attribute(2, address),
        pack_attribute(3, bytes([prefix])),
    )


def many_peers(count: int) -> tuple[PeerChange, ...]:
    return tuple(
        PeerChange(
            WireGuardPublicKey(number.to_bytes(32)),
            create=True,
            endpoint=Endpoint(IPv4Address(number), 51820),
            allowed_ips=(IPv4Network((number, 32)),),
        )
        for number in range(1, count + 1)
    )


def test_asking_for_a_device_names_it() -> None:
    assert pack_get("wg0") == bytes((0, 1, 0, 0)) + struct.pack("=HH4s", 8, 2, b"wg0\0")


def test_an_empty_change_is_no_message() -> None:
    assert pack_set("wg0", DeviceChange()) == []


def test_a_change_is_laid_out_as_the_kernel_reads_it() -> None:
    change = DeviceChange(
        private_key=SECRET,
        listen_port=51820,
        fwmark=0,
        peers=(
            PeerChange(
                KEY,
                create=True,
                endpoint=Endpoint(IPv6Address("2001:db8::1"), 0x1234),
                persistent_keepalive=25,
                allowed_ips=(IPv4Network("10.0.0.2/32"),),
            ),
            PeerChange(KEY, clear_preshared_key=True),
            PeerChange(KEY, remove=True),
        ),
    )
    (body,) = pack_set("wg0", change)
    sockaddr = struct.pack("=H2sI16sI", 10, b"\x12\x34", 0, IPv6Address("2001:db8::1").packed, 0)
    assert body == (
        bytes((1, 1, 0, 0))
        + pack_attribute(2, b"wg0\0")
        + pack_attribute(3, SECRET.secret)
        + pack_attribute(6, struct.pack("=H", 51820))
        + pack_attribute(7, bytes(4))
        + nested(
            8,
            nested(
                0,
                pack_attribute(1, KEY.raw),
                pack_attribute(4, sockaddr),
                pack_attribute(5, struct.pack("=H", 25)),
                pack_attribute(3, struct.pack("=I", 2)),
                nested(9, allowed_ip(2, bytes((10, 0, 0, 2)), 32)),
            ),
            nested(
                0,
                pack_attribute(1, KEY.raw),
                pack_attribute(2, bytes(32)),
                pack_attribute(3, struct.pack("=I", 4)),
            ),
            nested(0, pack_attribute(1, KEY.raw), pack_attribute(3, struct.pack("=I", 1))),
        )
    )


def test_a_thousand_peers_take_two_messages() -> None:
    bodies = pack_set("wg0", DeviceChange(private_key=SECRET, peers=many_peers(1000)))
    assert len(bodies) == 2
    assert all(len(body) <= MESSAGE_LIMIT + 64 for body in bodies)
    assert [SECRET.secret in body for body in bodies] == [True, False]


def test_a_peer_with_very_many_networks_goes_on_in_the_next_message() -> None:
    networks = tuple(IPv4Network((number << 8, 24)) for number in range(5000))
    bodies = pack_set("wg0", DeviceChange(peers=(PeerChange(KEY, create=True, allowed_ips=networks),)))
    assert max(map(len, bodies)) < 1 << 16
    # Only the first may replace what the peer has; the others add to it.
    assert [struct.pack("=HHI", 8, 3, 2) in body for body in bodies] == [True] + [False] * (len(bodies) - 1)
    device = parse_device([memoryview(body) for body in bodies])
    assert device.peers[KEY].allowed_ips == frozenset(networks)


def test_a_dump_is_read() -> None:
    peer = nested(
        0,
        pack_attribute(1, KEY.raw),
        pack_attribute(2, b"\x01" * 32),
        pack_attribute(4, struct.pack("=H2s4s8x", 2, b"\x12\x34", bytes((1, 2, 3, 4)))),
        pack_attribute(5, struct.pack("=H", 7)),
        pack_attribute(6, struct.pack("=qq", 1_700_000_000, 250_000_000)),
        pack_attribute(7, struct.pack("=Q", 11)),
        pack_attribute(8, struct.pack("=Q", 12)),
        nested(9, allowed_ip(2, bytes((10, 0, 0, 0)), 8)),
        pack_attribute(10, struct.pack("=I", 1)),
    )
    rest = nested(0, pack_attribute(1, KEY.raw), nested(9, allowed_ip(10, bytes(16), 0)))
    device = parse_device(
        [
            memoryview(
                HEAD
                + pack_attribute(3, SECRET.secret)
                + pack_attribute(4, SECRET.public.raw)
                + pack_attribute(6, struct.pack("=H", 51820))
                + nested(8, peer)
            ),
            memoryview(HEAD + nested(8, rest)),
        ]
    )
    assert device == ObservedDevice(
        public_key=SECRET.public,
        listen_port=51820,
        peers={
            KEY: ObservedPeer(
                KEY,
                endpoint=Endpoint(IPv4Address("1.2.3.4"), 0x1234),
                allowed_ips=frozenset({IPv4Network("10.0.0.0/8"), IPv6Network("::/0")}),
                persistent_keepalive=7,
                last_handshake=1_700_000_000.25,
                rx_bytes=11,
                tx_bytes=12,
                has_preshared_key=True,
            )
        },
    )


def test_a_look_at_the_sessions_reads_no_settings() -> None:
    peer = nested(
        0,
        pack_attribute(1, KEY.raw),
        pack_attribute(4, struct.pack("=H2s4s8x", 2, b"\x12\x34", bytes((1, 2, 3, 4)))),
        pack_attribute(6, struct.pack("=qq", 1_700_000_000, 250_000_000)),
        pack_attribute(7, struct.pack("=Q", 11)),
        pack_attribute(8, struct.pack("=Q", 12)),
        nested(9, b"not read"),
    )
    rest = nested(0, pack_attribute(1, KEY.raw), nested(9, allowed_ip(10, bytes(16), 0)))
    bodies = [memoryview(HEAD + nested(8, peer)), memoryview(HEAD + nested(8, rest))]
    assert parse_sessions(bodies) == {
        KEY: PeerSession(
            KEY,
            endpoint=Endpoint(IPv4Address("1.2.3.4"), 0x1234),
            last_handshake=1_700_000_000.25,
            rx_bytes=11,
            tx_bytes=12,
        )
    }


def test_a_new_device_has_no_key_and_a_new_peer_no_handshake() -> None:
    peer = nested(0, pack_attribute(1, KEY.raw), pack_attribute(2, bytes(32)), pack_attribute(6, bytes(16)))
    device = parse_device([memoryview(HEAD + pack_attribute(4, bytes(32)) + nested(8, peer))])
    assert device == ObservedDevice(peers={KEY: ObservedPeer(KEY)})


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"\0\1", "without its header"),
        (HEAD + b"\1", "too few for an attribute"),
        (HEAD + struct.pack("=HH", 3, 4), "invalid attribute length 3:"),
        (HEAD + struct.pack("=HH", 40, 4), "invalid attribute length 40:"),
        (HEAD + pack_attribute(4, bytes(31)), "a key has 31 bytes, not 32"),
        (HEAD + pack_attribute(6, bytes(4)), "a number has 4 bytes, not 2"),
        (HEAD + nested(8, nested(0, pack_attribute(5, bytes(2)))), "a peer without a public key"),
        (HEAD + nested(8, nested(0, pack_attribute(1, KEY.raw), pack_attribute(4, bytes(3)))), "an endpoint"),
        (
            HEAD + nested(8, nested(0, pack_attribute(1, KEY.raw), pack_attribute(6, bytes(8)))),
            "handshake time",
        ),
        (
            HEAD + nested(8, nested(0, pack_attribute(1, KEY.raw), nested(9, allowed_ip(2, bytes(4), 33)))),
            "an allowed IP that is not a network",
        ),
    ],
)
def test_a_malformed_dump_is_refused(body: bytes, reason: str) -> None:
    with pytest.raises(MalformedReply, match=reason):
        parse_device([memoryview(body)])


def test_only_the_allowed_ips_that_differ_are_sent_where_single_ones_can_be_removed() -> None:
    difference = PeerChange(
        KEY,
        allowed_ips=(IPv4Network("10.0.0.2/32"), IPv4Network("10.2.0.0/24")),
        add_allowed_ips=(IPv4Network("10.2.0.0/24"),),
        remove_allowed_ips=(IPv4Network("10.3.0.0/24"),),
    )
    change = DeviceChange(peers=(difference,))
    added = allowed_ip(2, bytes((10, 2, 0, 0)), 24)
    removed = nested(
        0,
        pack_attribute(1, struct.pack("=H", 2)),
        pack_attribute(2, bytes((10, 3, 0, 0))),
        pack_attribute(3, bytes([24])),
        pack_attribute(4, struct.pack("=I", 1)),
    )
    kept = allowed_ip(2, bytes((10, 0, 0, 2)), 32)

    def body(flags: int, *networks: bytes) -> bytes:
        peer = nested(
            0,
            pack_attribute(1, KEY.raw),
            pack_attribute(3, struct.pack("=I", flags)),
            nested(9, *networks),
        )
        return bytes((1, 1, 0, 0)) + pack_attribute(2, b"wg0\0") + nested(8, peer)

    assert pack_set("wg0", change) == [body(4, added, removed)]
    assert pack_set("wg0", change, removes_single=False) == [body(6, kept, added)]
