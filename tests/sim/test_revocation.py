"""A revocation reaches every member from any member. Age, restarts and replays do not undo it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from wesher_agent.mesh.events import CertificateRefused, StatementTaken
from wesher_agent.mesh.news import AT_RANDOM, IN_ORDER
from wesher_agent.swim.events import UserMessageReceived
from wesher_common.certificate import Refusal
from wesher_common.news import Statement
from wesher_testing.run.soak import soaking
from wesher_testing.virtual.mesh import IN_BOUND_MESH, VirtualAgent, VirtualMesh

Make = Callable[..., VirtualMesh]


def add(agent: VirtualAgent, statement: Statement) -> None:
    """Give an agent a statement, as an administrator does."""
    agent.change(lambda member, now: member.news_added(statement.packed(), now=now))


def reach(agents: list[VirtualAgent], name: str) -> list[str]:
    """Return who of these agents has a tunnel to the member, or a hosts entry of it."""
    return [
        agent.name
        for agent in agents
        if name in agent.tunnels or name in [entry.name.partition(".")[0] for entry in agent.hosts]
    ]


def told(mesh: VirtualMesh) -> int:
    """Return how many statements have arrived by gossip."""
    return sum(len(agent.happened(UserMessageReceived)) for agent in mesh.agents)


@pytest.mark.parametrize("count", [20, 50])
def test_all_drop_a_revoked_member_within_ten_seconds(make_mesh: Make, count: int) -> None:
    mesh = make_mesh(identity=IN_BOUND_MESH)
    agents = mesh.form(count)
    revoked, others = agents[7], [agent for agent in agents if agent is not agents[7]]
    assert len(reach(others, revoked.name)) == count - 1

    add(agents[3], mesh.revocation([revoked.name]))
    took = mesh.run_until(lambda: not reach(others, revoked.name), deadline=10.0)
    mesh.figure(f"revocation: all of {count} members dropped the revoked one within {took:.2f} s")

    mesh.run(60.0)
    assert not reach(others, revoked.name), "its old certificate does not count again"
    assert all(len(agent.happened(StatementTaken)) == 1 for agent in others)
    assert Refusal.REVOKED in [event.reason for event in revoked.happened(CertificateRefused)], (
        "it learns by an exchange that it is revoked"
    )
    assert revoked.tunnels == {agent.name for agent in others}, "and keeps running as it was"
    assert mesh.agents == agents


def test_lost_packets_and_members_that_just_crashed_do_not_keep_a_revocation_from_others(
    make_mesh: Make,
) -> None:
    mesh = make_mesh(identity=IN_BOUND_MESH, loss=0.1)
    agents = mesh.form(20)
    revoked, crashed = agents[7], agents[10:12]
    for agent in crashed:
        mesh.crash(agent)
    others = [agent for agent in agents if agent not in {revoked, *crashed}]
    add(agents[3], mesh.revocation([revoked.name]))
    took = mesh.run_until(lambda: not reach(others, revoked.name), deadline=10.0)
    mesh.figure(
        f"revocation: 17 members, with 2 dead ones and a tenth of all packets lost, took {took:.2f} s"
    )


def test_members_that_were_away_drop_it_within_two_minutes_after_their_return(make_mesh: Make) -> None:
    mesh = make_mesh(identity=IN_BOUND_MESH)
    agents = mesh.form(20)
    revoked, cut, crashed = agents[7], agents[11], agents[12]
    others = [agent for agent in agents if agent not in {revoked, crashed}]
    mesh.cut(cut)
    mesh.crash(crashed)
    add(agents[3], mesh.revocation([revoked.name]))
    mesh.run_until(lambda: reach(others, revoked.name) == [cut.name], deadline=10.0)
    mesh.run(300.0)

    mesh.heal()
    took = mesh.run_until(lambda: not reach([cut], revoked.name), deadline=120.0)
    mesh.figure(
        f"revocation: a member that was cut off dropped the revoked one {took:.1f} s after its return"
    )
    back = mesh.boot(crashed.name, address=crashed.address, state=crashed.state_file)
    mesh.run_until(lambda: back.wanted is not None and not reach([back], revoked.name), deadline=120.0)
    mesh.run_until(lambda: back.happened(StatementTaken), deadline=120.0)


def test_a_restart_keeps_what_was_revoked(make_mesh: Make) -> None:
    """Also if nobody is there to say it again: the old certificate in the state file is void."""
    mesh = make_mesh(identity=IN_BOUND_MESH)
    agents = mesh.form(5)
    revoked, one = agents[1], agents[2]
    add(one, mesh.revocation([revoked.name]))
    mesh.run(10.0)
    assert revoked.name not in one.tunnels
    mesh.cut(one)
    mesh.crash(one)
    back = mesh.boot(one.name, address=one.address, state=one.state_file)
    mesh.run(20.0)
    assert back.wanted is not None
    assert not reach([back], revoked.name)
    assert len(back.tunnels) == 3


def test_a_certificate_issued_after_the_revocation_counts(make_mesh: Make) -> None:
    mesh = make_mesh(identity=IN_BOUND_MESH)
    agents = mesh.form(10)
    revoked, others = agents[7], [agent for agent in agents if agent is not agents[7]]
    add(agents[3], mesh.revocation([revoked.name]))
    mesh.run_until(lambda: not reach(others, revoked.name), deadline=10.0)
    mesh.run(2.0)
    revoked.renew()
    mesh.run_until(lambda: len(reach(others, revoked.name)) == len(others), deadline=30.0)


def test_a_statement_costs_four_messages_a_member_and_no_more(make_mesh: Make) -> None:
    mesh = make_mesh(identity=IN_BOUND_MESH)
    count = soaking(40, 200)
    agents = mesh.form(count)
    for turn in range(3):
        statement = mesh.revocation([f"gone-{turn}"])
        before, at = told(mesh), mesh.now
        for agent in agents[turn : turn + 3]:
            add(agent, statement)

        def has(agent: VirtualAgent, number: int = statement.number) -> bool:
            return number in [event.number for event in agent.happened(StatementTaken)]

        mesh.run_until(lambda: all(has(agent) for agent in agents), deadline=10.0)
        took = mesh.now - at
        mesh.run(60.0)
        sent = told(mesh) - before
        mesh.figure(f"revocation: {sent} messages told {count} members in {took:.2f} s")
        assert sent <= (IN_ORDER + AT_RANDOM) * count
