"""What a user does with a new mesh: read the greeting, add a machine, look at it, ping, watch."""

from __future__ import annotations

import os
import pty
import select
import shlex
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from time import monotonic

import pytest

from wesher_testing.agents.process import (
    KEY,
    PATIENCE,
    WESHER,
    AgentProcess,
    wait_for_ping,
    wait_until,
)
from wesher_testing.lab.namespaces import Host, Lab

Start = Callable[..., AgentProcess]

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]


class Terminal:
    """A terminal whose output is read."""

    def __init__(self) -> None:
        self._ours, self.theirs = pty.openpty()
        self._shown = b""

    def wait_for(self, text: str) -> str:
        """Read until a text was shown; return all that was."""
        deadline = monotonic() + PATIENCE
        while text.encode() not in self._shown:
            left = deadline - monotonic()
            assert left > 0, self._shown
            assert select.select([self._ours], [], [], left)[0], self._shown
            self._shown += os.read(self._ours, 65536)
        return self._shown.decode()

    def close(self) -> None:
        """End it."""
        os.close(self.theirs)
        os.close(self._ours)


def wesher(host: Host, *words: str) -> subprocess.CompletedProcess[str]:
    return host.run([WESHER, *words], check=False)


def a_pair(lab: Lab, start: Start, *flags: str) -> tuple[AgentProcess, AgentProcess]:
    first = start(lab.host("a"), "--cluster-key", KEY, *flags)
    first.wait_for("a")
    second = start(lab.host("b"), "--cluster-key", KEY, "--join", str(first.host.ipv4), *flags)
    for agent in (first, second):
        agent.wait_for("a", "b")
    wait_for_ping(first.host, first.members()["b"]["overlayIP"])
    return first, second


def test_an_agent_on_a_terminal_says_who_it_is_and_how_to_go_on(lab: Lab, start: Start) -> None:
    host, terminal = lab.host("a"), Terminal()
    agent = start(host, stdin=terminal.theirs, stdout=terminal.theirs, stderr=subprocess.DEVNULL)
    lines = terminal.wait_for("wesher members").splitlines()
    terminal.close()
    agent.wait_for("a")
    key, name, address, add, _ = lines
    assert key.removeprefix("new cluster key generated: ") == wesher(host, "key").stdout.strip()
    assert name.split() == ["name:", "a"]
    assert address.split()[2] == agent.status()["overlayIP"]
    assert f"--join {host.ipv4} --gossip-profile LAN" in add


