"""Which peers are reachable through the tunnel, found out by asking them.

A probe is one small datagram to a peer's overlay address. Whatever runs there,
its WireGuard must answer with something authenticated: a handshake, the ICMP
error, or the passive keepalive it owes ten seconds after data it has nothing to
say to (WireGuard paper, 6.5). So a peer is reachable when the device received
bytes from it after the probe, and this holds for Go members too.

A peer that receives nothing from this node still sends something: its own probes, and
attempts to begin a handshake. Bytes that these account for are not an answer, so that a
node whose packets are lost on their way does not take the peer for reachable.

`ProbePlan` is pure; sending and reading the counters is left to the shell.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from random import Random

ROUND_SECONDS = 30.0
ANSWER_SECONDS = 12.0
"""A passive keepalive takes ten."""
AGAIN_SECONDS = ANSWER_SECONDS
"""How soon a peer that did not answer is asked again: one look judges it and begins the next probe."""
LOOKS = (1.0, 3.0, 7.0)
"""Seconds after a probe of early looks for answers: each reads every peer."""
QUICK_SECONDS = 2.0
"""Within which an answer is read that came at once: the first look is a second after the probe."""
FEWEST = 3
PROBED_BYTES = 49
"""Of a probe inside the tunnel, headers included, in both families: in IPv4 it is padded for this.

Padded to 16 and with WireGuard's 32 it counts as 96 bytes, which no answer does: a passive keepalive
is 32, a handshake's response 92, and the ICMP error 112 in IPv4 and 144 in IPv6.
"""
_PROBE, _INITIATION = 96, 148
_UNPROMPTED = frozenset(
    _PROBE * probes + _INITIATION * initiations for probes in (0, 1) for initiations in range(5)
)
"""What a peer sends within `ANSWER_SECONDS` that receives nothing: it begins a handshake every 5 s."""


def has_answered(before: int, received: int) -> bool:
    """Tell from a peer's counter of bytes received whether it has answered since it was read.

    What it sends of itself, probes and handshakes, is not an answer; in doubt it is. A peer
    or a device that was made again counts from 0: what it has received came since then.

    Args:
        before: the counter at the question.
        received: the counter now.

    """
    count = received - before if received >= before else received
    return count > 0 and count not in _UNPROMPTED


@dataclass(slots=True)
class _Asked:
    at: float
    received: int
    """The device's counter for that peer when it was asked."""
    may_answer: bool
    """Whether an early look is worth it: the peer did not fail to answer the last time."""


