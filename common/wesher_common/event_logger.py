"""How both programs write their log: a fixed text an event, and everything that varies as fields.

``log.warning("member failed", node="b", confirmations=2)`` becomes one line of
text, ``member failed node=b confirmations=2``, or one JSON object with the same
keys. Records of libraries pass through the same formatters. Which events exist
is listed in ``docs/logs.md``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeAlias

from wesher_common.printable import is_printable, printable

FORMATS = ("text", "json")
TRACE = 5
"""The level below ``logging.DEBUG``: one line a datagram."""
RESERVED_KEYS = frozenset({"time", "level", "logger", "event", "traceback"})
"""What every JSON object may hold beside an event's own fields."""

LIBRARY_BURST = 20
"""Records of asyncio that may come at once."""
LIBRARY_SECONDS = 60.0
"""Seconds to a record in the long run."""

Plain: TypeAlias = "str | int | float | bool | list[Plain] | None"


@dataclass(frozen=True, slots=True)
class LogEvent:
    """The message of a log record; as text it is the event and its fields, so any formatter can print it."""

    event: str
    fields: Mapping[str, object]

    def __str__(self) -> str:
        """Return ``event key=value …``, always without a line break."""
        return " ".join((printable(self.event), *(f"{k}={_text(_plain(v))}" for k, v in self.fields.items())))

    def plain_fields(self) -> dict[str, Plain]:
        """Return the fields as JSON can hold them; a key that is reserved gets an underscore."""
        return {f"{k}_" if k in RESERVED_KEYS else k: _plain(v) for k, v in self.fields.items()}


class EventLogger:
    """Writes events under one logger's name.

    An event is a literal. Fields are numbers, truth values, text, lists of
    them, or whatever has a readable ``str``, such as an address or an error.

    Args:
        name: such as ``wesher.tunnel``.

    """

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def trace(self, event: str, /, **fields: object) -> None:
        """Write what happens for each datagram. Ask `is_enabled_for` once for many calls."""
        self.write(TRACE, event, fields)

    def debug(self, event: str, /, **fields: object) -> None:
        """Write what is needed only to debug wesher."""
        self.write(logging.DEBUG, event, fields)

    def info(self, event: str, /, **fields: object) -> None:
        """Write what an administrator may want to look up later."""
        self.write(logging.INFO, event, fields)

    def warning(self, event: str, /, **fields: object) -> None:
        """Write what an administrator should know."""
        self.write(logging.WARNING, event, fields)

    def error(self, event: str, /, **fields: object) -> None:
        """Write what an administrator must act on."""
        self.write(logging.ERROR, event, fields)

    def exception(self, event: str, /, **fields: object) -> None:
        """Write a fault of wesher's own as an error, with the traceback of the exception being handled."""
        self.write(logging.ERROR, event, fields, with_traceback=True)

    def is_enabled_for(self, level: int) -> bool:
        """Tell whether events of a level are written."""
        return self._logger.isEnabledFor(level)

    def write(
        self, level: int, event: str, fields: Mapping[str, object], *, with_traceback: bool = False
    ) -> None:
        """Write an event at a level; the methods above are the way to call it."""
        if self._logger.isEnabledFor(level):
            # The record names the caller of `info` and the like.
            self._logger.log(level, LogEvent(event, fields), exc_info=with_traceback, stacklevel=3)


def log_to_stderr(level: int, log_format: str) -> None:
    """Send every record of at least a level to standard error, as ``text`` or ``json``."""
    handler = logging.StreamHandler()
    handler.setFormatter(formatter(log_format))
    logging.addLevelName(TRACE, "TRACE")
    logging.basicConfig(level=level, handlers=[handler])
    logging.getLogger("asyncio").addFilter(Budget())


def formatter(log_format: str) -> logging.Formatter:
    """Return the formatter of ``text`` or ``json``."""
    return _Json() if log_format == "json" else _Text()


class Budget(logging.Filter):
    """Passes `LIBRARY_BURST` records at once and one each `LIBRARY_SECONDS` in the long run; counts the rest.

    asyncio writes a traceback for each connection that it cannot accept, so another host or a lack
    of file descriptors would decide how much is written.
    """

    def __init__(self) -> None:
        super().__init__()
        self._records: float = LIBRARY_BURST
        """How many may pass now."""
        self._counted_at = 0.0
        self._dropped = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a record may be written."""
        passed = max(0.0, record.created - self._counted_at)
        self._counted_at = record.created
        self._records = min(LIBRARY_BURST, self._records + passed / LIBRARY_SECONDS)
        if self._records < 1:
            self._dropped += 1
            return False
        self._records -= 1
        if self._dropped:
            record.msg, record.args = f"{record.getMessage()} ({self._dropped} earlier messages dropped)", ()
            self._dropped = 0
        return True


class _Text(logging.Formatter):
    """``time LEVEL logger: event key=value``; a traceback follows on indented lines."""

    def format(self, record: logging.LogRecord) -> str:
        line = f"{_time(record)} {record.levelname} {record.name}: {printable(record.getMessage())}"
        if record.exc_info:
            # Indented, a line of an exception's text cannot be taken for another record.
            line += "".join(
                f"\n  {printable(row)}" for row in self.formatException(record.exc_info).split("\n")
            )
        return line


class _Json(logging.Formatter):
    """One object a line; whatever a record of a library says is its event."""

    def format(self, record: logging.LogRecord) -> str:
        ours = record.msg if isinstance(record.msg, LogEvent) else None
        fields: dict[str, Plain] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage() if ours is None else ours.event,
        }
        if ours is not None:
            fields |= ours.plain_fields()
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


def _plain(value: object) -> Plain:
    """Return a field's value as JSON can hold it."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case bytes() | bytearray() | memoryview():
            # Raw bytes may be a key, and tell a reader nothing.
            return f"<{len(value)} bytes>"
        case list() | tuple() if type(value) in {list, tuple}:
            # A named tuple, such as an address, has a text of its own.
            return [_plain(item) for item in value]
        case BaseException():
            # Some, such as TimeoutError, have no text.
            return str(value) or type(value).__name__
    return str(value)


def _text(value: Plain) -> str:
    """Return a value as it stands behind ``key=``; one that could be misread becomes a JSON string."""
    match value:
        case None | []:
            return "-"
        case bool():
            return "true" if value else "false"
        case float():
            return f"{value:.10g}"
        case list():
            return _text(",".join("-" if item is None else str(item) for item in value))
    text = str(value)
    if text and is_printable(text) and not any(mark in text for mark in ' "='):
        return text
    return '"' + "".join(f"\\{c}" if c in '"\\' else printable(c) for c in text) + '"'
