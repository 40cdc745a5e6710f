"""Our members and others' in one mesh, through all that befalls members.

Every scenario starts the real driver and real peers (memberlist 0.6 and 0.7 and
Debian's serf), lets each side join, change, leave, crash and come back, and asks
every living member after every step whom it holds for alive. Each also counts
the wrappers that both sides met: one it is about must be there, no other may.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, cast

import pytest

from wesher_agent.swim.events import MemberFailed, MemberSuspected, UdpUnreachable
from wesher_agent.swim.profile import LAN, WAN, Profile
from wesher_agent.wire.keyring import Keyring
from wesher_agent.wire.messages import State, Versions
from wesher_agent.wire.packet import PacketFormat, Wrapper
from wesher_testing.lab.loopback import loopback_addresses
from wesher_testing.peers.concurrent_scenarios import Outcomes, Scenario, run_side_by_side, selected
from wesher_testing.peers.go_peer import GoPeer, Library, go_peer
from wesher_testing.peers.gossip_mesh import Mesh, Peer, StartPeer, agree_on_states
from wesher_testing.peers.our_member import OurMember, our_member
from wesher_testing.peers.serf_peer import serf_peer

KEY = bytes(range(32))
PROFILES = {"lan": LAN, "wan": WAN}
UNHURRIED = {"probe_interval": 3.0, "probe_timeout": 1.0}
"""Seconds: so that whoever is suspected is not just one that a busy machine let wait."""
CUT_FOR = 12.0
"""Seconds in which each member of three has been probed by each other."""
PATIENCE = {"lan": 120.0, "wan": 300.0}
"""Seconds for an agreement: some suspicion timeouts, and a machine that is busy."""

SERF_VERSIONS = Versions(delegate_min=2, delegate_max=5, delegate_current=5)
"""What serf demands of everyone it gossips with."""


@dataclass(frozen=True)
class Setting:
    """Whom we meet, and how the mesh wraps what it says."""

    theirs: Library | Literal["serf"]
    profile: Literal["lan", "wan"] = "lan"
    encryption: int | None = None
    label: str = ""
    compress: bool = False
    unhurried: bool = False
    """Whether a probe has two seconds to go another way than straight, and not half of one."""

    @property
    def our_profile(self) -> Profile:
        """How fast our members probe and give up."""
        return replace(PROFILES[self.profile], **UNHURRIED) if self.unhurried else PROFILES[self.profile]

    @property
    def format(self) -> PacketFormat:
        """The format of our members."""
        keyring = None if self.encryption is None else Keyring(KEY)
        version = 0 if self.encryption == 0 else 1
        return PacketFormat(keyring, self.label.encode(), version, self.compress)

    @property
    def versions(self) -> Versions:
        """What our members say they speak."""
        if self.theirs == "serf":
            return SERF_VERSIONS
        return Versions(protocol_current=1 if self.encryption == 0 else 2)

    @property
    def wrappers(self) -> set[Wrapper]:
        """What both sides must meet. All speak protocol 5, so there are always checksums."""
        wrappers = {
            Wrapper.LABEL: bool(self.label),
            Wrapper.ENCRYPTION_0: self.encryption == 0,
            Wrapper.ENCRYPTION_1: self.encryption == 1,
            Wrapper.COMPRESSION: self.compress,
        }
        return {Wrapper.CHECKSUM, *(wrapper for wrapper, met in wrappers.items() if met)}

    @property
    def wrappers_of_streams(self) -> set[str]:
        """What a Go member must count where only TCP reaches it: it looks no further than encryption."""
        seen = {
            "stream": True,
            "label": bool(self.label),
            f"stream-encryption-{self.encryption}": self.encryption is not None,
            "stream-compression": self.compress and self.encryption is None,
        }
        return {wrapper for wrapper, met in seen.items() if met}

    def mesh(self) -> Mesh:
        """Return an empty mesh for up to four members."""
        return Mesh(loopback_addresses(4), patience=PATIENCE[self.profile])

    @property
    def start_ours(self) -> StartPeer:
        """Starts one of our members."""
        return partial(our_member, profile=self.our_profile, fmt=self.format, versions=self.versions)

    @property
    def start_theirs(self) -> StartPeer:
        """Starts one of theirs."""
        keys = () if self.encryption is None else (KEY,)
        if self.theirs == "serf":
            return partial(
                serf_peer, profile=self.profile, key=keys[0] if keys else None, compress=self.compress
            )
        library = self.theirs

        def start(name: str, address: str, meta: str) -> Any:
            return go_peer(
                name,
                address,
                library=library,
                profile=self.profile,
                **(UNHURRIED if self.unhurried else {}),
                keys=keys,
                label=self.label,
                compress=self.compress,
                protocol=1 if self.encryption == 0 else 2,
                meta=meta.encode(),
            )

        return start


class Met:
    """The wrappers that each side met, of members that come and go."""

    def __init__(self) -> None:
        self.ours: Counter[str] = Counter()
        self.theirs: Counter[str] = Counter()

    async def count(self, *peers: Peer) -> None:
        """Add what these members met; they end right after it."""
        for peer in peers:
            if isinstance(peer, OurMember):
                self.ours.update(peer.wrappers)
                assert peer.rejected == []
            elif isinstance(peer, GoPeer):
                self.theirs.update(await peer.received())

    def require(self, wrappers: set[Wrapper], *, told_by_theirs: bool) -> None:
        """See that what should be there is, on both sides, and nothing else."""
        kinds = set(Wrapper) - {Wrapper.COMPOUND}
        assert self.ours.keys() & kinds == wrappers, self.ours
        if told_by_theirs:
            assert self.theirs.keys() & kinds == wrappers, self.theirs


async def through_a_life(setting: Setting) -> None:
    """Join, update, leave, rejoin, crash, rejoin: ours and theirs alike."""
    met = Met()
    ours, theirs, fmt = setting.start_ours, setting.start_theirs, setting.format
    async with setting.mesh() as mesh:
        a, x = await mesh.start(ours, "a"), await mesh.start(theirs, "x")
        await a.join(x.address)
        await mesh.agree()
        # As long as there is nobody else, all that ours meets was wrapped by theirs.
        await until_met(a, setting.wrappers, within=PATIENCE[setting.profile])

        b, y = await mesh.start(ours, "b"), await mesh.start(theirs, "y")
        await y.join(a.address)
        await b.join(y.address)
        await mesh.agree()

        await a.update("a says more")
        await x.update("x says more")
        await mesh.agree()

        await met.count(b, y)
        await mesh.leave(b, y)
        await mesh.agree()
        left = {"b": State.LEFT, "y": State.LEFT, "a": State.ALIVE, "x": State.ALIVE}
        await agree_on_states([a, x], fmt, left, within=PATIENCE[setting.profile])

        b, y = await mesh.start(ours, "b"), await mesh.start(theirs, "y")
        await b.join(x.address)
        await y.join(a.address)
        await mesh.agree()

        await met.count(b, y)
        await mesh.crash(b, y)
        await mesh.agree()
        dead = {"b": State.DEAD, "y": State.DEAD, "a": State.ALIVE, "x": State.ALIVE}
        await agree_on_states([a, x], fmt, dead, within=PATIENCE[setting.profile])
        assert {event.member.name for event in of_kind(a, MemberFailed)} == {"b", "y"}

        b, y = await mesh.start(ours, "b"), await mesh.start(theirs, "y")
        await b.join(a.address)
        await y.join(x.address)
        await mesh.agree()

        await met.count(a, b, x, y)
        met.require(setting.wrappers, told_by_theirs=setting.theirs != "serf")


async def with_udp_cut(setting: Setting) -> None:
    """Block a member's UDP both ways: it lives on by pings and state exchanges over TCP."""
    met = Met()
    async with setting.mesh() as mesh:
        a, b = await mesh.start(setting.start_ours, "a"), await mesh.start(setting.start_ours, "b")
        x = cast("GoPeer", await mesh.start(setting.start_theirs, "x"))
        await x.ask("udp off")
        for seed in (x, b):
            await a.join(seed.address)
        await b.join(x.address)
        await mesh.agree()
        await mesh.stay_agreed(seconds=CUT_FOR)
        for member in (a, b):
            await cast("OurMember", member).reported(UdpUnreachable)
            assert of_kind(member, MemberSuspected) == []
            assert {event.member.name for event in of_kind(member, UdpUnreachable)} == {"x"}

        await x.update("x says more")
        await a.update("a says more")
        await a.join(x.address)
        await mesh.agree()

        await met.count(b)
        await mesh.crash(b)
        await mesh.agree()
        assert (await x.received()).keys() == setting.wrappers_of_streams
        await mesh.crash(x)
        await mesh.agree()
        await met.count(a)
        met.require(setting.wrappers, told_by_theirs=False)


