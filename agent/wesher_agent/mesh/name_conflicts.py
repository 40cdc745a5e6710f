"""What it means when this member's name is claimed at another address.

Either others look for this member where it was before, or another machine uses its
name. A claim that arrived unasked proves neither: it may be an old packet, replayed
without the cluster key, and acting on each would make the member leave its address
or report itself not ready. The answer to an exchange that this member began cannot
be replayed. So only answers are believed, and the machine said to use the name is
asked for one.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum, auto
from math import inf

from wesher_agent.swim.address import Address

TELL_SECONDS = 60.0
"""Between two announcements that this member has moved: each interrupts its tunnels for a moment."""
ASK_SECONDS = 5.0
"""Between two questions about claims that arrived unasked."""
STANDING_SECONDS = 90.0
"""How long ago another machine may have used the name for the conflict to count as standing."""


class Claim(Enum):
    """What one claim asks for."""

    RIVAL = auto()
    """Another machine uses the name: report it."""
    FORMER = auto()
    """Others look for this member at its former address: announce the move."""
    DOUBTFUL = auto()
    """Another machine may use the name: exchange state with it."""
    NOTHING = auto()
    """Possibly old news, or announced or asked a moment ago."""


class NameConflicts:
    """Judges each claim of this member's name from an address that is not its own.

    Args:
        former: addresses it had before this start.

    """

    def __init__(self, former: Iterable[Address]) -> None:
        self._former = set(former)
        self._told_at = self._asked_at = -inf
        self._rival: tuple[float, Address] | None = None
        self._is_copy = False

    def move(self, former: Address, to: Address) -> None:
        """Take note that this member's address has changed."""
        self._former = (self._former | {former}) - {to}

    def was_at(self, address: Address) -> bool:
        """Take an address that this member had; tell whether it was taken for another machine's."""
        self._former.add(address)
        was_rival = self._rival is not None and self._rival[1] == address
        if was_rival:
            self._rival = None
        return was_rival

    def is_former(self, address: Address) -> bool:
        """Tell whether this member once had an address."""
        return address in self._former

    def judge(self, claimed: Address, *, asked_for: bool, is_copy: bool = False, now: float) -> Claim:
        """Return what a claim of the name by ``claimed`` asks for.

        Args:
            claimed: where the claim says that this member is.
            asked_for: whether it came in the answer to an exchange that this member began.
            is_copy: whether the claim has this member's WireGuard key too.
            now: the time.

        """
        if claimed not in self._former:
            if asked_for:
                self._rival, self._is_copy = (now, claimed), is_copy
                return Claim.RIVAL
            if now - self._asked_at > ASK_SECONDS:
                self._asked_at = now
                return Claim.DOUBTFUL
        elif asked_for and now - self._told_at > TELL_SECONDS:
            self._told_at = now
            return Claim.FORMER
        return Claim.NOTHING

    def copy(self, *, now: float) -> str:
        """Return the address of a rival that has this member's WireGuard key too; empty if there is none."""
        return self.rival(now=now) if self._is_copy else ""

    def rival(self, *, now: float) -> str:
        """Return the address of the machine that used the name lately; empty when there is none."""
        if self._rival is None or now - self._rival[0] > STANDING_SECONDS:
            return ""
        return str(self._rival[1])
