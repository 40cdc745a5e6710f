"""systemd is told when the service is up, if it asked."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from wesher_agent.mesh.member import APPLY_RETRY
from wesher_agent.runtime.systemd import READY_SECONDS, notify, notify_ready
from wesher_testing.virtual.loop_clock import LoopClock

SECONDS = 60.0
"""For what takes a moment, on a machine that has other work."""


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Return the socket of a service manager that asked."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "manager"))
        listening.settimeout(0)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "manager"))
        yield listening


@pytest.mark.parametrize("abstract", [False, True], ids=["path", "abstract"])
def test_a_state_reaches_the_socket_that_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, abstract: bool
) -> None:
    path = f"@{tmp_path}/notify" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path.replace("@", "\0"))
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        notify("READY=1")
        assert manager.recv(100) == b"READY=1"


def test_where_nobody_asked_or_listens_nothing_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    notify("READY=1")


async def received(manager: socket.socket) -> str:
    """Return what the manager is told next."""
    async with asyncio.timeout(SECONDS):
        return (await asyncio.get_running_loop().sock_recv(manager, 500)).decode()


async def test_the_service_is_ready_once_its_device_is_up_and_not_before(manager: socket.socket) -> None:
    is_up = asyncio.Event()
    notifying = asyncio.create_task(notify_ready(is_up, lambda: ""))
    await asyncio.sleep(0)
    with pytest.raises(BlockingIOError):
        manager.recv(500)
    is_up.set()
    await notifying
    assert await received(manager) == "READY=1\nSTATUS=WireGuard device ready"


async def test_a_boot_goes_on_without_wireguard_and_the_status_says_what_is_missing(
    manager: socket.socket,
) -> None:
    """A kubelet that is ordered after the service would otherwise wait for its start to time out."""
    clock = LoopClock()
    is_up = asyncio.Event()
    notifying = asyncio.create_task(notify_ready(is_up, lambda: "no kernel module\nand no wireguard-go"))
    await asyncio.sleep(0)
    clock.advance(READY_SECONDS)
    assert await received(manager) == (
        "READY=1\nSTATUS=WireGuard device not ready: no kernel module and no wireguard-go"
    )
    is_up.set()
    await notifying
    assert await received(manager) == "READY=1\nSTATUS=WireGuard device ready"


async def test_a_service_that_stops_before_its_device_is_up_is_never_reported_as_ready(
    manager: socket.socket,
) -> None:
    notifying = asyncio.create_task(notify_ready(asyncio.Event(), lambda: ""))
    await asyncio.sleep(0)
    notifying.cancel()
    with suppress(asyncio.CancelledError):
        await notifying
    with pytest.raises(BlockingIOError):
        manager.recv(500)


def test_the_device_is_tried_twice_before_the_boot_goes_on_without_it() -> None:
    assert READY_SECONDS > APPLY_RETRY
