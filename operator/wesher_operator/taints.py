"""Taints of Nodes, as text and as values.

Pure: the reconcilers and the kubectl plugin read the same ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Taint:
    """A Node's taint."""

    key: str
    value: str
    effect: str

    @classmethod
    def from_entry(cls, entry: Mapping[str, Any]) -> Taint:
        """Read an entry of ``spec.taints``."""
        return cls(entry["key"], entry.get("value", ""), entry["effect"])

    def matches(self, found: Taint) -> bool:
        """Tell whether a Node's taint is this one; without a value, this one means any value."""
        return (found.key, found.effect) == (self.key, self.effect) and self.value in {"", found.value}


def parse_taint(text: str) -> Taint:
    """Read ``key:Effect`` or ``key=value:Effect``; the API server admits nothing else in a mesh."""
    name, _, effect = text.rpartition(":")
    key, _, value = name.partition("=")
    return Taint(key, value, effect)