def test_an_agent_elsewhere_says_nothing_on_standard_output(lab: Lab, start: Start) -> None:
    agent = start(lab.host("a"), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    agent.wait_for("a")
    agent.process.send_signal(signal.SIGTERM)
    assert agent.process.communicate(timeout=PATIENCE)[0] == ""


def test_a_machine_joins_with_what_the_join_command_prints(lab: Lab, start: Start) -> None:
    a, b = lab.host("a"), lab.host("b")
    first = start(a, "--overlay-net=10.77.0.0/16", "--label=our mesh", "--cluster-port=7000")
    first.wait_for("a")
    text = wesher(a, "join-command").stdout
    key = wesher(a, "key").stdout
    assert key.strip() not in text
    [fetch] = [line for line in text.splitlines() if line.startswith("wesher key")]
    # What ssh would run on the other machine.
    take = shlex.split(fetch.partition(" | ")[2])[2]
    b.run(["sh", "-c", take], text_in=key)
    key_file = Path("etc/wesher/key")
    assert (b.root / key_file).stat().st_mode & 0o077 == 0
    words = shlex.split(text.splitlines()[-1])
    assert words[0] == "wesher"
    start(b, *words[1:]).wait_for("a", "b")
    assert first.process.poll() is None


@pytest.mark.parametrize(
    ("overlay", "ping_group"),
    [("10.0.0.0/8", "1 0"), ("10.0.0.0/8", "0 0"), ("fd77::/16", "1 0")],
    ids=["raw", "datagram", "ipv6"],
)
def test_a_ping_goes_through_the_tunnel_and_says_why_none_comes_back(
    lab: Lab, start: Start, overlay: str, ping_group: str
) -> None:
    first, second = a_pair(lab, start, f"--overlay-net={overlay}")
    a, b = first.host, second.host
    a.run(["sysctl", "-qw", f"net.ipv4.ping_group_range={ping_group}"])
    before = first.members()["b"]["receivedBytes"]
    done = wesher(a, "ping", "b", "-c", "2")
    assert done.returncode == 0, done
    answers = done.stdout.splitlines()
    assert [line.partition(" time=")[0] for line in answers[:2]] == [
        f"answer from b ({second.status()['overlayIP']}): seq={n}" for n in (1, 2)
    ]
    assert answers[2].startswith("2 sent, 2 answered, min/avg/max ")
    assert first.members()["b"]["receivedBytes"] >= before + 2 * 32
    assert wesher(a, "ping", second.status()["overlayIP"], "--count=1").returncode == 0

    b.run(["nft", "add table inet t; add chain inet t i { type filter hook input priority 0; }"])
    b.run(["nft", "add rule inet t i iifname wgoverlay meta l4proto { icmp, ipv6-icmp } drop"])
    done = wesher(a, "ping", "b", "-c1")
    assert done.returncode == 1
    no_answer, count, why = done.stdout.splitlines()
    assert no_answer == "no answer within 2 s: seq=1"
    assert count == "1 sent, 0 answered"
    assert why.startswith(f"b does not answer: the last handshake with {b.ipv4}:51820 is ")

    a.run(["ip", "link", "delete", "wgoverlay"])
    done = wesher(a, "ping", "b", "-c1")
    assert done.returncode == 1
    assert done.stdout.startswith(("b has no tunnel: ", "not sent: seq=1: ", "no answer within "))


def test_ctrl_c_ends_a_ping_with_its_summary(lab: Lab, start: Start) -> None:
    first, _ = a_pair(lab, start)
    pinging = first.host.popen([WESHER, "ping", "b", "-c", "1000"], stdout=subprocess.PIPE, text=True)
    assert pinging.stdout is not None
    assert pinging.stdout.readline().startswith("answer from b ")
    pinging.send_signal(signal.SIGINT)
    rest, _ = pinging.communicate(timeout=PATIENCE)
    assert " answered, min/avg/max " in rest.splitlines()[-1]
    assert pinging.returncode == 0


def test_a_ping_of_nobody_or_of_this_node_says_whom_to_ping(lab: Lab, start: Start) -> None:
    first, _ = a_pair(lab, start)
    for name, rule in (
        ("bb", "MEMBER 'bb': no such member: did you mean b?"),
        ("a", "MEMBER 'a': is the local node: ping another member"),
    ):
        done = wesher(first.host, "ping", name)
        assert (done.returncode, done.stdout, done.stderr) == (2, "", f"wesher: error: {rule}\n")


def test_members_show_traffic_locations_and_how_long_ago_one_left(lab: Lab, start: Start) -> None:
    first, second = a_pair(lab, start)
    heading, *rows = (line.split() for line in wesher(first.host, "members").stdout.splitlines())
    assert heading[6:] == ["RECEIVED", "SENT", "NOTE"]
    b = next(row for row in rows if row[0] == "b")
    assert b[6].endswith("B")
    assert b[7].endswith("B")
    tree = wesher(first.host, "members", "--tree", "b").stdout.splitlines()
    assert [line.split("  ")[0] for line in tree[1:]] == ["(no location)", "└─ b"]
    assert wesher(second.host, "leave").returncode == 0
    wait_until(lambda: first.members()["b"]["state"] == "left", what="a knows that b left")
    [_, left] = wesher(first.host, "members", "--state=left").stdout.splitlines()
    assert left.split()[:2] == ["b", "left"]
    assert left.split()[2].endswith("s")
    done = wesher(first.host, "ping", "b")
    assert done.returncode == 1
    assert done.stdout.startswith("b has no tunnel: it left the mesh ")


def test_a_watch_shows_a_member_that_joins(lab: Lab, start: Start) -> None:
    first = start(lab.host("a"), "--cluster-key", KEY)
    first.wait_for("a")
    terminal = Terminal()
    watching = first.host.popen(
        [WESHER, "members", "--watch"], stdout=terminal.theirs, env={**os.environ, "TERM": "xterm"}
    )
    terminal.wait_for("this node")
    second = start(lab.host("b"), "--cluster-key", KEY, "--join", str(first.host.ipv4))
    second.wait_for("a", "b")
    terminal.wait_for(f"{second.host.ipv4}:51820")
    watching.send_signal(signal.SIGINT)
    assert watching.wait(PATIENCE) == -signal.SIGINT
    terminal.close()
