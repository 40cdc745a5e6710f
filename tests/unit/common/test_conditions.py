"""Conditions: what is written, and when its time moves."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

from wesher_common.conditions import Condition, carry_over, find_condition, rfc3339

NOON = datetime(2026, 5, 4, 12, 0, 0, 999_999, tzinfo=UTC)
READY = Condition("Ready", "True", "AllReady", "3 of 3 members are ready", observed_generation=2)


def test_a_condition_is_written_as_the_api_server_takes_it() -> None:
    assert carry_over([READY], [], now=NOON) == [
        {
            "type": "Ready",
            "status": "True",
            "reason": "AllReady",
            "message": "3 of 3 members are ready",
            "lastTransitionTime": "2026-05-04T12:00:00Z",
            "observedGeneration": 2,
        }
    ]


def test_the_time_stays_while_the_status_does() -> None:
    """Writing the same status twice writes the same bytes; a new message does not move the time."""
    first = carry_over([READY], [], now=NOON)
    assert carry_over([READY], first, now=NOON + timedelta(hours=1)) == first
    said = Condition("Ready", "True", "AllReady", "4 of 4 members are ready", observed_generation=3)
    (second,) = carry_over([said], first, now=NOON + timedelta(hours=1))
    assert second["lastTransitionTime"] == "2026-05-04T12:00:00Z"
    assert (second["message"], second["observedGeneration"]) == ("4 of 4 members are ready", 3)


def test_the_time_moves_with_the_status() -> None:
    first = carry_over([READY], [], now=NOON)
    lost = Condition("Ready", "False", "MemberNotReady")
    (second,) = carry_over([lost], first, now=NOON + timedelta(hours=1))
    assert second["lastTransitionTime"] == "2026-05-04T13:00:00Z"
    assert "observedGeneration" not in second


def test_a_condition_that_changed_keeps_the_time_it_brings() -> None:
    first = carry_over([READY], [], now=NOON)
    lost = Condition("Ready", "False", "MemberNotReady", last_transition_time="2026-05-04T12:20:00Z")
    (second,) = carry_over([lost], first, now=NOON + timedelta(hours=1))
    assert second["lastTransitionTime"] == "2026-05-04T12:20:00Z"
    (third,) = carry_over([replace(lost, last_transition_time="later")], [second], now=NOON)
    assert third["lastTransitionTime"] == "2026-05-04T12:20:00Z", "its status stayed"


def test_a_condition_without_a_time_gets_one() -> None:
    observed = [{"type": "Ready", "status": "True"}]
    assert carry_over([READY], observed, now=NOON)[0]["lastTransitionTime"] == "2026-05-04T12:00:00Z"


def test_a_condition_no_longer_wanted_is_gone() -> None:
    observed = carry_over([READY, Condition("Degraded", "False", "AllWell")], [], now=NOON)
    assert [entry["type"] for entry in carry_over([READY], observed, now=NOON)] == ["Ready"]


def test_what_is_written_is_read() -> None:
    (entry,) = carry_over([READY], [], now=NOON)
    found = find_condition([{"type": "Other"}, entry], "Ready")
    assert found is not None
    assert found.to_dict() == entry
    assert found.is_true
    assert find_condition([entry], "Absent") is None


def test_a_status_that_is_none_is_unknown() -> None:
    found = Condition.from_dict({"type": "Ready", "status": "Maybe"})
    assert (found.status, found.is_true, found.reason, found.observed_generation) == (
        "Unknown",
        False,
        "",
        None,
    )


def test_times_are_whole_seconds_in_utc() -> None:
    elsewhere = datetime(2026, 5, 4, 14, 0, 0, 5, tzinfo=timezone(timedelta(hours=2)))
    assert rfc3339(elsewhere) == "2026-05-04T12:00:00Z"
