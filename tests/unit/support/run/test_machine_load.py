"""How limits follow the machine's load, and how far."""

from __future__ import annotations

import os

import pytest

from wesher_testing.run.machine_load import STRETCH_AT_MOST, stretched

CORES = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("loads", "stretch"),
    [
        ((0.0, 0.0), 1.0),
        ((2.0, 1.0), 1.0),
        ((4.0, 1.0), 2.0),
        ((1.0, 4.0), 2.0),
        ((100.0, 1.0), STRETCH_AT_MOST),
    ],
    ids=["idle", "the tests' own", "now", "minutes ago", "beyond all measure"],
)
def test_a_limit_is_stretched_as_the_machine_is_overloaded_and_no_further(
    monkeypatch: pytest.MonkeyPatch, loads: tuple[float, float], stretch: float
) -> None:
    a_minute, five_minutes = (load * CORES for load in loads)
    monkeypatch.setattr(os, "getloadavg", lambda: (a_minute, five_minutes, 0.0))

    assert stretched(10.0) == pytest.approx(10.0 * stretch)
