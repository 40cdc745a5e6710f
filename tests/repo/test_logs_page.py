"""``docs/logs.md`` lists each event of both programs, and every call that logs has the form of an event."""

from __future__ import annotations

import ast

import pytest

from wesher_testing.run.log_events import (
    COMMON,
    PROGRAMS,
    NotAnEvent,
    documented,
    events_in,
    events_of,
)
from wesher_testing.run.toolbox import REPOSITORY

PAGE = REPOSITORY / "docs/logs.md"
BAD = {
    "a value in the text": 'log.info(f"member {name} failed")',
    "no literal": "log.info(text)",
    "an argument without a key": 'log.info("member failed", node)',
    "keys that nobody can list": 'log.info("member failed", **fields)',
    "a key that every line has": 'log.info("member failed", time=3)',
    "a key in the text": 'log.info("member failed node=b")',
    "no lower case": 'log.info("Member failed")',
    "a full stop": 'log.info("member failed.")',
    "no level's method": 'log.log(30, "member failed")',
    "a chosen method that is none": '(log.info if good else log.warn)("member failed")',
    "an attribute": 'self._log.info("member %s failed")',
    "the root logger": 'logging.warning("member failed")',
    "a plain logger": 'log = logging.getLogger("wesher.tunnel")',
    "a plain logger by its module": "log = logging.getLogger(__name__)",
    "a function of logging": "from logging import getLogger",
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_page_lists_every_event_with_its_level_and_keys_and_no_other(program: str) -> None:
    logged, listed = events_of(program), list(documented(PAGE, program))
    assert len(logged) > 20
    assert sorted(map(str, logged - set(listed))) == [], "these are not on the page"
    assert sorted(map(str, set(listed) - logged)) == [], "nothing writes these"
    assert len(listed) == len(set(listed))


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_page_is_in_the_order_of_the_alphabet(program: str) -> None:
    texts = [event.text for event in documented(PAGE, program)]
    assert texts == sorted(texts)


def test_what_both_programs_share_logs_nothing_itself() -> None:
    for path in (REPOSITORY / COMMON).rglob("*.py"):
        if path.name != "event_logger.py":
            assert list(events_in(ast.parse(path.read_text()), path.name)) == []


@pytest.mark.parametrize("call", BAD.values(), ids=BAD)
def test_a_call_of_another_form_is_refused(call: str) -> None:
    with pytest.raises(NotAnEvent):
        list(events_in(ast.parse(call), "module.py"))


def test_a_librarys_logger_may_be_set_up() -> None:
    setting_up = 'logging.getLogger("kopf").setLevel(30)\nlogging.getLogger().handlers\n'
    assert list(events_in(ast.parse(setting_up), "module.py")) == []
