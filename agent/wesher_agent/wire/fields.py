"""memberlist's msgpack dialect: maps keyed by Go field names, values checked by kind.

Go's encoder writes strings and byte slices alike in msgpack's old raw family,
so that is what we write; we read str, raw and bin for either. A missing key and
a nil are Go's zero value, an unknown key is skipped. Which message has which
fields is `messages`' business.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgpack

from wesher_agent.wire import limits
from wesher_common.errors import PeerMisbehaved

UNPACK_OPTIONS: Mapping[str, Any] = {
    "raw": True,
    "strict_map_key": True,
    "max_array_len": limits.CONTAINER.most,
    "max_map_len": limits.CONTAINER.most,
    "max_ext_len": 0,
}
"""For every unpacker: str, raw and bin arrive as bytes, containers are small, extensions unknown."""

MALFORMED = (msgpack.UnpackException, ValueError)
"""What msgpack raises for bytes it cannot read, whatever is wrong with them."""

# Go hosts use the kernel's hostname as it is, so capitals and underscores occur in the wild.
_LABEL = rb"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME = re.compile(_LABEL + rb"(?:\." + _LABEL + rb")*\Z")
_ADDRESS_SIZES = (4, 16)
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_U16_MAX = (1 << 16) - 1
_U32_MAX = (1 << 32) - 1

Kind = Callable[[Any, bytes], Any]
"""Turns an unpacked value, or None where it is missing, into a field's; raises PeerMisbehaved."""


@dataclass(frozen=True, slots=True)
class Field:
    """One entry of a message's map."""

    key: bytes
    """The Go field's name, as on the wire."""
    attribute: str
    kind: Kind
    omit_empty: bool = False
    """Whether Go leaves it out when it is the zero value (`codec:",omitempty"`)."""
    write: Callable[[Any], Any] | None = None
    """Turns the attribute into what msgpack can pack, where it cannot as it is."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How a dataclass lies in a msgpack map."""

    build: Callable[..., Any]
    fields: tuple[Field, ...]
    """In the order written: by key, as Go sorts them."""

    def write(self, value: object) -> bytes:
        """Return the map for a value of this layout."""
        entries = {}
        for field in self.fields:
            entry = getattr(value, field.attribute)
            if entry or not field.omit_empty:
                entries[field.key] = field.write(entry) if field.write else entry
        return pack(entries)

    def read(self, entries: Mapping[bytes, Any]) -> Any:
        """Return the value that an unpacked map describes.

        Raises:
            PeerMisbehaved: a field's value is none its kind allows.

        """
        return self.build(
            **{field.attribute: field.kind(entries.get(field.key), field.key) for field in self.fields}
        )


def pack(entries: Mapping[bytes, Any]) -> bytes:
    """Return a map in the dialect that Go reads: raw strings, no bin, no str8."""
    packed: bytes = msgpack.packb(entries, use_bin_type=False)
    return packed


def unpack(body: bytes) -> dict[bytes, Any]:
    """Return the map at the start of ``body``; as in Go, what follows it is left alone.

    Raises:
        PeerMisbehaved: ``malformed-body``.

    """
    try:
        value = msgpack.unpackb(body, **UNPACK_OPTIONS)
    except msgpack.ExtraData as extra:
        value = extra.unpacked
    except MALFORMED as error:
        raise PeerMisbehaved("malformed-body", type(error).__name__) from error
    return as_map(value)


def as_map(value: object) -> dict[bytes, Any]:
    """Return an unpacked value that must be a map.

    Raises:
        PeerMisbehaved: ``malformed-body``, it is something else.

    """
    if not isinstance(value, dict):
        raise PeerMisbehaved("malformed-body", "not a map")
    return value


def u16(value: Any, key: bytes) -> int:
    """Read an unsigned integer of two bytes."""
    return _integer(value, key, _U16_MAX)


def u32(value: Any, key: bytes) -> int:
    """Read an unsigned integer of four bytes."""
    return _integer(value, key, _U32_MAX)


def flag(value: Any, key: bytes) -> bool:
    """Read a boolean."""
    if value is None:
        return False
    if not isinstance(value, bool):
        raise PeerMisbehaved("bad-flag", key.decode())
    return value


def octets(value: Any, key: bytes) -> bytes:
    """Read a byte slice."""
    if value is None:
        return b""
    if not isinstance(value, bytes):
        raise PeerMisbehaved("bad-bytes", key.decode())
    return value


def meta(value: Any, key: bytes) -> bytes:
    """Read a member's metadata."""
    data = octets(value, key)
    limits.META.check(len(data))
    return data


def address(value: Any, key: bytes) -> bytes:
    """Read an IP address, 4 or 16 bytes."""
    data = octets(value, key)
    if len(data) not in _ADDRESS_SIZES:
        raise PeerMisbehaved("bad-address", key.decode())
    return data


def optional_address(value: Any, key: bytes) -> bytes:
    """Read an IP address, or none."""
    return address(value, key) if value else b""


def name(value: Any, key: bytes) -> str:
    """Read a member's name: DNS labels, which may hold capitals and underscores."""
    data = octets(value, key)
    limits.NAME.check(len(data))
    if not _NAME.match(data):
        raise PeerMisbehaved("bad-name", key.decode())
    return data.decode("ascii")


def optional_name(value: Any, key: bytes) -> str:
    """Read a member's name, or none."""
    return name(value, key) if value else ""


def error_text(value: Any, key: bytes) -> str:
    """Read a peer's words as one line; what cannot be printed is replaced."""
    data = octets(value, key)
    limits.ERROR_TEXT.check(len(data))
    text = data.decode(errors="replace")
    # They end up in logs, where a line break would begin a line of the peer's making.
    return "".join(letter if letter.isprintable() else _REPLACEMENT for letter in text)


def _integer(value: Any, key: bytes, most: int) -> int:
    if value is None:
        return 0
    if type(value) is not int or not 0 <= value <= most:
        raise PeerMisbehaved("bad-integer", key.decode())
    return value
