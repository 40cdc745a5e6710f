"""Has agents look at once at what changed for them, rather than after minutes.

A kubelet brings changed files to a pod within 80 s or so, and an agent finds its
WesherNode in the answer to each of its reports, which are 5 minutes apart, give or
take half. When an annotation of the pod is patched, the kubelet brings everything
within a second, that annotation included: the agent sees it in a file, and asks.

That is a courtesy: no mesh is worse for a pod that cannot be patched.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from wesher_common.errors import WesherError
from wesher_common.event_logger import EventLogger
from wesher_common.keys import KeyRing
from wesher_common.mesh_document import MeshDocument
from wesher_common.names import NUDGE_ANNOTATION, member_name
from wesher_operator.kube import POD, Cluster
from wesher_operator.reconcile.facts import MemberFacts, PodFacts
from wesher_operator.reconcile.places import WRITES_A_RUN
from wesher_operator.reconcile.world import World

FIRST_TOLD = 3
"""Agents that are nudged for what they pass on: a statement of revocations, a certificate of a machine."""
_AFTER_A_FAILURE = timedelta(seconds=5)
_log = EventLogger("wesher.mesh")


class Nudges:
    """Those of one mesh's agents.

    Args:
        mesh: its name.
        world: what has been seen; what is written is taken in at once.
        cluster: where to write.

    """

    def __init__(self, mesh: str, world: World, cluster: Cluster) -> None:
        self._mesh = mesh
        self._world = world
        self._cluster = cluster
        self._not_before: datetime | None = None

    async def send(
        self,
        document: MeshDocument,
        ring: KeyRing,
        news_number: int,
        members: Iterable[MemberFacts],
        *,
        now: datetime,
        awaited: int = 0,
    ) -> datetime | None:
        """Nudge the agents that report having something old, each once for what is new.

        These are three for a new statement of revocations, which agents pass on by gossip, and for the
        certificate of an external machine, which each of the three sends to the machine.

        Args:
            document: as published.
            ring: the mesh's keys.
            news_number: of the published statement of revocations; 0 if there is none.
            members: the mesh's WesherNodes, with what their agents reported.
            now: the time.
            awaited: serial of the newest published certificate that its machine does not announce yet,
                although agents see the machine; 0 if there is none.

        Returns:
            When to go on, where some were left for the next run.

        """
        if self._not_before is not None and now < self._not_before:
            return self._not_before
        news = _News(document.config_hash, ring.primary.id, frozenset(key.id for key in ring))
        by_node = {member.spec.node_name: member for member in members}
        removed = frozenset(document.removed)
        sent = 0
        pods = [each for each in self._world.pods.values() if each.mesh == self._mesh]
        first = {pod.name for pod in sorted(filter(_may_pass_on, pods), key=_order)[:FIRST_TOLD]}
        for pod in pods:
            member = by_node.get(pod.node)
            wanted = news.text(member)
            is_behind = pod.name in first and member is not None and member.status.news_number < news_number
            if is_behind:
                wanted = f"{wanted}.{news_number}"
            passes_on = awaited > 0 and pod.name in first
            if passes_on:
                wanted = f"{wanted}.{awaited}"
            if member is None or not member.status.config_hash:
                # What is news to one without a place: that it was removed. It must ask while its token lives.
                is_current = member_name(pod.node, document.cluster_name) not in removed
            else:
                is_current = news.is_known_to(member) and not is_behind and not passes_on
            if pod.ending or is_current or pod.nudge == wanted:
                continue
            if sent == WRITES_A_RUN:
                return now
            sent += 1
            try:
                nudged = await self._cluster.annotate(POD, pod.name, {NUDGE_ANNOTATION: wanted})
            except WesherError as error:
                _log.warning("pod not annotated", mesh=self._mesh, pod=pod.name, error=error)
                self._not_before = now + _AFTER_A_FAILURE
                return self._not_before
            if nudged is not None:
                self._world.observe(POD, nudged)
        return None


def _may_pass_on(pod: PodFacts) -> bool:
    return pod.runs and not pod.ending


def _order(pod: PodFacts) -> bytes:
    """Order pods by chance, the same way in each run: not always the nodes with the first names."""
    return hashlib.sha256(pod.name.encode()).digest()


@dataclass(frozen=True, slots=True)
class _News:
    """What agents should have by now."""

    config_hash: str
    primary_key_id: str
    key_ids: frozenset[str]

    def is_known_to(self, member: MemberFacts) -> bool:
        report = member.status
        return (
            report.config_hash == self.config_hash
            and report.primary_key_id == self.primary_key_id
            and self.key_ids == set(report.key_ids)
            and report.observed_generation == member.generation
        )

    def text(self, member: MemberFacts | None) -> str:
        """Return the annotation for a pod: another for whatever is new to it."""
        generation = member.generation if member is not None else 0
        accepted = sorted(self.key_ids - {self.primary_key_id})
        return ".".join([self.config_hash, *accepted, self.primary_key_id, str(generation)])
