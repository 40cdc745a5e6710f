"""How often each kind of trouble has come and gone since the start, for status and tests; pure.

Each has its line in the log too: here one sees how often without reading it. Packets that
were dropped are counted by the driver.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, get_args

from wesher_agent.swim.events import (
    AccusationRefused,
    Event,
    MemberFailed,
    MemberJoined,
    MembersFull,
    NameConflict,
    OutdatedAlive,
    PushPullFailed,
    SelfRefuted,
    UdpUnreachable,
)

Kind = Literal[
    "membersFailed",
    "membersReturned",
    "suspicionsDenied",
    "nameConflicts",
    "outdatedClaims",
    "overlayAddressesGivenUp",
    "deviceRestarts",
    "deviceRepairs",
    "routeConflicts",
    "udpBlocked",
    "membersRefused",
    "accusationsRefused",
    "pushPullsFailed",
    "seedsNotResolved",
    "seedsSkipped",
    "stateNotSaved",
    "engineFaults",
]
KINDS: tuple[Kind, ...] = get_args(Kind)


class Counts:
    """The numbers; each kind is there from the start, at 0."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = dict.fromkeys(KINDS, 0)

    @property
    def numbers(self) -> Mapping[str, int]:
        """How often each happened until now."""
        return MappingProxyType(self._numbers)

    def add(self, kind: Kind, number: int = 1) -> None:
        """Count something."""
        self._numbers[kind] += number

    def observe(self, event: Event, *, was_failed: bool) -> None:
        """Count what gossip reports.

        Args:
            event: of the engine.
            was_failed: whether the roster had held the event's member for failed.

        """
        match event:
            case MemberFailed():
                self.add("membersFailed")
            case MemberJoined() if was_failed:
                self.add("membersReturned")
            case SelfRefuted():
                self.add("suspicionsDenied")
            case NameConflict():
                self.add("nameConflicts")
            case OutdatedAlive():
                self.add("outdatedClaims")
            case UdpUnreachable():
                self.add("udpBlocked")
            case MembersFull():
                self.add("membersRefused")
            case AccusationRefused():
                self.add("accusationsRefused")
            case PushPullFailed():
                self.add("pushPullsFailed")
            case _:
                pass
