"""The cache: an entry is whole or absent, whatever happened to whoever made it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from wesher_testing.run import cache as caching
from wesher_testing.run.cache import ToolUnavailable, cache_dir, kept, run_reported
from wesher_testing.run.demo.watched import wait_for_end

SUPPORT = Path(__file__).parents[3] / "support"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WESHER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_cache_lies_where_the_user_keeps_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WESHER_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert cache_dir() == Path("/elsewhere/wesher")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path.home() / ".cache/wesher"


def test_an_entry_is_made_once_and_then_found(cache: Path) -> None:
    made: list[Path] = []

    def make(target: Path) -> None:
        made.append(target)
        target.write_text("whole")

    assert kept("tools/one", make) == kept("tools/one", make) == cache / "tools/one"
    assert len(made) == 1
    assert (cache / "tools/one").read_text() == "whole"


def test_a_failed_build_leaves_nothing_and_is_tried_again(cache: Path) -> None:
    def fail(target: Path) -> None:
        target.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        kept("tools/one", fail)
    assert list((cache / "tools").iterdir()) == []
    assert kept("tools/one", lambda target: target.mkdir()).is_dir()


def test_the_draft_of_a_killed_build_is_swept_by_the_next(cache: Path) -> None:
    abandoned = cache / "tools/.one-draft-x"
    abandoned.mkdir(parents=True)
    (abandoned / "one").write_text("half")
    kept("tools/one", lambda target: target.touch())
    assert [entry.name for entry in (cache / "tools").iterdir()] == ["one"]


_MAKE = """
import sys
from pathlib import Path
from wesher_testing.run.cache import kept

def make(target):
    with open(sys.argv[1], "a") as log:
        log.write("made\\n")
    print("making", flush=True)
    sys.stdin.readline()
    target.touch()

print(kept("tool", make), flush=True)
"""


def test_of_two_runs_at_once_one_builds_and_the_other_waits(cache: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", _MAKE, log],
            env={**os.environ, "PYTHONPATH": str(SUPPORT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    with start() as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "making\n"
        with start() as second:
            assert second.stderr is not None
            assert "waiting for another run" in second.stderr.readline()
            first.communicate("go on\n", timeout=20)
            found, _ = second.communicate(timeout=20)
    assert found.strip() == str(cache / "tool")
    assert log.read_text() == "made\n"


def test_a_step_that_fails_says_its_last_words() -> None:
    with pytest.raises(ToolUnavailable, match=r"making tea: sh exited with 3: no water"):
        run_reported("making tea", ["sh", "-c", "echo no water; exit 3"])


def test_a_long_step_says_now_and_then_that_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    enough = tmp_path / "enough"

    def report(text: str) -> None:
        said.append(text)
        if len(said) > 2:
            enough.touch()

    monkeypatch.setattr(caching, "_REPORT_EVERY", 0.02)
    monkeypatch.setattr(caching, "report", report)
    run_reported("making tea", ["timeout", "20", "sh", "-c", f"until [ -e {enough} ]; do sleep 0.01; done"])
    assert said[:3] == ["making tea", "making tea: 0 s so far", "making tea: 0 s so far"]
    assert said[-1] == "making tea: done in 0 s"


def test_an_interrupted_step_is_ended_with_its_children(tmp_path: Path) -> None:
    started = tmp_path / "started"
    step = ["sh", "-c", f"sh -c 'echo $$ > {started}; exec sleep 600'; true"]
    program = f"from wesher_testing.run.cache import run_reported; run_reported('making tea', {step})"
    environment = {**os.environ, "PYTHONPATH": str(SUPPORT)}
    with subprocess.Popen([sys.executable, "-c", program], env=environment, stderr=subprocess.DEVNULL) as run:
        while not started.exists() or not (text := started.read_text()):
            assert run.poll() is None
        run.send_signal(signal.SIGINT)
    assert run.returncode == -signal.SIGINT
    wait_for_end(int(text))
