"""Says in the log what the engine reports: what an administrator acts on, and no packet."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Hashable

from wesher_agent.mesh.events import Event
from wesher_agent.net.member_log import line_of
from wesher_agent.swim.address import Address
from wesher_agent.swim.events import (
    AccusationRefused,
    AddressChanged,
    BegunAnew,
    LeaveDone,
    LeaveLearned,
    MemberAlive,
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
    PushPullDone,
    PushPullFailed,
    SelfRefuted,
    UdpUnreachable,
    UserMessageFailed,
    UserMessageReceived,
)

log = logging.getLogger("wesher.gossip")

QUIET = 300.0
"""Seconds in which a standing fault is not said again."""
MAX_REMEMBERED = 256
BURST = 5000
"""Lines that may come at once: a mesh of a thousand falling apart and coming together again."""
LINES_A_SECOND = 2.0
"""Lines in the long run; whoever has the key can make things happen as often as packets fit on a wire."""


class EventLog:
    """Writes events; a fault that keeps coming once in `QUIET` seconds, and no more than `BURST` at once."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._said: dict[Hashable, float] = {}
        self._rejected: Counter[str] = Counter()
        """Packets dropped since they were last spoken of, by reason."""
        self._lines: float = BURST
        """How many may be written now."""
        self._counted_at = clock()
        self._unsaid = 0

    def write(self, event: Event) -> None:  # noqa: C901, PLR0912, PLR0915 - an arm an event is the plainest table
        """Say one event, at the level it deserves."""
        match event:
            case MemberJoined(member=m):
                self._say(logging.INFO, "member joined node=%s address=%s", m.name, m.address)
            case MemberUpdated(member=m):
                self._say(logging.DEBUG, "member updated node=%s", m.name)
            case MemberSuspected(member=m, from_node=accuser):
                self._say(logging.INFO, "member suspected node=%s by=%s", m.name, accuser)
            case MemberAlive(member=m):
                self._say(logging.INFO, "member denied suspicion node=%s", m.name)
            case MemberFailed(member=m, from_node=accuser, confirmations=count):
                self._say(
                    logging.WARNING, "member failed node=%s by=%s confirmations=%d", m.name, accuser, count
                )
            case MemberLeft(member=m):
                self._say(logging.INFO, "member left node=%s", m.name)
            case LeaveLearned(node=node, incarnation=incarnation):
                # Whoever joins hears it of all that left within a day.
                self._say(logging.DEBUG, "member had left node=%s incarnation=%d", node, incarnation)
            case MemberForgotten(member=m):
                self._say(logging.DEBUG, "member forgotten by gossip node=%s", m.name)
            case NameConflict(member=m, claimed=claimed):
                if self._is_news(("conflict", m.name, claimed)):
                    self._say(
                        logging.ERROR,
                        "name claimed from two addresses, unless the member moved give one of the two "
                        "another name node=%s holder=%s other=%s",
                        m.name,
                        m.address,
                        claimed,
                    )
            case MembersFull(name=name):
                if self._is_news("full"):
                    self._say(logging.ERROR, "member not admitted, too many are known node=%s", name)
            case UdpUnreachable(member=m):
                if self._is_news(("udp", m.name)):
                    self._say(
                        logging.WARNING,
                        "member answers over tcp only, is its udp port blocked? node=%s",
                        m.name,
                    )
            case SelfRefuted(incarnation=incarnation, accused_by=accuser):
                self._say(
                    logging.INFO,
                    "suspicion of ourselves denied by=%s incarnation=%d",
                    accuser or "-",
                    incarnation,
                )
            case OutdatedAlive(node=node, incarnation=incarnation, claimed=claimed):
                if self._is_news(("outdated", node)):
                    self._say(
                        logging.INFO,
                        "member gone for long is claimed alive by old news, asking it "
                        "node=%s incarnation=%d address=%s",
                        node,
                        incarnation,
                        claimed,
                    )
            case AccusationRefused(node=node, incarnation=incarnation):
                if self._is_news(("accusation", node)):
                    self._say(logging.WARNING, "accusation refused node=%s incarnation=%d", node, incarnation)
            case BegunAnew(incarnation=incarnation):
                self._say(
                    logging.WARNING,
                    "own incarnation used up by somebody who has the cluster key, begun anew incarnation=%d",
                    incarnation,
                )
            case PushPullDone(address=address, members=count, join=join):
                level = logging.INFO if join else logging.DEBUG
                self._say(level, "state exchanged with=%s members=%d", address, count)
            case PushPullFailed(address=address, error=error):
                if self._is_news(("push-pull", address, error)):
                    self._say(logging.WARNING, "state not exchanged with=%s error=%s", address, error)
            case UserMessageReceived(payload=payload, sender=sender):
                self._say(logging.DEBUG, "user message received from=%s bytes=%d", sender, len(payload))
            case UserMessageFailed(address=address, error=error):
                self._say(logging.DEBUG, "user message not delivered to=%s error=%s", address, error)
            case PacketRejected(reason=reason, sender=sender):
                self._write_rejected(reason, sender)
            case AddressChanged(member=m):
                self._say(logging.INFO, "own address changed address=%s", m.address)
            case LeaveDone():
                self._say(logging.INFO, "leave announced")
            case _:
                if (line := line_of(event)) is not None:
                    level, message, arguments = line
                    self._say(level, message, *arguments)

    def _write_rejected(self, reason: str, sender: Address) -> None:
        # Not even at DEBUG each by itself: anybody can send thousands a second.
        self._rejected[reason] += 1
        if self._is_news(("rejected", reason)):
            count = self._rejected.pop(reason)
            self._say(logging.INFO, "packets rejected reason=%s count=%d last_from=%s", reason, count, sender)

    def _say(self, level: int, message: str, *arguments: object) -> None:
        if not log.isEnabledFor(level):
            return
        now = self._clock()
        self._lines = min(BURST, self._lines + (now - self._counted_at) * LINES_A_SECOND)
        self._counted_at = now
        if self._lines < 1:
            self._unsaid += 1
            return
        self._lines -= 1
        if self._unsaid:
            log.warning("events were too many to write lines=%d", self._unsaid)
            self._unsaid = 0
        log.log(level, message, *arguments)

    def _is_news(self, fault: Hashable) -> bool:
        now = self._clock()
        if self._said.get(fault, -QUIET) + QUIET > now:
            return False
        if len(self._said) >= MAX_REMEMBERED:
            # Others choose the names in faults; how many are remembered must not be theirs to choose.
            self._said.clear()
        self._said[fault] = now
        return True
