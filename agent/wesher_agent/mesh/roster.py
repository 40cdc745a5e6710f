"""Who is expected in the mesh, and whom to dial when.

Above the engine, which forgets the dead as memberlist does, the roster remembers
failed members until they have been away for long, and keeps asking for seeds and
failed members until they are among the alive. It is told of events and the time;
it neither resolves names nor dials.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from random import Random

from wesher_agent.mesh.nodemeta import NodeMeta
from wesher_agent.swim.address import Address
from wesher_agent.swim.events import Event
from wesher_common.overlay import IPAddress, IPNetwork
from wesher_common.seeds import SeedAddress


class MemberState(StrEnum):
    """What status shows of a member."""

    ALIVE = "alive"
    SUSPECT = "suspect"
    FAILED = "failed"
    LEFT = "left"


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


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedMember:
    """A member as the state file keeps it."""

    name: str
    address: Address
    raw_meta: bytes
    state: MemberState
    away: float
    """Seconds it had been failed or left when saved; time while we were down does not count."""


class Roster:
    """The members that are expected, and the addresses to ask for them.

    Args:
        name: this member's, which is never listed or dialled.
        gossip_port: of seeds that name none.
        overlay: answers of a resolver that lie inside are skipped when ``overlay_is_apart``,
            else only those that are a member's overlay address.
        overlay_is_apart: whether nothing of the underlay lies inside the overlay; so in Kubernetes.
        forget_after: seconds a failed member is expected back.
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
        rng: Random,
    ) -> None:
        raise NotImplementedError

    @property
    def members(self) -> Mapping[str, RosterMember]:
        """Every other member remembered, by name, except those removed on purpose."""
        raise NotImplementedError

    def observe(self, event: Event, *, now: float) -> bool:
        """Take the engine's event; tell whether `members` changed."""
        raise NotImplementedError

    def set_own_addresses(self, addresses: Iterable[IPAddress], *, overlay_address: IPAddress | None) -> None:
        """Say where this member itself is: every local and advertised address."""
        raise NotImplementedError

    def set_seeds(self, seeds: Iterable[SeedAddress], *, now: float) -> None:
        """Replace the seeds: flags, ``seedNodes`` and ``clusterSeeds`` together. New ones are due at once."""
        raise NotImplementedError

    def set_removed(self, names: Iterable[str]) -> bool:
        """Replace the names that were deleted on purpose; tell whether `members` changed."""
        raise NotImplementedError

    def restore(self, saved: Iterable[SavedMember], *, now: float) -> None:
        """Expect the members of an earlier run: all are failed until heard of, and due at once."""
        raise NotImplementedError

    def saved(self, *, now: float) -> tuple[SavedMember, ...]:
        """Return what `restore` takes, sorted by name."""
        raise NotImplementedError

    def next_timer(self) -> float | None:
        """When `handle_timer` wants to be called."""
        raise NotImplementedError

    def handle_timer(self, *, now: float) -> tuple[str, ...]:
        """Forget who has been away too long; return their names."""
        raise NotImplementedError

    def due(self, *, now: float) -> list[Address | SeedAddress]:
        """Take what is to be tried now, at most a few at a time.

        An `Address` is to be dialled (`Engine.push_pull_with`); a `SeedAddress` is a
        name to resolve first and hand to `resolved`. Each comes again, later and
        later, until it is among the alive; nobody need report a failure.
        """
        raise NotImplementedError

    def resolved(self, seed: SeedAddress, answers: Iterable[IPAddress], *, now: float) -> Resolution:
        """Take a resolver's answers; return which of them to dial now, and which not and why."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Resolution:
    """What came of a seed's name."""

    dial: tuple[Address, ...]
    skipped: tuple[str, ...]
    """One line for each answer that must not be dialled though nobody is alive there."""
