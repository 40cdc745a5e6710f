"""The runner of rings: what it counts, what it says last, and when it calls a ring failed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from wesher_testing.run import ring_runner, ring_steps
from wesher_testing.run.ring_set_up import GetTools
from wesher_testing.run.rings import Lane, Ring, Step

SUPPORT = Path(__file__).parents[3] / "support"
PASSES = "def test_one(): pass\ndef test_two(): pass\n"
FAILS = "def test_one(): assert False\n"
SKIPS = "import pytest\ndef test_one(): pytest.skip('no such device')\n"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    # The inner runs need no plugins, and loading them is most of their time.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def no_tools(names: Sequence[str]) -> Sequence[str]:
    raise AssertionError(f"no ring needs {names}")


def run(
    *rings: Ring,
    get_tools: GetTools = no_tools,
    all_minutes: float = 10,
    hang_minutes: float = ring_runner.HANG_MINUTES,
) -> int:
    """Run rings, with limits that none of them reaches unless a test is about it."""
    return ring_runner.run(rings, get_tools=get_tools, all_minutes=all_minutes, hang_minutes=hang_minutes)


def shell(name: str, script: str) -> Step:
    """Return a step that runs a shell script."""
    return Step(name, ("sh", "-c", script))


def tools(script: str) -> GetTools:
    """Return what gets tools by a shell script, which is given their names."""
    return lambda names: ("sh", "-c", script, "sh", *names)


def ring(tmp_path: Path, tests: str, *, name: str = "some") -> Ring:
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
    return Ring(name, "something", 1, (Step("tests", argv, counts_itself=True),))


def closing_line(output: str) -> str:
    """Return the last line."""
    return output.splitlines()[-1]


def test_rings_are_added_up_in_the_closing_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rings = (ring(tmp_path, PASSES, name="one"), ring(tmp_path, FAILS, name="two"))
    assert run(*rings) == 1
    assert closing_line(capfd.readouterr().out) == "2 passed, 1 failed"


def test_a_skip_is_told_with_its_reason_and_fails_nothing_on_a_users_machine(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rings = (ring(tmp_path, PASSES, name="one"), ring(tmp_path, SKIPS, name="two"))
    assert run(*rings) == 0
    output = capfd.readouterr().out
    assert "not run: no such device (1)" in output
    assert closing_line(output) == "2 passed, 0 failed, 1 skipped"


@pytest.mark.parametrize("tests", [SKIPS, "# none\n"], ids=["skip", "empty ring"])
def test_in_ci_a_skip_and_an_empty_ring_fail(
    tests: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    rings = (ring(tmp_path, PASSES, name="one"), ring(tmp_path, tests, name="two"))
    assert run(*rings) == 0
    capfd.readouterr()
    monkeypatch.setenv("CI", "true")
    assert run(*rings) == 1
    assert closing_line(capfd.readouterr().out) == "2 passed, 1 failed"


def test_tests_that_cannot_be_collected_fail(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(ring(tmp_path, "import nothing_of_that_name\n")) == 1
    assert closing_line(capfd.readouterr().out) == "0 passed, 1 failed"


def test_nothing_run_at_all_is_no_success(capfd: pytest.CaptureFixture[str]) -> None:
    assert run() == 1
    assert closing_line(capfd.readouterr().out) == "0 passed, 0 failed"


def test_in_ci_a_ring_over_its_time_is_ended_and_fails(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CI", "true")
    slow = Ring("slow", "patience", 0.2 / 60, (shell("sleep", "echo begun; exec sleep 600"),))
    assert run(slow) == 1
    output = capfd.readouterr().out
    assert "slow: took longer than 1.5 x its limit" in output
    assert closing_line(output) == "0 passed, 2 failed"


def test_elsewhere_a_slow_ring_finishes_late(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    late = replace(ring(tmp_path, PASSES), minutes=0.0)
    assert run(late, all_minutes=0) == 0
    assert closing_line(capfd.readouterr().out) == "2 passed, 0 failed"


def test_a_ring_without_output_for_very_long_is_ended_everywhere(
    capfd: pytest.CaptureFixture[str],
) -> None:
    steps = (shell("hanging", "echo begun; exec sleep 600"), shell("hanging too", "exec sleep 600"))
    assert run(Ring("stuck", "silence", 1, steps, workers=2), hang_minutes=0.3 / 60) == 1
    output = capfd.readouterr().out
    assert "stuck: hangs: no output for 0.005 min; stopping hanging, hanging too" in output
    assert "begun" in output
    assert closing_line(output) == "0 passed, 3 failed"


def test_a_step_that_prints_something_does_not_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(ring_steps, "time", SimpleNamespace(monotonic=lambda: now, sleep=time.sleep))
    script = f"until [ -e {tmp_path}/go ]; do sleep 0.01; done; echo word; exec sleep 600"
    step = ring_steps.StepRun(shell("slow", script), tmp_path, needs_root=False, live=False)
    assert not step.has_ended()
    now += 100.0
    assert (step.silent_seconds, step.seconds) == (100.0, 100.0)
    (tmp_path / "go").touch()
    while not step.output():
        pass
    assert not step.has_ended()
    assert (step.silent_seconds, step.seconds) == (0.0, 100.0)
    step.send(signal.SIGKILL)
    while not step.has_ended():
        pass


def test_a_step_that_only_root_may_signal_is_ended_through_sudo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_pid: int, _number: int) -> None:
        raise PermissionError

    sudo = tmp_path / "sudo"
    sudo.write_text(f'#!/bin/sh\nprintf "%s " "$@" > {tmp_path}/asked\nshift\nexec "$@"\n')
    sudo.chmod(0o755)
    monkeypatch.setattr(ring_steps, "become_root", lambda: [str(sudo)])
    step = ring_steps.StepRun(shell("long", "exec sleep 600"), tmp_path, needs_root=False, live=False)
    with monkeypatch.context() as patch:
        patch.setattr(os, "kill", refuse)
        step.send(signal.SIGTERM)
    while not step.has_ended():
        pass
    assert step.tally().failed == 1
    assert (tmp_path / "asked").read_text().startswith("-n sh -c kill -15 ")


def test_quiet_steps_show_their_output_only_when_they_fail(capfd: pytest.CaptureFixture[str]) -> None:
    steps = (shell("good", "echo all is well"), shell("bad", "echo broken; exit 1"))
    both = Ring("both", "contrast", 1, tuple(replace(step, quiet=True) for step in steps), workers=2)
    assert run(both) == 1
    output = capfd.readouterr().out
    assert "broken" in output
    assert "all is well" not in output
    assert closing_line(output) == "1 passed, 1 failed"


def test_the_output_of_steps_side_by_side_is_not_mixed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each one waits in the middle of its output until the other one has begun."""

    def step(name: str, other: str) -> Step:
        wait = f"touch {tmp_path}/{name}; until [ -e {tmp_path}/{other} ]; do sleep 0.01; done"
        return shell(name, f"echo {name} 1; {wait}; echo {name} 2")

    assert run(Ring("pair", "order", 1, (step("a", "b"), step("b", "a")), workers=2)) == 0
    words = [line for line in capfd.readouterr().out.splitlines() if line[:2] in {"a ", "b "}]
    assert words in (["a 1", "a 2", "b 1", "b 2"], ["b 1", "b 2", "a 1", "a 2"])


