"""What one member makes of statements: which count, what they cost, and what it passes on."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from random import Random
from typing import Any, TypeVar

import pytest

from wesher_agent.mesh.events import (
    CertificateRefused,
    CertificateValid,
    Event,
    ProblemFound,
    StatementRejected,
    StatementTaken,
)
from wesher_agent.mesh.identity import LONGEST_MS, Identity, SavedTrust
from wesher_agent.mesh.local import Options
from wesher_agent.mesh.member import MeshMember
from wesher_agent.mesh.news import AT_RANDOM, FAILED_CHECKS, FAILED_CHECKS_OF_ONE, IN_ORDER, RESEND_SECONDS
from wesher_agent.mesh.nodemeta import Flag
from wesher_agent.mesh.outputs import Apply, Output, Save
from wesher_agent.mesh.place import Place
from wesher_agent.mesh.saved_state import SavedState
from wesher_agent.swim.address import Address
from wesher_agent.swim.events import KnockAnswered, PacketRejected, UserMessageReceived
from wesher_agent.swim.source import Way
from wesher_agent.swim.streams import OpenStream, StreamAction, WriteStream
from wesher_agent.wire.messages import Alive, PushNodeState, PushPull, State, User, Versions
from wesher_agent.wire.packet import open_packet, seal
from wesher_agent.wire.stream import StreamReader, seal_stream
from wesher_common.certificate import FIRST_MS, Authority, Refusal, name_hash
from wesher_common.errors import PeerMisbehaved
from wesher_common.mesh_document import IdentitySettings, TrustedAuthority
from wesher_common.news import MAX_REVOKED, NewsKind, Statement, pack_news, sign_statement
from wesher_testing.virtual.members import OVERLAY, document, local_node, meta

OURS, FOREIGN, UNKNOWN = (Authority(bytes([number]) * 32) for number in (1, 2, 3))
NOW_MS = 1_790_000_000_000
DAY_MS = 24 * 3_600_000
SETTINGS = IdentitySettings(
    mode="Verified",
    bound=True,
    form="Compact",
    authorities=(OURS.key,),
    trusted=(TrustedAuthority(cluster_name="west", key=FOREIGN.key, cidrs=(OVERLAY,)),),
)
THIEF = Address("192.0.2.66", 40000)
T = TypeVar("T")


def statement(
    *names: str,
    by: Authority = OURS,
    number: int = NOW_MS + 1000,
    second: int = NOW_MS // 1000,
    more: int = 0,
) -> bytes:
    """Return a statement that revokes names, and ``more`` that nobody has."""
    revoked = {name_hash(name): second for name in (*names, *(f"nobody-{i}" for i in range(more)))}
    return sign_statement(by, number=number, revoked=revoked).packed()


def number_of(data: bytes) -> int:
    return Statement.head(data)[1]


def message(data: bytes) -> bytes:
    """Return the user message that carries a statement."""
    return b"W" + bytes([NewsKind.STATEMENT]) + data


class Member:
    """A certified member named ``me``, and what it says and does."""

    def __init__(
        self, settings: IdentitySettings | None = SETTINGS, *, wall: float = NOW_MS / 1000, **saved: Any
    ) -> None:
        mesh = replace(document(), identity=settings)
        place = Place(
            overlay_address=ip_address("10.189.0.100"),
            certificate=certified("me", overlay_address=ip_address("10.189.0.100")).certificate,
        )
        local = local_node("me", mesh=mesh, options=Options(in_kubernetes=True), place=place)
        self.now = 0.0
        self.member = MeshMember(
            local, SavedState(**saved), now=0.0, wall=wall, rng=Random(1), nonce=Random(2).randbytes
        )
        self.sealed = local.packet_format
        self.outputs: list[Output] = []
        self.events: list[Event] = []
        self.datagrams: list[tuple[bytes, Address]] = []
        self.streams: list[StreamAction] = []
        self.member.start(now=0.0)
        self.member.listening(now=0.0)
        self.member.saved(now=0.0)
        self.take()

    def take(self) -> None:
        """Take all that it says and wants."""
        self.datagrams += self.member.datagrams_to_send()
        self.streams += self.member.stream_actions()
        while (event := self.member.next_event()) is not None:
            self.events.append(event)
        while (output := self.member.next_output()) is not None:
            self.outputs.append(output)

    def run(self, seconds: float) -> None:
        """Let time pass; every apply and save succeeds at once."""
        end = self.now + seconds
        while (timer := self.member.next_timer()) is not None and timer <= end:
            self.now = max(self.now, timer)
            self.member.handle_timer(now=self.now)
            done = len(self.outputs)
            self.take()
            for output in self.outputs[done:]:
                if isinstance(output, Apply):
                    self.member.applied(now=self.now)
                if isinstance(output, Save):
                    self.member.saved(now=self.now)
            self.take()
        self.now = end

    def meets(self, name: str, ip: str, **changes: Any) -> None:
        """Let gossip bring a certified member."""
        raw = certified(name, **changes).encode(compact=True)
        claim = Alive(1, name, Address(ip, 7946).packed, 7946, raw, Versions())
        self.member._engine.inject(claim, now=self.now)
        self.run(0.0)

    def hears(self, payload: bytes, sender: Address = THIEF) -> None:
        """Let a user message arrive as a datagram."""
        data = seal((bytes([8]) + payload,), self.sealed, checksum=False, nonce=bytes)
        self.member.receive_datagram(data, sender, now=self.now)
        self.take()

    def streams_message(self, payload: bytes) -> None:
        """Let a user message arrive on a stream."""
        stream = self.member.stream_accepted(THIEF, now=self.now)
        data = seal_stream(User(payload), self.sealed, nonce=bytes)
        self.member.stream_received(stream, data, now=self.now)
        self.take()

    def exchanges(self, user_state: bytes, ip: str) -> bytes:
        """Let a member at an address exchange its state; return the user state of the answer."""
        stream = self.member.stream_accepted(Address(ip, 50000), now=self.now)
        entry = PushNodeState("b", Address(ip, 7946).packed, 7946, b"", 0, State.LEFT, Versions())
        request = seal_stream(PushPull((entry,), join=False, user_state=user_state), self.sealed, nonce=bytes)
        self.streams.clear()
        self.member.stream_received(stream, request, now=self.now)
        self.member.handle_timer(now=self.now)
        self.take()
        [answer] = [action.data for action in self.streams if isinstance(action, WriteStream)]
        reader = StreamReader(self.sealed, answer=True)
        reader.feed(answer)
        said = reader.message()
        assert isinstance(said, PushPull)
        return said.user_state

    def said(self) -> list[tuple[Address, bytes]]:
        """Return the user messages in datagrams since last asked, and to whom."""
        found = [
            (to, m.payload)
            for data, to in self.datagrams
            for m in open_packet(data, self.sealed).messages
            if isinstance(m, User)
        ]
        self.datagrams.clear()
        return found

    def dialled(self) -> list[Address]:
        """Return where user messages went over streams since last asked."""
        found = [
            action.address
            for action in self.streams
            if isinstance(action, OpenStream) and action.purpose == "user"
        ]
        self.streams.clear()
        return found

    def happened(self, kind: type[T]) -> list[T]:
        """Return the events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def rejected(self) -> list[str]:
        """Why packets were dropped."""
        return [event.reason for event in self.happened(PacketRejected)]

    @property
    def tunnels(self) -> set[str]:
        """Who has a tunnel in the last desired state."""
        wanted = [output.desired for output in self.outputs if isinstance(output, Apply)]
        return {*wanted[-1].tunnels}

    @property
    def news_number(self) -> int:
        """Of the newest statement of its own authority."""
        return self.member.view(now=self.now).news_number

    @property
    def saved(self) -> SavedTrust:
        """What is kept of the own authority."""
        [known] = [known for known in self.member._identity.saved() if known.key == OURS.key]
        return known


