"""What a member says of itself in its gossip metadata.

Go wesher's ``nodeMeta`` (``common/node.go``), read and written, with one further field
``W`` that Go members ignore: our block. The compact form has no gob round it; only our
agents read it. `gob` owns Go's encoding; whether what a member says is to be believed is
`desired`'s. Both forms are always read. Integers are big-endian::

    gob form     = gob {OverlayAddr, PubKey, W = block}
    compact form = 0 | length, overlay address | WireGuard key 32 | block      (no gob begins with 0)
    block        = 1 | flags | ring | has | [internal address] | [endpoint address, port 2]
                   | [length, location] | networks | [certificate 77 or enrolment 64]

A reader refuses every form but the one that a writer makes, so one content has one form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import IntFlag
from ipaddress import ip_address
from typing import Final, TypeVar

from wesher_agent.mesh.device import Endpoint
from wesher_agent.mesh.gob import Field, Marshalled, Value, decode_struct, encode_struct
from wesher_agent.wire.limits import META
from wesher_common.byte_reader import ByteReader, counted, packed_networks
from wesher_common.certificate import Certificate, Subject
from wesher_common.errors import InvalidSpec, PeerMisbehaved
from wesher_common.keys import KEY_BYTES, WireGuardPublicKey
from wesher_common.overlay import IPAddress, IPNetwork

META_VERSION = 1
MAX_LOCATION = 63
"""Bytes."""
ENROLMENT_BYTES: Final = 64

_STRUCT_NAME: Final = "nodeMeta"
_NO_KEY: Final = bytes(KEY_BYTES)
COMPACT: Final = b"\0"
"""Begins the compact form, and no gob."""
_IPV4_BYTES, _IPV6_BYTES = 4, 16

T = TypeVar("T", bound=Value)


class Flag(IntFlag):
    """Bits of the block's flags."""

    NONE = 0
    IN_KUBERNETES = 1
    BEHIND_NAT = 2
    MOVABLE = 4
    """The overlay address may change to settle a clash."""


_KNOWN_FLAGS: Final = Flag.IN_KUBERNETES | Flag.BEHIND_NAT | Flag.MOVABLE


class _Has(IntFlag):
    """Which optional parts a block has."""

    INTERNAL_IPV4 = 1
    INTERNAL_IPV6 = 2
    ENDPOINT_IPV4 = 4
    ENDPOINT_IPV6 = 8
    LOCATION = 16
    CERTIFICATE = 32
    ENROLMENT = 64


