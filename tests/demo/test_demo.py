"""``KEEP=1 make demo`` to its end: its claims hold, what stays up can be used, and all of it goes."""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path

import pytest

from wesher_testing.run.demo.watched import HOW_TO_END, processes_about, run_as_told, watched_demo
from wesher_testing.run.toolbox import REPOSITORY

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]

DEMO = [sys.executable, "-m", "wesher_testing.run.demo"]
HOW_TO_USE = "The mesh stays up."
SHOWN = (
    r"^\$ kubectl wesher invite laptop ",
    r"^\$ wesher --join-file=\S+laptop\.join ",
    r"^✓ from that command to the first answer: \d",
    r"^intruder +alive .* none ",
    r"^✓ no tunnel of any node has changed$",
    r"^✓ 0 of [1-9]\d* pings between node-a and node-b lost$",
    r"^\$ kubectl wesher revoke laptop$",
    r"^✓ from that command to the last closed tunnel: \d",
    r"^✓ node-a does not list laptop as a member",
)
"""An invite, a thief that fails, and a revocation."""


def test_a_demo_that_is_kept_can_be_used_as_it_says_and_leaves_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    environment = {**os.environ, "KEEP": "1", "PYTHONPATH": str(REPOSITORY / "tests/support")}
    with capsys.disabled(), watched_demo(DEMO, REPOSITORY, environment) as demo:
        end = demo.read_until(HOW_TO_END)
        assert any(re.search(r"plain machines: \d+ claims hold", line) for line in demo.said)
        assert any(re.search(r"done: \d+ claims hold", line) for line in demo.said)
        for shown in SHOWN:
            assert any(re.search(shown, line) for line in demo.said), shown

        begin = next(number for number, line in enumerate(demo.said) if line.startswith(HOW_TO_USE))
        kubectl, plugin, members, ping, shell, logs = demo.said[begin + 1 : -1]
        assert re.search(r"^weshermesh\S+/demo +True +3/3 ", run_as_told(kubectl), re.MULTILINE)
        # It fails while one of the pairs that the demo has just cut off is still asked again.
        until_well = f"until {plugin}; do sleep 1; done"
        assert "demo: Ready, 3/3 nodes ready" in run_as_told(until_well)
        # After many changes, agents report every 30 seconds: some still count the revoked machine.
        run_as_told(f"{kubectl.split()[0]} wait --for=condition=Converged --timeout=50s wmesh/demo")
        examined = run_as_told(f"{plugin.removesuffix('status')}doctor || true")
        assert re.search(r"^ok +operator runs +1 of 1 pods ready", examined, re.MULTILINE)
        assert "FAIL" not in examined
        assert re.findall(r"^(\S+) +alive ", run_as_told(members), re.MULTILINE) == [
            "node-a",
            "node-b",
            "node-c",
        ]
        assert " 1 received" in run_as_told(f"{ping} -c 1")
        assert run_as_told(shell, text_in="hostname\n") == "laptop\n"
        assert "node-a.log" in run_as_told(logs)

        directory = Path(kubectl.split()[0]).parent
        assert processes_about(directory)
        (kill,) = re.findall(r"or run: (kill \d+)", end)
        run_as_told(kill)
        demo.read_until("━━ ended; nothing is left")
        assert demo.process.wait(30) == 128 + signal.SIGINT
    assert not directory.exists()
    assert processes_about(directory) == []


def test_a_ctrl_c_ends_what_is_built_in_the_background_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache, scratch = tmp_path / "cache", tmp_path / "scratch"
    scratch.mkdir()
    own = {"WESHER_CACHE": str(cache), "TMPDIR": str(scratch), "KUBEBUILDER_ASSETS": ""}
    environment = {**os.environ, **own, "PYTHONPATH": str(REPOSITORY / "tests/support")}
    with capsys.disabled(), watched_demo(DEMO, REPOSITORY, environment) as demo:
        log = Path(demo.read_until("The Kubernetes parts are made").split()[-1])
        assert log.is_relative_to(cache)
        while "· " not in log.read_text():
            assert demo.process.poll() is None
        assert processes_about(cache)
        demo.process.send_signal(signal.SIGINT)
        demo.read_until("━━ ended; nothing is left")
        assert demo.process.wait(30) == 128 + signal.SIGINT
    assert processes_about(cache) == []
    assert list(scratch.iterdir()) == []
    assert list(cache.rglob("*-draft-*")) == []
