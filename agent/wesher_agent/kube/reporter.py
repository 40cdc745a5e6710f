"""An agent's dealings with the API server: its address from there, its status to there.

Made only with ``--kubernetes``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from random import Random

from wesher_agent.kube.node_spec import NodeSpec, ObjectGone
from wesher_agent.kube.node_status import admission_part, node_status, own_part, view_part
from wesher_agent.kube.own_objects import OwnObjects
from wesher_agent.kube.schedule import ReportSchedule
from wesher_agent.settings import Settings
from wesher_agent.status.conditions import is_undecided
from wesher_agent.status.snapshot import Snapshot
from wesher_common.errors import ClusterUnavailable, InvalidSpec
from wesher_common.event_logger import EventLogger
from wesher_common.mesh_document import MeshDocument
from wesher_common.version import VERSION

log = EventLogger("wesher.kube")

FIRST_LOOK_SECONDS, REPEATED_LOOK_SECONDS = 3.0, 1.0
"""How long a start waits for an API server that does not answer: the first, and one that has an address.

Until it has started again, a device in user space carries nothing.
"""
GONE_SECONDS, GONE_INTERVAL = 5.0, 0.5
"""How long a termination looks for the end of its mesh: pod and object go in any order."""
REMOVED_SECONDS = 0.5
"""How long it asks when the deletion was known before: on a deleted Node it is killed a second later."""
MISSING_FIRST, MISSING_LONGEST = 1.0, 30.0
SETTLE_SECONDS = 0.5
"""News that come together are reported together."""
LOOK_SECONDS = 30.0
"""Between two checks of what there is to report: what ends by time alone, as a name clash, has no event."""


class KubernetesLink:
    """The connection to the API server, and what is known from there.

    Args:
        objects: the client.
        mesh_uid: of the mesh we belong to.

    """

    def __init__(self, objects: OwnObjects, mesh_uid: str) -> None:
        self.node: NodeSpec | None = None
        """As last read; kept while the API server cannot be reached."""
        self.removed = False
        """Whether the API server's last word of our WesherNode was that it does not exist."""
        self._objects = objects
        self._mesh_uid = mesh_uid
        self._problem = ""
        self._in_doubt = False
        self._woken = asyncio.Event()

    @classmethod
    async def connect(cls, settings: Settings, document: MeshDocument, node_name: str) -> KubernetesLink:
        """Find the way to the API server; nothing is asked yet.

        Raises:
            InvalidSpec: there is no way to the API server.

        """
        objects = await OwnObjects.connect(
            settings.kubeconfig, document.name, node_name, agent_version=VERSION
        )
        return cls(objects, document.uid)

    async def look(self, seconds: float) -> bool:
        """Ask for our WesherNode, for so long; tell whether it was seen."""
        try:
            async with asyncio.timeout(seconds):
                return await self._ask(self._objects.node)
        except TimeoutError:
            self._say("the API server does not answer")
            return False

    def wake(self) -> None:
        """Say that there may be something to report."""
        self._woken.set()

    def doubt(self) -> None:
        """Say that our WesherNode may be gone, or another by now, so that it is asked for at once."""
        self._in_doubt = True
        self.wake()

    async def run(
        self, status: Callable[[], Snapshot], on_node: Callable[[NodeSpec], None], *, rng: Random
    ) -> None:
        """Report until cancelled; ask for our WesherNode while its address is missing, or it is in doubt.

        Args:
            status: what there is to report now.
            on_node: takes our WesherNode each time it was seen.
            rng: for the spread.

        """
        loop = asyncio.get_running_loop()
        schedule = ReportSchedule(rng, now=loop.time())
        look_again, pause = loop.time(), MISSING_FIRST
        while True:
            self._woken.clear()
            if not self._must_look:
                look_again, pause = loop.time(), MISSING_FIRST
            elif look_again <= loop.time():
                await self._ask(self._objects.node)
                # The agents of a new mesh, or of one whose operator is away, must not ask in step.
                look_again = loop.time() + pause * rng.uniform(0.5, 1.0)
                pause = min(MISSING_LONGEST, 2 * pause)
            waits = [look_again - loop.time()] if self._must_look else []
            # Before there is a WesherNode, nothing could take a report.
            if self.node is not None:
                # Before the report, which says what generation is in effect, and after: its reply is newer.
                on_node(self.node)
                waits += LOOK_SECONDS, await self._report_when_due(schedule, status(), loop.time)
                on_node(self.node)
            await self._rest(min(waits))

    @property
    def _must_look(self) -> bool:
        return self._in_doubt or self.node is None or self.node.place.overlay_address is None

    async def is_gone(self) -> bool:
        """Tell whether this node is to leave its mesh for good, asking for up to five seconds.

        If the API server cannot answer now, its last answer counts: the pods of a deleted Node are
        deleted with their tokens before their containers get a signal to end.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (REMOVED_SECONDS if self.removed else GONE_SECONDS)
        uid = self.node.uid if self.node is not None else ""
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    self.removed = await self._objects.is_gone(mesh_uid=self._mesh_uid, node_uid=uid)
            except (ClusterUnavailable, TimeoutError) as error:
                log.debug("deletion not checked", error=error)
            if self.removed or loop.time() + GONE_INTERVAL >= deadline:
                return self.removed
            await asyncio.sleep(GONE_INTERVAL)

    async def _report_when_due(
        self, schedule: ReportSchedule, present: Snapshot, clock: Callable[[], float]
    ) -> float:
        """Report if it is time to; return in how many seconds it is again."""
        if is_undecided(present):
            # A restarted agent's last report is nearer the truth than not knowing.
            return SETTLE_SECONDS
        members = len(present.member.members) + 1
        schedule.observe(
            own_part(present),
            view_part(present),
            admission=admission_part(present),
            members=members,
            now=clock(),
        )
        if schedule.next_report(now=clock()) <= clock():
            taken = await self._report(present)
            (schedule.reported if taken else schedule.failed)(now=clock())
        return schedule.next_report(now=clock()) - clock()

    async def _report(self, present: Snapshot) -> bool:
        observed = self.node.conditions if self.node is not None else ()
        body = node_status(present, observed, time=datetime.now(UTC))

        async def apply() -> NodeSpec:
            return await self._objects.apply_status(body)

        taken = await self._ask(apply)
        if taken:
            log.debug("status reported")
        return taken

    async def _ask(self, question: Callable[[], Awaitable[NodeSpec]]) -> bool:
        try:
            self.node = await question()
        except ObjectGone:
            self.removed, self._in_doubt = True, False
            self._say(
                "this node has no WesherNode: the operator has not created it yet, or has deleted it"
                if self.node is None
                else "this node's WesherNode was deleted: device and tunnels stay until the agent ends"
            )
        except (ClusterUnavailable, InvalidSpec) as error:
            self._say(str(error))
        else:
            self.removed, self._in_doubt = False, False
            if self._problem:
                log.warning("api server answers again")
            self._problem = ""
            return True
        return False

    def _say(self, problem: str) -> None:
        if problem != self._problem:
            log.warning("api server request failed: the mesh keeps running", error=problem)
        self._problem = problem

    async def _rest(self, wait: float) -> None:
        try:
            async with asyncio.timeout(max(wait, SETTLE_SECONDS)):
                await self._woken.wait()
        except TimeoutError:
            return
        await asyncio.sleep(SETTLE_SECONDS)
