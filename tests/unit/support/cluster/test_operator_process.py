"""Waiting for what a system does in its own time, on a machine that may stand still meanwhile."""

from __future__ import annotations

import itertools
import time

import pytest

from wesher_testing.cluster.operator_process import eventually


def test_the_first_right_answer_is_returned() -> None:
    assert eventually(itertools.count().__next__, within=60, until=lambda number: number == 2) == 2


def test_one_more_look_is_taken_after_the_time_is_over() -> None:
    answers = iter(["no", "yes"])

    def slow() -> str:
        time.sleep(0.05)  # as on a machine that has other things to do
        return next(answers)

    assert eventually(slow, within=0.01, until="yes".__eq__) == "yes"


def test_the_last_answer_is_told_where_none_was_right() -> None:
    with pytest.raises(AssertionError, match=r"timed out after 0 s; the last answer was 'no'"):
        eventually(lambda: "no", within=0, until="yes".__eq__)
