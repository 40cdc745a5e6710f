"""Failure detection: whom to ping, whom to ask for help, when to suspect (`state.go`, probeNode).

One member is probed at a time. A direct ping that goes unanswered is followed by
pings through other members and one over TCP; whatever answers before the probe's
end saves the member.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from wesher_agent.swim import events
from wesher_agent.swim.address import Address
from wesher_agent.swim.awareness import Awareness
from wesher_agent.swim.events import Event
from wesher_agent.swim.local_member import LocalMember
from wesher_agent.swim.members import Member, MemberTable
from wesher_agent.swim.membership import Membership
from wesher_agent.swim.outbox import Outbox
from wesher_agent.swim.profile import Profile
from wesher_agent.swim.sequence import SequenceNumbers
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


class Prober:
    """Probes members in turn and hands failures to `Membership`.

    Args:
        profile: intervals and the number of helpers.
        table: whose turn it is.
        local: who probes.
        membership: judges suspicions.
        awareness: stretches probes, and learns from them.
        outbox: takes pings.
        timers: for the three deadlines.
        sequence: numbers for pings.
        ping_over_tcp: dials a member; `answered_tcp` is called when it acks.
        emit: takes what happened.

    """

    def __init__(
        self,
        profile: Profile,
        *,
        table: MemberTable,
        local: LocalMember,
        membership: Membership,
        awareness: Awareness,
        outbox: Outbox,
        timers: Timers,
        sequence: SequenceNumbers,
        ping_over_tcp: Callable[[Address, Ping, float], None],
        emit: Callable[[Event], None],
    ) -> None:
        self._profile = profile
        self._table = table
        self._local = local
        self._membership = membership
        self._awareness = awareness
        self._outbox = outbox
        self._timers = timers
        self._sequence = sequence
        self._ping_over_tcp = ping_over_tcp
        self._emit = emit
        self._probe: _Probe | None = None
        self._turn_missed = False

    def start(self, *, phase: float, now: float) -> None:
        """Take the first turn ``phase`` seconds from now."""
        self._timers.set(_TURN, now + phase)

    def turn(self, *, now: float) -> None:
        """Probe the next member, or as soon as the probe under way ends."""
        self._timers.set(_TURN, now + self._profile.probe_interval)
        if self._probe is not None:
            self._turn_missed = True
        else:
            self._begin(now)

    def ack(self, seq_no: int, *, now: float) -> None:
        """Take the answer to a ping, from whatever address it came."""
        if self._probe is not None and self._probe.ping.seq_no == seq_no:
            self._end(-1, now)

    def nack(self, seq_no: int) -> None:
        """Take a helper's word that it is well, and that the probed member did not answer it."""
        probe = self._probe
        if probe is not None and probe.ping.seq_no == seq_no:
            probe.nacks = min(probe.nacks + 1, probe.expected_nacks)

    def answered_tcp(self, seq_no: int) -> None:
        """Take the answer to a ping over TCP."""
        if self._probe is not None and self._probe.ping.seq_no == seq_no:
            self._probe.answered_tcp = True

    def timed_out(self, *, now: float) -> None:
        """Ask others, and try TCP, since the direct ping was not answered in time."""
        probe = self._probe
        if probe is None:
            return
        me, target = self._local.me, probe.member
        helpers = self._table.pick(
            self._profile.indirect_checks, lambda m: m.state is State.ALIVE and m.name != target.name
        )
        for helper in helpers:
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
            self._outbox.send(helper.address, request, checksum=helper.reads_checksums)
        if not self._profile.disable_tcp_pings and target.versions.protocol_max >= _TCP_PING_PROTOCOL:
            self._ping_over_tcp(target.address, probe.ping, probe.deadline - now)

    def over(self, *, now: float) -> None:
        """End the probe: only TCP answered, or nothing did."""
        probe = self._probe
        if probe is None:
            return
        if probe.answered_tcp:
            self._emit(events.UdpUnreachable(probe.member))
            self._end(-1, now)
            return
        # Helpers that say they are well cannot reach it either, so the fault is
        # probably not ours; helpers we do not hear make it likely that it is.
        missing = probe.expected_nacks - probe.nacks if probe.expected_nacks else 1
        accusation = Suspect(probe.member.incarnation, probe.member.name, self._local.name)
        self._membership.suspect(accusation, now=now)
        self._end(missing, now)

    def _begin(self, now: float) -> None:
        member, forgotten = self._table.next_to_probe(lambda m: self._membership.forgets(m, now=now))
        for gone in forgotten:
            self._membership.forget(gone, now=now)
        if member is None:
            return
        me = self._local.me
        ping = Ping(self._sequence.next(), member.name, me.address.packed, me.address.port, me.name)
        interval = self._awareness.scale_timeout(self._profile.probe_interval)
        self._probe = _Probe(member, ping, deadline=now + interval)
        self._timers.set(_DEADLINE, now + interval)
        self._timers.set(_TIMEOUT, now + self._profile.probe_timeout)
        if member.state is State.SUSPECT:
            # Told of the suspicion at once, it can deny it at once.
            accusation = Suspect(member.incarnation, member.name, me.name)
            self._outbox.send(member.address, ping, accusation, checksum=member.reads_checksums)
        else:
            self._outbox.send(member.address, ping, checksum=member.reads_checksums)

    def _end(self, health_delta: int, now: float) -> None:
        self._probe = None
        self._timers.cancel(_TIMEOUT)
        self._timers.cancel(_DEADLINE)
        self._awareness.apply_delta(health_delta)
        if self._turn_missed:
            self._turn_missed = False
            self._begin(now)
