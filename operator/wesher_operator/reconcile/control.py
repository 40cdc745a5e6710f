"""Keeps what has been seen, and runs each mesh's reconciler when there is cause.

A cause is a change that concerns the mesh, a moment the reconciler asked for, or
a failed run. Causes that come close together make one run, the more of them the
more Nodes there are: what a run looks at grows with those. After a failure no
cause makes the next run come sooner, since an API server in trouble needs rest.

Every `RESYNC_SECONDS`, and once soon after the start, everything is listed anew:
a watch that was cut off, or that began later than the first list, may have missed
a deletion.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from itertools import chain, repeat
from typing import Any

from wesher_common.errors import WesherError
from wesher_common.event_logger import EventLogger
from wesher_operator.kube import (
    API_SERVER_ENDPOINTS,
    CONFIG_MAP,
    DAEMON_SET,
    MESH,
    NODE,
    POD,
    SECRET,
    SERVICE_CIDR,
    WESHER_NODE,
    WESHER_PEER,
    Cluster,
    Kind,
    NotPermitted,
)
from wesher_operator.reconcile.manifests import AgentSettings
from wesher_operator.reconcile.mesh import MeshReconciler
from wesher_operator.reconcile.readiness import clear
from wesher_operator.reconcile.world import World

WATCHED = (MESH, WESHER_NODE, WESHER_PEER, NODE, SECRET, CONFIG_MAP, DAEMON_SET, POD)
RESYNC_SECONDS = 300.0
_FIRST_RESYNC_SECONDS = 15.0
_BLIND_SECONDS = 3 * RESYNC_SECONDS
_DEBOUNCE_SECONDS = 0.2
_DEBOUNCE_SECONDS_A_NODE = 0.001
_RETRY_SECONDS = (1.0, 2.0, 5.0, 10.0, 30.0)
_log = EventLogger("wesher.control")


class Controller:
    """The operator's whole work while it leads.

    Args:
        cluster: the API server.
        settings: what the installation decides about agents.

    """

    def __init__(self, cluster: Cluster, settings: AgentSettings) -> None:
        self._cluster = cluster
        self._settings = settings
        self._world = World()
        self._causes: dict[str, asyncio.Event] = {}
        self._workers: set[asyncio.Task[None]] = set()
        self._looked_at = time.monotonic()
        self._sees_api_server = True

    def is_alive(self) -> bool:
        """Tell whether the cluster was seen lately, by an event or a list."""
        return time.monotonic() - self._looked_at < _BLIND_SECONDS

    def observed(self, kind: Kind, body: Mapping[str, Any]) -> None:
        """Take in an object that was added or changed."""
        self._looked_at = time.monotonic()
        self._wake(self._world.observe(kind, body))

    def deleted(self, kind: Kind, body: Mapping[str, Any]) -> None:
        """Take in that an object is gone."""
        self._wake(self._world.forget(kind, body))

    async def load(self) -> None:
        """List everything, now and from time to time: before it, nothing may be allocated.

        Raises:
            ClusterUnavailable: the API server does not answer.

        """
        await self._list()
        self._start(self._resync(), "resync")

    async def stop(self) -> None:
        """End every reconciler where it stands; whoever leads next goes on from there."""
        workers = list(self._workers)
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)

    async def _list(self) -> None:
        gone: set[str] = set()
        # Nodes and keys before meshes, so that a mesh is first looked at with its surroundings known.
        for kind in reversed(WATCHED):
            gone |= await self._list_kind(kind)
        # Before Kubernetes 1.33 there is no such kind.
        if await self._cluster.serves(SERVICE_CIDR):
            gone |= await self._list_kind(SERVICE_CIDR)
        gone |= await self._list_api_server()
        self._looked_at = time.monotonic()
        self._wake(gone | self._world.meshes.keys())
        # A mesh may have been deleted while no operator ran.
        self._start(clear(self._world, self._cluster), "clear nodes")

    async def _list_kind(self, kind: Kind) -> set[str]:
        """Take in every object of a kind; return the meshes that one which is gone concerns."""
        listed: set[str] = set()
        version = 0
        async for page in self._cluster.pages(kind):
            for body in page.items:
                self._world.observe(kind, body)
            listed |= {body["metadata"]["name"] for body in page.items}
            version = page.version
        return self._world.retain(kind, listed, version)

    async def _list_api_server(self) -> set[str]:
        """Take in where the API server listens; without that right, which older roles lack, go on."""
        try:
            gone = await self._list_kind(API_SERVER_ENDPOINTS)
        except NotPermitted as error:
            if self._sees_api_server:
                _log.warning("overlay networks not compared with the api server's addresses", error=error)
            self._sees_api_server = False
            return set()
        self._sees_api_server = True
        return gone

    async def _resync(self) -> None:
        """List everything again from time to time."""
        for seconds in chain([_FIRST_RESYNC_SECONDS], repeat(RESYNC_SECONDS)):
            await asyncio.sleep(seconds)
            try:
                await self._list()
            except WesherError as error:
                _log.warning("resync failed", error=error)

    def _wake(self, meshes: Iterable[str]) -> None:
        for name in meshes:
            if name in self._causes:
                self._causes[name].set()
            elif name in self._world.meshes:
                cause = self._causes[name] = asyncio.Event()
                cause.set()
                self._start(self._work(name, cause), f"mesh {name}")

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        worker = asyncio.create_task(work, name=name)
        self._workers.add(worker)
        worker.add_done_callback(self._workers.discard)

    async def _work(self, name: str, cause: asyncio.Event) -> None:
        """Run one mesh's reconciler until the mesh is gone."""
        reconciler = MeshReconciler(name, self._world, self._cluster, self._settings)
        failures = 0
        wait: float | None = None
        while name in self._world.meshes:
            rest = _DEBOUNCE_SECONDS
            if wait != 0:
                rest += _DEBOUNCE_SECONDS_A_NODE * len(self._world.nodes)
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await cause.wait()
            await asyncio.sleep(rest)
            cause.clear()
            try:
                again = await reconciler.reconcile()
            except WesherError as error:
                _log.warning("mesh not reconciled", mesh=name, error=error)
            except Exception:  # noqa: BLE001 - see below
                # One mesh's trouble must not end the others; the trace is for us, the retry for the user.
                _log.exception("mesh not reconciled", mesh=name)
            else:
                failures = 0
                wait = max(0.0, (again - datetime.now(UTC)).total_seconds()) if again else None
                continue
            await asyncio.sleep(_RETRY_SECONDS[min(failures, len(_RETRY_SECONDS) - 1)])
            failures += 1
            wait = 0
        del self._causes[name]
        await clear(self._world, self._cluster)
