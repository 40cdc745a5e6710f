"""Makes the CustomResourceDefinitions out of the models in `resources`.

The operator applies them, and ``make generate`` writes them into the chart.
"""

from __future__ import annotations

from typing import Any

from wesher_common.names import GROUP, RELEASE_ANNOTATION, VERSION
from wesher_common.version import VERSION as RELEASE
from wesher_operator.resources import rules
from wesher_operator.resources.mesh import WesherMesh
from wesher_operator.resources.node import WesherNode
from wesher_operator.resources.parts import Column
from wesher_operator.resources.peer import WesherPeer

CustomResource = type[WesherMesh | WesherNode | WesherPeer]
KINDS: tuple[CustomResource, ...] = (WesherMesh, WesherNode, WesherPeer)


def definition(kind: CustomResource) -> dict[str, Any]:
    """Return the CustomResourceDefinition of one kind."""
    schema = kind.model_json_schema(by_alias=True)
    parts = schema.get("$defs", {})
    spec = _structural(schema["properties"]["spec"], parts, defaults=True)
    status = _structural(schema["properties"]["status"], parts, defaults=False)
    root: dict[str, Any] = {
        "type": "object",
        "description": kind.__doc__,
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": status,
        },
        **kind.rules,
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        # By it `kubectl wesher doctor` sees definitions that an upgrade left behind.
        "metadata": {"name": f"{kind.plural}.{GROUP}", "annotations": {RELEASE_ANNOTATION: RELEASE}},
        "spec": {
            "group": GROUP,
            "scope": "Cluster",
            "names": {
                "kind": kind.__name__,
                "listKind": f"{kind.__name__}List",
                "plural": kind.plural,
                "singular": kind.__name__.lower(),
                "shortNames": [kind.short_name],
                "categories": ["wesher"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": root},
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [_column(column) for column in kind.columns],
                }
            ],
        },
    }


def _column(column: Column) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": column.name, "type": column.type, "jsonPath": column.path}
    if column.wide:
        entry["priority"] = 1
    return entry


def _structural(node: dict[str, Any], parts: dict[str, Any], *, defaults: bool) -> dict[str, Any]:
    """Return a JSON schema as Kubernetes wants it: no references, no unions, no titles.

    A status carries no defaults: what its writer did not say stays absent. Its texts hold
    no control character: an agent writes some, and its node may have been broken into.
    """
    node = _resolved(node, parts)
    result = {key: value for key, value in node.items() if key not in {"title", "$defs"}}
    if not defaults or result.get("default", ...) == "":
        result.pop("default", None)
    fields, default = result.get("properties") or {}, result.get("default")
    if (
        fields
        and isinstance(default, dict)
        and all(fields[k].get("default", ...) == default[k] for k in default)
    ):
        result["default"] = {}  # the API server fills in the fields' own defaults
    if "const" in result:
        result["enum"] = [result.pop("const")]
    if not defaults and result.get("type") == "string" and result.keys().isdisjoint({"enum", "format"}):
        result = {**rules.PRINTABLE, **result}
    if result.get("type") == "integer":
        result["format"] = "int64"
    if "properties" in result:
        result["properties"] = {
            name: _structural(part, parts, defaults=defaults) for name, part in result["properties"].items()
        }
    for inner in ("items", "additionalProperties"):
        if isinstance(result.get(inner), dict):
            result[inner] = _structural(result[inner], parts, defaults=defaults)
    return result


def _resolved(node: dict[str, Any], parts: dict[str, Any]) -> dict[str, Any]:
    """Return a schema with what it refers to, and without its choice of nothing."""
    if "anyOf" in node:  # only ever `X | None`: absent is how Kubernetes says None
        (concrete,) = (choice for choice in node["anyOf"] if choice.get("type") != "null")
        node = {**{k: v for k, v in node.items() if k not in {"anyOf", "default"}}, **concrete}
    if "$ref" in node:
        target = parts[node["$ref"].rpartition("/")[2]]
        node = {**target, **{key: value for key, value in node.items() if key != "$ref"}}
    return node
