"""Makes and deletes a mesh's WesherNodes.

So many a run and no more, and none again at once that the API server refused: a
policy against them all would otherwise be asked a hundred times a run, and the
nodes behind those hundred never get their place.

Left to others: which there should be, and what they say (`membership`,
`allocation`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from wesher_common.errors import InvalidSpec
from wesher_common.event_logger import EventLogger
from wesher_common.names import wesher_node_name
from wesher_operator.kube import WESHER_NODE, Cluster
from wesher_operator.reconcile import manifests
from wesher_operator.reconcile.facts import MemberFacts, MeshFacts
from wesher_operator.reconcile.world import World
from wesher_operator.resources.node import WesherNodeSpec

WRITES_A_RUN = 100
"""How many a run deletes at most, and makes: then the status is told and the mesh looked at again."""
REFUSED_AGAIN = timedelta(seconds=60)
"""When what the API server refused is tried again: a quota or another admission policy may have changed."""
_log = EventLogger("wesher.mesh")


@dataclass(frozen=True, slots=True)
class Written:
    """What a run came to."""

    refused: InvalidSpec | None
    """The first that the API server did not take: the others are as they should be."""
    again: datetime | None
    """When there is more to do."""


@dataclass(frozen=True, slots=True)
class _Change:
    name: str
    wish: WesherNodeSpec | None
    """None is that it be gone."""
    write: Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _Refusal:
    change: _Change
    error: InvalidSpec
    until: datetime
    """Not asked for again before."""


class Places:
    """One mesh's WesherNodes.

    Args:
        world: what has been seen; what is written is taken in at once.
        cluster: where to write.

    """

    def __init__(self, world: World, cluster: Cluster) -> None:
        self._world = world
        self._cluster = cluster
        self._deleted: set[str] = set()
        self._refusals: dict[str, _Refusal] = {}

    async def write(
        self,
        mesh: MeshFacts,
        gone: Iterable[MemberFacts],
        wanted: Iterable[WesherNodeSpec],
        *,
        still_there: Callable[[], None],
        now: datetime,
    ) -> Written:
        """Bring WesherNodes nearer to what they should be.

        Args:
            mesh: whose they are.
            gone: those to delete.
            wanted: those to have.
            still_there: raises where the mesh is gone; asked before each write.
            now: the time.

        Raises:
            ClusterUnavailable: the API server does not answer.

        """
        gone = list(gone)
        # The news of a deletion may come after the next run.
        self._deleted &= {member.uid for member in gone}
        deletions = (self._deletion(mesh, member) for member in gone if member.uid not in self._deleted)
        refused: list[_Refusal] = []
        more = False
        for changes in (deletions, self._makings(mesh, wanted)):
            written = 0
            for change in changes:
                before = self._refusals.get(change.name)
                if before is not None and before.change.wish == change.wish and now < before.until:
                    refused.append(before)
                elif written == WRITES_A_RUN:
                    more = True
                else:
                    still_there()
                    written += 1
                    try:
                        await change.write()
                    except InvalidSpec as error:
                        refused.append(_Refusal(change, error, now + REFUSED_AGAIN))
        self._refusals = {refusal.change.name: refusal for refusal in refused}
        again = now if more else min((refusal.until for refusal in refused), default=None)
        return Written(refused[0].error if refused else None, again)

    def _deletion(self, mesh: MeshFacts, member: MemberFacts) -> _Change:
        async def delete() -> None:
            await self._cluster.delete(WESHER_NODE, member.name, uid=member.uid)
            self._deleted.add(member.uid)
            _log.info("member removed", mesh=mesh.name, node=member.spec.node_name)

        return _Change(member.name, None, delete)

    def _makings(self, mesh: MeshFacts, wanted: Iterable[WesherNodeSpec]) -> Iterator[_Change]:
        for spec in wanted:
            name = wesher_node_name(mesh.name, spec.node_name)
            if not self._is_right(mesh, name, spec):
                yield _Change(name, spec, partial(self._make, mesh, spec))

    async def _make(self, mesh: MeshFacts, spec: WesherNodeSpec) -> None:
        self._world.observe(
            WESHER_NODE, await self._cluster.apply(WESHER_NODE, manifests.wesher_node(mesh, spec))
        )

    def _is_right(self, mesh: MeshFacts, name: str, wanted: WesherNodeSpec) -> bool:
        member = self._world.members.get(name)
        return (
            member is not None
            and member.spec == wanted
            and member.owner_uid == mesh.uid
            and member.label == mesh.name
        )
