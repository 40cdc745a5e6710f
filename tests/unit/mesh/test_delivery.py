"""What a machine outside Kubernetes is sent, gets at the door, and takes for itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_address, ip_network
from itertools import pairwise
from typing import Any

import pytest

from wesher_agent.mesh.delivery import (
    ANSWERS_A_SECOND,
    FAILED_CHECKS,
    KNOCK_SECONDS,
    LACKING_SECONDS,
    RING_SENDS,
    SEND_SECONDS,
    SENDERS,
    Delivery,
    form_of_nodes,
    read_message,
)
from wesher_agent.mesh.identity import Identity
from wesher_agent.mesh.local import Local, Options
from wesher_agent.mesh.nodemeta import Flag
from wesher_agent.mesh.place import Place
from wesher_agent.mesh.roster import MemberState, RosterMember
from wesher_agent.swim.address import Address
from wesher_agent.swim.source import Source, Way
from wesher_agent.wire.limits import KNOCK_ANSWER
from wesher_common.certificate import Authority, Certificate, Kind, Subject, name_hash
from wesher_common.errors import PeerMisbehaved
from wesher_common.join_file import JoinFile
from wesher_common.keys import ClusterKey, KeyRing, WireGuardPrivateKey
from wesher_common.mesh_document import IdentitySettings
from wesher_common.news import (
    MAX_RING_KEYS,
    NewsKind,
    PeerCertificate,
    RingItem,
    key_hash,
    seal_ring,
    sign_statement,
    unpack_news,
)
from wesher_testing.virtual.members import document, local_node, meta, private_key, remembered

OURS, FOREIGN = Authority(bytes([1]) * 32), Authority(bytes([2]) * 32)
SIGNED_AT = 1_790_000_000_000
WALL = SIGNED_AT / 1000
BOUND = IdentitySettings(mode="Verified", bound=True, authorities=(OURS.key,))
MESH = document(identity=BOUND)
IN_KUBERNETES = Options(in_kubernetes=True)
GIVEN = ip_address("10.189.0.77")
OLD_RING, NEW_RING = KeyRing(ClusterKey(bytes(32))), (bytes([7]) * 32, bytes(32))
ANYONE = Address("192.0.2.200", 50000)
GOSSIP = Source("192.0.2.1", Way.DATAGRAM)


def subject(name: str = "laptop", **changes: Any) -> Subject:
    fields = {"name": name, "public_key": private_key(name).public, "address": GIVEN}
    return Subject(**{**fields, **changes})


def certificate_item(
    about: Subject, *, by: Authority = OURS, serial: int = SIGNED_AT
) -> tuple[NewsKind, bytes]:
    issued = by.issue(about, serial=serial, kind=Kind.PEER)
    return NewsKind.CERTIFICATE, PeerCertificate(subject=about, certificate=issued).packed()


def ring_item(
    name: str = "laptop", *, by: Authority = OURS, number: int = SIGNED_AT, ring: tuple[bytes, ...] = NEW_RING
) -> tuple[NewsKind, bytes]:
    ephemeral = WireGuardPrivateKey.from_random(bytes(range(32)))
    sealed = seal_ring(by, ring, private_key(name).public, number=number, ephemeral=ephemeral)
    return NewsKind.RING, sealed.packed()


def identity(settings: IdentitySettings | None = BOUND) -> Identity:
    return Identity(settings, now=0.0, wall=WALL)


def node(name: str, *, compact: bool = False, kind: Kind = Kind.NODE, **changes: Any) -> RosterMember:
    """Return a living member with a certificate."""
    announced = meta(name, flags=Flag.IN_KUBERNETES)
    about = announced.subject(name)
    assert about is not None
    announced = replace(announced, certificate=OURS.issue(about, serial=SIGNED_AT, kind=kind))
    member = replace(remembered(name, announced=announced), raw_meta=announced.encode(compact=compact))
    return replace(member, verdict=identity().verdict(name, announced, now=0.0), **changes)


def laptop(*, certificate: Certificate | None = None, ring: int = OLD_RING.primary.hint) -> RosterMember:
    """Return the invited machine as others see it."""
    announced = meta("laptop", overlay_address=GIVEN, certificate=certificate, ring=ring)
    member = remembered("laptop", "192.0.2.50", announced=announced)
    return replace(member, verdict=identity().verdict("laptop", announced, now=0.0))


def members(*known: RosterMember) -> Mapping[str, RosterMember]:
    return {member.name: member for member in known}


def local(name: str = "laptop", **changes: Any) -> Local:
    return local_node(name, mesh=MESH, **changes)


def certified_local() -> Local:
    place = Place(overlay_address=GIVEN, certificate=OURS.issue(subject(), serial=SIGNED_AT, kind=Kind.PEER))
    return local(place=place, overlay_address=GIVEN)


def sender(*items: tuple[NewsKind, bytes]) -> Delivery:
    made = Delivery(identity())
    made.news_published(items, now=0.0)
    return made


NODES = [f"n{number}" for number in range(10)]


def test_a_certificate_goes_from_three_nodes_to_its_living_owner() -> None:
    everyone = [node(name) for name in NODES]
    sent = Counter[str]()
    for name in NODES:
        others = members(laptop(), *(one for one in everyone if one.name != name))
        made = sender(certificate_item(subject()))
        for message in made.to_send(local(name, options=IN_KUBERNETES), others, now=0.0):
            sent[name] += 1
            assert message.to == Address("192.0.2.50", 7946)
            assert read_message(message.payload) == [certificate_item(subject())]
    assert sorted(sent.values()) == [1] * SENDERS


def test_other_machines_have_other_senders() -> None:
    """Otherwise three nodes would send to all."""
    everyone = members(*(node(name) for name in NODES[1:]))
    sends = 0
    for number in range(30):
        name = f"laptop{number}"
        known = remembered(name, announced=meta(name))
        made = sender(certificate_item(subject(name)))
        sends += len(made.to_send(local(NODES[0], options=IN_KUBERNETES), {**everyone, name: known}, now=0.0))
    assert 3 <= sends <= 18


@pytest.mark.parametrize(
    "known",
    [
        replace(laptop(), state=MemberState.FAILED),
        laptop(certificate=OURS.issue(subject(), serial=SIGNED_AT, kind=Kind.PEER)),
        remembered("laptop", problem="metadata-missing"),
    ],
    ids=["away", "has it", "no metadata"],
)
def test_a_certificate_is_not_sent_to_a_machine_that(known: RosterMember) -> None:
    made = sender(certificate_item(subject()))
    assert made.to_send(local("n0", options=IN_KUBERNETES), members(known), now=0.0) == []


def test_a_machine_that_others_know_by_its_former_key_gets_the_certificate_of_the_new_one() -> None:
    """After `wesher rekey`, the certified claim with the former key stays in gossip until then."""
    about = subject(public_key=private_key("new").public)
    known = laptop(certificate=OURS.issue(subject(), serial=SIGNED_AT, kind=Kind.PEER))
    made = sender(certificate_item(about, serial=SIGNED_AT + 1))
    assert len(made.to_send(local("n0", options=IN_KUBERNETES), members(known), now=0.0)) == 1


def test_a_machine_with_an_older_certificate_gets_the_newer_one_every_ten_seconds() -> None:
    older = laptop(certificate=OURS.issue(subject(), serial=SIGNED_AT, kind=Kind.PEER))
    made = sender(certificate_item(subject(), serial=SIGNED_AT + 1))
    me, sent = local("n0", options=IN_KUBERNETES), []
    for tenth in range(250):
        now = tenth / 10
        if made.next_timer <= now:
            sent += [now for _ in made.to_send(me, members(older), now=now)]
    assert sent == [0.0, SEND_SECONDS, 2 * SEND_SECONDS]


def test_a_ring_goes_to_a_certified_member_until_it_announces_our_key() -> None:
    certificate = OURS.issue(subject(), serial=SIGNED_AT, kind=Kind.PEER)
    made, me = sender(ring_item()), local("n0", options=IN_KUBERNETES)
    with_other = laptop(certificate=certificate, ring=OLD_RING.primary.hint ^ 1)
    for round_number in range(6):
        assert len(made.to_send(me, members(with_other), now=round_number * SEND_SECONDS)) == 1
    with_ours = laptop(certificate=certificate)
    assert made.to_send(me, members(with_ours), now=6 * SEND_SECONDS) == []
    assert made.to_send(me, members(laptop(ring=1)), now=7 * SEND_SECONDS) == [], "not certified"


def test_a_ring_with_the_same_primary_key_is_sent_three_times() -> None:
    """Its owner cannot say whether it has the other keys."""
    owner = laptop(certificate=OURS.issue(subject(), serial=SIGNED_AT, kind=Kind.PEER))
    made, me = sender(ring_item()), local("n0", options=IN_KUBERNETES)
    sent = sum(len(made.to_send(me, members(owner), now=n * SEND_SECONDS)) for n in range(10))
    assert sent == RING_SENDS
    made.news_published([ring_item()], now=200.0)
    assert made.to_send(me, members(owner), now=200.0) == [], "the same ring, published again"
    made.news_published([ring_item(number=SIGNED_AT + 1)], now=300.0)
    assert len(made.to_send(me, members(owner), now=300.0)) == 1


def test_the_largest_items_fit_into_a_datagram() -> None:
    """Of memberlist's 1400 bytes, a label and encryption take up to 300."""
    ring = tuple(bytes([number]) * 32 for number in range(1, MAX_RING_KEYS + 1))
    networks = tuple(ip_network(f"2001:db8:{number:x}::/48") for number in range(40))
    longest = ".".join(["x" * 50] * 5)
    about = subject(longest, location="x" * 63, networks=networks, address=ip_address("fd00::1"))
    for _, data in (ring_item(ring=ring), certificate_item(about)):
        assert len(data) < 1000


