"""How a member looks from outside at one moment, and how it ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

from wesher_agent.mesh.carry_steps import NOTHING_APPLIED, TrafficView
from wesher_agent.mesh.cover import Cover
from wesher_agent.mesh.identity import NOT_CERTIFIED, Verdict
from wesher_agent.mesh.local import Local
from wesher_agent.mesh.problem import Problem
from wesher_agent.mesh.roster import RosterMember


class Ending(Enum):
    """How a member ends."""

    LEAVE = auto()
    """For good: the other members learn it, and the device goes."""
    RESTART = auto()
    """The next process goes on: the other members notice nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberView:
    """What a member knows at one moment; the status is filled from it."""

    now: float
    """The moment, on the clock of `RosterMember.since`."""
    local: Local
    members: Mapping[str, RosterMember]
    """Every other member remembered, by name."""
    problems: tuple[Problem, ...]
    """As of the last desired state."""
    cover: Cover
    """What of the overlay ``unreachable`` routes cover, as of the last desired state."""
    can_probe: bool
    """Whether a tunnel can be tried: False while every living member has a problem."""
    claimants: tuple[RosterMember, ...]
    """Machines that show an invite for a name which an uncertified member has."""
    rival: str
    """Where another machine uses this member's name; empty when none does."""
    copy: str
    """Where a copy of this machine runs, with its name and WireGuard key; empty when none does."""
    other_key_at: str
    """Where a host that this member dials seems to have another cluster key; empty when none does."""
    listen_problem: str
    """Why gossip does not listen; empty when it does."""
    save_problem: str
    """Why the state was not saved; empty when it was."""
    has_seeds_elsewhere: bool
    """Whether any seed may lead to another machine."""
    news_number: int
    """Of the newest statement of the mesh's own authority; 0 for none."""
    unpublished_news: bytes
    """That statement, packed; empty if the mounted file has it."""
    uptime: float
    """Seconds since `MeshMember.start`."""
    verdict: Verdict = NOT_CERTIFIED
    """On this member's own certificate."""
    traffic: TrafficView = NOTHING_APPLIED
    """What it carries beside packets to overlay addresses."""
