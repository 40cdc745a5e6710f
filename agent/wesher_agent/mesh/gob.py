"""Go's ``encoding/gob``, as much of it as one struct in one stream needs.

Owns the encoding: numbers, type definitions, values. What the fields mean is
`nodemeta`'s. Source: the Go package's documentation and its ``type.go``. A stream
defines its types before its value, so a reader takes ids and names from it and
can skip fields that it does not know.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Final

from wesher_common.errors import PeerMisbehaved

MAX_DEPTH = 16
"""Of values inside values; a type may contain itself, so a stream could nest without end."""

_FIRST_USER_ID: Final = 64
"""What current Go releases give the first type; older ones gave 65. No reader may care."""
_MAX_UINT_BYTES: Final = 8


class Basic(IntEnum):
    """The ids of types that need no definition (``type.go``, ``tBool`` and on)."""

    BOOL = 1
    INT = 2
    UINT = 3
    FLOAT = 4
    BYTES = 5
    STRING = 6
    COMPLEX = 7


class Marshalled(bytes):
    """A value that its Go type wrote itself: ``BinaryMarshaler`` and the like."""

    __slots__ = ()


Value = bool | int | float | complex | bytes | str | Marshalled | list["Value"] | dict[str, "Value"]
"""A struct is a dict without the fields that are zero; a map is a list of its keys and elements in turn."""

EncodableValue = int | str | bytes | list[bytes] | Marshalled


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a struct to encode."""

    name: str
    value: EncodableValue
    """Its Python type says its gob type; an int is unsigned. A zero value is not sent, as in Go."""
    type_name: str = ""
    """Of a `Marshalled` value: what Go calls its type, without the package."""


def encode_struct(name: str, fields: Sequence[Field]) -> bytes:
    """Return the stream that Go's encoder writes for a struct of that name.

    At most one type is defined for each of `Marshalled` and ``list[bytes]``, so two
    `Marshalled` fields must be of one Go type.
    """
    own_ids: dict[type, int] = {}
    definitions = bytearray()
    listed = bytearray(_uint(len(fields)))
    for field in fields:
        kind = type(field.value)
        if kind in _BASIC_OF:
            type_id: int = _BASIC_OF[kind]
        elif kind in own_ids:
            type_id = own_ids[kind]
        else:
            type_id = own_ids[kind] = _FIRST_USER_ID + 1 + len(own_ids)
            definitions += _definition(type_id, field)
        listed += b"\x01" + _text(field.name) + b"\x01" + _int(type_id) + b"\0"
    shape = _common(name, _FIRST_USER_ID) + b"\x01" + listed + b"\0"
    struct_definition = _message(_int(-_FIRST_USER_ID), bytes([_Form.STRUCT + 1]), shape, b"\0")
    return struct_definition + definitions + _message(_int(_FIRST_USER_ID), _struct_value(fields))


def decode_struct(stream: bytes) -> dict[str, Value]:
    """Return the first value of a stream, which must be a struct, by field name.

    Like Go's decoder it does not look at what follows that value.

    Raises:
        PeerMisbehaved: the stream is not gob, nests too deep, or holds another kind of
            value. An interface is refused too: nothing that we read has one.

    """
    messages = _Reader(stream, 0, len(stream), {})
    type_id = -1
    while type_id < 0:
        definitions = messages.position
        value = messages.part()
        type_id = value.signed()
    value.types = _types_of(stream[:definitions])
    kind = value.types.get(type_id)
    if not isinstance(kind, _Struct):
        raise PeerMisbehaved("gob-not-a-struct")
    return value.struct(kind, depth=0)


@dataclass(frozen=True, slots=True)
class _Struct:
    fields: tuple[tuple[str, int], ...]
    """Each field's name and type id, by number."""


@dataclass(frozen=True, slots=True)
class _List:
    """An array or a slice."""

    element: int


@dataclass(frozen=True, slots=True)
class _Map:
    key: int
    element: int


