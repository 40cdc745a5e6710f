"""The command ``wesher-operator``: flags and environment in, one leading operator out."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from wesher_common.errors import ClusterUnavailable, InvalidSpec, WesherError
from wesher_operator.handlers import watch
from wesher_operator.kube import MESH, WESHER_NODE, Cluster, connect, process_identity
from wesher_operator.leader import Leadership
from wesher_operator.reconcile.control import Controller
from wesher_operator.reconcile.manifests import AgentSettings

EXIT_FAILED, EXIT_USAGE, EXIT_LEADERSHIP_LOST = 1, 2, 3
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_LOG_LEVELS = ("debug", "info", "warning", "error")
_RETRY_SECONDS = 2.0
_log = logging.getLogger("wesher.operator")


def main() -> None:
    """Run the command; its exit code is 0 after SIGTERM, 2 for bad usage, 3 when leadership was lost."""
    arguments = _parser().parse_args()
    logging.basicConfig(
        level=arguments.log_level.upper(),
        format="%(asctime)s %(levelname)-7s %(name)s %(message)s",
        stream=sys.stderr,
    )
    # kopf tells of its own tasks at INFO and of every event it passes on at DEBUG.
    logging.getLogger("kopf").setLevel(logging.WARNING)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    try:
        sys.exit(asyncio.run(_run(arguments)))
    except InvalidSpec as error:
        sys.exit(_say(error, EXIT_USAGE))
    except WesherError as error:
        sys.exit(_say(error, EXIT_FAILED))


def _say(error: Exception, code: int) -> int:
    print(f"wesher-operator: {error}", file=sys.stderr)  # noqa: T201 - the one line a user reads
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="wesher-operator",
        description="Make every WesherMesh be as its spec says.",
        epilog="Every flag can be set by the environment variable in brackets.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run until SIGTERM; of several only the leader acts")
    environment = os.environ
    run.add_argument(
        "--kubeconfig",
        type=Path,
        default=Path(environment["KUBECONFIG"]) if environment.get("KUBECONFIG") else None,
        help="how to reach the API server; the pod's ServiceAccount unless set [KUBECONFIG]",
    )
    run.add_argument(
        "--namespace",
        default=environment.get("WESHER_NAMESPACE") or _pod_namespace(),
        help="where Secrets, ConfigMaps and agents live; the pod's own unless set [WESHER_NAMESPACE]",
    )
    run.add_argument(
        "--agent-image",
        default=environment.get("WESHER_AGENT_IMAGE"),
        help="image of the agents; required [WESHER_AGENT_IMAGE]",
    )
    run.add_argument(
        "--agent-image-pull-policy",
        choices=("Always", "IfNotPresent", "Never"),
        default=environment.get("WESHER_AGENT_IMAGE_PULL_POLICY", "IfNotPresent"),
        help="[WESHER_AGENT_IMAGE_PULL_POLICY]",
    )
    run.add_argument(
        "--agent-log-level",
        choices=_LOG_LEVELS,
        default=environment.get("WESHER_AGENT_LOG_LEVEL", "info"),
        help="[WESHER_AGENT_LOG_LEVEL]",
    )
    run.add_argument(
        "--log-level",
        choices=_LOG_LEVELS,
        default=environment.get("WESHER_LOG_LEVEL", "info"),
        help="[WESHER_LOG_LEVEL]",
    )
    return parser


def _pod_namespace() -> str | None:
    try:
        return _NAMESPACE_FILE.read_text().strip()
    except OSError:
        return None


async def _run(arguments: argparse.Namespace) -> int:
    if not arguments.agent_image:
        raise InvalidSpec("--agent-image", "must be given")
    if not arguments.namespace:
        raise InvalidSpec("--namespace", "must be given outside a pod")
    # argparse checks what stands on the command line, not what the environment says.
    for flag, choices in (("log_level", _LOG_LEVELS), ("agent_log_level", _LOG_LEVELS)):
        if getattr(arguments, flag) not in choices:
            raise InvalidSpec(
                "--" + flag.replace("_", "-"),
                f"must be one of {', '.join(choices)}",
                value=getattr(arguments, flag),
            )

    identity = process_identity()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with await connect(arguments.kubeconfig, identity) as api:
        leadership = Leadership(api, arguments.namespace, identity)
        cluster = Cluster(api, arguments.namespace, may_write=leadership.holds)
        settings = AgentSettings(
            image=arguments.agent_image,
            pull_policy=arguments.agent_image_pull_policy,
            log_level=arguments.agent_log_level,
        )
        await _until(stop, _check_kinds(cluster))
        await _until(stop, leadership.acquire())
        if stop.is_set():
            await leadership.release()
            return 0

        lost = asyncio.create_task(leadership.lost(), name="leadership lost")
        lost.add_done_callback(lambda _: stop.set())
        controller = Controller(cluster, settings)
        try:
            await _until(stop, _load(controller))
            resync = asyncio.create_task(controller.resync(), name="resync")
            await watch(controller, api, arguments.namespace, stop)
            resync.cancel()
        finally:
            if lost.done():
                _log.error("leadership lost identity=%s", identity)
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


async def _check_kinds(cluster: Cluster) -> None:
    """Wait for an API server, and for one that serves our kinds: kopf would wait for them in silence.

    Raises:
        InvalidSpec: a CustomResourceDefinition is missing.

    """
    while True:
        try:
            for kind in (MESH, WESHER_NODE):
                if not await cluster.serves(kind):
                    raise InvalidSpec(
                        f"CustomResourceDefinition {kind.plural}.{kind.group}",
                        "is missing: apply charts/wesher/crds, or install the chart",
                    )
        except ClusterUnavailable as error:
            _log.warning("waiting for the API server error=%s", error)
            await asyncio.sleep(_RETRY_SECONDS)
        else:
            return


async def _load(controller: Controller) -> None:
    while True:
        try:
            await controller.load()
        except ClusterUnavailable as error:
            _log.warning("waiting for the API server error=%s", error)
            await asyncio.sleep(_RETRY_SECONDS)
        else:
            return


if __name__ == "__main__":
    main()
