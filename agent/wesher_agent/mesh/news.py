"""News from the authorities: which statement counts, and how it reaches the other members.

A statement comes from the mounted file, from a gossiped user message, or from an administrator. One
that is newer than what is known, and signed by a trusted authority, revokes (`Identity.take`) and goes
on to four members, once. Two of them follow in an order that all members compute alike from its number,
so that the statement goes round to everyone although each member sends so few; two are random, so that
the way is short and a lost datagram stops nothing. With four random ones, 2 % of the members would wait
for a state exchange. There, each side tells the numbers that it knows, and the one that is ahead sends its
statement to the other.

memberlist hands user messages and user state to its application, and Go wesher ignores both.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Mapping
from random import Random
from types import MappingProxyType
from typing import Final

from wesher_agent.mesh.events import StatementRejected, StatementTaken
from wesher_agent.mesh.identity import Identity, SavedTrust
from wesher_agent.mesh.roster import Roster, RosterMember
from wesher_agent.mesh.signature_budget import SignatureBudget
from wesher_agent.swim.address import Address
from wesher_agent.swim.engine import Engine
from wesher_agent.swim.events import PacketRejected, UserMessageReceived
from wesher_agent.swim.pauses import Pauses
from wesher_agent.swim.source import Source, Way
from wesher_common.byte_reader import ByteReader
from wesher_common.certificate import Refusal
from wesher_common.errors import PeerMisbehaved
from wesher_common.news import NewsKind, Statement

MARK: Final = b"W"
"""Begins every user message and user state of wesher."""
IN_ORDER, AT_RANDOM = 2, 2
"""To how many members each member passes a statement on."""
FAILED_CHECKS: Final[Mapping[Way, int]] = MappingProxyType({Way.DATAGRAM: 10, Way.REQUEST: 10, Way.ANSWER: 3})
"""Statements with a false signature that are looked at in a second. One can have 786 KB, which takes 4 ms. An
answer is that of a seed, by which a machine outside Kubernetes comes back."""
FAILED_CHECKS_OF_ONE: Final = 3
"""Of them, those from one IP address."""
RESEND_SECONDS: Final = 10.0
"""Between two statements sent to one address because it is behind."""
_MOST_RESENDS: Final = 1024
"""Addresses served within that time."""
_MOST_AT_ONE_IP: Final = 4
"""Members at one IP address, of which one has exchanged its state with this member."""
_MOST_NUMBERS: Final = 255
_ID_BYTES, _NUMBER_BYTES = 4, 6


class News:
    """The news of one member.

    Call `pass_on` after any call that took a statement, once the members are judged again.

    Args:
        name: of the local member.
        identity: verifies, and takes what counts.
        roster: knows the members to send to.
        engine: sends.
        rng: chooses them.

    """

    def __init__(self, name: str, identity: Identity, roster: Roster, engine: Engine, *, rng: Random) -> None:
        self._name = name
        self._identity = identity
        self._roster = roster
        self._engine = engine
        self._rng = rng
        self._failed = SignatureBudget(FAILED_CHECKS, of_one=FAILED_CHECKS_OF_ONE)
        self._resent = Pauses(RESEND_SECONDS, _MOST_RESENDS)
        self._published: tuple[bytes, ...] = ()
        """The statements in the mounted file."""
        self._rejected: frozenset[tuple[bytes, str]] = frozenset()
        """Those of them that were reported as rejected, and why."""
        self._to_pass_on: list[tuple[int, bytes]] = []
        self._events: deque[StatementTaken | StatementRejected | PacketRejected] = deque()
        self.trust_changed()

    def next_event(self) -> StatementTaken | StatementRejected | PacketRejected | None:
        """Take the oldest event that was not taken yet."""
        return self._events.popleft() if self._events else None

    @property
    def unpublished(self) -> bytes:
        """The newest statement of the mesh's own authority, packed; empty if the mounted file has it."""
        own = self._identity.own
        return own.statement if own is not None and own.statement not in self._published else b""

    def trust_changed(self) -> None:
        """Say in state exchanges which authorities are trusted now, and how far each is known."""
        self._engine.set_user_state(packed_numbers(self._identity.authorities))

    def published(self, items: Iterable[tuple[NewsKind, bytes]], *, now: float) -> bool:
        """Take the content of the mounted file; tell whether there was a new statement in it.

        One that is older than what is known changes nothing: gossip or an administrator was faster.
        """
        self._published = tuple(data for kind, data in items if kind is NewsKind.STATEMENT)
        return self.look_again(now=now)

    def look_again(self, *, now: float) -> bool:
        """Take what the mounted file has and did not count before: trust or the clock has changed."""
        taken, rejected = False, set()
        for data in self._published:
            try:
                taken |= self._judge(data, "the mounted file", now) is not None
            except PeerMisbehaved as refused:
                if refused.reason != "statement-outdated":
                    rejected.add((data, refused.reason))
        for _, reason in sorted(rejected - self._rejected):
            self._events.append(StatementRejected(reason))
        self._rejected = frozenset(rejected)
        return taken

    def added(self, data: bytes, *, now: float) -> tuple[Statement, bool]:
        """Take a statement of an administrator; return it, and whether it was new to this member.

        Raises:
            PeerMisbehaved: it does not count; see `_judge`.

        """
        if (statement := self._judge(data, "an administrator", now)) is not None:
            return statement, True
        known = self._identity.known(Statement.head(data)[0])
        if known is None or data != known.statement:
            # Of its number, but damaged: only this one is looked at, since only a user has to know.
            raise PeerMisbehaved("statement-bad-signature")
        return Statement.unpacked(data), False

    def received(self, message: UserMessageReceived, *, now: float) -> bool:
        """Take a user message; tell whether it was a new statement."""
        if message.payload[:2] != MARK + bytes([NewsKind.STATEMENT]):
            return False
        return self.take_from(message.sender, message.way, message.payload[2:], now=now)

    def take_from(self, sender: Address, way: Way, statement: bytes, *, now: float) -> bool:
        """Take the bytes of a statement from another host; tell whether it was new."""
        if not self._identity.authorities:
            return False
        try:
            return self._judge(statement, sender.ip, now, peer=Source(sender.ip, way)) is not None
        except PeerMisbehaved as refused:
            self._events.append(PacketRejected(refused.reason, sender))
            return False

    def exchanged(self, user_state: bytes, remote: Address, *, asked_for: bool, now: float) -> None:
        """Compare the numbers of a state exchange; send what the other side lacks.

        Args:
            user_state: the other side's; that of other programs is ignored.
            remote: the other side, with its gossip port only if this member has dialled it.
            asked_for: whether it has.
            now: the time.

        """
        if not user_state.startswith(MARK):
            return
        try:
            numbers = read_numbers(user_state)
        except PeerMisbehaved as refused:
            self._events.append(PacketRejected(refused.reason, remote))
            return
        lacking = [
            known.statement
            for known in self._identity.authorities
            # An authority that the other side does not name is one that it does not trust.
            if numbers.get(known.key.id, known.number) < known.number
        ]
        if not lacking:
            return
        addresses = [remote] if asked_for else self._roster.living_at(remote.ip)[:_MOST_AT_ONE_IP]
        for address in addresses:
            if self._resent.allow(address, now=now):
                for statement in lacking:
                    # Over a stream: the next exchange may be a minute away.
                    self._send(address, statement, now, reliable=True)

    def pass_on(self, *, now: float) -> None:
        """Send the statements that were taken to other members."""
        statements, self._to_pass_on = self._to_pass_on, []
        for number, statement in statements:
            for address in self._next_to_tell(number):
                self._send(address, statement, now)

    def _judge(self, data: bytes, source: str, now: float, *, peer: Source | None = None) -> Statement | None:
        """Take a statement that is new and counts; None for the one that is known.

        Raises:
            PeerMisbehaved: ``statement-unknown-authority``, ``statement-outdated``, ``statement-unread``
                from a peer, ``statement-bad-signature``, ``statement-not-yet-valid``, or it cannot be read.

        """
        authority, number = Statement.head(data)
        known = self._identity.known(authority)
        if known is None:
            raise PeerMisbehaved("statement-unknown-authority")
        if number <= known.number:
            if number < known.number:
                raise PeerMisbehaved("statement-outdated")
            return None
        if peer is not None:
            has_tunnel = self._identity.has_tunnel_to(peer.holder)
            if not self._failed.allows(peer, has_tunnel=has_tunnel, now=now):
                raise PeerMisbehaved("statement-unread")
        try:
            statement = Statement.verified(data, known.key)
        except PeerMisbehaved:
            if peer is not None:
                self._failed.failed(peer)
            raise
        if self._identity.is_early(number, authority, now=now):
            raise PeerMisbehaved("statement-not-yet-valid")
        self._identity.take(statement, data)
        self.trust_changed()
        self._to_pass_on.append((number, data))
        self._events.append(StatementTaken(known.key, number, len(statement.revoked), source))
        return statement

    def _next_to_tell(self, number: int) -> list[Address]:
        """Return where a statement goes from here: to certified members, if there are enough of them."""
        able = [member for member in self._roster.members.values() if _can_read(member)]
        certified = [member for member in able if member.verdict.is_certified]
        candidates = certified if len(certified) >= IN_ORDER + AT_RANDOM else able
        own = _place(self._name, number)
        following = sorted(
            ((_place(member.name, number), member.address) for member in candidates),
            key=lambda entry: (entry[0] < own, entry[0]),
        )
        addresses = [address for _, address in following]
        rest = addresses[IN_ORDER:]
        return addresses[:IN_ORDER] + self._rng.sample(rest, min(AT_RANDOM, len(rest)))

    def _send(self, address: Address, statement: bytes, now: float, *, reliable: bool = False) -> None:
        payload = MARK + bytes([NewsKind.STATEMENT]) + statement
        is_long = len(payload) > self._engine.most_in_datagram
        self._engine.send_user_message(address, payload, now=now, reliable=reliable or is_long)


