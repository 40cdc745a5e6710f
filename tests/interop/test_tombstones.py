"""Tombstones in a mesh with programs that know of none: no harm to them, and no way round for replays."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from wesher_agent.swim.address import Address
from wesher_agent.swim.events import MemberFailed, MemberForgotten, MemberJoined, OutdatedAlive
from wesher_agent.swim.profile import LAN
from wesher_agent.swim.tombstones import TOLD, Tombstone
from wesher_agent.wire.keyring import Keyring
from wesher_agent.wire.messages import Alive, State, Versions
from wesher_agent.wire.packet import PacketFormat
from wesher_testing.lab.loopback import loopback_addresses
from wesher_testing.peers.go_peer import LIBRARIES, GoPeer, Library, go_peer
from wesher_testing.peers.gossip_mesh import GOSSIP_PORT, Mesh, agree_on_states, states_at
from wesher_testing.peers.our_member import OurMember, our_member
from wesher_testing.peers.serf_peer import serf_peer
from wesher_testing.peers.wire_member import wire_member

KEY = bytes(range(32))
FMT = PacketFormat(Keyring(KEY))
QUICK = replace(LAN, gossip_to_the_dead_time=2.0)
"""Forgets the dead as soon as a test can see it."""
SERF_VERSIONS = Versions(delegate_min=2, delegate_max=5, delegate_current=5)

ours = partial(our_member, profile=QUICK, fmt=FMT)


def bury(member: OurMember, *names: str, incarnation: int, address: str, left: bool = False) -> None:
    """Have one of ours remember members that are gone."""
    where = Address(address, GOSSIP_PORT)
    gone = [Tombstone(name=name, incarnation=incarnation, address=where, left=left) for name in names]
    member.driver.tell(partial(member.engine.bury, gone))


def go(name: str, address: str, library: Library, **options: Any) -> Any:
    """Start a Go member that says its name."""
    return go_peer(name, address, library=library, keys=[KEY], meta=name.encode(), **options)


def told(peer: GoPeer, *kinds: str, about: str) -> list[str]:
    """Return what a Go member was told of another."""
    return [e["event"] for e in peer.events if e["event"] in kinds and e.get("name") == about]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("left", [False, True])
async def test_a_go_member_that_counts_from_one_again_passes_its_tombstone(
    library: Library, *, left: bool
) -> None:
    """Whether it joins one that has the tombstone, or one that hears of it only then."""
    addresses = loopback_addresses(4)
    async with (
        Mesh(addresses, patience=30) as mesh,
        ours("ours", addresses[0], "ours") as we,
        go("other", addresses[1], library) as other,
    ):
        bury(we, "direct", incarnation=50, address=addresses[2], left=left)
        bury(we, "round", incarnation=60, address=addresses[3], left=left)
        await we.join(addresses[1])
        async with (
            go("direct", addresses[2], library) as direct,
            go("round", addresses[3], library) as indirect,
        ):
            mesh.living = {"ours": we, "other": other, "direct": direct, "round": indirect}
            await direct.join(addresses[0])
            await indirect.join(addresses[1])
            await mesh.agree()
            assert we.engine.members["direct"].incarnation > 50
            assert we.engine.members["round"].incarnation > 60
            await direct.update("direct says more")
            await indirect.update("round says more")
            await mesh.agree()
            assert told(other, "leave", "conflict", about="direct") == []
            assert told(other, "leave", "conflict", about="round") == []
            assert not [event for event in we.events if isinstance(event, MemberFailed)]


@pytest.mark.parametrize("library", LIBRARIES)
async def test_a_go_member_that_is_gone_is_not_brought_back_by_its_own_words(library: Library) -> None:
    """Memberlist itself believes them once it has forgotten; then it learns better from us."""
    addresses = loopback_addresses(4)
    async with (
        ours("ours", addresses[0], "ours") as we,
        go("other", addresses[1], library, profile="local") as other,
        wire_member("replayer", addresses[3], FMT) as replayer,
    ):
        async with go("victim", addresses[2], library) as victim:
            await we.join(addresses[1])
            await victim.join(addresses[0])
            await other.until_members(lambda members: members.keys() == {"ours", "other", "victim"})
            known = we.engine.members["victim"]
            recorded = Alive(known.incarnation, "victim", known.addr, GOSSIP_PORT, known.meta, known.versions)
        await we.reported(MemberForgotten)
        joined = len([event for event in we.events if isinstance(event, MemberJoined)])

        before = len(we.events)
        replayer.say(recorded, to=addresses[0])
        claim = await we.reported(OutdatedAlive, since=before)
        assert (claim.node, claim.incarnation, claim.claimed.ip) == (
            "victim",
            known.incarnation,
            addresses[2],
        )

        # Go holds it for dead, or has forgotten it and is fooled: no longer than it takes to miss it.
        replayer.say(recorded, to=addresses[1])
        await we.join(addresses[1])
        await other.until_members(lambda members: "victim" not in members)
        assert len([event for event in we.events if isinstance(event, MemberJoined)]) == joined
        assert "victim" not in await we.alive()


@pytest.mark.parametrize("library", LIBRARIES)
async def test_a_go_member_is_not_disturbed_by_tombstones_of_others(library: Library) -> None:
    addresses = loopback_addresses(4)
    dead = [f"dead-{number}" for number in range(TOLD // 2 + 50)]
    left = [f"left-{number}" for number in range(TOLD // 2 + 50)]
    async with (
        Mesh(addresses, patience=30) as mesh,
        ours("ours", addresses[0], "ours") as we,
        go("asks", addresses[1], library) as asks,
        go("asked", addresses[2], library) as asked,
    ):
        bury(we, *dead, incarnation=9, address=addresses[3])
        bury(we, *left, incarnation=9, address=addresses[3], left=True)
        await asks.join(addresses[0])
        await we.join(addresses[2])
        mesh.living = {"ours": we, "asks": asks, "asked": asked}
        await mesh.agree()

        states = await states_at(we, FMT)
        assert len(states) == 3 + TOLD
        assert {states[name] for name in states.keys() & dead} == {State.DEAD}
        assert {states[name] for name in states.keys() & left} == {State.LEFT}
        for peer in (asks, asked):
            assert (await states_at(peer, FMT)).keys() == mesh.living.keys()
            assert {e["name"] for e in peer.events if e["event"] in {"join", "leave"}} == mesh.living.keys()
            assert [e for e in peer.events if e["event"] in {"leave", "conflict"}] == []


async def test_serf_is_not_disturbed_by_tombstones_and_passes_its_own() -> None:
    """Serf looks at every entry before it joins."""
    addresses = loopback_addresses(3)
    async with (
        Mesh(addresses, patience=60) as mesh,
        ours("ours", addresses[0], "ours", versions=SERF_VERSIONS) as we,
    ):
        bury(we, "serf", incarnation=50, address=addresses[1])
        bury(we, "gone", incarnation=9, address=addresses[2])
        bury(we, "left", incarnation=9, address=addresses[2], left=True)
        async with serf_peer("serf", addresses[1], "serf", key=KEY, compress=False) as serf:
            await serf.join(addresses[0])
            mesh.living = {"ours": we, "serf": serf}
            await mesh.agree()
            assert we.engine.members["serf"].incarnation > 50
            await agree_on_states([serf], FMT, {"ours": State.ALIVE, "serf": State.ALIVE}, within=30)
            assert (await states_at(serf, FMT)).keys() == {"ours", "serf"}
            assert we.rejected == []


@pytest.mark.parametrize("library", LIBRARIES)
async def test_our_program_takes_a_go_members_place_though_that_wrote_its_address_in_16_bytes(
    library: Library,
) -> None:
    """Go peers would refuse the name for minutes: they take the same address in 4 bytes for another."""
    addresses = loopback_addresses(2)
    async with go("other", addresses[0], library, profile="wan") as other:
        async with go("node", addresses[1], library, profile="wan", mapped=True) as former:
            await former.join(addresses[0])
            await other.until_members(lambda members: "node" in members)
        async with ours("node", addresses[1], "it is us now") as we:
            await we.join(addresses[0])
            await other.until_members(lambda m: m.get("node", {}).get("meta") == b"it is us now".hex())
            assert told(other, "leave", about="node") == []
