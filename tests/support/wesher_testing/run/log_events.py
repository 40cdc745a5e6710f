"""The events that both programs write to their log, collected from their code.

``docs/logs.md`` lists them; `tests/repo` holds the page and the code together.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from wesher_common.event_logger import RESERVED_KEYS
from wesher_testing.run.toolbox import REPOSITORY

PROGRAMS = {"wesher": "agent/wesher_agent", "wesher-operator": "operator/wesher_operator"}
COMMON = "common/wesher_common"
LEVELS = {
    "trace": "trace",
    "debug": "debug",
    "info": "info",
    "warning": "warning",
    "error": "error",
    "exception": "error",
}
"""The level at which each method of a logger writes."""
LOGGERS = frozenset({"log", "_log"})
"""What a variable or attribute that holds a logger is called."""
FUNCTIONS = frozenset({*LEVELS, "critical", "log"})
"""What writes to the root logger."""


@dataclass(frozen=True, slots=True, order=True)
class LoggedEvent:
    """One event of a program at one level."""

    text: str
    level: str
    keys: tuple[str, ...]
    """In the order in which they are written."""
    traceback: bool = False


class NotAnEvent(Exception):  # noqa: N818 - reads as the fact it states
    """A call writes to the log in another way than the rules allow; the text says where and why."""


@cache
def events_of(program: str) -> frozenset[LoggedEvent]:
    """Return every event of ``wesher`` or ``wesher-operator``.

    Raises:
        NotAnEvent: a call breaks a rule.

    """
    return frozenset(
        event
        for path in sorted((REPOSITORY / PROGRAMS[program]).rglob("*.py"))
        for event in events_in(ast.parse(path.read_text()), path.relative_to(REPOSITORY).as_posix())
    )


def events_in(module: ast.Module, place: str) -> Iterator[LoggedEvent]:
    """Yield the events that one module writes.

    Args:
        module: parsed.
        place: its path, for the error.

    Raises:
        NotAnEvent: a call breaks a rule.

    """
    for node in ast.walk(module):
        match node:
            case ast.Call(func=ast.Attribute(ast.Name("logging"), "getLogger"), args=arguments):
                if not _names_library(arguments):
                    raise NotAnEvent(f"{place}:{node.lineno}: use EventLogger, not logging.getLogger")
            case ast.Call(func=ast.Attribute(ast.Name("logging"), function)) if function in FUNCTIONS:
                raise NotAnEvent(f"{place}:{node.lineno}: logging.{function} has no fields")
            case ast.ImportFrom("logging"):
                raise NotAnEvent(
                    f"{place}:{node.lineno}: use `import logging`: imported functions are not checked"
                )
            case ast.Call(func=ast.Attribute() | ast.IfExp() as function):
                for method in _methods(function):
                    if method == "is_enabled_for":
                        continue
                    yield _event(node, method, f"{place}:{node.lineno}")


def _names_library(arguments: list[ast.expr]) -> bool:
    """Tell whether a logger is a library's, or the root: those may be set up, not written to."""
    match arguments:
        case [] | [ast.Name("library")]:
            return True
        case [ast.Constant(str(name))]:
            return name.partition(".")[0] != "wesher"
    return False


def _methods(function: ast.expr) -> Iterator[str]:
    """Yield the method of a logger that an expression names, or both between which it chooses."""
    match function:
        case ast.Attribute(ast.Name(name) | ast.Attribute(attr=name), method) if name in LOGGERS:
            yield method
        case ast.IfExp(body=body, orelse=orelse):
            yield from _methods(body)
            yield from _methods(orelse)


def _event(call: ast.Call, method: str, place: str) -> LoggedEvent:
    if method not in LEVELS:
        raise NotAnEvent(f"{place}: .{method} is not one of {', '.join(LEVELS)}")
    match call.args:
        case [ast.Constant(str(text))]:
            pass
        case _:
            raise NotAnEvent(f"{place}: an event must be one string literal; put what varies into fields")
    keys = tuple(keyword.arg or "**" for keyword in call.keywords)
    if "**" in keys or RESERVED_KEYS & set(keys):
        raise NotAnEvent(f"{place}: a field key must be a name other than {', '.join(RESERVED_KEYS)}")
    if text != text.strip().rstrip(".") or "%" in text or "=" in text or text[:1].isupper():
        raise NotAnEvent(f"{place}: {text!r} is not a plain lower-case event")
    return LoggedEvent(text, LEVELS[method], keys, traceback=method == "exception")


def documented(page: Path, program: str) -> Iterator[LoggedEvent]:
    """Yield the events that the page's table of a program lists."""
    section = page.read_text().partition(f"\n## `{program}`\n")[2].partition("\n## ")[0]
    for line in section.splitlines():
        if not line.startswith("| `"):
            continue
        event, level, keys, _ = (cell.strip() for cell in line.strip("|").split("|"))
        names = tuple(key.strip("` ") for key in keys.split(",") if key.strip())
        yield LoggedEvent(
            event.strip("`"),
            level,
            tuple(name for name in names if name != "traceback"),
            traceback="traceback" in names,
        )


def is_logged(line: str) -> bool:
    """Tell whether a line such as ``member failed node=… by=…`` is written; a last ``…`` is any rest."""
    words = line.split()
    keys = tuple(word.removesuffix("=…") for word in words if word.endswith("=…"))
    text = " ".join(word for word in words if not word.endswith("…"))
    events = {event for program in PROGRAMS for event in events_of(program)}
    return any(
        event.text == text and (event.keys == keys or (words[-1] == "…" and event.keys[: len(keys)] == keys))
        for event in events
    )
