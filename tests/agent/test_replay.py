"""Every gossip packet of a mesh is sent again: nobody who is gone comes back, and nobody else is lost."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from wesher_testing.agents.process import KEY, AgentProcess, wait_for_ping, wait_until
from wesher_testing.lab.capture import Capture
from wesher_testing.lab.namespaces import Host, Lab
from wesher_testing.lab.replay import Said

Start = Callable[..., AgentProcess]

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]

GONE = ["c", "d"]
TELLING = "members dial the previous address: announcing the new one again"
STORY = re.compile(r"member (joined|failed|left) node=(\w+)")
FORGOTTEN_WITHIN = 240.0
"""Seconds: a suspicion's, those in which the dead are gossiped to, a round of probes, and a busy machine."""


def heard(agents: Iterable[AgentProcess], *names: str) -> list[tuple[str, str]]:
    """Return which of these joined, failed or left in the agents' eyes."""
    matches = (match for agent in agents for match in STORY.findall(agent.own_log))
    return [(what, name) for what, name in matches if name in names]


def claims(agent: AgentProcess) -> int:
    """Return how often an agent met old news of somebody who is gone."""
    return agent.counts()["outdatedClaims"]


def all_said(captures: Iterable[Capture]) -> Said:
    """Return the gossip that was captured so far."""
    return Said.captured(packet for capture in captures for packet in capture.packets())


def test_old_words_of_a_member_that_has_moved_cost_nobody_a_tunnel(
    lab: Lab, start: Start, tmp_path: Path
) -> None:
    """Nor do they make it call itself not ready, once it was restarted and knows not where it was before."""
    a, b, c, replayer = (lab.host(name) for name in ("a", "b", "c", "replayer"))
    with ExitStack() as capturing:
        captures = [
            capturing.enter_context(Capture(host, "eth0", tmp_path / f"{host.name}.pcap"))
            for host in (a, b, c)
        ]
        agents = [start(host, "--cluster-key", KEY, "--join", str(a.ipv4)) for host in (a, b, c)]
        for agent in agents:
            agent.wait_for("a", "b", "c")
        wait_until(
            lambda: len(all_said(captures).datagrams) > 30 and len(all_said(captures).requests) >= 3,
            what="they have said enough to be worth a replay",
        )
    said = all_said(captures)
    mover, others = agents[1], [agents[0], agents[2]]
    elsewhere = b.ipv4 + 100
    b.run(["ip", "address", "del", f"{b.ipv4}/24", "dev", "eth0"])
    b.run(["ip", "address", "add", f"{elsewhere}/24", "dev", "eth0"])
    for agent in others:
        wait_until(
            lambda agent=agent: address_of("b", agent) == f"{elsewhere}:7946" and agent.sees("a", "b", "c"),
            what=f"{agent.host.name} knows where b is now",
        )
        wait_for_ping(agent.host, "b")
    assert f"gossip listening addresses={elsewhere}" in mover.own_log
    tellings = mover.own_log.count(TELLING)
    before = leaves(others)

    replay_to(mover, said, replayer, elsewhere)
    assert leaves(others) == before
    assert mover.own_log.count(TELLING) == tellings

    for _ in range(2):
        mover.end(signal.SIGKILL)
        mover = start(b)
        mover.wait_for("a", "b", "c")
    replay_to(mover, said, replayer, elsewhere)
    # A rival would be named for longer than this waits.
    wait_until(
        lambda: ("GossipJoined", "Joined") in reasons(mover),
        what="b has joined, alone of its name",
    )
    assert leaves(others) == before
    wait_for_ping(a, "b")


def address_of(name: str, agent: AgentProcess) -> str:
    """Return where an agent sees a member; empty while it does not, or does not answer."""
    return str(agent.members().get(name, {}).get("address", ""))


def leaves(agents: Iterable[AgentProcess]) -> int:
    """Return how often any member left in the agents' eyes."""
    return [what for what, _ in heard(agents, "a", "b", "c")].count("left")


def reasons(agent: AgentProcess) -> list[tuple[str, str]]:
    """Return the reason of each condition; none while the agent does not answer."""
    status = agent.ask("status")
    return [(entry["type"], entry["reason"]) for entry in status["conditions"]] if status is not None else []


def replay_to(mover: AgentProcess, said: Said, replayer: Host, address: IPv4Address) -> None:
    """Send a member what was said before it moved, until it has met its own old words, and some time more."""
    known = mover.counts()["nameConflicts"]
    said.again(replayer, address)
    wait_until(lambda: mover.counts()["nameConflicts"] > known, what="it met its own old words")
    # Whatever was to be done about the first is done when the last of these has been read.
    said.again(replayer, address)


def test_replayed_gossip_neither_brings_back_the_gone_nor_costs_the_living(
    lab: Lab, start: Start, tmp_path: Path
) -> None:
    a, b, c, d, replayer = (lab.host(name) for name in ("a", "b", "c", "d", "replayer"))
    with ExitStack() as capturing:
        captures = [
            capturing.enter_context(Capture(host, "eth0", tmp_path / f"{host.name}.pcap"))
            for host in (a, b, c, d)
        ]
        agents = [start(host, "--cluster-key", KEY, "--join", str(a.ipv4)) for host in (a, b, c, d)]
        for agent in agents:
            agent.wait_for("a", "b", "c", "d")
        wait_until(
            lambda: len(all_said(captures).datagrams) > 30 and len(all_said(captures).requests) >= 3,
            what="they have said enough to be worth a replay",
        )
        staying, leaving, killed = agents[:2], agents[2], agents[3]
        killed.end(signal.SIGKILL)
        leaving.end()
    said = all_said(captures)

    said.again(replayer, a, b)
    for agent in staying:
        wait_until(
            lambda agent=agent: all(
                f"member forgotten by gossip node={name}" in agent.own_log for name in GONE
            ),
            deadline=FORGOTTEN_WITHIN,
            what=f"{agent.host.name} has forgotten those who are gone",
        )
    before = heard(staying, *GONE)
    assert {name for what, name in before if what != "joined"} == set(GONE)

    met = {agent: claims(agent) for agent in staying}
    said.again(replayer, a, b)
    for agent in staying:
        wait_until(lambda agent=agent: claims(agent) > met[agent], what="old news is counted")
        assert re.search(r"outdated alive message received: .* node=[cd] incarnation=\d+ ", agent.own_log)
        agent.wait_for("a", "b")
    assert heard(staying, *GONE) == before
    assert "left" not in {what for what, _ in heard(staying, "a", "b")}

    for agent in staying:
        agent.end(signal.SIGKILL)
        state = json.loads((agent.host.root / "var/lib/wesher/wgoverlay.json").read_text())
        assert [gone["Name"] for gone in state["Tombstones"]] == GONE
    again = [start(host) for host in (a, b)]
    for agent in again:
        agent.wait_for("a", "b")
    said.again(replayer, a, b)
    for agent in again:
        wait_until(lambda agent=agent: claims(agent), what="old news is counted")
        agent.wait_for("a", "b")
    wait_for_ping(a, "b")
    assert heard(again, *GONE) == []
    assert "left" not in {what for what, _ in heard(again, "a", "b")}
