"""``docs/reference/custom-resources.md``: every field of the custom resources, from their definitions."""

from __future__ import annotations

from collections.abc import Iterator

import yaml

from reference import FOLDER, code, page, prose, table
from schema_text import Schema, default_of, is_long, type_of
from wesher_common.names import GROUP, VERSION
from wesher_operator.crd import KINDS, CustomResource, definition
from wesher_operator.resources.mesh import WesherMesh
from wesher_operator.resources.node import WesherNode
from wesher_operator.resources.peer import WesherPeer
from wesher_operator.resources.rules import PRINTABLE

PAGE = FOLDER / "custom-resources.md"
_INTRODUCTION = f"""
The API is `{GROUP}/{VERSION}`, and all kinds are cluster-scoped. `kubectl explain wmesh.spec` shows the same
fields. The API server refuses an object that breaks a rule. A text in a status has no control characters.
[Conditions](conditions.md) lists what `status.conditions` can say.
"""
_LONGEST_PATH = 70
_WRITERS = {
    WesherMesh: "You write the spec, and the operator writes the status.",
    WesherNode: "The operator writes the spec, and the node's agent writes the status. Edit neither.",
    WesherPeer: "An administrator writes the spec, and the operator writes the status.",
}


def text() -> str:
    """Return what the page should say."""
    sections = (part for kind in KINDS for part in _kind(kind))
    return page("Custom resources", "operator/wesher_operator/resources/", _INTRODUCTION, *sections)


def _kind(kind: CustomResource) -> Iterator[str]:
    spec = definition(kind)["spec"]
    root = spec["versions"][0]["schema"]["openAPIV3Schema"]
    yield f"## {kind.__name__}"
    yield f"{prose(root['description'])} {_WRITERS[kind]}"
    names = [spec["names"]["plural"], *spec["names"]["shortNames"]]
    yield f"kubectl knows it as {' and '.join(map(code, names))}.{_rules(root)}"
    for part in ("spec", "status"):
        schema = root["properties"][part]
        fields = list(_fields(schema))
        yield f"### {kind.__name__} {part}"
        yield f"{prose(schema['description'])}{_rules(schema)}"
        if part == "status":
            rows = ((_shown(path), type_of(each), _meaning(each)) for path, each, _ in fields)
            yield table(("field", "type", "meaning"), rows)
        else:
            spec_rows = ((_shown(path), type_of(each), given, _meaning(each)) for path, each, given in fields)
            yield table(("field", "type", "default", "meaning"), spec_rows)
            yield from _long_defaults(fields)


def _fields(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema, str]]:
    """Yield each field below an object: its path, its schema, and its default or that it is required."""
    for name, field in schema.get("properties", {}).items():
        here = f"{path}{name}"
        given = default_of(field.get("default"))
        if name in schema.get("required", ()):
            given = "required"
        elif given:
            given = "see below" if is_long(given) else code(given)
        yield here, field, given
        yield from _fields(field, f"{here}.")
        yield from _fields(field.get("items", {}), f"{here}[].")


def _long_defaults(fields: list[tuple[str, Schema, str]]) -> Iterator[str]:
    for path, field, given in fields:
        if given == "see below":
            yield f"The default of `{path}`:"
            yield f"```yaml\n{yaml.safe_dump(field['default'], sort_keys=False)}```"


def _meaning(field: Schema) -> str:
    inner = (each for key in ("items", "additionalProperties") if (each := field.get(key)))
    return prose(str(field["description"])) + _rules(field) + "".join(_rules(each, "Each") for each in inner)


def _rules(schema: Schema, subject: str = "It") -> str:
    """Return the rules of a value as sentences, each with a space before it."""
    sentences = [_sentence(rule, subject) for rule in schema.get("x-kubernetes-validations", ())]
    pattern = schema.get("pattern", PRINTABLE["pattern"])
    if pattern != PRINTABLE["pattern"]:
        sentences.append(f"{subject} must match `{pattern}`")
    return "".join(f" {each.removesuffix('.')}." for each in sentences)


def _sentence(rule: dict[str, str], subject: str) -> str:
    message, field = prose(rule["message"]), code(rule.get("fieldPath", "").lstrip("."))
    if message.startswith(("must ", "is ")):
        return f"{field or subject} {message}"
    is_path = "." in message.partition(" ")[0]
    return f"{field}: {message}" if field else message if is_path else message[0].upper() + message[1:]


def _shown(path: str) -> str:
    """Return a path without its first parts if it is too long for a table; the rows above have them."""
    shown = path
    while len(shown) > _LONGEST_PATH and "." in shown:
        shown = shown.partition(".")[2]
    return code(path if shown == path else f"….{shown}")


if __name__ == "__main__":
    PAGE.write_text(text())
