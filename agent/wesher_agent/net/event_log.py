"""Says in the log what the engine reports: what an administrator acts on, and no packet."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Hashable

from wesher_agent.swim.address import Address
from wesher_agent.swim.events import (
    AccusationRefused,
    AddressChanged,
    Event,
    LeaveDone,
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


class EventLog:
    """Writes events; a fault that keeps coming is written once in `QUIET` seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._said: dict[Hashable, float] = {}
        self._rejected: Counter[str] = Counter()
        """Packets dropped since they were last spoken of, by reason."""

    def write(self, event: Event) -> None:  # noqa: C901, PLR0912 - an arm an event is the plainest table
        """Say one event, at the level it deserves."""
        match event:
            case MemberJoined(member=m):
                log.info("member joined node=%s address=%s", m.name, m.address)
            case MemberUpdated(member=m):
                log.debug("member updated node=%s", m.name)
            case MemberSuspected(member=m, from_node=accuser):
                log.info("member suspected node=%s by=%s", m.name, accuser)
            case MemberAlive(member=m):
                log.info("member denied suspicion node=%s", m.name)
            case MemberFailed(member=m, from_node=accuser, confirmations=count):
                log.warning("member failed node=%s by=%s confirmations=%d", m.name, accuser, count)
            case MemberLeft(member=m):
                log.info("member left node=%s", m.name)
            case MemberForgotten(member=m):
                log.debug("member forgotten by gossip node=%s", m.name)
            case NameConflict(member=m, claimed=claimed):
                if self._is_news(("conflict", m.name, claimed)):
                    log.error(
                        "name claimed from two addresses, unless the member moved give one of the two "
                        "another name node=%s holder=%s other=%s",
                        m.name,
                        m.address,
                        claimed,
                    )
            case MembersFull(name=name):
                if self._is_news("full"):
                    log.error("member not admitted, too many are known node=%s", name)
            case UdpUnreachable(member=m):
                if self._is_news(("udp", m.name)):
                    log.warning("member answers over tcp only, is its udp port blocked? node=%s", m.name)
            case SelfRefuted(incarnation=incarnation, accused_by=accuser):
                log.info("suspicion of ourselves denied by=%s incarnation=%d", accuser or "-", incarnation)
            case OutdatedAlive(node=node, incarnation=incarnation, claimed=claimed):
                if self._is_news(("outdated", node)):
                    log.info(
                        "member gone for long is claimed alive by old news, asking it "
                        "node=%s incarnation=%d address=%s",
                        node,
                        incarnation,
                        claimed,
                    )
            case AccusationRefused(node=node, incarnation=incarnation):
                if self._is_news(("accusation", node)):
                    log.warning("accusation refused node=%s incarnation=%d", node, incarnation)
            case PushPullDone(address=address, members=count, join=join):
                level = logging.INFO if join else logging.DEBUG
                log.log(level, "state exchanged with=%s members=%d", address, count)
            case PushPullFailed(address=address, error=error):
                if self._is_news(("push-pull", address, error)):
                    log.warning("state not exchanged with=%s error=%s", address, error)
            case UserMessageReceived(payload=payload, sender=sender):
                log.debug("user message received from=%s bytes=%d", sender, len(payload))
            case UserMessageFailed(address=address, error=error):
                log.debug("user message not delivered to=%s error=%s", address, error)
            case PacketRejected(reason=reason, sender=sender):
                self._write_rejected(reason, sender)
            case AddressChanged(member=m):
                log.info("own address changed address=%s", m.address)
            case LeaveDone():
                log.info("leave announced")

    def _write_rejected(self, reason: str, sender: Address) -> None:
        # Not even at DEBUG each by itself: anybody can send thousands a second.
        self._rejected[reason] += 1
        if self._is_news(("rejected", reason)):
            count = self._rejected.pop(reason)
            log.info("packets rejected reason=%s count=%d last_from=%s", reason, count, sender)

    def _is_news(self, fault: Hashable) -> bool:
        now = self._clock()
        if self._said.get(fault, -QUIET) + QUIET > now:
            return False
        if len(self._said) >= MAX_REMEMBERED:
            # Others choose the names in faults; how many are remembered must not be theirs to choose.
            self._said.clear()
        self._said[fault] = now
        return True
