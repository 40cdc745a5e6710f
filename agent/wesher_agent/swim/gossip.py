"""Spreading news: when the queue is offered to whom (`state.go`, gossip)."""

from __future__ import annotations

import math
from random import Random

from wesher_agent.swim.address import Address
from wesher_agent.swim.broadcasts import Broadcasts
from wesher_agent.swim.members import Member, MemberTable
from wesher_agent.swim.outbox import Outbox
from wesher_agent.swim.profile import Profile
from wesher_agent.swim.timers import Kind, Timer, Timers
from wesher_agent.wire.messages import Message, State, encode

_TICK = Timer(Kind.GOSSIP)


class Gossip:
    """The broadcast queue and its rhythm.

    memberlist wakes every GossipInterval; with nothing to tell, that does nothing,
    so here the same ticks are only kept while there is something.
    """

    def __init__(
        self,
        profile: Profile,
        *,
        table: MemberTable,
        broadcasts: Broadcasts,
        outbox: Outbox,
        timers: Timers,
        rng: Random,
    ) -> None:
        self._profile = profile
        self._table = table
        self._broadcasts = broadcasts
        self._outbox = outbox
        self._timers = timers
        self._phase = rng.random() * profile.gossip_interval

    def spread(self, name: str, message: Message, *, goes_first: bool, now: float) -> None:
        """Tell everyone, in place of whatever was being told about ``name``."""
        self._broadcasts.queue(name, encode(message), goes_first=goes_first)
        self._arm(now)

    def tell(self, name: str, address: Address, message: Message) -> None:
        """Tell one only, at once, whether it is a member by now or not."""
        self._outbox.send_to_named(name, address, message)

    def is_spreading(self, name: str) -> bool:
        """Whether news about ``name`` has transmissions left."""
        return name in self._broadcasts

    def discard(self, name: str) -> None:
        """Stop telling about ``name``."""
        self._broadcasts.discard(name)

    def tick(self, *, now: float) -> None:
        """Offer the queue to a few random members."""
        if not self._broadcasts:
            return
        count = self._profile.gossip_nodes

        def eligible(member: Member) -> bool:
            return self._hears_gossip(member, now)

        targets = [*self._table.pick(count, eligible), *self._table.pick_proven(count, eligible)]
        for member in targets:
            self._outbox.send(member.address, checksum=member.reads_checksums)
        self._arm(now)

    def _arm(self, now: float) -> None:
        if _TICK not in self._timers:
            interval = self._profile.gossip_interval
            tick = self._phase + math.ceil((now - self._phase) / interval) * interval
            # Rounding may give back the tick that is being handled.
            self._timers.set(_TICK, tick if tick > now else tick + interval)

    def _hears_gossip(self, member: Member, now: float) -> bool:
        # The dead are told for a while, so that one that is not can deny it.
        if member.state is State.DEAD:
            return now - member.state_change <= self._profile.gossip_to_the_dead_time
        return member.state is not State.LEFT
