"""What is wrong with a member, as a value."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """Why a member has no tunnel, or something else it should have."""

    member: str
    reason: str
    """CamelCase, from a fixed set, fit for a condition's reason or a metric label."""
    message: str
    """One line for an administrator."""
    other: str = ""
    """The other member that it is about, if its name is not in ``member``."""
