"""Go members in a mesh whose other members pass revocations on: they receive them and ignore them."""

from __future__ import annotations

from functools import partial

import pytest

from wesher_agent.mesh.identity import SavedTrust
from wesher_agent.mesh.news import MARK, packed_numbers
from wesher_agent.swim.address import Address
from wesher_agent.swim.events import (
    MemberFailed,
    MemberSuspected,
    MemberUpdated,
    PushPullAnswered,
    PushPullDone,
)
from wesher_agent.swim.profile import LAN
from wesher_agent.wire.keyring import Keyring
from wesher_agent.wire.packet import PacketFormat
from wesher_common.certificate import Authority
from wesher_common.news import NewsKind, sign_statement
from wesher_testing.lab.loopback import loopback_addresses
from wesher_testing.peers.go_peer import LIBRARIES, Library, go_peer
from wesher_testing.peers.our_member import our_member

KEY = bytes(range(32))
AUTHORITY = Authority(bytes(range(32)))
STATE = packed_numbers([SavedTrust(AUTHORITY.key, 0)])


def message(names: int) -> bytes:
    """Return the user message with a statement that revokes so many names."""
    revoked = {number.to_bytes(8): 1_790_000_000 for number in range(names)}
    statement = sign_statement(AUTHORITY, number=1_790_000_000_000, revoked=revoked)
    return MARK + bytes([NewsKind.STATEMENT]) + statement.packed()


@pytest.mark.parametrize("library", LIBRARIES)
async def test_a_go_member_stays_healthy_with_our_user_state_and_statements(library: Library) -> None:
    ours_at, other_at, go_at = loopback_addresses(3)
    fmt = PacketFormat(Keyring(KEY), compress=False)
    async with (
        our_member("ours", ours_at, "", profile=LAN, fmt=fmt) as ours,
        our_member("other", other_at, "", profile=LAN, fmt=fmt) as other,
        go_peer("go", go_at, library=library, keys=(KEY,)) as go,
    ):
        for member in (ours, other):
            member.engine.set_user_state(STATE)
        # Each side begins an exchange once.
        await ours.join(go_at)
        await go.join(other_at)
        await go.told("state", payload=STATE.hex())
        assert [event.user_state for event in ours.events if isinstance(event, PushPullDone)] == [b""]
        assert (await other.reported(PushPullAnswered)).user_state == b""

        short, long = message(3), message(1000)
        for payload, reliable in ((short, False), (short, True), (long, True)):
            send = partial(ours.engine.send_user_message, Address(go_at, go.port), payload, reliable=reliable)
            ours.driver.tell(send)
            await go.told("user", payload=payload.hex())

        # Gossip and exchanges go on, both ways.
        await go.update("from go")
        await ours.reported(MemberUpdated, satisfied=lambda event: event.member.meta == b"from go")
        await other.update("from us")
        updated = b"from us".hex()
        await go.until_members(lambda members: members.get("other", {}).get("meta") == updated)
        await ours.join(go_at)
        assert (await go.alive()).keys() == (await ours.alive()).keys() == {"go", "ours", "other"}
        for member in (ours, other):
            assert member.rejected == []
            assert not [event for event in member.events if isinstance(event, MemberSuspected | MemberFailed)]
