"""What a member says of itself in its gossip metadata.

Go wesher's ``nodeMeta`` (``common/node.go``), read and written, and our further
fields, which Go members ignore. `gob` owns the encoding; whether what a member
says is to be believed is `desired`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import IntFlag
from ipaddress import ip_address, ip_network
from typing import Final, TypeVar

from wesher_agent.mesh.device import Endpoint
from wesher_agent.mesh.gob import Field, Marshalled, Value, decode_struct, encode_struct
from wesher_agent.wire.limits import META
from wesher_common.errors import InvalidSpec, PeerMisbehaved
from wesher_common.keys import WireGuardPublicKey
from wesher_common.overlay import IPAddress, IPNetwork
from wesher_common.seeds import parse_seed

META_VERSION = 1
MAX_LOCATION = 63
"""Bytes."""

_STRUCT_NAME: Final = "nodeMeta"
_NO_KEY: Final = bytes(32)

T = TypeVar("T", bound=Value)


class Flag(IntFlag):
    """Bits of the field ``Fl``."""

    NONE = 0
    IN_KUBERNETES = 1
    BEHIND_NAT = 2
    MOVABLE = 4
    """The overlay address may change to settle a clash."""


_KNOWN_FLAGS: Final = Flag.IN_KUBERNETES | Flag.BEHIND_NAT | Flag.MOVABLE


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeMeta:
    """One member's metadata."""

    overlay_address: IPAddress | None
    public_key: WireGuardPublicKey | None
    version: int = 0
    """0 is a Go member; ours is `META_VERSION`."""
    internal_address: IPAddress | None = None
    """Underlay address for members of the same location, when it is not the gossip address."""
    wireguard_endpoint: Endpoint | None = None
    """When it is not the gossip address and the common port."""
    location: str = ""
    networks: tuple[IPNetwork, ...] = ()
    """Further overlay addresses and routes."""
    flags: Flag = Flag.NONE

    @property
    def is_movable(self) -> bool:
        """Whether the member moves in a clash of overlay addresses; Go members do not."""
        return Flag.MOVABLE in self.flags

    def address_within(self, location: str) -> IPAddress | None:
        """Return the internal address by which members of a location dial this one, if they share it."""
        return self.internal_address if location and location == self.location else None

    def encode(self) -> bytes:
        """Return the gob; byte for byte Go wesher's when only its two fields are set.

        Raises:
            InvalidSpec: longer than memberlist's 512 bytes, or a location too long.

        """
        check_location(self.location, field="location")
        address = self.overlay_address.packed if self.overlay_address else b""
        always = [
            Field("OverlayAddr", Marshalled(address), "Addr"),
            Field("PubKey", str(self.public_key) if self.public_key else ""),
        ]
        further = [
            Field("V", self.version),
            Field("Int", self.internal_address.packed if self.internal_address else b""),
            Field("WG", str(self.wireguard_endpoint) if self.wireguard_endpoint else ""),
            Field("Loc", self.location),
            Field("Net", [net.network_address.packed + bytes([net.prefixlen]) for net in self.networks]),
            Field("Fl", int(self.flags)),
        ]
        stream = encode_struct(_STRUCT_NAME, always + [field for field in further if field.value])
        if len(stream) > META.most:
            raise InvalidSpec(
                "gossip metadata",
                f"holds at most {META.most} bytes, not {len(stream)}: announce fewer networks "
                f"(now {len(self.networks)}) or a shorter location",
            )
        return stream

    @classmethod
    def decode(cls, data: bytes) -> NodeMeta:
        """Read a member's metadata.

        Raises:
            PeerMisbehaved: it is not valid metadata; ``metadata-missing`` before a Go member has
                published any, ``metadata-of-wesher-0.2`` for one too old to talk to.

        """
        if not data:
            raise PeerMisbehaved("metadata-missing")
        if len(data) > META.most:
            raise PeerMisbehaved("metadata-too-long", str(len(data)))
        content = decode_struct(data)
        internal = _field(content, "Int", bytes, b"")
        endpoint = _field(content, "WG", str, "")
        return cls(
            overlay_address=_overlay_address(content.get("OverlayAddr", Marshalled())),
            public_key=_public_key(_field(content, "PubKey", str, "")),
            version=_field(content, "V", int, 0),
            internal_address=_unicast(_address(internal, "Int")) if internal else None,
            wireguard_endpoint=_endpoint(endpoint) if endpoint else None,
            location=_location(_field(content, "Loc", str, "")),
            networks=tuple([_network(entry) for entry in _field(content, "Net", list, [])]),
            flags=Flag(_field(content, "Fl", int, 0) & _KNOWN_FLAGS),
        )