def certified(name: str, *, by: Authority = OURS, serial: int = NOW_MS - DAY_MS, **changes: Any) -> Any:
    announced = meta(name, **{"flags": Flag.IN_KUBERNETES, **changes})
    subject = announced.subject(name)
    assert subject is not None
    return replace(announced, certificate=by.issue(subject, serial=serial))


@pytest.fixture
def me() -> Member:
    """Return a member that has met b and c."""
    made = Member()
    made.meets("b", "192.0.2.2")
    made.meets("c", "192.0.2.3")
    made.run(5.0)
    assert made.tunnels == {"b", "c"}
    made.datagrams.clear()
    return made


def crowd(count: int) -> Member:
    made = Member()
    for number in range(count):
        made.meets(f"n{number}", f"192.0.3.{number + 1}", overlay_address=OVERLAY[number + 2])
    made.run(5.0)
    made.datagrams.clear()
    return made


# What counts.


@pytest.mark.parametrize("settings", [SETTINGS, replace(SETTINGS, mode="Open", bound=False)])
def test_a_revoked_member_loses_tunnel_hosts_entry_and_standing_at_once_in_every_mode(
    settings: IdentitySettings,
) -> None:
    member = Member(settings)
    member.meets("b", "192.0.2.2")
    member.meets("c", "192.0.2.3")
    member.run(5.0)
    member.hears(message(statement("b")))
    member.run(0.2)
    assert member.tunnels == {"c"}
    [wanted] = [output.desired for output in member.outputs if isinstance(output, Apply)][-1:]
    assert [entry.name.partition(".")[0] for entry in wanted.hosts] == ["c"]
    [problem] = [p for p in member.happened(ProblemFound) if p.node == "b"]
    assert problem.reason == Refusal.REVOKED

    raw, engine = certified("b").encode(compact=True), member.member._engine
    assert member.member._identity.standing("b", raw, Address("192.0.2.2", 7946), member.now) == 0
    assert "b" in engine._membership._unproven._places, "invented names can displace it"
    assert "c" not in engine._membership._unproven._places


