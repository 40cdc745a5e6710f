"""Tells whether the members that this one looks for have another cluster key.

Only what cannot be sent from a forged address counts, so streams and not datagrams. A
host that shows another key proves nothing about a mesh in which members are alive, so
the status asks only while none is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Final

from wesher_agent.swim.address import Address
from wesher_agent.swim.events import Event, PushPullDone, PushPullFailed, UnreadableStream

UNANSWERED: Final = 2
"""Requests in a row that a host must close unanswered: a member that restarts may close one."""
MOST: Final = 64
"""Addresses remembered."""


class KeyDoubts:
    """The evidence so far; whatever an address does last counts."""

    def __init__(self) -> None:
        self._unanswered: Counter[Address] = Counter()
        self._proven: dict[str, Address] = {}
        """The last address of each IP that showed another key."""

    @property
    def address(self) -> str:
        """Where a host seems to have another key; empty when none does."""
        if self._proven:
            return str(next(iter(self._proven.values())))
        return next((str(one) for one, count in self._unanswered.items() if count >= UNANSWERED), "")

    def observe(self, event: Event, expected: Collection[str]) -> bool:
        """Take an engine's event; tell whether `address` changed.

        Args:
            event: what happened.
            expected: the IP addresses that this member dials.

        """
        former = self.address
        match event:
            case PushPullDone():
                self._unanswered.clear()
                self._proven.clear()
            case UnreadableStream(remote=remote, asked_for=asked_for) if asked_for or remote.ip in expected:
                if len(self._proven) < MOST:
                    self._proven[remote.ip] = remote
            case PushPullFailed(address=address, unanswered=True):
                if len(self._unanswered) < MOST:
                    self._unanswered[address] += 1
            case PushPullFailed(address=address):
                del self._unanswered[address]
                self._proven.pop(address.ip, None)
            case _:
                pass
        return self.address != former