@dataclass(frozen=True, slots=True)
class _SelfMarshalling:
    pass


_Type = _Struct | _List | _Map | _SelfMarshalling


# Members of one release define the same types, and reading them takes most of a stream's time.
@lru_cache(maxsize=64)
def _types_of(definitions: bytes) -> dict[int, _Type]:
    types: dict[int, _Type] = {}
    messages = _Reader(definitions, 0, len(definitions), types)
    while messages.position < len(definitions):
        message = messages.part()
        type_id = -message.signed()
        if type_id in types or type_id <= max(Basic):
            raise PeerMisbehaved("gob-type-id", str(type_id))
        types[type_id] = message.definition()
    return types


class _Form(IntEnum):
    """Which field of Go's ``wireType`` is set, and so what kind of type is defined."""

    ARRAY = 0
    SLICE = 1
    STRUCT = 2
    MAP = 3
    GOB_ENCODER = 4
    BINARY_MARSHALER = 5
    TEXT_MARSHALER = 6


class _Reader:
    """A cursor over one part of a stream; all that it reads lies inside that part."""

    __slots__ = ("_data", "_end", "position", "types")

    def __init__(self, data: bytes, position: int, end: int, types: dict[int, _Type]) -> None:
        self._data = data
        self.position = position
        self._end = end
        self.types = types

    def take(self, count: int) -> bytes:
        start = self.position
        if count > self._end - start:
            raise PeerMisbehaved("gob-truncated")
        self.position = start + count
        return self._data[start : self.position]

    def part(self) -> _Reader:
        """Return a reader over the next counted part, and go past it."""
        count = self.unsigned()
        start = self.position
        self.take(count)
        return _Reader(self._data, start, self.position, self.types)

    def unsigned(self) -> int:
        if self.position >= self._end:
            raise PeerMisbehaved("gob-truncated")
        first = self._data[self.position]
        self.position += 1
        if first < 0x80:  # noqa: PLR2004 - the format's own limit for one byte
            return first
        size = 0x100 - first
        if size > _MAX_UINT_BYTES:
            raise PeerMisbehaved("gob-number-too-long")
        return int.from_bytes(self.take(size))

    def signed(self) -> int:
        number = self.unsigned()
        return ~(number >> 1) if number & 1 else number >> 1

    def text(self) -> str:
        try:
            return self.counted().decode()
        except UnicodeDecodeError as error:
            raise PeerMisbehaved("gob-text") from error

    def counted(self) -> bytes:
        return self.take(self.unsigned())

    def field_numbers(self) -> Iterator[int]:
        """Yield the numbers of a struct's fields; the caller reads each field's value before the next."""
        number = -1
        while delta := self.unsigned():
            number += delta
            yield number

    def definition(self) -> _Type:
        """Read a ``wireType``: a struct with one field set, the form."""
        defined: _Type | None = None
        for number in self.field_numbers():
            if number > max(_Form):
                raise PeerMisbehaved("gob-type-form")
            defined = self._shape(_Form(number))
        if defined is None:
            raise PeerMisbehaved("gob-type-form")
        return defined

    def _shape(self, form: _Form) -> _Type:
        fields: tuple[tuple[str, int], ...] = ()
        numbers = {1: 0, 2: 0}
        for number in self.field_numbers():
            if number == 0:
                self._named()
            elif form is _Form.STRUCT and number == 1:
                fields = tuple([self._named() for _ in range(self.unsigned())])
            elif number in numbers:
                numbers[number] = self.signed()
            else:
                raise PeerMisbehaved("gob-type-form")
        match form:
            case _Form.STRUCT:
                return _Struct(fields)
            case _Form.ARRAY | _Form.SLICE:
                return _List(numbers[1])
            case _Form.MAP:
                return _Map(numbers[1], numbers[2])
            case _:
                return _SelfMarshalling()

    def _named(self) -> tuple[str, int]:
        """Read a struct of a name and an id: ``CommonType`` and ``fieldType`` alike."""
        name, type_id = "", 0
        for number in self.field_numbers():
            if number == 0:
                name = self.text()
            elif number == 1:
                type_id = self.signed()
            else:
                raise PeerMisbehaved("gob-type-form")
        return name, type_id

    def struct(self, kind: _Struct, *, depth: int) -> dict[str, Value]:
        values = {}
        for number in self.field_numbers():
            if number >= len(kind.fields):
                raise PeerMisbehaved("gob-field-number", str(number))
            name, type_id = kind.fields[number]
            values[name] = self.value(type_id, depth=depth + 1)
        return values

    def value(self, type_id: int, *, depth: int) -> Value:
        if depth > MAX_DEPTH:
            raise PeerMisbehaved("gob-too-deep")
        if read := _BASIC_READERS.get(type_id):
            return read(self)
        match self.types.get(type_id):
            case _SelfMarshalling():
                return Marshalled(self.counted())
            case _Struct() as kind:
                return self.struct(kind, depth=depth)
            case _List(element):
                return [self.value(element, depth=depth + 1) for _ in range(self.unsigned())]
            case _Map(key, element):
                both = (key, element)
                return [self.value(one, depth=depth + 1) for _ in range(self.unsigned()) for one in both]
        raise PeerMisbehaved("gob-type-id", str(type_id))

    def boolean(self) -> bool:
        return self.unsigned() != 0

    def float_(self) -> float:
        # The bytes are reversed, so that the many zeros of a common fraction come first and are not sent.
        number: float = struct.unpack("<d", self.unsigned().to_bytes(_MAX_UINT_BYTES))[0]
        return number

    def complex_(self) -> complex:
        return complex(self.float_(), self.float_())


