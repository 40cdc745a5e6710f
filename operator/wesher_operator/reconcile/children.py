"""Writes the objects that are compared whole: a mesh's ConfigMaps and its DaemonSet.

Left to others: what they say (`manifests`), and when (`mesh`).
"""

from __future__ import annotations

from wesher_common.event_logger import EventLogger
from wesher_operator.kube import CONFIG_MAP, DAEMON_SET, Cluster, Kind, Object
from wesher_operator.reconcile import manifests
from wesher_operator.reconcile.facts import ObjectFacts
from wesher_operator.reconcile.world import World

_log = EventLogger("wesher.mesh")


class Children:
    """One mesh's ConfigMaps and DaemonSet.

    Args:
        world: what has been seen; what is written is taken in at once.
        cluster: where to write.

    """

    def __init__(self, world: World, cluster: Cluster) -> None:
        self._world = world
        self._cluster = cluster
        # The API server writes some values its own way: a cpu of 0.02 comes back as 20m.
        self._applied: dict[str, tuple[Object, ObjectFacts | None]] = {}

    async def ensure(self, kind: Kind, wanted: Object) -> None:
        """Write an object if it differs from what is wanted.

        Raises:
            ClusterUnavailable: the API server does not answer.
            InvalidSpec: it refuses the object.

        """
        stores = {CONFIG_MAP: self._world.config_maps, DAEMON_SET: self._world.daemon_sets}
        name = wanted["metadata"]["name"]
        observed: ObjectFacts | None = stores[kind].get(name)
        if observed is None or not (
            manifests.covers(observed.body, wanted) or self._applied.get(name) == (wanted, observed)
        ):
            self._world.observe(kind, await self._cluster.apply(kind, wanted))
            self._applied[name] = (wanted, stores[kind].get(name))
            _log.debug("object applied", kind=kind.kind, name=wanted["metadata"]["name"])
