"""``wesher cleanup`` as it is documented for a node whose agent is gone."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from wesher_agent.cli.commands import run
from wesher_common.version import VERSION
from wesher_testing.run.toolbox import REPOSITORY

MANIFEST = REPOSITORY / "deploy/cleanup/pod.yaml"


def test_the_pod_runs_it_with_everything_of_the_host_that_it_cleans() -> None:
    pod = yaml.safe_load(MANIFEST.read_text())
    (container,) = pod["spec"]["containers"]
    assert container["image"] == f"registry.example.com/wesher:{VERSION}"
    assert pod["spec"]["hostNetwork"]
    assert "NET_ADMIN" in container["securityContext"]["capabilities"]["add"]
    host = {volume["name"]: volume["hostPath"]["path"] for volume in pod["spec"]["volumes"]}
    mounted = {mount["mountPath"]: host[mount["name"]] for mount in container["volumeMounts"]}
    assert mounted == {
        "/var/lib/wesher": "/var/lib/wesher",
        "/run/wesher": "/run/wesher",
        "/var/run/wireguard": "/var/run/wireguard",
        "/dev/net": "/dev/net",
        "/host/etc": "/etc",
    }
    assert container["command"] == ["wesher", "cleanup", "--hosts-file=/host/etc/hosts"]


def test_one_who_wants_an_absent_agent_to_forget_its_keys_is_told_the_command_for_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["leave", "--forget", f"--run-dir={tmp_path}"], {}) == 1
    assert "`wesher cleanup` removes what a stopped agent left" in capsys.readouterr().err


def test_no_interface_is_guessed_from_a_file_that_a_user_keeps_beside_the_state(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A copy of the state has the keys too, and must not be deleted for its name."""
    kept = tmp_path / "backup.json"
    kept.write_text("{}")
    assert run(["cleanup", f"--state-dir={tmp_path}", f"--run-dir={tmp_path}"], {}) == 1
    assert "--interface: choose the interface to clean: there are state files for backup" in (
        capsys.readouterr().err
    )
    assert kept.exists()