def test_news_that_cannot_be_read_are_left_out_and_older_ones_are_gone() -> None:
    made = sender((NewsKind.CERTIFICATE, b"x"), (NewsKind.RING, b""), certificate_item(subject("b")))
    assert made.answer(key_hash(private_key("b").public), ANYONE, 0.0) is not None
    made.news_published([], now=1.0)
    assert made.answer(key_hash(private_key("b").public), ANYONE, 2.0) is None


def test_once_the_news_are_gone_nothing_is_due() -> None:
    """A timer that stays in the past would keep the agent busy."""
    made = sender(certificate_item(subject()))
    made.news_published([], now=1.0)
    assert made.to_send(local("n0", options=IN_KUBERNETES), members(laptop()), now=1.0) == []
    assert made.next_timer == float("inf")


# The door.


def test_the_door_gives_an_owner_its_items_and_the_statement() -> None:
    statement = NewsKind.STATEMENT, sign_statement(OURS, number=SIGNED_AT, revoked={}).packed()
    items = [certificate_item(subject()), ring_item()]
    made = sender(statement, *items, certificate_item(subject("other")))
    answer = made.answer(key_hash(private_key("laptop").public), ANYONE, 0.0)
    assert answer is not None
    assert unpack_news(answer) == [*items, statement]


