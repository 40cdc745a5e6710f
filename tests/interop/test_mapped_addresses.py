"""A Go member bound to 0.0.0.0, which writes its IPv4 address in 16 bytes, as the Go program often is."""

from __future__ import annotations

import pytest

from wesher_agent.swim.profile import LAN
from wesher_agent.wire.keyring import Keyring
from wesher_agent.wire.packet import PacketFormat
from wesher_testing.lab.loopback import loopback_addresses
from wesher_testing.peers.go_peer import LIBRARIES, Library, go_peer
from wesher_testing.peers.gossip_mesh import Mesh
from wesher_testing.peers.our_member import our_member

KEY = bytes(range(32))


@pytest.mark.parametrize("library", LIBRARIES)
async def test_a_member_that_others_know_from_us_can_still_speak_for_itself(library: Library) -> None:
    """Go compares addresses as bytes, so we must not put them into another form."""
    addresses = loopback_addresses(3)
    async with (
        Mesh(addresses, patience=30) as mesh,
        our_member("ours", addresses[0], "ours", profile=LAN, fmt=PacketFormat(Keyring(KEY))) as ours,
        go_peer(
            "mapped", addresses[1], library=library, profile="lan", keys=[KEY], meta=b"mapped", mapped=True
        ) as mapped,
        go_peer("other", addresses[2], library=library, profile="lan", keys=[KEY], meta=b"other") as other,
    ):
        mesh.living = {"ours": ours, "mapped": mapped, "other": other}
        await mapped.join(addresses[0])
        await other.join(addresses[0])
        await mesh.agree()
        await mapped.update("mapped says more")
        await mesh.agree()
        await mapped.join(addresses[0])
        assert [told for peer in (mapped, other) for told in peer.events if told["event"] == "conflict"] == []