def _can_read(member: RosterMember) -> bool:
    """Tell whether a member is one of wesher's that may still be in the mesh; Go members read no news."""
    is_shut_out = member.verdict.refusal in {Refusal.REVOKED, Refusal.BAD_SIGNATURE}
    return member.state.is_alive and member.meta is not None and member.meta.version > 0 and not is_shut_out


def _place(name: str, number: int) -> bytes:
    """Return a member's place in the order for one statement, which is not known before that is signed."""
    return hashlib.sha256(number.to_bytes(_NUMBER_BYTES) + name.encode()).digest()


def packed_numbers(authorities: Iterable[SavedTrust]) -> bytes:
    """Return the user state: a count, then the id of each trusted authority and the number known of it."""
    entries = [known.key.id + known.number.to_bytes(_NUMBER_BYTES) for known in authorities][:_MOST_NUMBERS]
    return MARK + bytes([len(entries)]) + b"".join(entries) if entries else b""


def read_numbers(user_state: bytes) -> Mapping[bytes, int]:
    """Read what `packed_numbers` packed.

    Raises:
        PeerMisbehaved: it is cut short, or too long.

    """
    reader = ByteReader(user_state[len(MARK) :], "news-numbers")
    numbers = {reader.take(_ID_BYTES): reader.number(_NUMBER_BYTES) for _ in range(reader.number(1))}
    reader.end()
    return numbers
