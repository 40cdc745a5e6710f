from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import chart_schema
import plain_manifests

KUBERNETES_OWN = {
    "affinity.nodeAffinity",
    "affinity.podAffinity",
    "affinity.podAntiAffinity",
    "extraEnv[].valueFrom",
    "extraObjects[]",
    "global",
    "resources.claims[]",
}
"""What the chart passes on and does not look into."""


def test_the_plain_manifests_are_the_chart_as_it_stands() -> None:
    """Run `make generate` when this fails."""
    assert plain_manifests.RENDERED.read_text().startswith(plain_manifests.head())


def test_the_charts_schema_knows_the_mesh_as_the_models_do() -> None:
    """Run `make generate` when this fails."""
    assert chart_schema.SCHEMA.read_text() == chart_schema.text()


def test_a_value_with_a_name_that_nobody_knows_is_refused_at_every_level() -> None:
    schema = json.loads(chart_schema.SCHEMA.read_text())
    taken = {path.removeprefix("operator.").removeprefix("agent.") for path in open_levels(schema)}
    assert taken == KUBERNETES_OWN


def open_levels(schema: dict[str, Any], path: str = "") -> Iterator[str]:
    """Yield where a mapping may have any key with any value; words and quantities by name are bounded."""
    if schema.get("type") == "array":
        yield from open_levels(schema["items"], f"{path}[]")
    elif schema.get("type") == "object":
        if schema.get("additionalProperties", True) is True:
            yield path
        for name, part in schema.get("properties", {}).items():
            yield from open_levels(part, f"{path}.{name}" if path else name)
