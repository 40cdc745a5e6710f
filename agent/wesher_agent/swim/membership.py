"""Which news is believed, and what follows from it (`state.go`).

The rules, for news about another member:

========  ======================================  =======================================
news      counts when                             then
========  ======================================  =======================================
alive     unknown name, or incarnation higher     alive; suspicion ends; passed on
          than known; never from another address
          unless the holder of the name has left,
          or is dead for long enough
          incarnation not higher, member gone     who is claimed to live is asked, and may deny
          or known by its tombstone only
suspect   incarnation not lower, member alive     suspect; its time to deny begins; passed on
          incarnation not lower, member suspect,  its time to deny shrinks; passed on
          accuser new, confirmations wanted
dead      incarnation not lower, member not gone  left if it says so itself, else dead; passed on
========  ======================================  =======================================

News about ourselves that is not what we say is denied with an incarnation above
the claimed one (refuted), unless we are leaving.

memberlist believes an alive from another address of a name that has left whatever its
incarnation; here that one is asked too, since it may be an old packet sent again.

Incarnations are 32 bits. memberlist lets them wrap, after which a member cannot
deny anything any more; here an accusation that leaves no room for a denial is
not believed in the first place, nor is an alive that says something new that way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache

from wesher_agent.swim import events
from wesher_agent.swim.address import Address
from wesher_agent.swim.awareness import Awareness
from wesher_agent.swim.events import Event
from wesher_agent.swim.gossip import Gossip
from wesher_agent.swim.members import LocalNode, Member, MemberTable
from wesher_agent.swim.pauses import Pauses
from wesher_agent.swim.profile import Limits, Profile
from wesher_agent.swim.suspicion import Suspicion, suspicion_timeout
from wesher_agent.swim.timers import Kind, Timer, Timers
from wesher_agent.swim.tombstones import Tombstone, Tombstones
from wesher_agent.wire.messages import Alive, Dead, PushNodeState, State, Suspect, Versions
from wesher_common.errors import PeerMisbehaved

MAX_INCARNATION = 2**32 - 1
DOUBT_PAUSE = 1.0
"""Seconds at least between two times that one member is told of its death, or one accuser of our life."""


@lru_cache(maxsize=256)
def _shared(versions: Versions) -> Versions:
    """Return one object for equal versions, which nearly all members have."""
    return versions


def _claimed(claim: Alive, address: Address, *, since: float) -> Member:
    """Return the member that a believed claim describes."""
    return Member(
        claim.node,
        address,
        claim.meta,
        claim.incarnation,
        State.ALIVE,
        _shared(claim.vsn),
        since,
        is_mapped=len(claim.addr) != len(address.packed),
    )


class Membership:
    """The judge of alive, suspect and dead.

    Args:
        me: this member as it presents itself.
        profile: for the suspicion's length and the reclaim time.
        limits: for the number of members.
        incarnation: the first of our own.
        table: what it keeps.
        tombstones: what it keeps of those that it forgot.
        gossip: how it passes news on.
        awareness: made worse by every denial.
        timers: for suspicions.
        emit: takes what happened.

    """

    def __init__(
        self,
        me: LocalNode,
        profile: Profile,
        limits: Limits,
        *,
        incarnation: int,
        table: MemberTable,
        tombstones: Tombstones,
        gossip: Gossip,
        awareness: Awareness,
        timers: Timers,
        emit: Callable[[Event], None],
    ) -> None:
        self._own_name = me.name
        self._speaks_ports = me.versions.protocol_current > 1
        self._profile = profile
        self._limits = limits
        self._table = table
        self._tombstones = tombstones
        self._gossip = gossip
        self._awareness = awareness
        self._timers = timers
        self._emit = emit
        self._suspicions: dict[str, Suspicion] = {}
        self._doubted = Pauses(DOUBT_PAUSE, limits.outbox)
        """Gone members that somebody held for alive, and were told of it."""
        self._answered = Pauses(DOUBT_PAUSE, limits.outbox)
        """Accusers of ours that were told that we live."""
        self._me = Member(
            me.name, me.address, me.meta, incarnation, State.LEFT, me.versions, state_change=0.0
        )
        self.leaving = False
        """Whether we mean to be gone, so that we believe it when others say so."""

    @property
    def me(self) -> Member:
        """This member as we present it."""
        return self._me

    def announce(self, *, now: float, address: Address | None = None) -> Alive:
        """Say that we are alive, with a higher incarnation unless it is the first time.

        Args:
            now: the time.
            address: where from now on, if that changes.

        Returns:
            What was said.

        """
        me = self._me
        first = me.name not in self._table.view
        self._me = replace(
            me,
            address=address or me.address,
            incarnation=me.incarnation if first else min(me.incarnation + 1, MAX_INCARNATION),
            state=State.ALIVE,
            state_change=me.state_change if me.state is State.ALIVE else now,
        )
        self._table.put(self._me)
        return self._spread_own_alive(now)

    def update_meta(self, meta: bytes, *, now: float) -> None:
        """Carry other metadata, and say so unless we are on our way out."""
        self._me = replace(self._me, meta=meta)
        if not self.leaving:
            self.announce(now=now)

    def depart(self, *, now: float) -> Dead:
        """Say that we go.

        Returns:
            What was said.

        """
        self.leaving = True
        self._me = replace(self._me, state=State.LEFT, state_change=now)
        self._table.put(self._me)
        dead = Dead(incarnation=self._me.incarnation, node=self._own_name, from_node=self._own_name)
        self._gossip.spread(self._own_name, dead, now=now)
        return dead

    def alive(self, claim: Alive, *, now: float) -> None:
        """Judge ``claim``.

        Raises:
            PeerMisbehaved: its versions or its address cannot be.

        """
        name, vsn = claim.node, claim.vsn
        if name == self._own_name and self.leaving:
            return
        if not 0 < vsn.protocol_min <= vsn.protocol_max:
            raise PeerMisbehaved("bad-versions", f"{vsn.protocol_min} to {vsn.protocol_max}")
        address = self._address(claim.addr, claim.port)
        known = self._table.get(name)
        if known is None:
            self._admit(claim, address, now)
        elif self._is_beyond_denial(claim, known):
            self._emit(events.AccusationRefused(name, claim.incarnation))
        elif address != known.address and not self._gives_up_address(known, now):
            self._emit(events.NameConflict(known, address))
        elif name == self._own_name:
            self._hear_about_me(claim, now)
        elif claim.incarnation > known.incarnation:
            self._believe_alive(known, claim, address, now)
        elif known.is_gone:
            self._doubt(claim, address, known.incarnation, now)

    def suspect(self, claim: Suspect, *, now: float) -> None:
        """Judge ``claim``."""
        known = self._table.get(claim.node)
        if known is None or not self._is_current(claim, known):
            return
        suspicion = self._suspicions.get(claim.node)
        if suspicion is not None:
            if suspicion.confirm(claim.from_node):
                self._timers.set(Timer(Kind.SUSPICION, claim.node), suspicion.deadline)
                self._gossip.spread(claim.node, claim, now=now)
        elif known.state is State.ALIVE:
            if claim.node == self._own_name:
                self._refute(claim.incarnation, claim.from_node, now)
            else:
                self._begin_suspicion(known, claim, now)

    def dead(self, claim: Dead, *, now: float) -> None:
        """Judge ``claim``."""
        known = self._table.get(claim.node)
        if known is None or known.is_gone or not self._is_current(claim, known):
            return
        if claim.node == self._own_name:
            self._refute(claim.incarnation, claim.from_node, now)
            return
        suspicion = self._end_suspicion(claim.node)
        state = State.LEFT if claim.from_node == claim.node else State.DEAD
        member = replace(known, incarnation=claim.incarnation, state=state, state_change=now)
        self._table.put(member)
        self._gossip.spread(claim.node, claim, now=now)
        if state is State.LEFT:
            self._emit(events.MemberLeft(member))
        else:
            confirmations = suspicion.confirmations if suspicion is not None else 0
            self._emit(events.MemberFailed(member, claim.from_node, confirmations))

    def suspicion_over(self, name: str, *, now: float) -> None:
        """Declare a suspected member dead: its time to deny has passed."""
        member = self._table.get(name)
        if member is not None and member.state is State.SUSPECT:
            self.dead(Dead(member.incarnation, name, self._own_name), now=now)

    def forgets(self, member: Member, *, now: float) -> bool:
        """Tell whether a gone member has been gone for long enough to be dropped."""
        return now - member.state_change > self._profile.gossip_to_the_dead_time

    def forget(self, member: Member, *, now: float) -> None:
        """Report a dropped member, tell nothing of it any more, and keep its tombstone."""
        self._gossip.discard(member.name)
        if member.incarnation < MAX_INCARNATION:
            # Nobody could pass a tombstone of the last one, not even the member.
            self._tombstones.bury(tombstone_of(member, now=now), now=now)
        self._emit(events.MemberForgotten(member))

    def answer_accuser(self, name: str, address: Address, *, now: float) -> None:
        """Tell somebody who held us for gone that we live: our denial may spread where it does not hear."""
        if not self.leaving and self._answered.allow(address, now=now):
            self._gossip.tell(name, address, self._own_alive())

    def merge(self, nodes: Iterable[PushNodeState], *, now: float) -> list[str]:
        """Judge another's whole view; what it holds for dead is only suspected (`state.go`, mergeState).

        Returns:
            Why entries were rejected; the others count.

        """
        rejected = []
        for node in nodes:
            known = self._table.get(node.name)
            if (
                known is not None
                and node.state == known.state == State.ALIVE
                and node.incarnation <= known.incarnation
                and node.addr == known.addr
                and node.port == known.address.port
                and node.name != self._own_name
            ):
                # Nearly every entry of nearly every exchange.
                continue
            try:
                self._merge_one(node, now)
            except PeerMisbehaved as misbehaved:
                rejected.append(misbehaved.reason)
        return rejected

    def _merge_one(self, node: PushNodeState, now: float) -> None:
        if node.name == self._own_name:
            self._write_address_as(node, now)
        elif (
            node.state >= State.DEAD
            and node.name not in self._table.view
            and node.incarnation < MAX_INCARNATION
        ):
            self._tombstones.hear(node.name, node.incarnation, now=now)
        match node.state:
            case State.ALIVE:
                claim = Alive(node.incarnation, node.name, node.addr, node.port, node.meta, node.vsn)
                self.alive(claim, now=now)
            case State.LEFT:
                self.dead(Dead(node.incarnation, node.name, node.name), now=now)
            case State.SUSPECT | State.DEAD:
                if node.state is State.SUSPECT and node.name == self._own_name:
                    self._compare_own_address(node)
                self.suspect(Suspect(node.incarnation, node.name, self._own_name), now=now)

    def _compare_own_address(self, node: PushNodeState) -> None:
        # They refuse all we say from here until they have given up on us there, unless we leave from there.
        address = self._address(node.addr, node.port)
        if address != self._me.address and not self.leaving:
            self._emit(events.NameConflict(self._me, address))

    def _write_address_as(self, node: PushNodeState, now: float) -> None:
        """Write our IPv4 address in 16 bytes if a former holder of our name and address did.

        memberlist compares bytes: it would refuse all we say for as long as it remembers that one.
        """
        me = self._me
        is_longer = len(node.addr) > len(me.addr) and self._address(node.addr, node.port) == me.address
        if is_longer and not self.leaving:
            self._me = replace(me, is_mapped=True)
            self.announce(now=now)

    def _address(self, addr: bytes, port: int) -> Address:
        # Protocol 1 had no ports; a missing one is taken to be everybody's.
        return Address.from_wire(addr, port if port and self._speaks_ports else self._me.address.port)

    def _admit(self, claim: Alive, address: Address, now: float) -> None:
        if len(self._table) >= self._limits.members:
            self._emit(events.MembersFull(claim.node))
            return
        if claim.incarnation == 0:
            return
        last = self._tombstones.last_incarnation(claim.node, now=now)
        if claim.incarnation <= last:
            self._emit(events.OutdatedAlive(claim.node, claim.incarnation, address))
            self._doubt(claim, address, last, now)
            return
        self._tombstones.remove(claim.node)
        member = _claimed(claim, address, since=now)
        self._table.put(member)
        self._gossip.spread(claim.node, claim, now=now)
        self._emit(events.MemberJoined(member))

    def _gives_up_address(self, known: Member, now: float) -> bool:
        reclaim = self._profile.dead_node_reclaim_time
        return known.state is State.LEFT or (
            known.state is State.DEAD and 0 < reclaim < now - known.state_change
        )

    def _hear_about_me(self, claim: Alive, now: float) -> None:
        me = self._me
        if claim.incarnation < me.incarnation:
            return
        is_echo = claim.incarnation == me.incarnation and (claim.meta, claim.vsn) == (me.meta, me.versions)
        if not is_echo:
            self._refute(claim.incarnation, "", now)

    def _believe_alive(self, known: Member, claim: Alive, address: Address, now: float) -> None:
        self._end_suspicion(claim.node)
        member = _claimed(claim, address, since=known.state_change if known.state is State.ALIVE else now)
        self._table.put(member)
        self._gossip.spread(claim.node, claim, now=now)
        if known.is_gone:
            self._emit(events.MemberJoined(member))
            return
        if known.state is State.SUSPECT:
            self._emit(events.MemberAlive(member))
        if claim.meta != known.meta:
            self._emit(events.MemberUpdated(member, known))

    def _doubt(self, claim: Alive, address: Address, last: int, now: float) -> None:
        """Ask whoever is claimed to be alive, though it was gone by then: it can deny, a replay cannot.

        Parts of a mesh that were apart would else know each other only as fast as
        each pair exchanges its whole state.
        """
        if self._doubted.allow(claim.node, now=now):
            self._gossip.tell(claim.node, address, Suspect(last, claim.node, self._own_name))

    def _is_beyond_denial(self, claim: Alive, known: Member) -> bool:
        """Tell whether an alive says something new that its owner could not correct.

        One step more is how the owner itself gets to the last incarnation.
        """
        return (
            claim.incarnation == MAX_INCARNATION
            and known.incarnation < MAX_INCARNATION - 1
            and claim.node != self._own_name
            and (claim.meta, claim.vsn, self._address(claim.addr, claim.port))
            != (known.meta, known.versions, known.address)
        )

    def _is_current(self, claim: Suspect | Dead, known: Member) -> bool:
        """Tell whether an accusation is not outdated, and can be denied if it is false."""
        if claim.incarnation < known.incarnation:
            return False
        if claim.incarnation == MAX_INCARNATION and (
            known.incarnation < MAX_INCARNATION or claim.node == self._own_name
        ):
            self._emit(events.AccusationRefused(claim.node, claim.incarnation))
            return False
        return True

    def _begin_suspicion(self, known: Member, claim: Suspect, now: float) -> None:
        profile, n = self._profile, len(self._table)
        wanted = profile.suspicion_mult - 2
        if n - 2 < wanted:
            # Not that many others who could confirm it.
            wanted = 0
        shortest = suspicion_timeout(profile.suspicion_mult, n, profile.probe_interval)
        longest = profile.suspicion_max_timeout_mult * shortest
        suspicion = Suspicion(claim.from_node, wanted, shortest, longest, now=now)
        self._suspicions[claim.node] = suspicion
        self._timers.set(Timer(Kind.SUSPICION, claim.node), suspicion.deadline)
        member = replace(known, incarnation=claim.incarnation, state=State.SUSPECT, state_change=now)
        self._table.put(member)
        self._gossip.spread(claim.node, claim, now=now)
        self._emit(events.MemberSuspected(member, claim.from_node))

    def _end_suspicion(self, name: str) -> Suspicion | None:
        self._timers.cancel(Timer(Kind.SUSPICION, name))
        return self._suspicions.pop(name, None)

    def _refute(self, claimed: int, accuser: str, now: float) -> None:
        incarnation = max(self._me.incarnation, claimed) + 1
        if incarnation > MAX_INCARNATION:
            self._emit(events.AccusationRefused(self._own_name, claimed))
            return
        self._me = replace(self._me, incarnation=incarnation)
        self._table.put(self._me)
        self._awareness.apply_delta(1)
        self._spread_own_alive(now)
        self._emit(events.SelfRefuted(incarnation, accuser))

    def _spread_own_alive(self, now: float) -> Alive:
        alive = self._own_alive()
        self._gossip.spread(self._own_name, alive, now=now)
        return alive

    def _own_alive(self) -> Alive:
        me = self._me
        return Alive(me.incarnation, me.name, me.addr, me.address.port, me.meta, me.versions)


def tombstone_of(member: Member, *, now: float) -> Tombstone:
    """Return what is to be remembered of a gone member."""
    return Tombstone(
        name=member.name,
        incarnation=member.incarnation,
        address=member.address,
        age=now - member.state_change,
    )
