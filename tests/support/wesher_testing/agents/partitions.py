"""Meshes of wesher and of Go's memberlist torn in two together, and how each comes back.

Eight hosts on two switches, and on each host an agent that knows the others from
its state file only, one that has a seed besides, and a Go member. The cable between
the switches is pulled for a while, so all three meshes meet the same cut at the
same time.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, Literal, Protocol

from wesher_testing.agents.process import KEY, SECRET, AgentProcess
from wesher_testing.lab.cleartext import Seen, watched
from wesher_testing.lab.namespaces import Host, Lab, Network
from wesher_testing.peers.go_peer import GoPeer, go_peer
from wesher_testing.run.machine_load import stretched
from wesher_testing.run.soak import soaking

ALONE, SEEDED, GO = "wesher by itself", "wesher with a seed", "Go memberlist"
LENGTHS = soaking((20.0, 100.0), (20.0, 100.0, 3600.0))
"""Of the cuts, in seconds."""
SIDE = 4
PATIENCE = {ALONE: 240.0, SEEDED: 240.0, GO: 62.0}
"""Seconds after healing for which each mesh is looked at; Go's does not come back by waiting longer."""
FORMING = 150.0
_PAUSE = 0.25
_OVERLAYS = IPv4Network("10.98.0.0/15")
_PORTS = {
    ALONE: ("--overlay-net=10.98.0.0/16", "--cluster-port=7946", "--wireguard-port=51820"),
    SEEDED: ("--overlay-net=10.99.0.0/16", "--cluster-port=7947", "--wireguard-port=51821"),
}
_GO_PORT = 7956

State = Literal["split", "whole"]


@dataclass(slots=True)
class Cut:
    """What one cut did; by mesh, in seconds, None where it did not come about."""

    seconds: float
    split: dict[str, float | None] = field(default_factory=dict)
    """From the cut until each half held all of the other for dead."""
    whole: dict[str, float | None] = field(default_factory=dict)
    """From the cable's return until everybody held all for alive, and pings went across."""
    stretch: float = 1.0
    """By how much longer limits must be than on a machine of one's own, as busy as this one was then."""

    def __str__(self) -> str:
        """Return a line for people."""
        return f"cut of {self.seconds:.0f} s: split {_row(self.split)}; whole again {_row(self.whole)}"


@dataclass(slots=True)
class Result:
    """What all cuts did."""

    cuts: dict[float, Cut] = field(default_factory=dict)
    seen: Seen = field(default_factory=Seen)
    log: str = ""
    """What one agent without seeds said."""
    counts: dict[str, int] = field(default_factory=dict)
    """What it counted."""


class TornMesh(Protocol):
    """One of the meshes."""

    async def is_(self, state: State) -> bool:
        """Whether every member holds just its own side for alive, or all and traffic goes across."""


async def tear_and_heal(lengths: Sequence[float], directory: Path) -> Result:
    """Run cuts one after the other.

    Args:
        lengths: in seconds, the shortest first.
        directory: for the captures.

    Raises:
        AssertionError: the meshes did not form, or something stood readable on the underlay.

    """
    result = Result()
    with _lab() as (lab, far, near_hosts, far_hosts):
        async with AsyncExitStack() as go_members:
            ours = OurMesh.without_seeds(near_hosts, far_hosts)
            go = await GoMesh.start(near_hosts, far_hosts, go_members)
            meshes: dict[str, TornMesh] = {
                ALONE: ours,
                SEEDED: OurMesh.start(SEEDED, near_hosts, far_hosts),
                GO: go,
            }
            formed = await _measure(meshes, "whole", patience=FORMING)
            assert None not in formed.values(), f"not formed: {_row(formed)}"
            with watched((*near_hosts, *far_hosts), _OVERLAYS, directory) as result.seen:
                for seconds in lengths:
                    cut = result.cuts[seconds] = Cut(seconds)
                    lab.cut_between(far)
                    cut.split = await _measure(meshes, "split", patience=seconds, to_the_end=True)
                    lab.join_again(far)
                    cut.whole = await _measure(meshes, "whole", patience=PATIENCE)
                    cut.stretch = stretched(1.0)
                    if cut.whole[GO] is None:
                        await go.mend()
            agent = ours.sides[0][0]
            result.log, result.counts = agent.own_log, agent.counts()
    return result


@contextmanager
def _lab() -> Iterator[tuple[Lab, Network, list[Host], list[Host]]]:
    with Lab() as lab:
        far = lab.far_side(lab.lan, "far")
        hosts = [lab.host(f"n{i}") for i in range(SIDE)]
        yield lab, far, hosts, [lab.host(f"f{i}", far) for i in range(SIDE)]


