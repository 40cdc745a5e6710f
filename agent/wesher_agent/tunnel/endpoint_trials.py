"""Which endpoint to send to when a peer announces another one than its session uses; pure.

Any holder of the cluster key can announce an endpoint, while only the peer can prove one:
WireGuard learns it from an authentic packet (WireGuard paper, 2.1). So the proven endpoint
stays while the peer answers through the tunnel, and a false announcement costs nothing.
A peer that got another port or address is silent at its proven endpoint. Then the
announced one is tried, and the proven one restored if that brings no answer either. The
two alternate with growing pauses. They still do when the last handshake is too old for a session,
and after a restart, as long as no handshake succeeds: the announcement may be forged, or the peer
may have moved. Of a peer that never had a handshake only the announcement is known.

Setting endpoints, sending probes and reading the device is left to `endpoint_keeper`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from types import MappingProxyType

from wesher_agent.mesh.device import Endpoint
from wesher_agent.tunnel.probe_plan import ANSWER_SECONDS, has_answered
from wesher_agent.wireguard.plan import PeerSession

AGAIN_SECONDS = 0.6
"""After which a question is repeated once, since either packet may be lost."""
SILENT_SECONDS = 1.2
"""After which a peer that usually answers at once is silent; for others it is `ANSWER_SECONDS`."""
TRY_SECONDS = 6.0
"""How long the announced endpoint is tried: WireGuard repeats a lost handshake after 5 s (paper, 6.1)."""
FIRST_REST, LONGEST_REST = 6.0, 60.0
"""Seconds at the proven endpoint before the next try; the rest doubles with each try in vain."""
HANDSHAKE_SECONDS = 5.0
"""How long each endpoint is tried at first without a session: WireGuard repeats a handshake after that."""
PAUSES = (1.0, 2.0, 4.0, 8.0)
"""Seconds between the questions after an announcement: it may arrive before the peer has moved."""


@dataclass(slots=True)
class Step:
    """What to do now, in this order."""

    moves: dict[str, Endpoint] = field(default_factory=dict)
    """Endpoints to set on the device."""
    asks: list[str] = field(default_factory=list)
    """Peers to send a probe to."""
    tried: list[str] = field(default_factory=list)
    """Of ``moves``: those to the announced endpoint."""
    restored: list[str] = field(default_factory=list)
    """Of ``moves``: those back to the proven endpoint."""


class _Phase(Enum):
    WAITING = auto()
    """To be asked at the proven endpoint."""
    ASKED = auto()
    """At the proven endpoint, which it may still answer from."""
    TRYING = auto()
    """At the announced endpoint, which it may still answer from."""
    ALTERNATING = auto()
    """Without a session, at one endpoint and then at the other."""


@dataclass(slots=True)
class _Doubt:
    """A peer whose endpoint is not settled."""

    phase: _Phase
    until: float
    """When the phase ends."""
    missed_probe: bool = False
    """Whether it has had the time of a slow answer already."""
    again: float | None = None
    """When to repeat the question, or to try what was announced meanwhile."""
    received: int = 0
    """The device's counter for the peer when it was asked."""
    proven: Endpoint | None = None
    """Where to return to after a try."""
    rest: float = FIRST_REST
    questions: int = 0
    """How many were answered since the announcement."""

    @property
    def timer(self) -> float:
        return self.until if self.again is None else self.again


