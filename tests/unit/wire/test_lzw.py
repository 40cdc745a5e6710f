"""LZW against what Go's compress/lzw wrote, and what no writer writes."""

from __future__ import annotations

import hashlib
from itertools import accumulate

import pytest

from wesher_agent.wire.limits import DECOMPRESSED, Limit
from wesher_agent.wire.lzw import compress, decompress, decompress_slices
from wesher_common.errors import PeerMisbehaved

GO_SHORT = {
    b"": "000302",
    b"a": "00c30404",
    b"aaaaaaaaaa": "00c3081c483020",
    b"TOBEORNOTTOBEORTOBEORNOT": "00a93c1152e48914274fa80824687061c183090302",
}

# Lengths round the codes' changes of width and the table's end, and the SHA-256 of Go's output.
GO_LONG = {
    255: "827d5fbc84fd6cdc4567167b04254c87b639ff56eedb5030dbd2362b7d1303e5",
    256: "be07326772242187b0dce1bc1693af68f6fb307443be21f5e10eaf9ee6989a9c",
    257: "33e22437dc56c4847b41bd513a4f5b590d35822826ffe1a38aa82ba97578c63f",
    3837: "18f75359b8dd20a99c21b18232e90d2537eea668c19fb5c381966095dd9af564",
    3838: "c7ab4c95cccbe72d7620704c0147503ec7a458aa744c02b59c4f7f8d36870123",
    3839: "7cd2a6643cbf63e062f8f73984190e3e3c43d6439f5f07dc0de119ef2728d11f",
    20000: "ba11198685180a0f062b19a0110b6264a9347c723de001e2d37626ab3b3dc2b1",
}


def scattered(size: int) -> bytes:
    """Return bytes that hardly repeat: the top bytes of a linear congruential generator."""
    numbers = accumulate(range(size), lambda x, _: (x * 1664525 + 1013904223) % 2**32, initial=1)
    return bytes(number >> 24 for number in list(numbers)[1:])


def packed(*codes: int, width: int = 9) -> bytes:
    """Return codes of one width, least significant bit first."""
    bits = sum(code << place * width for place, code in enumerate(codes))
    return bits.to_bytes((len(codes) * width + 7) // 8, "little")


@pytest.mark.parametrize("data", GO_SHORT)
def test_short_data_is_compressed_as_go_compresses_it(data: bytes) -> None:
    assert compress(data).hex() == GO_SHORT[data]


@pytest.mark.parametrize("size", GO_LONG)
def test_data_that_fills_tables_is_compressed_as_go_compresses_it(size: int) -> None:
    assert hashlib.sha256(compress(scattered(size))).hexdigest() == GO_LONG[size]


@pytest.mark.parametrize("size", [0, 1, 2, *GO_LONG, 100_000])
@pytest.mark.parametrize("make", [bytes, scattered], ids=["zeros", "scattered"])
def test_what_was_compressed_comes_back(size: int, make: type[bytes]) -> None:
    assert decompress(compress(make(size)), DECOMPRESSED) == make(size)


def test_a_full_table_serves_until_it_is_cleared() -> None:
    """Go's writer clears a full table at once; other writers of the format need not."""
    literals = [number % 256 for number in range(255 + 512 + 1024 + 2048)]
    widths = [9] * 255 + [10] * 512 + [11] * 1024 + [12] * 2048
    codes = [*literals, 4095, 65, 4095, 257]
    bits, place = 0, 0
    for code, width in zip(codes, [*widths, 12, 12, 12, 12], strict=True):
        bits |= code << place
        place += width
    data = bits.to_bytes((place + 7) // 8, "little")
    last_entry = bytes(literals[-2:])
    assert decompress(data, DECOMPRESSED) == bytes(literals) + last_entry + b"A" + last_entry


@pytest.mark.parametrize(
    "data",
    [
        b"",
        compress(b"TOBEORNOT")[:-1],
        packed(256),
        packed(256, 258, 257),
        packed(256, 65, 259, 257),
        packed(256, 65, 66, 256, 258, 257),
    ],
    ids=[
        "nothing",
        "no end code",
        "only a clear",
        "an entry before any",
        "an entry too far",
        "an entry of the table before the clear",
    ],
)
def test_what_no_writer_writes_is_refused(data: bytes) -> None:
    with pytest.raises(PeerMisbehaved) as refusal:
        decompress(data, DECOMPRESSED)
    assert refusal.value.reason == "bad-compression"


def test_bytes_behind_the_end_code_are_left_alone() -> None:
    assert decompress(compress(b"all of it") + b"more", DECOMPRESSED) == b"all of it"


def test_a_bomb_stops_at_its_limit() -> None:
    limit = Limit(10_000, "bytes", "too-much")
    bomb = compress(bytes(10_001))
    assert len(bomb) < 250
    with pytest.raises(PeerMisbehaved) as refusal:
        decompress(bomb, limit)
    assert refusal.value.reason == "too-much"


def test_long_data_comes_in_slices() -> None:
    """An event loop can do something else between them."""
    slices = decompress_slices(compress(scattered(100_000)), DECOMPRESSED)
    assert sum(1 for _ in slices) > 20
