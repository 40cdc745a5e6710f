"""A member of ours that was driven to the last incarnation is believed again, by Go members too."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pytest

from wesher_agent.swim import local_member
from wesher_agent.swim.events import AccusationRefused, BegunAnew, MemberLeft, SelfRefuted
from wesher_agent.swim.members import MAX_INCARNATION
from wesher_agent.swim.profile import LAN
from wesher_agent.wire.keyring import Keyring
from wesher_agent.wire.messages import Alive, Message, Suspect
from wesher_agent.wire.packet import PacketFormat
from wesher_testing.lab.loopback import loopback_addresses
from wesher_testing.peers.go_peer import LIBRARIES, go_peer
from wesher_testing.peers.gossip_mesh import GOSSIP_PORT, Mesh
from wesher_testing.peers.our_member import OurMember, our_member
from wesher_testing.peers.wire_member import wire_member

KEY = bytes(range(32))
FMT = PacketFormat(Keyring(KEY))


def in_its_words(victim: OurMember) -> Sequence[Message]:
    """Return what is said of it at the last incarnation, just as it says itself."""
    me = victim.engine.me
    return [Alive(MAX_INCARNATION, me.name, me.addr, GOSSIP_PORT, me.meta, me.versions)]


def accused(victim: OurMember) -> Sequence[Message]:
    """Return what it can deny with the last incarnation only, and what it cannot deny any more."""
    return [Suspect(at, victim.name, "liar") for at in (MAX_INCARNATION - 1, MAX_INCARNATION)]


async def test_one_driven_to_the_last_incarnation_is_believed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often, since the bytes of its address are others each time."""
    monkeypatch.setattr(local_member, "ANEW_PAUSE", 5.0)
    addresses = loopback_addresses(5)
    go = partial(go_peer, keys=[KEY], profile="lan")
    older, newer = LIBRARIES
    async with (
        Mesh(addresses, patience=30) as mesh,
        our_member("victim", addresses[0], "victim", profile=LAN, fmt=FMT) as victim,
        our_member("ours", addresses[1], "ours", profile=LAN, fmt=FMT) as ours,
        go("older", addresses[2], library=older, meta=b"older") as one,
        go("newer", addresses[3], library=newer, meta=b"newer") as other,
        wire_member("attacker", addresses[4], FMT) as attacker,
    ):
        mesh.living = {"victim": victim, "ours": ours, "older": one, "newer": other}
        for peer in (ours, one, other):
            await peer.join(addresses[0])
        await mesh.agree()
        for number, poison in enumerate([in_its_words, accused, in_its_words]):
            for message in poison(victim):
                before = len(victim.events)
                for address in addresses[:4]:
                    attacker.say(message, to=address)
                await victim.reported(SelfRefuted, AccusationRefused, since=before)
                await mesh.agree()
            await victim.reported(BegunAnew, since=before)
            await victim.update(f"said after attack {number}")
            await mesh.agree()
        assert [event for event in ours.events if isinstance(event, MemberLeft)] == []
