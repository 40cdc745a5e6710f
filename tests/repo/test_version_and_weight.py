"""One release everywhere, and an agent that loads nothing it does not need."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib

import yaml

from wesher_common.version import VERSION
from wesher_testing.run.toolbox import REPOSITORY


def test_the_version_in_the_code_is_that_of_project_and_chart() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert project["version"] == VERSION
    chart = yaml.safe_load((REPOSITORY / "charts/wesher/Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (VERSION, VERSION)


def test_an_agent_outside_kubernetes_loads_neither_a_client_for_it_nor_the_installation_s_metadata() -> None:
    program = "import json, sys, wesher_agent.app; print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(subprocess.check_output([sys.executable, "-c", program], text=True))
    assert "wesher_agent.kube.reporter" in loaded
    heavy = {"aiohttp", "kubernetes", "pydantic", "importlib.metadata", "email", "zipfile", "csv"}
    assert not heavy & set(loaded)
