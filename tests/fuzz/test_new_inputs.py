"""Inputs nobody has thought of: found by atheris, which goes on from those that reach new code.

The short form tries the same inputs each time; the long one (``make soak``) throws other dice.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from wesher_testing.fuzz.fuzzer import fuzz, is_quick, kept
from wesher_testing.fuzz.targets import TARGETS
from wesher_testing.run.soak import soaking

INPUTS = int(soaking(20_000, 1_000_000))
TIMEOUT = soaking(300.0, 4 * 3600.0)
BLOCKS = 2000
"""Memory blocks by which Python may grow from half time to the end: a tenth of one for each input."""
RESIDENT_KIB = 32 * 1024

needs_atheris = pytest.mark.skipif(
    find_spec("atheris") is None, reason="needs atheris, which has no wheel for this machine"
)


@needs_atheris
@pytest.mark.parametrize("name", TARGETS)
def test_new_inputs_are_read_or_refused_at_once(
    name: str, tmp_path: Path, say: Callable[[str], None]
) -> None:
    runs = INPUTS + len(kept(name))
    seed = int(soaking(1, 1 + secrets.randbelow(2**31 - 1)))

    outcome = fuzz(name, tmp_path, runs=runs, seed=seed, timeout=TIMEOUT)

    culprit = "" if outcome.culprit is None else f"\ninput, to be kept in the corpus: {outcome.culprit.hex()}"
    assert not outcome.complaint, f"seed {seed}: {outcome.complaint}{culprit}"
    assert outcome.report is not None
    assert outcome.report.runs == runs
    # Instrumented code is several times slower, so what was slow there is tried as it runs in an agent.
    assert [data.hex() for data in outcome.slow if not is_quick(TARGETS[name], data)] == []
    assert outcome.report.blocks_grown <= BLOCKS
    assert outcome.report.resident_grown_kib <= RESIDENT_KIB
    more = outcome.report.blocks_grown
    say(f"{runs} inputs, {len(outcome.new)} reached new code, {more} memory blocks more")