_EXCLUSIVE: Final = (
    _Has.INTERNAL_IPV4 | _Has.INTERNAL_IPV6,
    _Has.ENDPOINT_IPV4 | _Has.ENDPOINT_IPV6,
    _Has.CERTIFICATE | _Has.ENROLMENT,
)
"""A block has at most one of each pair."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeMeta:
    """One member's metadata."""

    overlay_address: IPAddress | None
    public_key: WireGuardPublicKey | None
    version: int = 0
    """0 is a Go member; ours is `META_VERSION`. Only ours has what follows."""
    internal_address: IPAddress | None = None
    """Underlay address for members of the same location, when it is not the gossip address."""
    wireguard_endpoint: Endpoint | None = None
    """When it is not the gossip address and the common port."""
    location: str = ""
    networks: tuple[IPNetwork, ...] = ()
    """Further overlay addresses and routes, ascending."""
    flags: Flag = Flag.NONE
    ring: int = 0
    """First byte of the id of the key that it encrypts gossip with: a hint for who distributes keys."""
    certificate: Certificate | None = None
    enrolment: bytes = b""
    """What a machine with an invitation proves with, until it has a certificate; 64 bytes or none."""

    @property
    def is_movable(self) -> bool:
        """Whether the member moves in a clash of overlay addresses; Go members do not."""
        return Flag.MOVABLE in self.flags

    def address_within(self, location: str) -> IPAddress | None:
        """Return the internal address by which members of a location dial this one, if they share it."""
        return self.internal_address if location and location == self.location else None

    def subject(self, name: str) -> Subject | None:
        """Return what a certificate of this member would be about; None before it has key and address."""
        if self.public_key is None or self.overlay_address is None:
            return None
        return Subject(
            name=name,
            public_key=self.public_key,
            address=self.overlay_address,
            location=self.location,
            networks=self.networks,
        )

    def encode(self, *, compact: bool = False) -> bytes:
        """Return the metadata; in gob form byte for byte Go wesher's if ``version`` is 0.

        Args:
            compact: whether to write the compact form where there is one: with a block, key and address.

        Raises:
            InvalidSpec: longer than memberlist's 512 bytes, or a location too long.

        """
        check_location(self.location, field="location")
        address = self.overlay_address.packed if self.overlay_address else b""
        if compact and self.version and address and self.public_key is not None:
            encoded = COMPACT + counted(address) + self.public_key.raw + self._block()
        else:
            encoded = encode_struct(
                _STRUCT_NAME,
                [
                    Field("OverlayAddr", Marshalled(address), "Addr"),
                    Field("PubKey", str(self.public_key) if self.public_key else ""),
                    *([Field("W", self._block())] if self.version else []),
                ],
            )
        if len(encoded) > META.most:
            raise InvalidSpec(
                "gossip metadata",
                f"holds at most {META.most} bytes, not {len(encoded)}: announce fewer networks "
                f"(now {len(self.networks)}) or a shorter location",
            )
        return encoded

    @classmethod
    def decode(cls, data: bytes) -> NodeMeta:
        """Read a member's metadata, in either form.

        Raises:
            PeerMisbehaved: it is not valid metadata; ``metadata-missing`` before a Go member has
                published any, ``metadata-of-wesher-0.2`` for one too old to talk to.

        """
        if not data:
            raise PeerMisbehaved("metadata-missing")
        if len(data) > META.most:
            raise PeerMisbehaved("metadata-too-long", str(len(data)))
        if data.startswith(COMPACT):
            reader = ByteReader(data, "metadata")
            reader.take(len(COMPACT))
            address = _address(reader.counted(), "OverlayAddr")
            key = _checked(WireGuardPublicKey(reader.take(KEY_BYTES)))
            return cls._of_block(reader, address, key)
        content = decode_struct(data)
        overlay_address = _overlay_address(content.get("OverlayAddr", Marshalled()))
        public_key = _public_key(_field(content, "PubKey", str, ""))
        block = _field(content, "W", bytes, b"")
        if not block:
            return cls(overlay_address=overlay_address, public_key=public_key)
        return cls._of_block(ByteReader(block, "metadata"), overlay_address, public_key)

    def _block(self) -> bytes:
        has, parts = _Has(0), []
        if self.internal_address is not None:
            is_ipv4 = len(self.internal_address.packed) == _IPV4_BYTES
            has |= _Has.INTERNAL_IPV4 if is_ipv4 else _Has.INTERNAL_IPV6
            parts.append(self.internal_address.packed)
        if (endpoint := self.wireguard_endpoint) is not None:
            is_ipv4 = len(endpoint.address.packed) == _IPV4_BYTES
            has |= _Has.ENDPOINT_IPV4 if is_ipv4 else _Has.ENDPOINT_IPV6
            parts.append(endpoint.address.packed + endpoint.port.to_bytes(2))
        if self.location:
            has |= _Has.LOCATION
            parts.append(counted(self.location.encode()))
        parts.append(packed_networks(self.networks))
        if self.certificate is not None:
            has |= _Has.CERTIFICATE
            parts.append(self.certificate.packed())
        elif self.enrolment:
            has |= _Has.ENROLMENT
            parts.append(self.enrolment)
        return bytes([META_VERSION, self.flags, self.ring, has]) + b"".join(parts)

    @classmethod
    def _of_block(
        cls, reader: ByteReader, address: IPAddress | None, key: WireGuardPublicKey | None
    ) -> NodeMeta:
        version = reader.number(1)
        if version != META_VERSION:
            raise PeerMisbehaved("metadata-version", str(version))
        flags, ring, parts = reader.number(1), reader.number(1), reader.number(1)
        has = _Has(parts & sum(_Has))
        if has != parts or any(pair & has == pair for pair in _EXCLUSIVE):
            raise reader.refusal("parts")
        internal = endpoint = None
        if has & (_Has.INTERNAL_IPV4 | _Has.INTERNAL_IPV6):
            internal = _unicast(reader.address(_IPV6_BYTES if _Has.INTERNAL_IPV6 in has else _IPV4_BYTES))
        if has & (_Has.ENDPOINT_IPV4 | _Has.ENDPOINT_IPV6):
            where = _unicast(reader.address(_IPV6_BYTES if _Has.ENDPOINT_IPV6 in has else _IPV4_BYTES))
            endpoint = _endpoint(where, reader.number(2))
        location = _location(reader.counted()) if _Has.LOCATION in has else ""
        networks = reader.networks()
        certificate = Certificate.read(reader) if _Has.CERTIFICATE in has else None
        enrolment = reader.take(ENROLMENT_BYTES) if _Has.ENROLMENT in has else b""
        reader.end()
        return cls(
            overlay_address=address,
            public_key=key,
            version=version,
            internal_address=internal,
            wireguard_endpoint=endpoint,
            location=location,
            networks=networks,
            flags=Flag(flags & _KNOWN_FLAGS),
            ring=ring,
            certificate=certificate,
            enrolment=enrolment,
        )


def changed_fields(former: bytes, present: bytes) -> list[str]:
    """Return the names of the fields of `NodeMeta` in which two metadata differ.

    Metadata that cannot be read counts as empty: a Go member joins with none.
    """
    before, after = _read_or_empty(former), _read_or_empty(present)
    return [one.name for one in fields(NodeMeta) if getattr(before, one.name) != getattr(after, one.name)]


def in_gob_form(raw: bytes, meta: NodeMeta) -> bytes:
    """Return a member's metadata in the form that every release reads, if it fits in there.

    Args:
        raw: as the member announced it.
        meta: the same, decoded.

    """
    if not raw.startswith(COMPACT):
        return raw
    try:
        return meta.encode()
    except InvalidSpec:
        return raw


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
    return _checked(key)


def _checked(key: WireGuardPublicKey) -> WireGuardPublicKey:
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


def _endpoint(address: IPAddress, port: int) -> Endpoint:
    if not port:
        raise PeerMisbehaved("metadata-endpoint")
    return Endpoint(address, port)


def _location(raw: bytes) -> str:
    try:
        location = check_location(raw.decode(), field="location")
    except (InvalidSpec, UnicodeDecodeError) as error:
        raise PeerMisbehaved("metadata-location") from error
    if not location:
        raise PeerMisbehaved("metadata-location")
    return location
