"""Going away: leaving for good, or only from an address (`memberlist.go`, Leave).

A leave spreads like all news, and besides goes straight to every living member:
that is one small packet each, and nobody has to learn of it by luck.
"""

from __future__ import annotations

from collections.abc import Callable

from wesher_agent.swim import events
from wesher_agent.swim.address import Address
from wesher_agent.swim.events import Event
from wesher_agent.swim.gossip import Gossip
from wesher_agent.swim.members import Member, MemberTable
from wesher_agent.swim.ourselves import Ourselves
from wesher_agent.swim.outbox import Outbox
from wesher_agent.swim.timers import Kind, Timer, Timers
from wesher_agent.wire.messages import Dead, Message

_OVERDUE = Timer(Kind.DEPARTURE)


class Departure:
    """A leave or move under way, if there is one.

    Args:
        table: whom to tell.
        ourselves: says it.
        gossip: spreads it.
        outbox: takes what goes straight to each.
        timers: for the most it may take.
        emit: takes what happened.

    """

    def __init__(
        self,
        *,
        table: MemberTable,
        ourselves: Ourselves,
        gossip: Gossip,
        outbox: Outbox,
        timers: Timers,
        emit: Callable[[Event], None],
    ) -> None:
        self._table = table
        self._ourselves = ourselves
        self._gossip = gossip
        self._outbox = outbox
        self._timers = timers
        self._emit = emit
        self._said: Dead | None = None
        self._going_to: Address | None = None

    def begin(self, *, going_to: Address | None, timeout: float, now: float) -> None:
        """Leave for good, or to come back at ``going_to``. A leave is never taken back."""
        if self._said is not None:
            if going_to is None or self._going_to is not None:
                self._going_to = going_to
            return
        if self._ourselves.leaving:
            return
        self._going_to = going_to
        self._said = self._ourselves.depart(now=now)
        self._timers.set(_OVERDUE, now + timeout)
        if not self._tell_everyone(self._said):
            self.finish(now=now)

    def check(self, *, now: float) -> None:
        """Finish when the news has gone out as often as it should, or nobody is left to hear it."""
        if self._said is not None and not (self._gossip.is_spreading(self._said.node) and self._living()):
            self.finish(now=now)

    def finish(self, *, now: float) -> None:
        """Be gone, or be back at the new address."""
        said, going_to = self._said, self._going_to
        if said is None:
            return
        self._said = self._going_to = None
        if going_to is None:
            self._timers.clear()
            self._emit(events.LeaveDone())
            return
        self._timers.cancel(_OVERDUE)
        self._ourselves.leaving = False
        alive = self._ourselves.announce(address=going_to, now=now)
        # The leave once more, right before: who missed it would refuse the new address.
        self._tell_everyone(said, alive)
        self._emit(events.AddressChanged(self._ourselves.me))

    def _tell_everyone(self, *messages: Message) -> int:
        """Send to every living member at once; return how many they are."""
        living = self._living()
        for member in living:
            self._outbox.send(member.address, *messages, checksum=member.reads_checksums, fill=False)
        return len(living)

    def _living(self) -> list[Member]:
        me = self._ourselves.name
        return [m for m in self._table.view.values() if not m.is_gone and m.name != me]
