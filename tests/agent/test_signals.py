"""What ends an agent that a user started in a terminal, and what does not."""

from __future__ import annotations

import os
import pty
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from wesher_testing.agents.process import KEY, PATIENCE, AgentProcess, wait_until
from wesher_testing.lab.namespaces import Lab

Start = Callable[..., AgentProcess]

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]

IN_A_SCRIPT = ["sh", "-c", 'trap "" INT; exec "$@"', "-"]
"""As a shell runs a script's background jobs."""


def test_an_agent_whose_terminal_is_closed_leaves(lab: Lab, start: Start) -> None:
    host = lab.host("b")
    ours, theirs = pty.openpty()
    with (host.root / "run/agent.log").open("ab") as log:
        agent = start(
            host, "--cluster-key", KEY, wrapper=["setsid", "--ctty"], stdin=theirs, stdout=theirs, stderr=log
        )
    os.close(theirs)
    agent.wait_device()
    os.close(ours)
    assert agent.process.wait(PATIENCE) == 0
    assert "agent ended left=true" in agent.own_log
    assert "wgoverlay" not in host.run(["ip", "-o", "link"]).stdout


def test_a_second_hangup_does_not_cut_the_leave_short(lab: Lab, start: Start) -> None:
    """The kernel sends one when the terminal closes, and the shell another."""
    a, b = lab.host("a"), lab.host("b")
    start(a, "--cluster-key", KEY)
    agent = start(b, "--cluster-key", KEY, f"--join={a.ipv4}")
    agent.wait_for("a", "b")
    agent.wait_device()
    pid = agent.process.pid
    agent.process.send_signal(signal.SIGHUP)
    # The first is handled when SIGTERM has its default again.
    wait_until(lambda: not _has(pid, "SigCgt", signal.SIGTERM), what="the agent has begun to end")
    agent.process.send_signal(signal.SIGHUP)
    assert agent.process.wait(PATIENCE) == 0
    assert "agent ended left=true" in agent.own_log
    assert "Traceback" not in agent.own_log
    assert "wgoverlay" not in b.run(["ip", "-o", "link"]).stdout


@pytest.mark.parametrize(
    ("wrapper", "number"), [(["nohup"], signal.SIGHUP), (IN_A_SCRIPT, signal.SIGINT)], ids=["nohup", "script"]
)
def test_a_signal_that_was_ignored_at_the_start_stays_ignored(
    lab: Lab, start: Start, wrapper: list[str], number: signal.Signals
) -> None:
    agent = start(lab.host("a"), "--cluster-key", KEY, wrapper=wrapper)
    agent.wait_device()
    assert _has(agent.process.pid, "SigIgn", number)
    agent.process.send_signal(number)
    assert agent.sees("a")
    assert agent.end() == 0
    assert "agent ended left=true" in agent.own_log


def _has(pid: int, field: str, number: signal.Signals) -> bool:
    """Tell whether a signal is in one of a process's sets (proc_pid_status(5)); not when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return False
    found = [line.split()[1] for line in lines if line.startswith(f"{field}:")]
    return bool(found) and bool(int(found[0], 16) >> (number - 1) & 1)