class EndpointTrials:
    """Which peers to doubt, and what to do about them. All times but Unix times are a monotonic clock's."""

    def __init__(self) -> None:
        self._announced: dict[str, Endpoint] = {}
        self._proven: dict[str, Endpoint] = {}
        self._doubts: dict[str, _Doubt] = {}

    def set_announced(
        self,
        endpoints: Mapping[str, Endpoint],
        proven: Mapping[str, Endpoint] = MappingProxyType({}),
        *,
        now: float,
    ) -> None:
        """Replace what the peers announce; those with another announcement than before are doubted.

        Args:
            endpoints: the announced endpoint of each peer.
            proven: the endpoints that handshakes proved, of the peers that announce another one.
            now: the time.

        """
        for name, endpoint in endpoints.items():
            if name not in self._announced and name in proven:
                # The device begins at the proven one. No announcement ends this before a handshake could.
                self._doubts[name] = _Doubt(
                    _Phase.ALTERNATING, until=now + HANDSHAKE_SECONDS, rest=HANDSHAKE_SECONDS
                )
            if self._announced.get(name, endpoint) == endpoint:
                continue
            doubt = self._doubts.get(name)
            # A question or a try under way goes on: repeated announcements must not prolong it.
            if doubt is None or doubt.phase is _Phase.WAITING:
                self._doubts[name] = _Doubt(_Phase.WAITING, until=now)
            elif doubt.phase is _Phase.TRYING:
                doubt.again = now
        self._announced, self._proven = dict(endpoints), dict(proven)
        for gone in self._doubts.keys() - endpoints.keys():
            del self._doubts[gone]

    def doubt(self, names: Iterable[str], *, now: float) -> None:
        """Take note that these peers did not answer a probe in time."""
        for name in names:
            doubt = self._doubts.get(name)
            if name in self._announced and (doubt is None or doubt.phase is _Phase.WAITING):
                # One question more: a probe or its answer may have been lost, and a try cuts off such a peer.
                self._doubts[name] = _Doubt(_Phase.WAITING, until=now, missed_probe=True)

    def next_timer(self) -> float | None:
        """When `step` wants to be called; None while nothing is in doubt."""
        return min((doubt.timer for doubt in self._doubts.values()), default=None)

    def step(
        self, sessions: Mapping[str, PeerSession], quick: Collection[str], *, now: float, wall: float
    ) -> Step:
        """Decide from the device as it is.

        Args:
            sessions: the device's peers by name, as just read.
            quick: peers that usually answer probes at once.
            now: the time.
            wall: Unix time, for the age of handshakes.

        """
        step = Step()
        for name, doubt in list(self._doubts.items()):
            session = sessions.get(name)
            if session is None or not session.has_fresh_handshake(now=wall):
                self._alternate(step, name, session, now)
            elif doubt.phase is _Phase.ALTERNATING:
                del self._doubts[name]
            elif doubt.phase is _Phase.TRYING:
                self._judge_try(step, name, session, now)
            elif session.endpoint == self._announced[name]:
                del self._doubts[name]
            else:
                self._judge_proven(step, name, session, is_quick=name in quick, now=now)
        return step

    def sent(self, peers: Iterable[str], *, took: float) -> None:
        """Say that these peers' probes have left: a thousand take seconds, which no peer has been silent for.

        Args:
            peers: as `Step.asks`.
            took: seconds from `step` until the last one had left.

        """
        for name in peers:
            if (doubt := self._doubts.get(name)) is not None:
                doubt.until += took
                doubt.again = None if doubt.again is None else doubt.again + took

    def _judge_proven(
        self, step: Step, name: str, session: PeerSession, *, is_quick: bool, now: float
    ) -> None:
        doubt = self._doubts[name]
        if doubt.phase is _Phase.ASKED and has_answered(doubt.received, session.rx_bytes):
            self._answered(name, now)
        elif doubt.phase is _Phase.ASKED and doubt.again is not None and doubt.again <= now < doubt.until:
            doubt.again = None
            step.asks.append(name)
        elif now < doubt.until:
            return
        elif doubt.phase is _Phase.WAITING:
            doubt.phase, doubt.received = _Phase.ASKED, session.rx_bytes
            # One that missed a probe is being asked for the second time already.
            doubt.again = None if doubt.missed_probe else now + AGAIN_SECONDS
            doubt.until = now + (SILENT_SECONDS if is_quick or doubt.missed_probe else ANSWER_SECONDS)
            step.asks.append(name)
        else:
            doubt.phase, doubt.received, doubt.proven = _Phase.TRYING, session.rx_bytes, session.endpoint
            doubt.again, doubt.until = None, now + TRY_SECONDS
            self._move(step, name, self._announced[name])
            step.tried.append(name)

    def _judge_try(self, step: Step, name: str, session: PeerSession, now: float) -> None:
        doubt, announced = self._doubts[name], self._announced[name]
        doubt.again = None
        if has_answered(doubt.received, session.rx_bytes):
            if session.endpoint == announced:
                del self._doubts[name]
            else:
                # WireGuard has learned from the answer where the peer is.
                self._answered(name, now)
        elif now >= doubt.until and doubt.proven is not None:
            doubt.phase, doubt.until = _Phase.ASKED, now + doubt.rest
            doubt.rest = min(2 * doubt.rest, LONGEST_REST)
            self._move(step, name, doubt.proven)
            step.restored.append(name)
        elif session.endpoint != announced:
            # Another was announced meanwhile, or the device did not take the last.
            self._move(step, name, announced)

    def _alternate(self, step: Step, name: str, session: PeerSession | None, now: float) -> None:
        """Try the two endpoints of a peer without a session in turn."""
        doubt, proven = self._doubts[name], self._proven.get(name)
        if proven is None:
            # `wireguard.plan` chooses the announced one.
            del self._doubts[name]
            return
        if doubt.phase is not _Phase.ALTERNATING and (
            doubt.phase is not _Phase.WAITING or now >= doubt.until
        ):
            doubt.phase, doubt.until, doubt.rest = _Phase.ALTERNATING, now, HANDSHAKE_SECONDS
        doubt.again = None
        if now < doubt.until:
            return
        doubt.until = now + doubt.rest
        if session is None:
            # The device does not have it yet.
            return
        if session.endpoint == proven:
            self._move(step, name, self._announced[name])
            step.tried.append(name)
        else:
            self._move(step, name, proven)
            step.restored.append(name)
            doubt.rest = min(2 * doubt.rest, LONGEST_REST)

    def _answered(self, name: str, now: float) -> None:
        """Ask again soon, as long as the announcement is new."""
        answered = self._doubts.pop(name).questions
        if answered < len(PAUSES):
            self._doubts[name] = _Doubt(_Phase.WAITING, now + PAUSES[answered], questions=answered + 1)

    def _move(self, step: Step, name: str, endpoint: Endpoint) -> None:
        step.moves[name] = endpoint
        step.asks.append(name)
