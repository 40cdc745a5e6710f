"""Whatever others can make a member remember or do has a limit, and each limit a test that reaches it."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from wesher_agent.swim.profile import Limits

TESTS = "\n".join(path.read_text() for path in Path(__file__).parents[1].rglob("test_*.py"))


def test_every_limit_of_the_engine_is_one_that_a_test_sets_or_asks_for() -> None:
    """Those of the decoders are gone through in `tests/unit/wire/test_decoder_limits.py`."""
    names = [field.name for field in fields(Limits)]
    assert [n for n in names if not re.search(rf"DEFAULT_LIMITS, {n}=|DEFAULT_LIMITS\.{n}\b", TESTS)] == []
