"""What fuzzing judges inputs by, tried on decoders with known faults."""

from __future__ import annotations

import json
import time
from pathlib import Path
from random import Random

import pytest

from wesher_agent.wire.messages import decode
from wesher_common.errors import PeerMisbehaved
from wesher_testing.fuzz import fuzzer
from wesher_testing.fuzz.corpus import worth_keeping
from wesher_testing.fuzz.fuzzer import STALL, is_quick
from wesher_testing.fuzz.targets import Lap, Target, mutate_json


def work(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def test_an_input_that_holds_up_the_loop_is_not_quick() -> None:
    assert not is_quick(Target(lambda data, lap: work(1.2 * STALL)), b"")


def test_work_in_slices_is_quick_however_long_it_takes_together() -> None:
    def read(data: bytes, lap: Lap) -> None:
        for _ in range(6):
            work(STALL / 3)
            lap()

    assert is_quick(Target(read), b"")


def test_of_many_slow_inputs_the_slowest_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzzer, "_SLOW_KEPT", 2)
    watch = fuzzer._Watch(lambda data, lap: work(data[0] / 10 * STALL), tmp_path, runs=100)

    for tenths in (12, 30, 5, 24, 18):
        watch.give(bytes([tenths]))

    assert {path.read_bytes()[0] for path in tmp_path.glob("slow-*")} == {30, 24}


def test_a_refusal_passes_and_any_other_error_does_not() -> None:
    def read(data: bytes, lap: Lap) -> None:
        raise PeerMisbehaved("truncated") if data else IndexError

    Target(read).take(b"x", lambda: None)
    with pytest.raises(IndexError):
        Target(read).take(b"", lambda: None)


def test_the_shortest_inputs_that_reach_further_are_kept() -> None:
    target = Target(lambda data, lap: decode(data) and None)
    nack, ping = b"\x0b\x81\xa5SeqNo\x01", b"\x00\x82\xa4Node\xa1a\xa5SeqNo\x01"
    longer_nack = b"\x0b\x81\xa5SeqNo\xcd\x01\x00"
    assert worth_keeping(target, [], {longer_nack, nack}) == [nack]
    assert worth_keeping(target, [longer_nack], {nack}) == []
    assert worth_keeping(target, [nack], {ping, nack}) == [ping]


def test_json_stays_json_when_it_is_changed() -> None:
    document = json.dumps({"a": {"b": [1, "x"]}, "c": None}).encode()
    changed = {mutate_json(document, Random(number)) for number in range(200)}
    assert len(changed) > 50
    for text in changed:
        assert text is not None
        json.loads(text)
    assert mutate_json(b"{", Random(1)) is None
