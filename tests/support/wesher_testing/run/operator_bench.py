"""Measures the operator on a real API server: ``python -m wesher_testing.run.operator_bench [NODES]``.

Nodes are as large as a kubelet's, agents' reports are written by this program, and no
kubelet runs. What is measured: a new mesh, its agents reporting, their certificates,
what it carries switched on, an operator that starts with all of it there, and two times of
rest, without reports and with as many as agents write that have no news.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kubernetes.aio.client import ApiClient

from wesher_common.conditions import rfc3339
from wesher_common.key_proof import key_proof, proof_statement
from wesher_common.keys import WireGuardPrivateKey
from wesher_common.mesh_document import FILE_NAME, MeshDocument
from wesher_common.names import MESH_LABEL, config_map_name
from wesher_operator.kube import CONFIG_MAP, MESH, NODE, POD, WESHER_NODE, Cluster, Kind, connect
from wesher_testing.cluster.api_server import ApiServer, api_server
from wesher_testing.cluster.operator_process import (
    NAMESPACE,
    OperatorProcess,
    install,
    operator_writes,
    run_operator,
)

NODES = 1000
MESH_NAME = "bench"
REST_SECONDS = 60.0
REPORTS_A_SECOND = 3.3
"""What 1000 agents write that report every 5 minutes."""
_IMAGES = 50
"""A kubelet names so many of the images it has."""
_AT_ONCE = 8
_MAX_WAIT = 300.0
_REST = 5.0
"""Seconds without a write after which the operator is at rest."""
TRAFFIC_GENERATION = 2
"""Of the mesh, after its traffic was switched on."""
NETWORKS = 3
"""In each certificate once the mesh carries traffic: two InternalIPs and a pod network."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a stage took of the operator's process, and what it wrote."""

    seconds: float
    cpu_seconds: float
    peak_mib: float
    """Of resident memory, since the process began."""
    writes: int
    most_in_a_second: int

    def __str__(self) -> str:
        """Return one line."""
        return (
            f"{self.seconds:6.1f} s  {self.cpu_seconds:6.1f} CPU-s  {self.peak_mib:4.0f} MiB at most"
            f"  {self.writes:5} writes, {self.most_in_a_second:3} at most in a second"
        )


