"""On a network that loses a quarter of all packets nobody loses a tunnel, with Go's memberlist beside."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field

import pytest

from wesher_testing.agents.mesh import RealMesh, device
from wesher_testing.agents.process import SECRET, wait_until
from wesher_testing.lab.namespaces import Host, Lab
from wesher_testing.peers.go_peer import GoPeer, go_peer
from wesher_testing.run.machine_load import stretched
from wesher_testing.run.soak import soaking

Say = Callable[[str], None]

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]

MEMBERS = soaking(10, 50)
SECONDS = soaking(60.0, 1800.0)
PERCENT = 25
LOOK = 1.0
WITHIN = 60.0
"""Seconds after the loss in which all must hold all for alive again."""
FORMING = 150.0
GO_PORT = 7956


@dataclass(slots=True)
class Outcome:
    """What the loss did."""

    packets_lost: int = 0
    looks: int = 0
    without_tunnel: list[str] = field(default_factory=list)
    """Hosts that a look found with fewer peers than there are others."""
    go_deaths: int = 0
    """How often a Go member held another one for dead."""
    go_whole: bool = False


def test_a_quarter_of_all_packets_lost_costs_nobody_a_tunnel(lab: Lab, say: Say) -> None:
    hosts = [lab.host(f"n{number:02}") for number in range(MEMBERS)]
    mesh = RealMesh.plain(*hosts)
    mesh.wait_whole()
    before = {name: agent.counts() for name, agent in mesh.agents.items()}

    outcome = asyncio.run(beside_go(hosts))

    took = wait_until(
        lambda: all(agent.sees(*mesh.agents) for agent in mesh.agents.values()),
        deadline=stretched(WITHIN),
        what="all are alive for all again",
    )
    after = {name: agent.counts() for name, agent in mesh.agents.items()}
    deaths = sum(after[name]["membersFailed"] - before[name]["membersFailed"] for name in mesh.agents)
    say(
        f"{MEMBERS} members, LAN, {PERCENT} % lost for {SECONDS:.0f} s, {outcome.packets_lost} packets: "
        f"{len(outcome.without_tunnel)} tunnels lost in {outcome.looks} looks, "
        f"held for dead {deaths} times (Go {outcome.go_deaths}), "
        f"all alive {took:.1f} s after it (Go {'too' if outcome.go_whole else 'never'})"
    )
    assert outcome.packets_lost > MEMBERS * SECONDS, "else it was no such network"
    assert outcome.without_tunnel == []


async def beside_go(hosts: Sequence[Host]) -> Outcome:
    """Lose packets on all hosts for a while, with a Go member on each."""
    outcome = Outcome()
    async with AsyncExitStack() as members:
        peers = [await members.enter_async_context(go_member(host)) for host in hosts]
        for peer in peers[1:]:
            await peer.join(peers[0].address)
        for peer in peers:
            await peer.until_members(lambda found: len(found) == len(peers), timeout=FORMING)

        for host in hosts:
            host.lose(PERCENT)
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            outcome.looks += 1
            for host in hosts:
                held = await asyncio.to_thread(device, host)
                if len(held.peers) != len(hosts) - 1:
                    outcome.without_tunnel.append(host.name)
            await asyncio.sleep(LOOK)
        outcome.packets_lost = sum(host.lost() for host in hosts)
        for host in hosts:
            host.allow_all()

        outcome.go_whole = await all_meet_again(peers)
        outcome.go_deaths = sum(told["event"] == "leave" for peer in peers for told in peer.events)
    return outcome


def go_member(host: Host) -> AbstractAsyncContextManager[GoPeer]:
    """Return a Go member of the LAN profile that runs while its context lasts."""
    return go_peer(host.name, str(host.ipv4), port=GO_PORT, keys=[SECRET], host=host)


async def all_meet_again(peers: Sequence[GoPeer]) -> bool:
    """Tell whether every Go member holds all for alive in time."""
    try:
        async with asyncio.timeout(WITHIN):
            for peer in peers:
                while len(await peer.members()) < len(peers):
                    await asyncio.sleep(LOOK)
    except TimeoutError:
        return False
    return True
