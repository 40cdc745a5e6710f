"""WireGuard's configuration protocol as text."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest

from wesher_agent.mesh.device import Endpoint
from wesher_agent.netlink.errors import MalformedReply
from wesher_agent.wireguard import uapi
from wesher_agent.wireguard.plan import DeviceChange, ObservedPeer, PeerChange, PeerSession
from wesher_common.keys import WireGuardPrivateKey, WireGuardPublicKey

SECRET = WireGuardPrivateKey.from_random(bytes(range(32)))
PEER = WireGuardPublicKey(b"\x02" * 32)

# As wireguard-go answers (the shape of wireguard.com/xplatform's example).
ANSWER = f"""private_key={SECRET.secret.hex()}
listen_port=12912
fwmark=1
public_key={PEER.raw.hex()}
preshared_key=188515093e952f5f22e865cef3012e72f8b5f0b598ac0309d5dacce3b70fcf52
protocol_version=1
endpoint=[abcd:23::33%2]:51820
last_handshake_time_sec=1700000000
last_handshake_time_nsec=500000000
tx_bytes=38333
rx_bytes=2224
persistent_keepalive_interval=111
allowed_ip=192.168.4.4/32
allowed_ip=fd00::/64
public_key={"03" * 32}
preshared_key={"00" * 32}
last_handshake_time_sec=0
last_handshake_time_nsec=0
something_new=1
errno=0

