"""No bytes whatever make a decoder raise anything but PeerMisbehaved, or take long.

Plain seeded dice rather than hypothesis: it is the number of inputs that finds
such things. A failure prints its input, which then becomes a case of its own.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from wesher_agent.wire.fields import pack
from wesher_agent.wire.keyring import Keyring
from wesher_agent.wire.limits import DATAGRAM
from wesher_agent.wire.lzw import compress, decompress
from wesher_agent.wire.messages import (
    AckResp,
    Alive,
    ErrResp,
    IndirectPing,
    Ping,
    PushNodeState,
    PushPull,
    State,
    Suspect,
    User,
    Versions,
    encode,
)
from wesher_agent.wire.packet import PacketFormat, open_packet, seal
from wesher_agent.wire.stream import StreamReader, seal_stream
from wesher_common.errors import PeerMisbehaved

INPUTS = 20_000
STALL = 0.05
"""Seconds of processor time that one input may cost."""
TRIES = 5
"""How often a slow one is tried again, since on a busy machine anything is slow once."""

PLAIN = PacketFormat(None, compress=False)
COMPRESSING = PacketFormat(None)
ENCRYPTED = PacketFormat(Keyring(bytes(32)), b"label", compress=False)

ALIVE = Alive(2**32 - 1, "node-1.example", bytes(16), 7946, bytes(range(200)), Versions())
PARTS = [
    encode(message)
    for message in (
        Ping(1, "node-2", bytes(4), 7946, "node-1"),
        IndirectPing(2, bytes(4), 1, "node-3", nack=True),
        AckResp(3, b"payload"),
        Suspect(4, "node-1", "node-2"),
        ALIVE,
        User(bytes(64)),
    )
]
NODE = PushNodeState("node-1", bytes(4), 7946, bytes(30), 1, State.DEAD, Versions())
STREAM_MESSAGES = (
    PushPull((NODE,) * 5, join=True, user_state=b"state"),
    User(bytes(90)),
    ErrResp("no " * 30),
)


def nonce(size: int) -> bytes:
    return bytes(size)


DATAGRAMS = [
    *PARTS,
    *(
        seal(PARTS, fmt, checksum=checksum, nonce=nonce)
        for fmt, checksum in itertools.product([PLAIN, COMPRESSING, ENCRYPTED], [False, True])
    ),
    seal(
        [seal(PARTS, COMPRESSING, checksum=False, nonce=nonce)] * 3, COMPRESSING, checksum=False, nonce=nonce
    ),
]
STREAMS = [
    seal_stream(message, fmt, nonce=nonce)
    for message, fmt in itertools.product(STREAM_MESSAGES, [PLAIN, COMPRESSING, ENCRYPTED])
]
COMPRESSED = [compress(bytes(500)), compress(bytes(range(256))), compress(b"".join(PARTS[:3]))]


def mutated(corpus: Sequence[bytes], seed: int) -> Iterator[bytes]:
    """Yield damaged copies of a corpus, and some plain noise."""
    dice = random.Random(seed)
    for number in range(INPUTS):
        if number % 8 == 0:
            yield dice.randbytes(dice.randrange(80))
            continue
        data = bytearray(dice.choice(corpus))
        for _ in range(dice.randint(1, 4)):
            place = dice.randrange(len(data) + 1)
            match dice.randrange(5):
                case 0:
                    data[place : place + 1] = dice.randbytes(1)
                case 1:
                    data[place : place + dice.randrange(9)] = b""
                case 2:
                    data[place:place] = dice.choice((b"\xff" * 4, b"\x00" * 4, b"\xdd", b"\xc6", b"\x80"))
                case 3:
                    del data[place:]
                case _:
                    other = dice.choice(corpus)
                    data[place:] = other[dice.randrange(len(other)) :]
        yield bytes(data)


def read_datagram(data: bytes) -> None:
    for fmt in (PLAIN, ENCRYPTED):
        with contextlib.suppress(PeerMisbehaved):
            open_packet(data, fmt)


def read_stream(data: bytes) -> None:
    reader = StreamReader(ENCRYPTED if data[:1] == b"\xf4" else PLAIN)
    half = len(data) // 2
    for piece in (data[:half], data[half:]):
        reader.feed(piece)
        reader.message()


def is_quick(decoder: Callable[[bytes], None], data: bytes) -> bool:
    for _ in range(TRIES):
        began = time.process_time()
        with contextlib.suppress(PeerMisbehaved):
            decoder(data)
        if time.process_time() - began < STALL:
            return True
    return False


def unpack(data: bytes) -> None:
    decompress(data, DATAGRAM)


@pytest.mark.parametrize(
    ("decoder", "corpus"),
    [(read_datagram, DATAGRAMS), (read_stream, STREAMS), (unpack, COMPRESSED)],
    ids=["datagrams", "streams", "lzw"],
)
def test_damaged_input_is_refused_at_once(decoder: Callable[[bytes], None], corpus: Sequence[bytes]) -> None:
    for data in mutated(corpus, seed=1):
        try:
            assert is_quick(decoder, data)
        except Exception as error:
            error.add_note(f"input: {data.hex()}")
            raise


@pytest.mark.parametrize("corpus", [DATAGRAMS, STREAMS, COMPRESSED], ids=["datagrams", "streams", "lzw"])
def test_the_corpus_is_sound_before_it_is_damaged(corpus: Sequence[bytes]) -> None:
    """Otherwise the damage would be tried on what is refused anyway."""
    if corpus is DATAGRAMS:
        for data in corpus:
            opened = open_packet(data, ENCRYPTED if data[:1] == b"\xf4" else PLAIN)
            assert opened.rejected == ()
    elif corpus is STREAMS:
        for data in corpus:
            reader = StreamReader(ENCRYPTED if data[:1] == b"\xf4" else PLAIN)
            reader.feed(data)
            assert reader.message() in STREAM_MESSAGES
    else:
        for data in corpus:
            assert compress(decompress(data, DATAGRAM)) == data


@pytest.mark.parametrize(
    "worst",
    [
        seal([b"\x07\xff" + bytes(2 * 255)] * 120, COMPRESSING, checksum=False, nonce=nonce),
        seal([encode(ALIVE)] * 130, COMPRESSING, checksum=False, nonce=nonce),
        b"\x09" + pack({b"Algo": 0, b"Buf": random.Random(1).randbytes(65_000)}),
        b"\x09" + pack({b"Algo": 0, b"Buf": b"\x00" + bytes(65_000)}),
        b"\x09" + pack({b"Algo": 0, b"Buf": compress(b"\x08" + random.Random(2).randbytes(45_000))}),
    ],
    ids=["empty parts", "repeated messages", "noise", "one literal for ever", "incompressible"],
)
def test_the_most_work_that_a_datagram_can_ask_for_is_quick(worst: bytes) -> None:
    assert len(worst) <= DATAGRAM.most
    assert is_quick(read_datagram, worst)
