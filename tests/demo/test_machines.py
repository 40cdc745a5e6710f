"""``make demo-machines`` as a newcomer starts it: from a fresh checkout, with nothing in any cache."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from wesher_testing.run.demo.background import Background
from wesher_testing.run.demo.watched import HOW_TO_END, processes_about, run_as_told, watched_demo
from wesher_testing.run.machine_load import stretched
from wesher_testing.run.toolbox import REPOSITORY

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]

FIRST_PING = "━━ first encrypted ping on the screen after "
HOW_TO_USE = "The machines stay up."
NOT_TRACKED = (".*", "__pycache__", "dist")


def environment_of_a_newcomer(home: Path) -> dict[str, str]:
    """Return an environment that knows no cache and not the developers' Python."""
    own = {"WESHER_CACHE", "XDG_CACHE_HOME", "PYTHONPATH", "PYTHON", "VIRTUAL_ENV"}
    kept = {name: value for name, value in os.environ.items() if name not in own}
    developers = Path(sys.executable).parent
    path = [place for place in os.environ["PATH"].split(os.pathsep) if Path(place) != developers]
    home.mkdir()
    return {**kept, "HOME": str(home), "PATH": os.pathsep.join(path), "PIP_NO_CACHE_DIR": "1"}


def test_a_newcomer_sees_an_encrypted_ping_within_a_minute_and_can_go_on_from_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], say: Callable[[str], None]
) -> None:
    checkout, home = tmp_path / "checkout", tmp_path / "home"
    shutil.copytree(REPOSITORY, checkout, ignore=shutil.ignore_patterns(*NOT_TRACKED))
    environment = {**environment_of_a_newcomer(home), "KEEP": "1"}
    with capsys.disabled(), watched_demo(["make", "demo-machines"], checkout, environment) as demo:
        first_ping = demo.read_until(FIRST_PING)
        seconds = int(first_ping.removeprefix(FIRST_PING).removesuffix(" s"))
        end = demo.read_until(HOW_TO_END)

        plan = next(number for number, line in enumerate(demo.said) if line.startswith("Disk space: "))
        assert plan < next(number for number, line in enumerate(demo.said) if line.startswith("· "))
        assert not (checkout / ".venv").exists()
        begin = next(number for number, line in enumerate(demo.said) if line.startswith(HOW_TO_USE))
        members, ping, shell, logs = demo.said[begin + 1 : -1]
        assert len(re.findall(r"^\S+ +alive ", run_as_told(members), re.MULTILINE)) == 3
        assert " 1 received" in run_as_told(f"{ping} -c 1")
        assert run_as_told(shell, text_in="hostname\n") == "beta\n"
        assert "alpha.log" in run_as_told(logs)

        directory = Path(members.split()[0]).parent
        assert processes_about(directory)
        (kill,) = re.findall(r"or run: (kill \d+)", end)
        run_as_told(kill)
        demo.read_until("━━ ended; nothing is left")
        demo.read_all()
    assert not directory.exists()
    assert processes_about(directory) == []
    size = sum(path.lstat().st_size for path in home.rglob("*")) / 1e6
    say(f"first encrypted ping from nothing after {seconds} s, {size:.0f} MB fetched and unpacked")
    assert seconds < stretched(60)
    assert size < 60


def test_a_build_under_sudo_runs_as_the_user_who_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = 65534
    monkeypatch.setenv("SUDO_UID", str(nobody))
    monkeypatch.setenv("SUDO_GID", str(nobody))
    monkeypatch.setenv("WESHER_CACHE", str(tmp_path))
    log = tmp_path / "build.log"
    with Background(["sh", "-c", 'id -u; touch "$TMPDIR/file" && ls "$TMPDIR"'], log) as build:
        while not build.has_ended():
            pass
    assert build.status == 0
    assert log.read_text() == f"{nobody}\nfile\n"
    assert log.stat().st_uid == nobody


def test_where_namespaces_are_not_permitted_the_demo_says_what_to_do(tmp_path: Path) -> None:
    """As in a container that is not privileged."""
    demo = [sys.executable, "-m", "wesher_testing.run.demo", "machines"]
    without = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", *demo]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "tests/support")}
    done = subprocess.run(
        without, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 1
    assert "FAILED: cannot make namespaces: run as root, in a container with --privileged" in done.stdout
    assert "Traceback" not in done.stderr
