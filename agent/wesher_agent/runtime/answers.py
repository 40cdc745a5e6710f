"""What a running agent says of itself when it is asked: by the commands of this host, or for Kubernetes.

It gathers one moment of all parts; `health` judges it, `views` gives it its form.
"""

from __future__ import annotations

import time
from typing import Any

from wesher_agent.kube.node_status import NodeStatus
from wesher_agent.mesh.roster import MemberState, Roster
from wesher_agent.net.driver import Driver
from wesher_agent.runtime.applying import WishApplier
from wesher_agent.runtime.counts import Counts
from wesher_agent.runtime.gossip_port import GossipPort
from wesher_agent.runtime.health import Health, conditions
from wesher_agent.runtime.kubernetes import KubernetesLink
from wesher_agent.runtime.myself import Myself
from wesher_agent.runtime.presence import Presence
from wesher_agent.runtime.prober import Prober
from wesher_agent.runtime.sources import MountedDirectory
from wesher_agent.runtime.tunnel import Tunnel
from wesher_agent.runtime.views import Snapshot, members_answer, node_status, status_answer
from wesher_common.conditions import Condition
from wesher_common.version import VERSION

JOIN_SECONDS = 10.0
"""After a start, in which nobody need have answered: the nodes of a new mesh start one after another."""


class Answers:
    """The parts that are asked.

    Args:
        me: this member.
        roster: the others.
        driver: its clock, and what it dropped.
        port: whether we gossip at all.
        presence: whether somebody else has our name.
        tunnel: how the device is.
        prober: who answers through it.
        applier: what is wrong with whom.
        counts: how often what happened.
        mounted: the files of Kubernetes; None elsewhere.
        link: the API server; None outside Kubernetes.

    """

    def __init__(
        self,
        me: Myself,
        *,
        roster: Roster,
        driver: Driver,
        port: GossipPort,
        presence: Presence,
        tunnel: Tunnel,
        prober: Prober,
        applier: WishApplier,
        counts: Counts,
        mounted: MountedDirectory | None,
        link: KubernetesLink | None,
    ) -> None:
        self._me = me
        self._roster = roster
        self._driver = driver
        self._port = port
        self._presence = presence
        self._tunnel = tunnel
        self._prober = prober
        self._applier = applier
        self._counts = counts
        self._mounted = mounted
        self._link = link
        self._started_at = driver.now

    async def status(self) -> dict[str, Any]:
        """Answer ``wesher status``."""
        await self._prober.look()
        return status_answer(self._snapshot())

    async def members(self) -> list[dict[str, Any]]:
        """Answer ``wesher members``."""
        await self._prober.look()
        return members_answer(self._snapshot())

    def node_status(self) -> NodeStatus:
        """Return what there is to report to Kubernetes."""
        node = self._me.node
        return node_status(self._snapshot(), generation=node.generation if node is not None else 0)

    def _snapshot(self) -> Snapshot:
        members, plan, tunnel = self._roster.members, self._prober.plan, self._tunnel
        return Snapshot(
            document=self._me.document,
            ring=self._me.ring,
            own=self._me.own_node(tunnel.mtu),
            name=self._me.name,
            public_key=self._me.key.public,
            address=str(self._me.gossip_address),
            members=dict(members),
            problems=self._applier.problems,
            observed=self._prober.observed,
            reachable=plan.reachable,
            unreachable=frozenset(plan.unreachable),
            conditions=self._conditions(),
            mode=tunnel.mode,
            mtu=tunnel.mtu,
            hosts=tunnel.hosts_state,
            rejected=self._driver.rejected,
            joined=any(member.state.is_alive for member in members.values()),
            uptime=self._driver.now - self._started_at,
            version=VERSION,
            wall_clock=time.time(),
            counts=self._counts.numbers,
        )

    def _conditions(self) -> tuple[Condition, ...]:
        members, plan, tunnel = self._roster.members.values(), self._prober.plan, self._tunnel
        expected = any(member.state is MemberState.FAILED for member in members)
        return conditions(
            Health(
                device_ready=tunnel.ready,
                device_reason=tunnel.reason,
                device_problem=tunnel.problem,
                others_alive=sum(member.state.is_alive for member in members),
                asks_for_others=expected or self._me.has_seeds_elsewhere,
                joining=self._driver.now - self._started_at < JOIN_SECONDS,
                name_conflict=self._presence.rival,
                port_problem=self._port.problem,
                lost_address=str(self._me.lost_address or ""),
                source_problem=self._mounted.problem if self._mounted is not None else "",
                removed=self._link is not None and self._link.removed,
                tunnels_asked=plan.is_settled or self._applier.nobody_can_be_asked,
                unreachable=plan.unreachable,
                mostly_unreachable=plan.mostly_failing,
            )
        )
