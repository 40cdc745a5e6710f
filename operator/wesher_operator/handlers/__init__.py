"""kopf's part: watches bring events, and each event wakes a reconciler.

Only ``on.event``, and no state of kopf's in any object: see
``docs/decisions/0008-kopf-watches-and-decides-nothing.md``. A handler decides
nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Any

import kopf
from kubernetes.aio.client import ApiClient

from wesher_common.errors import ClusterUnavailable
from wesher_common.names import GROUP
from wesher_operator.kube import PAGE, Kind, watch_credentials
from wesher_operator.reconcile.control import WATCHED, Controller

_IDENTITY: Any = "wesher-operator"
"""Names this process for kopf's peering, which is off. kopf does not export the type, a text."""
_SERVER_SECONDS = 300
"""How long the API server keeps a watch; the client gives it up a little later."""
_CANCEL_SECONDS = 1.0
"""How long a watch may take to end before it is cancelled again."""


async def watch(
    controller: Controller,
    api: ApiClient,
    namespace: str,
    stop: asyncio.Event,
    *,
    take_signals: Callable[[], None],
) -> None:
    """Feed a controller with everything it watches, until stopped.

    Args:
        controller: takes in what is seen.
        api: whose credentials the watches use.
        namespace: the operator's own; namespaced objects are watched there alone.
        stop: set to end; it is set, too, when a watch has died.
        take_signals: called once kopf has replaced the process's signal handlers.

    Raises:
        ClusterUnavailable: a watch cannot be kept up.

    """
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    async def log_in(**_: Any) -> kopf.ConnectionInfo:
        """Use the way in that the client has, with its token as it stands now."""
        return await watch_credentials(api)

    for kind in WATCHED:
        _register(registry, kind, controller)
    others = asyncio.all_tasks()
    tasks = await kopf.spawn_tasks(
        registry=registry,
        settings=_settings(),
        standalone=True,
        namespaces=[namespace],
        stop_flag=stop,
        # Without it kopf asks the system for the user's name, which a pod's user may not have.
        identity=_IDENTITY,
    )
    take_signals()
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    has_died = not stop.is_set()
    # kopf has a task that waits for it, and would wait for that task.
    stop.set()
    await _end_watches(others)
    await controller.stop()
    try:
        await kopf.run_tasks(tasks, ignored=others)
    except Exception as error:
        # kopf's other tasks hold the same error, and asyncio would print it once more for each of them.
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        if not has_died:
            # kopf closes connections that it is still opening when it must end while it starts.
            return
        # kopf lets the errors of its HTTP client and of asyncio through; each means that a watch has died.
        raise ClusterUnavailable(
            f"a watch ended, perhaps because a role or a CustomResourceDefinition was deleted: {error}"
        ) from error


async def _end_watches(others: Collection[asyncio.Task[Any]]) -> None:
    """Cancel kopf's watches and wait for them.

    kopf cancels each together with the task that pauses it. A watch that waits for an answer
    then takes its cancellation for a pause and asks again, and kopf waits for it without a limit.
    """
    while watches := {
        task for task in asyncio.all_tasks() - set(others) if task.get_name().startswith("watcher for ")
    }:
        for task in watches:
            task.cancel()
        await asyncio.wait(watches, timeout=_CANCEL_SECONDS)


def _register(registry: kopf.OperatorRegistry, kind: Kind, controller: Controller) -> None:
    @kopf.on.event(kind.group, kind.version, kind.plural, id=kind.plural, registry=registry)
    async def seen(event: kopf.RawEvent, **_: Any) -> None:
        """Take in the object; the controller wakes the reconcilers that it concerns."""
        if event["type"] == "DELETED":
            controller.deleted(kind, event["object"])
        else:
            controller.observed(kind, event["object"])


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.scanning.disabled = True
    settings.posting.enabled = False
    settings.watching.server_timeout = _SERVER_SECONDS
    settings.watching.client_timeout = _SERVER_SECONDS + 10
    settings.watching.connect_timeout = 30.0
    settings.watching.chunk_size = PAGE
    settings.networking.request_timeout = 30.0
    for kind in WATCHED:
        if kind.selector:
            settings.watching.label_selectors[kind.group, kind.version, kind.plural] = kind.selector
    # kopf removes its finalizer from each object that it sees; the default one may be another operator's.
    settings.persistence.finalizer = f"{GROUP}/not-used"
    settings.persistence.diffbase_storage = _NoState()
    return settings


class _NoState(kopf.DiffBaseStorage):
    """Saves kopf a copy of the object per event, and reading what another kopf operator stored in it."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        """Return the part of an object that kopf would compare: nothing."""
        return kopf.BodyEssence()

    def fetch(self, **_: Any) -> None:
        """Return what kopf would compare it with: nothing."""

    def store(self, **_: Any) -> None:
        """Store nothing."""
