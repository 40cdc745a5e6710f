"""How the reference pages say what a JSON schema lets a value be."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

Schema = dict[str, Any]
_LONGEST = 40
"""Characters of a default in a cell of a table."""
_PLURAL = {kind: f"{kind}s" for kind in ("boolean", "integer", "number", "object", "string")}


def type_of(schema: Schema) -> str:
    """Return the type and the limits of a value, such as ``integer, 1 to 65535``."""
    if "enum" in schema:
        return either([f"`{choice}`" if choice != "" else "empty" for choice in schema["enum"]])
    kind = schema.get("type", "any")
    if isinstance(kind, list):
        return either(kind)
    if kind == "array":
        return f"list of {_many(schema.get('items', {}))}{_size(schema, 'Items', '')}"
    if kind == "object" and isinstance(values := schema.get("additionalProperties"), dict):
        return f"map of strings to {_many(values)}{_size(schema, 'Properties', 'entries')}"
    if kind == "string":
        form = ", RFC 3339 time" if schema.get("format") == "date-time" else ""
        return f"string{form}{_size(schema, 'Length', 'characters')}"
    return f"{kind}{_range(schema)}"


def default_of(value: Any) -> str:
    """Return a default as it is written; empty if there is none, or if only the fields inside have one."""
    if value in ("", {}, [], None):
        return ""
    return json.dumps(value) if isinstance(value, (list, dict, bool)) else str(value)


def is_long(default: str) -> bool:
    """Tell whether a default is too long for a table."""
    return len(default) > _LONGEST


def either(choices: Sequence[str]) -> str:
    """Return choices as `a, b or c`."""
    return " or ".join(filter(None, (", ".join(choices[:-1]), choices[-1])))


def _many(schema: Schema) -> str:
    if "enum" in schema:
        return type_of(schema)
    kind = schema["type"]
    if isinstance(kind, list):
        return either([_PLURAL[each] for each in kind])
    return f"{_PLURAL[kind]}{_size(schema, 'Length', 'characters each')}"


def _size(schema: Schema, what: str, unit: str) -> str:
    least, most = schema.get(f"min{what}", 0), schema.get(f"max{what}")
    if least and least == most:
        text = f"exactly {most}"
    elif least and most:
        text = f"{least} to {most}"
    elif most:
        text = f"at most {most}"
    elif least == 1:
        return ", not empty"
    elif least:
        text = f"at least {least}"
    else:
        return ""
    return f", {text} {unit}".rstrip()


def _range(schema: Schema) -> str:
    match schema.get("minimum"), schema.get("maximum"):
        case None, None:
            return ""
        case least, None:
            return f", at least {least}"
        case least, most:
            return f", {least} to {most}"
