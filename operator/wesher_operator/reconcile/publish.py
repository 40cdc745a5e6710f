"""Writes a mesh's status, and tells of its transitions by Events and in the log.

Left to others: what the status says (`status`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from wesher_common.conditions import Condition
from wesher_common.errors import WesherError
from wesher_common.event_logger import EventLogger
from wesher_operator.kube import EVENT, MESH, Cluster
from wesher_operator.reconcile import manifests
from wesher_operator.reconcile.facts import MeshFacts
from wesher_operator.reconcile.world import World

_TOLD = {
    "Ready": "False",
    "KeyReady": "False",
    "Converged": "False",
    "Degraded": "True",
    "Certified": "False",
    "TrafficCarried": "False",
    "NodeReadiness": "False",
    "AuthoritiesTrusted": "False",
}
"""The conditions whose transitions become Events, and the status in which each is bad news."""
_log = EventLogger("wesher.mesh")


class EventBudget:
    """How many Events a mesh may cause: 25 at once, then one in 5 minutes, as client-go's spam filter has it.

    One pair of many that fails and heals all day would fill the API server's storage otherwise.
    """

    BURST = 25
    REFILL = timedelta(minutes=5)

    def __init__(self) -> None:
        self._full_at: datetime | None = None

    def spend(self, now: datetime) -> bool:
        """Take one Event's worth; False where there is none left."""
        full_at = max(self._full_at or now, now) + self.REFILL
        if full_at - now > self.BURST * self.REFILL:
            return False
        self._full_at = full_at
        return True


class Publisher:
    """One mesh's status.

    Args:
        world: what has been seen; what is written is taken in at once.
        cluster: where to write.

    """

    def __init__(self, world: World, cluster: Cluster) -> None:
        self._world = world
        self._cluster = cluster
        self._events = EventBudget()

    async def write(
        self, mesh: MeshFacts, wanted: Mapping[str, Any], *, unless_changed: bool = False
    ) -> None:
        """Write a status as it is.

        Args:
            mesh: whose.
            wanted: the status.
            unless_changed: write it only if the mesh is still as it was seen.

        Raises:
            ClusterUnavailable: it cannot be written now, or the mesh is another by now, or changed.
            InvalidSpec: the API server refuses it.

        """
        metadata = {"name": mesh.name, "uid": mesh.uid}
        if unless_changed:
            metadata["resourceVersion"] = mesh.version
        body = {"metadata": metadata, "status": dict(wanted)}
        answer = await self._cluster.apply(MESH, body, subresource="status")
        known = self._world.meshes.get(mesh.name)
        # A spec that changed meanwhile comes by its own event and wakes all whom it concerns, which it
        # could not if it were known from here.
        if known is not None and answer["metadata"].get("generation") == known.generation:
            self._world.observe(MESH, answer)

    async def publish(self, mesh: MeshFacts, wanted: Mapping[str, Any], *, now: datetime) -> None:
        """Write a status where it differs, and tell what changed.

        Raises:
            ClusterUnavailable: it cannot be written now, or the mesh is another by now.
            InvalidSpec: the API server refuses it.

        """
        before = self._world.meshes.get(mesh.name)
        if before is None or before.uid != mesh.uid or dict(before.status) == wanted:
            return
        was = {entry["type"]: entry["status"] for entry in before.status.get("conditions") or []}
        former_identity = before.status.get("identity") or {}
        await self.write(mesh, wanted)
        await self._tell_identity(mesh, former_identity, wanted.get("identity") or {}, now)
        for entry in wanted["conditions"]:
            condition = Condition.from_dict(entry)
            if condition.type not in _TOLD or condition.status in {"Unknown", was.get(condition.type)}:
                continue
            bad = condition.status == _TOLD[condition.type]
            if bad or was.get(condition.type) or condition.type == "KeyReady":
                await self._tell(mesh, condition, now, bad=bad)

    async def _tell_identity(
        self, mesh: MeshFacts, former: Mapping[str, Any], identity: Mapping[str, Any], now: datetime
    ) -> None:
        """Tell who gets a tunnel from now on, where that has changed."""
        mode, bound = identity.get("mode"), bool(identity.get("bound"))
        if not mode or (mode, bound) == (former.get("mode"), bool(former.get("bound"))):
            return
        _log.info("identity changed", mesh=mesh.name, mode=mode, bound=bound)
        if bound:
            text = "every agent has its certificate: only certified members have a tunnel now"
            await self.tell(mesh, "IdentityBound", text, warning=False, now=now)
        elif mode == "Open":
            text = "identity is Open: every member with the cluster key has a tunnel"
            await self.tell(mesh, "IdentityOpen", text, warning=False, now=now)

    async def _tell(self, mesh: MeshFacts, condition: Condition, now: datetime, *, bad: bool) -> None:
        (_log.warning if bad else _log.info)(
            "condition changed",
            mesh=mesh.name,
            condition=condition.type,
            status=condition.status,
            reason=condition.reason,
        )
        text = f"{condition.type} is {condition.status}" + (
            f": {condition.message}" if condition.message else ""
        )
        await self.tell(mesh, condition.reason, text, warning=bad, now=now)

    async def tell(self, mesh: MeshFacts, reason: str, text: str, *, warning: bool, now: datetime) -> None:
        """Write an Event about a mesh, unless it has had too many."""
        if not self._events.spend(now):
            return
        name = os.urandom(5).hex()
        event = manifests.event(mesh, reason, text, warning=warning, name=name, now=now)
        try:
            await self._cluster.create(EVENT, event)
        except WesherError as error:
            # The status has said it already; an Event is worth no second try.
            _log.warning("event not written", mesh=mesh.name, reason=reason, error=error)
