"""The line that the set-up prints for each tool, which the runner reads."""

from __future__ import annotations

import json

import pytest

from wesher_testing.run import ring_tools
from wesher_testing.run.cache import ToolUnavailable


def lacking() -> None:
    raise ToolUnavailable("no compiler here")


def broken() -> None:
    raise KeyError("compiler")


def interrupted() -> None:
    raise KeyboardInterrupt


def test_every_tool_is_reported_the_quick_ones_first_also_after_one_that_cannot_be_had(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ring_tools, "TOOLS", {"a": lacking, "b": broken, "c": lambda: None})
    assert ring_tools.main(["c", "b", "a"]) == 0
    said = capsys.readouterr()
    assert [json.loads(line) for line in said.out.splitlines()] == [
        {"tool": "a", "lacking": "no compiler here"},
        {"tool": "b", "broken": "KeyError: 'compiler'"},
        {"tool": "c"},
    ]
    assert "Traceback" in said.err


def test_an_interrupt_ends_the_set_up_without_a_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ring_tools, "TOOLS", {"a": interrupted, "b": pytest.fail})
    assert ring_tools.main(["a", "b"]) == 130
    assert capsys.readouterr() == ("", "")
