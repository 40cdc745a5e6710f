"""Which members are expected in the mesh, and which to dial.

Above the engine, which forgets the dead as memberlist does, the roster remembers
failed members until they have been away for long, and keeps asking for seeds and
failed members until they are among the alive. It receives events and the time;
it neither resolves names nor dials. When a wanted address is due is `dialling`'s.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from ipaddress import ip_address
from math import inf
from random import Random
from types import MappingProxyType
from typing import Final

from wesher_agent.mesh.dialling import TRIES_A_SECOND, DialSchedule, Target
from wesher_agent.mesh.events import (
    FailedMemberLeft,
    MemberReturned,
    MeshEvent,
    SeedSkipped,
)
from wesher_agent.mesh.identity import NOT_CERTIFIED, Identity, Rank, Verdict
from wesher_agent.mesh.nodemeta import NodeMeta, in_gob_form
from wesher_agent.swim.address import Address
from wesher_agent.swim.events import (
    Event,
    LeaveLearned,
    MemberAlive,
    MemberDisplaced,
    MemberFailed,
    MemberForgotten,
    MemberJoined,
    MemberLeft,
    MemberSuspected,
    MemberUpdated,
    NameConflict,
    PushPullDone,
)
from wesher_agent.swim.members import Member
from wesher_agent.swim.profile import DEFAULT_LIMITS
from wesher_agent.wire.messages import State
from wesher_common.certificate import Kind
from wesher_common.errors import PeerMisbehaved
from wesher_common.keys import WireGuardPublicKey
from wesher_common.overlay import IPAddress, IPNetwork
from wesher_common.seeds import SeedAddress

SEED_CAP: Final = 20.0
"""Seconds at most between two tries of a seed, in a small mesh."""
FAILED_CAP: Final = 50.0
"""Seconds at most between two tries of a failed member; with a dial's own timeout under a minute."""
RESOLVE_CAP: Final = 60.0
"""Seconds at most between two looks at a seed's name, whose answers may change at any time."""
MOST_FAILED: Final = DEFAULT_LIMITS.members
"""Failed members remembered at once, as many as gossip admits; of more, those that failed first go.

A holder of the key can invent names, and declare them failed faster than a day forgets them."""

SECOND_LOOK: Final = (4.0, 12.0)
"""Seconds after a failed member's return in which to ask it for others that are still missing.

By then gossip has brought most of those that returned with it, but missed a few."""


MOST_CLAIMANTS: Final = 64
"""Machines remembered that show an invite for the name of an uncertified member."""
CLAIMANT_SECONDS: Final = 180.0
"""How long they are: they exchange their state more often."""


class MemberState(StrEnum):
    """What status shows of a member."""

    ALIVE = "alive"
    SUSPECT = "suspect"
    FAILED = "failed"
    LEFT = "left"

    @property
    def is_alive(self) -> bool:
        """Whether gossip counts it among the living: a suspect may still deny."""
        return self in {MemberState.ALIVE, MemberState.SUSPECT}


