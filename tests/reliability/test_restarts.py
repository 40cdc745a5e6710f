"""What was ended is back in seconds: wireguard-go, all agents at once, whole machines."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

import pytest

from wesher_testing.agents.mesh import RealMesh
from wesher_testing.agents.process import wait_until
from wesher_testing.lab.namespaces import Lab
from wesher_testing.run.machine_load import stretched
from wesher_testing.run.soak import soaking

Say = Callable[[str], None]

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]

ROUNDS = soaking(3, 30)
LOST_AT_MOST, BACK_WITHIN = 3.0, 30.0
"""Seconds."""


def test_a_killed_wireguard_go_is_replaced_and_peers_are_asked_at_once(
    plain: RealMesh, say: Say, tmp_path: Path
) -> None:
    """Without the asking, peers would stay silent until their own timer of 15 s."""
    agent, outages = plain.agents["b"], []
    plain.wait_whole()
    with plain.watched(tmp_path) as seen:
        for number in range(1, ROUNDS + 1):
            restarts = agent.counts()["deviceRestarts"]
            with plain.pinging() as pings:
                plain.kill_carrier("b")
                wait_until(
                    lambda restarts=restarts: agent.counts()["deviceRestarts"] > restarts,  # type: ignore[misc]
                    what="another one runs",
                )
                plain.wait_whole()
            outages.append(pings.lost_at("b"))
            assert sum(lost for pair, lost in pings.lost.items() if "b" not in pair) == 0
            assert agent.own_log.count("wireguard-go exited interface=wgoverlay pid=") == number
    say(f"outages {', '.join(f'{outage:.1f}' for outage in outages)} s; {seen}")
    assert max(outages) <= stretched(LOST_AT_MOST)


def test_machines_that_all_reboot_are_a_mesh_again_from_their_state_files(
    plain: RealMesh, say: Say, tmp_path: Path
) -> None:
    plain.wait_whole()
    before = plain.addresses
    for name in plain.agents:
        plain.power_off(name)
    with plain.watched(tmp_path) as seen:
        for name in plain.agents:
            plain.start(name)
        running, whole = plain.wait_running(), plain.wait_whole()
    say(f"{len(before)} machines: agents run after {running:.1f} s, whole {whole:.1f} s later; {seen}")
    assert running + whole <= stretched(BACK_WITHIN)
    assert plain.addresses == before


def test_agents_all_killed_while_the_api_server_is_away_come_back_from_their_files(
    lab: Lab, say: Say, tmp_path: Path
) -> None:
    """Their wireguard-go dies with them, as it does with a container; the TUN device stays."""
    mesh = RealMesh.mounted(
        *(lab.host(name) for name in "abcd"), key=base64.b64encode(bytes(range(32))).decode()
    )
    mesh.wait_whole()
    with mesh.watched(tmp_path) as seen:
        for name in mesh.agents:
            mesh.kill(name)
            mesh.kill_carrier(name)
        for name in mesh.agents:
            mesh.start(name)
        running, whole = mesh.wait_running(), mesh.wait_whole()
    say(f"{len(mesh.agents)} agents: run again after {running:.1f} s, whole {whole:.1f} s later; {seen}")
    assert running + whole <= stretched(BACK_WITHIN)
