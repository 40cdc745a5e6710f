"""Our wire format against the Go library: each message both ways, in every wrapping.

No state machine of ours takes part: a `WireMember` says what the test tells it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from functools import partial

import pytest

from wesher_agent.wire.keyring import Keyring
from wesher_agent.wire.messages import (
    AckResp,
    Alive,
    Dead,
    ErrResp,
    IndirectPing,
    NackResp,
    Ping,
    PushPull,
    State,
    Suspect,
    User,
    Versions,
)
from wesher_agent.wire.packet import PacketFormat, Wrapper
from wesher_agent.wire.stream import seal_stream
from wesher_testing.lab.loopback import loopback_addresses
from wesher_testing.peers.concurrent_scenarios import Outcomes, Scenario, run_side_by_side, selected
from wesher_testing.peers.go_peer import LIBRARIES, GoPeer, Library, go_peer
from wesher_testing.peers.wire_member import WireMember, wire_member

KEY = bytes(range(32))
OLD_KEY = bytes(16)
META = bytes(range(100)) + b"meta" * 50


@dataclass(frozen=True)
class Wrapping:
    """How one case's members wrap what they say."""

    encryption: int | None = None
    label: str = ""
    compress: bool = False
    checksum: bool = False

    @property
    def format(self) -> PacketFormat:
        """The format our members send in."""
        keyring = None if self.encryption is None else Keyring(KEY, [OLD_KEY])
        return PacketFormat(keyring, self.label.encode(), self.encryption or 0, self.compress)

    @property
    def versions(self) -> Versions:
        """What our member says it speaks: Go adds a checksum for protocol 5."""
        return Versions(protocol_max=5 if self.checksum else 4)

    @property
    def expected(self) -> set[Wrapper]:
        """The wrappers that both sides must meet on datagrams for the case to be about them."""
        wrappers = {
            Wrapper.LABEL: bool(self.label),
            Wrapper.ENCRYPTION_0: self.encryption == 0,
            Wrapper.ENCRYPTION_1: self.encryption == 1,
            Wrapper.CHECKSUM: self.checksum,
            Wrapper.COMPRESSION: self.compress,
        }
        return {wrapper for wrapper, met in wrappers.items() if met}


WRAPPINGS = {
    "plain": Wrapping(),
    "compressed": Wrapping(compress=True),
    "encrypted-0": Wrapping(encryption=0),
    "encrypted-1": Wrapping(encryption=1),
    "labelled": Wrapping(label="a mesh"),
    "checksummed": Wrapping(checksum=True),
    "everything-0": Wrapping(encryption=0, label="a mesh", compress=True, checksum=True),
    "everything-1": Wrapping(encryption=1, label="a mesh", compress=True, checksum=True),
}
OUR_WRAPPERS = {
    Wrapper.LABEL,
    Wrapper.ENCRYPTION_0,
    Wrapper.ENCRYPTION_1,
    Wrapper.CHECKSUM,
    Wrapper.COMPRESSION,
}


async def say_everything(library: Library, wrapping: Wrapping) -> None:
    """Let a Go member and ours exchange every message there is."""
    go_address, our_address, third_address = loopback_addresses(3)
    async with (
        go_peer(
            "go",
            go_address,
            library=library,
            keys=() if wrapping.encryption is None else (KEY, OLD_KEY),
            label=wrapping.label,
            compress=wrapping.compress,
            protocol=1 if wrapping.encryption == 0 else 2,
            meta=META,
            user_state=b"state of go",
        ) as go,
        wire_member("ours", our_address, wrapping.format, meta=META, versions=wrapping.versions) as ours,
        wire_member("third", third_address, wrapping.format, versions=wrapping.versions) as third,
    ):
        await join_by_push_pull(go, ours)
        await asyncio.gather(
            exchange_over_streams(go, ours),
            ping_each_other(go, ours, checksum=wrapping.checksum),
            send_user_messages(go, ours, checksum=wrapping.checksum),
            ping_through_go(go, ours, third, checksum=wrapping.checksum),
        )
        await watch_go_suspect(go, ours, third)
        await see_go_change_and_leave(go, ours)

        assert (ours.rejected, third.rejected) == ([], [])
        assert ours.wrappers.keys() & OUR_WRAPPERS == wrapping.expected
        received = await go.received()
        assert received.keys() & OUR_WRAPPERS == wrapping.expected
        on_streams = wrapping.expected - {Wrapper.CHECKSUM, Wrapper.LABEL}
        # Go's answers carry no label header, but its own requests do.
        assert ours.stream_wrappers.keys() - {Wrapper.LABEL} == on_streams
        assert (Wrapper.LABEL in ours.stream_wrappers) == bool(wrapping.label)


