"""What `-o json` prints has the fields that `docs/reference/json-output.md` lists."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from json_output_page import COMMANDS, fields_of
from wesher_operator.kubectl.status import overview
from wesher_testing.agents.process import WESHER, agent_without_device

SECONDS = 60


def paths_in(value: Any, path: str = "") -> set[str]:
    """Return the paths of all fields of an answer, as the page writes them."""
    if isinstance(value, list):
        return {found for each in value for found in paths_in(each, path)}
    if not isinstance(value, dict):
        return set()
    return {found for name, inner in value.items() for found in _paths_below(f"{path}{name}", inner)}


def _paths_below(here: str, inner: Any) -> set[str]:
    return {here} | paths_in(inner, f"{here}[]." if isinstance(inner, list) else f"{here}.")


def documented(command: str) -> tuple[set[str], set[str]]:
    """Return the fields that are always there, and those that may be there; an open map has the latter."""
    fields = list(fields_of(COMMANDS[command][0]))
    always = {path for path, kind, _ in fields if not kind.endswith("optional")}
    return always, {path for path, *_ in fields} - always


def compare(command: str, printed: Any) -> None:
    always, sometimes = documented(command)
    maps = {path for path, kind, _ in fields_of(COMMANDS[command][0]) if kind.startswith("map of ")}
    found = {path for path in paths_in(printed) if not any(path.startswith(f"{each}.") for each in maps)}
    assert found - sometimes == always


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the directory of an agent that cannot have a device, on the loopback."""
    directory = tmp_path_factory.mktemp("agent")
    interface = f"wg{os.getpid()}j"
    agent = agent_without_device(directory, interface)
    yield directory
    agent.terminate()
    agent.wait(SECONDS)


# The last of them ends the agent.
@pytest.mark.parametrize("command", ["status", "members", "leave"])
def test_an_agent_prints_the_fields_that_are_documented(command: str, run_dir: Path) -> None:
    printed = subprocess.run(
        [WESHER, command, "--output=json", f"--run-dir={run_dir}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=SECONDS,
    ).stdout
    compare(f"wesher {command}", json.loads(printed))


def test_the_plugin_prints_the_fields_that_are_documented() -> None:
    said = {"type": "Ready", "status": "True", "reason": "AllReady", "observedGeneration": 2}
    member = {"name": "a", "kind": "Node", "state": "Ready", "address": "10.189.0.1"}
    mesh = {
        "metadata": {"name": "demo", "generation": 2},
        "spec": {"overlayCIDR": "10.189.0.0/16"},
        "status": {"conditions": [said], "memberList": [member], "identity": {"mode": "Verified"}},
    }
    node = {"metadata": {"name": "demo.a"}, "spec": {"nodeName": "a"}}
    peer = {"metadata": {"name": "demo.vm"}}
    compare("kubectl wesher status", [overview(mesh, [node], [peer]).to_dict()])
