"""``docs/reference/chart-values.md``: the chart's values, from ``values.yaml`` and the chart's schema."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

import chart_schema
from reference import FOLDER, code, page, prose, table
from schema_text import Schema, default_of, is_long, type_of
from wesher_testing.cluster.helm import CHART

PAGE = FOLDER / "chart-values.md"
VALUES = CHART / "values.yaml"
_INTRODUCTION = """
Set values in a file for Helm's `-f`, or one at a time with `--set`, as in `--set image.tag=1.0`. Helm refuses
a value that is not listed here.
"""
_MESH = """
`mesh` takes each other field of a WesherMesh's spec too:
[WesherMesh spec](custom-resources.md#weshermesh-spec) has them.
"""
_ELSEWHERE = """
Other charts have these values, or have them in another place. Helm refuses them and says what to use.
"""
_BY_NAME = {
    "affinity": "Affinity of the pod, as in a pod's spec.",
    "create": "Whether to create it.",
    "extraEnv": "More environment variables, as in a container's spec.",
    "logFormat": "Form of the log lines.",
    "logLevel": "Least severe level that is logged.",
    "name": "Name of the WesherMesh.",
    "nodeSelector": "Labels of the Nodes on which the pod may run.",
    "podAnnotations": "More annotations of the pods.",
    "podLabels": "More labels of the pods.",
    "priorityClassName": "Priority class of the pods.",
    "pullPolicy": "When nodes pull the images.",
    "claims": "Resource claims, as in a container's spec.",
    "limits": "Resource limits, as in a container's spec.",
    "requests": "Resource requests, as in a container's spec.",
    "maxUnavailable": "How many agents may be down at the same time during an update.",
    "type": "How an update replaces agents, as in a DaemonSet's spec.",
}
"""What a value means that has no comment of its own, by the last part of its path."""


def text() -> str:
    """Return what the page should say."""
    schema = json.loads(chart_schema.text())
    values, comments = yaml.safe_load(VALUES.read_text()), comments_of(VALUES.read_text())
    rows = list(_rows(schema, values, comments))
    return page(
        "Chart values",
        "charts/wesher/values.yaml",
        _INTRODUCTION,
        table(("value", "type", "default", "meaning"), rows),
        _MESH,
        *_long_defaults(rows, values),
        "## Values that this chart does not have",
        _ELSEWHERE,
        table(
            ("value", "use instead"), ((code(path), use) for path, use in chart_schema.USE_INSTEAD.items())
        ),
    )


def comments_of(text: str) -> dict[str, str]:
    """Return the comment right above each key of a YAML file, by the key's path."""
    lines = text.splitlines()
    found: dict[str, str] = {}

    def walk(node: yaml.Node | None, path: str) -> None:
        if not isinstance(node, yaml.MappingNode):
            return
        for key, value in node.value:
            first = last = key.start_mark.line
            while first and lines[first - 1].lstrip().startswith("#"):
                first -= 1
            comment = " ".join(line.strip().removeprefix("#").strip() for line in lines[first:last])
            found[f"{path}{key.value}"] = comment
            walk(value, f"{path}{key.value}.")

    walk(yaml.compose(text, Loader=yaml.SafeLoader), "")
    return found


def _rows(
    schema: Schema, values: Mapping[str, Any], comments: Mapping[str, str], path: str = ""
) -> Iterator[tuple[str, str, str, str]]:
    for name, field in schema["properties"].items():
        if "const" in field or (path == "mesh." and name not in values):
            continue
        here, value = f"{path}{name}", values.get(name)
        # The fields of a mesh have their meaning from the custom resource.
        of_mesh = field.get("description", "") if path else ""
        meaning = of_mesh or comments.get(here) or _BY_NAME.get(name, "")
        # An affinity is a part of a pod's spec, which a user gives as a whole.
        is_section = isinstance(value, dict) and value and "properties" in field and name != "affinity"
        if meaning or not is_section:
            given = "" if is_section else default_of(value)
            shown = "see below" if is_long(given) else code(given)
            yield code(here), type_of(field), shown, prose(meaning)
        if isinstance(value, dict) and is_section:
            yield from _rows(field, value, comments, f"{here}.")


def _long_defaults(rows: list[tuple[str, str, str, str]], values: Any) -> Iterator[str]:
    for shown, _, given, _ in rows:
        if given == "see below":
            value = values
            for part in (path := shown.strip("`")).split("."):
                value = value[part]
            yield f"The default of `{path}`:"
            yield f"```yaml\n{yaml.safe_dump(value, sort_keys=False)}```"


if __name__ == "__main__":
    PAGE.write_text(text())
