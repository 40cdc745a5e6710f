"""What others' use of our own name means: they look for us where we were, or somebody else has our name.

Pure: told of claims and of time. What is done about either is `agent`'s.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum, auto
from math import inf

from wesher_agent.swim.address import Address

TELL_SECONDS = 60.0
"""Between two tellings that we have moved: an old packet sent again must not make us tell all the time."""
STANDING_SECONDS = 90.0
"""How long ago somebody else may have used our name for it to be a standing fault."""


class Claim(Enum):
    """What one claim asks for."""

    RIVAL = auto()
    """Somebody else has our name: say so."""
    FORMER = auto()
    """We are looked for where we were: tell that we have moved."""
    TOLD = auto()
    """The same, and it was told a moment ago."""


class NameClaims:
    """Judges each claim of our name from an address that is not ours.

    Args:
        former: where we were before this start.

    """

    def __init__(self, former: Iterable[Address]) -> None:
        self._former = set(former)
        self._told_at = -inf
        self._rival: tuple[float, Address] | None = None

    def move(self, former: Address, to: Address) -> None:
        """Take note that our address has changed."""
        self._former = (self._former | {former}) - {to}

    def judge(self, claimed: Address, *, now: float) -> Claim:
        """Return what a claim of our name by ``claimed`` asks for."""
        if claimed not in self._former:
            self._rival = (now, claimed)
            return Claim.RIVAL
        if now - self._told_at <= TELL_SECONDS:
            return Claim.TOLD
        self._told_at = now
        return Claim.FORMER

    def rival(self, *, now: float) -> str:
        """Return the address of whoever used our name not long ago; empty for nobody."""
        if self._rival is None or now - self._rival[0] > STANDING_SECONDS:
            return ""
        return str(self._rival[1])
