"""When the status of each condition last changed; pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from wesher_agent.status.conditions import conditions
from wesher_agent.status.snapshot import Snapshot
from wesher_common.conditions import ConditionEntry, carry_over


class Transitions:
    """The transition times of this process's conditions, as exact as `observe` is called often."""

    def __init__(self) -> None:
        self._last: list[ConditionEntry] = []

    def observe(self, now: Snapshot) -> Mapping[str, str]:
        """Judge a snapshot; return the time of each condition type's last change of status, RFC 3339."""
        time = datetime.fromtimestamp(now.wall_clock, UTC)
        self._last = carry_over(conditions(now), self._last, now=time)
        return {entry["type"]: entry["lastTransitionTime"] for entry in self._last}