def test_a_statement_that_is_too_long_for_the_door_is_left_out() -> None:
    names = {name_hash(str(number)): 1 for number in range(3000)}
    statement = NewsKind.STATEMENT, sign_statement(OURS, number=SIGNED_AT, revoked=names).packed()
    answer = sender(statement, ring_item()).answer(key_hash(private_key("laptop").public), ANYONE, 0.0)
    assert answer is not None
    assert unpack_news(answer) == [ring_item()]
    assert len(answer) <= KNOCK_ANSWER.most


def test_the_door_has_nothing_for_a_key_without_items() -> None:
    made = sender(ring_item())
    assert made.answer(bytes(16), ANYONE, 0.0) is None
    assert Delivery(identity()).answer(bytes(16), ANYONE, 0.0) is None


def test_the_door_answers_five_times_a_second_and_guesses_cost_no_answer() -> None:
    made, token = sender(ring_item()), key_hash(private_key("laptop").public)
    answers = 0
    for step in range(10_000):
        now = step / 1000
        assert made.answer(step.to_bytes(16), ANYONE, now) is None
        answers += made.answer(token, Address(f"198.51.{step % 250}.{step // 250}", 1), now) is not None
    assert answers <= ANSWERS_A_SECOND * 11
    assert answers >= ANSWERS_A_SECOND * 9


