"""One moment of an agent, filled once; everything that it says about itself is rendered from here.

`conditions` judges it, `answers` renders it for commands, `kube.node_status` for Kubernetes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest

from wesher_agent.mesh.carrying import NETWORK_OVERLAP
from wesher_agent.mesh.desired import KEY_COPIED
from wesher_agent.mesh.identity import Rank
from wesher_agent.mesh.local import Local
from wesher_agent.mesh.nodemeta import Flag
from wesher_agent.mesh.problem import Problem
from wesher_agent.mesh.roster import MemberState, RosterMember
from wesher_agent.mesh.view import MemberView
from wesher_agent.wireguard.carrying_plan import CarryProblem
from wesher_agent.wireguard.plan import HANDSHAKE_FRESH, PeerSession
from wesher_common.keys import WireGuardPublicKey


def _admission_order(member: RosterMember) -> tuple[bool, str]:
    """Return an order in which invited members come first, then others by name."""
    is_invited = member.meta is not None and bool(member.meta.enrolment)
    return not is_invited, member.name


def _in_turn(members: Iterable[RosterMember]) -> tuple[RosterMember, ...]:
    """Return the members in the order of `_admission_order`: in turn one of each rank.

    A report has room for some only. A holder of the cluster key can invent names, a mesh can have more
    certified machines than that, and so can another cluster. None of them may keep the others out.
    """
    ordered = sorted(members, key=_admission_order)
    ranks = (Rank.NONE, Rank.OWN, Rank.TRUSTED)
    turns = zip_longest(*([each for each in ordered if each.verdict.rank is rank] for rank in ranks))
    return tuple(member for turn in turns for member in turn if member is not None)


EXTERNAL_REPORTERS = 3
"""Nodes of a cluster that report its external members: those with the smallest names."""
WITHOUT_TUNNEL = frozenset(
    {
        "AddressClash",
        "BadMetadata",
        "EndpointInsideOverlay",
        "KeyClash",
        "OldRelease",
        "OutsideOverlay",
        "UnderlayAddress",
    }
)
"""The problems of members that get no tunnel until a user acts. Missing metadata comes soon."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """See the module."""

    member: MemberView
    device_ready: bool
    device_reason: str
    """CamelCase, when the device is not ready; empty before the first try."""
    device_problem: str
    mode: str
    """``Kernel`` or ``Userspace``; empty while there is no device."""
    mtu: int
    hosts: str
    """What became of the hosts file."""
    observed: Mapping[WireGuardPublicKey, PeerSession]
    """The device's peers as last read."""
    reachable: frozenset[str]
    """Members that answered their last probe through the tunnel."""
    unreachable: tuple[str, ...]
    """Members that did not, sorted."""
    mostly_unreachable: bool
    """Whether more than half of the last probes got no answer."""
    probes_settled: bool
    """Whether every peer of the first round has answered or let its time pass."""
    rejected: Mapping[str, int]
    """Packets dropped, by reason."""
    counts: Mapping[str, int]
    """How often each kind of fault came and went."""
    source_problem: str
    """Why the mounted key ring or mesh.json cannot be used; empty when they can."""
    health_problem: str
    """Why the kubelet's probes are not answered; empty when they are, or when no port was given."""
    carry_problems: tuple[CarryProblem, ...]
    """Why the host does not carry packets of the cluster as it should."""
    removed: bool
    """Whether the API server said that this node has no WesherNode."""
    generation: int
    """Of the WesherNode last seen; 0 outside Kubernetes."""
    machine: str
    """Which machine its Node is, as the WesherNode last seen says; empty outside Kubernetes."""
    version: str
    wall_clock: float
    """Unix time."""
    changed_at: Mapping[str, str] = field(default_factory=dict)
    """When the status of each condition type last changed, RFC 3339; see `transitions`."""

    @property
    def local(self) -> Local:
        """This member."""
        return self.member.local

    @property
    def alive(self) -> int:
        """How many other members gossip counts among the living."""
        return sum(member.state.is_alive for member in self.member.members.values())

    def count(self, state: MemberState) -> int:
        """Return how many members are in a state."""
        return sum(member.state is state for member in self.member.members.values())

    @property
    def with_tunnel(self) -> int:
        """How many members answer through the tunnel, or have a living session."""
        return sum(self._has_tunnel(member) for member in self.member.members.values())

    @property
    def unreachable_members(self) -> tuple[str, ...]:
        """The members that failed, do not answer through the tunnel or may not have one, sorted.

        See `WITHOUT_TUNNEL` for the last.
        """
        members = self._members_to_reach
        failed = {name for name, member in members.items() if member.state is MemberState.FAILED}
        without = {problem.member for problem in self.without_tunnel}
        return tuple(sorted((failed | without | {*self.unreachable}) - {self.local.name}))

    @property
    def without_tunnel(self) -> tuple[Problem, ...]:
        """Why some members, this one aside, cannot be given a tunnel; sorted."""
        own_name = self.local.name
        return tuple(
            problem
            for problem in self.member.problems
            if problem.reason in WITHOUT_TUNNEL and problem.member != own_name
        )

    @property
    def mostly_without_tunnel(self) -> bool:
        """Whether more than half of the living members have no tunnel or do not answer through it."""
        cut_off = {problem.member for problem in self.without_tunnel} | {*self.unreachable}
        members = self._members_to_reach
        living = [name for name, member in members.items() if member.state.is_alive]
        return 2 * sum(name in cut_off for name in living) > len(living)

    @property
    def _members_to_reach(self) -> Mapping[str, RosterMember]:
        """The members that are to have a tunnel; anyone with the cluster key can invent others."""
        identity, members = self.local.document.identity, self.member.members
        if identity is None or not identity.only_certified:
            return members
        return {name: member for name, member in members.items() if member.verdict.is_certified}

    @property
    def accepts_traffic(self) -> bool:
        """Whether carried packets of other members are accepted, while the mesh is to carry any."""
        settings, applied = self.local.document.traffic, self.member.traffic
        is_applied = applied.settings == settings and applied.carrying is not None
        is_strict = any(problem.reason == "ReversePathFilter" for problem in self.carry_problems)
        return settings.is_on and is_applied and not is_strict

    @property
    def not_carried(self) -> tuple[Problem, ...]:
        """Why packets to networks of this cluster's members are not carried."""
        members = self.member.members
        return tuple(
            problem
            for problem in self.member.problems
            if problem.reason == NETWORK_OVERLAP
            and problem.member in members
            and members[problem.member].verdict.rank is Rank.OWN
        )

    @property
    def key_copied(self) -> Problem | None:
        """The problem that a living member has this node's WireGuard key; None if there is none."""
        problems = self.member.problems
        copies = (each for each in problems if (each.member, each.reason) == (self.local.name, KEY_COPIED))
        return next(copies, None)

    @property
    def external_members(self) -> tuple[RosterMember, ...]:
        """The external members that this node reports: all, or none when other nodes report them."""
        inside, external = {self.local.name}, []
        identity = self.local.document.identity
        for name, member in self.member.members.items():
            if not member.state.is_alive:
                continue
            if not self._is_of_our_cluster(member):
                external.append(member)
            elif identity is None or member.is_living_node:
                # Anyone with the cluster key can invent nodes, which would report nothing.
                inside.add(name)
        if self.local.name not in sorted(inside)[:EXTERNAL_REPORTERS]:
            return ()
        return _in_turn([*external, *self.member.claimants])

    def peer_of(self, member: RosterMember) -> PeerSession | None:
        """Return what the device knows of a member."""
        key = member.meta.public_key if member.meta is not None else None
        return self.observed.get(key) if key is not None else None

    def handshake_age(self, member: RosterMember) -> float | None:
        """Return the seconds since a member's last handshake; None means never."""
        peer = self.peer_of(member)
        if peer is None or peer.last_handshake is None:
            return None
        return max(0.0, self.wall_clock - peer.last_handshake)

    def _has_tunnel(self, member: RosterMember) -> bool:
        if member.name in self.unreachable or not member.state.is_alive:
            return False
        age = self.handshake_age(member)
        return member.name in self.reachable or (age is not None and age < HANDSHAKE_FRESH)

    def _is_of_our_cluster(self, member: RosterMember) -> bool:
        if member.meta is None or Flag.IN_KUBERNETES not in member.meta.flags:
            return False
        cluster = self.local.document.cluster_name
        return not cluster or member.name.endswith(f".{cluster}")
