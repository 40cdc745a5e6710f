"""Which claims about other members are believed, and what follows (`state.go`).

========  ========================================  ========================================
claim     condition                                 effect
========  ========================================  ========================================
alive     name unknown, incarnation higher than     alive; its suspicion ends; spread
          known, or member gone at the last
          incarnation; and the address is the
          known one or another port of the same
          host, or the member has left or has
          been dead for long enough
          incarnation not higher, member gone, or   the claimed address gets a suspect, which
          only its tombstone known                  a living member refutes
suspect   incarnation not lower, member alive       suspect; its suspicion begins; spread
          incarnation not lower, member suspect,    its suspicion gets shorter; spread
          new accuser, confirmations wanted
dead      incarnation not lower, member not gone    left if the member says so, otherwise
                                                    dead; spread
          the same from the member itself,          left; spread
          member dead
          the same from the member itself,          left, in its tombstone, which state
          only its tombstone known                  exchanges pass on
========  ========================================  ========================================

Claims about the local member are judged in `local_member`.

An application can drop an alive before it is judged (`source.Vet`), and tell how well it is
proven (`Standing`). A better proven alive takes a name at once, with any incarnation and
address. A worse proven one keeps the metadata and address that are known: it changes only
whether the member appears alive. News of proven members is spread before other news.
memberlist has nothing like it, so its members judge by incarnation alone.

memberlist believes an alive with any incarnation from a new address, once the member has
left. Here an old incarnation only gets the address a suspect: the claim may be a replay.

An accusation that leaves no higher incarnation to refute it is ignored, and so is an
alive that says something new that way. A member already at the last incarnation can
still be accused, since it could not be found dead otherwise. So anyone with the key can
drive a member there and then declare it dead. `departure` has the member's way back. A
claim that it left there is taken as its death, so that it is expected back, as every
failed member is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache
from random import Random

from wesher_agent.swim import events
from wesher_agent.swim.address import Address
from wesher_agent.swim.events import Event
from wesher_agent.swim.gossip import Gossip
from wesher_agent.swim.local_member import LocalMember
from wesher_agent.swim.members import MAX_INCARNATION, Member, MemberTable
from wesher_agent.swim.pauses import Pauses
from wesher_agent.swim.profile import Limits, Profile
from wesher_agent.swim.random_set import RandomSet
from wesher_agent.swim.source import Source, Vet, Way
from wesher_agent.swim.suspicion import Suspicion, suspicion_timeout
from wesher_agent.swim.timers import Kind, Timer, Timers
from wesher_agent.swim.tombstones import Tombstone, Tombstones
from wesher_agent.swim.versions import verify_gossiped, verify_range
from wesher_agent.wire.messages import Alive, Dead, PushNodeState, State, Suspect, Versions
from wesher_common.errors import PeerMisbehaved

Standing = Callable[[str, bytes, Address, float], int]
"""How well it is proven that a member has a name, metadata and address, at a time: 0 is not at all."""

_MOST_DISPLACED = 4
"""For one newcomer: after the limit was lowered those that are too many go bit by bit."""

DOUBT_PAUSE = 1.0
"""At least this many seconds pass between two suspects sent to the same gone member."""


def unproven(_name: str, _meta: bytes, _address: Address, _now: float) -> int:
    """Return the standing of every claim where nothing can be proven."""
    return 0


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
        local: judges what a state exchange says of the local member.
        profile: the length of suspicions and the reclaim time.
        limits: the number of members.
        table: holds the members.
        tombstones: holds the members that were forgotten.
        gossip: spreads claims that are believed.
        timers: holds the deadlines of suspicions.
        rng: for which member goes when there are too many.
        standing: tells how well claims are proven.
        vet: drops claims before they are judged.
        emit: takes what happened.

    """

    def __init__(
        self,
        local: LocalMember,
        profile: Profile,
        limits: Limits,
        *,
        rng: Random,
        standing: Standing,
        vet: Vet,
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
        self._standing = standing
        self._vet = vet
        self.most_unproven = limits.unproven
        """How many members of standing 0 are kept at once; for a further one, a random one of them goes."""
        self._unproven = RandomSet(rng)
        self._suspicions: dict[str, Suspicion] = {}
        self._doubted = Pauses(DOUBT_PAUSE, limits.outbox)
        """Addresses that were sent a suspect, since a gone member was claimed to be alive there."""

    def alive(self, claim: Alive, *, source: Source, now: float) -> None:
        """Judge a gossiped alive.

        Raises:
            PeerMisbehaved: its versions or its address are invalid, or the application refuses it.

        """
        self._judge_alive(claim, source, now)

    def suspect(self, claim: Suspect, *, now: float) -> None:
        """Judge a suspect."""
        known = self._table.get(claim.node)
        if known is None or not self._is_current(claim, known) or known.is_gone:
            return
        member, suspicion = known, self._suspicions.get(claim.node)
        if suspicion is None:
            suspicion = self._suspicions[claim.node] = self._new_suspicion(claim.from_node, now)
            member = replace(known, incarnation=claim.incarnation, state=State.SUSPECT, state_change=now)
            self._emit(events.MemberSuspected(member, claim.from_node))
        elif not suspicion.confirm(claim.from_node):
            return
        self._timers.set(Timer(Kind.SUSPICION, claim.node), suspicion.deadline)
        self._believe(claim, member, now)

    def dead(self, claim: Dead, *, now: float) -> None:
        """Judge a dead; one from the member itself means that it leaves."""
        known = self._table.get(claim.node)
        has_left = claim.from_node == claim.node and claim.incarnation < MAX_INCARNATION
        if known is not None:
            self._judge_dead(claim, known, State.LEFT if has_left else State.DEAD, now)
        elif has_left and self._tombstones.hear(claim.node, claim.incarnation, left=True, now=now):
            self._emit(events.LeaveLearned(claim.node, claim.incarnation))

    def suspicion_over(self, name: str, *, now: float) -> None:
        """Declare a suspect member dead, since it did not refute in time."""
        member = self._table.get(name)
        if member is not None and member.state is State.SUSPECT:
            self.dead(Dead(member.incarnation, name, self._own_name), now=now)

    def weigh_again(self, *, now: float) -> None:
        """Ask for the standing of each member again.

        One that lost it can be displaced from now on, and its news does not go first any more.
        """
        for name, member in self._table.view.items():
            if name == self._own_name:
                continue
            self._note_standing(name, is_proven=self._standing(name, member.meta, member.address, now) > 0)

    def _note_standing(self, name: str, *, is_proven: bool) -> None:
        if is_proven:
            self._unproven.discard(name)
            self._table.proven.add(name)
        else:
            self._unproven.add(name)
            self._table.proven.discard(name)

    def next_to_probe(self, *, now: float) -> Member | None:
        """Return the member to probe next; None when no other member is alive or suspect.

        A new round of the ring forgets members that have been gone for long enough: their
        news is no longer gossiped, and a tombstone remains of each.
        """
        keep = self._profile.gossip_to_the_dead_time
        member, forgotten = self._table.next_to_probe(lambda gone: now - gone.state_change > keep)
        for gone in forgotten:
            self._unproven.discard(gone.name)
            self._gossip.discard(gone.name)
            self._tombstones.bury(tombstone_of(gone, now=now), now=now)
            self._emit(events.MemberForgotten(gone))
        return member

    def merge(self, nodes: Iterable[PushNodeState], *, source: Source, now: float) -> list[str]:
        """Judge another member's state; its dead members are only suspected (`state.go`, mergeState).

        Args:
            nodes: the state.
            source: the member.
            now: the time.

        Returns:
            The reasons of rejected entries; all others are judged.

        """
        rejected = []
        for node in nodes:
            known = self._table.get(node.name)
            if (
                known is not None
                and node.state == known.state == State.ALIVE
                and node.incarnation <= known.incarnation
                and node.meta == known.meta
                and node.addr == known.addr
                and node.port == known.address.port
                and node.name != self._own_name
            ):
                # Nearly every entry of nearly every exchange.
                continue
            try:
                if node.name == self._own_name:
                    self._local.meet(node, asked_for=source.way is Way.ANSWER, now=now)
                else:
                    self._merge_one(node, source, now)
            except PeerMisbehaved as misbehaved:
                rejected.append(misbehaved.reason)
        return rejected

    def _merge_one(self, node: PushNodeState, source: Source, now: float) -> None:
        if node.state is State.DEAD and node.name not in self._table.view:
            self._tombstones.hear(node.name, node.incarnation, left=False, now=now)
        match node.state:
            case State.ALIVE:
                claim = Alive(node.incarnation, node.name, node.addr, node.port, node.meta, node.vsn)
                self._judge_alive(claim, source, now)
            case State.LEFT:
                self.dead(Dead(node.incarnation, node.name, node.name), now=now)
            case State.SUSPECT | State.DEAD:
                self._take_over(Suspect(node.incarnation, node.name, self._own_name), now)

    def _take_over(self, claim: Suspect, now: float) -> None:
        """Judge a suspect from a state exchange, and tell the member if its suspicion begins.

        memberlist leaves that to gossip. But all other members may have heard the accusation
        and its refutation before, so that none of them would send us either.
        """
        was_suspected = claim.node in self._suspicions
        self.suspect(claim, now=now)
        if claim.node in self._suspicions and not was_suspected:
            self._gossip.tell(claim.node, self._table.view[claim.node].address, claim)

    def _judge_alive(self, claim: Alive, source: Source, now: float) -> None:
        known = self._table.get(claim.node)
        me = self._local.me
        if source.way is Way.DATAGRAM:
            usual = me.versions if known is None or known.is_gone else known.versions
            verify_gossiped(claim, usual, self._table.view.values())
        else:
            verify_range(claim.vsn)
        address = Address.from_wire(
            claim.addr, claim.port, me.address.port, protocol=me.versions.protocol_current
        )
        if known is None or claim.meta != known.meta:
            self._vet(claim.node, claim.meta, source, now)
        claim, address, is_better = self._weighed(claim, address, known, now)
        asked_for = source.way is Way.ANSWER
        if not is_better and not self._is_acceptable(claim, address, known, now, asked_for=asked_for):
            return
        if is_better and known is not None and self._is_beyond_refutation(claim, address, known):
            # Its proof counts. Its incarnation has none, and the member could deny no accusation after it.
            claim = replace(claim, incarnation=known.incarnation + 1)
        last = -1 if is_better else self._last_incarnation(claim, known, now)
        if claim.incarnation > last:
            self._believe_alive(claim, address, known, now)
        elif known is None or known.is_gone:
            if known is None:
                self._emit(events.OutdatedAlive(claim.node, claim.incarnation, address))
            if self._doubted.allow((claim.node, address), now=now):
                # A member that is alive refutes this, a replay cannot. Without it, halves of a mesh
                # that were apart would meet only as fast as each pair exchanges its state.
                self._gossip.tell(claim.node, address, Suspect(last, claim.node, self._own_name))

    def _weighed(
        self, claim: Alive, address: Address, known: Member | None, now: float
    ) -> tuple[Alive, Address, bool]:
        """Return what of an alive counts beside what is known, and whether it is proven better."""
        if known is None or (claim.meta == known.meta and address == known.address):
            return claim, address, False
        claimed = self._standing(claim.node, claim.meta, address, now)
        held = self._standing(known.name, known.meta, known.address, now)
        if claimed >= held:
            return claim, address, claimed > held
        kept = replace(claim, meta=known.meta, addr=known.addr, port=known.address.port)
        return kept, known.address, False

    def _is_acceptable(
        self, claim: Alive, address: Address, known: Member | None, now: float, *, asked_for: bool
    ) -> bool:
        """Whether an alive may be believed if it is news."""
        if known is None:
            if len(self._table) >= self._limits.members and not len(self._unproven):
                self._emit(events.MembersFull(claim.node))
                return False
            return claim.incarnation > 0
        if self._is_beyond_refutation(claim, address, known):
            self._emit(events.AccusationRefused(claim.node, claim.incarnation))
            return False
        if not (
            address == known.address or self._gives_up_address(known, now) or _moves(claim, address, known)
        ):
            self._emit(events.NameConflict(known, address, asked_for, claim.meta))
            return False
        return True

    def _last_incarnation(self, claim: Alive, known: Member | None, now: float) -> int:
        """Return the incarnation that an alive has to exceed."""
        if known is None:
            return self._tombstones.last_incarnation(claim.node, now=now)
        if known.is_gone and claim.incarnation < MAX_INCARNATION == known.incarnation:
            # A member leaves from the last incarnation to return with any other. A replay gains
            # nothing by it, since the member gets no tombstone once it is forgotten.
            return -1
        return known.incarnation

    def _believe_alive(self, claim: Alive, address: Address, known: Member | None, now: float) -> None:
        is_proven = self._standing(claim.node, claim.meta, address, now) > 0
        is_spread = True
        if known is None:
            # A name that displaced one is not spread, or invented names would displace each other for good.
            is_spread = not self._make_room(is_proven=is_proven) or is_proven
            self._tombstones.remove(claim.node)
        elif known.state is State.SUSPECT:
            self._end_suspicion(claim.node)
        since = known.state_change if known is not None and known.state is State.ALIVE else now
        member = _claimed(claim, address, since=since)
        self._note_standing(claim.node, is_proven=is_proven)
        self._believe(claim, member, now, is_spread=is_spread)
        if known is None or known.is_gone:
            self._emit(events.MemberJoined(member))
            return
        if known.state is State.SUSPECT:
            self._emit(events.MemberAlive(member))
        if (claim.meta, address) != (known.meta, known.address):
            self._emit(events.MemberUpdated(member, known))

    def _make_room(self, *, is_proven: bool) -> bool:
        """Drop random members that are not proven if there are too many; tell whether there were.

        So invented names keep no other out.
        """
        is_full = False
        for _ in range(_MOST_DISPLACED):
            is_crowded = not is_proven and len(self._unproven) >= self.most_unproven
            if not len(self._unproven) or not (is_crowded or len(self._table) >= self._limits.members):
                break
            is_full = True
            name = self._unproven.draw()
            self._unproven.discard(name)
            self._end_suspicion(name)
            self._gossip.discard(name)
            self._emit(events.MemberDisplaced(self._table.drop(name)))
        return is_full

    def _judge_dead(self, claim: Dead, known: Member, state: State, now: float) -> None:
        if known.state in {state, State.LEFT} or not self._is_current(claim, known):
            return
        suspicion = self._end_suspicion(claim.node)
        member = replace(known, incarnation=claim.incarnation, state=state, state_change=now)
        self._believe(claim, member, now)
        if state is State.LEFT:
            # It gets no more gossip, and can refute only an old leave that is sent again.
            self._gossip.tell(claim.node, known.address, claim)
            self._emit(events.MemberLeft(member))
        else:
            confirmations = suspicion.confirmations if suspicion is not None else 0
            self._emit(events.MemberFailed(member, claim.from_node, confirmations))

    def _believe(
        self, claim: Alive | Suspect | Dead, member: Member, now: float, *, is_spread: bool = True
    ) -> None:
        """Store the member that a claim describes, and spread the claim: what is proven first."""
        self._table.put(member)
        if is_spread:
            self._gossip.spread(claim.node, claim, goes_first=claim.node in self._table.proven, now=now)

    def _gives_up_address(self, known: Member, now: float) -> bool:
        reclaim = self._profile.dead_node_reclaim_time
        return known.state is State.LEFT or (
            known.state is State.DEAD and 0 < reclaim < now - known.state_change
        )

    def _is_beyond_refutation(self, claim: Alive, address: Address, known: Member) -> bool:
        """Whether an alive says something new that the member could not refute.

        The member itself reaches the last incarnation in steps of one.
        """
        return (
            claim.incarnation == MAX_INCARNATION
            and known.incarnation < MAX_INCARNATION - 1
            and (claim.meta, claim.vsn, address) != (known.meta, known.versions, known.address)
        )

    def _is_current(self, claim: Suspect | Dead, known: Member) -> bool:
        """Whether an accusation is not outdated, and can be refuted if it is false."""
        if claim.incarnation < known.incarnation:
            return False
        if known.incarnation < MAX_INCARNATION == claim.incarnation:
            self._emit(events.AccusationRefused(claim.node, claim.incarnation))
            return False
        return True

    def _new_suspicion(self, from_node: str, now: float) -> Suspicion:
        profile, n = self._profile, len(self._table)
        wanted = profile.suspicion_mult - 2
        if n - 2 < wanted:
            # There are not that many other members that could confirm it.
            wanted = 0
        shortest = suspicion_timeout(profile.suspicion_mult, n, profile.probe_interval)
        longest = profile.suspicion_max_timeout_mult * shortest
        return Suspicion(from_node, wanted, shortest, longest, now=now)

    def _end_suspicion(self, name: str) -> Suspicion | None:
        self._timers.cancel(Timer(Kind.SUSPICION, name))
        return self._suspicions.pop(name, None)


def _moves(claim: Alive, address: Address, known: Member) -> bool:
    """Whether a member announces another port of its host. memberlist needs a leave for that as well.

    Another machine that uses the name has another IP address or other metadata. An attacker that can forge
    this claim can forge a leave too.
    """
    is_same = address.ip == known.address.ip and (claim.meta, claim.vsn) == (known.meta, known.versions)
    return is_same and claim.incarnation > known.incarnation


def tombstone_of(member: Member, *, now: float) -> Tombstone:
    """Return what is to be remembered of a gone member."""
    return Tombstone(
        name=member.name,
        incarnation=member.incarnation,
        address=member.address,
        age=now - member.state_change,
        left=member.state is State.LEFT,
    )
