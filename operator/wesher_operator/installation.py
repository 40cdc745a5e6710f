"""Which installation a mesh belongs to; pure.

An installation is the operator of one namespace, and its namespace is its name. A
mesh belongs to one: two operators that both run a mesh overwrite each other's status
for good, and give each node two agents. The annotation ``wesher.dev/installation``
decides, which the chart sets on its own mesh. A mesh without it belongs to the
operator that is the first to write its own namespace into the mesh's status.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wesher_common.names import GROUP

ANNOTATION = f"{GROUP}/installation"


def installation_of(mesh: Mapping[str, Any]) -> str:
    """Return the namespace of the operator that runs a WesherMesh; empty while none has claimed it."""
    annotations = mesh["metadata"].get("annotations") or {}
    return str(annotations.get(ANNOTATION) or (mesh.get("status") or {}).get("installation") or "")


def take_over_command(mesh: str, namespace: str) -> str:
    """Return the command that gives a mesh to the operator of a namespace."""
    return f"kubectl annotate wmesh {mesh} --overwrite {ANNOTATION}={namespace}"