async def join_by_push_pull(go: GoPeer, ours: WireMember) -> None:
    """Our member appears in Go's list as it described itself, and Go's in the answer."""
    answer = await ours.ask(ours.push_pull(join=True, user_state=b"state of ours"), of=go.address)
    assert isinstance(answer, PushPull)
    assert answer.user_state == b"state of go"
    (node,) = [node for node in answer.nodes if node.name == "go"]
    assert (node.port, node.meta, node.state) == (go.port, META, State.ALIVE)
    joined = await go.told("join", name="ours")
    assert joined["addr"] == ".".join(map(str, ours.alive.addr))
    assert joined["port"] == ours.alive.port
    assert joined["meta"] == META.hex()
    assert joined["vsn"][:2] == [1, ours.alive.vsn.protocol_max]
    assert (await go.told("state"))["payload"] == b"state of ours".hex()


async def exchange_over_streams(go: GoPeer, ours: WireMember) -> None:
    """Pings, push/pulls and errors on streams."""
    assert await ours.ask(Ping(77, "go"), of=go.address) == AckResp(77)

    our_address = f"{'.'.join(map(str, ours.alive.addr))}:{ours.alive.port}"
    assert (await go.ask(f"join {our_address}"))["joined"] == 1
    # It exchanges state by itself now and then, too.
    pushed = await ours.hear(PushPull, lambda exchange: exchange.join)
    assert {node.name for node in pushed.nodes} >= {"go", "ours"}

    ours.refuses_push_pulls = "not today"
    with pytest.raises(RuntimeError, match="remote error: not today"):
        await go.ask(f"join {our_address}")
    ours.refuses_push_pulls = ""

    other = PacketFormat(None) if ours.format.keyring else PacketFormat(Keyring(KEY))
    wrongly_wrapped = replace(other, label=ours.format.label)
    refusal = await ours.ask(Ping(1, "go"), of=go.address, raw=sealed_as(wrongly_wrapped))
    assert isinstance(refusal, ErrResp)
    assert "encrypt" in refusal.error


def sealed_as(fmt: PacketFormat) -> bytes:
    """Return a ping on a stream in another mesh's wrapping."""
    return seal_stream(Ping(1, "go"), fmt, nonce=bytes)


async def ping_each_other(go: GoPeer, ours: WireMember, *, checksum: bool) -> None:
    """Datagram pings and acks."""
    ours.say(Ping(4711, "go", ours.alive.addr, ours.alive.port, "ours"), to=go.address, checksum=checksum)
    await ours.hear(AckResp, lambda ack: ack.seq_no == 4711)
    ping = await ours.hear(Ping, lambda ping: ping.node == "ours")
    assert (ping.source_node, ping.source_port) == ("go", go.port)


async def send_user_messages(go: GoPeer, ours: WireMember, *, checksum: bool) -> None:
    """User messages, on datagrams and on streams, long enough to compress."""
    by_datagram, by_stream = b"by datagram " * 20, b"by stream " * 2000
    ours.say(User(by_datagram), to=go.address, checksum=checksum)
    await go.told("user", payload=by_datagram.hex())
    assert await ours.ask(User(by_stream), of=go.address) is None
    await go.told("user", payload=by_stream.hex())

    await go.ask(f"send ours {by_datagram.hex()}")
    await ours.hear(User, lambda user: user.payload == by_datagram)
    await go.ask(f"send-reliable ours {by_stream.hex()}")
    await ours.hear(User, lambda user: user.payload == by_stream)


