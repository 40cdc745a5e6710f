"""Engines and sockets together, on the loopback: what virtual time cannot show."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future
from contextlib import AsyncExitStack, closing, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from random import Random

import pytest

from wesher_agent.mesh.dialling import MAX_OPEN
from wesher_agent.mesh.events import Event
from wesher_agent.net import streams
from wesher_agent.net.driver import Driver
from wesher_agent.net.sockets import GossipPortTaken, open_sockets
from wesher_agent.netlink.port_holder import find_holder
from wesher_agent.swim.address import Address
from wesher_agent.swim.engine import Engine
from wesher_agent.swim.events import (
    LeaveDone,
    MemberFailed,
    MemberJoined,
    PacketRejected,
    PushPullDone,
    PushPullFailed,
    UnreadableStream,
    UserMessageFailed,
    UserMessageReceived,
)
from wesher_agent.swim.members import LocalNode
from wesher_agent.swim.profile import LOCAL
from wesher_agent.swim.streams import OpenStream
from wesher_agent.wire.keyring import Keyring
from wesher_agent.wire.messages import Alive, Versions
from wesher_agent.wire.packet import PacketFormat
from wesher_common.errors import InvalidSpec
from wesher_common.event_logger import TRACE
from wesher_common.overlay import IPAddress
from wesher_testing.lab.loopback import free_port

FAST = replace(LOCAL, gossip_interval=0.01, probe_interval=0.1, probe_timeout=0.05, push_pull_interval=0.5)
DEADLINE = 60.0
"""Seconds for what takes a moment, on a machine that has other work."""
ELSEWHERE = "127.0.0.2"


@dataclass
class _Peer:
    """One engine with its driver, and what it reported."""

    name: str
    ip: str
    port: int
    key: bytes = bytes(32)
    nonce: Callable[[int], bytes] = os.urandom
    events: list[Event] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def open(self, *more: IPAddress) -> None:
        self.engine = Engine(
            LocalNode(name=self.name, address=self.address),
            FAST,
            packet_format=PacketFormat(Keyring(self.key), compress=False),
            incarnation=1,
            rng=Random(1),
            nonce=self.nonce,
        )
        self.driver = Driver(self.engine, self.take, on_fault=lambda: self.faults.append(self.name))
        await self.listen(ip_address(self.ip), *more)

    async def listen(self, *addresses: IPAddress) -> None:
        await self.driver.listen(addresses, self.port)
        self.driver.tell(self.engine.start)

    @property
    def address(self) -> Address:
        return Address(self.ip, self.port)

    def take(self, event: Event) -> None:
        self.events.append(event)
        self.news.set()

    async def until(self, reached: Callable[[], object]) -> None:
        async with asyncio.timeout(DEADLINE):
            while not reached():
                self.news.clear()
                await self.news.wait()

    def happened(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]

    def join(self, other: _Peer) -> None:
        self.driver.tell(partial(self.engine.join, [other.address]))


Open = Callable[..., Awaitable[_Peer]]


@pytest.fixture
async def open_peer() -> AsyncIterator[Open]:
    """Return what starts a peer on the loopback, each on a port of its own."""
    async with AsyncExitStack() as stack:

        async def make(name: str, ip: str = "127.0.0.1", **options: bytes) -> _Peer:
            peer = _Peer(name, ip, free_port(ip), **options)
            await peer.open()
            stack.push_async_callback(peer.driver.close)
            return peer

        yield make


async def test_each_datagram_and_connection_is_logged_for_those_who_debug(
    open_peer: Open, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(TRACE)
    a, b = await open_peer("a"), await open_peer("b")
    b.join(a)
    await b.until(lambda: b.happened(PushPullDone))
    await b.until(
        lambda: [m for m in caplog.messages if m.startswith(f"datagram received sender={a.address}")]
    )
    assert f"connection opened to={a.address}" in caplog.messages
    sent = [m for m in caplog.messages if m.startswith(f"datagram sent to={b.address} bytes=")]
    assert all(re.search(r" types=[a-z]\w+(\*\d+)?(,|$)", message) for message in sent)
    assert any("ackResp" in message or "ping" in message for message in sent)
    assert [m for m in caplog.messages if m.startswith("state exchange answered address=127.")]


async def test_no_datagram_is_logged_at_debug(open_peer: Open, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    a, b = await open_peer("a"), await open_peer("b")
    b.join(a)
    await a.until(lambda: a.happened(MemberJoined))
    assert not [m for m in caplog.messages if m.startswith("datagram received")]


async def test_a_datagram_that_cannot_be_read_is_logged_without_types(
    open_peer: Open, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(TRACE)
    a, b = await open_peer("a"), await open_peer("b", key=b"x" * 32)
    b.driver.tell(partial(b.engine.send_user_message, a.address, b"hello", reliable=False))
    await a.until(lambda: a.happened(PacketRejected))
    assert [m for m in caplog.messages if re.fullmatch(rf"datagram sent to={a.address} .* types=user\b.*", m)]
    assert [m for m in caplog.messages if re.fullmatch(r"datagram received .* types=-", m)]


@pytest.mark.parametrize("ip", ["127.0.0.1", "::1"])
async def test_two_members_meet_probe_each_other_and_one_leaves(open_peer: Open, ip: str) -> None:
    a, b = await open_peer("a", ip), await open_peer("b", ip)
    b.join(a)
    await a.until(lambda: a.happened(MemberJoined))
    await b.until(lambda: b.happened(PushPullDone))
    b.driver.tell(b.engine.leave)
    await b.until(lambda: b.happened(LeaveDone))
    await a.until(lambda: a.engine.members["b"].is_gone)


async def test_one_that_listens_elsewhere_from_now_on_is_reached_there_only(open_peer: Open) -> None:
    a, b = await open_peer("a"), await open_peer("b")
    former = b.address
    with closing(socket.create_server((ELSEWHERE, b.port))), pytest.raises(GossipPortTaken):
        await b.driver.listen([ip_address(ELSEWHERE)], b.port)
    await b.driver.listen([ip_address(ELSEWHERE)], b.port)
    b.ip = ELSEWHERE
    b.driver.tell(partial(b.engine.change_address, b.address))

    a.join(b)
    await a.until(lambda: "b" in a.engine.members and a.engine.members["b"].address == b.address)
    await b.until(lambda: "a" in b.engine.members)
    a.driver.tell(partial(a.engine.push_pull_with, former))
    await a.until(lambda: [e for e in a.happened(PushPullFailed) if e.address == former])


async def test_a_seed_that_is_not_there_is_a_failed_exchange_with_its_reason(open_peer: Open) -> None:
    a = await open_peer("a")
    nobody = Address("127.0.0.1", free_port("127.0.0.1"))
    a.driver.tell(partial(a.engine.join, [nobody]))
    await a.until(lambda: a.happened(PushPullFailed))
    (failed,) = a.happened(PushPullFailed)
    assert isinstance(failed, PushPullFailed)
    assert failed.error == "connection refused"


async def test_a_user_message_that_arrived_is_not_reported_as_failed(open_peer: Open) -> None:
    """The receiver hangs up once it has read the message; that end is in order."""
    a, b = await open_peer("a"), await open_peer("b")
    b.driver.tell(partial(b.engine.send_user_message, a.address, b"hello", reliable=True))
    await a.until(lambda: a.happened(UserMessageReceived))
    b.join(a)
    await b.until(lambda: b.happened(PushPullDone))
    assert not b.happened(UserMessageFailed)


async def test_another_key_is_counted_by_reason_and_nobody_joins(open_peer: Open) -> None:
    a, b = await open_peer("a"), await open_peer("b", key=b"x" * 32)
    b.join(a)
    await b.until(lambda: b.happened(PushPullFailed))
    await a.until(lambda: a.happened(PacketRejected))
    assert sum(a.driver.rejected.values()) == len(a.happened(PacketRejected))
    assert set(a.engine.members) == {"a"}
    (failed,) = b.happened(PushPullFailed)
    assert isinstance(failed, PushPullFailed)
    assert failed.unanswered
    (unreadable,) = a.happened(UnreadableStream)
    assert isinstance(unreadable, UnreadableStream)
    assert (unreadable.remote.ip, unreadable.asked_for) == (b.ip, False)


async def test_a_fault_in_taking_an_event_stops_neither_events_nor_gossip(
    open_peer: Open, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = await open_peer("a"), await open_peer("b")
    take, broken = a.take, []

    def fail_once(event: Event) -> None:
        if not broken:
            broken.append(event)
            raise ValueError("a fault of ours")
        take(event)

    a.driver._on_event = fail_once
    b.join(a)
    c = await open_peer("c")
    c.join(a)
    await a.until(lambda: len(a.engine.members) == 3)
    assert "event not handled" in caplog.text
    assert a.faults == ["a"]


async def test_of_more_connections_than_one_address_may_have_the_oldest_are_closed(open_peer: Open) -> None:
    a = await open_peer("a")
    opened = [await asyncio.open_connection(a.ip, a.port) for _ in range(6)]
    reads = [asyncio.ensure_future(reader.read(1)) for reader, _ in opened]
    await asyncio.wait(reads[:2], timeout=DEADLINE)
    assert [read.done() for read in reads] == [True] * 2 + [False] * 4
    for _, writer in opened:
        writer.close()
    await asyncio.gather(*reads, return_exceptions=True)


async def test_beyond_so_many_connections_at_once_a_dial_fails_with_its_reason(open_peer: Open) -> None:
    a = await open_peer("a")
    # Nobody accepts, so that all stay open.
    with socket.create_server(("0.0.0.0", 0), backlog=2 * MAX_OPEN) as silent:
        port = silent.getsockname()[1]
        seeds = [Address(f"127.0.1.{number}", port) for number in range(1, MAX_OPEN + 4)]
        a.driver.tell(partial(a.engine.join, seeds))

        def refused() -> int:
            failures = [event for event in a.events if isinstance(event, PushPullFailed)]
            # Others end before long, since nobody answers.
            return sum(failed.error == "too many connections at once" for failed in failures)

        await a.until(lambda: refused() >= 3)
        assert refused() == 3


async def test_a_port_in_use_names_protocol_port_holder_and_flag(open_peer: Open) -> None:
    a = await open_peer("a")
    me = f"{Path('/proc/self/comm').read_text().strip()} (pid {os.getpid()})"
    with pytest.raises(InvalidSpec) as error:
        open_sockets(ip_address(a.ip), a.port)
    assert str(error.value) == (
        f"--cluster-port '{a.port}': UDP port {a.port} is taken by {me}: set --cluster-port, "
        "or spec.gossip.port of the mesh, to a port that is free on all members"
    )


async def test_a_tcp_port_in_use_frees_the_udp_port_again() -> None:
    with closing(socket.socket()) as holder:
        port = free_port("127.0.0.1")
        holder.bind(("127.0.0.1", port))
        holder.listen()
        with pytest.raises(InvalidSpec, match=f"TCP port {port} is taken by"):
            open_sockets(ip_address("127.0.0.1"), port)
        assert find_holder("UDP", port) == ""


async def test_a_port_that_is_taken_in_one_family_is_opened_in_both_once_it_is_free() -> None:
    peer = _Peer("a", "127.0.0.1", free_port("127.0.0.1"))
    with closing(socket.socket(socket.AF_INET6)) as holder:
        try:
            holder.bind(("::1", peer.port))
        except OSError:
            pytest.skip("this machine has no IPv6 loopback")
        holder.listen()
        with pytest.raises(GossipPortTaken):
            await peer.open(ip_address("::1"))
        assert find_holder("UDP", peer.port) == ""
    await peer.listen(ip_address(peer.ip), ip_address("::1"))
    await peer.driver.close()


def test_an_address_that_is_not_ours_is_refused() -> None:
    with pytest.raises(InvalidSpec, match=r"--bind-addr '192\.0\.2\.77': is not an address of this host"):
        open_sockets(ip_address("192.0.2.77"), free_port("127.0.0.1"))


async def test_a_fault_in_sealing_a_packet_does_not_stop_the_clock(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody else is there to wake the member up, so its own deadlines must."""
    faults = [OSError("no entropy")]

    def nonce(size: int) -> bytes:
        if faults:
            raise faults.pop()
        return os.urandom(size)

    a = _Peer("a", "127.0.0.1", free_port("127.0.0.1"), nonce=nonce)
    await a.open()
    silent = Alive(1, "b", ip_address("127.0.0.1").packed, free_port("127.0.0.1"), b"", Versions())
    a.driver.tell(partial(a.engine.inject, silent))
    await a.until(lambda: a.happened(MemberFailed))
    await a.driver.close()
    assert not faults
    assert "no entropy" in caplog.text
    assert a.faults == ["a"]


async def test_the_last_words_leave_before_everything_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent's event loop ends right after its driver."""
    # How long they may take is not what this is about.
    monkeypatch.setattr(streams, "FLUSH_SECONDS", DEADLINE)
    # The loopback's buffers take a megabyte at once, which no other network does.
    words = bytes(8 << 20)
    heard: Future[None] = Future()
    ending: Future[None] = Future()
    received: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        heard.set_result(None)
        await asyncio.wrap_future(ending)
        with suppress(ConnectionResetError):
            received.set_result(1 + len(await reader.read()))
        writer.close()

    async def speak(to: Address) -> None:
        speaker = _Peer("speaker", "127.0.0.1", free_port("127.0.0.1"))
        await speaker.open()
        speaker.driver._streams.act([OpenStream(1000, to, words, DEADLINE, "user")])
        await asyncio.wrap_future(heard)
        ending.set_result(None)
        await speaker.driver.close()

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as server:
        listener = server.sockets[0]
        await asyncio.to_thread(asyncio.run, speak(Address(*listener.getsockname())))
        assert await asyncio.wait_for(received, DEADLINE) == len(words)
