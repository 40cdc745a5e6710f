"""What becomes of a probe on a machine that cannot send it."""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from ipaddress import ip_address, ip_network
from random import Random

import pytest

from wesher_agent.cli.commands import agent_settings
from wesher_agent.tunnel import prober
from wesher_agent.tunnel.tunnel import Tunnel
from wesher_agent.wireguard.device import Device
from wesher_agent.wireguard.ownership import Owner
from wesher_agent.wireguard.plan import PeerSession
from wesher_agent.wireguard.userspace import UserspaceBackend
from wesher_common.keys import WireGuardPrivateKey, WireGuardPublicKey


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
    key = WireGuardPrivateKey.from_random(bytes(32)).public
    tunnel = Tunnel(
        "wgnone",
        Owner(key, ip_network("10.9.0.0/16")),
        agent_settings([], {}),
        None,
        on_change=pytest.fail,
        on_sessions_lost=pytest.fail,
        on_port_moved=pytest.fail,
        count=pytest.fail,
    )
    tunnel._device = Device(_Hangs("wgnone", None))
    asking = prober.Prober(tunnel, key, Random(1), on_change=pytest.fail)
    async with asyncio.timeout(10):
        await asking.look_for_an_answer()
    assert asking.observed == {}