""".encode()


def test_an_answer_is_read() -> None:
    device = uapi.parse_get(ANSWER)
    assert (device.public_key, device.listen_port, device.fwmark) == (SECRET.public, 12912, 1)
    assert device.peers[PEER] == ObservedPeer(
        PEER,
        endpoint=Endpoint(IPv6Address("abcd:23::33%2"), 51820),
        allowed_ips=frozenset({IPv4Network("192.168.4.4/32"), IPv6Network("fd00::/64")}),
        persistent_keepalive=111,
        last_handshake=1_700_000_000.5,
        rx_bytes=2224,
        tx_bytes=38333,
        has_preshared_key=True,
    )
    assert device.peers[WireGuardPublicKey(b"\x03" * 32)] == ObservedPeer(WireGuardPublicKey(b"\x03" * 32))


def test_a_look_at_the_sessions_reads_no_settings() -> None:
    other = WireGuardPublicKey(b"\x03" * 32)
    unread = ANSWER.replace(b"allowed_ip=192.168.4.4/32", b"allowed_ip=not read")
    assert uapi.parse_sessions(unread) == {
        PEER: PeerSession(
            PEER,
            endpoint=Endpoint(IPv6Address("abcd:23::33%2"), 51820),
            last_handshake=1_700_000_000.5,
            rx_bytes=2224,
            tx_bytes=38333,
        ),
        other: PeerSession(other),
    }


def test_a_device_without_a_key_is_read() -> None:
    assert uapi.parse_get(b"errno=0\n\n").public_key is None


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"errno=0\nlisten_port\n\n", "a line has no '='"),
        (b"listen_port=70000\nerrno=0\n\n", "listen_port is out of range"),
        (b"listen_port=x\nerrno=0\n\n", "listen_port is not a number"),
        (b"listen_port=" + b"9" * 5000 + b"\nerrno=0\n\n", "listen_port is not a number"),
        (b"allowed_ip=10.0.0.0/8\nerrno=0\n\n", "allowed_ip before any public_key"),
        (b"public_key=zz\nerrno=0\n\n", "public_key is not hex"),
        (b"public_key=0011\nerrno=0\n\n", "public_key of 2 bytes"),
        (b"public_key=" + b"02" * 32 + b"\nendpoint=nowhere\nerrno=0\n\n", "not an address and port"),
        (b"public_key=" + b"02" * 32 + b"\nallowed_ip=10.0.0.1/8\nerrno=0\n\n", "ip is not a network"),
        (b"listen_port=1\n\n", "its answer to get has no errno"),
        (b"errno=-5\n\n", "get failed with error -5"),
        (b"\xff\n\n", "its answer is not ASCII"),
    ],
)
def test_a_malformed_answer_is_refused(answer: bytes, reason: str) -> None:
    with pytest.raises(MalformedReply, match=reason):
        uapi.parse_get(answer)


def test_an_answer_beyond_all_measure_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = b"errno=0\n\n"
    monkeypatch.setattr(uapi, "MAX_REPLY", len(answer))
    assert uapi.parse_set(answer) == 0
    with pytest.raises(MalformedReply, match="an answer of 10 bytes"):
        uapi.parse_set(answer + b"\n")


def test_an_error_repeats_no_secret() -> None:
    with pytest.raises(MalformedReply) as raised:
        uapi.parse_get(f"private_key={SECRET.secret.hex()}00\nerrno=0\n\n".encode())
    assert SECRET.secret.hex() not in str(raised.value)


@pytest.mark.parametrize(
    ("answer", "number"), [(b"errno=0\n\n", 0), (b"errno=-98\n\n", 98), (b"errno=22\n\n", 22)]
)
def test_the_result_of_a_change_is_a_positive_error_number(answer: bytes, number: int) -> None:
    assert uapi.parse_set(answer) == number


@pytest.mark.parametrize("answer", [b"\n\n", b"error=0\n\n", b"errno=\n\n", b"errno=1e3\n\n"])
def test_a_change_answered_with_nonsense_is_refused(answer: bytes) -> None:
    with pytest.raises(MalformedReply):
        uapi.parse_set(answer)


def test_a_change_becomes_one_request() -> None:
    change = DeviceChange(
        private_key=SECRET,
        listen_port=51820,
        fwmark=0,
        peers=(
            PeerChange(
                PEER,
                create=True,
                endpoint=Endpoint(IPv4Address("1.2.3.4"), 5),
                persistent_keepalive=9,
                allowed_ips=(IPv4Network("10.0.0.2/32"),),
            ),
            PeerChange(PEER, clear_preshared_key=True, allowed_ips=()),
            PeerChange(PEER, remove=True),
        ),
    )
    assert uapi.render_set(change).decode().split("\n") == [
        "set=1",
        f"private_key={SECRET.secret.hex()}",
        "listen_port=51820",
        "fwmark=0",
        f"public_key={'02' * 32}",
        "endpoint=1.2.3.4:5",
        "persistent_keepalive_interval=9",
        "replace_allowed_ips=true",
        "allowed_ip=10.0.0.2/32",
        f"public_key={'02' * 32}",
        "update_only=true",
        f"preshared_key={'00' * 32}",
        "replace_allowed_ips=true",
        f"public_key={'02' * 32}",
        "remove=true",
        "",
        "",
    ]


def test_an_empty_change_is_no_request() -> None:
    assert uapi.render_set(DeviceChange()) == b""


DIFFERENCE = PeerChange(
    PEER,
    allowed_ips=(IPv4Network("10.0.0.2/32"), IPv4Network("10.2.0.0/24")),
    add_allowed_ips=(IPv4Network("10.2.0.0/24"),),
    remove_allowed_ips=(IPv4Network("10.3.0.0/24"),),
)


def test_only_the_allowed_ips_that_differ_are_sent_where_single_ones_can_be_removed() -> None:
    change = DeviceChange(peers=(DIFFERENCE,))
    assert uapi.render_set(change).decode().split("\n")[2:-2] == [
        "update_only=true",
        "allowed_ip=10.2.0.0/24",
        "allowed_ip=-10.3.0.0/24",
    ]
    assert uapi.render_set(change, removes_single=False).decode().split("\n")[2:-2] == [
        "update_only=true",
        "replace_allowed_ips=true",
        "allowed_ip=10.0.0.2/32",
        "allowed_ip=10.2.0.0/24",
    ]


def test_allowed_ips_are_added_without_replacing_whatever_wireguard_can_remove() -> None:
    change = DeviceChange(peers=(replace(DIFFERENCE, remove_allowed_ips=()),))
    for removes_single in (True, False):
        lines = uapi.render_set(change, removes_single=removes_single).decode().split("\n")
        assert lines[2:-2] == ["update_only=true", "allowed_ip=10.2.0.0/24"]
