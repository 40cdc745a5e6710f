from __future__ import annotations

from typing import Any

import pytest

import crds
from wesher_operator.crd import KINDS, definition
from wesher_operator.resources.node import WesherNode


@pytest.mark.parametrize("kind", KINDS)
def test_the_charts_crds_are_what_the_models_say(kind: type[Any]) -> None:
    """Run `make generate` when this fails."""
    assert crds.file_of(kind).read_text() == crds.text(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_of_a_spec_is_described(kind: type[Any]) -> None:
    schema = definition(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    assert undescribed(schema["spec"], "spec") + undescribed(schema["status"], "status") == []


def undescribed(schema: dict[str, Any], path: str) -> list[str]:
    found = [] if schema.get("description") else [path]
    for name, part in schema.get("items", schema).get("properties", {}).items():
        found += undescribed(part, f"{path}.{name}")
    return found


def test_nothing_that_an_agent_may_write_is_without_a_limit() -> None:
    """A node that was broken into could fill the store otherwise, or the operator's own status."""
    schema = definition(WesherNode)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    assert unlimited(schema["status"], "status") == []


def unlimited(schema: dict[str, Any], path: str) -> list[str]:
    match schema["type"]:
        case "object":
            return [
                each
                for name, part in schema["properties"].items()
                for each in unlimited(part, f"{path}.{name}")
            ]
        case "array":
            return ([] if "maxItems" in schema else [path]) + unlimited(schema["items"], f"{path}[]")
        case "string" if not schema.keys() & {"maxLength", "enum", "format"}:
            return [path]
    return []
