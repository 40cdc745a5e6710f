"""How often each kind of fault has come and gone since the start, for status and tests; pure.

Each has its line in the log too: here one sees how often without reading it. Packets that
were dropped are counted by the driver.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, get_args

from wesher_agent.mesh import events as mesh
from wesher_agent.mesh.events import Event
from wesher_agent.swim import events as swim

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
    "connectionsEnded",
    "membersRefused",
    "membersDisplaced",
    "accusationsRefused",
    "pushPullsFailed",
    "seedsNotResolved",
    "seedsSkipped",
    "stateNotSaved",
    "engineFaults",
]
KINDS: tuple[Kind, ...] = get_args(Kind)


_KIND_OF: Mapping[type[Any], Kind] = {
    swim.MemberFailed: "membersFailed",
    mesh.MemberReturned: "membersReturned",
    swim.SelfRefuted: "suspicionsDenied",
    swim.NameConflict: "nameConflicts",
    swim.OutdatedAlive: "outdatedClaims",
    mesh.OverlayAddressGivenUp: "overlayAddressesGivenUp",
    swim.UdpUnreachable: "udpBlocked",
    swim.StreamsFull: "connectionsEnded",
    swim.MembersFull: "membersRefused",
    swim.MemberDisplaced: "membersDisplaced",
    swim.AccusationRefused: "accusationsRefused",
    swim.PushPullFailed: "pushPullsFailed",
    mesh.SeedNotResolved: "seedsNotResolved",
    mesh.SeedSkipped: "seedsSkipped",
    mesh.StateNotSaved: "stateNotSaved",
}


class Counts:
    """The numbers; each kind is there from the start, at 0."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = dict.fromkeys(KINDS, 0)

    @property
    def numbers(self) -> Mapping[str, int]:
        """How often each happened until now."""
        return MappingProxyType(self._numbers)

    def add(self, kind: Kind) -> None:
        """Count something."""
        self._numbers[kind] += 1

    def observe(self, event: Event) -> None:
        """Count what the member reports."""
        if (kind := _KIND_OF.get(type(event))) is not None:
            self.add(kind)
