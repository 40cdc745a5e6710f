"""The kernel's WireGuard messages (linux/wireguard.h): changes to bytes, dumps to values.

Pure. Many peers share a message: a thousand take two of 60 KB, where a message
for each would take a thousand.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from wesher_agent.mesh.device import Endpoint
from wesher_agent.netlink.errors import MalformedReply
from wesher_agent.netlink.messages import (
    AF_INET,
    AF_INET6,
    NLA_F_NESTED,
    pack_attribute,
    parse_attributes,
)
from wesher_agent.wireguard.plan import (
    DeviceChange,
    ObservedDevice,
    ObservedPeer,
    PeerChange,
    PeerSession,
)
from wesher_common.keys import KEY_BYTES, WireGuardPublicKey
from wesher_common.overlay import IPNetwork

FAMILY_NAME = "wireguard"
MESSAGE_LIMIT = 60_000
"""Bytes of one request: a nested attribute's length is 16 bits wide."""

_GET_DEVICE, _SET_DEVICE, _VERSION = 0, 1, 1
_REMOVE_ME, _REPLACE_ALLOWED_IPS, _UPDATE_ONLY = 1, 2, 4


class _Device:
    """``enum wgdevice_attribute``."""

    IFNAME, PRIVATE_KEY, PUBLIC_KEY, LISTEN_PORT, FWMARK, PEERS = 2, 3, 4, 6, 7, 8


class _Peer:
    """``enum wgpeer_attribute``."""

    PUBLIC_KEY, PRESHARED_KEY, FLAGS, ENDPOINT, KEEPALIVE = 1, 2, 3, 4, 5
    LAST_HANDSHAKE, RX_BYTES, TX_BYTES, ALLOWED_IPS = 6, 7, 8, 9


class _AllowedIP:
    """``enum wgallowedip_attribute``."""

    FAMILY, ADDRESS, PREFIX, FLAGS = 1, 2, 3, 4


_GENERIC_HEADER = struct.Struct("=BBH")
_U8, _U16, _U32, _U64 = struct.Struct("=B"), struct.Struct("=H"), struct.Struct("=I"), struct.Struct("=Q")
_TIMESPEC = struct.Struct("=qq")
_SOCKADDR_IN = struct.Struct("=H2s4s8x")
_SOCKADDR_IN6 = struct.Struct("=H2sI16sI")
_IPV4_BYTES = 4
_REMEMBERED = 4096
"""Values that are kept by their bytes: peers have the same addresses at each look."""
_NO_KEY = bytes(KEY_BYTES)


def pack_get(interface: str) -> bytes:
    """Return the body that asks for everything about a device."""
    return _GENERIC_HEADER.pack(_GET_DEVICE, _VERSION, 0) + _name(interface)