async def with_tcp_cut(setting: Setting) -> None:
    """Block a member's TCP both ways once it has joined: it lives on by gossip."""
    met = Met()
    async with setting.mesh() as mesh:
        a = await mesh.start(setting.start_ours, "a")
        x = cast("GoPeer", await mesh.start(setting.start_theirs, "x"))
        await x.join(a.address)
        await mesh.agree()
        await x.ask("tcp off")
        streams = (await x.received()).get("stream", 0)

        b = await mesh.start(setting.start_ours, "b")
        await b.join(a.address)
        await mesh.agree()
        await mesh.stay_agreed(seconds=CUT_FOR)
        for member in (a, b):
            assert of_kind(member, MemberSuspected) == []

        await x.update("x says more")
        await b.update("b says more")
        await mesh.agree()
        await met.count(b)
        await mesh.leave(b)
        await mesh.agree()
        assert (await x.received()).get("stream", 0) == streams
        await met.count(a, x)
        met.require(setting.wrappers, told_by_theirs=True)
        await mesh.crash(x)
        await mesh.agree()


async def until_met(peer: Peer, wrappers: set[Wrapper], *, within: float) -> None:
    """Wait until one of our members has met all these wrappers."""
    met = cast("OurMember", peer).wrappers
    try:
        async with asyncio.timeout(within):
            while not wrappers <= met.keys():
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"{peer.name} met {met}, wanted {wrappers}") from None


