"""Agents on hosts with more routes, links and seeds than usual: what they read and start is bounded."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from wesher_agent.net.resolver import MOST_LOOKUPS
from wesher_testing.agents.process import KEY, AgentProcess, wait_until
from wesher_testing.lab.namespaces import Host, Lab
from wesher_testing.run.machine_load import stretched

Start = Callable[..., AgentProcess]

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]

ROUTES, LINKS = 20_000, 100
COUNTED = "run/received"
COUNTING = f"""
import runpy, socket, sys

total = 0

def count(method, size):
    def receive(self, *arguments, **options):
        global total
        got = method(self, *arguments, **options)
        if self.family == socket.AF_NETLINK:
            total += size(got)
            with open("/{COUNTED}", "w") as file:
                file.write(str(total))
        return got
    return receive

first = lambda got: len(got[0])
for name, size in dict(recv=len, recvfrom=first, recvmsg=first, recv_into=int).items():
    setattr(socket.socket, name, count(getattr(socket.socket, name), size))
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs the agent and writes down how many bytes it has had from the kernel."""


def received(host: Host) -> int:
    return int((host.root / COUNTED).read_text())


def enlarge(host: Host) -> None:
    """Give a host a large routing table, bridges and many links without an address."""
    lines = [
        f"route add 100.{n // 256}.{n % 256}.0/24 via {host.networks[0].ipv4[250]}" for n in range(ROUTES)
    ]
    lines += [f"link add veth{n} type veth peer name peer{n}" for n in range(LINKS // 2)]
    lines += ["link add docker0 type bridge", "address add 172.17.0.1/16 dev docker0", "link set docker0 up"]
    host.run(["ip", "-batch", "-"], text_in="\n".join(lines) + "\n")


def test_what_the_agent_reads_from_the_kernel_does_not_grow_with_the_routing_table(
    lab: Lab, start: Start
) -> None:
    small, large = lab.host("a"), lab.host("b")
    enlarge(large)
    counting = [sys.executable, "-c", COUNTING]
    agents = [start(host, "--cluster-key", KEY, "--init", wrapper=counting) for host in (small, large)]
    for agent in agents:
        agent.wait_device()
    # One address more, and one link whose kind is asked.
    assert received(small) < received(large) < received(small) + 8192


def test_sixty_seed_names_without_an_answer_delay_neither_the_join_nor_the_stop(
    lab: Lab, start: Start
) -> None:
    """Each lookup waits for minutes: the resolver is there, but nothing from it arrives."""
    a, b = lab.host("a"), lab.host("b")
    a.drop("udp", 53)
    (b.root / "etc/resolv.conf").write_text(f"nameserver {a.ipv4}\noptions timeout:30 attempts:5\n")
    seed = start(a, "--cluster-key", KEY, "--init")
    seed.wait_device()
    names = [f"--join=seed-{number}.example" for number in range(60)]
    seeking = start(b, "--cluster-key", KEY, *names, f"--join={a.ipv4}", "--no-etc-hosts")

    seeking.wait_for("a", "b")
    assert "seed not resolved" not in seeking.own_log, "joined before a lookup was given up"
    wait_until(
        lambda: seeking.own_log.count("seed not resolved") >= MOST_LOOKUPS, what="lookups were given up"
    )
    status = Path(f"/proc/{seeking.process.pid}/status").read_text()
    (threads,) = (int(line.split()[1]) for line in status.splitlines() if line.startswith("Threads:"))
    # Beside them the main thread, and those that work on files and the device.
    assert MOST_LOOKUPS < threads <= MOST_LOOKUPS + 1 + min(32, (os.cpu_count() or 1) + 4)
    assert seeking.end(deadline=stretched(15.0)) == 0
