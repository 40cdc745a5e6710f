"""The operator's process writes its log in the format that its flag names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from wesher_testing.agents.mounted_files import KUBECONFIG


def first_line(tmp_path: Path, *flags: str) -> str:
    """Return the first line of an operator whose API server refuses connections; it ends on SIGTERM."""
    path = tmp_path / "config"
    path.write_text(json.dumps(KUBECONFIG))
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "wesher_operator", "run", "--agent-image=x", "--namespace=n"),
            *(f"--kubeconfig={path}", "--manage-crds=false", *flags),
        ],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        process.terminate()
        assert process.wait(timeout=30) == 0
        assert process.stderr.read() == ""
    return line


def test_json_has_the_fields_of_an_event_as_keys(tmp_path: Path) -> None:
    said = json.loads(first_line(tmp_path, "--log-format=json"))
    assert (said["level"], said["logger"]) == ("warning", "wesher.operator")
    assert said["event"] == "waiting for the api server"
    assert "127.0.0.1:1" in said["error"]


def test_a_mistyped_variable_is_named(tmp_path: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("WESHER_")}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "wesher_operator",
            "run",
            "--agent-image=x",
            f"--kubeconfig={tmp_path / 'none'}",
        ],
        env=environ
        | {"WESHER_NAMESPACE": "n", "WESHER_LOGLEVEL": "debug", "WESHER_SERVICE_HOST": "10.0.0.1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    named, *others = done.stderr.splitlines()
    assert named.endswith(
        "unknown environment variable ignored variable=WESHER_LOGLEVEL nearest=WESHER_LOG_LEVEL"
    )
    assert not [line for line in others if "WESHER_" in line]