def test_a_new_certificate_with_a_later_serial_counts(me: Member) -> None:
    me.hears(message(statement("b")))
    me.meets("b", "192.0.2.2", serial=NOW_MS)
    me.run(1.0)
    assert me.tunnels == {"c"}, "signed within the second of the revocation"
    raw = certified("b", serial=NOW_MS + 1).encode(compact=True)
    me.member._engine.inject(Alive(2, "b", Address("192.0.2.2", 1).packed, 7946, raw, Versions()), now=me.now)
    me.run(1.0)
    assert me.tunnels == {"b", "c"}


def test_a_revocation_by_another_clusters_authority_voids_only_what_that_one_has_signed(me: Member) -> None:
    me.meets("d.west", "192.0.2.4", by=FOREIGN)
    me.run(1.0)
    assert me.tunnels == {"b", "c", "d.west"}
    me.hears(message(statement("b", "d.west", by=FOREIGN)))
    me.run(1.0)
    assert me.tunnels == {"b", "c"}
    assert me.news_number == 0, "it is not the mesh's own authority"


def test_what_was_revoked_stays_so_when_a_later_statement_leaves_it_out(me: Member) -> None:
    first, second = statement("b"), statement("c", number=NOW_MS + 2000)
    me.hears(message(first))
    me.hears(message(second))
    me.run(1.0)
    assert me.tunnels == set()
    assert me.saved.revoked.keys() == {name_hash("b"), name_hash("c")}
    assert me.saved.statement == second


def test_a_revocation_is_kept_until_no_certificate_can_be_as_old() -> None:
    identity = Identity(SETTINGS, now=0.0, wall=NOW_MS / 1000)
    revoked = NOW_MS // 1000 * 1000

    def take(number: int, *names: str) -> set[bytes]:
        data = statement(*names, number=number)
        identity.take(Statement.verified(data, OURS.key), data)
        [known] = [known for known in identity.saved() if known.key == OURS.key]
        return {*known.revoked}

    assert take(NOW_MS, "b") == {name_hash("b")}
    assert take(revoked + LONGEST_MS) == {name_hash("b")}
    assert take(revoked + LONGEST_MS + 1) == set()


