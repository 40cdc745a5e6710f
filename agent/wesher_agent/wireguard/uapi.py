"""WireGuard's cross-platform configuration protocol, as text to values and back.

The form is wireguard.com/xplatform: ``key=value`` lines, keys in lower-case
hex, an empty line at the end. Pure; the socket is left to `userspace`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import ip_address, ip_network

from wesher_agent.mesh.device import Endpoint
from wesher_agent.netlink.errors import MalformedReply
from wesher_agent.wireguard.plan import (
    DeviceChange,
    ObservedDevice,
    ObservedPeer,
    PeerChange,
    PeerSession,
)
from wesher_common.keys import KEY_BYTES, WireGuardPrivateKey, WireGuardPublicKey
from wesher_common.overlay import IPNetwork
from wesher_common.seeds import MAX_PORT

GET = b"get=1\n\n"
END = b"\n\n"
MAX_REPLY = 64 * 1024 * 1024
"""Bytes; ten thousand peers take four million."""

_REMEMBERED = 4096
"""Texts whose meaning is kept: peers have the same addresses at each look, and reading one costs 3 µs."""
_NO_KEY = "0" * (2 * KEY_BYTES)
_MAX_COUNTER = 2**64


def render_set(change: DeviceChange, *, removes_single: bool = True) -> bytes:
    """Return the one request that makes a change; empty when there is nothing to send.

    Args:
        change: the change.
        removes_single: whether wireguard-go removes single allowed IPs (0.0.20250522 and newer).
            Otherwise the peer's whole set is replaced.

    """
    if not change:
        return b""
    lines = ["set=1"]
    if change.private_key is not None:
        lines.append(f"private_key={change.private_key.secret.hex()}")
    if change.listen_port is not None:
        lines.append(f"listen_port={change.listen_port}")
    if change.fwmark is not None:
        lines.append(f"fwmark={change.fwmark}")
    for peer in change.peers:
        lines += _render_peer(peer, removes_single=removes_single)
    return "\n".join(lines).encode() + END


def parse_set(reply: bytes) -> int:
    """Return the positive error number a ``set`` was answered with; 0 is success.

    Raises:
        MalformedReply: the answer is not valid.

    """
    text = _decode(reply)
    key, _, value = text.strip().partition("=")
    if key != "errno":
        raise MalformedReply("wireguard-go: its answer to set has no errno")
    return abs(_integer(key, value, -_MAX_COUNTER, _MAX_COUNTER))


def parse_get(reply: bytes) -> ObservedDevice:
    """Read the answer to `GET`. Unknown keys are skipped, as the protocol asks.

    Raises:
        MalformedReply: a line is not ``key=value``, a value is out of its range,
            a peer's line comes before any peer, or the device reports an error.

    """
    return _parse(reply, ignored=frozenset()).to_device()


def parse_sessions(reply: bytes) -> Mapping[WireGuardPublicKey, PeerSession]:
    """Read of the answer to `GET` only what sessions are made of.

    Raises: as `parse_get`, but for values that are skipped.
    """
    return {parts.public_key: parts.to_session() for parts in _parse(reply, ignored=_SETTINGS).peers}


def _parse(reply: bytes, *, ignored: frozenset[str]) -> _DeviceParts:
    device = _DeviceParts()
    peer: _PeerParts | None = None
    for line in _decode(reply).splitlines():
        if not line:
            continue
        key, equals, value = line.partition("=")
        if key in ignored:
            continue
        if not equals:
            raise MalformedReply("wireguard-go: a line has no '='")
        if key == "public_key":
            peer = _PeerParts(WireGuardPublicKey(_key(key, value)))
            device.peers.append(peer)
        elif key in _PEER_KEYS:
            if peer is None:
                raise MalformedReply(f"wireguard-go: {key} before any public_key")
            _read_peer_line(peer, key, value)
        else:
            _read_device_line(device, key, value)
    if device.errno is None:
        raise MalformedReply("wireguard-go: its answer to get has no errno")
    if device.errno:
        raise MalformedReply(f"wireguard-go: get failed with error {device.errno}")
    return device


@dataclass(slots=True)
class _PeerParts:
    public_key: WireGuardPublicKey
    endpoint: Endpoint | None = None
    persistent_keepalive: int = 0
    handshake_seconds: int = 0
    handshake_nanoseconds: int = 0
    rx_bytes: int = 0
    tx_bytes: int = 0
    has_preshared_key: bool = False
    allowed_ips: list[IPNetwork] = field(default_factory=list)

    @property
    def last_handshake(self) -> float | None:
        return self.handshake_seconds + self.handshake_nanoseconds / 1e9 or None

    def to_session(self) -> PeerSession:
        return PeerSession(
            self.public_key,
            endpoint=self.endpoint,
            last_handshake=self.last_handshake,
            rx_bytes=self.rx_bytes,
            tx_bytes=self.tx_bytes,
        )

    def to_peer(self) -> ObservedPeer:
        return ObservedPeer(
            self.public_key,
            endpoint=self.endpoint,
            allowed_ips=frozenset(self.allowed_ips),
            persistent_keepalive=self.persistent_keepalive,
            last_handshake=self.last_handshake,
            rx_bytes=self.rx_bytes,
            tx_bytes=self.tx_bytes,
            has_preshared_key=self.has_preshared_key,
        )


@dataclass(slots=True)
class _DeviceParts:
    private_key: bytes | None = field(default=None, repr=False)
    listen_port: int = 0
    fwmark: int = 0
    errno: int | None = None
    peers: list[_PeerParts] = field(default_factory=list)

    def to_device(self) -> ObservedDevice:
        return ObservedDevice(
            public_key=None if self.private_key is None else WireGuardPrivateKey(self.private_key).public,
            listen_port=self.listen_port,
            fwmark=self.fwmark,
            peers={parts.public_key: parts.to_peer() for parts in self.peers},
        )


_PEER_KEYS = frozenset(
    {
        "preshared_key",
        "endpoint",
        "persistent_keepalive_interval",
        "allowed_ip",
        "last_handshake_time_sec",
        "last_handshake_time_nsec",
        "rx_bytes",
        "tx_bytes",
    }
)


_SETTINGS = frozenset(
    {
        "private_key",
        "listen_port",
        "fwmark",
        "preshared_key",
        "persistent_keepalive_interval",
        "allowed_ip",
        "protocol_version",
    }
)
"""What a look at the sessions skips unread."""


def _read_device_line(device: _DeviceParts, key: str, value: str) -> None:
    match key:
        case "private_key":
            device.private_key = _key(key, value) if value != _NO_KEY else None
        case "listen_port":
            device.listen_port = _integer(key, value, 0, MAX_PORT)
        case "fwmark":
            device.fwmark = _integer(key, value, 0, 2**32 - 1)
        case "errno":
            device.errno = _integer(key, value, -_MAX_COUNTER, _MAX_COUNTER)


def _read_peer_line(peer: _PeerParts, key: str, value: str) -> None:
    match key:
        case "allowed_ip":
            peer.allowed_ips.append(_network(value))
        case "endpoint":
            peer.endpoint = _endpoint(value)
        case "preshared_key":
            peer.has_preshared_key = any(_key(key, value))
        case "persistent_keepalive_interval":
            peer.persistent_keepalive = _integer(key, value, 0, 65535)
        case "last_handshake_time_sec":
            peer.handshake_seconds = _integer(key, value, 0, 2**63)
        case "last_handshake_time_nsec":
            peer.handshake_nanoseconds = _integer(key, value, 0, 10**9)
        case "rx_bytes":
            peer.rx_bytes = _integer(key, value, 0, _MAX_COUNTER)
        case "tx_bytes":
            peer.tx_bytes = _integer(key, value, 0, _MAX_COUNTER)


def _render_peer(change: PeerChange, *, removes_single: bool) -> list[str]:
    lines = [f"public_key={change.public_key.raw.hex()}"]
    if change.remove:
        return [*lines, "remove=true"]
    if not change.create:
        lines.append("update_only=true")
    if change.clear_preshared_key:
        lines.append(f"preshared_key={_NO_KEY}")
    if change.endpoint is not None:
        lines.append(f"endpoint={change.endpoint}")
    if change.persistent_keepalive is not None:
        lines.append(f"persistent_keepalive_interval={change.persistent_keepalive}")
    if change.replaces_allowed_ips(removes_single=removes_single):
        lines.append("replace_allowed_ips=true")
        lines += (f"allowed_ip={network}" for network in change.allowed_ips or ())
        return lines
    lines += (f"allowed_ip={network}" for network in change.add_allowed_ips)
    lines += (f"allowed_ip=-{network}" for network in change.remove_allowed_ips)
    return lines


def _decode(reply: bytes) -> str:
    if len(reply) > MAX_REPLY:
        raise MalformedReply(f"wireguard-go: an answer of {len(reply)} bytes is too long")
    try:
        return reply.decode("ascii")
    except UnicodeDecodeError as error:
        raise MalformedReply("wireguard-go: its answer is not ASCII") from error


def _key(key: str, value: str) -> bytes:
    # The value may be a private key: it is never repeated.
    try:
        raw = bytes.fromhex(value)
    except ValueError:
        raise MalformedReply(f"wireguard-go: {key} is not hex") from None
    if len(raw) != KEY_BYTES:
        raise MalformedReply(f"wireguard-go: {key} of {len(raw)} bytes")
    return raw


def _integer(key: str, value: str, lowest: int, highest: int) -> int:
    digits = value.removeprefix("-")
    if not digits.isascii() or not digits.isdigit() or len(digits) > len(str(_MAX_COUNTER)):
        raise MalformedReply(f"wireguard-go: {key} is not a number")
    number = int(value)
    if not lowest <= number <= highest:
        raise MalformedReply(f"wireguard-go: {key} is out of range")
    return number


@lru_cache(_REMEMBERED)
def _network(value: str) -> IPNetwork:
    try:
        return ip_network(value)
    except ValueError as error:
        raise MalformedReply("wireguard-go: allowed_ip is not a network") from error


@lru_cache(_REMEMBERED)
def _endpoint(value: str) -> Endpoint:
    host, _, port = value.rpartition(":")
    try:
        address = ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError as error:
        raise MalformedReply("wireguard-go: endpoint is not an address and port") from error
    return Endpoint(address, _integer("endpoint", port, 0, MAX_PORT))
