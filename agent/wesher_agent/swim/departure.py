"""Going away: for good, or only from an address or an incarnation (`memberlist.go`, Leave).

A leave spreads like all news, and besides goes straight to every living member:
that is one small packet each, and nobody has to learn of it by luck. A member that only
changes its port does not leave if all others follow it: those that are away at the same
time miss what the others announce.

Whoever has the key can say things of a member, or make it deny things, up to the last
incarnation, where it can say nothing more; no limit on the steps would hinder that. So
there is a way back from there: the member says that it goes, and returns with an
incarnation that it had, or the next. memberlist believes that at once of one that has
left, if the address is written with other bytes. To merely die there, and to be
forgotten, would cost the members of the Go program their tunnels for a minute or more;
ours hold it for dead, not for one that left, and keep theirs either way. Between the
two words there is a pause, for here the first outdoes the second wherever it comes late.
"""

from __future__ import annotations

from collections.abc import Callable

from wesher_agent.swim import events
from wesher_agent.swim.address import Address
from wesher_agent.swim.events import Event
from wesher_agent.swim.gossip import Gossip
from wesher_agent.swim.local_member import LocalMember
from wesher_agent.swim.members import MAX_INCARNATION, Member, MemberTable
from wesher_agent.swim.outbox import Outbox
from wesher_agent.swim.profile import Profile
from wesher_agent.swim.timers import Kind, Timer, Timers
from wesher_agent.wire.messages import Dead, Message

_OVERDUE = Timer(Kind.DEPARTURE)
_PUSH_PULL = Timer(Kind.PUSH_PULL, "once")
"""Beside the periodic one: members that move together must not exchange in step from then on."""
_DIES_DOWN = 10
"""Gossip intervals after which nobody passes a leave on any more."""


class Departure:
    """A leave, move or return to a lower incarnation under way, if there is one.

    Args:
        profile: for the time that news takes.
        table: whom to tell.
        local: says it.
        gossip: spreads it.
        outbox: takes what goes straight to each.
        timers: for the most it may take.
        emit: takes what happened.

    """

    def __init__(
        self,
        profile: Profile,
        *,
        table: MemberTable,
        local: LocalMember,
        gossip: Gossip,
        outbox: Outbox,
        timers: Timers,
        emit: Callable[[Event], None],
    ) -> None:
        self._pause = _DIES_DOWN * profile.gossip_interval
        self._table = table
        self._local = local
        self._gossip = gossip
        self._outbox = outbox
        self._timers = timers
        self._emit = emit
        self._said: Dead | None = None
        self._going_to: Address | None = None

    def begin(self, *, going_to: Address | None, timeout: float, now: float) -> None:
        """Leave for good, or to come back at ``going_to``. A leave is never taken back."""
        before: tuple[Message, ...] = ()
        if going_to is None and self._local.me.incarnation == MAX_INCARNATION:
            # From there nobody would believe it, so we come back first.
            gone = self._said or self._local.depart(now=now)
            before = gone, self._local.come_back(self._going_to or self._local.me.address, now=now)
            self._said = None
        if self._said is not None:
            if going_to is None or self._going_to is not None:
                self._going_to = going_to
            return
        if self._local.leaving:
            return
        if going_to is not None and self._local.is_followed_at(going_to):
            self._tell_everyone(self._local.come_back(going_to, now=now))
            self._be_back(now=now)
            return
        self._going_to = going_to
        self._said = self._local.depart(now=now)
        self._timers.set(_OVERDUE, now + timeout)
        if not self._tell_everyone(*before, self._said):
            self.finish(now=now)

    def begin_anew(self, *, now: float) -> None:
        """Leave from the last incarnation, to come back with another, unless we are away already."""
        if self._local.leaving:
            return
        self._going_to = self._local.me.address
        self._said = self._local.depart(now=now, from_the_last=True)
        self._timers.set(_OVERDUE, now + self._pause)
        self._tell_everyone(self._said)

    def check(self, *, now: float) -> None:
        """Finish when the news has gone out as often as it should, or nobody is left to hear it."""
        said = self._said
        if said is None or (self._going_to is not None and said.incarnation == MAX_INCARNATION):
            return
        if not (self._gossip.is_spreading(said.node) and self._living()):
            self.finish(now=now)

    def finish(self, *, now: float) -> None:
        """Be gone, or be back."""
        said, going_to = self._said, self._going_to
        if said is None:
            return
        self._said = self._going_to = None
        if going_to is None:
            self._timers.clear()
            self._emit(events.LeaveDone())
            return
        self._timers.cancel(_OVERDUE)
        former = self._local.me.address
        alive = self._local.come_back(going_to, now=now)
        if said.incarnation == MAX_INCARNATION:
            self._tell_everyone(alive)
        else:
            # The leave once more, right before: who missed it would refuse the new address.
            self._tell_everyone(said, alive)
        if said.incarnation < MAX_INCARNATION or going_to != former:
            self._be_back(now=now)

    def _be_back(self, *, now: float) -> None:
        # We may have missed messages: they were sent to our former address, or not at all.
        self._timers.set(_PUSH_PULL, now)
        self._emit(events.AddressChanged(self._local.me))

    def _tell_everyone(self, *messages: Message) -> int:
        """Send to every living member at once; return how many they are."""
        living = self._living()
        for member in living:
            self._outbox.send(member.address, *messages, checksum=member.reads_checksums, fill=False)
        return len(living)

    def _living(self) -> list[Member]:
        me = self._local.name
        return [m for m in self._table.view.values() if not m.is_gone and m.name != me]
