"""What the local member says of itself, and how it refutes claims about it (`state.go`, refute).

A false claim is refuted with a higher incarnation than it has, unless the local member
is leaving. Incarnations are 32 bits. memberlist lets them wrap, after which a member can
refute nothing any more. Here a member that others know at the last incarnation leaves
and returns with a lower one: see `departure`. How other members judge claims at the last
incarnation is in `membership`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf

from wesher_agent.swim import events
from wesher_agent.swim.address import Address
from wesher_agent.swim.awareness import Awareness
from wesher_agent.swim.events import Event
from wesher_agent.swim.gossip import Gossip
from wesher_agent.swim.members import MAX_INCARNATION, LocalNode, Member, MemberTable
from wesher_agent.swim.pauses import Pauses
from wesher_agent.swim.profile import Limits
from wesher_agent.swim.timers import Kind, Timer, Timers
from wesher_agent.swim.versions import verify_range
from wesher_agent.wire.messages import Alive, Dead, Ping, PushNodeState, State, Suspect
from wesher_common.errors import PeerMisbehaved

ANSWER_PAUSE = 1.0
"""At least this many seconds pass between two answers to the same accuser."""
ANEW_PAUSE = 60.0
"""At least this many seconds pass between two returns from the last incarnation, each a short absence."""
_ANEW = Timer(Kind.ANEW)
_IPV4_BYTES = 4


class LocalMember:
    """The local member, and the judge of claims about it.

    Args:
        me: this member as it presents itself.
        limits: the number of accusers remembered at once.
        incarnation: its first incarnation, lower than the last one.
        table: holds it among the other members.
        gossip: spreads what it says.
        timers: holds the deadline of the return from the last incarnation.
        awareness: gets worse with each refutation.
        emit: takes what happened.

    """

    def __init__(
        self,
        me: LocalNode,
        limits: Limits,
        *,
        incarnation: int,
        table: MemberTable,
        gossip: Gossip,
        timers: Timers,
        awareness: Awareness,
        emit: Callable[[Event], None],
    ) -> None:
        self._table = table
        self._gossip = gossip
        self._timers = timers
        self._awareness = awareness
        self._emit = emit
        self._answered = Pauses(ANSWER_PAUSE, limits.outbox)
        self._me = Member(
            me.name, me.address, me.meta, incarnation, State.LEFT, me.versions, state_change=0.0
        )
        self._first = self._next = incarnation
        """The first incarnation of this run, and the one to return to from the last incarnation."""
        self._anew_at = -inf
        """The earliest time to leave again from the last incarnation."""
        self.leaving = False
        """Whether this member has left on purpose, so that it refutes nothing."""

    @property
    def me(self) -> Member:
        """This member as it presents itself."""
        return self._me

    @property
    def name(self) -> str:
        """This member's name."""
        return self._me.name

    def is_followed_at(self, address: Address) -> bool:
        """Tell whether it is another port of our host, and every member follows us there.

        Those that failed count too: they may come back, and have us at the former port.
        """
        me = self._me
        if address.ip != me.address.ip or address.port == me.address.port:
            return False
        return me.incarnation < MAX_INCARNATION and all(
            member.follows_to_other_ports
            for member in self._table.view.values()
            if not (member.state is State.LEFT or member.name == me.name)
        )

    def announce(self, *, now: float) -> None:
        """Announce that this member is alive, with a higher incarnation except the first time."""
        me = self._me
        if me.name not in self._table.view:
            self._be(replace(me, state=State.ALIVE, state_change=now), now)
        elif me.incarnation < MAX_INCARNATION:
            self._be(replace(me, incarnation=me.incarnation + 1), now)
        else:
            self._want_to_begin_anew(now)

    def update_meta(self, meta: bytes, *, now: float) -> None:
        """Change the metadata, and announce it unless this member is leaving."""
        self._me = replace(self._me, meta=meta)
        if not self.leaving:
            self.announce(now=now)

    def depart(self, *, now: float, from_the_last: bool = False) -> Dead:
        """Announce that this member leaves.

        Args:
            now: the time.
            from_the_last: whether to leave from the last incarnation, since others know this
                member there, although it may be at a lower one.

        Returns:
            The message that was spread.

        """
        self.leaving = True
        me = self._me
        incarnation = MAX_INCARNATION if from_the_last else me.incarnation
        if incarnation == MAX_INCARNATION:
            self._timers.cancel(_ANEW)
            self._anew_at = now + ANEW_PAUSE
            # A member that never heard of the last one knows us here, and would ignore a lower one.
            self._next = me.incarnation + 1 if me.incarnation < MAX_INCARNATION - 1 else self._first
        self._me = replace(me, incarnation=incarnation, state=State.LEFT, state_change=now)
        self._table.put(self._me)
        dead = Dead(incarnation, self.name, from_node=self.name)
        self._gossip.spread(self.name, dead, goes_first=True, now=now)
        return dead

    def come_back(self, address: Address, *, now: float) -> Alive:
        """Announce that this member is alive again, at ``address``.

        Returns:
            The message that was spread.

        """
        self.leaving = False
        me = self._me
        is_mapped, incarnation = me.is_mapped and address == me.address, me.incarnation + 1
        if me.incarnation == MAX_INCARNATION:
            # memberlist accepts a lower incarnation of a member that has left only if the bytes of
            # its address differ; at an IPv6 address it accepts one once it has forgotten us.
            is_mapped = not me.is_mapped and len(address.packed) == _IPV4_BYTES
            incarnation = self._next
            self._emit(events.BegunAnew(incarnation))
        return self._be(
            replace(
                me,
                address=address,
                is_mapped=is_mapped,
                incarnation=incarnation,
                state=State.ALIVE,
                state_change=now,
            ),
            now,
        )

    def judge(self, claim: Alive | Suspect | Dead, *, sender: Address | None, now: float) -> None:
        """Refute a gossiped claim about this member, unless it is outdated or true.

        Args:
            claim: the claim.
            sender: where it came from. An accuser is answered there, since gossip
                may not reach it.
            now: the time.

        Raises:
            PeerMisbehaved: it is an alive with invalid versions or an invalid address.

        """
        if self._me.state is State.LEFT:
            return
        match claim:
            case Alive():
                self._judge_alive(claim, asked_for=False, now=now)
            case Suspect() | Dead():
                self._judge_accusation(claim.incarnation, claim.from_node, now)
                if sender is not None and self._answered.allow(sender, now=now):
                    self._gossip.tell(claim.from_node, sender, self._alive())

    def check_addressee(self, ping: Ping) -> None:
        """Accept a ping that names this member, or none.

        Raises:
            PeerMisbehaved: it names another member, which may have had our address before.

        """
        if ping.node and ping.node != self.name:
            raise PeerMisbehaved("ping-for-another", ping.node)

    def meet(self, node: PushNodeState, *, asked_for: bool, now: float) -> None:
        """Judge what another member's state says of this one.

        Args:
            node: the entry about this member.
            asked_for: as in `NameConflict`.
            now: the time.

        Raises:
            PeerMisbehaved: the address in it is invalid, or its versions are.

        """
        if self._me.state is State.LEFT:
            return
        if node.incarnation < MAX_INCARNATION:
            # At the last incarnation, come_back() chooses the right form of the address.
            self._compare_address(node, asked_for=asked_for, now=now)
        if node.state is State.ALIVE:
            claim = Alive(node.incarnation, node.name, node.addr, node.port, node.meta, node.vsn)
            self._judge_alive(claim, asked_for=asked_for, now=now)
        elif node.state is State.SUSPECT or node.incarnation < MAX_INCARNATION:
            # A peer that has us dead at the last incarnation accepts our next alive, or forgets us shortly.
            self._judge_accusation(node.incarnation, self.name, now)

    def _judge_alive(self, claim: Alive, *, asked_for: bool, now: float) -> None:
        me = self._me
        verify_range(claim.vsn)
        address = Address.from_wire(
            claim.addr, claim.port, me.address.port, protocol=me.versions.protocol_current
        )
        if self._is_outdated(claim, address):
            return
        if address != me.address:
            # As it was announced: new metadata waits while we are at the last incarnation.
            self._emit(events.NameConflict(self._table.view[me.name], address, asked_for, claim.meta))
            return
        is_echo = claim.incarnation == me.incarnation and (claim.meta, claim.vsn) == (me.meta, me.versions)
        if not is_echo and claim.incarnation >= me.incarnation:
            self._refute(claim.incarnation, "", now)

    def _is_outdated(self, claim: Alive | PushNodeState, address: Address) -> bool:
        """Whether it is what we announced at our former port, and every member follows us to this one."""
        me = self._me
        is_ours = (claim.meta, claim.vsn) == (me.meta, me.versions) and claim.incarnation < me.incarnation
        return is_ours and self.is_followed_at(address)

    def _judge_accusation(self, incarnation: int, accuser: str, now: float) -> None:
        if incarnation >= self._me.incarnation:
            self._refute(incarnation, accuser, now)

    def _refute(self, claimed: int, accuser: str, now: float) -> None:
        """Announce an incarnation above ``claimed``, or leave to return with a lower one if there is none."""
        incarnation = max(self._me.incarnation, claimed) + 1
        if incarnation > MAX_INCARNATION:
            self._emit(events.AccusationRefused(self.name, claimed))
            self._want_to_begin_anew(now)
            return
        self._awareness.apply_delta(1)
        self._be(replace(self._me, incarnation=incarnation), now)
        self._emit(events.SelfRefuted(incarnation, accuser))

    def _compare_address(self, node: PushNodeState, *, asked_for: bool, now: float) -> None:
        me = self._me
        address = Address.from_wire(
            node.addr, node.port, me.address.port, protocol=me.versions.protocol_current
        )
        if self._is_outdated(node, address):
            return
        if address != me.address:
            # The peer refuses our alives until it forgets us there, or we leave from there.
            if node.state is State.SUSPECT:
                self._emit(events.NameConflict(me, address, asked_for, node.meta))
            elif node.state is State.DEAD:
                self._emit(events.FailedElsewhere(address, asked_for))
        elif len(node.addr) > len(me.addr):
            # A former holder of our name wrote the same address in more bytes, and memberlist
            # compares bytes: it would refuse our alives for as long as it remembers that member.
            self._me = replace(me, is_mapped=True)
            self.announce(now=now)

    def _want_to_begin_anew(self, now: float) -> None:
        if _ANEW not in self._timers:
            self._timers.set(_ANEW, max(now, self._anew_at))

    def _be(self, me: Member, now: float) -> Alive:
        self._me = me
        alive = self._alive()
        self._table.put(me)
        self._gossip.spread(me.name, alive, goes_first=True, now=now)
        return alive

    def _alive(self) -> Alive:
        me = self._me
        return Alive(me.incarnation, me.name, me.addr, me.address.port, me.meta, me.versions)
