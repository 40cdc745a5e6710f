"""The command ``wesher-operator``: flags and environment in, one leading operator out."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from wesher_common.errors import ClusterUnavailable, InvalidSpec, WesherError
from wesher_common.event_logger import EventLogger, log_to_stderr
from wesher_common.variables import unknown_variables
from wesher_common.version import VERSION
from wesher_operator import errands
from wesher_operator.crd import KINDS, definition
from wesher_operator.ending import Deadline, StopSignals
from wesher_operator.handlers import watch
from wesher_operator.health import serve_health
from wesher_operator.kube import (
    DEFINITION,
    MESH,
    WESHER_NODE,
    WESHER_PEER,
    Cluster,
    NotPermitted,
    Object,
    connect,
    process_identity,
)
from wesher_operator.leader import Leadership
from wesher_operator.options import (
    VARIABLES,
    CheckOptions,
    RunOptions,
    SignOptions,
    UninstallOptions,
    parse_options,
)
from wesher_operator.reconcile.control import Controller
from wesher_operator.reconcile.manifests import AgentSettings
from wesher_operator.release import is_newer, release_of
from wesher_operator.sign_revocation import sign_revocation

EXIT_FAILED, EXIT_USAGE, EXIT_LEADERSHIP_LOST = 1, 2, 3
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_RETRY_SECONDS = 2.0
_PATIENCE_SECONDS = 10.0
"""How long a start waits for what somebody has to mend: roles and definitions may be on their way."""
_KIND_SECONDS = 0.2
_END_SECONDS = 60.0
_DEFINITION_TRIES = 5
_log = EventLogger("wesher.operator")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; its exit code is 0 after SIGTERM, 2 for bad usage, 3 when leadership was lost."""
    deadline = Deadline(_END_SECONDS, EXIT_FAILED)
    try:
        options = parse_options(
            sys.argv[1:] if arguments is None else arguments, os.environ, _pod_namespace()
        )
        if isinstance(options, SignOptions):
            print(  # noqa: T201 - its answer
                sign_revocation(options.seed_file, options.news_file, options.names, options.output)
            )
            sys.exit(0)
        _set_up_logging(options.log_level, options.log_format)
        for variable in unknown_variables(os.environ, VARIABLES):
            _log.warning(
                "unknown environment variable ignored",
                variable=variable.name,
                nearest=variable.nearest or None,
            )
        sys.exit(asyncio.run(_carry_out(options, deadline)))
    except InvalidSpec as error:
        sys.exit(_say(error, EXIT_USAGE))
    except WesherError as error:
        sys.exit(_say(error, EXIT_FAILED))
    finally:
        deadline.cancel()


def _say(error: Exception, code: int) -> int:
    print(f"wesher-operator: {error}", file=sys.stderr)  # noqa: T201 - the one line a user reads
    return code


def _set_up_logging(level: str, log_format: str) -> None:
    log_to_stderr(logging.getLevelNamesMapping()[level.upper()], log_format)
    for handler in logging.getLogger().handlers:
        handler.addFilter(_keep_to_a_line)
    # asyncio logs its own tasks, and kopf every event it passes on.
    for library in ("kopf", "asyncio", "kubernetes"):
        logging.getLogger(library).setLevel(logging.WARNING)
    # It logs each lost race for the lease with a traceback; `leader` logs how the election ends.
    logging.getLogger("kubernetes.aio.leaderelection").setLevel(logging.CRITICAL)


def _keep_to_a_line(record: logging.LogRecord) -> bool:
    """Drop kopf's traces: its line names the watch that died, and the process ends with the reason."""
    if record.name.startswith("kopf"):
        record.exc_info = record.exc_text = None
    return True


def _pod_namespace() -> str:
    try:
        return _NAMESPACE_FILE.read_text().strip()
    except OSError:
        return ""


async def _carry_out(options: RunOptions | UninstallOptions | CheckOptions, deadline: Deadline) -> int:
    match options:
        case RunOptions():
            try:
                return await _run(options, deadline)
            finally:
                deadline.start()
        case UninstallOptions():
            async with await connect(options.kubeconfig, process_identity()) as api:
                cluster = Cluster(api, options.namespace)
                await errands.uninstall(
                    cluster, options.release, within=options.timeout, hook_job=options.hook_job
                )
            return 0
        case CheckOptions():
            async with await connect(options.kubeconfig, process_identity()) as api:
                cluster = Cluster(api, options.namespace)
                hindrance = await errands.check(cluster, options.mesh, within=options.timeout)
            if hindrance:
                return _say(WesherError(f"mesh {options.mesh}: {hindrance}"), EXIT_FAILED)
            print(f"mesh {options.mesh} is ready and all its nodes reach each other")  # noqa: T201 - its answer
            return 0


