"""Logs what the engine reports: what an administrator acts on, but no single packet."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Hashable, Mapping

from wesher_agent.mesh.events import Event
from wesher_agent.mesh.nodemeta import changed_fields
from wesher_agent.net.member_log import CAUSED_BY_PEERS, log_member_event
from wesher_agent.swim.address import Address
from wesher_agent.swim.events import (
    AccusationRefused,
    AddressChanged,
    BegunAnew,
    FailedElsewhere,
    KnockAnswered,
    LeaveDone,
    LeaveLearned,
    MemberAlive,
    MemberDisplaced,
    MemberFailed,
    MemberForgotten,
    MemberJoined,
    MemberLeft,
    MembersFull,
    MemberSuspected,
    MemberUpdated,
    NameConflict,
    OutdatedAlive,
    PacketRejected,
    ProbeFailed,
    ProbeUnanswered,
    PushPullAnswered,
    PushPullDone,
    PushPullFailed,
    SelfRefuted,
    StreamsFull,
    UdpUnreachable,
    UnreadableStream,
    UserMessageFailed,
    UserMessageReceived,
)
from wesher_common.event_logger import EventLogger

log = EventLogger("wesher.gossip")

QUIET = 300.0
"""Seconds before a fault that persists is logged again."""
MAX_REMEMBERED = 256
BURST = 5000
"""Lines that may come at once: a mesh of a thousand falling apart and coming together again."""
LINES_A_SECOND = 2.0
"""Lines in the long run; a holder of the key can cause events as fast as the wire carries packets."""


class EventLog:
    """Logs events: a fault that persists once in `QUIET` seconds, and at most `BURST` lines at once."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._said: dict[Hashable, float] = {}
        self._rejected: Counter[str] = Counter()
        """Packets dropped since they were last logged, by reason."""
        self._log = _LimitedLogger(clock)

    def write(self, event: Event) -> None:  # noqa: C901, PLR0912, PLR0915 - one arm per event is the plainest table
        """Log one event at the level it deserves."""
        match event:
            case MemberJoined(member=m):
                self._log.info("member joined", node=m.name, address=m.address)
            case MemberUpdated(member=m, previous=former):
                if self._log.is_enabled_for(logging.DEBUG):
                    changed = changed_fields(former.meta, m.meta)
                    if m.address != former.address:
                        changed.append("address")
                    self._log.debug("member updated", node=m.name, changed=changed)
            case MemberSuspected(member=m, from_node=accuser):
                self._log.info("member suspected", node=m.name, by=accuser)
            case ProbeUnanswered(member=m, helpers=helpers, tcp=tcp):
                self._log.debug(
                    "ping unanswered: asking other members to ping", node=m.name, asked=list(helpers), tcp=tcp
                )
            case ProbeFailed(member=m, missing_nacks=missing):
                self._log.debug("probe failed", node=m.name, missing_nacks=missing)
            case MemberAlive(member=m):
                self._log.info("member refuted suspicion", node=m.name)
            case MemberFailed(member=m, from_node=accuser, confirmations=count):
                self._log.warning("member failed", node=m.name, by=accuser, confirmations=count)
            case MemberLeft(member=m):
                self._log.info("member left", node=m.name)
            case LeaveLearned(node=node, incarnation=incarnation):
                # A member that joins learns of every leave of the last day.
                self._log.debug("member left before this one joined", node=node, incarnation=incarnation)
            case MemberForgotten(member=m):
                self._log.debug("member forgotten by gossip", node=m.name)
            case NameConflict(member=m, claimed=claimed):
                if self._is_news(("conflict", m.name, claimed)):
                    self._log.error(
                        "two machines use the same name: rename one of them (ignore if it just moved)",
                        node=m.name,
                        holder=m.address,
                        other=claimed,
                    )
            case MembersFull(name=name):
                if self._is_news("full"):
                    self._log.error("member rejected: too many known members", node=name)
            case MemberDisplaced(member=m):
                if self._is_news("displaced"):
                    self._log.warning("member displaced: too many members without a certificate", node=m.name)
            case UdpUnreachable(member=m):
                if self._is_news(("udp", m.name)):
                    self._log.warning("member answers over tcp only: check its udp port", node=m.name)
            case SelfRefuted(incarnation=incarnation, accused_by=accuser):
                self._log.info("suspicion refuted", by=accuser or None, incarnation=incarnation)
            case OutdatedAlive(node=node, incarnation=incarnation, claimed=claimed):
                if self._is_news(("outdated", node)):
                    self._log.info(
                        "outdated alive message received: asking the member",
                        node=node,
                        incarnation=incarnation,
                        address=claimed,
                    )
            case AccusationRefused(node=node, incarnation=incarnation):
                if self._is_news(("accusation", node)):
                    self._log.warning(
                        "failure report rejected: its incarnation is too high to refute",
                        node=node,
                        incarnation=incarnation,
                    )
            case BegunAnew(incarnation=incarnation):
                self._log.warning("own incarnation reached its limit: started over", incarnation=incarnation)
            case PushPullDone(address=address, members=count, join=join, seconds=seconds):
                (self._log.info if join else self._log.debug)(
                    "state exchanged", address=address, members=count, seconds=round(seconds, 3)
                )
            case PushPullAnswered(address=address, members=count, join=join, seconds=seconds):
                self._log.debug(
                    "state exchange answered",
                    address=address,
                    members=count,
                    join=join,
                    seconds=round(seconds, 3),
                )
            case PushPullFailed(address=address, error=error):
                if self._is_news(("push-pull", address, error)):
                    self._log.warning("state not exchanged", address=address, error=error)
            case UserMessageReceived(payload=payload, sender=sender):
                self._log.debug("user message received", sender=sender, bytes=len(payload))
            case UserMessageFailed(address=address, error=error):
                self._log.debug("user message not delivered", to=address, error=error)
            case KnockAnswered(address=address, answer=answer):
                self._log.debug("request without a key answered", address=address, bytes=len(answer))
            case UnreadableStream(remote=remote, asked_for=asked_for):
                # Anyone can send such a request, but only hosts that we dial such an answer.
                if self._is_news(("unreadable", remote.ip if asked_for else "")):
                    self._log.warning("peer has another cluster key", peer=remote.ip, answered=asked_for)
            case StreamsFull(holder=holder, held=held, holders=holders):
                if self._is_news("streams-full"):
                    self._log.warning(
                        "too many connections: each new one replaces the idlest",
                        most_from=holder,
                        connections=held,
                        sources=holders,
                    )
            case PacketRejected(reason=reason, sender=sender):
                self._write_rejected(reason, sender)
            case AddressChanged(member=m):
                self._log.info("own address changed", address=m.address)
            case FailedElsewhere(address=address):
                self._log.debug("own name declared failed at another address", address=address)
            case LeaveDone():
                self._log.info("leave announced")
            case _:
                log_member_event(self._log if isinstance(event, CAUSED_BY_PEERS) else log, event)

    def _write_rejected(self, reason: str, sender: Address) -> None:
        # Not one line per packet, even at DEBUG: any host can send thousands a second.
        self._rejected[reason] += 1
        if self._is_news(("rejected", reason)):
            count = self._rejected.pop(reason)
            self._log.info("packets rejected", reason=reason, count=count, last_from=sender)

    def _is_news(self, fault: Hashable) -> bool:
        now = self._clock()
        if self._said.get(fault, -QUIET) + QUIET > now:
            return False
        if len(self._said) >= MAX_REMEMBERED:
            # Peers choose the names in faults, so they must not decide how many are remembered.
            self._said.clear()
        self._said[fault] = now
        return True


class _LimitedLogger(EventLogger):
    """Writes at most `BURST` lines at once and `LINES_A_SECOND` in the long run; counts what it drops."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__("wesher.gossip")
        self._clock = clock
        self._lines: float = BURST
        """How many may be written now."""
        self._counted_at = clock()
        self._dropped = 0

    def write(
        self, level: int, event: str, fields: Mapping[str, object], *, with_traceback: bool = False
    ) -> None:
        """Write an event, or count it as dropped."""
        if not self.is_enabled_for(level):
            return
        now = self._clock()
        self._lines = min(BURST, self._lines + (now - self._counted_at) * LINES_A_SECOND)
        self._counted_at = now
        if self._lines < 1:
            self._dropped += 1
            return
        self._lines -= 1
        if self._dropped:
            log.warning("log lines dropped: too many events", lines=self._dropped)
            self._dropped = 0
        super().write(level, event, fields, with_traceback=with_traceback)