class ProbePlan:
    """Which peers to probe when, and with what result.

    Peers are named by whatever the caller likes; the plan keeps what is true of
    those that are there now.
    """

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._peers: set[str] = set()
        self._queue: list[str] = []
        self._asked: dict[str, _Asked] = {}
        self._answered: dict[str, bool] = {}
        self._quick: set[str] = set()
        self._asks_everyone = False
        self._next_round = -math.inf
        self._pause = 0.0
        """From the last round to the next."""
        self._looks: list[float] = []
        """When to look before an answer's time is over."""
        self._first_round: set[str] | None = None
        self._is_settled = False

    @property
    def is_settled(self) -> bool:
        """Whether each peer there was at the first round has answered or let its time pass."""
        return self._is_settled

    @property
    def unreachable(self) -> tuple[str, ...]:
        """Peers whose last finished probe got no answer, sorted."""
        return tuple(sorted(peer for peer, answered in self._answered.items() if not answered))

    @property
    def reachable(self) -> frozenset[str]:
        """Peers whose last finished probe was answered."""
        return frozenset(peer for peer, answered in self._answered.items() if answered)

    @property
    def quick(self) -> frozenset[str]:
        """Peers that answered their last finished probe at once, so that silence of a second says something.

        Others answer with nothing but the keepalive, such as those whose firewall drops probes.
        """
        return frozenset(self._quick)

    @property
    def mostly_failing(self) -> bool:
        """Whether more than half of the last finished probes got no answer."""
        return 2 * sum(not answered for answered in self._answered.values()) > len(self._answered)

    def set_peers(self, peers: Iterable[str], *, now: float) -> None:
        """Replace who is there; newcomers are probed with the next round, which is now."""
        present = set(peers)
        new = sorted(present - self._peers)
        for gone in self._peers - present:
            self._asked.pop(gone, None)
            self._answered.pop(gone, None)
            self._quick.discard(gone)
        self._peers = present
        self._queue = [peer for peer in self._queue if peer in present]
        if new:
            self._rng.shuffle(new)
            self._queue[:0] = new
            self._next_round = min(self._next_round, now)

    def start_over(self, *, now: float) -> None:
        """Forget every answer, and ask everybody now."""
        self._asked.clear()
        self._answered.clear()
        self._looks.clear()
        self._first_round = None
        self._next_round = now

    def ask_everyone(self, *, now: float) -> None:
        """Ask everybody now; what is known of them stays until they have answered."""
        self._asks_everyone = True
        self._next_round = now

    def next_timer(self) -> float | None:
        """When `due` or `judge` wants to be called; None while there are no peers."""
        if not self._peers:
            return None
        early = [self._looks[0]] if self._looks else []
        return min([self._next_round, *early, *(asked.at + ANSWER_SECONDS for asked in self._asked.values())])

    def due(self, received: Mapping[str, int], *, now: float) -> list[str]:
        """Take the peers to send a probe to now.

        Args:
            received: the device's counter of bytes received, by peer.
            now: the time.

        """
        if now < self._next_round:
            return []
        candidates = sorted(self._peers) if self._asks_everyone else self._unheard()
        self._asks_everyone = False
        wanted = [peer for peer in candidates if peer not in self._asked]
        quota = max(FEWEST, math.ceil(math.log2(len(self._peers) + 1)))
        while len(wanted) < quota:
            if not self._queue:
                self._queue = self._rest(wanted)
            if not self._queue:
                break
            peer = self._queue.pop(0)
            if peer not in wanted and peer not in self._asked:
                wanted.append(peer)
        for peer in wanted:
            self._asked[peer] = _Asked(now, received.get(peer, 0), self._answered.get(peer, True))
        self._plan_looks(wanted, now)
        if self._first_round is None:
            self._first_round = set(wanted)
        self._pause = AGAIN_SECONDS if self.unreachable else ROUND_SECONDS
        self._next_round = now + self._pause
        return wanted

    def sent(self, peers: Iterable[str], *, now: float) -> None:
        """Say that these probes were sent by now: a thousand take seconds, which count against no peer."""
        asked = [peer for peer in peers if peer in self._asked]
        # Unless newcomers, or a device without sessions, want a round earlier.
        if asked and self._next_round == self._asked[asked[0]].at + self._pause:
            self._next_round = now + self._pause
        for peer in asked:
            self._asked[peer].at = now
        self._plan_looks(asked, now)

    def judge(self, received: Mapping[str, int], *, now: float) -> bool:
        """Compare the counters with those at the probes; tell whether a conclusion changed."""
        before = self.unreachable, self.is_settled
        for peer, asked in list(self._asked.items()):
            if has_answered(asked.received, received.get(peer, 0)):
                self._answered[peer] = True
                # A late answer shows a slow peer. No answer does not: its path may be cut.
                if now < asked.at + QUICK_SECONDS:
                    self._quick.add(peer)
                else:
                    self._quick.discard(peer)
            elif now >= asked.at + ANSWER_SECONDS:
                self._answered[peer] = False
            else:
                continue
            del self._asked[peer]
        self._looks = [look for look in self._looks if look > now and self._may_answer(self._asked)]
        if self._first_round is not None:
            self._first_round -= self._answered.keys()
            self._is_settled = self._is_settled or not self._first_round & self._peers
        return (self.unreachable, self.is_settled) != before

    def _plan_looks(self, peers: Iterable[str], now: float) -> None:
        if self._may_answer(peers):
            self._looks = [now + seconds for seconds in LOOKS]

    def _may_answer(self, peers: Iterable[str]) -> bool:
        return any(self._asked[peer].may_answer for peer in peers)

    def _unheard(self) -> list[str]:
        """Return those never probed yet, and those that did not answer."""
        return sorted(peer for peer in self._peers if not self._answered.get(peer, False))

    def _rest(self, wanted: list[str]) -> list[str]:
        rest = sorted(self._peers - set(wanted) - self._asked.keys())
        self._rng.shuffle(rest)
        return rest
