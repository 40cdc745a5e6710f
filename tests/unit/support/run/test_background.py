"""The build beside the demo: its priority, its log, and that nothing of it is left."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from pathlib import Path

import pytest

from wesher_testing.run import process_group
from wesher_testing.run.demo.background import Background
from wesher_testing.run.demo.watched import wait_for_end

_BUILD_WITH_A_STUBBORN_CHILD = """
import os, pathlib, subprocess
pathlib.Path(os.environ["TMPDIR"], "object").touch()
child = subprocess.Popen(["sh", "-c", "trap '' INT TERM; echo $$; sleep 600"])
child.wait()
"""


def wait_for(log: Path, lines: int) -> list[str]:
    while len(said := log.read_text().splitlines()) < lines:
        pass
    return said


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "scratch"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    monkeypatch.delenv("SUDO_UID", raising=False)
    return place


def test_a_build_that_ends_alone_leaves_its_status_and_its_log(tmp_path: Path) -> None:
    log = tmp_path / "cache/build.log"
    with Background(["sh", "-c", "nice; echo to stderr >&2; exit 3"], log) as build:
        while not build.has_ended():
            pass
    assert build.status == 3
    assert log.read_text() == "19\nto stderr\n"


def test_the_end_of_the_demo_ends_a_build_with_its_children_and_its_scratch_files(
    tmp_path: Path, scratch: Path
) -> None:
    log = tmp_path / "build.log"
    with Background([sys.executable, "-c", _BUILD_WITH_A_STUBBORN_CHILD], log) as build:
        (child,) = map(int, wait_for(log, 1))
        assert os.getpgid(child) == build.pid
        assert list(scratch.glob("*/object"))
    assert build.status == -signal.SIGINT
    wait_for_end(child)
    assert list(scratch.iterdir()) == []


def test_a_build_that_heeds_no_signal_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_group, "_GRACES", ((signal.SIGINT, 0.1), (signal.SIGTERM, 0.1)))
    log = tmp_path / "build.log"
    with Background(["sh", "-c", "trap '' INT TERM; echo ready; while :; do sleep 600; done"], log) as build:
        wait_for(log, 1)
    assert build.status == -signal.SIGKILL
