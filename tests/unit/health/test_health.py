"""A kubelet's probes over a real socket, and clients that keep to no protocol."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress

import pytest

from wesher_agent import health
from wesher_agent.health import HOST, MAX_CONNECTIONS, MAX_REQUEST, HealthServer
from wesher_common.conditions import Condition
from wesher_testing.lab.loopback import free_port

SECONDS = 60.0
"""For what takes a moment, on a machine that has other work."""
BURST = 90
"""Connections that wait to be accepted: fewer than the queue holds."""
NO_DEVICE = Condition("WireGuardReady", "False", "PortTaken", "UDP port 51820 is taken by 192.0.2.7's agent")


class Endpoint:
    """A health server that runs, and what it was told."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.failing: tuple[Condition, ...] = ()
        self.changed = asyncio.Event()
        self.server = HealthServer(port, lambda: self.failing, on_change=self.changed.set)

    async def get(self, request: bytes) -> tuple[int, str]:
        """Send a request; return the answer's status and body, 0 and nothing when there was none."""
        reader, writer = await asyncio.open_connection(HOST, self.port)
        try:
            writer.write(request)
            async with asyncio.timeout(SECONDS):
                head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            return (int(head.split()[1]), body.decode().strip()) if head else (0, "")
        finally:
            writer.close()

    async def probe(self, path: str) -> tuple[int, str]:
        """Ask as a kubelet does."""
        return await self.get(
            f"GET {path} HTTP/1.1\r\nHost: {HOST}:{self.port}\r\nUser-Agent: kube-probe/1.34\r\n"
            "Accept: */*\r\nConnection: close\r\n\r\n".encode()
        )


@asynccontextmanager
async def serving(endpoint: Endpoint) -> AsyncIterator[None]:
    task = asyncio.create_task(endpoint.server.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    made = Endpoint(free_port(HOST))
    async with serving(made):
        await listening(made)
        yield made


async def listening(endpoint: Endpoint) -> None:
    async with asyncio.timeout(SECONDS):
        while True:
            with suppress(OSError):
                await endpoint.probe("/healthz")
                return
            await asyncio.sleep(0.01)


async def test_a_running_agent_is_alive_whatever_keeps_it_out_of_its_mesh(endpoint: Endpoint) -> None:
    assert await endpoint.probe("/readyz") == (200, "in the mesh")
    endpoint.failing = (NO_DEVICE,)
    assert await endpoint.probe("/healthz") == (200, "the agent is running")
    status, _ = await endpoint.probe("/readyz")
    assert status == 503


async def test_an_answer_has_fixed_words_only_since_every_local_user_can_ask(endpoint: Endpoint) -> None:
    endpoint.failing = (NO_DEVICE,)
    assert await endpoint.probe("/readyz?verbose") == (503, "WireGuardReady False PortTaken")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 404),
        (b"POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody", 405),
        (b"HEAD /healthz HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        (b"GET /healthz HTTP/1.1\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: " + b"a" * 2 * MAX_REQUEST, 431),
    ],
)
async def test_other_requests_are_refused_and_the_next_probe_answered(
    endpoint: Endpoint, request_: bytes, status: int
) -> None:
    assert (await endpoint.get(request_))[0] == status
    assert (await endpoint.probe("/healthz"))[0] == 200


async def test_idle_connections_do_not_keep_the_kubelet_out(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "REQUEST_SECONDS", 3600.0)
    idle = [await asyncio.open_connection(HOST, endpoint.port) for _ in range(2 * MAX_CONNECTIONS)]
    assert (await endpoint.probe("/healthz"))[0] == 200
    ended = 0
    for reader, writer in idle[:MAX_CONNECTIONS]:
        # Reset or closed: either way it is over.
        with suppress(ConnectionError):
            async with asyncio.timeout(SECONDS):
                assert await reader.read() == b""
        ended += 1
        writer.close()
    assert ended == MAX_CONNECTIONS
    for _, writer in idle:
        writer.close()


async def test_a_burst_of_connections_behind_the_kubelets_does_not_end_it(endpoint: Endpoint) -> None:
    """A local user needs no rights for it, and the kubelet restarts an agent that does not answer."""
    with ExitStack() as held:
        # None yields to the server's loop, so that it finds them all at once.
        kubelet, *_ = [
            held.enter_context(socket.create_connection((HOST, endpoint.port))) for _ in range(BURST)
        ]
        kubelet.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        kubelet.setblocking(False)  # noqa: FBT003 - the library's signature
        async with asyncio.timeout(SECONDS):
            answer = await asyncio.get_running_loop().sock_recv(kubelet, MAX_REQUEST)
    assert answer.startswith(b"HTTP/1.1 200 ")


async def test_a_request_that_never_ends_is_cut_off(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "REQUEST_SECONDS", 0.05)
    assert await endpoint.get(b"GET /healthz HTTP/1.1\r\nHost:") == (0, "")


async def test_a_port_of_another_program_is_waited_for_and_its_holder_named(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "RETRY_SECONDS", 0.01)
    holder = socket.create_server((HOST, 0))
    endpoint = Endpoint(holder.getsockname()[1])
    async with serving(endpoint):
        async with asyncio.timeout(SECONDS):
            await endpoint.changed.wait()
        assert endpoint.server.problem.startswith(f"TCP port {endpoint.port} of 127.0.0.1 is taken by ")
        assert "(pid " in endpoint.server.problem
        endpoint.changed.clear()
        holder.close()
        async with asyncio.timeout(SECONDS):
            await endpoint.changed.wait()
        assert endpoint.server.problem == ""
        assert (await endpoint.probe("/healthz"))[0] == 200
    assert [record.getMessage().partition(" error=")[0] for record in caplog.records] == [
        "health port not available: probes of this agent fail",
        f"health port available again port={endpoint.port}",
    ]


async def test_it_ends_with_its_task_though_a_client_says_nothing(endpoint: Endpoint) -> None:
    other = Endpoint(free_port(HOST))
    async with serving(other):
        await listening(other)
        reader, writer = await asyncio.open_connection(HOST, other.port)
    async with asyncio.timeout(SECONDS):
        with suppress(ConnectionError):
            assert await reader.read() == b""
    writer.close()
    with pytest.raises(ConnectionRefusedError):
        await other.probe("/healthz")
