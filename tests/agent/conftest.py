"""A lab for each test, and agents in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from wesher_testing.agents.process import PATIENCE, AgentProcess
from wesher_testing.lab.namespaces import Host, Lab

Start = Callable[..., AgentProcess]


@pytest.fixture
def started() -> Iterator[list[AgentProcess]]:
    """Return the agents that were started; when the lab is gone, so are they."""
    agents: list[AgentProcess] = []
    yield agents
    for agent in agents:
        agent.process.wait(PATIENCE)


@pytest.fixture
def lab(started: list[AgentProcess]) -> Iterator[Lab]:
    """Return an empty lab."""
    with Lab() as made:
        yield made
        # Shown when the test failed.
        for agent in started:
            print(f"── {agent.host.name}\n{agent.own_log[-6000:]}")  # noqa: T201


@pytest.fixture
def start(started: list[AgentProcess]) -> Start:
    """Return what starts an agent in a host; it takes what `AgentProcess` takes."""

    def start_agent(host: Host, *flags: str | Path, **options: Any) -> AgentProcess:
        agent = AgentProcess(host, *flags, **options)
        started.append(agent)
        return agent

    return start_agent