def test_of_too_many_revocations_the_last_statements_stay() -> None:
    identity = Identity(SETTINGS, now=0.0, wall=NOW_MS / 1000)
    for number, first in ((1, 0), (2, MAX_REVOKED // 2)):
        names = {(first + i).to_bytes(8): NOW_MS // 1000 for i in range(MAX_REVOKED)}
        data = sign_statement(OURS, number=NOW_MS + number, revoked=names)
        identity.take(data, data.packed())
    [known] = [known for known in identity.saved() if known.key == OURS.key]
    assert known.revoked.keys() == data.revoked.keys()


def test_the_number_counts_as_a_moment_at_which_the_authority_has_signed(me: Member) -> None:
    me.hears(message(statement(number=NOW_MS + DAY_MS // 2)))
    assert me.saved.newest == NOW_MS + DAY_MS // 2


# What does not.

LONG = statement(more=200)
BAD: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "statement-truncated"),
    "of another form": (b"\x09" + LONG[1:], "statement-version"),
    "cut short": (LONG[:-1], "statement-bad-signature"),
    "only its head": (LONG[:11], "statement-bad-signature"),
    "longer": (LONG + b"\0", "statement-bad-signature"),
    "changed": (LONG[:40] + bytes([LONG[40] ^ 1]) + LONG[41:], "statement-bad-signature"),
    "signed by another under its id": (
        statement("b", by=UNKNOWN).replace(UNKNOWN.key.id, OURS.key.id, 1),
        "statement-bad-signature",
    ),
    "of an authority that is not trusted": (statement("b", by=UNKNOWN), "statement-unknown-authority"),
    "signed in the future": (
        statement("b", number=NOW_MS + DAY_MS + 10_000),
        "statement-not-yet-valid",
    ),
    "signed, but not a statement": (
        (text := LONG[:12] + b"\xff" * 4 + LONG[16:-64]) + OURS.sign(b"wesher news 1\0" + text),
        "statement-too-many-names",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_statement_changes_nothing_and_is_counted(me: Member, case: str) -> None:
    data, reason = BAD[case]
    me.hears(message(data)[:1300])
    me.streams_message(message(data))
    me.run(1.0)
    assert me.rejected[-1] == reason
    assert me.tunnels == {"b", "c"}
    assert (me.said(), me.news_number, me.happened(StatementTaken)) == ([], 0, [])


def test_an_older_statement_is_dropped_unread_and_the_same_one_silently(me: Member) -> None:
    old, new = statement("b", number=NOW_MS), statement(number=NOW_MS + 1)
    me.hears(message(new))
    me.hears(message(new))
    assert me.rejected == []
    me.hears(message(old))
    me.run(1.0)
    assert me.rejected == ["statement-outdated"]
    assert me.tunnels == {"b", "c"}


@pytest.mark.parametrize(
    "payload", [b"", b"W", b"W\x01", b"W\x02ring", b"W\x03certificate", b"W\xff", b"hello", statement("b")]
)
def test_user_messages_of_other_kinds_and_programs_change_nothing(me: Member, payload: bytes) -> None:
    me.hears(payload)
    me.run(1.0)
    assert me.tunnels == {"b", "c"}
    assert me.happened(UserMessageReceived)


def test_forged_statements_cost_few_checks_a_second_and_keep_true_ones_out_for_no_longer(me: Member) -> None:
    forged = [BAD["changed"][0][:500] + number.to_bytes(2) for number in range(100)]
    for data in forged[:10]:
        me.hears(message(data))
    assert me.rejected == ["statement-bad-signature"] * FAILED_CHECKS_OF_ONE + ["statement-unread"] * 7
    for number, data in enumerate(forged[10:]):
        me.hears(message(data), Address(f"192.0.4.{number}", 1))
    assert me.rejected.count("statement-bad-signature") == FAILED_CHECKS[Way.DATAGRAM]
    me.streams_message(message(statement("b")))
    me.run(0.3)
    assert me.tunnels == {"c"}, "datagrams leave streams their share"
    me.now += 1.0
    me.hears(message(statement("c", number=NOW_MS + 2000)))
    me.run(1.0)
    assert me.tunnels == set()


def test_a_member_that_knows_no_authority_ignores_statements() -> None:
    alone = Member(settings=None)
    alone.hears(message(statement("b")))
    assert alone.rejected == []
    assert alone.exchanges(b"", "192.0.2.9") == b""


# A clock that is wrong.


def test_a_clock_of_1970_that_knows_what_was_signed_takes_a_statement() -> None:
    behind = Member(wall=0.0, trust=(SavedTrust(OURS.key, NOW_MS),))
    behind.hears(message(statement("b")))
    assert behind.news_number == NOW_MS + 1000


def test_a_published_statement_that_is_too_early_is_taken_once_the_clock_is_set() -> None:
    behind = Member(wall=FIRST_MS / 1000 + 1.0)
    published = ((NewsKind.STATEMENT, statement("b")), (NewsKind.RING, b"ring"))
    for _ in range(2):
        behind.member.news_published(published, now=behind.now)
        behind.take()
    assert [event.reason for event in behind.happened(StatementRejected)] == ["statement-not-yet-valid"]
    behind.member.clock_read(NOW_MS / 1000, now=behind.now)
    assert behind.news_number == NOW_MS + 1000


# Published, and added by an administrator.


def test_an_old_published_statement_does_not_undo_a_newer_one_that_was_gossiped(me: Member) -> None:
    old, new = statement(number=NOW_MS), statement("b", number=NOW_MS + 1)
    me.hears(message(new))
    me.member.news_published([(NewsKind.STATEMENT, old)], now=me.now)
    me.run(1.0)
    assert (me.tunnels, me.news_number) == ({"c"}, NOW_MS + 1)
    assert not me.happened(StatementRejected), "gossip was faster, nothing is wrong"
    assert me.member.view(now=me.now).unpublished_news == new
    me.member.news_published([(NewsKind.STATEMENT, new)], now=me.now)
    assert me.member.view(now=me.now).unpublished_news == b""


def test_a_published_statement_revokes_and_is_passed_on(me: Member) -> None:
    data = statement("b")
    me.member.news_published([(NewsKind.STATEMENT, data)], now=me.now)
    me.run(1.0)
    assert me.tunnels == {"c"}
    assert [payload for _, payload in me.said()] == [message(data)]


def test_an_administrator_adds_one_and_adding_it_again_is_no_fault(me: Member) -> None:
    data = statement("b")
    read = Statement.unpacked(data)
    assert me.member.news_added(data, now=me.now) == (read, True)
    assert me.member.news_added(data, now=me.now) == (read, False)
    with pytest.raises(PeerMisbehaved, match="statement-bad-signature"):
        me.member.news_added(data[:-1], now=me.now)
    me.run(1.0)
    assert me.tunnels == {"c"}


@pytest.mark.parametrize("case", BAD)
def test_an_administrator_is_told_why_a_statement_does_not_count(me: Member, case: str) -> None:
    data, reason = BAD[case]
    with pytest.raises(PeerMisbehaved) as refused:
        me.member.news_added(data, now=me.now)
    assert refused.value.reason == reason


def test_an_authority_that_becomes_trusted_later_revokes_from_then_on(me: Member) -> None:
    published = [(NewsKind.STATEMENT, statement("b", by=UNKNOWN))]
    me.member.news_published(published, now=me.now)
    both = replace(SETTINGS, authorities=(OURS.key, UNKNOWN.key))
    mesh = replace(document(), identity=both)
    me.member.mesh_changed(mesh, me.member._local.ring, now=me.now)
    me.member.news_published(published, now=me.now)
    me.take()
    assert [event.authority for event in me.happened(StatementTaken)] == [UNKNOWN.key]


def test_a_statement_from_the_door_of_a_seed_counts_and_a_forged_one_is_counted(me: Member) -> None:
    forged = BAD["changed"][0]
    for data in (forged, statement("b")):
        answer = pack_news([(NewsKind.STATEMENT, data)])
        me.member._observe(KnockAnswered(Address("192.0.2.9", 7946), answer), me.now)
        me.run(1.0)
    assert me.rejected == ["statement-bad-signature"]
    assert me.tunnels == {"c"}


# Passing on.


def test_a_new_statement_goes_to_four_members_once() -> None:
    member, data = crowd(40), statement("gone")
    member.hears(message(data))
    member.hears(message(data))
    member.run(30.0)
    said = member.said()
    assert {payload for _, payload in said} == {message(data)}
    assert len({to for to, _ in said}) == len(said) == IN_ORDER + AT_RANDOM


def test_invented_names_keep_no_statement_from_certified_members() -> None:
    member = Member()
    for number in range(4):
        member.meets(f"n{number}", f"192.0.3.{number + 1}", overlay_address=OVERLAY[number + 2])
    for number in range(60):
        claim = Alive(1, f"x{number}", bytes([192, 0, 4, number]), 7946, meta("x").encode(), Versions())
        member.member._engine.inject(claim, now=0.0)
    member.run(5.0)
    member.datagrams.clear()
    member.hears(message(statement("gone")))
    assert sorted(to.ip for to, _ in member.said()) == [f"192.0.3.{number}" for number in (1, 2, 3, 4)]


def test_it_does_not_go_to_revoked_failed_or_go_members(me: Member) -> None:
    go = meta("go", version=0, flags=Flag.NONE)
    claim = Alive(1, "go", Address("192.0.2.9", 1).packed, 7946, go.encode(), Versions())
    me.member._engine.inject(claim, now=me.now)
    me.run(1.0)
    me.datagrams.clear()
    me.hears(message(statement("b")))
    assert [to.ip for to, _ in me.said()] == ["192.0.2.3"]


def test_one_that_is_too_long_for_a_datagram_goes_over_streams(me: Member) -> None:
    me.streams.clear()
    me.member.news_added(statement("gone", more=200), now=me.now)
    me.take()
    assert {address.ip for address in me.dialled()} == {"192.0.2.2", "192.0.2.3"}
    assert me.said() == []


def test_the_largest_statement_there_can_be_is_taken_and_passed_on(me: Member) -> None:
    data = statement("b", more=MAX_REVOKED - 1)
    me.streams_message(message(data))
    me.run(1.0)
    assert me.tunnels == {"c"}
    assert {address.ip for address in me.dialled()} == {"192.0.2.3"}


# State exchanges.


def numbers(*known: tuple[Authority, int]) -> bytes:
    entries = [authority.key.id + number.to_bytes(6) for authority, number in known]
    return b"W" + bytes([len(entries)]) + b"".join(entries)


def test_the_numbers_ride_in_the_user_state(me: Member) -> None:
    assert me.exchanges(b"", "192.0.2.9") == numbers((OURS, 0), (FOREIGN, 0))
    me.hears(message(statement("gone", by=FOREIGN, number=NOW_MS + 7)))
    assert me.exchanges(b"", "192.0.2.9") == numbers((OURS, 0), (FOREIGN, NOW_MS + 7))


def test_a_member_that_is_behind_is_sent_the_statement_once_in_a_while(me: Member) -> None:
    me.hears(message(statement("gone")))
    for seconds, sent in ((0.0, 1), (1.0, 0), (RESEND_SECONDS, 1)):
        me.now += seconds
        me.exchanges(numbers((OURS, NOW_MS)), "192.0.2.2")
        assert me.dialled() == [Address("192.0.2.2", 7946)] * sent


@pytest.mark.parametrize(
    "user_state",
    [
        b"",
        b"state of another program",
        numbers((OURS, NOW_MS + 1000)),
        numbers((OURS, NOW_MS + 5000)),
        numbers((UNKNOWN, 0)),
        numbers(),
    ],
)
def test_others_are_sent_nothing(me: Member, user_state: bytes) -> None:
    """Go members, and those that have it, are ahead, or do not trust its authority."""
    me.hears(message(statement("gone")))
    me.exchanges(user_state, "192.0.2.2")
    assert (me.dialled(), me.rejected) == ([], [])


def test_a_stranger_that_is_behind_is_sent_nothing(me: Member) -> None:
    me.hears(message(statement("gone")))
    me.exchanges(numbers((OURS, 0)), "192.0.2.200")
    assert me.dialled() == []


@pytest.mark.parametrize(
    ("user_state", "reason"),
    [
        (b"W", "news-numbers-truncated"),
        (b"W\x02" + bytes(10), "news-numbers-truncated"),
        (numbers((OURS, 0)) + b"\0", "news-numbers-trailing-bytes"),
        (b"W\xff" + bytes(100_000), "news-numbers-trailing-bytes"),
    ],
)
def test_damaged_numbers_are_counted(me: Member, user_state: bytes, reason: str) -> None:
    me.hears(message(statement("gone")))
    me.exchanges(user_state, "192.0.2.2")
    assert (me.dialled(), me.rejected) == ([], [reason])


# This node itself, and the next start.


def test_a_node_that_is_revoked_itself_says_so_and_keeps_running(me: Member) -> None:
    assert me.member.view(now=me.now).verdict.is_certified
    for number in (NOW_MS + 1000, NOW_MS + 2000):
        me.hears(message(statement("me", number=number)))
        me.run(1.0)
    view = me.member.view(now=me.now)
    assert (view.verdict.refusal, me.member.ending, me.tunnels) == (Refusal.REVOKED, None, {"b", "c"})
    said = [CertificateRefused(NOW_MS - DAY_MS, Refusal.REVOKED)]
    assert me.happened(CertificateRefused) == said, "once"

    mine = certified("me", serial=NOW_MS + 1, overlay_address=view.local.overlay_address)
    place = Place(overlay_address=view.local.overlay_address, certificate=mine.certificate)
    me.member.node_given(place, now=me.now)
    me.take()
    assert me.member.view(now=me.now).verdict.is_certified
    assert me.happened(CertificateValid)[-1].serial == NOW_MS + 1


def test_the_next_start_knows_what_was_revoked_and_can_pass_it_on(me: Member) -> None:
    data = statement("b")
    me.hears(message(data))
    me.run(5.0)
    [state] = [output.state for output in me.outputs if isinstance(output, Save)][-1:]
    again = Member(trust=state.trust, nodes=state.nodes)
    again.run(1.0)
    assert again.tunnels == {"c"}
    assert again.news_number == number_of(data)
    again.meets("c", "192.0.2.3")
    again.exchanges(numbers((OURS, 0)), "192.0.2.3")
    assert again.dialled() == [Address("192.0.2.3", 7946)]
