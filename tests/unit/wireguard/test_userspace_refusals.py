"""How often a user-space WireGuard that cannot be started is tried, whatever refuses it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path

import pytest

from wesher_agent.netlink.errors import WireGuardUnavailable
from wesher_agent.wireguard import userspace
from wesher_agent.wireguard.back_off import LONGEST_DELAY
from wesher_agent.wireguard.plan import DeviceChange, PeerChange
from wesher_agent.wireguard.userspace import UserspaceBackend
from wesher_common.errors import WesherError
from wesher_common.keys import WireGuardPublicKey
from wesher_testing.virtual.loop_clock import LoopClock

MINUTES = 10


def _refusing(error: Exception) -> Callable[..., None]:
    def refuse(*_: object) -> None:
        raise error

    return refuse


class _Machine:
    """A machine on which one step of starting wireguard-go is refused."""

    def __init__(self, patch: pytest.MonkeyPatch, directory: Path) -> None:
        self._patch = patch
        self._directory = directory
        patch.setattr(userspace, "_SOCKET_DIRECTORY", directory)
        patch.setattr(userspace, "create_persistent_tun", lambda _: None)

    def backend(self, refuses: str) -> UserspaceBackend:
        """Return a backend that cannot start its program."""
        binary: Path | None = Path("/bin/false")
        match refuses:
            case "no program":
                binary = None
            case "no /dev/net/tun":
                error: Exception = WireGuardUnavailable("user-space WireGuard needs /dev/net/tun")
                self._patch.setattr(userspace, "create_persistent_tun", _refusing(error))
            case "no socket directory":
                (self._directory / "file").touch()
                self._patch.setattr(userspace, "_SOCKET_DIRECTORY", self._directory / "file/wireguard")
            case "no descriptor":
                self._patch.setattr(userspace, "link_kind", _refusing(OSError(24, "Too many open files")))
            case "another device":
                self._patch.setattr(userspace, "link_kind", lambda _: "veth")
            case "a program that cannot be run":
                binary = self._directory
            case "a program that exits at once":
                pass
        return UserspaceBackend("wgnone", binary)


REFUSALS = [
    "no program",
    "no /dev/net/tun",
    "no socket directory",
    "no descriptor",
    "another device",
    "a program that cannot be run",
    "a program that exits at once",
]


@pytest.mark.parametrize("refuses", REFUSALS)
async def test_attempts_to_start_the_program_are_few_whatever_refuses_it(
    refuses: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = _Machine(monkeypatch, tmp_path).backend(refuses)
    clock, attempts, start = LoopClock(), 0, backend._start

    async def counted() -> None:
        nonlocal attempts
        attempts += 1
        await start()

    monkeypatch.setattr(backend, "_start", counted)
    texts = set()
    for _ in range(MINUTES * 60):
        # The repair round and the member's retry ask the same backend.
        for _ in range(2):
            with pytest.raises((WesherError, OSError)) as raised:
                await backend.ensure()
            texts.add(str(raised.value))
        clock.advance(1.0)
        await asyncio.sleep(0)
    assert attempts <= MINUTES * 60 / LONGEST_DELAY + 8
    assert len(texts) <= 2, "a text that changes would be logged each time"


@pytest.mark.parametrize("refuses", REFUSALS)
async def test_a_refusal_does_not_look_like_a_loss_that_must_be_repaired_at_once(
    refuses: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = _Machine(monkeypatch, tmp_path).backend(refuses)
    clock = LoopClock()
    for _ in range(8):
        with pytest.raises((WesherError, OSError)):
            await backend.ensure()
        clock.advance(LONGEST_DELAY)
        await asyncio.sleep(0.001)
    with pytest.raises((WesherError, OSError)):
        await backend.ensure()
    lost = asyncio.ensure_future(backend.wait_lost())
    for _ in range(20):
        await asyncio.sleep(0)
    assert not lost.done()
    clock.advance(LONGEST_DELAY)
    await lost


async def test_a_program_that_cannot_remove_single_allowed_ips_gets_the_whole_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Versions before 0.0.20250522 answer EINVAL to an allowed IP with a minus sign."""
    requests: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append((await reader.readuntil(b"\n\n")).decode())
        writer.write(b"errno=-22\n\n" if "allowed_ip=-" in requests[-1] else b"errno=0\n\n")
        await writer.drain()
        writer.close()

    monkeypatch.setattr(userspace, "_SOCKET_DIRECTORY", tmp_path)
    kept, gone = ip_network("10.0.0.2/32"), ip_network("10.3.0.0/24")
    peer = PeerChange(WireGuardPublicKey(b"\2" * 32), allowed_ips=(kept,), remove_allowed_ips=(gone,))
    async with await asyncio.start_unix_server(answer, tmp_path / "wgnone.sock"):
        backend = UserspaceBackend("wgnone", None)
        for _ in range(2):
            await backend.apply(DeviceChange(peers=(peer,)))
    assert ["allowed_ip=-" in request for request in requests] == [True, False, False]
    assert all("replace_allowed_ips=true\nallowed_ip=10.0.0.2/32" in request for request in requests[1:])
