"""How many certificates with a false signature are checked in a second.

To check a signature takes longer than to read a message, and a holder of the cluster key can send
thousands of false ones. Only failed checks count, so members' own certificates cost nothing.

Each way has a share that the others cannot use up. A datagram's sender can be forged, so a flood of datagrams
can leave none of theirs. Streams have real senders, and answers come from hosts that this member chose. So a
renewed certificate arrives with the next state exchange at the latest. A few hosts can use up the share of
requests. So a stream from where a tunnel ends has what one sender may cost, whatever others have used up.
"""

from __future__ import annotations

from collections import Counter
from math import floor
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from wesher_agent.swim.source import Source, Way

if TYPE_CHECKING:
    from collections.abc import Mapping

MOST_FAILED: Final[Mapping[Way, int]] = MappingProxyType({Way.DATAGRAM: 100, Way.REQUEST: 60, Way.ANSWER: 40})
"""Failed checks a second; together 200, which take about 3 % of a core."""
MOST_FAILED_OF_ONE: Final = 10
"""Of them, those of one sender."""


class SignatureBudget:
    """The failed checks of the current second.

    Args:
        most: how many there may be, by way; none by a way that is not named.
        of_one: how many of them by one sender.

    """

    def __init__(self, most: Mapping[Way, int] = MOST_FAILED, *, of_one: int = MOST_FAILED_OF_ONE) -> None:
        self._most, self._of_one = most, of_one
        self._second = 0
        self._by_way: Counter[Way] = Counter()
        self._by_source: Counter[Source] = Counter()

    def allows(self, source: Source, *, has_tunnel: bool, now: float) -> bool:
        """Tell whether one more signature from a source may be checked.

        Args:
            source: the sender; the address of a datagram's proves nothing.
            has_tunnel: whether a tunnel ends at its address.
            now: the time.

        """
        if floor(now) != self._second:
            self._second = floor(now)
            self._by_way.clear()
            self._by_source.clear()
        if self._by_source[source] >= self._of_one:
            return False
        is_known = has_tunnel and source.way is not Way.DATAGRAM
        return is_known or self._by_way[source.way] < self._most.get(source.way, 0)

    def failed(self, source: Source) -> None:
        """Count a failed check, which `allows` has allowed."""
        self._by_way[source.way] += 1
        self._by_source[source] += 1