def test_one_host_gets_one_answer_a_second() -> None:
    """A host that knows a machine's key leaves answers for others."""
    made, token = sender(ring_item()), key_hash(private_key("laptop").public)
    flood = [made.answer(token, ANYONE, step / 1000) for step in range(3000)]
    assert sum(answer is not None for answer in flood) == 3
    assert made.answer(token, Address("192.0.2.50", 1), 3.0) is not None


# The owner.


def test_the_owner_takes_its_certificate_and_all_that_it_gives() -> None:
    about = subject(location="berlin")
    place = Delivery(identity()).received(*certificate_item(about), GOSSIP, local(), now=0.0)
    assert isinstance(place, Place)
    assert (place.overlay_address, place.location) == (GIVEN, "berlin")
    assert place.certificate == OURS.issue(about, serial=SIGNED_AT, kind=Kind.PEER)


@pytest.mark.parametrize(
    "item",
    [
        certificate_item(subject("other")),
        certificate_item(subject(public_key=private_key("thief").public)),
        certificate_item(subject(), serial=SIGNED_AT - 1),
        certificate_item(subject()),
        ring_item("other"),
        (NewsKind.STATEMENT, b""),
    ],
    ids=["another name", "another key", "older", "the same", "another owner's ring", "statement"],
)
def test_what_is_not_for_the_owner_or_not_newer_changes_nothing(item: tuple[NewsKind, bytes]) -> None:
    assert Delivery(identity()).received(*item, GOSSIP, certified_local(), now=0.0) is None


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (certificate_item(subject(), by=FOREIGN), "certificate-refused"),
        (certificate_item(subject(address=ip_address("192.0.2.1"))), "certificate-refused"),
        (certificate_item(subject(), serial=SIGNED_AT + 3 * 86_400_000), "certificate-refused"),
        ((NewsKind.CERTIFICATE, certificate_item(subject())[1][:-1]), "peer-certificate-truncated"),
        ((NewsKind.CERTIFICATE, certificate_item(subject())[1][:-1] + b"\0"), "certificate-refused"),
        (ring_item(by=FOREIGN), "ring-refused"),
        ((NewsKind.RING, ring_item()[1][:-1] + b"\0"), "ring-refused"),
        ((NewsKind.RING, b""), "ring-item-truncated"),
    ],
    ids=["foreign", "outside overlay", "of tomorrow", "cut", "signature", "foreign ring", "ring", "empty"],
)
def test_what_the_authority_has_not_signed_is_counted(item: tuple[NewsKind, bytes], reason: str) -> None:
    with pytest.raises(PeerMisbehaved) as refused:
        Delivery(identity()).received(*item, GOSSIP, local(), now=0.0)
    assert refused.value.reason == reason


def test_a_ring_that_does_not_open_is_counted() -> None:
    """Signed by the authority, but sealed to another key."""
    other = RingItem.unpacked(ring_item("other")[1])
    wrong = replace(other, key_hash=key_hash(private_key("laptop").public))
    text = b"wesher ring item 1\0" + wrong.packed()[: -len(wrong.signature)]
    wrong = replace(wrong, signature=OURS.sign(text))
    with pytest.raises(PeerMisbehaved, match="ring-unreadable"):
        Delivery(identity()).received(NewsKind.RING, wrong.packed(), GOSSIP, local(), now=0.0)


def test_the_higher_number_of_two_rings_wins() -> None:
    made, me = Delivery(identity()), local()
    ring = made.received(*ring_item(), GOSSIP, me, now=0.0)
    assert ring == KeyRing(ClusterKey(NEW_RING[0]), (ClusterKey(NEW_RING[1]),))
    assert isinstance(ring, KeyRing)
    assert ring.number == SIGNED_AT
    later = replace(me, ring=ring)
    assert made.received(*ring_item(), GOSSIP, later, now=0.0) is None
    assert made.received(*ring_item(number=SIGNED_AT - 1), GOSSIP, later, now=0.0) is None
    assert made.received(*ring_item(number=SIGNED_AT + 1), GOSSIP, later, now=0.0) is not None


