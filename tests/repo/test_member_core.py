"""One member decides, and its shells only do: neither the agent nor the simulator has a copy of it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from wesher_testing.run.toolbox import REPOSITORY
from wesher_testing.virtual import mesh as virtual_mesh

DECIDING = {"Engine", "Roster", "NameConflicts", "Seeker", "desired"}
RUNTIME = REPOSITORY / "agent/wesher_agent/runtime"


def test_the_virtual_agent_has_no_part_of_a_member_but_the_member() -> None:
    tree = ast.parse(Path(virtual_mesh.__file__).read_text())
    imported = {
        alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert "MeshMember" in imported
    assert imported.isdisjoint(DECIDING)


@pytest.mark.parametrize("path", sorted(RUNTIME.glob("*.py")), ids=lambda path: path.name)
def test_the_runtime_tells_no_event_from_another(path: Path) -> None:
    """What an event means is the member's; the log and the counters read it for themselves."""
    subjects = [node.subject for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Match)]
    assert not [s for s in subjects if isinstance(s, ast.Name) and "event" in s.id]