class Bench:
    """An API server and what plays kubelets and agents."""

    def __init__(self, server: ApiServer, api: ApiClient) -> None:
        self._server = server
        self._api = api
        self.cluster = Cluster(api, NAMESPACE)
        self._reported: dict[int, dict[str, Any]] = {}

    async def send(self, method: str, path: str, body: dict[str, Any], *, applies: bool = False) -> None:
        """Send one request that must succeed; a patch is merged, or applied as agents apply theirs."""
        patch = f"application/{'apply-patch+yaml' if applies else 'merge-patch+json'}"
        request = await self._api.param_serialize(
            method,
            path,
            header_params={"Content-Type": patch if method == "PATCH" else "application/json"},
            body=body,
            auth_settings=["BearerToken"],
        )
        response = await self._api.call_api(*request, _request_timeout=60)
        await response.read()  # type: ignore[no-untyped-call]
        if response.status >= 300:
            raise RuntimeError(f"{method} {path}: {response.status}")

    async def make_nodes(self, count: int) -> None:
        """Create Nodes as kubelets do, status and all."""
        images = [
            {
                "names": [
                    f"registry.example/team/image-{n}@sha256:{n:064x}",
                    f"registry.example/team/image-{n}:v{n}",
                ]
            }
            for n in range(_IMAGES)
        ]

        async def make(number: int) -> None:
            name = node_name(number)
            labels = {f"example.com/label-{n}": f"value-{n}" for n in range(20)}
            labels |= {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}
            metadata = {"name": name, "labels": labels}
            pods = f"10.{64 + number // 256}.{number % 256}.0/24"
            spec = {"podCIDR": pods, "podCIDRs": [pods]}
            await self.send("POST", NODE.path(""), {"metadata": metadata, "spec": spec})
            addresses = [
                {"type": "InternalIP", "address": f"192.168.{number // 250}.{number % 250 + 1}"},
                {"type": "InternalIP", "address": f"fd00:7::{number + 1:x}"},
            ]
            ready = {"type": "Ready", "status": "True", "reason": "KubeletReady"}
            status = {"addresses": addresses, "conditions": [ready], "images": images}
            await self.send("PATCH", NODE.path("", name, "status"), {"status": status})

        await in_parallel(make(number) for number in range(count))

    async def run_agents(self, count: int) -> None:
        """Make a pod on each node, as a DaemonSet controller does, and say that it runs, as kubelets do."""

        async def make(number: int) -> None:
            name, container = f"agent-{number}", {"name": "agent", "image": "wesher:bench"}
            metadata = {"name": name, "labels": {MESH_LABEL: MESH_NAME}}
            spec = {
                "nodeName": node_name(number),
                "serviceAccountName": "wesher-agent",
                "containers": [container],
            }
            await self.send("POST", POD.path(NAMESPACE), {"metadata": metadata, "spec": spec})
            said = {"ready": True, "restartCount": 0, "imageID": "", "state": {"running": {}}}
            status = {"phase": "Running", "containerStatuses": [{**container, **said}]}
            await self.send("PATCH", POD.path(NAMESPACE, name, "status"), {"status": status})

        await in_parallel(make(number) for number in range(count))

    async def document(self) -> MeshDocument:
        """Return what agents read."""
        found = await self.cluster.get(CONFIG_MAP, config_map_name(MESH_NAME))
        return MeshDocument.from_json(found["data"][FILE_NAME] if found is not None else "")

    async def report(self, number: int, **more: Any) -> None:
        """Report as an agent does; what else it once reported, it reports again."""
        more = self._reported[number] = self._reported.get(number, {}) | more
        now = rfc3339(datetime.now(UTC))
        conditions = [
            {"type": kind, "status": "True", "reason": kind, "message": "", "lastTransitionTime": now}
            for kind in ("Ready", "WireGuardReady", "GossipJoined", "KeyCurrent", "StateSaved")
        ]
        status = {
            "conditions": conditions,
            "viewHash": "0123456789ab",
            "configHash": "0123456789ab",
            "endpoint": f"192.168.0.{number % 250}:51820",
            "peers": {"known": 999, "alive": 999, "handshake": 999, "summary": "999/999"},
            "lastReportTime": now,
            **more,
        }
        name = f"{MESH_NAME}.{node_name(number)}"
        path = f"{WESHER_NODE.path('', name, 'status')}?fieldManager=agent&force=true"
        body = {**head(WESHER_NODE), "metadata": {"name": name}, "status": status}
        await self.send("PATCH", path, body, applies=True)

    async def count(self, kind: Kind) -> int:
        """Return how many objects of a kind there are."""
        return sum([len(page.items) async for page in self.cluster.pages(kind)])

    async def routed(self) -> int:
        """Return how many certificates list three networks."""
        pages = [page async for page in self.cluster.pages(WESHER_NODE)]
        return sum(len(item["spec"].get("routes", [])) == NETWORKS for page in pages for item in page.items)

    async def mesh_status(self) -> dict[str, Any]:
        """Return the mesh's status."""
        mesh = await self.cluster.get(MESH, MESH_NAME)
        return mesh["status"] if mesh and "status" in mesh else {}

    @asynccontextmanager
    async def stage(
        self, title: str, operator: OperatorProcess, began: float | None = None
    ) -> AsyncIterator[None]:
        """Measure what happens in the block and print it, then wait until the operator is at rest.

        Otherwise it would write what is left of this stage in the next one.
        """
        began = time.monotonic() if began is None else began
        written, cpu = len(self._writes()), cpu_seconds(operator.process.pid)
        yield
        seconds = time.monotonic() - began
        times = self._writes()[written:]
        cost = Cost(
            seconds,
            cpu_seconds(operator.process.pid) - cpu,
            peak_mib(operator.process.pid),
            len(times),
            most_within_a_second(times),
        )
        print(f"{title:40}{cost}", flush=True)
        await self.rest()

    async def rest(self) -> None:
        """Wait until the operator has written nothing for some seconds."""
        await until(self._is_at_rest)

    async def _is_at_rest(self) -> bool:
        before = len(self._writes())
        await asyncio.sleep(_REST)
        return len(self._writes()) == before

    def _writes(self) -> list[datetime]:
        events = operator_writes(self._server)
        return [datetime.fromisoformat(event["requestReceivedTimestamp"]) for event in events]


def node_name(number: int) -> str:
    """Return a name as clouds give them."""
    return f"ip-10-0-{number // 256}-{number % 256}.compute.internal"


