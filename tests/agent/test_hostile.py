"""What somebody without the key can do to a mesh of real agents, and that it harms nobody.

The limits are those of `wesher_agent.swim.profile.Limits` and of the control socket. Each test
notes its figures; the long form (``make soak``) goes on for a minute each, as the flood always does.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from wesher_agent.control import MAX_CONNECTIONS, REQUEST_TIMEOUT
from wesher_agent.swim.profile import DEFAULT_LIMITS
from wesher_testing.agents.process import KEY, PATIENCE, WESHER, AgentProcess, wait_for_ping, wait_until
from wesher_testing.lab.namespaces import Host, Lab
from wesher_testing.lab.pings import longest_outage
from wesher_testing.peers import attacker
from wesher_testing.run.machine_load import stretched
from wesher_testing.run.soak import soaking

Start = Callable[..., AgentProcess]

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]

SECONDS = soaking(15, 60)
FLOOD_SECONDS = 60
"""As long in every run: what grows by a few bytes a packet does not show before a million of them."""
RATE = 20_000
RESIDENT_MIB = 20.0
"""By how much an attack may make an agent grow, at its largest."""
OUTAGE = 3.0
"""Seconds without an answer to a ping: more than a busy machine's hiccup, less than a lost peer."""
JOINED_WITHIN = 10.0
"""Seconds for a machine to start and join."""
ENDED_WITHIN = 15.0
"""Seconds for an agent to end though others hold its control socket, and would for much longer."""

AHEAD_OF_OTHERS = ("nice", "-n", "-15")
"""What else runs on this machine must not be what makes a member too slow to answer for itself."""


class Besieged:
    """Three agents that ping each other over the overlay, and a host of somebody else's beside them."""

    def __init__(self, lab: Lab, start: Start) -> None:
        self.hosts = [lab.host(name) for name in ("a", "b", "c")]
        self.mallory = lab.host("mallory")
        first = self.hosts[0]
        flags = ("--cluster-key", KEY)
        self.agents = []
        for number, host in enumerate(self.hosts, start=1):
            agent = start(host, *flags, f"--join={first.ipv4}", wrapper=AHEAD_OF_OTHERS)
            self.agents.append(agent)
            # One after the other: whom nobody answers at first tries again only after a while.
            agent.wait_for(*"abc"[:number])
        for agent in self.agents:
            agent.wait_for("a", "b", "c")
        for host in self.hosts[1:]:
            wait_for_ping(host, "a")
        wait_for_ping(self.hosts[1], "c")

    @property
    def target(self) -> AgentProcess:
        """The one that is attacked."""
        return self.agents[0]

    def attack(
        self, *arguments: str, host: Host | None = None, seconds: float = SECONDS
    ) -> subprocess.Popen[str]:
        """Begin an attack; `outcome` waits for its end."""
        command = [*AHEAD_OF_OTHERS, attacker.binary(), *arguments, f"-for={seconds}s"]
        return (host or self.mallory).popen(command, stdout=subprocess.PIPE, text=True)

    def rejected(self) -> dict[str, int]:
        """Return how many packets and streams the target has dropped, by reason."""
        counts: dict[str, int] = self.target.status()["gossip"]["rejected"]
        return counts

    @contextmanager
    def unharmed(self, figures: list[str]) -> Iterator[None]:
        """See that nobody is held for dead, pings go on and the target does not grow."""
        pid = self.target.process.pid
        before = _memory_mib(pid, "VmRSS")
        # Lets the kernel measure the peak anew.
        Path(f"/proc/{pid}/clear_refs").write_text("5")
        cpu = _cpu_seconds(pid)
        pairs = [(self.hosts[1], "a"), (self.hosts[2], "a"), (self.hosts[1], "c")]
        pings = [_start_pinging(host, name) for host, name in pairs]
        try:
            yield
        finally:
            outages = [_end_pinging(ping) for ping in pings]
        grown = _memory_mib(pid, "VmHWM") - before
        figures += [
            f"{grown:.1f} MiB more at most",
            f"{_cpu_seconds(pid) - cpu:.1f} s of processor",
            f"pings out for {max(outages):.1f} s at most",
        ]
        for agent in self.agents:
            assert agent.process.poll() is None
            assert "member failed" not in agent.own_log
            agent.wait_for("a", "b", "c")
        assert max(outages) <= stretched(OUTAGE)
        assert grown <= RESIDENT_MIB