async def _run(options: RunOptions, deadline: Deadline) -> int:
    identity = process_identity()
    stop = asyncio.Event()
    signals = StopSignals(stop)
    signals.take()
    stopping = asyncio.create_task(stop.wait(), name="stop")
    stopping.add_done_callback(lambda _: deadline.start())
    async with await connect(options.kubeconfig, identity) as api:
        leadership = Leadership(api, options.namespace, identity)
        cluster = Cluster(api, options.namespace, may_write=leadership.holds)
        settings = AgentSettings(
            image=options.agent_image,
            pull_policy=options.agent_image_pull_policy,
            log_level=options.agent_log_level,
            pods=options.agent_pods,
        )
        controller: Controller | None = None
        if options.health_port:
            try:
                await serve_health(options.health_port, lambda: controller is None or controller.is_alive())
            except OSError as error:
                rule = f"cannot listen on this port: {error.strerror}"
                raise InvalidSpec("--health-port", rule, value=options.health_port) from error
        if not options.manage_crds:
            await _until(stop, _patiently(lambda: _check_kinds(cluster)))
        await _until(stop, leadership.acquire())
        if stop.is_set():
            await leadership.release()
            return 0

        lost = asyncio.create_task(leadership.lost(), name="leadership lost")
        lost.add_done_callback(lambda _: stop.set())
        controller = Controller(cluster, settings)
        try:
            if options.manage_crds:
                await _until(stop, _bring_definitions_up(cluster))
                await _until(stop, _patiently(lambda: _wait_for_kinds(cluster)))
            await _until(stop, _patiently(controller.load))
            await watch(controller, api, options.namespace, stop, take_signals=signals.take)
        finally:
            # Whoever leads next must find nobody writing, also where a watch died.
            await controller.stop()
            if lost.done():
                _log.error("leadership lost", identity=identity)
            else:
                lost.cancel()
                await leadership.release()
        return EXIT_LEADERSHIP_LOST if lost.done() and not lost.cancelled() else 0


async def _until(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Await work, or give it up when the process is told to stop."""
    task = asyncio.create_task(work)
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if task.done():
        await task
    else:
        task.cancel()


async def _patiently(work: Callable[[], Awaitable[None]]) -> None:
    """Do what needs an API server, again and again until it answers.

    Raises:
        NotPermitted: it has forbidden it for a while. A pod that ends for it is seen at once.
        InvalidSpec: somebody must mend something else.

    """
    loop = asyncio.get_running_loop()
    until, said = loop.time() + _PATIENCE_SECONDS, ""
    while True:
        try:
            await work()
        except ClusterUnavailable as error:
            if isinstance(error, NotPermitted) and loop.time() > until:
                raise
            if str(error) != said:
                _log.warning("waiting for the api server", error=error)
            said = str(error)
            await asyncio.sleep(_RETRY_SECONDS)
        else:
            return


async def _check_kinds(cluster: Cluster) -> None:
    """Look whether the API server serves our kinds: kopf would wait for them in silence.

    Raises:
        InvalidSpec: a CustomResourceDefinition is missing.

    """
    for kind in (MESH, WESHER_NODE, WESHER_PEER):
        if not await cluster.serves(kind):
            raise InvalidSpec(
                f"CustomResourceDefinition {kind.plural}.{kind.group}",
                "is missing: install the chart, or apply charts/wesher/crds",
            )


async def _wait_for_kinds(cluster: Cluster) -> None:
    """Wait until the definitions that were just made are served.

    Raises:
        InvalidSpec: they are not, after a while.

    """
    loop = asyncio.get_running_loop()
    until = loop.time() + _PATIENCE_SECONDS
    while True:
        try:
            await _check_kinds(cluster)
        except InvalidSpec:
            if loop.time() > until:
                raise
            await asyncio.sleep(_KIND_SECONDS)
        else:
            return


async def _bring_definitions_up(cluster: Cluster) -> None:
    """Make the CustomResourceDefinitions be this release's: Helm installs them once and never again.

    Those of a newer release stay: another installation's operator needs what they know.
    """
    for attempt in range(1, _DEFINITION_TRIES + 1):
        try:
            for kind in KINDS:
                await _bring_up(cluster, definition(kind))
        except WesherError as error:
            _log.warning("custom resource definitions not applied", attempt=attempt, error=error)
            await asyncio.sleep(_RETRY_SECONDS)
        else:
            return


async def _bring_up(cluster: Cluster, wanted: Object) -> None:
    name = wanted["metadata"]["name"]
    release = release_of(await cluster.get(DEFINITION, name))
    if is_newer(release, VERSION):
        _log.info("custom resource definition kept: a newer release wrote it", name=name, release=release)
    else:
        await cluster.apply(DEFINITION, wanted)


if __name__ == "__main__":
    main()
