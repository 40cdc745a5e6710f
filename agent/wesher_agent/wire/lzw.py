"""LZW as Go's ``compress/lzw`` speaks it to memberlist: LSB first, 8-bit literals.

The GIF flavour: codes grow from 9 to 12 bits, 256 clears the table, 257 ends
the data. Only the algorithm; the message that carries it is `compress`'.
"""

from __future__ import annotations

from collections.abc import Generator

from wesher_agent.wire.limits import Limit
from wesher_common.errors import PeerMisbehaved

_CLEAR = 256
_END = 257
_FIRST_ENTRY = 258
_FIRST_WIDTH = 9
_LAST_WIDTH = 12
_LAST_CODE = (1 << _LAST_WIDTH) - 1
_FULL_TABLE = _LAST_CODE - _FIRST_ENTRY + 2
"""Places that bound the entries of a full table: one more than there are entries."""

_SLICE = 2048
"""Codes between two yields of `decompress_slices`: one or two milliseconds."""

# A code that fills a table adds the entry whose number needs the next width, and
# the first code after a clear adds none: 255 codes are 9 bits wide, 512 are 10.
_CODES_OF_FIRST_WIDTH = (1 << _FIRST_WIDTH) - _END


def compress(data: bytes) -> bytes:
    """Return ``data`` compressed, code for code as Go's writer does it."""
    # Bits gather in one integer that is written out at each clear, so it stays short.
    bits, filled = _CLEAR, _FIRST_WIDTH
    width, highest = _FIRST_WIDTH, _END
    written: list[bytes] = []
    table: dict[int, int] = {}
    rest = iter(data)
    code = next(rest, None)
    if code is not None:
        for byte in rest:
            key = code << 8 | byte
            longer = table.get(key)
            if longer is not None:
                code = longer
                continue
            bits |= code << filled
            filled += width
            code = byte
            highest += 1
            if highest == _LAST_CODE:
                bits |= _CLEAR << filled
                filled += width
                whole, filled = filled >> 3, filled & 7
                written.append((bits & ((1 << (whole << 3)) - 1)).to_bytes(whole, "little"))
                bits >>= whole << 3
                width, highest = _FIRST_WIDTH, _END
                table.clear()
                continue
            if highest >> width:
                width += 1
            table[key] = highest
        bits |= code << filled
        filled += width
        highest += 1
        if highest == _LAST_CODE:
            bits |= _CLEAR << filled
            filled += width
            width = _FIRST_WIDTH
        elif highest >> width:
            width += 1
    bits |= _END << filled
    filled += width
    written.append(bits.to_bytes((filled + 7) >> 3, "little"))
    return b"".join(written)


def decompress(data: bytes, limit: Limit) -> bytes:
    """Return what ``data`` unpacks to; bytes after the end code are left alone.

    Raises:
        PeerMisbehaved: ``bad-compression``, or the limit's reason.

    """
    slices = decompress_slices(data, limit)
    while True:
        try:
            next(slices)
        except StopIteration as done:
            result: bytes = done.value
            return result


def decompress_slices(data: bytes, limit: Limit) -> Generator[None, None, bytes]:
    """Do `decompress` in slices of a millisecond or two, yielding between them."""
    # An entry is the output of one code plus one byte more, and that byte is the next
    # one put out. So entry n is the output from where code n began to one past where
    # code n + 1 began, and the list of those places is the whole table.
    output = bytearray()
    starts: list[int] = []
    width, left = _FIRST_WIDTH, _CODES_OF_FIRST_WIDTH
    bit = worked = 0
    while True:
        codes = _codes(data, bit, width, min(left, _SLICE))
        if not codes:
            raise PeerMisbehaved("bad-compression", "no end code")
        put_out = _put_out(codes, output, starts, limit)
        limit.check(len(output))
        if put_out == len(codes):
            bit += put_out * width
            left -= put_out
            if not left:
                width, left = (width + 1, 1 << width) if width < _LAST_WIDTH else (width, _SLICE)
        elif codes[put_out] == _CLEAR:
            bit += (put_out + 1) * width
            width, left = _FIRST_WIDTH, _CODES_OF_FIRST_WIDTH
            starts.clear()
        else:
            return bytes(output)
        worked += put_out + 1
        if worked >= _SLICE:
            worked = 0
            yield


def _put_out(codes: list[int], output: bytearray, starts: list[int], limit: Limit) -> int:
    """Expand codes up to a clear or end; return how many."""
    place = len(output)
    for position, code in enumerate(codes):
        if code < _CLEAR:
            starts.append(place)
            output.append(code)
            place += 1
        elif code > _END:
            starts.append(place)
            entry = code - _FIRST_ENTRY
            if entry >= len(starts) - 1:
                raise PeerMisbehaved("bad-compression", "a code that is not defined yet")
            begin, end = starts[entry], starts[entry + 1] + 1
            output += output[begin:end]
            if end > place:
                # The entry this very code completes: it ends with its own first byte.
                output.append(output[begin])
            place += end - begin
            if place > limit.most:
                limit.check(place)
        else:
            return position
    # A full table grows no further, whatever else is put out before a clear.
    del starts[_FULL_TABLE:]
    return len(codes)


def _codes(data: bytes, bit: int, width: int, count: int) -> list[int]:
    """Return ``count`` codes of one width from a bit of ``data`` on, or what is left of them."""
    count = min(count, (len(data) * 8 - bit) // width)
    mask = (1 << width) - 1
    # Eight codes fill a whole number of bytes, and an integer of so few is still cheap to shift.
    shifts = range(0, 8 * width, width)
    codes: list[int] = []
    for group in range(bit, bit + count * width, 8 * width):
        place = group >> 3
        bits = int.from_bytes(data[place : place + width + 1], "little") >> (group & 7)
        codes += [bits >> shift & mask for shift in shifts]
    del codes[count:]
    return codes
