"""What must hold in every simulation at every moment, whatever the test is about.

After each input of a node its own incarnation and what it reports are looked at,
and all that every node keeps once in a while, more seldom the more there are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wesher_agent.swim.events import BegunAnew, Event, MemberFailed, MemberForgotten
from wesher_agent.swim.members import MAX_INCARNATION, Member
from wesher_agent.swim.profile import DEFAULT_LIMITS

if TYPE_CHECKING:
    from wesher_testing.virtual_network import Node, VirtualNetwork

_PAIRS_A_SECOND = 500
"""How many members' views are looked at, so that looking costs little beside living."""
REST = 150.0
"""Seconds without any change of the network after which nobody may miss anybody any more.

A failed member is tried again within 50 s, in a mesh of eight; then the views have to spread."""
_SLACK = 64
"""What may be in use besides, or wait to be cleared, whatever the number of members."""


class Invariants:
    """The watch over one network."""

    def __init__(self, network: VirtualNetwork) -> None:
        self._network = network
        self.next_look = 0.0
        """When `look` does something again."""

    def acted(self, node: Node) -> None:
        """Check a node that was just told something."""
        me = node.engine.me
        known = node.incarnations.get(me.name)
        if known != me.incarnation:
            self._check(node, me)

    def heard(self, node: Node, event: Event) -> None:
        """Check what a node's engine reported."""
        match event:
            case MemberForgotten(member=member) if member.name not in node.engine._tombstones:
                node.incarnations.pop(member.name, None)
            case MemberFailed(member=member):
                self._check(node, member)
            case BegunAnew():
                node.incarnations.pop(node.engine.me.name, None)
            case _:
                pass

    def look(self) -> None:
        """Check all that every node keeps, if it is time."""
        network = self._network
        if network.now < self.next_look:
            return
        for node in network.nodes.values():
            known = node.engine.members
            for name in node.incarnations.keys() - known.keys():
                if not node.engine._tombstones.last_incarnation(name, now=network.now):
                    del node.incarnations[name]
            for member in known.values():
                self._check(node, member)
            self._check_memory(node)
        if network.now >= network.disturbed_at + REST:
            for node in network.nodes.values():
                for problem in node.misses():
                    raise AssertionError(self._report(node, problem))
        self.next_look = network.now + max(1.0, len(network.nodes) ** 2 / _PAIRS_A_SECOND)

    def _check(self, node: Node, member: Member) -> None:
        highest = node.incarnations.get(member.name, 0)
        assert member.incarnation >= highest, self._report(
            node, f"went back from incarnation {highest} of {member.name} to {member.incarnation}"
        )
        if member.is_gone and member.incarnation == MAX_INCARNATION:
            # The one point from which there is a way back, see `swim.departure`.
            node.incarnations.pop(member.name, None)
        else:
            node.incarnations[member.name] = member.incarnation

    def _check_memory(self, node: Node) -> None:
        engine, limits = node.engine, DEFAULT_LIMITS
        members = len(engine.members)
        kept = {
            "news": (len(engine._gossip._broadcasts), members),
            "suspicions": (len(engine._membership._suspicions), members),
            "deadlines": (len(engine._timers._heap), 4 * (members + _SLACK)),
            "packets": (len(engine._outbox._packets), 0),
            "relayed pings": (len(engine._relay._pending), limits.pending_acks),
            "tombstones": (len(engine._tombstones), limits.tombstones),
            "members asked whether they live": (
                len(engine._membership._doubted),
                members + limits.tombstones,
            ),
            "streams": (len(engine._exchange._streams), limits.accepted_streams + 4 * members + _SLACK),
            "events": (len(engine._events), 0),
        }
        for what, (count, most) in kept.items():
            assert count <= most, self._report(node, f"keeps {count} {what}, at most {most} are due")

    def _report(self, node: Node, what: str) -> str:
        return f"{node.name} {what}; {self._network!r}"
