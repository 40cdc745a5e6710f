"""Failure detection: which member to ping, which to ask for help, when to suspect (`state.go`, probeNode).

One member is probed at a time. A direct ping that goes unanswered is followed by
pings through other members and one over TCP; any answer before the probe's deadline
saves the member.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from wesher_agent.swim import events
from wesher_agent.swim.awareness import Awareness
from wesher_agent.swim.events import Event
from wesher_agent.swim.exchange import Exchange
from wesher_agent.swim.local_member import LocalMember
from wesher_agent.swim.members import Member, MemberTable
from wesher_agent.swim.membership import Membership
from wesher_agent.swim.outbox import Outbox
from wesher_agent.swim.profile import Profile
from wesher_agent.swim.timers import Kind, Timer, Timers
from wesher_agent.wire.messages import IndirectPing, Ping, State, Suspect

_TURN = Timer(Kind.PROBE)
_TIMEOUT = Timer(Kind.PROBE_TIMEOUT)
_DEADLINE = Timer(Kind.PROBE_DEADLINE)

_TCP_PING_PROTOCOL = 3
_NACK_PROTOCOL = 4


@dataclass(slots=True)
class _Probe:
    """The probe under way."""

    member: Member
    """As it was believed to be when the probe began."""
    ping: Ping
    deadline: float
    expected_nacks: int = 0
    nacks: int = 0
    answered_tcp: bool = False


@dataclass(kw_only=True, slots=True)
class Prober:
    """Probes members in turn and hands failures to `Membership`."""

    profile: Profile
    """Intervals, and the number of helpers."""
    table: MemberTable
    """Has members that can help."""
    local: LocalMember
    """The member that probes."""
    membership: Membership
    """Chooses the next member, and judges suspicions."""
    awareness: Awareness
    """Stretches probes, and learns from their results."""
    outbox: Outbox
    """Takes pings over UDP."""
    exchange: Exchange
    """Sends pings over TCP."""
    timers: Timers
    """Holds the three deadlines."""
    sequence: Iterator[int]
    """Numbers pings."""
    emit: Callable[[Event], None]
    """Takes what happened."""
    _probe: _Probe | None = field(default=None, init=False)
    _turn_missed: bool = field(default=False, init=False)

    def start(self, *, phase: float, now: float) -> None:
        """Take the first turn ``phase`` seconds from now."""
        self.timers.set(_TURN, now + phase)

    def turn(self, *, now: float) -> None:
        """Probe the next member, now or when the probe under way ends."""
        self.timers.set(_TURN, now + self.profile.probe_interval)
        if self._probe is not None:
            self._turn_missed = True
        else:
            self._begin(now)

    def ack(self, seq_no: int, *, now: float) -> None:
        """Take the answer to a ping, from any address."""
        if self._probe is not None and self._probe.ping.seq_no == seq_no:
            self._end(-1, now)

    def nack(self, seq_no: int) -> None:
        """Take a helper's nack: it is healthy, but the probed member did not answer it."""
        probe = self._probe
        if probe is not None and probe.ping.seq_no == seq_no:
            probe.nacks = min(probe.nacks + 1, probe.expected_nacks)

    def tcp_ack(self, seq_no: int) -> None:
        """Take the answer to a ping over TCP."""
        if self._probe is not None and self._probe.ping.seq_no == seq_no:
            self._probe.answered_tcp = True

    def timed_out(self, *, now: float) -> None:
        """Ask other members, and try TCP, since the direct ping was not answered in time."""
        probe = self._probe
        if probe is None:
            return
        me, target = self.local.me, probe.member
        count = self.profile.indirect_checks

        def can_help(member: Member) -> bool:
            return member.state is State.ALIVE and member.name != target.name

        drawn = [*self.table.pick(count, can_help), *self.table.pick_proven(count, can_help)]
        helpers = {helper.name: helper for helper in drawn}
        for helper in helpers.values():
            nack = helper.versions.protocol_max >= _NACK_PROTOCOL
            probe.expected_nacks += nack
            request = IndirectPing(
                seq_no=probe.ping.seq_no,
                target=target.address.packed,
                port=target.address.port,
                node=target.name,
                nack=nack,
                source_addr=me.address.packed,
                source_port=me.address.port,
                source_node=me.name,
            )
            self.outbox.send(helper.address, request, checksum=helper.reads_checksums)
        tcp = not self.profile.disable_tcp_pings and target.versions.protocol_max >= _TCP_PING_PROTOCOL
        if tcp:
            self.exchange.ping(target.address, probe.ping, probe.deadline - now)
        self.emit(events.ProbeUnanswered(target, tuple(helpers), tcp))

    def over(self, *, now: float) -> None:
        """End the probe: only TCP answered, or nothing did."""
        probe = self._probe
        if probe is None:
            return
        if probe.answered_tcp:
            self.emit(events.UdpUnreachable(probe.member))
            self._end(-1, now)
            return
        # A nack shows that a helper cannot reach the member either, so the fault is probably
        # not here; a missing nack makes it likely that it is.
        missing = probe.expected_nacks - probe.nacks if probe.expected_nacks else 1
        self.emit(events.ProbeFailed(probe.member, missing))
        accusation = Suspect(probe.member.incarnation, probe.member.name, self.local.name)
        self.membership.suspect(accusation, now=now)
        self._end(missing, now)

    def _begin(self, now: float) -> None:
        member = self.membership.next_to_probe(now=now)
        if member is None:
            return
        me = self.local.me
        ping = Ping(next(self.sequence), member.name, me.address.packed, me.address.port, me.name)
        interval = self.awareness.scale_timeout(self.profile.probe_interval)
        self._probe = _Probe(member, ping, deadline=now + interval)
        self.timers.set(_DEADLINE, now + interval)
        self.timers.set(_TIMEOUT, now + self.profile.probe_timeout)
        if member.state is State.SUSPECT:
            # A member that learns of the suspicion now can refute it now.
            accusation = Suspect(member.incarnation, member.name, me.name)
            self.outbox.send(member.address, ping, accusation, checksum=member.reads_checksums)
        else:
            self.outbox.send(member.address, ping, checksum=member.reads_checksums)

    def _end(self, health_delta: int, now: float) -> None:
        self._probe = None
        self.timers.cancel(_TIMEOUT)
        self.timers.cancel(_DEADLINE)
        self.awareness.apply_delta(health_delta)
        if self._turn_missed:
            self._turn_missed = False
            self._begin(now)
