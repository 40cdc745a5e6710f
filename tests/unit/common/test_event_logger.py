"""How the log lines of both programs look."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from ipaddress import ip_address
from typing import NamedTuple

import pytest

from wesher_common.event_logger import (
    FORMATS,
    LIBRARY_BURST,
    LIBRARY_SECONDS,
    RESERVED_KEYS,
    Budget,
    EventLogger,
    LogEvent,
    formatter,
)
from wesher_common.keys import ClusterKey, KeyRing, WireGuardPrivateKey


class Address(NamedTuple):
    """A tuple that says how it is written."""

    ip: str
    port: int

    def __str__(self) -> str:
        """Return the usual form."""
        return f"{self.ip}:{self.port}"


def record(message: object, *args: object, broken: bool = False) -> logging.LogRecord:
    exc_info = None
    if broken:
        try:
            int("b\nforged")
        except ValueError:
            exc_info = sys.exc_info()
    made = logging.LogRecord("wesher.agent", logging.WARNING, "file.py", 1, message, args, exc_info)
    made.created = 1_800_000_000.25
    return made


def as_text(event: str, /, **fields: object) -> str:
    line = formatter("text").format(record(LogEvent(event, fields)))
    head = "2027-01-15T08:00:00.250+00:00 WARNING wesher.agent: "
    assert line.startswith(head)
    return line.removeprefix(head)


def as_json(event: str, /, **fields: object) -> dict[str, object]:
    line = formatter("json").format(record(LogEvent(event, fields)))
    assert "\n" not in line
    read: dict[str, object] = json.loads(line)
    return read


@pytest.fixture
def logger() -> Iterator[tuple[logging.Logger, io.StringIO]]:
    """Return a logger of its own, and what it writes as text."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter("text"))
    made = logging.getLogger("wesher.test-of-lines")
    made.addHandler(handler)
    made.propagate = False
    made.setLevel(logging.INFO)
    yield made, stream
    made.removeHandler(handler)


def test_text_is_a_line_for_people() -> None:
    assert as_text("member failed", node="b", confirmations=2) == "member failed node=b confirmations=2"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("", '""'),
        ("two words", '"two words"'),
        ("a=b", '"a=b"'),
        ('say "hi"', r'"say \"hi\""'),
        ("back\\slash", "back\\slash"),
        ("back \\slash", r'"back \\slash"'),
        ("line\nforged=1", r'"line\nforged=1"'),
        ("\x1b[31m\x7f\u2028\u202e\udce4", r'"\u001b[31m\u007f\u2028\u202e\udce4"'),
        ("ü→", "ü→"),
        (None, "-"),
        (True, "true"),
        (60.0, "60"),
        (0.125, "0.125"),
        (2**32 - 1, "4294967295"),
        (ip_address("fd00::1"), "fd00::1"),
        (["a", "b"], "a,b"),
        (("a", 1, None), "a,1,-"),
        (["a b"], '"a b"'),
        ([], "-"),
        (Address("10.0.0.1", 7946), "10.0.0.1:7946"),
        (TimeoutError(), "TimeoutError"),
        (OSError("no way"), '"no way"'),
    ],
)
def test_a_value_that_could_be_misread_is_quoted_as_json_quotes_it(value: object, text: str) -> None:
    assert as_text("x", key=value) == f"x key={text}"
    if text.startswith('"'):
        original = ",".join(value) if isinstance(value, list) else str(value)
        assert json.loads(text) == original


def test_json_has_each_field_under_its_key_with_its_type() -> None:
    assert as_json("device ready", mtu=1420, kernel=False, peers=["a", ip_address("10.0.0.1")], by=None) == {
        "time": "2027-01-15T08:00:00.250+00:00",
        "level": "warning",
        "logger": "wesher.agent",
        "event": "device ready",
        "mtu": 1420,
        "kernel": False,
        "peers": ["a", "10.0.0.1"],
        "by": None,
    }


def test_json_is_one_object_a_line_whatever_a_value_holds() -> None:
    assert as_json("x", node='b"\nü\x1b')["node"] == 'b"\nü\x1b'


def test_a_field_cannot_replace_what_every_line_has() -> None:
    fields = as_json("x", **dict.fromkeys(RESERVED_KEYS, "forged"))
    assert [fields[f"{key}_"] for key in sorted(RESERVED_KEYS)] == ["forged"] * len(RESERVED_KEYS)
    assert (fields["event"], fields["level"]) == ("x", "warning")


