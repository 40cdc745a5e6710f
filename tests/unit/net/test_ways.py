"""A driver sends where it is told to, whatever address a member announces."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import closing
from dataclasses import replace
from functools import partial
from ipaddress import ip_address
from random import Random

from wesher_agent.net.driver import Driver
from wesher_agent.swim.address import Address
from wesher_agent.swim.engine import Engine
from wesher_agent.swim.members import LocalNode
from wesher_agent.swim.profile import LOCAL
from wesher_agent.wire.keyring import Keyring
from wesher_agent.wire.messages import Alive, Versions
from wesher_agent.wire.packet import PacketFormat
from wesher_testing.loopback import free_port

FAST = replace(LOCAL, gossip_interval=0.01, probe_interval=0.1, probe_timeout=0.05)
ANNOUNCED = "203.0.113.10"
LOOPBACK = "127.0.0.1"
DEADLINE = 60.0
"""Seconds for what takes a moment, on a machine that has other work."""


async def test_probes_and_connections_to_a_member_nearby_take_the_short_way() -> None:
    """What it announces is for those outside; nobody is there from here."""
    loop = asyncio.get_running_loop()
    port = free_port(LOOPBACK)
    with (
        closing(socket.create_server((LOOPBACK, port))) as listener,
        closing(socket.socket(type=socket.SOCK_DGRAM)) as datagrams,
    ):
        datagrams.bind((LOOPBACK, port))
        listener.setblocking(False)  # noqa: FBT003 - the library's signature
        datagrams.setblocking(False)  # noqa: FBT003 - the library's signature
        ways = {Address(ANNOUNCED, port): Address(LOOPBACK, port)}
        engine = Engine(
            LocalNode(name="a", address=Address(LOOPBACK, 1)),
            FAST,
            packet_format=PacketFormat(Keyring(bytes(32)), compress=False),
            incarnation=1,
            rng=Random(1),
            nonce=os.urandom,
        )
        driver = Driver(engine, lambda _event: None, lambda announced: ways.get(announced, announced))
        await driver.open([ip_address(LOOPBACK)], free_port(LOOPBACK))
        nearby = Alive(1, "b", ip_address(ANNOUNCED).packed, port, b"", Versions())

        driver.tell(partial(engine.inject, nearby))
        driver.tell(partial(engine.push_pull_with, Address(ANNOUNCED, port)))

        async with asyncio.timeout(DEADLINE):
            assert await loop.sock_recv(datagrams, 65536)
            accepted, _ = await loop.sock_accept(listener)
        accepted.close()
        await driver.close()
