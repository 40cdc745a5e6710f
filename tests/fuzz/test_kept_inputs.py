"""Every input that was ever worth keeping is read or refused, at once and without leaving anything behind.

Kept are packets of real members, files of real programs, and what fuzzing found to reach further
code: see the corpus's own README.
"""

from __future__ import annotations

import tracemalloc
from random import Random

import pytest

from wesher_agent.wire.fields import pack
from wesher_agent.wire.limits import DATAGRAM, DECOMPRESSED, FRAME, NODES, Limit
from wesher_agent.wire.lzw import compress
from wesher_agent.wire.messages import Alive, PushNodeState, PushPull, State, Versions, encode
from wesher_agent.wire.packet import PacketFormat, seal
from wesher_common.errors import PeerMisbehaved
from wesher_testing.fuzz.fuzzer import CORPUS, is_quick, kept
from wesher_testing.fuzz.targets import TARGETS

PEAK = 16 * 1024 * 1024
"""Bytes: a stream's 4 MiB unpacked, read, and read again in pieces."""
OF_THE_DECODER = 1024 * 1024
"""Bytes that a decoder needs for itself."""
FROM_REAL_PROGRAMS = ("go-", "serf-")


def test_every_decoder_has_its_inputs_and_no_other_has() -> None:
    assert {path.name for path in CORPUS.iterdir() if path.is_dir()} == set(TARGETS)
    assert [name for name in TARGETS if not kept(name)] == []


@pytest.mark.parametrize("name", TARGETS)
def test_kept_inputs_are_read_or_refused_at_once(name: str) -> None:
    slow = []
    for file, data in kept(name).items():
        try:
            if not is_quick(TARGETS[name], data):
                slow.append(file)
        except Exception as error:
            error.add_note(f"input: {file}")
            raise
    assert slow == []


@pytest.mark.parametrize("name", TARGETS)
def test_no_kept_input_takes_much_memory(name: str) -> None:
    greedy = []
    for file, data in kept(name).items():
        tracemalloc.start()
        try:
            TARGETS[name].take(data, lambda: None)
            if tracemalloc.get_traced_memory()[1] > PEAK:
                greedy.append(file)
        finally:
            tracemalloc.stop()
    assert greedy == []


@pytest.mark.parametrize(
    "name", ["datagram", "datagram-opened", "stream", "stream-clear", "stream-opened", "gob", "metadata"]
)
def test_what_real_programs_sent_is_no_refusal(name: str) -> None:
    """Otherwise fuzzing would begin with what is refused anyway."""
    real = {file: data for file, data in kept(name).items() if file.startswith(FROM_REAL_PROGRAMS)}
    assert real
    for data in real.values():
        TARGETS[name].read(data, lambda: None)


COMPRESSING = PacketFormat(None)
ALIVE = Alive(2**32 - 1, "node-1.example", bytes(16), 7946, bytes(range(200)), Versions())
NODE = PushNodeState("n", bytes(4), 7946, b"", 1, State.DEAD, Versions())
UNPADDED_VERSION = b"\x01"
"""What an input of an ``-opened`` decoder begins with."""


def compressed(body: bytes) -> bytes:
    return b"\x09" + pack({b"Algo": 0, b"Buf": body})


@pytest.mark.parametrize(
    "worst",
    [
        seal([b"\x07\xff" + bytes(2 * 255)] * 120, COMPRESSING, checksum=False, nonce=bytes),
        seal([encode(ALIVE)] * 130, COMPRESSING, checksum=False, nonce=bytes),
        compressed(Random(1).randbytes(65_000)),
        compressed(b"\x00" + bytes(65_000)),
        compressed(compress(b"\x08" + Random(2).randbytes(45_000))),
    ],
    ids=["empty parts", "repeated messages", "noise", "one literal for ever", "incompressible"],
)
def test_the_most_work_that_a_datagram_can_ask_for_is_quick(worst: bytes) -> None:
    assert len(worst) <= DATAGRAM.most
    assert is_quick(TARGETS["datagram-opened"], UNPADDED_VERSION + worst)


@pytest.mark.parametrize(
    "worst",
    [
        compressed(compress(bytes(DECOMPRESSED.most))),
        compressed(compress(b"\x08" + Random(2).randbytes(400_000))),
        compressed(compress(encode(PushPull((NODE,) * NODES.most, join=False)))),
        encode(PushPull((NODE,) * NODES.most, join=False)),
    ],
    ids=["a bomb", "incompressible", "compressed members", "members"],
)
def test_the_most_work_that_a_stream_can_ask_for_leaves_others_their_turns(worst: bytes) -> None:
    assert len(worst) <= FRAME.most
    assert is_quick(TARGETS["stream-opened"], UNPADDED_VERSION + worst)


BOMB = compressed(compress(b"\x08" + bytes(DECOMPRESSED.most)))
"""A few kilobytes that unpack to one byte too many."""


@pytest.mark.parametrize(
    ("name", "limit"),
    [("datagram-opened", DATAGRAM), ("stream-opened", DECOMPRESSED)],
    ids=["datagram", "stream"],
)
def test_a_bomb_is_refused_before_it_takes_more_memory_than_the_most_that_is_allowed(
    name: str, limit: Limit
) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(PeerMisbehaved) as refusal:
            TARGETS[name].read(UNPADDED_VERSION + BOMB, lambda: None)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert refusal.value.reason == limit.reason
    assert peak <= limit.most + OF_THE_DECODER