def pack_set(
    interface: str, change: DeviceChange, *, limit: int = MESSAGE_LIMIT, removes_single: bool = True
) -> list[bytes]:
    """Return the bodies of the fewest messages that make a change, to be sent in order.

    Args:
        interface: the device.
        change: an empty one gives no message.
        limit: bytes that a body may have. A peer with more allowed IPs than
            fit goes on in the next message.
        removes_single: whether the kernel removes single allowed IPs (Linux 6.16 and newer). Otherwise
            the peer's whole set is replaced.

    """
    if not change:
        return []
    head = _GENERIC_HEADER.pack(_SET_DEVICE, _VERSION, 0) + _name(interface)
    settings = _settings(change)
    bodies: list[bytes] = []
    peers: list[bytes] = []
    size = len(head) + len(settings)
    for peer in _pieces(change.peers, limit=limit // 2, removes_single=removes_single):
        if peers and size + len(peer) > limit:
            bodies.append(_set_body(head + settings, peers))
            settings, peers, size = b"", [], len(head)
        peers.append(peer)
        size += len(peer)
    bodies.append(_set_body(head + settings, peers))
    return bodies


def parse_device(bodies: Iterable[memoryview]) -> ObservedDevice:
    """Read the messages of one dump.

    A peer whose allowed IPs did not fit into a message goes on in the next.

    Raises:
        MalformedReply: an attribute has the wrong size, or a peer no key.

    """
    public_key, listen_port, fwmark = None, 0, 0
    peers: dict[bytes, _PeerParts] = {}
    for kind, payload in _device_attributes(bodies):
        match kind:
            case _Device.PUBLIC_KEY:
                public_key = _key(payload)
            case _Device.LISTEN_PORT:
                listen_port = _number(_U16, payload)
            case _Device.FWMARK:
                fwmark = _number(_U32, payload)
            case _Device.PEERS:
                for _, nested in parse_attributes(payload):
                    _read_peer(nested, peers)
    return ObservedDevice(
        public_key=None if public_key in {None, _NO_KEY} else WireGuardPublicKey(public_key),
        listen_port=listen_port,
        fwmark=fwmark,
        peers={(peer := parts.to_peer()).public_key: peer for parts in peers.values()},
    )


def parse_sessions(bodies: Iterable[memoryview]) -> Mapping[WireGuardPublicKey, PeerSession]:
    """Read of the messages of one dump only what sessions are made of.

    Raises: as `parse_device`, but for attributes that are skipped.
    """
    peers: dict[bytes, _PeerParts] = {}
    for kind, payload in _device_attributes(bodies):
        if kind == _Device.PEERS:
            for _, nested in parse_attributes(payload):
                _read_peer(nested, peers, ignored=_SETTINGS)
    return {(session := parts.to_session()).public_key: session for parts in peers.values()}


def _device_attributes(bodies: Iterable[memoryview]) -> Iterator[tuple[int, memoryview]]:
    for body in bodies:
        if len(body) < _GENERIC_HEADER.size:
            raise MalformedReply("kernel wireguard: a message without its header")
        yield from parse_attributes(body[_GENERIC_HEADER.size :])


@dataclass(slots=True)
class _PeerParts:
    """A peer while its messages come in."""

    public_key: bytes
    endpoint: Endpoint | None = None
    persistent_keepalive: int = 0
    last_handshake: float | None = None
    rx_bytes: int = 0
    tx_bytes: int = 0
    has_preshared_key: bool = False
    allowed_ips: list[IPNetwork] = field(default_factory=list)

    def to_session(self) -> PeerSession:
        return PeerSession(
            WireGuardPublicKey(self.public_key),
            endpoint=self.endpoint,
            last_handshake=self.last_handshake,
            rx_bytes=self.rx_bytes,
            tx_bytes=self.tx_bytes,
        )

    def to_peer(self) -> ObservedPeer:
        return ObservedPeer(
            WireGuardPublicKey(self.public_key),
            endpoint=self.endpoint,
            allowed_ips=frozenset(self.allowed_ips),
            persistent_keepalive=self.persistent_keepalive,
            last_handshake=self.last_handshake,
            rx_bytes=self.rx_bytes,
            tx_bytes=self.tx_bytes,
            has_preshared_key=self.has_preshared_key,
        )


_SETTINGS = frozenset({_Peer.PRESHARED_KEY, _Peer.KEEPALIVE, _Peer.ALLOWED_IPS})
"""What a look at the sessions skips unread."""


def _read_peer(
    data: memoryview, peers: dict[bytes, _PeerParts], *, ignored: frozenset[int] = frozenset()
) -> None:
    attributes = {kind: payload for kind, payload in parse_attributes(data) if kind not in ignored}
    if _Peer.PUBLIC_KEY not in attributes:
        raise MalformedReply("kernel wireguard: a peer without a public key")
    key = _key(attributes.pop(_Peer.PUBLIC_KEY))
    parts = peers.setdefault(key, _PeerParts(key))
    for kind, payload in attributes.items():
        match kind:
            case _Peer.PRESHARED_KEY:
                parts.has_preshared_key = _key(payload) != _NO_KEY
            case _Peer.ENDPOINT:
                parts.endpoint = _endpoint(bytes(payload))
            case _Peer.KEEPALIVE:
                parts.persistent_keepalive = _number(_U16, payload)
            case _Peer.LAST_HANDSHAKE:
                parts.last_handshake = _timestamp(payload)
            case _Peer.RX_BYTES:
                parts.rx_bytes = _number(_U64, payload)
            case _Peer.TX_BYTES:
                parts.tx_bytes = _number(_U64, payload)
            case _Peer.ALLOWED_IPS:
                parts.allowed_ips += (_allowed_ip(bytes(nested)) for _, nested in parse_attributes(payload))


@lru_cache(_REMEMBERED)
def _allowed_ip(data: bytes) -> IPNetwork:
    attributes = dict(parse_attributes(memoryview(data)))
    try:
        address = bytes(attributes[_AllowedIP.ADDRESS])
        prefix = _number(_U8, attributes[_AllowedIP.PREFIX])
        network = IPv4Network if len(address) == _IPV4_BYTES else IPv6Network
        return network((address, prefix))
    except (KeyError, ValueError) as error:
        raise MalformedReply("kernel wireguard: an allowed IP that is not a network") from error


@lru_cache(_REMEMBERED)
def _endpoint(payload: bytes) -> Endpoint:
    try:
        if len(payload) >= _SOCKADDR_IN6.size:
            _, port, _, address, _ = _SOCKADDR_IN6.unpack_from(payload)
            return Endpoint(IPv6Address(address), int.from_bytes(port))
        _, port, address = _SOCKADDR_IN.unpack_from(payload)
        return Endpoint(IPv4Address(address), int.from_bytes(port))
    except struct.error as error:
        raise MalformedReply("kernel wireguard: an endpoint that is not a socket address") from error


def _timestamp(payload: memoryview) -> float | None:
    if len(payload) != _TIMESPEC.size:
        raise MalformedReply("kernel wireguard: a handshake time of the wrong size")
    seconds, nanoseconds = _TIMESPEC.unpack(payload)
    return seconds + nanoseconds / 1e9 if seconds or nanoseconds else None


def _key(payload: memoryview) -> bytes:
    if len(payload) != KEY_BYTES:
        raise MalformedReply(f"kernel wireguard: a key has {len(payload)} bytes, not {KEY_BYTES}")
    return bytes(payload)


def _number(form: struct.Struct, payload: memoryview) -> int:
    if len(payload) != form.size:
        raise MalformedReply(f"kernel wireguard: a number has {len(payload)} bytes, not {form.size}")
    number: int = form.unpack(payload)[0]
    return number


def _name(interface: str) -> bytes:
    return pack_attribute(_Device.IFNAME, interface.encode() + b"\0")


def _settings(change: DeviceChange) -> bytes:
    packed = b""
    if change.private_key is not None:
        packed += pack_attribute(_Device.PRIVATE_KEY, change.private_key.secret)
    if change.listen_port is not None:
        packed += pack_attribute(_Device.LISTEN_PORT, _U16.pack(change.listen_port))
    if change.fwmark is not None:
        packed += pack_attribute(_Device.FWMARK, _U32.pack(change.fwmark))
    return packed


def _set_body(head: bytes, peers: list[bytes]) -> bytes:
    return head + pack_attribute(_Device.PEERS | NLA_F_NESTED, b"".join(peers)) if peers else head


def _pieces(changes: Iterable[PeerChange], *, limit: int, removes_single: bool) -> Iterator[bytes]:
    """Yield each peer as one nested attribute, or as several when its allowed IPs exceed the limit."""
    for change in changes:
        replaces = change.replaces_allowed_ips(removes_single=removes_single)
        head, flags = _peer_head(change, replaces=replaces)
        packed_ips = _packed_allowed_ips(change, replaces=replaces)
        if not packed_ips:
            yield _nest(head + pack_attribute(_Peer.FLAGS, _U32.pack(flags)))
            continue
        allowed: list[bytes] = []
        size = 0
        for packed in packed_ips:
            if size + len(packed) > limit:
                yield _nest_with(head, flags, allowed)
                # What follows adds to the peer just sent.
                head, flags = _key_attribute(change), _UPDATE_ONLY
                allowed, size = [], 0
            allowed.append(packed)
            size += len(packed)
        yield _nest_with(head, flags, allowed)


def _packed_allowed_ips(change: PeerChange, *, replaces: bool) -> list[bytes]:
    if replaces:
        return [_pack_allowed_ip(network) for network in change.allowed_ips or ()]
    removed = [_pack_allowed_ip(network, remove=True) for network in change.remove_allowed_ips]
    return [*map(_pack_allowed_ip, change.add_allowed_ips), *removed]


def _peer_head(change: PeerChange, *, replaces: bool) -> tuple[bytes, int]:
    head = _key_attribute(change)
    if change.remove:
        return head, _REMOVE_ME
    flags = 0 if change.create else _UPDATE_ONLY
    if replaces:
        flags |= _REPLACE_ALLOWED_IPS
    if change.clear_preshared_key:
        head += pack_attribute(_Peer.PRESHARED_KEY, _NO_KEY)
    if change.endpoint is not None:
        head += pack_attribute(_Peer.ENDPOINT, _pack_endpoint(change.endpoint))
    if change.persistent_keepalive is not None:
        head += pack_attribute(_Peer.KEEPALIVE, _U16.pack(change.persistent_keepalive))
    return head, flags


def _key_attribute(change: PeerChange) -> bytes:
    return pack_attribute(_Peer.PUBLIC_KEY, change.public_key.raw)


def _nest(attributes: bytes) -> bytes:
    return pack_attribute(NLA_F_NESTED, attributes)


def _nest_with(head: bytes, flags: int, allowed: list[bytes]) -> bytes:
    return _nest(
        head
        + pack_attribute(_Peer.FLAGS, _U32.pack(flags))
        + pack_attribute(_Peer.ALLOWED_IPS | NLA_F_NESTED, b"".join(allowed))
    )


def _pack_allowed_ip(network: IPNetwork, *, remove: bool = False) -> bytes:
    return _nest(
        pack_attribute(_AllowedIP.FAMILY, _U16.pack(_family(network)))
        + pack_attribute(_AllowedIP.ADDRESS, network.network_address.packed)
        + pack_attribute(_AllowedIP.PREFIX, _U8.pack(network.prefixlen))
        + (pack_attribute(_AllowedIP.FLAGS, _U32.pack(_REMOVE_ME)) if remove else b"")
    )


def _pack_endpoint(endpoint: Endpoint) -> bytes:
    port, address = endpoint.port.to_bytes(2), endpoint.address.packed
    if isinstance(endpoint.address, IPv4Address):
        return _SOCKADDR_IN.pack(AF_INET, port, address)
    return _SOCKADDR_IN6.pack(AF_INET6, port, 0, address, 0)


def _family(network: IPNetwork) -> int:
    return AF_INET if isinstance(network, IPv4Network) else AF_INET6