@pytest.mark.parametrize("item", [certificate_item(subject()), ring_item()])
def test_a_node_and_a_machine_without_an_authority_take_nothing_from_gossip(
    item: tuple[NewsKind, bytes],
) -> None:
    assert Delivery(identity()).received(*item, GOSSIP, local(options=IN_KUBERNETES), now=0.0) is None
    assert Delivery(identity(None)).received(*item, GOSSIP, local(), now=0.0) is None


def test_a_flood_of_forged_items_costs_few_signature_checks_and_leaves_other_ways_open() -> None:
    made, me, checked = Delivery(identity()), local(), 0
    for step in range(1000):
        forged = ring_item(number=SIGNED_AT + step, by=FOREIGN)[1]
        source = Source(f"198.51.100.{step % 250}", Way.DATAGRAM)
        with pytest.raises(PeerMisbehaved) as refused:
            made.received(NewsKind.RING, forged, source, me, now=step / 1000)
        checked += refused.value.reason == "ring-refused"
    assert checked == FAILED_CHECKS[Way.DATAGRAM]
    with pytest.raises(PeerMisbehaved, match="item-unread"):
        made.received(*ring_item(), GOSSIP, me, now=0.999)
    for way in (Way.REQUEST, Way.ANSWER):
        assert made.received(*ring_item(), Source("192.0.2.1", way), me, now=0.999) is not None


def test_each_try_goes_another_way() -> None:
    made, me = sender(certificate_item(subject())), local("n0", options=IN_KUBERNETES)
    ways = [made.to_send(me, members(laptop()), now=n * SEND_SECONDS)[0].reliable for n in range(4)]
    assert ways == [False, True, False, True]


def knocks(made: Delivery, me: Local, known: Mapping[str, RosterMember], *, until: float) -> list[float]:
    made.start(me, now=0.0)
    found, now = [], 0.0
    while (now := made.next_timer) <= until:
        if made.must_knock(me, known, now=now):
            found.append(now)
    return found


def test_a_machine_that_finds_no_node_for_a_minute_knocks_and_goes_on_knocking() -> None:
    alone = knocks(Delivery(identity()), certified_local(), {}, until=200.0)
    assert LACKING_SECONDS <= alone[0] <= LACKING_SECONDS + 2 * SEND_SECONDS
    assert {after - before for before, after in pairwise(alone)} == {KNOCK_SECONDS}
    # Another machine outside missed the change of the key ring too.
    other = node("tablet", kind=Kind.PEER)
    assert knocks(Delivery(identity()), certified_local(), members(other), until=200.0) == alone


def test_a_machine_that_is_in_its_mesh_or_has_no_certificate_does_not_knock() -> None:
    assert knocks(Delivery(identity()), certified_local(), members(node("n0")), until=300.0) == []
    assert knocks(Delivery(identity()), local(), {}, until=300.0) == []
    assert Delivery(identity(None)).next_timer == Delivery(identity()).next_timer == float("inf")


def test_an_invited_machine_knocks_until_it_has_its_certificate_though_it_sees_nodes() -> None:
    """Another machine may use its name, and what is sent to that name arrives there."""
    joined = JoinFile(
        mesh_name="prod",
        mesh_uid="u",
        ring=OLD_RING,
        seeds=(),
        label="",
        profile="LAN",
        overlay=MESH.overlay,
        name="laptop",
        authority=OURS.key,
        enrol_seed=bytes(32),
    )
    seen = members(node("n0"))
    found = knocks(Delivery(identity()), local(joined=joined), seen, until=200.0)
    assert LACKING_SECONDS <= found[0] <= LACKING_SECONDS + 2 * SEND_SECONDS
    assert knocks(Delivery(identity()), replace(certified_local(), joined=joined), seen, until=200.0) == []


def test_a_machine_follows_the_form_of_the_living_nodes() -> None:
    gob, compact = node("n0"), node("n1", compact=True)
    assert form_of_nodes([gob, compact]) == "Gob"
    assert form_of_nodes([compact, node("n2", compact=True)]) == "Compact"
    # Two machines outside would wait for each other.
    assert form_of_nodes([compact, node("tablet", kind=Kind.PEER)]) == "Compact"
    assert form_of_nodes([compact, replace(gob, state=MemberState.FAILED)]) == "Compact"
    assert form_of_nodes([remembered("thief", announced=meta("thief"))]) is None
