"""An operator that has cause to end does, however its API server and libraries behave."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from wesher_operator.kube import API_SERVER_ENDPOINTS, MESH, SERVICE_CIDR, Kind
from wesher_operator.reconcile.control import WATCHED
from wesher_testing.agents.mounted_files import KUBECONFIG
from wesher_testing.cluster.fake_api_server import Answer, Request, Storing, serving

SOON = 60.0
"""Seconds in which an operator has begun or ended, on a busy machine too."""
LISTED = (*WATCHED, SERVICE_CIDR, API_SERVER_ENDPOINTS)
NAMESPACE = "wesher-system"
GONE: Answer = (404, {"kind": "Status", "code": 404, "message": "not found"})
BUSY: Answer = (429, {"kind": "Status", "code": 429, "details": {"retryAfterSeconds": 1}})
BROKEN: Answer = (503, {"kind": "Status", "code": 503})


class ApiServer:
    """Serves the kinds that are watched; each watch gets one answer, and none at all is silence."""

    def __init__(self, watches: Answer | None) -> None:
        self.watches = watches
        self.watched: Counter[str] = Counter()
        self.gone: set[str] = set()
        self.all_watched = asyncio.Event()
        self._leases = Storing()

    def __call__(self, request: Request) -> Answer | None:
        """Answer one request."""
        kind = next((kind for kind in LISTED if kind.path(NAMESPACE) == request.path), None)
        if "/leases" in request.path:
            return self._leases(request)
        if kind is None:
            return 200, self._discovery(request.path)
        if kind.plural in self.gone:
            return GONE
        if "watch=true" not in request.query:
            return 200, {"kind": f"{kind.kind}List", "items": [], "metadata": {"resourceVersion": "1"}}
        self.watched[kind.plural] += 1
        if len(self.watched) == len(WATCHED):
            self.all_watched.set()
        return BUSY if kind == MESH else self.watches

    @staticmethod
    def _discovery(path: str) -> dict[str, object]:
        if path == "/api":
            return {"versions": ["v1"]}
        if path == "/apis":
            kinds = {kind.group: kind.version for kind in WATCHED if kind.group}
            return {
                "groups": [
                    {
                        "name": group,
                        "versions": [{"version": version}],
                        "preferredVersion": {"version": version},
                    }
                    for group, version in kinds.items()
                ]
            }
        return {
            "resources": [
                _resource(kind)
                for kind in (*WATCHED, Kind("Namespace", "namespaces", namespaced=False))
                if path == kind.path(NAMESPACE).partition("/namespaces/")[0].removesuffix(f"/{kind.plural}")
            ]
        }


def _resource(kind: Kind) -> dict[str, object]:
    return {
        "name": kind.plural,
        "singularName": kind.kind.lower(),
        "kind": kind.kind,
        "namespaced": kind.namespaced,
        "verbs": ["list", "watch"],
    }


@asynccontextmanager
async def operator(
    server: ApiServer, directory: Path, *, wrapper: Sequence[str] = ()
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run an operator until all its watches have been asked for."""
    async with serving(server) as cluster:
        address = {"server": cluster._api.configuration.host}
        config = directory / "config"
        config.write_text(json.dumps({**KUBECONFIG, "clusters": [{"name": "c", "cluster": address}]}))
        process = await asyncio.create_subprocess_exec(
            *(*wrapper, sys.executable, "-m", "wesher_operator", "run", f"--kubeconfig={config}"),
            *("--agent-image=x", f"--namespace={NAMESPACE}", "--manage-crds=false"),
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            await asyncio.wait_for(server.all_watched.wait(), SOON)
            yield process
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


@pytest.mark.parametrize("watches", [None, BUSY, BROKEN], ids=["silent", "busy", "broken"])
async def test_a_watch_that_ends_ends_the_operator_though_others_wait_for_the_api_server(
    tmp_path: Path, watches: Answer | None
) -> None:
    server = ApiServer(watches)
    async with operator(server, tmp_path) as process:
        server.gone.add(MESH.plural)
        _, said = await asyncio.wait_for(process.communicate(), SOON)
    assert said.decode().splitlines()[-1].startswith("wesher-operator: a watch ended")
    assert process.returncode == 1


@pytest.mark.parametrize("watches", [None, BUSY, BROKEN], ids=["silent", "busy", "broken"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_signal_ends_an_operator_whose_watches_wait_for_the_api_server(
    tmp_path: Path, watches: Answer | None, number: signal.Signals
) -> None:
    async with operator(ApiServer(watches), tmp_path) as process:
        process.send_signal(number)
        _, said = await asyncio.wait_for(process.communicate(), SOON)
    assert process.returncode == 0, said.decode()


async def test_an_interrupt_that_was_ignored_at_the_start_stays_ignored(tmp_path: Path) -> None:
    """Also when kopf has started, which takes the signal."""
    ignoring = ("sh", "-c", 'trap "" INT; exec "$0" "$@"')
    async with operator(ApiServer(None), tmp_path, wrapper=ignoring) as process:
        status = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        (ignored,) = (line.split()[1] for line in status if line.startswith("SigIgn:"))
        assert int(ignored, 16) >> (signal.SIGINT - 1) & 1


def test_a_process_that_does_not_end_is_forced_to() -> None:
    program = """
import time
from wesher_operator.ending import Deadline
deadline = Deadline(0.1, 1)
deadline.start()
deadline.start()
time.sleep(600)
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=SOON
    )
    assert ended.returncode == 1
    assert ended.stderr == "wesher-operator: forced to exit: it was still running after 0.1 s\n"


def test_a_process_that_ends_is_not_forced_to() -> None:
    program = """
import threading
from wesher_operator.ending import Deadline
deadline = Deadline(1.0, 1)
deadline.start()
counting = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
deadline.cancel()
for thread in counting:
    thread.join()
print(len(counting), "ended")
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=SOON
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "1 ended\n", "")