def outcome(attack: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for an attack's end and return what it managed."""
    said, _ = attack.communicate(timeout=max(SECONDS, FLOOD_SECONDS) + PATIENCE)
    assert attack.returncode == 0
    did: dict[str, Any] = json.loads(said)
    return did


@pytest.fixture
def besieged(lab: Lab, start: Start) -> Besieged:
    return Besieged(lab, start)


@pytest.fixture
def figures(say: Callable[[str], None]) -> Iterator[list[str]]:
    """Return where a test notes its figures, which are shown in one line."""
    noted: list[str] = []
    yield noted
    say(", ".join(noted))


def test_a_flood_of_junk_datagrams_harms_nobody_and_is_counted(
    besieged: Besieged, figures: list[str]
) -> None:
    with besieged.unharmed(figures):
        to = f"-to={besieged.hosts[0].ipv4}:7946"
        did = outcome(besieged.attack("flood", to, f"-rate={RATE}", seconds=FLOOD_SECONDS))
    rejected = besieged.rejected()
    figures += [
        f"{FLOOD_SECONDS} s",
        f"{did['rate']:.0f} packets a second",
        f"{did['sent']} sent, {sum(rejected.values())} counted",
    ]
    figures.append(", ".join(f"{reason} {count}" for reason, count in sorted(rejected.items())))
    assert {"truncated", "unknown-encryption", "wrong-key"} <= rejected.keys()
    # The kernel drops what comes while the agent has no time; what it read, it counted.
    assert 1000 < sum(rejected.values()) <= did["sent"]
    # One line a reason, not one a packet.
    assert besieged.target.own_log.count("packets rejected reason=wrong-key ") == 1


def test_connections_that_trickle_flood_or_talk_junk_keep_to_their_limits_and_harm_nobody(
    besieged: Besieged, figures: list[str]
) -> None:
    to = f"-to={besieged.hosts[0].ipv4}:7946"
    many = _more_addresses(besieged.mallory, 16)
    with besieged.unharmed(figures):
        attacks = [
            besieged.attack("hold", to, f"-from={besieged.mallory.ipv4}", "-connections=20"),
            besieged.attack("hold", to, f"-from={','.join(many[:12])}", "-connections=6"),
            besieged.attack("junk", to, f"-from={','.join(many[12:])}"),
        ]
        one, several, junk = map(outcome, attacks)
    figures += [f"{SECONDS} s", f"one address held {one['most_at_once']} of {one['dialled']} dialled"]
    figures += [f"twelve held {several['most_at_once']} of {several['dialled']}"]
    figures += [f"longest {max(one['longest'], several['longest']):.1f} s"]
    figures += [f"{junk['dialled']} connections of junk, {junk['sent'] >> 20} MiB"]
    rejected = besieged.rejected()
    figures.append(", ".join(f"{reason} {count}" for reason, count in sorted(rejected.items())))
    assert one["most_at_once"] <= DEFAULT_LIMITS.accepted_streams_per_ip
    assert several["most_of_one"] <= DEFAULT_LIMITS.accepted_streams_per_ip
    assert several["most_at_once"] <= DEFAULT_LIMITS.accepted_streams
    assert one["longest"] <= stretched(2 * DEFAULT_LIMITS.request_timeout)
    assert several["longest"] <= stretched(2 * DEFAULT_LIMITS.request_timeout)
    # Each new one ended another.
    assert rejected["too-many-streams"] > DEFAULT_LIMITS.accepted_streams


def test_a_machine_joins_while_idle_connections_hold_all_there_is_for_them(
    lab: Lab, start: Start, figures: list[str]
) -> None:
    first, second, mallory = (lab.host(name) for name in ("a", "b", "mallory"))
    addresses = _more_addresses(mallory, 8)
    target = start(first, "--cluster-key", KEY, wrapper=AHEAD_OF_OTHERS)
    target.wait_for("a")
    command = [attacker.binary(), "hold", f"-to={first.ipv4}:7946", f"-from={','.join(addresses)}"]
    attack = mallory.popen(
        [*AHEAD_OF_OTHERS, *command, "-connections=4", f"-for={10 * PATIENCE}s"],
        stdout=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: target.counts()["connectionsEnded"], what="all connections are held")

    began = time.monotonic()
    joiner = start(second, "--cluster-key", KEY, f"--join={first.ipv4}", wrapper=AHEAD_OF_OTHERS)
    joiner.wait_for("a", "b", deadline=stretched(JOINED_WITHIN))
    target.wait_for("a", "b", deadline=stretched(JOINED_WITHIN))
    figures.append(f"joined in {time.monotonic() - began:.1f} s, its start included")
    assert "too many connections" in target.own_log
    assert f"last_from={second.ipv4}:" not in target.own_log
    assert any(f"most_from={address} " in target.own_log for address in addresses)
    attack.send_signal(signal.SIGKILL)
    attack.communicate()


def test_connections_that_hold_back_the_last_byte_of_a_large_frame_share_a_bounded_memory(
    besieged: Besieged, figures: list[str]
) -> None:
    """Nothing can be authenticated before a frame is whole, and nobody need have the key to begin one."""
    to = f"-to={besieged.hosts[0].ipv4}:7946"
    addresses = _more_addresses(besieged.mallory, 8)
    with besieged.unharmed(figures):
        did = outcome(
            besieged.attack("hold", to, f"-from={','.join(addresses)}", "-connections=4", f"-fill={1 << 20}")
        )
    rejected = besieged.rejected()
    figures += [f"{SECONDS} s", f"{did['dialled']} dialled, {did['closed']} ended by the target"]
    figures.append(", ".join(f"{reason} {count}" for reason, count in sorted(rejected.items())))
    assert rejected["too-many-bytes"] > 0


def test_a_control_socket_under_siege_harms_nobody_and_holds_up_no_end(
    besieged: Besieged, figures: list[str]
) -> None:
    to = "-to=/run/wesher/wgoverlay.sock"
    host = besieged.hosts[0]
    with besieged.unharmed(figures):
        held, junk = map(
            outcome,
            [
                besieged.attack("hold", to, "-connections=30", host=host),
                besieged.attack("junk", to, host=host),
            ],
        )
        wait_until(lambda: not _asked(host), what="commands are answered")
    figures += [f"held {held['most_at_once']} of {held['dialled']} dialled, longest {held['longest']:.1f} s"]
    figures += [f"{junk['dialled']} connections of junk, {junk['sent'] >> 20} MiB"]
    assert 0 < held["most_at_once"] <= MAX_CONNECTIONS
    assert held["longest"] <= stretched(2 * REQUEST_TIMEOUT)

    # Until it is killed.
    again = besieged.attack("hold", to, "-connections=30", host=host, seconds=10 * PATIENCE)
    wait_until(lambda: "other commands are waiting" in _asked(host), what="all its connections are held")
    began = time.monotonic()
    assert besieged.target.end() == 0
    took = time.monotonic() - began
    figures.append(f"ended in {took:.1f} s")
    assert took <= stretched(ENDED_WITHIN)
    again.send_signal(signal.SIGKILL)
    again.communicate()


def _asked(host: Host) -> str:
    """Return what ``wesher status`` complains of; nothing when it was answered."""
    return host.run([WESHER, "status"], check=False).stderr


def _more_addresses(host: Host, count: int) -> list[str]:
    """Give a host further addresses in its network, and return them."""
    addresses = [f"192.0.2.{100 + number}" for number in range(count)]
    for address in addresses:
        host.run(["ip", "address", "add", f"{address}/24", "dev", "eth0"])
    return addresses


def _start_pinging(host: Host, name: str) -> subprocess.Popen[str]:
    return host.popen(
        ["ping", "-n", "-i", "0.1", name],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _end_pinging(ping: subprocess.Popen[str]) -> float:
    # So that it prints its summary.
    ping.send_signal(signal.SIGINT)
    return longest_outage(ping.communicate(timeout=PATIENCE)[0])


def _memory_mib(pid: int, what: str) -> float:
    found = re.search(rf"{what}:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) / 1024


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100