_BASIC_READERS: Final[dict[int, Callable[[_Reader], Value]]] = {
    Basic.BOOL: _Reader.boolean,
    Basic.INT: _Reader.signed,
    Basic.UINT: _Reader.unsigned,
    Basic.FLOAT: _Reader.float_,
    Basic.BYTES: _Reader.counted,
    Basic.STRING: _Reader.text,
    Basic.COMPLEX: _Reader.complex_,
}
_BASIC_OF: Final[dict[type, Basic]] = {int: Basic.UINT, str: Basic.STRING, bytes: Basic.BYTES}


def _uint(number: int) -> bytes:
    if number < 0x80:  # noqa: PLR2004 - the format's own limit for one byte
        return bytes([number])
    size = (number.bit_length() + 7) // 8
    return bytes([0x100 - size]) + number.to_bytes(size)


def _int(number: int) -> bytes:
    return _uint(~number << 1 | 1 if number < 0 else number << 1)


def _text(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return _uint(len(raw)) + raw


def _message(*parts: bytes) -> bytes:
    return _text(b"".join(parts))


def _common(name: str, type_id: int) -> bytes:
    """Return the field ``CommonType`` that every definition begins with."""
    named = b"\x01" + _text(name) + b"\x01" if name else b"\x02"
    return b"\x01" + named + _int(type_id) + b"\0"


def _definition(type_id: int, field: Field) -> bytes:
    if isinstance(field.value, Marshalled):
        form, shape = _Form.BINARY_MARSHALER, _common(field.type_name, type_id)
    else:
        form, shape = _Form.SLICE, _common("[][]uint8", type_id) + b"\x01" + _int(Basic.BYTES)
    return _message(_int(-type_id), bytes([form + 1]), shape, b"\0\0")


def _struct_value(fields: Sequence[Field]) -> bytes:
    out = bytearray()
    last = -1
    for number, field in enumerate(fields):
        if field.value:
            out += _uint(number - last) + _value(field.value)
            last = number
    return bytes(out) + b"\0"


def _value(value: EncodableValue) -> bytes:
    if isinstance(value, int):
        return _uint(value)
    if isinstance(value, list):
        return _uint(len(value)) + b"".join(map(_text, value))
    return _text(value)
