"""Which news is believed, and what follows from it (`state.go`).

The rules, for news about another member:

========  ======================================  =======================================
news      counts when                             then
========  ======================================  =======================================
alive     unknown name, or incarnation higher     alive; suspicion ends; passed on
          than known, or any where the member
          is gone at the last; never from another
          address unless the holder of the name
          has left, or is dead for long enough
          incarnation not higher, member gone     who is claimed to live is asked, and may deny
          or known by its tombstone only
suspect   incarnation not lower, member alive     suspect; its time to deny begins; passed on
          incarnation not lower, member suspect,  its time to deny shrinks; passed on
          accuser new, confirmations wanted
dead      incarnation not lower, member not gone  left if it says so itself, else dead; passed on
          the same by the member itself, which    left; passed on
          is dead
          the same, known by its tombstone only   left: its tombstone says so, and tells others
========  ======================================  =======================================

News about the local member is judged in `local_member`.

memberlist believes an alive from another address of a name that has left whatever its
incarnation; here that one is asked too, since it may be an old packet sent again.

An accusation whose incarnation leaves no room for a denial is not believed in the first
place, nor is an alive that says something new that way. An accusation of a member that
is at the last incarnation is, since it could else never be found dead. So whoever has the
key can drive a member there and then declare it dead. Its own way back is `departure`'s;
that it has left is not believed of it, so that meanwhile it is expected back, as all are
that failed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache

from wesher_agent.swim import events
from wesher_agent.swim.address import Address
from wesher_agent.swim.events import Event
from wesher_agent.swim.gossip import Gossip
from wesher_agent.swim.local_member import LocalMember
from wesher_agent.swim.members import MAX_INCARNATION, Member, MemberTable
from wesher_agent.swim.pauses import Pauses
from wesher_agent.swim.profile import Limits, Profile
from wesher_agent.swim.suspicion import Suspicion, suspicion_timeout
from wesher_agent.swim.timers import Kind, Timer, Timers
from wesher_agent.swim.tombstones import Tombstone, Tombstones
from wesher_agent.swim.versions import verify_protocol, verify_range
from wesher_agent.wire.messages import Alive, Dead, PushNodeState, State, Suspect, Versions
from wesher_common.errors import PeerMisbehaved

DOUBT_PAUSE = 1.0
"""Seconds at least between two times that one member is told of its death."""


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
    """The judge of claims about other members.

    Args:
        local: judges what a state exchange says of this member.
        profile: for the suspicion's length and the reclaim time.
        limits: for the number of members.
        table: what it keeps.
        tombstones: what it keeps of those that it forgot.
        gossip: how it passes news on.
        timers: for suspicions.
        emit: takes what happened.

    """

    def __init__(
        self,
        local: LocalMember,
        profile: Profile,
        limits: Limits,
        *,
        table: MemberTable,
        tombstones: Tombstones,
        gossip: Gossip,
        timers: Timers,
        emit: Callable[[Event], None],
    ) -> None:
        self._own_name = local.name
        self._local = local
        self._profile = profile
        self._limits = limits
        self._table = table
        self._tombstones = tombstones
        self._gossip = gossip
        self._timers = timers
        self._emit = emit
        self._suspicions: dict[str, Suspicion] = {}
        self._doubted = Pauses(DOUBT_PAUSE, limits.outbox)
        """Gone members that somebody held for alive somewhere, and were told of it there."""

    def alive(self, claim: Alive, *, now: float) -> None:
        """Judge ``claim``, which came by itself.

        Raises:
            PeerMisbehaved: its versions or its address cannot be.

        """
        self._judge_alive(claim, now, by_itself=True)

    def _judge_alive(
        self, claim: Alive, now: float, *, by_itself: bool = False, asked_for: bool = False
    ) -> None:
        name = claim.node
        verify_range(claim.vsn)
        if by_itself:
            self._verify_versions(claim)
        me = self._local.me
        address = Address.from_wire(
            claim.addr, claim.port, me.address.port, protocol=me.versions.protocol_current
        )
        known = self._table.get(name)
        if known is None:
            self._admit(claim, address, now)
        elif self._is_beyond_denial(claim, address, known):
            self._emit(events.AccusationRefused(name, claim.incarnation))
        elif address != known.address and not self._gives_up_address(known, now):
            self._emit(events.NameConflict(known, address, asked_for))
        elif claim.incarnation > known.incarnation or self._begins_anew(claim, known):
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
            self._begin_suspicion(known, claim, now)

    def dead(self, claim: Dead, *, now: float) -> None:
        """Judge ``claim``."""
        known = self._table.get(claim.node)
        has_left = claim.from_node == claim.node and claim.incarnation < MAX_INCARNATION
        if known is None:
            if has_left and self._tombstones.hear(claim.node, claim.incarnation, left=True, now=now):
                self._emit(events.LeaveLearned(claim.node, claim.incarnation))
            return
        is_over = known.state is State.LEFT or (known.state is State.DEAD and not has_left)
        if is_over or not self._is_current(claim, known):
            return
        suspicion = self._end_suspicion(claim.node)
        state = State.LEFT if has_left else State.DEAD
        member = replace(known, incarnation=claim.incarnation, state=state, state_change=now)
        self._table.put(member)
        self._gossip.spread(claim.node, claim, now=now)
        if state is State.LEFT:
            # Nobody gossips to it any more, and old news of its leaving is all it could deny.
            self._gossip.tell(claim.node, known.address, claim)
            self._emit(events.MemberLeft(member))
        else:
            confirmations = suspicion.confirmations if suspicion is not None else 0
            self._emit(events.MemberFailed(member, claim.from_node, confirmations))

    def suspicion_over(self, name: str, *, now: float) -> None:
        """Declare a suspected member dead: its time to deny has passed."""
        member = self._table.get(name)
        if member is not None and member.state is State.SUSPECT:
            self.dead(Dead(member.incarnation, name, self._own_name), now=now)

    def next_to_probe(self, *, now: float) -> Member | None:
        """Return the member to probe next; None when no other member is alive or suspect.

        A new round of the ring forgets members that have been gone for long enough: their
        news is no longer gossiped, and a tombstone remains of each.
        """
        keep = self._profile.gossip_to_the_dead_time
        member, forgotten = self._table.next_to_probe(lambda gone: now - gone.state_change > keep)
        for gone in forgotten:
            self._gossip.discard(gone.name)
            self._tombstones.bury(tombstone_of(gone, now=now), now=now)
            self._emit(events.MemberForgotten(gone))
        return member

    def merge(self, nodes: Iterable[PushNodeState], *, asked_for: bool, now: float) -> list[str]:
        """Judge another's whole view; what it holds for dead is only suspected (`state.go`, mergeState).

        Args:
            nodes: the view.
            asked_for: as of `NameConflict`.
            now: the time.

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
                if node.name == self._own_name:
                    self._local.meet(node, asked_for=asked_for, now=now)
                else:
                    self._merge_one(node, now, asked_for=asked_for)
            except PeerMisbehaved as misbehaved:
                rejected.append(misbehaved.reason)
        return rejected

    def _merge_one(self, node: PushNodeState, now: float, *, asked_for: bool) -> None:
        if node.state is State.DEAD and node.name not in self._table.view:
            self._tombstones.hear(node.name, node.incarnation, left=False, now=now)
        match node.state:
            case State.ALIVE:
                claim = Alive(node.incarnation, node.name, node.addr, node.port, node.meta, node.vsn)
                self._judge_alive(claim, now, asked_for=asked_for)
            case State.LEFT:
                self.dead(Dead(node.incarnation, node.name, node.name), now=now)
            case State.SUSPECT | State.DEAD:
                self._take_over(Suspect(node.incarnation, node.name, self._own_name), now)

    def _take_over(self, claim: Suspect, now: float) -> None:
        """Judge what another holds, and where that begins a suspicion, tell the suspect.

        memberlist leaves that to gossip. But what comes in a state exchange may be old news to
        all others, and its denial too, so that nobody would pass either on to us.
        """
        was_suspected = claim.node in self._suspicions
        self.suspect(claim, now=now)
        if claim.node in self._suspicions and not was_suspected:
            self._gossip.tell(claim.node, self._table.view[claim.node].address, claim)

    def _verify_versions(self, claim: Alive) -> None:
        """Refuse versions with which no state exchange would work any more (memberlist does not).

        An exchange shows and checks those of all, see `versions`. What is gossiped is not
        looked at by anybody else, so that one packet could keep a whole mesh from joining.
        """
        known = self._table.get(claim.node)
        usual = self._local.me.versions if known is None or known.is_gone else known.versions
        if claim.vsn == usual:
            return
        others = [member for member in self._table.view.values() if member.name != claim.node]
        said = PushNodeState(
            claim.node, claim.addr, claim.port, claim.meta, claim.incarnation, State.ALIVE, claim.vsn
        )
        verify_protocol(others, [said])

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
        if self._doubted.allow((claim.node, address), now=now):
            self._gossip.tell(claim.node, address, Suspect(last, claim.node, self._own_name))

    def _is_beyond_denial(self, claim: Alive, address: Address, known: Member) -> bool:
        """Whether an alive says something new that the member could not refute.

        The member itself reaches the last incarnation in steps of one.
        """
        return (
            claim.incarnation == MAX_INCARNATION
            and known.incarnation < MAX_INCARNATION - 1
            and (claim.meta, claim.vsn, address) != (known.meta, known.versions, known.address)
        )

    def _begins_anew(self, claim: Alive, known: Member) -> bool:
        """Tell whether one that is gone at the last incarnation says that it is back with another.

        No tombstone would be kept of it either, so this brings nobody back who would not be soon.
        """
        return known.is_gone and claim.incarnation < MAX_INCARNATION == known.incarnation

    def _is_current(self, claim: Suspect | Dead, known: Member) -> bool:
        """Tell whether an accusation is not outdated, and can be denied if it is false."""
        if claim.incarnation < known.incarnation:
            return False
        if known.incarnation < MAX_INCARNATION == claim.incarnation:
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


def tombstone_of(member: Member, *, now: float) -> Tombstone:
    """Return what is to be remembered of a gone member."""
    return Tombstone(
        name=member.name,
        incarnation=member.incarnation,
        address=member.address,
        age=now - member.state_change,
        left=member.state is State.LEFT,
    )
