"""A mesh large enough for its state to come in slices, told by a real Go member."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from wesher_agent.swim.events import PushPullDone
from wesher_agent.swim.profile import WAN
from wesher_agent.wire.keyring import Keyring
from wesher_agent.wire.messages import PushPull
from wesher_agent.wire.packet import PacketFormat
from wesher_testing.lab.loopback import loopback_addresses
from wesher_testing.peers.go_peer import LIBRARIES, Library, go_peer
from wesher_testing.peers.our_member import our_member
from wesher_testing.peers.wire_member import wire_member

KEY = bytes(range(32))
MEMBERS = 1000


@pytest.mark.parametrize("library", LIBRARIES)
async def test_a_thousand_members_are_learnt_from_one_compressed_answer(library: Library) -> None:
    """Go hangs up as soon as it has answered, when most of the answer is still to be unpacked."""
    fmt = PacketFormat(Keyring(KEY))
    go_address, our_address, teller_address, nowhere = loopback_addresses(4)
    dice = random.Random(1)
    async with (
        go_peer("go", go_address, library=library, profile="wan", keys=[KEY]) as go,
        wire_member("teller", teller_address, fmt) as teller,
        our_member("ours", our_address, "ours", profile=WAN, fmt=fmt) as ours,
    ):
        made_up = [
            replace(
                teller.state,
                name=f"made-up-{number}",
                addr=bytes(map(int, nowhere.split("."))),
                port=1024 + number,
                meta=dice.randbytes(40).hex().encode(),
            )
            for number in range(MEMBERS)
        ]
        await teller.ask(PushPull((teller.state, *made_up), join=True), of=go_address)
        await go.until_members(lambda members: len(members) == MEMBERS + 2)
        await ours.join(go_address)
        (done,) = [event for event in ours.events if isinstance(event, PushPullDone)]
        assert done.members == MEMBERS + 2
        names = {node.name for node in made_up} | {"go", "teller", "ours"}
        assert ours.engine.members.keys() == names
        assert ours.rejected == []