async def ping_through_go(go: GoPeer, ours: WireMember, third: WireMember, *, checksum: bool) -> None:
    """Indirect pings: Go relays the ack of one that answers, and says of one that does not."""
    source = (ours.alive.addr, ours.alive.port, "ours")
    indirect = IndirectPing(1001, third.alive.addr, third.alive.port, "third", True, *source)  # noqa: FBT003
    ours.say(indirect, to=go.address, checksum=checksum)
    relayed = await third.hear(Ping)
    assert (relayed.node, relayed.source_node) == ("third", "go")
    await ours.hear(AckResp, lambda ack: ack.seq_no == 1001)

    nobody = bytes((*ours.alive.addr[:3], 200))
    ours.say(replace(indirect, seq_no=1002, target=nobody, node="nobody"), to=go.address, checksum=checksum)
    await ours.hear(NackResp, lambda nack: nack.seq_no == 1002)


async def watch_go_suspect(go: GoPeer, ours: WireMember, third: WireMember) -> None:
    """When a member stops answering, Go asks us to ping it, then says it is suspect."""
    await third.ask(third.push_pull(join=True), of=go.address)
    alive = await ours.hear(Alive, lambda alive: alive.node == "third")
    assert alive == third.alive
    third.answers_pings = False
    asked = await ours.hear(IndirectPing)
    assert (asked.node, asked.target, asked.port) == ("third", third.alive.addr, third.alive.port)
    assert asked.nack
    suspicion = Suspect(third.alive.incarnation, "third", "go")
    await ours.hear(Suspect, lambda suspect: suspect == suspicion)
    ours.say(Dead(third.alive.incarnation, "third", "ours"), to=go.address)
    await go.told("leave", name="third")
    assert await state_of("third", go, ours) is State.DEAD


async def see_go_change_and_leave(go: GoPeer, ours: WireMember) -> None:
    """Hear of a refutation, of new metadata and of a leave, and have ours believed."""
    ours.say(Suspect(1, "go", "ours"), to=go.address)
    await ours.hear(Alive, lambda alive: alive.node == "go" and alive.incarnation > 1)
    await go.ask(f"meta {b'changed'.hex()}")
    await ours.hear(Alive, lambda alive: alive.node == "go" and alive.meta == b"changed")
    ours.say(replace(ours.alive, incarnation=5, meta=b"ours changed"), to=go.address)
    await go.told("update", name="ours", meta=b"ours changed".hex())
    ours.say(Dead(5, "ours", "ours"), to=go.address)
    await go.told("leave", name="ours")
    assert await state_of("ours", go, ours) is State.LEFT
    ours.say(replace(ours.alive, incarnation=6), to=go.address)
    await go.until_members(lambda members: "ours" in members)
    await go.ask("leave")
    dead = await ours.hear(Dead, lambda dead: dead.node == "go")
    assert dead.from_node == "go"


async def state_of(name: str, go: GoPeer, ours: WireMember) -> State:
    """Return a member's state as Go tells it in a push/pull of no news."""
    answer = await ours.ask(PushPull((), join=False), of=go.address)
    assert isinstance(answer, PushPull)
    return next(node.state for node in answer.nodes if node.name == name)


SCENARIOS: dict[str, Scenario] = {
    f"{library}-{name}": partial(say_everything, library, wrapping)
    for library in LIBRARIES
    for name, wrapping in WRAPPINGS.items()
}


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest) -> Outcomes:
    """Run the selected scenarios side by side."""
    return run_side_by_side(SCENARIOS, selected(request, "scenario"))


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_message_is_understood_both_ways(scenario: str, outcomes: Outcomes) -> None:
    outcomes.require(scenario)