def test_a_key_may_be_called_as_a_parameter_of_the_logger(
    logger: tuple[logging.Logger, io.StringIO],
) -> None:
    EventLogger(logger[0].name).info("x", event="y", self="z", msg=1, exc_info=2)
    assert logger[1].getvalue().endswith(": x event=y self=z msg=1 exc_info=2\n")


@pytest.mark.parametrize("log_format", FORMATS)
def test_no_key_is_shown(log_format: str) -> None:
    secret = bytes(range(32))
    key, private = ClusterKey(secret), WireGuardPrivateKey(secret)
    holders = [key, private, KeyRing(key, (ClusterKey(secret[::-1]),)), [key], (private,), secret, [secret]]
    for value in holders:
        line = formatter(log_format).format(record(LogEvent("x", {"value": value})))
        for shown in (
            key.reveal_base64(),
            private.reveal_base64(),
            secret.hex(),
            repr(secret),
            repr(secret[::-1]),
            "\\u0002",
        ):
            assert shown not in line


def test_a_traceback_has_its_own_key_in_json() -> None:
    line = formatter("json").format(record(LogEvent("engine failed", {}), broken=True))
    assert "\n" not in line
    assert "invalid literal for int() with base 10" in json.loads(line)["traceback"]


def test_a_traceback_follows_indented_in_text() -> None:
    first, *more = formatter("text").format(record(LogEvent("engine failed", {}), broken=True)).split("\n")
    assert first.endswith(": engine failed")
    assert more[0] == "  Traceback (most recent call last):"
    assert all(line.startswith("  ") for line in more)


def test_what_a_library_says_is_the_event_and_stays_on_its_line() -> None:
    said = record("request to %s failed:\n%s", "x=1", "why")
    assert formatter("text").format(said).endswith(r" WARNING wesher.agent: request to x=1 failed:\nwhy")
    assert json.loads(formatter("json").format(said))["event"] == "request to x=1 failed:\nwhy"


def test_any_other_formatter_prints_the_fields_too() -> None:
    assert logging.Formatter("%(message)s").format(record(LogEvent("x", {"key": "a b"}))) == 'x key="a b"'


class Costly:
    """A value that must not be asked for its text in vain."""

    def __str__(self) -> str:
        """Refuse."""
        raise AssertionError("asked")


def test_a_level_that_is_off_costs_no_text(logger: tuple[logging.Logger, io.StringIO]) -> None:
    EventLogger(logger[0].name).debug("x", key=Costly())
    assert logger[1].getvalue() == ""


def test_each_level_has_its_method(logger: tuple[logging.Logger, io.StringIO]) -> None:
    logger[0].setLevel(logging.DEBUG)
    log = EventLogger(logger[0].name)
    for write in (log.debug, log.info, log.warning, log.error):
        write("x")
    try:
        raise ValueError("why")  # noqa: TRY301 - the exception that is handled
    except ValueError:
        log.exception("y", key=1)
    lines = logger[1].getvalue().splitlines()
    levels = ["DEBUG", "INFO", "WARNING", "ERROR", "ERROR"]
    assert [line.split()[1] for line in lines if not line.startswith(" ")] == levels
    assert lines[-1] == "  ValueError: why"


def test_the_record_names_the_line_that_wrote_it(caplog: pytest.LogCaptureFixture) -> None:
    EventLogger("wesher.test-of-places").warning("x")
    assert caplog.records[0].funcName == test_the_record_names_the_line_that_wrote_it.__name__


def test_what_a_library_writes_has_a_budget_and_says_how_much_was_dropped() -> None:
    budget = Budget()

    def record(at: float) -> logging.LogRecord:
        made = logging.LogRecord("asyncio", logging.ERROR, "", 1, "cannot %s", ("accept",), None)
        made.created = at
        return made

    assert sum(budget.filter(record(1000.0)) for _ in range(10 * LIBRARY_BURST)) == LIBRARY_BURST
    later = record(1000.0 + LIBRARY_SECONDS)
    assert budget.filter(later)
    assert later.getMessage() == f"cannot accept ({9 * LIBRARY_BURST} earlier messages dropped)"
    assert not budget.filter(record(1000.0 + LIBRARY_SECONDS))
