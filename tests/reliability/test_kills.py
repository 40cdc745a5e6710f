"""Agents that are killed at any moment leave nothing behind and take nobody with them."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from wesher_testing.agents.mesh import RealMesh, Traces, traces
from wesher_testing.agents.process import AgentProcess, wait_until
from wesher_testing.lab.namespaces import Host, Lab
from wesher_testing.lab.pings import Pinging
from wesher_testing.run.soak import soaking

Say = Callable[[str], None]

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]

KILLS, KILLS_WITH_CARRIER, FIRST_STARTS = soaking((12, 4, 4), (120, 40, 40))
"""Of an agent alone, of it and its wireguard-go as when a container ends, and of one that was never there."""
MOMENTS = 0.0, 3.0
"""Seconds after an agent's start in which it is killed: it starts for the first one or two of them."""


@pytest.fixture
def dice(say: Say) -> random.Random:
    seed = int(os.environ.get("WESHER_SIM_SEED") or random.randrange(2**32))
    say(f"for the same moments again: WESHER_SIM_SEED={seed}")
    return random.Random(seed)


def let_live(agent: AgentProcess, seconds: float) -> None:
    """Let time pass in which an agent does not end by itself."""
    with pytest.raises(subprocess.TimeoutExpired):
        agent.process.wait(seconds)


PREVIOUS_STATE = "var/lib/wesher/wgoverlay.json.previous"
"""The one file that comes with the second state that is saved, which may be before or after a kill."""


def traces_of(host: Host) -> Traces:
    """Return what of an agent is on a host, but for the state before the last one."""
    found = traces(host)
    return replace(found, files=tuple(file for file in found.files if file != PREVIOUS_STATE))


def traces_at_rest(host: Host) -> Traces:
    """Return an agent's traces when no file is on its way to its place."""
    found: list[Traces] = []

    def is_at_rest() -> bool:
        found.append(traces_of(host))
        return not [path for path in found[-1].files if path.endswith(".tmp")]

    wait_until(is_at_rest, what="every file is in its place")
    return found[-1]


def wait_for_traces(host: Host, expected: Traces) -> None:
    """Wait until there is one of everything: a file may be on its way to its place."""
    try:
        wait_until(lambda: traces_of(host) == expected, what="all is as before the first kill")
    except AssertionError as error:
        error.add_note(f"now:    {traces_of(host)}\nbefore: {expected}")
        raise


def test_an_agent_killed_at_random_moments_leaks_nothing_and_disturbs_nobody(
    lab: Lab, dice: random.Random, say: Say, tmp_path: Path
) -> None:
    victim = lab.host("c")
    untouched = traces(victim)
    mesh = RealMesh.plain(lab.host("a"), lab.host("b"), victim)
    mesh.wait_whole()
    settled = traces_at_rest(victim)

    def kill_and_start(times: int, *, with_carrier: bool) -> Pinging:
        with mesh.pinging() as pings:
            for _ in range(times):
                let_live(mesh.agents["c"], dice.uniform(*MOMENTS))
                mesh.kill("c")
                if with_carrier:
                    mesh.kill_carrier("c")
                mesh.start("c")
            mesh.wait_whole()
        return pings

    with mesh.watched(tmp_path) as seen:
        alone = kill_and_start(KILLS, with_carrier=False)
        both = kill_and_start(KILLS_WITH_CARRIER, with_carrier=True)
        wait_for_traces(victim, settled)

    others = sum(lost for pair, lost in both.lost.items() if "c" not in pair)
    say(f"{KILLS} kills of the agent: {sum(alone.lost.values())} pings lost; {seen}")
    say(f"{KILLS_WITH_CARRIER} with wireguard-go: {others} between others, {both.lost_at('c'):.1f} s with it")
    assert sum(alone.lost.values()) == 0
    assert others == 0
    assert mesh.agents["c"].end() == 0
    left = traces(victim)
    assert {path for path in left.files if path not in untouched.files} <= {
        "var/lib/wesher/wgoverlay.json",
        "var/lib/wesher/wgoverlay.json.previous",
        "var/lib/wesher/.wgoverlay.json.lock",
    }
    assert replace(left, files=()) == replace(untouched, files=())


def test_an_agent_killed_during_its_very_first_start_begins_anew_where_it_was(
    lab: Lab, dice: random.Random, say: Say
) -> None:
    mesh = RealMesh.plain(lab.host("a"), lab.host("b"))
    victim = mesh.hosts["b"]
    mesh.wait_whole()
    settled = traces_at_rest(victim)
    longest = 0.0
    for _ in range(FIRST_STARTS):
        assert mesh.agents["b"].end() == 0
        victim.run(["rm", "-rf", "/var/lib/wesher"])
        let_live(mesh.start("b"), dice.uniform(*MOMENTS))
        mesh.kill("b")
        mesh.start("b")
        longest = max(longest, mesh.wait_whole())
        wait_for_traces(victim, settled)
    say(f"{FIRST_STARTS} kills: in the mesh {longest:.1f} s after the second start at most")
