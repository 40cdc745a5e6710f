"""A flood of certificates with false signatures: what is checked, what is dropped, and what still gets in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_address
from random import Random

import pytest

from wesher_agent.mesh.identity import Identity
from wesher_agent.mesh.nodemeta import Flag, NodeMeta
from wesher_agent.mesh.signature_budget import MOST_FAILED, MOST_FAILED_OF_ONE
from wesher_agent.swim.address import Address
from wesher_agent.swim.engine import Engine
from wesher_agent.swim.events import PacketRejected
from wesher_agent.swim.members import LocalNode
from wesher_agent.swim.profile import LAN
from wesher_agent.swim.source import Way
from wesher_agent.swim.streams import OpenStream
from wesher_agent.wire.messages import Alive, PushNodeState, PushPull, State, Versions, encode
from wesher_agent.wire.packet import PacketFormat, seal
from wesher_agent.wire.stream import seal_stream
from wesher_common.certificate import Authority
from wesher_common.mesh_document import IdentitySettings
from wesher_testing.virtual.members import meta, private_key

PLAIN = PacketFormat(None, compress=False)
AUTHORITY = Authority(bytes([1]) * 32)
SIGNED_AT = 1_790_000_000_000
SETTINGS = IdentitySettings(mode="Verified", bound=True, authorities=(AUTHORITY.key,))
FRIEND = Address("10.0.0.2", 7946)


def certified(name: str, *, serial: int = SIGNED_AT) -> NodeMeta:
    """Return what a certified member of that name announces."""
    announced = meta(name, flags=Flag.IN_KUBERNETES)
    subject = announced.subject(name)
    assert subject is not None
    return replace(announced, certificate=AUTHORITY.issue(subject, serial=serial))


FORGED = certified("b")


def forged(number: int) -> NodeMeta:
    """Return one of many forgeries: a certificate of another member, with a different serial each."""
    assert FORGED.certificate is not None
    return replace(FORGED, certificate=replace(FORGED.certificate, serial=SIGNED_AT + number))


class Member:
    """The engine of one member, and what it counts."""

    def __init__(self) -> None:
        self.identity = Identity(SETTINGS, now=0.0, wall=SIGNED_AT / 1000)
        self.engine = Engine(
            LocalNode("me", Address("10.0.0.1", 7946)),
            LAN,
            packet_format=PLAIN,
            incarnation=1,
            rng=Random(1),
            nonce=bytes,
            standing=self.identity.standing,
            vet=self.identity.vet,
        )
        self.engine.start(now=0.0)

    def hears(self, name: str, announced: NodeMeta, sender: Address = FRIEND, *, now: float = 0.0) -> None:
        """Take one alive in a datagram."""
        alive = Alive(1, name, FRIEND.packed, FRIEND.port, announced.encode(compact=True), Versions())
        data = seal([encode(alive)], PLAIN, checksum=False, nonce=bytes)
        self.engine.receive_datagram(data, sender, now=now)

    def is_told(
        self, way: Way, members: Iterable[tuple[str, NodeMeta]], remote: Address, *, now: float = 0.0
    ) -> None:
        """Take a state exchange: as a request, or as the answer to one."""
        nodes = tuple(
            PushNodeState(
                name, FRIEND.packed, 7946, announced.encode(compact=True), 1, State.ALIVE, Versions()
            )
            for name, announced in members
        )
        state = PushPull(nodes, join=False)
        if way is Way.REQUEST:
            stream = self.engine.stream_accepted(remote, now=now)
        else:
            self.engine.push_pull_with(remote, now=now)
            [stream] = [
                action.id for action in self.engine.stream_actions() if isinstance(action, OpenStream)
            ]
        data = seal_stream(state, PLAIN, nonce=bytes, answer=way is Way.ANSWER)
        self.engine.stream_received(stream, data, now=now)
        while self.engine._exchange.is_busy:
            self.engine.handle_timer(now=now)
        self.engine.stream_actions()

    def rejected(self) -> Counter[str]:
        """Take the reasons for which messages were dropped."""
        reasons: Counter[str] = Counter()
        while (event := self.engine.next_event()) is not None:
            if isinstance(event, PacketRejected):
                reasons[event.reason] += 1
        return reasons

    @property
    def knows(self) -> set[str]:
        """The names of all members but itself."""
        return {*self.engine.members} - {"me"}


@pytest.fixture
def member() -> Member:
    """Return one that trusts the authority."""
    return Member()


def flood(member: Member, *, now: float = 0.0) -> Counter[str]:
    """Send a thousand forgeries from a hundred forged addresses, more than may be checked in a second."""
    for number in range(1000):
        member.hears("x", forged(number), Address(f"10.66.0.{number % 100}", 7946), now=now)
    return member.rejected()


def test_a_forgery_is_neither_stored_nor_spread(member: Member) -> None:
    member.hears("x", forged(1))
    assert member.rejected() == {"certificate-signature": 1}
    assert member.knows == set()
    assert len(member.engine._gossip._broadcasts) == 1, "what it says of itself"


def test_a_flood_is_checked_up_to_the_limit_of_each_second(member: Member) -> None:
    most = MOST_FAILED[Way.DATAGRAM]
    for now in (0.0, 0.9, 1.0):
        rejected = flood(member, now=now)
        is_new_second = now != 0.9
        assert rejected["certificate-signature"] == (most if is_new_second else 0)
        assert rejected["certificate-limit"] == 1000 - rejected["certificate-signature"]


def test_one_sender_has_a_small_share(member: Member) -> None:
    for number in range(50):
        member.hears("x", forged(number), Address("10.66.0.1", 7946))
    assert member.rejected() == {
        "certificate-signature": MOST_FAILED_OF_ONE,
        "certificate-limit": 50 - MOST_FAILED_OF_ONE,
    }
    member.hears("c", certified("c"), FRIEND)
    assert member.knows == {"c"}


def test_all_shares_together_are_two_hundred_a_second() -> None:
    assert sum(MOST_FAILED.values()) == 200
    assert MOST_FAILED.keys() == {*Way}


def test_a_flood_does_not_keep_out_what_is_known_or_has_no_certificate(member: Member) -> None:
    member.hears("b", certified("b"))
    member.hears("b", certified("b", serial=SIGNED_AT + 1))
    flood(member)
    member.hears("b", certified("b"))
    member.hears("go", meta("go"))
    assert not member.rejected()
    assert member.knows == {"b", "go"}


@pytest.mark.parametrize("way", [Way.REQUEST, Way.ANSWER])
def test_a_flood_of_datagrams_does_not_delay_a_renewal_beyond_the_next_state_exchange(
    member: Member, way: Way
) -> None:
    member.hears("b", certified("b"))
    flood(member)
    renewed = certified("b", serial=SIGNED_AT + 1)
    member.hears("b", renewed)
    assert member.rejected() == {"certificate-limit": 1}
    member.is_told(way, [("b", renewed), ("c", certified("c"))], FRIEND)
    assert member.knows == {"b", "c"}
    assert not member.rejected()


def test_a_flood_of_requests_does_not_delay_what_this_member_asked_for(member: Member) -> None:
    for number in range(20):
        forgeries = [("x", forged(20 * number + one)) for one in range(20)]
        member.is_told(Way.REQUEST, forgeries, Address(f"10.66.0.{number}", 40_000))
    assert member.rejected()["certificate-signature"] == MOST_FAILED[Way.REQUEST]
    member.is_told(Way.ANSWER, [("c", certified("c"))], FRIEND)
    assert member.knows == {"c"}


def test_a_flood_of_requests_does_not_keep_out_what_comes_from_where_a_tunnel_ends(member: Member) -> None:
    """A few hosts use up the share of all requests, and a newcomer is learned from others."""
    member.identity.tunnels_end({private_key("b").public: ip_address(FRIEND.ip)})
    for number in range(20):
        forgeries = [("x", forged(20 * number + one)) for one in range(20)]
        member.is_told(Way.REQUEST, forgeries, Address(f"10.66.0.{number}", 40_000))
    member.is_told(Way.REQUEST, [("c", certified("c"))], Address("10.66.1.1", 40_000))
    assert member.knows == set()
    member.is_told(Way.REQUEST, [("c", certified("c"))], FRIEND)
    assert member.knows == {"c"}
    flood(member, now=2.0)
    member.hears("d", certified("d"), FRIEND, now=2.0)
    assert member.knows == {"c"}, "the address of a datagram can be forged"


def test_addresses_of_one_network_share_what_a_stranger_may_cost(member: Member) -> None:
    for number in range(20):
        forgeries = [("x", forged(20 * number + one)) for one in range(20)]
        member.is_told(Way.REQUEST, forgeries, Address(f"2001:db8::{number}", 40_000))
    assert member.rejected()["certificate-signature"] == MOST_FAILED_OF_ONE


def test_metadata_without_a_checkable_certificate_costs_nothing(member: Member) -> None:
    unknown = replace(
        certified("c"),
        certificate=Authority(bytes(32)).issue(
            certified("c").subject("c"),
            serial=SIGNED_AT,  # type: ignore[arg-type]
        ),
    )
    no_address = replace(certified("d"), overlay_address=None)
    flood(member, now=5.0)
    member.hears("c", unknown, now=5.5)
    assert member.knows == {"c"}
    member.hears("d", no_address, now=6.0)
    assert not member.identity._signed.keys() & {("d", no_address.encode())}


def test_another_authority_is_asked_about_what_was_checked_before(member: Member) -> None:
    member.hears("b", certified("b"))
    other = Authority(bytes([2]) * 32)
    member.identity.configure(replace(SETTINGS, authorities=(other.key,)))
    assert not member.identity._signed


def test_a_false_signature_in_an_answer_drops_only_its_own_entry(member: Member) -> None:
    known = [(name, certified(name)) for name in ("b", "c")]
    member.is_told(Way.ANSWER, [known[0], ("x", forged(1)), known[1]], FRIEND)
    assert member.knows == {"b", "c"}
    assert member.rejected() == {"certificate-signature": 1}