async def _measure(
    meshes: Mapping[str, TornMesh],
    state: State,
    *,
    patience: float | Mapping[str, float],
    to_the_end: bool = False,
) -> dict[str, float | None]:
    """Return how long each mesh took to a state; ``to_the_end`` lets all of the time pass."""
    start = time.monotonic()
    limits = patience if isinstance(patience, Mapping) else dict.fromkeys(meshes, patience)
    took: dict[str, float | None] = dict.fromkeys(meshes)

    async def watch(name: str, mesh: TornMesh) -> None:
        while time.monotonic() < start + limits[name]:
            if await mesh.is_(state):
                took[name] = time.monotonic() - start
                return
            await asyncio.sleep(_PAUSE)

    await asyncio.gather(*(watch(name, mesh) for name, mesh in meshes.items()))
    if to_the_end:
        await asyncio.sleep(max(0.0, start + max(limits.values()) - time.monotonic()))
    return took


class OurMesh:
    """Agents, those of each switch apart."""

    def __init__(self, sides: Sequence[Sequence[AgentProcess]]) -> None:
        self.sides = sides

    @classmethod
    def start(cls, kind: str, *sides: Sequence[Host]) -> OurMesh:
        """Start agents that all have the first host for their seed."""
        return cls([[_agent(kind, host, f"--join={sides[0][0].ipv4}") for host in side] for side in sides])

    @classmethod
    def without_seeds(cls, *sides: Sequence[Host]) -> OurMesh:
        """Start agents that know each other, then end them without a word and start them without a seed."""
        before = cls.start(ALONE, *sides)
        agents = [agent for side in before.sides for agent in side]
        names = [agent.host.name for agent in agents]
        for agent in agents:
            agent.wait_for(*names, deadline=FORMING)
        for agent in agents:
            agent.wait_saved(*(name for name in names if name != agent.host.name))
        for agent in agents:
            agent.end(signal.SIGKILL)
        return cls([[_agent(ALONE, host) for host in side] for side in sides])

    async def is_(self, state: State) -> bool:
        """See `TornMesh`."""
        return await asyncio.to_thread(self._is, state)

    def _is(self, state: State) -> bool:
        names = [{agent.host.name for agent in side} for side in self.sides]
        seen = [set().union(*names)] * 2 if state == "whole" else names
        for side, expected in zip(self.sides, seen, strict=True):
            if not all(agent.sees(*expected) for agent in side):
                return False
        return state == "split" or self._pings_go_across()

    def _pings_go_across(self) -> bool:
        near, far = self.sides
        members = near[0].members()
        targets = [members[agent.host.name]["overlayIP"] for agent in far]
        pings = " ".join(f'ping -c1 -W2 {target} & jobs="$jobs $!";' for target in targets)
        command = ["sh", "-c", f"{pings} for job in $jobs; do wait $job || exit 1; done"]
        return all(agent.host.run(command, check=False).returncode == 0 for agent in near)


class GoMesh:
    """Go members of the LAN profile; gossip is all there is to them."""

    def __init__(self, sides: Sequence[Sequence[GoPeer]]) -> None:
        self.sides = sides

    @classmethod
    async def start(cls, near: Sequence[Host], far: Sequence[Host], members: AsyncExitStack) -> GoMesh:
        """Start a member on each host."""

        async def one(host: Host) -> GoPeer:
            return await members.enter_async_context(
                go_peer(host.name, str(host.ipv4), port=_GO_PORT, keys=[SECRET], host=host)
            )

        mesh = cls([[await one(host) for host in side] for side in (near, far)])
        await mesh.mend()
        return mesh

    async def mend(self) -> None:
        """Let every member join the first, as an administrator does after a cut."""
        first = self.sides[0][0]
        for peer in (peer for side in self.sides for peer in side if peer is not first):
            await peer.join(first.address)
        assert (await _measure({GO: self}, "whole", patience=FORMING))[GO] is not None

    async def is_(self, state: State) -> bool:
        """See `TornMesh`."""
        names = [{peer.name for peer in side} for side in self.sides]
        seen = [set().union(*names)] * 2 if state == "whole" else names
        for side, expected in zip(self.sides, seen, strict=True):
            for peer in side:
                if set(await peer.members()) != expected:
                    return False
        return True


def _agent(kind: str, host: Host, *flags: str) -> AgentProcess:
    interface = "wg0" if kind == ALONE else "wg1"
    return AgentProcess(
        host, "--cluster-key", KEY, "--no-etc-hosts", *_PORTS[kind], *flags, interface=interface
    )


def _row(times: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {'never' if t is None else f'{t:.1f} s'}" for name, t in times.items())
