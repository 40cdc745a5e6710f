"""Finds out what keeps agents from running: their pods say it, and for pods that cannot be made, Events.

The DaemonSet controller tells of a pod that it could not make in an Event and
nowhere else, so these are asked for while pods are missing for longer than it
takes to make them. It waits ever longer between its tries, up to a quarter of an
hour, unless its DaemonSet changes; so it is reminded, lest a mesh stay down long
after its namespace was given the right label.

A node's last report outlives its agent. A node that has reported and runs no agent now
is named too: after the time that a restart takes, or at once if the report is older than
the DaemonSet, as in an installation that found the WesherNodes of a former one.

Left to others: what a pod's status means (`agent_pod`).
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from datetime import datetime, timedelta

from wesher_common.conditions import rfc3339
from wesher_common.errors import ClusterUnavailable
from wesher_common.event_logger import EventLogger
from wesher_common.names import GROUP, daemon_set_name
from wesher_operator.kube import DAEMON_SET, EVENT, Cluster
from wesher_operator.reconcile.agent_pod import PodTrouble, made_at, newest_refusal, refusal_hint
from wesher_operator.reconcile.facts import NodeFacts, ObjectFacts
from wesher_operator.reconcile.world import World

REMINDER_ANNOTATION = f"{GROUP}/reminded-at"
_GRACE = timedelta(seconds=3)
"""How long the making of a pod may take."""
_REMIND_EVERY = timedelta(seconds=15)
RESTART_GRACE = timedelta(seconds=30)
"""How long an agent may be away for a restart or an upgrade."""
NOT_RUNNING = PodTrouble("AgentNotRunning", "runs no agent")
_log = EventLogger("wesher.mesh")


class PodTroubles:
    """What is known of one mesh's pods.

    Args:
        mesh: its name.
        world: what has been seen.
        cluster: asked for Events.

    """

    def __init__(self, mesh: str, world: World, cluster: Cluster) -> None:
        self._mesh = mesh
        self._world = world
        self._cluster = cluster
        self._missing_since: datetime | None = None
        self._asked_at: datetime | None = None
        self._refusal: PodTrouble | None = None
        self._away_since: dict[str, datetime] = {}
        """Since when nodes that have reported run no agent."""

    async def look(
        self, desired: Iterable[NodeFacts], known: Container[str] = (), *, now: datetime
    ) -> tuple[dict[str, PodTrouble], datetime | None]:
        """Return what keeps agents from running, by node, and when time alone may change it.

        Args:
            desired: the mesh's nodes.
            known: names of the nodes of which the status already says that they run no agent.
            now: the time.

        Raises:
            ClusterUnavailable: the API server does not answer.
            InvalidSpec: it refuses the reminder.

        """
        nodes = {node.name for node in desired}
        away, until = self._not_running(nodes, known, now)
        troubles, again = await self._of_pods(nodes, now)
        return away | troubles, min((moment for moment in (until, again) if moment), default=None)

    def _not_running(
        self, nodes: set[str], known: Container[str], now: datetime
    ) -> tuple[dict[str, PodTrouble], datetime | None]:
        """Return the nodes that have reported and run no agent now, and when another may be one."""
        running = {pod.node for pod in self._world.pods.values() if pod.mesh == self._mesh and pod.runs}
        reported = {
            member.spec.node_name: member.reported_at
            for member in self._world.members_of(self._mesh)
            if member.reported_at is not None and member.spec.node_name in nodes - running
        }
        # An operator that has just started must not give another grace to a node that has had one.
        self._away_since = {
            node: self._away_since.get(node, now - RESTART_GRACE if node in known else now)
            for node in reported
        }
        ends = {
            node: since + RESTART_GRACE if self._may_be_back(reported[node]) else now
            for node, since in self._away_since.items()
        }
        return (
            {node: NOT_RUNNING for node, end in ends.items() if end <= now},
            min((end for end in ends.values() if end > now), default=None),
        )

    def _may_be_back(self, reported_at: datetime) -> bool:
        """Tell whether the agent that reported is one of this DaemonSet's, which restarts it."""
        daemon_set = self._world.daemon_sets.get(daemon_set_name(self._mesh))
        made = None if daemon_set is None else made_at(daemon_set.body)
        return daemon_set is not None and (made is None or reported_at >= made)

    async def _of_pods(self, nodes: set[str], now: datetime) -> tuple[dict[str, PodTrouble], datetime | None]:
        """Return what the pods themselves say, and of those that are missing their DaemonSet's Events."""
        pods = [pod for pod in self._world.pods.values() if pod.mesh == self._mesh and pod.node in nodes]
        troubles = {pod.node: pod.trouble for pod in pods if pod.trouble is not None and not pod.ending}
        without = nodes - {pod.node for pod in pods}
        daemon_set = self._world.daemon_sets.get(daemon_set_name(self._mesh))
        if not without or daemon_set is None:
            self._missing_since = self._asked_at = self._refusal = None
            return troubles, None
        again = await self._look_at_events(daemon_set, now)
        if self._refusal is not None:
            troubles |= dict.fromkeys(without, self._refusal)
        return troubles, again

    async def _look_at_events(self, daemon_set: ObjectFacts, now: datetime) -> datetime:
        self._missing_since = self._missing_since or now
        if now - self._missing_since < _GRACE:
            return self._missing_since + _GRACE
        if self._asked_at is None or now - self._asked_at >= _REMIND_EVERY:
            self._asked_at, self._refusal = now, await self._ask(daemon_set)
            if self._refusal is not None:
                await self._cluster.annotate(DAEMON_SET, daemon_set.name, {REMINDER_ANNOTATION: rfc3339(now)})
        return self._asked_at + _REMIND_EVERY

    async def _ask(self, daemon_set: ObjectFacts) -> PodTrouble | None:
        fields = f"reason=FailedCreate,regarding.kind=DaemonSet,regarding.name={daemon_set.name}"
        try:
            events = await self._cluster.list(EVENT, fields=fields)
        except ClusterUnavailable as error:
            # A role of others' making may forbid it: the mesh is no worse for it.
            _log.warning("events not read", mesh=self._mesh, error=error)
            return None
        made = [pod.made_at for pod in self._world.pods.values() if pod.mesh == self._mesh]
        refusal = newest_refusal(events, str(daemon_set.body["metadata"].get("uid", "")), made)
        if not refusal:
            return None
        hint = refusal_hint(refusal, self._cluster.namespace)
        return PodTrouble("PodRefused", f"has no agent pod: {refusal}" + (f"; {hint}" if hint else ""))
