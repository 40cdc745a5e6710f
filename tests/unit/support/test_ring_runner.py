"""The runner of rings: what it counts, what it says last, and when it calls a ring failed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from wesher_testing.cache import ToolUnavailable
from wesher_testing.ring_runner import Ring, Step, run

SUPPORT = Path(__file__).parents[2] / "support"
PASSES = "def test_one(): pass\ndef test_two(): pass\n"
FAILS = "def test_one(): assert False\n"
SKIPS = "import pytest\ndef test_one(): pytest.skip('no such device')\n"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    # The inner runs need no plugins, and loading them is most of their time.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def ring(tmp_path: Path, tests: str, *, name: str = "some", minutes: float = 1) -> Ring:
    """Return a ring of one test file."""
    folder = tmp_path / name
    folder.mkdir()
    (folder / "test_it.py").write_text(tests)
    argv = (
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        f"--rootdir={folder}",
        str(folder),
    )
    return Ring(name, "something", minutes, (Step("tests", argv, counts_itself=True),))


def closing_line(output: str) -> str:
    """Return the last line."""
    return output.splitlines()[-1]


def test_rings_are_added_up_in_the_closing_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rings = (ring(tmp_path, PASSES, name="one"), ring(tmp_path, FAILS, name="two"))
    assert run(rings, set_up_minutes=1, all_minutes=10) == 1
    assert closing_line(capfd.readouterr().out) == "2 passed, 1 failed"


def test_a_skip_is_told_with_its_reason_and_fails_nothing_on_a_users_machine(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rings = (ring(tmp_path, PASSES, name="one"), ring(tmp_path, SKIPS, name="two"))
    assert run(rings, set_up_minutes=1, all_minutes=10) == 0
    output = capfd.readouterr().out
    assert "not run: no such device (1)" in output
    assert closing_line(output) == "2 passed, 0 failed, 1 skipped"


@pytest.mark.parametrize("tests", [SKIPS, "# none\n"], ids=["skip", "empty ring"])
def test_in_ci_a_skip_and_an_empty_ring_fail(
    tests: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    rings = (ring(tmp_path, PASSES, name="one"), ring(tmp_path, tests, name="two"))
    assert run(rings, set_up_minutes=1, all_minutes=10) == 0
    capfd.readouterr()
    monkeypatch.setenv("CI", "true")
    assert run(rings, set_up_minutes=1, all_minutes=10) == 1
    assert closing_line(capfd.readouterr().out) == "2 passed, 1 failed"


def test_tests_that_cannot_be_collected_fail(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run([ring(tmp_path, "import nothing_of_that_name\n")], set_up_minutes=1, all_minutes=10) == 1
    assert closing_line(capfd.readouterr().out) == "0 passed, 1 failed"


def test_nothing_run_at_all_is_no_success(capfd: pytest.CaptureFixture[str]) -> None:
    assert run([], set_up_minutes=1, all_minutes=10) == 1
    assert closing_line(capfd.readouterr().out) == "0 passed, 0 failed"


def test_a_ring_over_its_time_is_ended_and_fails(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    sleeps = Ring("slow", "patience", 0.2 / 60, (Step("sleep", ("sleep", "600")),))
    assert run([sleeps], set_up_minutes=1, all_minutes=10) == 1
    output = capfd.readouterr().out
    assert "slow: out of time" in output
    assert closing_line(output) == "0 passed, 2 failed"


def test_side_by_side_steps_show_their_words_only_when_they_fail(capfd: pytest.CaptureFixture[str]) -> None:
    steps = (Step("good", ("echo", "all is well")), Step("bad", ("sh", "-c", "echo broken; exit 1")))
    assert run([Ring("both", "contrast", 1, steps)], set_up_minutes=1, all_minutes=10) == 1
    output = capfd.readouterr().out
    assert "broken" in output
    assert "all is well" not in output
    assert closing_line(output) == "1 passed, 1 failed"


def test_a_ring_without_its_tool_is_skipped_with_the_reason(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def unavailable() -> None:
        raise ToolUnavailable("no compiler here")

    lame = Ring("lame", "nothing", 1, (Step("never", ("false",)),), prepare=(unavailable,))
    assert run([ring(tmp_path, PASSES), lame], set_up_minutes=1, all_minutes=10) == 0
    output = capfd.readouterr().out
    assert "not run: lame needs a tool: no compiler here (1)" in output
    assert closing_line(output) == "2 passed, 0 failed, 1 skipped"


def test_set_up_has_a_share_of_its_own(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run([ring(tmp_path, PASSES)], set_up_minutes=-1, all_minutes=10) == 1
    assert closing_line(capfd.readouterr().out) == "2 passed, 1 failed"


def test_everything_together_has_its_time_too(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run([ring(tmp_path, PASSES)], set_up_minutes=1, all_minutes=0) == 1
    output = capfd.readouterr().out
    assert "everything took" in output
    assert closing_line(output) == "2 passed, 1 failed"


_RUN_FOREVER = """
import signal
from wesher_testing.ring_runner import Ring, Step, run
signal.signal(signal.SIGTERM, signal.default_int_handler)
child = ("sh", "-c", "trap 'echo cleaned up; exit 1' INT; echo ready; while :; do sleep 0.1; done")
rings = [Ring("long", "patience", 5, (Step("child", child),))]
raise SystemExit(run(rings, set_up_minutes=1, all_minutes=10))
"""


def test_a_runner_told_to_end_lets_its_children_clean_up() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _RUN_FOREVER],
        env={**os.environ, "PYTHONPATH": str(SUPPORT)},
        stdout=subprocess.PIPE,
        text=True,
    ) as runner:
        assert runner.stdout is not None
        while runner.stdout.readline() != "ready\n":
            assert runner.poll() is None
        runner.send_signal(signal.SIGTERM)
        rest = runner.stdout.read().splitlines()
    assert "cleaned up" in rest
    assert rest[-1] == "0 passed, 1 failed"
    assert runner.returncode == 1
