"""A mesh over IPv6. There is one loopback address only, so its members differ by port."""

from __future__ import annotations

import pytest

from wesher_agent.swim.profile import LAN
from wesher_agent.wire.keyring import Keyring
from wesher_agent.wire.packet import PacketFormat
from wesher_testing.lab.loopback import free_port
from wesher_testing.peers.go_peer import LIBRARIES, Library, go_peer
from wesher_testing.peers.gossip_mesh import Mesh
from wesher_testing.peers.our_member import our_member

KEY = bytes(range(32))


@pytest.mark.parametrize("library", LIBRARIES)
async def test_members_join_change_and_leave_over_ipv6(library: Library) -> None:
    ours_port, other_port, go_port = (free_port("::1") for _ in range(3))
    fmt = PacketFormat(Keyring(KEY))
    async with (
        Mesh([], patience=30) as mesh,
        our_member("ours", "::1", "ours", profile=LAN, fmt=fmt, port=ours_port) as ours,
        our_member("other", "::1", "other", profile=LAN, fmt=fmt, port=other_port) as other,
        go_peer("go", "::1", library=library, port=go_port, keys=[KEY], meta=b"go") as go,
    ):
        mesh.living = {"ours": ours, "other": other, "go": go}
        await ours.join("::1", go_port)
        await go.ask(f"join [::1]:{other_port}")
        await mesh.agree()
        assert (await go.members())["ours"]["addr"] == "::1"
        await ours.update("ours says more")
        await go.update("go says more")
        await mesh.agree()
        await mesh.leave(go)
        await mesh.agree()
        assert ours.rejected == other.rejected == []