def test_a_ring_runs_no_more_steps_at_once_than_it_has_workers(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    script = f"mkdir {tmp_path}/only-one && sleep 0.1 && rmdir {tmp_path}/only-one"
    steps = tuple(shell(name, script) for name in "abc")
    assert run(Ring("queue", "order", 1, steps)) == 0
    assert closing_line(capfd.readouterr().out) == "3 passed, 0 failed"


def meets(tmp_path: Path, name: str, other: str) -> Ring:
    """Return a ring that ends once the other one has begun."""
    script = f"touch {tmp_path}/{name}; until [ -e {tmp_path}/{other} ]; do sleep 0.01; done"
    return Ring(name, "company", 1, (shell(name, script),))


def test_a_ring_that_computes_and_one_that_waits_run_side_by_side(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    computes, waits = meets(tmp_path, "a", "b"), replace(meets(tmp_path, "b", "a"), lane=Lane.WAITS)
    assert run(computes, waits) == 0
    assert closing_line(capfd.readouterr().out) == "2 passed, 0 failed"


def test_two_rings_that_wait_run_side_by_side_once_nothing_is_left_to_compute(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(*(replace(meets(tmp_path, *pair), lane=Lane.WAITS) for pair in ("ab", "ba"))) == 0
    assert closing_line(capfd.readouterr().out) == "2 passed, 0 failed"


def test_two_rings_that_compute_run_one_after_the_other(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    script = f"mkdir {tmp_path}/only-one && sleep 0.1 && rmdir {tmp_path}/only-one"
    assert run(*(Ring(name, "order", 1, (shell(name, script),)) for name in "ab")) == 0
    assert closing_line(capfd.readouterr().out) == "2 passed, 0 failed"


def test_a_ring_runs_while_the_tools_of_an_earlier_one_are_being_got(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The tool appears only once the other ring has run."""
    first = Ring("first", "patience", 1, (shell("first", f"[ -e {tmp_path}/tool ]"),), tools=("hammer",))
    second = Ring("second", "work", 1, (shell("second", f"touch {tmp_path}/second"),))
    wait = f"until [ -e {tmp_path}/second ]; do sleep 0.01; done; touch {tmp_path}/tool"
    assert run(first, second, get_tools=tools(f"""{wait}; echo '{{"tool": "hammer"}}'""")) == 0
    output = capfd.readouterr().out
    assert [line.split(":")[0] for line in output.splitlines() if line.startswith("━━") and ":" in line] == [
        "━━ second",
        "━━ first",
    ]
    assert closing_line(output) == "2 passed, 0 failed"


def test_a_ring_without_its_tool_is_skipped_with_the_reason(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lame = Ring("lame", "nothing", 1, (shell("never", "exit 1"),), tools=("compiler",))
    lacking = """echo '{"tool": "compiler", "lacking": "no compiler here"}'"""
    assert run(ring(tmp_path, PASSES), lame, get_tools=tools(lacking)) == 0
    output = capfd.readouterr().out
    assert "not run: lame needs a tool: no compiler here (1)" in output
    assert closing_line(output) == "2 passed, 0 failed, 1 skipped"


@pytest.mark.parametrize("script", ["""echo '{"tool": "compiler", "broken": "KeyError"}'""", "exit 3"])
def test_a_set_up_that_breaks_fails_the_rings_that_need_it(
    script: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lame = Ring("lame", "nothing", 1, (shell("never", "exit 0"),), tools=("compiler",))
    assert run(ring(tmp_path, PASSES), lame, get_tools=tools(script)) == 1
    output = capfd.readouterr().out
    assert "KeyError" in output or "set-up ended with status 3" in output
    assert closing_line(output) == "2 passed, 1 failed"


def test_in_ci_everything_together_has_its_time_too(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CI", "true")
    slow = Ring("slow", "patience", 1, (shell("sleep", "exec sleep 600"),))
    assert run(slow, slow, all_minutes=0) == 1
    output = capfd.readouterr().out
    assert "all rings together took longer than 0 min" in output
    assert "not started slow" in output
    assert closing_line(output) == "0 passed, 2 failed"


_RUN_FOREVER = '''
from wesher_testing.run.ring_runner import run
from wesher_testing.run.rings import Ring, Step
script = "trap 'echo cleaned up; exit 1' INT; echo ready; while :; do sleep 0.1; done"
steps = [Step(f"child {number}", ("sh", "-c", script)) for number in range(COUNT)]
rings = [Ring("long", "patience", 5, (*steps,), workers=COUNT, tools=("slow",))]
tool = """echo '{"tool": "slow"}'; exec sleep 600"""
get_tools = lambda names: ("sh", "-c", tool)
raise SystemExit(run(rings, get_tools=get_tools, all_minutes=10))
'''


def interrupted(count: int, until: str) -> list[str]:
    """Start a runner with `count` steps, interrupt it after a line of its output, and return the rest."""
    with subprocess.Popen(
        [sys.executable, "-c", _RUN_FOREVER.replace("COUNT", str(count))],
        env={**os.environ, "PYTHONPATH": str(SUPPORT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as runner:
        assert runner.stdout is not None
        while runner.stdout.readline() != until:
            assert runner.poll() is None
        runner.send_signal(signal.SIGTERM)
        rest = runner.stdout.read().splitlines()
    assert runner.returncode == 1
    return rest


def test_a_runner_told_to_end_lets_its_children_clean_up() -> None:
    rest = interrupted(1, "ready\n")
    assert "cleaned up" in rest
    assert rest[-1] == "0 passed, 1 failed"


def test_an_interrupt_shows_no_output_of_the_steps_that_it_ends() -> None:
    first, summary, *_, last = interrupted(3, "━━ long: patience\n")
    assert (first, summary, last) == ("━━ interrupted", "━━ summary", "0 passed, 1 failed")
