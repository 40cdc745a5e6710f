"""A kubelet's probes of a real agent, and what they cost its node."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE

import pytest

from wesher_testing.agents.process import AgentProcess, wait_until
from wesher_testing.lab.namespaces import Host, Lab

Start = Callable[..., AgentProcess]

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]

PORT = 51820
MINUTES = 25
"""How many minutes' probes are counted: of one they would be lost in what the agent does besides."""
A_MINUTE = ["/healthz"] * 2 + ["/readyz"] * 6
"""As the operator sets probes."""
ASK = """
import http.client, sys
for path in sys.argv[2:]:
    connection = http.client.HTTPConnection(sys.argv[1], 51820, timeout=30)
    connection.request("GET", path)
    answer = connection.getresponse()
    print(answer.status, answer.read().decode().strip())
"""
HOLD = """
import socket, sys
held = socket.create_server(("127.0.0.1", 51820))
print("held", flush=True)
sys.stdin.read()
"""


def probe(host: Host, *paths: str, at: str = "127.0.0.1") -> list[str]:
    """Ask for each path over a connection of its own, as a kubelet does; return the answers that came."""
    return host.run([sys.executable, "-I", "-c", ASK, at, *paths], check=False).stdout.splitlines()


def test_probes_are_answered_on_the_loopback_only_and_cost_next_to_nothing(lab: Lab, start: Start) -> None:
    """Eight times a minute a program was started for them: 0.9 s of CPU, ten times an idle agent's."""
    host, other = lab.host("a"), lab.host("b")
    agent = start(host, f"--health-port={PORT}")
    agent.wait_device()
    wait_until(lambda: probe(host, "/readyz") == ["200 in the mesh"], what="the agent is ready")
    assert probe(host, "/healthz") == ["200 the agent is running"]
    assert probe(other, "/healthz", at=str(host.ipv4)) == []

    before = cpu_seconds(agent)
    answers = probe(host, *A_MINUTE * MINUTES)
    cost = (cpu_seconds(agent) - before) / MINUTES
    assert set(answers) == {"200 the agent is running", "200 in the mesh"}
    assert len(answers) == len(A_MINUTE) * MINUTES
    assert cost < 0.09, f"{cost:.3f} s of CPU a minute"


def test_a_port_that_another_program_has_is_named_and_taken_once_it_is_free(lab: Lab, start: Start) -> None:
    host = lab.host("a")
    holder = host.popen([sys.executable, "-I", "-c", HOLD], stdin=PIPE, stdout=PIPE)
    assert holder.stdout is not None
    assert holder.stdin is not None
    assert holder.stdout.readline() == b"held\n"
    agent = start(host, f"--health-port={PORT}")
    agent.wait_device()
    wait_until(lambda: agent.conditions()["Ready"] == "HealthPortTaken", what="the agent says so")
    assert agent.conditions()["WireGuardReady"] == "DeviceReady"
    assert f'health port not available: probes of this agent fail error="TCP port {PORT}' in agent.own_log
    assert f"(pid {holder.pid})" in agent.own_log
    holder.stdin.close()
    holder.stdout.close()
    holder.wait()
    wait_until(lambda: agent.conditions()["Ready"] == "Ready", what="the agent is ready")
    assert probe(host, "/healthz") == ["200 the agent is running"]


def cpu_seconds(agent: AgentProcess) -> float:
    """Return the processor time that an agent has used."""
    fields = Path(f"/proc/{agent.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
