"""What others' use of our own name means: they look for us where we were, or somebody else has our name.

What comes by itself proves neither: it may be an old packet, sent again by somebody who
has no key, and it would have us leave our address or call ourselves not ready each time.
An answer to an exchange of ours cannot be sent again. So only answers are believed, and
whoever is said to use our name is asked for one.

Pure: told of claims and of time. What is done about them is `presence`'s.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum, auto
from math import inf

from wesher_agent.swim.address import Address

TELL_SECONDS = 60.0
"""Between two tellings that we have moved: each costs all members their tunnel to us for a moment."""
ASK_SECONDS = 5.0
"""Between two times that somebody is asked for what came by itself."""
STANDING_SECONDS = 90.0
"""How long ago somebody else may have used our name for it to be a standing fault."""


class Claim(Enum):
    """What one claim asks for."""

    RIVAL = auto()
    """Somebody else has our name: say so."""
    FORMER = auto()
    """We are looked for where we were: tell that we have moved."""
    DOUBTFUL = auto()
    """Somebody else may have our name: exchange state with whoever is there."""
    NOTHING = auto()
    """It may be old news of us, or the same was told or asked a moment ago."""


class NameClaims:
    """Judges each claim of our name from an address that is not ours.

    Args:
        former: where we were before this start.

    """

    def __init__(self, former: Iterable[Address]) -> None:
        self._former = set(former)
        self._told_at = self._asked_at = -inf
        self._rival: tuple[float, Address] | None = None

    def move(self, former: Address, to: Address) -> None:
        """Take note that our address has changed."""
        self._former = (self._former | {former}) - {to}

    def judge(self, claimed: Address, *, asked_for: bool, now: float) -> Claim:
        """Return what a claim of our name by ``claimed`` asks for.

        Args:
            claimed: where somebody says that we are.
            asked_for: whether it came in the answer to an exchange of ours.
            now: the time.

        """
        if claimed not in self._former:
            if asked_for:
                self._rival = (now, claimed)
                return Claim.RIVAL
            if now - self._asked_at > ASK_SECONDS:
                self._asked_at = now
                return Claim.DOUBTFUL
        elif asked_for and now - self._told_at > TELL_SECONDS:
            self._told_at = now
            return Claim.FORMER
        return Claim.NOTHING

    def rival(self, *, now: float) -> str:
        """Return the address of whoever used our name not long ago; empty for nobody."""
        if self._rival is None or now - self._rival[0] > STANDING_SECONDS:
            return ""
        return str(self._rival[1])
