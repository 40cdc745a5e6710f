"""Since when each condition is as it is."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from wesher_agent.kube.node_status import node_status, own_part, view_part
from wesher_agent.status.answers import status_answer
from wesher_agent.status.snapshot import Snapshot
from wesher_agent.status.transitions import Transitions
from wesher_testing.agents.snapshots import snapshot
from wesher_testing.virtual.members import remembered

B = remembered("b")
NO_DEVICE = {"device_ready": False, "device_reason": "PortTaken", "device_problem": "51820 is taken"}
NOON = datetime(2026, 5, 4, 12, 0, 0, 600_000, tzinfo=UTC)


def at(minute: int, **changes: Any) -> Snapshot:
    return snapshot(B, wall_clock=NOON.replace(minute=minute).timestamp(), **changes)


def test_each_condition_has_the_time_at_which_its_status_last_changed() -> None:
    """Not the time at which a client asked, nor that of a new message."""
    transitions = Transitions()
    transitions.observe(at(0, **NO_DEVICE))
    transitions.observe(at(5, **NO_DEVICE | {"device_problem": "51820 is still taken"}))
    transitions.observe(at(10))
    asked = at(20)
    asked = replace(asked, changed_at=transitions.observe(asked))
    times = {entry["type"]: entry["lastTransitionTime"] for entry in status_answer(asked)["conditions"]}
    assert times == {
        "Ready": "2026-05-04T12:10:00Z",
        "WireGuardReady": "2026-05-04T12:10:00Z",
        "GossipJoined": "2026-05-04T12:00:00Z",
        "KeyCurrent": "2026-05-04T12:00:00Z",
        "StateSaved": "2026-05-04T12:00:00Z",
    }


def test_kubernetes_is_told_the_time_of_the_change_and_not_that_of_the_report() -> None:
    """An API server that was away for an hour takes the report an hour later."""
    transitions = Transitions()
    well = at(0)
    well = replace(well, changed_at=transitions.observe(well))
    first = node_status(well, (), time=NOON)["conditions"]
    sick = at(10, **NO_DEVICE)
    sick = replace(sick, changed_at=transitions.observe(sick))
    later = node_status(sick, first, time=NOON.replace(hour=13))["conditions"]
    times = {entry["type"]: entry["lastTransitionTime"] for entry in later}
    assert (times["Ready"], times["GossipJoined"]) == ("2026-05-04T12:10:00Z", "2026-05-04T12:00:00Z")


def test_a_restart_of_the_agent_changes_no_time_in_kubernetes() -> None:
    before = node_status(at(0), (), time=NOON)["conditions"]
    again = at(30)
    again = replace(again, changed_at=Transitions().observe(again))
    assert node_status(again, before, time=NOON.replace(minute=31))["conditions"] == before


def test_a_time_alone_is_no_news_for_kubernetes() -> None:
    plain, stamped = at(0), replace(at(0), changed_at=Transitions().observe(at(0)))
    assert (own_part(plain), view_part(plain)) == (own_part(stamped), view_part(stamped))