async def in_parallel(work: Iterable[Awaitable[None]]) -> None:
    """Await everything, a few at a time."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(each: Awaitable[None]) -> None:
        async with gate:
            await each

    await asyncio.gather(*map(one, work))


async def until(probe: Callable[[], Awaitable[bool]]) -> None:
    """Ask until the answer is yes."""
    async with asyncio.timeout(_MAX_WAIT):
        while not await probe():
            await asyncio.sleep(0.5)


def most_within_a_second(times: list[datetime]) -> int:
    """Return the largest number of moments in any second."""
    window: deque[datetime] = deque()
    most = 0
    for moment in times:
        window.append(moment)
        while (moment - window[0]).total_seconds() >= 1:
            window.popleft()
        most = max(most, len(window))
    return most


def cpu_seconds(pid: int) -> float:
    """Return the CPU time a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def peak_mib(pid: int) -> float:
    """Return the most resident memory a process has had, in MiB."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) / 1024


async def measure(server: ApiServer, api: ApiClient, nodes: int) -> None:
    """Go through the stages."""
    bench = Bench(server, api)
    await bench.make_nodes(nodes)
    one = json.dumps(await bench.cluster.get(NODE, node_name(0)))
    print(f"{nodes} Nodes of {len(one) / 1024:.0f} kB each", flush=True)

    with run_operator(server, name="first") as operator:
        await until(lambda: asyncio.sleep(0, operator.leads()))
        async with bench.stage("mesh created: every node has an address", operator):
            spec = {"overlayCIDR": "10.189.0.0/16"}
            await bench.send(
                "POST", MESH.path(""), {**head(MESH), "metadata": {"name": MESH_NAME}, "spec": spec}
            )

            async def placed() -> bool:
                return await bench.count(WESHER_NODE) == nodes

            await until(placed)
        await bench.run_agents(nodes)
        async with bench.stage("agents reported: the mesh is ready", operator):
            await in_parallel(bench.report(number) for number in range(nodes))

            async def ready() -> bool:
                return bool((await bench.mesh_status())["members"]["ready"] == nodes)

            await until(ready)
        await carry(bench, operator, nodes)
        operator.stop()

    # Something to do, so that it shows when the next operator has looked at everything.
    await bench.send("PATCH", MESH.path("", MESH_NAME), {"spec": {"etcHosts": "Off"}})
    began = time.monotonic()
    with run_operator(server, name="second") as operator:
        async with bench.stage("operator restarted: everything reconciled", operator, began):

            async def looked() -> bool:
                return bool((await bench.mesh_status())["observedGeneration"] > TRAFFIC_GENERATION)

            await until(looked)
        async with bench.stage("at rest, no reports", operator):
            await asyncio.sleep(REST_SECONDS)
        async with bench.stage(f"at rest, {REPORTS_A_SECOND} reports a second", operator):
            for number in range(int(REST_SECONDS * REPORTS_A_SECOND)):
                await bench.report(number % nodes)
                await asyncio.sleep(1 / REPORTS_A_SECOND)


async def carry(bench: Bench, operator: OperatorProcess, nodes: int) -> None:
    """Have every node certified, then switch on what the mesh carries."""
    before = await bench.document()
    settings = before.identity
    assert settings is not None
    assert settings.proof_key is not None
    proven = []
    for number in range(nodes):
        key = WireGuardPrivateKey.from_random(hashlib.sha256(node_name(number).encode()).digest())
        statement = proof_statement(before.uid, node_name(number), key.public)
        proof = key_proof(key, settings.proof_key, statement) or b""
        proven.append({"publicKey": str(key.public), "keyProof": base64.b64encode(proof).decode()})
    async with bench.stage("agents proved their keys: all certified", operator):
        await in_parallel(bench.report(number, **proven[number]) for number in range(nodes))

        async def certified() -> bool:
            pages = [page async for page in bench.cluster.pages(WESHER_NODE)]
            return all(item["spec"].get("certificate") for page in pages for item in page.items)

        await until(certified)
    traffic = {"nodes": "All", "pods": "All", "nodeCIDRs": ["192.168.0.0/16", "fd00:7::/64"]}
    await bench.send("PATCH", MESH.path("", MESH_NAME), {"spec": {"traffic": traffic}})

    async def published() -> bool:
        return (await bench.document()).traffic.is_on

    await until(published)
    await bench.rest()
    accepts = {"traffic": {"accepts": True, "routed": 0}}
    async with bench.stage("agents accept: certificates list networks", operator):
        await in_parallel(bench.report(number, **accepts) for number in range(nodes))

        async def routed() -> bool:
            return await bench.routed() == nodes

        await until(routed)
    after = await bench.document()
    sizes = [len(document.to_json().encode()) for document in (before, after)]
    print(f"mesh.json: {sizes[0]} bytes, {sizes[1]} with what is carried", flush=True)


def head(kind: Kind) -> dict[str, str]:
    """Return what every object of a kind begins with."""
    return {"apiVersion": kind.api_version, "kind": kind.kind}


async def main(nodes: int) -> None:
    """Measure on an API server of our own."""
    with api_server() as server:
        install(server)
        async with await connect(server.kubeconfig, "bench") as api:
            api.user_agent = "bench"
            await measure(server, api, nodes)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if sys.argv[1:] else NODES))
