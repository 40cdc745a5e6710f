"""What must hold in every simulation at every moment, whatever the test is about.

Incarnations are looked at with each change of what a node holds of a member, and what a node
keeps in memory after each of its inputs. Who misses whom is looked at every second, in larger
networks more seldom, and how long it has lasted is known all the same: whoever was met again
between two looks, or could not be reached, is missed anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wesher_agent.mesh.dialling import MAX_OPEN
from wesher_agent.mesh.events import Event
from wesher_agent.swim.events import MemberForgotten, MemberJoined
from wesher_agent.swim.members import MAX_INCARNATION, Member
from wesher_agent.swim.profile import DEFAULT_LIMITS

if TYPE_CHECKING:
    from wesher_testing.virtual.network import Node, VirtualNetwork

_PAIRS_A_SECOND = 500
"""How many pairs are asked whether one misses the other, so that looking costs little beside living."""
REST = 150.0
"""Seconds for which one may miss another while everything gets through between them.

A failed member is tried again within 50 s, in a mesh of eight; then the views have to spread."""
_SLACK = 64
"""What may be in use besides, or wait to be cleared, whatever the number of members."""
_OWN_DEADLINES = 8
"""Deadlines that belong to no single member or relayed ping: one of each such kind."""


class Invariants:
    """The watch over one network."""

    def __init__(self, network: VirtualNetwork) -> None:
        self._network = network
        self._missed: dict[tuple[Node, Node], float] = {}
        """Since when which node misses which."""
        self.next_look = 0.0
        """When `look` does something again."""

    def watch(self, node: Node) -> None:
        """Check from now on each change of what a node holds of the members, itself included."""
        table = node.engine._table
        put = table.put

        def checked(member: Member) -> None:
            if self._is_better_proven(node, member, table.get(member.name)):
                # Such a member takes a name with any incarnation.
                node.incarnations.pop(member.name, None)
            self._check_incarnation(node, member)
            put(member)

        drop = table.drop

        def dropped(name: str) -> Member:
            # One that made room for another is not remembered.
            node.incarnations.pop(name, None)
            return drop(name)

        # The doors by which a view changes.
        table.put = checked  # type: ignore[method-assign]
        table.drop = dropped  # type: ignore[method-assign]

    def acted(self, node: Node) -> None:
        """Check what a node keeps, which was just told something."""
        for what, count, most in (*_kept(node), *node.keeps()):
            if count > most:
                raise AssertionError(self._report(node, f"keeps {count} {what}, at most {most} are due"))

    def heard(self, node: Node, event: Event) -> None:
        """Take note of what a node's engine reported."""
        if isinstance(event, MemberForgotten) and event.member.name not in node.engine._tombstones:
            node.incarnations.pop(event.member.name, None)
        if isinstance(event, MemberJoined) and (other := self._network.nodes.get(event.member.name)):
            self._missed.pop((node, other), None)

    def separated(self) -> None:
        """Take note that some cannot reach each other any more: nobody is blamed for that time."""
        connects = self._network.connects
        self._missed = {pair: since for pair, since in self._missed.items() if connects(*pair)}

    def look(self) -> None:
        """See who misses whom, if it is time."""
        network, missed = self._network, {}
        if network.now < self.next_look:
            return
        for node in network.nodes.values():
            for name in node.incarnations.keys() - node.engine.members.keys():
                if not node.engine._tombstones.last_incarnation(name, now=network.now):
                    del node.incarnations[name]
            for other, problem in node.misses():
                since = missed[node, other] = self._missed.get((node, other), network.now)
                if network.now - since > REST:
                    raise AssertionError(self._report(node, f"{problem}, since {since:.0f} s"))
        self._missed = missed
        self.next_look = network.now + max(1.0, len(network.nodes) ** 2 / _PAIRS_A_SECOND)

    def _is_better_proven(self, node: Node, member: Member, former: Member | None) -> bool:
        if former is None or (member.meta, member.address) == (former.meta, former.address):
            return False
        claimed, held = (
            node.engine._membership._standing(one.name, one.meta, one.address, self._network.now)
            for one in (member, former)
        )
        return claimed > held

    def _check_incarnation(self, node: Node, member: Member) -> None:
        highest = node.incarnations.get(member.name, 0)
        if member.incarnation < highest:
            what = f"went back from incarnation {highest} of {member.name} to {member.incarnation}"
            raise AssertionError(self._report(node, what))
        if member.is_gone and member.incarnation == MAX_INCARNATION:
            # The one point from which there is a way back, see `swim.departure`.
            node.incarnations.pop(member.name, None)
        else:
            node.incarnations[member.name] = member.incarnation

    def _report(self, node: Node, what: str) -> str:
        return f"{node.name} {what}; {self._network!r}"


def _kept(node: Node) -> tuple[tuple[str, int, int], ...]:
    """Return what an engine keeps, how much of it, and how much at most it may."""
    engine, limits = node.engine, DEFAULT_LIMITS
    members, relayed = len(engine.members), len(engine._relay._pending)
    streams = engine._exchange._streams
    return (
        ("news", len(engine._gossip._broadcasts), members),
        ("suspicions", len(engine._membership._suspicions), members),
        ("deadlines", len(engine._timers._due), members + relayed + _OWN_DEADLINES),
        ("deadlines ever set", len(engine._timers._heap), 2 * (members + limits.pending_acks) + 2 * _SLACK),
        ("packets", len(engine._outbox._packets), 0),
        ("relayed pings", relayed, limits.pending_acks),
        ("tombstones", len(engine._tombstones), limits.tombstones),
        ("members asked whether they live", len(engine._membership._doubted), limits.outbox),
        ("accusers answered", len(engine._local._answered), limits.outbox),
        ("streams", len(streams), MAX_OPEN + _SLACK),
        (
            "bytes of others' requests",
            sum(stream.reader.received for stream in streams.values() if stream.purpose is None),
            limits.accepted_bytes,
        ),
        ("events", len(engine._events), 0),
    )
