"""How an agent's log lines look."""

from __future__ import annotations

import json
import logging
import sys

from wesher_agent.runtime.log_format import formatter


def record(message: str, *args: object, broken: bool = False) -> logging.LogRecord:
    exc_info = None
    if broken:
        try:
            int("b")
        except ValueError:
            exc_info = sys.exc_info()
    made = logging.LogRecord("wesher.agent", logging.WARNING, "file.py", 1, message, args, exc_info)
    made.created = 1_800_000_000.25
    return made


def test_text_is_a_line_for_people() -> None:
    said = formatter("text").format(record("member failed node=%s", "b"))
    assert said.endswith(" WARNING wesher.agent: member failed node=b")


def test_json_is_one_object_a_line_whatever_the_message_holds() -> None:
    said = formatter("json").format(record("member failed node=%s", 'b"\nü'))
    assert "\n" not in said
    assert json.loads(said) == {
        "time": "2027-01-15T08:00:00.250+00:00",
        "level": "warning",
        "logger": "wesher.agent",
        "message": 'member failed node=b"\nü',
    }


def test_a_traceback_breaks_no_json_line() -> None:
    said = formatter("json").format(record("engine failed", broken=True))
    assert "\n" not in said
    assert json.loads(said)["traceback"].endswith("invalid literal for int() with base 10: 'b'")