_STATES: Final = {
    State.ALIVE: MemberState.ALIVE,
    State.SUSPECT: MemberState.SUSPECT,
    State.DEAD: MemberState.FAILED,
    State.LEFT: MemberState.LEFT,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RosterMember:
    """Another member, remembered."""

    name: str
    address: Address
    """Its gossip address."""
    raw_meta: bytes
    meta: NodeMeta | None
    """None when ``raw_meta`` cannot be read; ``problem`` then says why."""
    problem: str
    state: MemberState
    since: float
    """When ``state`` was entered, on the roster's clock."""
    incarnation: int = 0
    """With which it entered ``state``: that it left before does not count any more."""
    verdict: Verdict = NOT_CERTIFIED
    """What its certificate is worth."""

    @property
    def is_expected(self) -> bool:
        """Whether it keeps its tunnel: what gossip says of a certified member's leave does not remove it."""
        return self.state is not MemberState.LEFT or self.verdict.is_certified

    @property
    def is_living_node(self) -> bool:
        """Whether it is alive, and a node of the mesh's cluster by its certificate."""
        certificate = self.meta.certificate if self.meta is not None else None
        is_node = certificate is not None and certificate.kind is Kind.NODE
        return self.state.is_alive and self.verdict.rank is Rank.OWN and is_node


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedMember:
    """A member as the state file keeps it; of those that left, the certified ones are kept."""

    name: str
    address: Address
    raw_meta: bytes
    away: float = 0.0
    """Seconds it had been failed when saved; time while we were down does not count."""
    incarnation: int = 0
    has_left: bool = False


class Roster:
    """The members that are expected, and the addresses to ask for them.

    After any call that takes ``now``, or changes what is wanted, ask `next_timer` again.

    Args:
        name: this member's, which is never listed.
        gossip_port: of seeds that name none, and of our own addresses.
        overlay: the mesh's network.
        overlay_is_apart: whether nothing of the underlay lies inside the overlay (always
            in Kubernetes). Then nothing inside is dialled: such an answer comes from a
            hosts file that names overlay addresses. Else only answers that are a
            member's overlay address are passed over.
        forget_after: seconds a failed member is expected back.
        identity: judges what members announce.
        rng: for jitter.

    """

    def __init__(
        self,
        name: str,
        *,
        gossip_port: int,
        overlay: IPNetwork,
        overlay_is_apart: bool,
        forget_after: float,
        identity: Identity,
        rng: Random,
    ) -> None:
        self._name = name
        self._identity = identity
        self._gossip_port = gossip_port
        self._overlay = overlay
        self._overlay_is_apart = overlay_is_apart
        self._forget_after = forget_after
        self._known: dict[str, RosterMember] = {}
        """Those removed on purpose too, as long as gossip has them alive."""
        self._away: dict[str, None] = {}
        """The names of those that are failed, or left with a certificate, in the order in which that came."""
        self._claimants: dict[tuple[str, WireGuardPublicKey], RosterMember] = {}
        """Other machines that show an invite for a member's name, by name and key; see `claimants`."""
        self._removed: frozenset[str] = frozenset()
        self._own: frozenset[Address] = frozenset()
        self._own_overlay_address: IPAddress | None = None
        self._is_on_loopback = False
        self._location = ""
        self._ways: dict[Address, Address] | None = None
        """Internal addresses by announced ones; None when it has to be rebuilt."""
        self._seeds: tuple[SeedAddress, ...] = ()
        self._answers: dict[SeedAddress, tuple[Address, ...]] = {}
        self._skipped: tuple[SeedSkipped, ...] = ()
        self._must_ask_again = False
        """Whether the exchange under way found a failed member where gossip does not take it yet."""
        self._rng = rng
        self._schedule = DialSchedule(rng)
        self._changed_at: float | None = None
        """Since when the schedule does not reflect what is known."""
        self._events: deque[MeshEvent] = deque()
        self.expected_ips: frozenset[str] = frozenset()
        """The addresses of seeds and members, internal ones too, as of the last `due`."""
        self._second_look: tuple[float, Address] | None = None
        """When to ask which member for the rest of those that were away together."""

    @property
    def members(self) -> Mapping[str, RosterMember]:
        """Every other member remembered, by name, except those removed on purpose."""
        if self._removed.isdisjoint(self._known):
            return MappingProxyType(self._known)
        return {name: member for name, member in self._known.items() if name not in self._removed}

    @property
    def has_seeds_elsewhere(self) -> bool:
        """Whether any seed may lead to another machine, as far as its text and its name's answers tell.

        A name without an answer may. A first node that joins itself by name is alone.
        """
        return any(not self._is_here(seed) for seed in self._seeds)

    def claimants(self, *, now: float) -> tuple[RosterMember, ...]:
        """Return the machines that show an invite for a name which an uncertified member has."""
        return tuple(
            claimant
            for claimant in self._claimants.values()
            if now < claimant.since + CLAIMANT_SECONDS and self._is_open(claimant.name)
        )

    def next_event(self) -> MeshEvent | None:
        """Take the oldest transition that was not taken yet."""
        return self._events.popleft() if self._events else None

    def observe(self, event: Event, *, now: float) -> bool:
        """Take the engine's event; tell whether `members` changed."""
        match event:
            case (
                MemberJoined(member=member)
                | MemberUpdated(member=member)
                | MemberSuspected(member=member)
                | MemberAlive(member=member)
                | MemberFailed(member=member)
                | MemberLeft(member=member)
            ):
                return self._note(member, now)
            case MemberForgotten(member=member):
                return self._forgotten(member.name, now, is_displaced=False)
            case MemberDisplaced(member=member):
                return self._forgotten(member.name, now, is_displaced=True)
            case LeaveLearned(node=name, incarnation=incarnation):
                return self._left_while_failed(name, incarnation, now)
            case NameConflict(member=Member(name=name)):
                # Gossip takes a failed member's new address from half a minute after the failure on.
                known = self._known.get(name)
                is_failed = known is not None and known.state is MemberState.FAILED
                self._must_ask_again |= event.asked_for and is_failed
                return known is not None and self._note_claimant(known, event, now)
            case PushPullDone(address=address):
                if not self._must_ask_again:
                    self._schedule.reached(address, now=now)
                self._must_ask_again = False
            case _:
                pass
        return False

    def set_own_addresses(
        self,
        addresses: Iterable[IPAddress],
        *,
        overlay_address: IPAddress | None,
        location: str = "",
        is_on_loopback: bool = False,
        now: float,
    ) -> None:
        """Say where this member itself is: every local and announced address, and its location.

        Args:
            addresses: every local address and the announced one.
            overlay_address: none while there is none.
            location: as announced.
            is_on_loopback: whether it announces a loopback address, so that others may be on one too.
            now: the time.

        """
        self._is_on_loopback = is_on_loopback
        self._own = frozenset(Address(str(address), self._gossip_port) for address in addresses)
        self._own_overlay_address = overlay_address
        self._location, self._ways = location, None
        self._changed(now)

    def set_gossip_port(self, port: int, *, now: float) -> None:
        """Replace the port of seeds that name none, and of our own addresses."""
        self._gossip_port = port
        self._own = frozenset(Address(own.ip, port) for own in self._own)
        self._answers = {
            seed: tuple(Address(answer.ip, seed.port or port) for answer in known)
            for seed, known in self._answers.items()
        }
        self._changed(now)

    def way_to(self, announced: Address) -> Address:
        """Return where to send what is for an announced address.

        Of a member of our location that is its internal address: behind 1:1 NAT the
        announced one often leads nowhere from inside.
        """
        if self._ways is None:
            # The living last, so that theirs counts where a failed member had the same address.
            known = sorted(self._known.values(), key=lambda member: member.state.is_alive)
            self._ways = {
                member.address: Address(str(internal), member.address.port)
                for member in known
                if member.meta is not None
                and (internal := member.meta.address_within(self._location)) is not None
                and not (self._overlay_is_apart and internal in self._overlay)
            }
        return self._ways.get(announced, announced)

    def living_at(self, ip: str) -> list[Address]:
        """Return the announced addresses of the living members that send from an IP address."""
        return [
            member.address
            for member in self._known.values()
            if member.state.is_alive and ip in {member.address.ip, self.way_to(member.address).ip}
        ]

    def set_seeds(self, seeds: Iterable[SeedAddress], *, now: float) -> None:
        """Replace the seeds: flags, ``seedNodes`` and ``clusterSeeds`` together. New ones are due at once."""
        self._seeds = tuple(dict.fromkeys(seeds))
        self._answers = {seed: known for seed, known in self._answers.items() if seed in self._seeds}
        self._changed(now)

    def dial_again(self, *, now: float) -> None:
        """Make every wanted address due as if none had been dialled before."""
        self._schedule.forget_tries(now=now)

    def resolved(self, seed: SeedAddress, answers: Iterable[IPAddress], *, now: float) -> None:
        """Take a resolver's answers; `due` hands out what is to be dialled of them.

        An empty answer keeps the former ones: a broken resolver loses no seed.
        """
        found = tuple(dict.fromkeys(self._seed_address(seed, answer) for answer in answers))
        if found and seed in self._seeds:
            self._answers[seed] = found
            self._changed(now)

    def set_removed(self, names: Iterable[str], *, now: float) -> bool:
        """Replace the names that were deleted on purpose; tell whether `members` changed."""
        before = set(self.members)
        self._removed = frozenset(names)
        for name in self._removed & self._known.keys():
            if not self._known[name].state.is_alive:
                self._drop(name)
        self._changed(now)
        return before != set(self.members)

    def restore(self, saved: Iterable[SavedMember], *, now: float) -> None:
        """Expect the members of an earlier run: each is failed until heard of, and due at once.

        They are asked in a random order: those with like names may be away together.
        """
        entries = [*saved]
        self._rng.shuffle(entries)
        for entry in entries:
            if entry.name not in self._known and entry.name not in {self._name, *self._removed}:
                meta, problem = _read_meta(entry.raw_meta)
                verdict = self._identity.verdict(entry.name, meta, now=now)
                if entry.has_left and not verdict.is_certified:
                    continue
                self._keep(
                    RosterMember(
                        name=entry.name,
                        address=entry.address,
                        raw_meta=entry.raw_meta,
                        meta=meta,
                        problem=problem,
                        state=MemberState.LEFT if entry.has_left else MemberState.FAILED,
                        since=now - entry.away,
                        incarnation=entry.incarnation,
                        verdict=verdict,
                    )
                )
        self._sort_away()
        self._changed(now)

    def saved(self, *, now: float) -> tuple[SavedMember, ...]:
        """Return what `restore` takes, sorted by name.

        The next agent may be of a release that reads no compact metadata, after a rollback.
        """
        return tuple(
            SavedMember(
                name=name,
                address=member.address,
                raw_meta=member.raw_meta
                if member.meta is None
                else in_gob_form(member.raw_meta, member.meta),
                away=0.0 if member.state.is_alive else now - member.since,
                incarnation=member.incarnation,
                has_left=member.state is MemberState.LEFT,
            )
            for name, member in sorted(self.members.items())
            if member.is_expected
        )

    def judge(self, *, now: float) -> bool:
        """Judge all members again, after a change of trust or time; tell whether any verdict changed."""
        changed = False
        for name, member in list(self._known.items()):
            verdict = self._identity.judged_again(member.verdict, name, member.meta, now=now)
            if verdict != member.verdict:
                changed = True
                self._keep(replace(member, verdict=verdict))
                if not self._known[name].is_expected:
                    self._drop(name)
        if changed:
            self._changed(now)
        return changed

    def heard_through_tunnels(self, keys: Collection[WireGuardPublicKey], *, now: float) -> None:
        """Take whose tunnels have a fresh handshake: such a member is not away, whatever gossip says."""
        for name in list(self._away):
            member = self._known[name]
            if member.meta is not None and member.meta.public_key in keys and member.verdict.is_certified:
                self._known[name] = replace(member, since=now)
                self._away[name] = self._away.pop(name)

    def next_timer(self) -> float:
        """When `forget` and `due` want to be called; infinite while nothing is wanted or failed."""
        if self._changed_at is not None:
            return self._changed_at
        second_look = inf if self._second_look is None else self._second_look[0]
        return min(self._forget_at(), self._schedule.next_try, second_look)

    def forget(self, *, now: float) -> tuple[str, ...]:
        """Drop the members that have been failed for too long; return their names."""
        gone = []
        while now >= self._forget_at():
            gone.append(next(iter(self._away)))
            self._drop(gone[-1])
        if gone:
            self._changed(now)
        return tuple(gone)

    def due(self, *, now: float, most: int = TRIES_A_SECOND) -> list[Target]:
        """Take what is to be tried now, a few at a time, and no more than can be: none is tried for nothing.

        An `Address` is to be dialled (`Engine.push_pull_with`); a `SeedAddress` is a
        name to resolve first and hand to `resolved`. Each comes again, later and
        later up to its cap, until it is among the alive; a failure is not reported.
        """
        if self._changed_at is not None:
            self._changed_at = None
            alive = 1 + sum(member.state.is_alive for member in self._known.values())
            self._schedule.want(self._wanted(), alive=alive, now=now)
        return [*self._missing_by_now(now), *self._schedule.due(now=now, most=most)]

    def seeds_and_nodes(self) -> list[Address]:
        """Return where seeds and certified members are, as far as known: any may be asked for help."""
        found: dict[Address, None] = {}
        for seed in self._seeds:
            if seed.address is not None:
                found[self._seed_address(seed, seed.address)] = None
            found |= dict.fromkeys(self._answers.get(seed, ()))
        for member in self._known.values():
            if member.verdict.is_certified:
                found[member.address] = None
        return [
            address
            for address in found
            if address not in self._own
            and not (self._overlay_is_apart and ip_address(address.ip) in self._overlay)
        ]

    def _missing_by_now(self, now: float) -> list[Target]:
        if self._second_look is None or now < self._second_look[0]:
            return []
        address, self._second_look = self._second_look[1], None
        return [address] if any(self._known[name].state is MemberState.FAILED for name in self._away) else []

    def _changed(self, now: float) -> None:
        if self._changed_at is None:
            self._changed_at = now

    def _note(self, member: Member, now: float) -> bool:
        name, state = member.name, _STATES[member.state]
        if name == self._name:
            return False
        known = self._known.get(name)
        if name in self._removed and not state.is_alive:
            if known is not None:
                self._drop(name)
                self._changed(now)
            return False
        since = known.since if known is not None and known.state is state else now
        if known is not None and known.raw_meta == member.meta:
            announced = replace(known, address=member.address)
        else:
            announced = self._announced(member, now)
        if known is not None and announced.verdict.weight < known.verdict.weight:
            # A claim that is proven worse changes only whether the member appears alive.
            announced = known
        noted = replace(announced, state=state, since=since, incarnation=member.incarnation)
        if noted == known:
            return False
        self._keep(noted)
        is_back = known is not None and known.state is MemberState.FAILED and state.is_alive
        if is_back:
            self._events.append(MemberReturned(name))
        if is_back and self._second_look is None and member.address not in self._own:
            self._second_look = (now + self._rng.uniform(*SECOND_LOOK), member.address)
        self._changed(now)
        return name not in self._removed

    def _is_open(self, name: str) -> bool:
        known = self._known.get(name)
        return known is not None and not known.verdict.is_certified

    def _note_claimant(self, known: RosterMember, event: NameConflict, now: float) -> bool:
        """Remember who else shows an invite for a member's name; tell whether that is new.

        Anyone with the cluster key can use the name of an invited machine before it does. Only the operator
        can tell whose invite is true.
        """
        meta, _ = _read_meta(event.meta)
        if known.verdict.is_certified or meta is None or not meta.enrolment or meta.public_key is None:
            return False
        claim = known.name, meta.public_key
        former = self._claimants.pop(claim, None)
        if len(self._claimants) >= MOST_CLAIMANTS:
            # A random one, so that invented ones keep no other out.
            del self._claimants[self._rng.choice(list(self._claimants))]
        self._claimants[claim] = RosterMember(
            name=known.name,
            address=event.claimed,
            raw_meta=event.meta,
            meta=meta,
            problem="",
            state=MemberState.ALIVE,
            since=now,
        )
        return former is None or now >= former.since + CLAIMANT_SECONDS

    def _forgotten(self, name: str, now: float, *, is_displaced: bool) -> bool:
        """Forget a member that gossip has forgotten, unless it is expected.

        One without a certificate is not expected where it would get no tunnel: anyone with the cluster key
        can invent such members, and the search for them would delay that for others.
        """
        known = self._known.get(name)
        if known is None or known.verdict.is_certified:
            return False
        if known.is_expected and not (is_displaced or self._identity.is_bound):
            return False
        self._drop(name)
        self._changed(now)
        return True

    def _left_while_failed(self, name: str, incarnation: int, now: float) -> bool:
        known = self._known.get(name)
        if known is None or known.state is not MemberState.FAILED or incarnation < known.incarnation:
            return False
        if known.verdict.is_certified:
            self._keep(replace(known, state=MemberState.LEFT, incarnation=incarnation))
        else:
            self._drop(name)
        self._changed(now)
        self._events.append(FailedMemberLeft(name))
        return True

    def _announced(self, member: Member, now: float) -> RosterMember:
        meta, problem = _read_meta(member.meta)
        return RosterMember(
            name=member.name,
            address=member.address,
            raw_meta=member.meta,
            meta=meta,
            problem=problem,
            state=_STATES[member.state],
            since=now,
            verdict=self._identity.verdict(member.name, meta, now=now),
        )

    def _keep(self, member: RosterMember) -> None:
        former = self._known.get(member.name)
        self._known[member.name] = member
        if _has_way(member) or (former is not None and _has_way(former)):
            self._ways = None
        if member.state.is_alive or not member.is_expected:
            self._away.pop(member.name, None)
            return
        self._away.setdefault(member.name)
        if len(self._away) > MOST_FAILED:
            uncertified = (name for name in self._away if not self._known[name].verdict.is_certified)
            self._drop(next(uncertified, next(iter(self._away))))

    def _drop(self, name: str) -> None:
        del self._known[name]
        self._away.pop(name, None)
        self._ways = None

    def _sort_away(self) -> None:
        self._away = dict.fromkeys(sorted(self._away, key=lambda name: self._known[name].since))

    def _forget_at(self) -> float:
        """When the first of those that are away has been so for too long."""
        first = next(iter(self._away), None)
        return inf if first is None else self._known[first].since + self._forget_after

    def _seed_address(self, seed: SeedAddress, answer: IPAddress) -> Address:
        return Address(str(answer), seed.port or self._gossip_port)

    def _is_here(self, seed: SeedAddress) -> bool:
        if seed.address is not None:
            return self._seed_address(seed, seed.address) in self._own
        answers = self._answers.get(seed, ())
        return bool(answers) and all(self._is_own_answer(address) for address in answers)

    def _is_own_answer(self, address: Address) -> bool:
        """Tell whether a name's answer is this member: Debian gives the host's own name 127.0.1.1."""
        if address in self._own:
            return True
        is_ours = not self._is_on_loopback and address.port == self._gossip_port
        return is_ours and ip_address(address.ip).is_loopback

    def _wanted(self) -> dict[Target, float]:
        """Return every target with its cap; a seed's comes first and so wins."""
        overlay_addresses = {
            member.meta.overlay_address for member in self._known.values() if member.meta is not None
        } | {self._own_overlay_address}
        skipped: list[SeedSkipped] = []
        # What comes first is tried first, a few a second, and a name may wait for its resolver in vain.
        given: dict[Target, float] = {}
        by_name: dict[Target, float] = {}
        for seed in self._seeds:
            literal = seed.address
            if literal is None:
                by_name[seed] = RESOLVE_CAP
            addresses = (
                self._answers.get(seed, ()) if literal is None else (self._seed_address(seed, literal),)
            )
            for address in addresses:
                ip = ip_address(address.ip)
                if self._overlay_is_apart and ip in self._overlay:
                    skipped.append(SeedSkipped(seed, ip, f"inside the overlay {self._overlay}"))
                elif literal is None and ip in overlay_addresses:
                    skipped.append(SeedSkipped(seed, ip, "a member's overlay address"))
                elif literal is not None or not self._is_own_answer(address):
                    (by_name if literal is None else given)[address] = SEED_CAP
        wanted = given | by_name
        self._events.extend(one for one in skipped if one not in self._skipped)
        self._skipped = tuple(skipped)

        ways = [self.way_to(member.address) for member in self._known.values()]
        known = [*wanted, *ways, *(member.address for member in self._known.values())]
        own = {address.ip for address in self._own}
        self.expected_ips = frozenset(one.ip for one in known if isinstance(one, Address)) - own

        alive = set(self._own)
        for member in self._known.values():
            if member.state.is_alive:
                alive |= {member.address, self.way_to(member.address)}
            elif member.state is MemberState.FAILED and not self._is_overlay(member.address):
                wanted.setdefault(member.address, FAILED_CAP)
        return {target: cap for target, cap in wanted.items() if target not in alive}

    def _is_overlay(self, address: Address) -> bool:
        return self._overlay_is_apart and ip_address(address.ip) in self._overlay


def _has_way(member: RosterMember) -> bool:
    return member.meta is not None and member.meta.internal_address is not None


def _read_meta(raw: bytes) -> tuple[NodeMeta | None, str]:
    try:
        return NodeMeta.decode(raw), ""
    except PeerMisbehaved as error:
        return None, error.reason
