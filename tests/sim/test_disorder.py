"""Datagrams that come twice, late and in another order, and clocks that jump, change nothing."""

from __future__ import annotations

from collections.abc import Callable

from wesher_agent.swim.events import MemberFailed
from wesher_agent.wire.messages import State
from wesher_testing.virtual.mesh import VirtualMesh

Make = Callable[..., VirtualMesh]
DAY = 24 * 3600.0
RAGGED = (0.001, 0.4)
"""Seconds one way: a datagram overtakes many that were sent before it."""


def test_copies_that_come_late_and_out_of_order_raise_nobody_and_bury_nobody(make_mesh: Make) -> None:
    mesh = make_mesh(gossip="WAN", delay=RAGGED, duplication=0.5)
    agents = mesh.form(12)
    mesh.run(120.0)
    assert not [event for agent in agents for event in agent.happened(MemberFailed)]

    gone, rest = agents[5], [*agents[:5], *agents[6:]]
    mesh.crash(gone)
    mesh.run_until(lambda: all(agent.sees(gone) is State.DEAD for agent in rest), deadline=120.0)
    mesh.run(120.0)
    assert not any(gone.name in agent.alive for agent in rest)

    mesh.boot(gone.name, address=gone.address, state=gone.state_file)
    took = mesh.run_until(mesh.is_whole, deadline=60.0)
    mesh.figure(f"12 members, half of all datagrams doubled: back in {took:.1f} s")


def test_clocks_that_jump_far_ahead_and_back_between_restarts_lose_nobody(make_mesh: Make) -> None:
    """Only a first incarnation depends on a clock: what was saved keeps it from going back."""
    mesh = make_mesh()
    agents = mesh.form(5)
    for error in (400 * DAY, -400 * DAY, 0.0):
        mesh.wall_clock_error = error
        for agent in list(mesh.agents[:2]):
            mesh.crash(agent)
            mesh.boot(agent.name, address=agent.address, state=agent.state_file)
        mesh.run_until(mesh.is_whole, deadline=10.0)
        mesh.run(5.0)
    assert len(agents) == len(mesh.agents)
