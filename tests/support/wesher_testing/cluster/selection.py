"""Nodes, and affinities with the Nodes that Kubernetes selects by them.

The unit tests hold the operator to this table; the tests on a real API server hold the
table to the DaemonSet controller.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

NODES: dict[str, dict[str, str]] = {
    "plain": {},
    "edge": {"role": "edge", "cores": "16"},
    "core": {"role": "core", "cores": "4"},
    "odd": {"role": "", "cores": "many"},
    "vast": {"cores": "9223372036854775808"},
    "small": {"role": "edge", "cores": "01"},
}
"""Labels by name."""


@dataclass(frozen=True, slots=True)
class Case:
    """One affinity."""

    name: str
    terms: tuple[dict[str, Any], ...]
    """Of ``nodeSelectorTerms``."""
    nodes: tuple[str, ...]
    """The Nodes that match."""


def _labels(*requirements: tuple[str, str, list[str]]) -> dict[str, Any]:
    return {"matchExpressions": [_requirement(*each) for each in requirements]}


def _names(*requirements: tuple[str, str, list[str]]) -> dict[str, Any]:
    return {"matchFields": [_requirement(*each) for each in requirements]}


def _requirement(key: str, operator: str, values: list[str]) -> dict[str, Any]:
    return {"key": key, "operator": operator, **({"values": values} if values else {})}


CASES = (
    Case("in", (_labels(("role", "In", ["edge", "other"])),), ("edge", "small")),
    Case("in-empty", (_labels(("role", "In", [""])),), ("odd",)),
    Case("not-in", (_labels(("role", "NotIn", ["edge", "core"])),), ("plain", "odd", "vast")),
    Case("exists", (_labels(("role", "Exists", [])),), ("edge", "core", "odd", "small")),
    Case("does-not-exist", (_labels(("role", "DoesNotExist", [])),), ("plain", "vast")),
    Case("greater", (_labels(("cores", "Gt", ["4"])),), ("edge",)),
    Case("less", (_labels(("cores", "Lt", ["5"])),), ("core", "small")),
    Case("both", (_labels(("role", "Exists", []), ("cores", "Gt", ["1"])),), ("edge", "core")),
    Case(
        "either",
        (_labels(("role", "In", ["core"])), _names(("metadata.name", "In", ["plain"]))),
        ("core", "plain"),
    ),
    Case("named", (_names(("metadata.name", "In", ["odd"])),), ("odd",)),
    Case(
        "not-named",
        ({**_labels(("role", "In", ["edge"])), **_names(("metadata.name", "NotIn", ["edge"]))},),
        ("small",),
    ),
    Case("empty-term", ({},), ()),
    Case("empty-term-and-another", ({}, _labels(("role", "In", ["core"]))), ("core",)),
)


def mesh_spec(case: Case) -> dict[str, Any]:
    """Return the fields of a mesh's spec for a case."""
    required = {"nodeSelectorTerms": list(case.terms)}
    node_affinity = {"requiredDuringSchedulingIgnoredDuringExecution": required}
    return {"nodeSelector": {}, "affinity": {"nodeAffinity": node_affinity}}
