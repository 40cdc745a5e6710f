"""Kubernetes conditions as values, and the one rule about their transition time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal, NotRequired, TypedDict

ConditionStatus = Literal["True", "False", "Unknown"]


class ConditionEntry(TypedDict):
    """One entry of ``status.conditions`` as JSON (metav1.Condition)."""

    type: str
    """Which condition."""
    status: ConditionStatus
    """Whether it is so."""
    reason: str
    """Why, in CamelCase, from a fixed set."""
    message: str
    """The same for people."""
    lastTransitionTime: str
    """When the status last changed, RFC 3339."""
    observedGeneration: NotRequired[int]
    """The generation of the object that this is about; only in Kubernetes."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One entry of ``status.conditions`` (metav1.Condition)."""

    type: str
    status: ConditionStatus
    reason: str
    """CamelCase, from a fixed set: tools and docs look it up."""
    message: str = ""
    observed_generation: int | None = None
    last_transition_time: str = ""
    """RFC 3339; empty until it is known, or filled in by `carry_over`."""

    @property
    def is_true(self) -> bool:
        """Whether the status is ``True``, not merely not ``False``."""
        return self.status == "True"

    def to_dict(self) -> ConditionEntry:
        """Return the form the API server takes."""
        entry: ConditionEntry = {
            "type": self.type,
            "status": self.status,
            "reason": self.reason,
            "message": self.message,
            "lastTransitionTime": self.last_transition_time,
        }
        if self.observed_generation is not None:
            entry["observedGeneration"] = self.observed_generation
        return entry

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> Condition:
        """Read what the API server returned; absent fields become empty."""
        status = entry.get("status")
        return cls(
            type=str(entry.get("type", "")),
            status=status if status in {"True", "False"} else "Unknown",
            reason=str(entry.get("reason", "")),
            message=str(entry.get("message", "")),
            observed_generation=entry.get("observedGeneration"),
            last_transition_time=str(entry.get("lastTransitionTime", "")),
        )


def find_condition(conditions: Iterable[Mapping[str, Any]], kind: str) -> Condition | None:
    """Return the condition of that type out of a ``status.conditions`` list."""
    for entry in conditions:
        if entry.get("type") == kind:
            return Condition.from_dict(entry)
    return None


def carry_over(
    wanted: Sequence[Condition], observed: Iterable[Mapping[str, Any]], *, now: datetime
) -> list[ConditionEntry]:
    """Return ``wanted`` as API objects, each with the time its status last changed.

    A condition whose status is what it was keeps its transition time, so that
    writing the same status twice writes the same bytes.

    Args:
        wanted: the conditions as they should stand now. One that changed keeps its own time, if it has one.
        observed: ``status.conditions`` as read from the API server.
        now: the time for the others that changed; any zone.

    """
    known = {entry.get("type"): Condition.from_dict(entry) for entry in observed}
    stamped = []
    for condition in wanted:
        before = known.get(condition.type)
        same = before is not None and before.status == condition.status and before.last_transition_time
        changed_at = condition.last_transition_time or rfc3339(now)
        time = before.last_transition_time if before is not None and same else changed_at
        stamped.append(replace(condition, last_transition_time=time).to_dict())
    return stamped


def rfc3339(moment: datetime) -> str:
    """Return a time as Kubernetes writes it: UTC, whole seconds, ``Z``."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
