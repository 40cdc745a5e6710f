"""``docs/reference/json-output.md``: every field of ``-o json``, from the types and docstrings."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from itertools import pairwise
from types import NoneType, UnionType
from typing import Any, Literal, NotRequired, get_args, get_origin, get_type_hints, is_typeddict

from reference import FOLDER, code, page, prose, table
from schema_text import either
from wesher_agent.status.json_output import LeaveAnswer, MemberAnswer, StatusAnswer
from wesher_operator.kubectl.json_output import MeshOutput

PAGE = FOLDER / "json-output.md"
COMMANDS: dict[str, tuple[type, str]] = {
    "wesher status": (StatusAnswer, "one object"),
    "wesher members": (MemberAnswer, "a list with one object for each member; the local node is one of them"),
    "wesher leave": (LeaveAnswer, "one object, on one line"),
    "kubectl wesher status": (MeshOutput, "a list with one object for each mesh"),
}
"""What each command prints: the type of an object, and how many."""
_INTRODUCTION = """
These commands print JSON with `-o json`. Ignore fields that you do not know: a later release may add some. A
field is always there unless its type says "optional".
"""
_NAMES = {str: "string", int: "integer", float: "number", bool: "boolean", NoneType: "null"}


def text() -> str:
    """Return what the page should say."""
    return page(
        "JSON output",
        "the `json_output.py` of wesher_agent and wesher_operator",
        _INTRODUCTION,
        *(part for command in COMMANDS for part in _command(command)),
    )


def _command(command: str) -> Iterator[str]:
    shape, prints = COMMANDS[command]
    yield f"## {command}"
    yield f"`{command} -o json` prints {prints}."
    yield table(
        ("field", "type", "meaning"), ((code(p), kind, prose(doc)) for p, kind, doc in fields_of(shape))
    )


def fields_of(shape: type, path: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield path, type and meaning of each field of a TypedDict, and of those inside."""
    meanings = _docstrings(shape)
    for name, hint in get_type_hints(shape, include_extras=True).items():
        is_optional = get_origin(hint) is NotRequired
        kind = get_args(hint)[0] if is_optional else hint
        here = f"{path}{name}"
        yield here, f"{_text(kind)}{', optional' if is_optional else ''}", meanings[name]
        is_list = get_origin(kind) is list
        for item in get_args(kind) if is_list or get_origin(kind) is UnionType else (kind,):
            if is_typeddict(item):
                yield from fields_of(item, f"{here}[]." if is_list else f"{here}.")


def _text(kind: Any, many: str = "") -> str:
    if name := "object" if is_typeddict(kind) else _NAMES.get(kind):
        return f"{name}{many}"
    match get_origin(kind), get_args(kind):
        case origin, (item,) if origin is list:
            return f"list of {_text(item, 's')}"
        case origin, (_, value) if origin is dict:
            return f"map of strings to {_text(value, 's')}"
        case origin, choices if origin is Literal:
            return either([code(choice) for choice in choices])
        case origin, choices if origin is UnionType:
            return " or ".join(_text(choice, many) for choice in choices)
    raise TypeError(f"no words for {kind}")


def _docstrings(shape: type) -> dict[str, str]:
    """Return the string below each field of a class."""
    (body,) = ast.parse(inspect.getsource(shape)).body
    found = {}
    for field, below in pairwise(ast.iter_child_nodes(body)):
        match field, below:
            case ast.AnnAssign(target=ast.Name(name)), ast.Expr(ast.Constant(str() as meaning)):
                found[name] = meaning
    return found


if __name__ == "__main__":
    PAGE.write_text(text())
