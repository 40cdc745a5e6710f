"""What the prober logs, and what becomes of a probe that cannot be sent or is not answered."""

from __future__ import annotations

import asyncio
import logging
import re
import resource
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_address, ip_network
from random import Random

import pytest

from wesher_agent.cli.commands import agent_settings
from wesher_agent.mesh.device import Endpoint
from wesher_agent.tunnel import prober
from wesher_agent.tunnel.tunnel import Tunnel
from wesher_agent.wireguard.device import Device
from wesher_agent.wireguard.ownership import Owner
from wesher_agent.wireguard.plan import PeerSession
from wesher_agent.wireguard.userspace import UserspaceBackend
from wesher_common.keys import WireGuardPrivateKey, WireGuardPublicKey
from wesher_testing.device.links import NO_LINKS
from wesher_testing.virtual.loop_clock import LoopClock

KEY, PEER = (WireGuardPrivateKey.from_random(bytes([number]) * 32).public for number in (1, 2))
ICMP_ERROR = 112
"""Bytes that the device counts for it."""


def tunnel_over(backend: UserspaceBackend) -> Tunnel:
    """Return a tunnel with this device, of which nothing is desired."""
    tunnel = Tunnel(
        "wgnone",
        Owner(KEY, ip_network("10.9.0.0/16")),
        agent_settings([], {}),
        None,
        on_change=pytest.fail,
        on_sessions_lost=pytest.fail,
        on_port_moved=pytest.fail,
        count=pytest.fail,
    )
    tunnel._device = Device(backend, NO_LINKS)
    return tunnel


@contextmanager
def no_descriptors() -> Iterator[None]:
    """Have no socket to be had."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_probe_for_which_there_is_no_socket_is_one_without_an_answer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with no_descriptors(), caplog.at_level(logging.DEBUG):
        await prober._send([ip_address("127.0.0.1")])
    assert 'probe not sent to=127.0.0.1 error="[Errno 24] Too many open files"' in caplog.text


def test_of_many_that_cannot_be_reached_the_log_has_the_number_and_the_first(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """All of a thousand would be a line of pages, at each change."""
    caplog.set_level(logging.INFO)
    for names in ((), ("a", "b"), tuple(f"n{number}" for number in range(500))):
        prober._log_unreachable(names)
    assert caplog.messages == [
        "unreachable peers changed count=0 peers=-",
        "unreachable peers changed count=2 peers=a,b",
        "unreachable peers changed count=500 peers=n0,n1,n2,n3,n4,n5,n6,n7",
    ]


class _Answers(UserspaceBackend):
    """A device with one peer, which answers while it has an endpoint to answer from."""

    def __init__(self, session: PeerSession) -> None:
        super().__init__("wgnone", None)
        self.endpoint: Endpoint | None = None
        self._session = session

    async def sessions(self) -> Mapping[WireGuardPublicKey, PeerSession]:
        if self.endpoint is not None:
            self._session = replace(
                self._session,
                endpoint=self.endpoint,
                last_handshake=time.time(),
                rx_bytes=self._session.rx_bytes + ICMP_ERROR,
            )
        return {self._session.public_key: self._session}


class _Hangs(UserspaceBackend):
    """A device whose program does not answer."""

    async def sessions(self) -> Mapping[WireGuardPublicKey, PeerSession]:
        await asyncio.Event().wait()
        raise AssertionError


async def test_a_device_that_does_not_answer_does_not_hold_up_a_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The kubelet's probe asks for the status, and gives up after ten seconds."""
    monkeypatch.setattr(prober, "ANSWER_SECONDS", 0.05)
    asking = prober.Prober(tunnel_over(_Hangs("wgnone", None)), KEY, Random(1), on_change=pytest.fail)
    async with asyncio.timeout(10):
        await asking.look_for_an_answer()
    assert asking.observed == {}


async def test_a_tunnel_that_begins_to_answer_or_falls_silent_is_logged_once_with_the_members_name(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    clock, backend = LoopClock(), _Answers(PeerSession(PEER))
    tunnel = tunnel_over(backend)
    tunnel.ready = True
    asking = prober.Prober(tunnel, KEY, Random(1), on_change=lambda: None)
    # The probes go to the loopback: only the device's counter tells what was answered.
    asking.set_peers({"b": (PEER, ip_address("127.0.0.1"))})
    running = asyncio.create_task(asking.run())

    async def pass_minutes() -> list[str]:
        """Return what is logged of tunnels within several rounds of probes."""
        caplog.clear()
        for _ in range(300):
            clock.advance(1.0)
            await asyncio.sleep(0)
        return [message for message in caplog.messages if message.startswith("tunnel ")]

    assert await pass_minutes() == ["tunnel silent node=b endpoint=- handshake_age=-"]
    backend.endpoint = Endpoint(ip_address("198.51.100.2"), 51820)
    assert await pass_minutes() == ["tunnel established node=b endpoint=198.51.100.2:51820"]
    backend.endpoint = None
    [silent] = await pass_minutes()
    assert re.fullmatch(r"tunnel silent node=b endpoint=198\.51\.100\.2:51820 handshake_age=\d+", silent)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