def of_kind(peer: Peer, kind: type[Any]) -> list[Any]:
    """Return what one of our members reported of one kind."""
    return [event for event in cast("OurMember", peer).events if isinstance(event, kind)]


def scenarios() -> Iterator[tuple[str, Scenario]]:
    plain = Setting("0.6")
    all_of_it = replace(plain, encryption=1, label="a mesh", compress=True)
    lives = {
        "plain": plain,
        "compressed": replace(plain, compress=True),
        "encrypted-0": replace(plain, encryption=0),
        "encrypted-1": replace(plain, encryption=1),
        "labelled": replace(plain, label="a mesh"),
        "everything-0": replace(all_of_it, encryption=0),
        "everything-1": all_of_it,
        "wan-plain": replace(plain, profile="wan"),
        "wan-everything-1": replace(all_of_it, profile="wan"),
    }
    for library in ("0.6", "0.7"):
        for name, setting in lives.items():
            yield f"life-{library}-{name}", partial(through_a_life, replace(setting, theirs=library))
        for name, setting in (("plain", plain), ("everything-1", all_of_it)):
            cut = replace(setting, theirs=library, unhurried=True)
            yield f"udp-cut-{library}-{name}", partial(with_udp_cut, cut)
            yield f"tcp-cut-{library}-{name}", partial(with_tcp_cut, cut)
    for name, setting in {
        "plain": Setting("serf"),
        "compressed": Setting("serf", compress=True),
        "encrypted-compressed": Setting("serf", encryption=1, compress=True),
        "wan-encrypted-compressed": Setting("serf", "wan", encryption=1, compress=True),
    }.items():
        yield f"life-serf-{name}", partial(through_a_life, setting)


SCENARIOS = dict(scenarios())


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest) -> Outcomes:
    """Run the selected scenarios side by side."""
    return run_side_by_side(SCENARIOS, selected(request, "scenario"))


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_both_sides_agree_on_who_is_alive_throughout(scenario: str, outcomes: Outcomes) -> None:
    outcomes.require(scenario)