def changed_fields(former: bytes, present: bytes) -> list[str]:
    """Return the names of the fields of `NodeMeta` in which two metadata differ.

    Metadata that cannot be read counts as empty: a Go member joins with none.
    """
    before, after = _read_or_empty(former), _read_or_empty(present)
    return [one.name for one in fields(NodeMeta) if getattr(before, one.name) != getattr(after, one.name)]


def check_location(location: str, *, field: str) -> str:
    """Return the name of a location, or say which rule it breaks.

    Raises:
        InvalidSpec: longer than 63 bytes, or with characters that do not print.

    """
    if len(location.encode()) > MAX_LOCATION or not location.isprintable():
        raise InvalidSpec(field, f"must be at most {MAX_LOCATION} bytes of printable text", value=location)
    return location


def _read_or_empty(data: bytes) -> NodeMeta:
    try:
        return NodeMeta.decode(data)
    except PeerMisbehaved:
        return NodeMeta(overlay_address=None, public_key=None)


def _field(content: Mapping[str, Value], name: str, kind: type[T], default: T) -> T:
    value = content.get(name, default)
    # Exactly that type: a Marshalled is bytes and a bool an int, but neither is what the field holds.
    if type(value) is not kind:
        raise PeerMisbehaved("metadata-field-type", name)
    return value


def _overlay_address(value: Value) -> IPAddress | None:
    if isinstance(value, dict) and value.keys() <= {"IP", "Mask"}:
        # wesher 0.2 sent a net.IPNet, and cannot read what we send: a peer made of it would be deaf.
        raise PeerMisbehaved("metadata-of-wesher-0.2")
    if not isinstance(value, Marshalled):
        raise PeerMisbehaved("metadata-field-type", "OverlayAddr")
    return _address(value, "OverlayAddr") if value else None


def _public_key(text: str) -> WireGuardPublicKey | None:
    if not text:
        return None
    try:
        key = WireGuardPublicKey.from_base64(text)
    except InvalidSpec as error:
        raise PeerMisbehaved("metadata-public-key") from error
    if key.raw == _NO_KEY:
        raise PeerMisbehaved("metadata-public-key", "all zero")
    return key


def _address(packed: bytes, name: str) -> IPAddress:
    try:
        # ip_address takes bytes and bytearray only by their exact length.
        return ip_address(bytes(packed))
    except ValueError as error:
        raise PeerMisbehaved("metadata-address", name) from error


def _unicast(address: IPAddress) -> IPAddress:
    if address.is_unspecified or address.is_multicast:
        raise PeerMisbehaved("metadata-address")
    return address


def _endpoint(text: str) -> Endpoint:
    try:
        seed = parse_seed(text, field="WG")
    except InvalidSpec as error:
        raise PeerMisbehaved("metadata-endpoint") from error
    # A name is refused: where a peer's tunnel leads must not depend on our resolver.
    if seed.address is None or not seed.port:
        raise PeerMisbehaved("metadata-endpoint")
    return Endpoint(seed.address, seed.port)


def _location(text: str) -> str:
    try:
        return check_location(text, field="Loc")
    except InvalidSpec as error:
        raise PeerMisbehaved("metadata-location") from error


def _network(entry: Value) -> IPNetwork:
    if type(entry) is not bytes or not entry:
        raise PeerMisbehaved("metadata-network")
    try:
        return ip_network((bytes(entry[:-1]), entry[-1]))
    except ValueError as error:
        raise PeerMisbehaved("metadata-network") from error
