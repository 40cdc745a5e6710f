"""One member of one mesh, without I/O: engine, roster, name conflicts and the desired state.

`MeshMember` has the verbs of `swim.engine.Engine`, so the driver drives either. On top
it takes what changes about host, mesh and place, and gives out what its shell has to do
(`outputs`) and what happened (`events`). Whether to dial, apply, save, announce a move,
leave or restart is decided here and nowhere else. `runtime.agent` and the simulator's
virtual agent are two shells round this one object.

Long work is done by `handle_timer`, one piece a call, so that no call takes long in a
mesh of thousands.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from math import inf
from random import Random

from wesher_agent.mesh import events
from wesher_agent.mesh.carry_steps import CarrySteps
from wesher_agent.mesh.chore import Chore
from wesher_agent.mesh.cover import NO_COVER, Cover, is_wide
from wesher_agent.mesh.delivery import MOST_KNOCKS, Delivery, form_of_nodes, read_answer, read_message
from wesher_agent.mesh.desired import KEY_COPIED, Desired, LocalPeer, desired
from wesher_agent.mesh.device import Endpoint
from wesher_agent.mesh.events import Event
from wesher_agent.mesh.former_addresses import FormerAddresses
from wesher_agent.mesh.gossip_profile import gossip_profile
from wesher_agent.mesh.host import HostNetwork
from wesher_agent.mesh.identity import MOST_UNCERTIFIED_BOUND, Identity, Verdict
from wesher_agent.mesh.key_doubts import KeyDoubts
from wesher_agent.mesh.local import Local
from wesher_agent.mesh.name_conflicts import Claim, NameConflicts
from wesher_agent.mesh.news import News
from wesher_agent.mesh.nodemeta import NodeMeta
from wesher_agent.mesh.outputs import (
    Apply,
    AskForPlace,
    Left,
    Listen,
    Output,
    Rekeyed,
    Report,
    Resolve,
    Restart,
    Save,
)
from wesher_agent.mesh.place import Place
from wesher_agent.mesh.problem import Problem
from wesher_agent.mesh.roster import MemberState, Roster, RosterMember
from wesher_agent.mesh.saved_state import SavedState, first_incarnation
from wesher_agent.mesh.seeker import Seeker
from wesher_agent.mesh.view import Ending, MemberView
from wesher_agent.swim.address import Address
from wesher_agent.swim.engine import Engine
from wesher_agent.swim.events import (
    AddressChanged,
    FailedElsewhere,
    KnockAnswered,
    LeaveDone,
    NameConflict,
    PacketRejected,
    PushPullAnswered,
    PushPullDone,
    SelfRefuted,
    UserMessageReceived,
)
from wesher_agent.swim.events import Event as EngineEvent
from wesher_agent.swim.members import LocalNode
from wesher_agent.swim.profile import DEFAULT_LIMITS, Limits
from wesher_agent.swim.source import Source, Way
from wesher_agent.swim.streams import OpenStream, StreamAction, StreamId
from wesher_common.certificate import Refusal
from wesher_common.errors import PeerMisbehaved
from wesher_common.keys import KeyRing, WireGuardPrivateKey, WireGuardPublicKey
from wesher_common.mesh_document import IdentitySettings, MeshDocument
from wesher_common.news import NewsKind, Statement, key_hash
from wesher_common.overlay import IPAddress
from wesher_common.seeds import SeedAddress

APPLY_PAUSE, APPLY_RETRY = 0.1, 25.0
SAVE_PAUSE, SAVE_RETRY = 1.0, 10.0
LISTEN_RETRY = 3.0
LEAVE_SECONDS = 10.0
"""All in seconds, as of `Chore`."""
LEFT_SECONDS = 3.0
"""How long a member that left keeps its tunnel.

One that moves to another address leaves first and is back within two seconds. If both ends
took their peer away meanwhile, both would begin a handshake at once, which can cost 15 s.
"""


class MeshMember:
    """One member.

    Call any input; then take `datagrams_to_send`, `stream_actions`, every `next_event` and
    every `next_output`, and call `handle_timer` at `next_timer`.

    Args:
        local: this member as it starts.
        saved: what an earlier run left.
        now: the time, in seconds on a monotonic clock that all inputs share.
        wall: the wall clock, in Unix seconds.
        rng: for schedules and choices.
        nonce: returns that many fresh bytes for AES-GCM.
        limits: caps on what other members can make it keep.

    Raises:
        InvalidSpec: the overlay has no free address.

    """

    def __init__(
        self,
        local: Local,
        saved: SavedState,
        *,
        now: float,
        wall: float,
        rng: Random,
        nonce: Callable[[int], bytes],
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self._local = local = local.with_first_address(saved)
        self._saved = saved
        self._limits = limits
        self._first_incarnation = first_incarnation(wall_clock=wall, saved=saved.incarnation)
        self._events: deque[Event] = deque()
        self._outputs: deque[Output] = deque()
        self._identity = Identity(local.document.identity, saved.trust, now=now, wall=wall)
        self._identity.take_own(local.name, local.node_meta, now=now)
        self._own_certificate: tuple[int, Refusal | None] | None = None
        """Serial and verdict as last reported; None without a certificate."""
        meta, self._route_problem = local.meta(self._identity, now=now)
        self._rng = rng
        self._delivery = Delivery(self._identity)
        self._delivery.start(local, now=now)
        self._engine = Engine(
            LocalNode(local.name, local.gossip_address, meta),
            gossip_profile(local.document.gossip.profile),
            packet_format=local.packet_format,
            incarnation=self._first_incarnation,
            rng=rng,
            nonce=nonce,
            standing=self._identity.standing,
            vet=self._identity.vet,
            limits=limits,
            porter=self._delivery.answer,
        )
        self._compare_with(saved)
        self._engine.set_most_unproven(self._most_unproven)
        self._engine.bury(saved.tombstones, now=now)
        self._roster = _roster(local, saved, self._identity, rng, now=now)
        former = saved.gossip_address if saved.name == local.name else None
        self._conflicts = NameConflicts([former] if former is not None else [])

        self._key_doubts = KeyDoubts()
        self._news = News(local.name, self._identity, self._roster, self._engine, rng=rng)
        self._seeker = Seeker(self._roster, self._engine)
        self._former_addresses = FormerAddresses(saved.former_addresses, now=now)
        self._proven = dict(saved.endpoints)
        """Where the last handshake with each member proved it to be."""
        self._carry = CarrySteps(saved.carried if saved.name == local.name else ())
        self._desired: Desired | None = None
        self._tunnels_end = inf
        """When the next member that left loses its tunnel."""
        self._reported_cover = NO_COVER
        self._started_at = now
        self._is_started = False
        """Whether the engine is."""
        self._listening = Chore(pause=0.0, retry=LISTEN_RETRY)
        self._applying = Chore(pause=APPLY_PAUSE, retry=APPLY_RETRY)
        self._saving = Chore(pause=SAVE_PAUSE, retry=SAVE_RETRY)
        self._bound: Listen | None = None
        """The last one asked for."""
        self.ending: Ending | None = None
        """How it ends, once that is decided."""
        self._forgets_state = local.options.in_kubernetes
        self._following = local.document.wireguard
        self._has_left = self._is_last_save = self._is_last_saved = False
        self._next_key: WireGuardPrivateKey | None = None
        """The key of the next start, once another one is wanted."""
        self._saving_key: WireGuardPrivateKey | None = None
        """The key in the save under way."""

    def _compare_with(self, saved: SavedState) -> None:
        """Report what a start changes for an administrator."""
        if self._route_problem:
            self._events.append(events.RoutesNotAnnounced(self._route_problem))
        if saved.mesh is not None and self._local.options.in_kubernetes:
            self._note_identity(saved.mesh.identity, self._local.document.identity)

    # Verbs of the engine.

    def receive_datagram(self, data: bytes, sender: Address, *, now: float) -> None:
        """Take one UDP payload as it came. Never raises for what a peer sent."""
        self._engine.receive_datagram(data, sender, now=now)
        self._settle(now)

    def message_types(self, data: bytes) -> list[str]:
        """Return the types of the messages in a UDP payload, for the log: this opens it once more."""
        return self._engine.message_types(data)

    def stream_accepted(self, remote: Address, *, now: float) -> StreamId:
        """Name a connection that another host opened."""
        stream = self._engine.stream_accepted(remote, now=now)
        self._settle(now)
        return stream

    def stream_received(self, stream: StreamId, data: bytes, *, now: float) -> None:
        """Take bytes that arrived on a stream. Never raises for what a peer sent."""
        self._engine.stream_received(stream, data, now=now)
        self._settle(now)

    def stream_closed(self, stream: StreamId, *, now: float, error: str | None = None) -> None:
        """Take note that a stream has ended."""
        self._engine.stream_closed(stream, now=now, error=error)
        self._settle(now)

    def handle_timer(self, *, now: float) -> None:
        """Do what was due at or before ``now`` in the engine, and one piece of this member's own work."""
        if self._gossips:
            self._engine.handle_timer(now=now)
        self._settle(now)
        for due, work in self._work():
            if due <= now:
                work(now)
                break
        self._settle(now)

    def next_timer(self) -> float | None:
        """When `handle_timer` wants to be called, possibly a time past; None when nothing is due ever."""
        times = [due for due, _ in self._work() if due < inf]
        if self._gossips and (engine := self._engine.next_timer()) is not None:
            times.append(engine)
        return min(times, default=None)

    def datagrams_to_send(self) -> list[tuple[bytes, Address]]:
        """Take the UDP payloads to send now, each with the address that leads to its member from here."""
        return [(data, self._roster.way_to(address)) for data, address in self._engine.datagrams_to_send()]

    def stream_actions(self) -> list[StreamAction]:
        """Take what is to be done with TCP connections now, in order; addresses as in `datagrams_to_send`."""
        return [
            replace(action, address=self._roster.way_to(action.address))
            if isinstance(action, OpenStream)
            else action
            for action in self._engine.stream_actions()
        ]

    def next_event(self) -> Event | None:
        """Take the oldest event that was not taken yet."""
        return self._events.popleft() if self._events else None

    # What the shell asks and is asked.

    def next_output(self) -> Output | None:
        """Take the oldest output that was not taken yet."""
        return self._outputs.popleft() if self._outputs else None

    def view(self, *, now: float) -> MemberView:
        """Return what is known now."""
        members, own = dict(self._roster.members), self._identity.own
        return MemberView(
            now=now,
            local=self._local,
            members=members,
            problems=self._problems,
            cover=self._cover,
            can_probe=not self._nobody_can_be_probed(members),
            claimants=self._roster.claimants(now=now),
            rival=self._conflicts.rival(now=now),
            copy=self._conflicts.copy(now=now),
            other_key_at=self._key_doubts.address,
            listen_problem=self._listening.problem,
            save_problem=self._saving.problem,
            has_seeds_elsewhere=self._roster.has_seeds_elsewhere,
            news_number=own.number if own is not None else 0,
            unpublished_news=self._news.unpublished,
            uptime=now - self._started_at,
            verdict=self._own_verdict(now),
            traffic=self._carry.view,
        )

    def start(self, *, now: float) -> None:
        """Begin: the first outputs are to listen and to save; gossip begins once `listening` says so."""
        self._started_at = now
        self._note_certificate(now)
        self._listen(now)
        self._save(now)
        self._applying.want()

    def stop(self, *, gone: bool, now: float) -> None:
        """Take a termination signal: leave the mesh for good, or end for a restart.

        Args:
            gone: whether the API server says that the mesh or this node's place is gone.
            now: the time.

        """
        if gone or self._local.options.leaves_on_exit:
            self.leave(now=now)
        else:
            self.restart(now=now)

    def leave(self, *, now: float, forget: bool = False) -> None:
        """Leave the mesh for good; ends in `Left`.

        Args:
            now: the time.
            forget: whether to delete the saved state too, also when a leave has begun without that.

        """
        self._forgets_state |= forget
        if self.ending is Ending.LEAVE:
            return
        self._end(Ending.LEAVE, now)
        self._engine.leave(now=now, timeout=LEAVE_SECONDS)
        self._settle(now)

    def restart(self, *, now: float) -> None:
        """End, and keep the membership for the next process; ends in `Restart`."""
        if self.ending is None:
            self._end(Ending.RESTART, now)

    def listening(self, problem: str = "", *, now: float) -> None:
        """Answer `Listen`: the member gossips from now on, or tries again in a while.

        Only now is a move announced: a member must be reachable where it says it is.
        """
        former = self._listening.problem
        self._listening.end(problem, now=now)
        if problem:
            if problem != former:
                self._events.append(events.ListenFailed(problem))
        else:
            if (former or self._is_started) and (bound := self._bound) is not None:
                self._events.append(events.ListeningChanged(bound.addresses, bound.port))
            if not self._is_started:
                self._is_started = True
                self._engine.start(now=now)
            self._follow(now)
        if problem != former:
            self._report()
        self._settle(now)

    def applied(self, problem: str = "", *, now: float) -> None:
        """Answer `Apply`; no other comes before. With a problem it is tried again in a while."""
        self._applying.end(problem, now=now)
        if not problem and self._cover != self._reported_cover:
            self._reported_cover = cover = self._cover
            if cover.extent != "Overlay":
                overlay = self._local.document.overlay
                self._events.append(events.OverlayNotCovered(overlay, cover.extent, cover.reason))
        if not problem:
            self._events.extend(self._carry.applied())
        self._report()

    def saved(self, problem: str = "", *, now: float) -> None:
        """Answer `Save`; no other comes before. With a problem it is tried again in a while."""
        former = self._saving.problem
        self._saving.end(problem, now=now)
        if problem:
            self._events.append(events.StateNotSaved(problem, is_first=not former))
        elif former:
            self._events.append(events.StateSavedAgain())
        if bool(problem) != bool(former):
            self._report()
        if self._saving_key is not None and self.ending is None:
            self._rekeyed(self._saving_key, problem, now)
            return
        if self.ending is not None:
            self._save_last(now)

    def _rekeyed(self, key: WireGuardPrivateKey, problem: str, now: float) -> None:
        self._outputs.append(Rekeyed(key.public, problem))
        if problem:
            self._next_key = self._saving_key = None
            return
        self._events.append(events.KeyReplaced(self._local.private_key.public, key.public))
        self.restart(now=now)

    def resolved(
        self, seed: SeedAddress, answers: Iterable[IPAddress], error: str = "", *, now: float
    ) -> None:
        """Answer `Resolve`; no answers mean that the name leads nowhere for now."""
        former = self._roster.has_seeds_elsewhere
        if (failed := self._seeker.resolved(seed, answers, error, now=now)) is not None:
            self._events.append(failed)
        if self._roster.has_seeds_elsewhere != former:
            self._report()

    # What changes about this member while it runs.

    def rekey(self, key: WireGuardPrivateKey, *, now: float) -> None:
        """Take another WireGuard key: save it, then restart with it; answered with `Rekeyed`.

        A certificate is for the former key, so it goes. The device changes last: were the state not
        saved, the next start would go back to the former key.
        """
        self._next_key = key
        self._saving.want()
        self._settle(now)

    def state_lost(self, *, now: float) -> None:
        """Have the state saved again: its file is gone, and a restart would make other keys."""
        # What could not be saved is tried again anyway.
        if not self._saving.problem and not self._saving.is_under_way:
            self._events.append(events.StateFileLost())
            self._saving.want()
            self._settle(now)

    def host_changed(self, host: HostNetwork, *, now: float) -> None:
        """Take the host as it is now; announce another address, or listen elsewhere first."""
        if host == self._local.host:
            return
        former = self._local.lost_address
        self._become(*self._local.on_host(host), now=now)
        if self._local.lost_address is not None and self._local.lost_address != former:
            self._events.append(events.AddressLost(self._local.lost_address))
        self._report()

    def node_given(self, place: Place, *, now: float) -> None:
        """Take what the operator gives this node now."""
        if place == self._local.place:
            return
        given, former = place.overlay_address, self._local.overlay_address
        self._saving.want()
        if given is not None and given != former:
            self._events.append(events.OverlayAddressGiven(given))
        is_certified_anew = place.certificate != self._place.certificate
        self._become(*self._local.at(place), now=now)
        if is_certified_anew:
            self._judge(now)

    def reported_from(self, ip: IPAddress, *, now: float) -> None:
        """Take the address that this node's last report named.

        A machine that replaced another under the same Node has no state file that says where
        other members look for it.
        """
        former = Address(str(ip), self._local.document.gossip.port)
        if former in {self._engine.me.address, self._local.gossip_address}:
            return
        if self._conflicts.was_at(former):
            self._engine.change_address(self._engine.me.address, now=now)
            self._report()
        self._settle(now)

    def mesh_changed(self, document: MeshDocument, ring: KeyRing, *, now: float) -> None:
        """Take another mesh document or key ring; what cannot change in a running member ends it."""
        if ring == self._local.ring and ring.number > self._local.ring.number:
            self._local = replace(self._local, ring=ring)
            self._saving.want()
        if ring != self._local.ring:
            self._local = replace(self._local, ring=ring)
            self._engine.set_packet_format(self._local.packet_format)
            self._key_doubts = KeyDoubts()
            self._events.append(events.KeyRingChanged(ring.primary.id, len([*ring])))
            self._saving.want()
        former = self._local.document
        if document == former:
            return
        is_judged_anew = self._identity.configure(document.identity)
        if is_judged_anew:
            self._news.trust_changed()
            self._judge(now)
        if self._local.needs_restart_for(document):
            self._events.append(events.RestartNeeded())
            self._following = document.wireguard
            self.restart(now=now)
            return
        self._local, self._following = replace(self._local, document=document), document.wireguard
        self._note_identity(former.identity, document.identity)
        if self._local.name in document.removed:
            # While this pod's token is valid: it ends with the pod.
            self._outputs.append(AskForPlace())
        self._roster.set_gossip_port(document.gossip.port, now=now)
        self._roster.set_seeds(self._local.seeds, now=now)
        self._roster.set_removed(document.removed, now=now)
        if self._wanted_listen != self._bound:
            # Once it listens there, it announces that it has moved.
            self._listening.want()
        self._members_changed()
        self._settle(now)

    def tunnels_seen(self, endpoints: Mapping[WireGuardPublicKey, Endpoint], *, now: float) -> None:
        """Take where WireGuard has proven peers to be: those with a fresh handshake."""
        self._identity.tunnels_end({key: endpoint.address for key, endpoint in endpoints.items()})
        self._roster.heard_through_tunnels(endpoints.keys(), now=now)
        keys = {member.meta.public_key for member in self._roster.members.values() if member.meta is not None}
        proven = {key: where for key, where in {**self._proven, **endpoints}.items() if key in keys}
        if proven != self._proven:
            self._proven = proven
            self._applying.want()
            self._saving.want()

    def clock_read(self, wall: float, *, now: float) -> None:
        """Take the wall clock, in Unix seconds, for certificates; once in a while, since it may be set."""
        self._identity.wall_clock(wall, now=now)
        self._follow_news(self._news.look_again(now=now), now)
        self._judge(now)

    def news_published(self, items: Iterable[tuple[NewsKind, bytes]], *, now: float) -> None:
        """Take what the operator has published beside mesh.json now."""
        published = [*items]
        self._delivery.news_published(published, now=now)
        self._follow_news(self._news.published(published, now=now), now)
        self._settle(now)

    def news_added(self, data: bytes, *, now: float) -> tuple[Statement, bool]:
        """Take a statement of an administrator; return it, and whether it was new.

        Raises:
            PeerMisbehaved: it does not count; the reason is one of `News`.

        """
        statement, is_new = self._news.added(data, now=now)
        self._follow_news(is_new, now)
        self._settle(now)
        return statement, is_new

    # What follows from the engine's events.

    def _settle(self, now: float) -> None:
        """Draw the consequences of everything that the engine has reported."""
        while (event := self._engine.next_event()) is not None:
            self._events.append(event)
            self._observe(event, now)
            self._note_roster()

    def _observe(self, event: EngineEvent, now: float) -> None:
        if self._key_doubts.observe(event, self._roster.expected_ips):
            self._report()
        match event:
            case PacketRejected():
                return
            case NameConflict(member=member) if member.name == self._local.name:
                is_copy = self._is_own_key(event.meta)
                self._settle_conflict(event.claimed, asked_for=event.asked_for, is_copy=is_copy, now=now)
            case FailedElsewhere(address=address) if self._conflicts.is_former(address):
                self._settle_conflict(address, asked_for=event.asked_for, now=now)
            case SelfRefuted():
                # A restart must begin above the incarnation that others hold now.
                self._saving.want()
            case AddressChanged():
                # A restart must know where others look, and meanwhile the address may be yet another one.
                self._saving.want()
                # A seed that was dialled before the move is not due again for minutes.
                self._roster.dial_again(now=now)
                self._follow(now)
            case LeaveDone():
                self._has_left = True
                self._finish()
            case _:
                self._take_news(event, now)
        if self._roster.observe(event, now=now):
            self._members_changed()
        self._observe_news(event, now)

    def _observe_news(self, event: EngineEvent, now: float) -> None:
        match event:
            case UserMessageReceived():
                self._follow_news(self._news.received(event, now=now), now)
            case PushPullDone(address=address, user_state=state):
                self._news.exchanged(state, address, asked_for=True, now=now)
                self._note_news()
            case PushPullAnswered(address=address, user_state=state):
                self._news.exchanged(state, address, asked_for=False, now=now)
                self._note_news()
            case _:
                pass

    def _follow_news(self, is_new: bool, now: float) -> None:  # noqa: FBT001 - the verdict of `News`
        """Draw the consequences of a statement, if it was new: first here, then in the other members."""
        self._note_news()
        if is_new:
            self._judge(now)
            self._news.pass_on(now=now)
            self._saving.want()
            self._report()

    def _note_news(self) -> None:
        while (event := self._news.next_event()) is not None:
            self._events.append(event)

    def _take_news(self, event: EngineEvent, now: float) -> None:
        """Take what the mesh's authority has signed, whichever way it came."""
        match event:
            case UserMessageReceived(payload=payload, way=way):
                sender, read = event.sender, partial(read_message, payload)
            case KnockAnswered(answer=answer):
                sender, way, read = event.address, Way.ANSWER, partial(read_answer, answer)
            case _:
                return
        try:
            for kind, data in read():
                if kind is NewsKind.STATEMENT and isinstance(event, KnockAnswered):
                    # One that came by gossip is taken already.
                    is_new = self._news.take_from(sender, way, data, now=now)
                    self._follow_news(is_new, now)
                self._take_item(kind, data, Source(sender.ip, way), now)
        except PeerMisbehaved as misbehaved:
            self._events.append(PacketRejected(misbehaved.reason, sender))

    def _take_item(self, kind: NewsKind, data: bytes, source: Source, now: float) -> None:
        match self._delivery.received(kind, data, source, self._local, now=now):
            case Place(overlay_address=address, certificate=certificate) as place if certificate is not None:
                self._events.append(events.CertificateReceived(address, certificate.serial))
                self.node_given(place, now=now)
                self._report()
            case KeyRing() as ring:
                self.mesh_changed(self._local.document, ring, now=now)
                # A member that was dialled with the former keys could not read it.
                self._roster.dial_again(now=now)
            case _:
                pass

    def _is_own_key(self, raw_meta: bytes) -> bool:
        try:
            return NodeMeta.decode(raw_meta).public_key == self._local.private_key.public
        except PeerMisbehaved:
            return False

    def _settle_conflict(
        self, claimed: Address, *, asked_for: bool, is_copy: bool = False, now: float
    ) -> None:
        was_copy = self._conflicts.copy(now=now)
        match self._conflicts.judge(claimed, asked_for=asked_for, is_copy=is_copy, now=now):
            case Claim.RIVAL:
                if is_copy and not was_copy:
                    self._events.append(events.KeyCopied(str(claimed)))
                self._report()
            case Claim.FORMER:
                self._events.append(events.DialledAtFormerAddress(claimed))
                self._engine.change_address(self._local.gossip_address, now=now)
            case Claim.DOUBTFUL:
                self._engine.push_pull_with(claimed, join=False, now=now)
            case Claim.NOTHING:
                pass

    def _note_roster(self) -> None:
        while (event := self._roster.next_event()) is not None:
            self._events.append(event)

    def _members_changed(self) -> None:
        self._applying.want()
        self._saving.want()
        self._report()

    def _judge(self, now: float) -> None:
        """Judge all certificates again: what is trusted changed, or time has passed."""
        self._engine.set_most_unproven(self._most_unproven)
        self._identity.take_own(self._local.name, self._local.node_meta, now=now)
        self._note_certificate(now)
        if self._is_started:
            self._announce(now)
        if self._roster.judge(now=now):
            self._engine.weigh_again(now=now)
            self._members_changed()
            self._settle(now)

    @property
    def _most_unproven(self) -> int:
        return MOST_UNCERTIFIED_BOUND if self._identity.is_bound else self._limits.unproven

    def _report(self) -> None:
        if self.ending is None and not any(isinstance(output, Report) for output in self._outputs):
            self._outputs.append(Report())

    # What follows from a change of the local node.

    def _become(self, local: Local, problem: str, *, now: float) -> None:
        self._local = local
        if problem:
            self._events.append(events.NoAddressToAnnounce(problem))
        if self._wanted_listen != self._bound or self._listening.problem:
            self._listening.want()
        self._follow(now)
        self._applying.want()

    def _follow(self, now: float) -> None:
        """Announce what this member is now, and its address once it listens there."""
        if not self._is_started:
            return
        former, address = self._engine.me.address, self._local.gossip_address
        self._announce(now)
        if address != former and self._listens_as_wanted:
            self._conflicts.move(former, address)
            self._engine.change_address(address, now=now)
        self._settle(now)

    @property
    def _listens_as_wanted(self) -> bool:
        chore = self._listening
        return not (chore.is_running or chore.problem) and self._wanted_listen == self._bound

    @property
    def _wanted_listen(self) -> Listen:
        return Listen(self._local.listening.bind, self._local.document.gossip.port)

    def _announce(self, now: float) -> None:
        local = self._local
        meta, problem = local.meta(self._identity, now=now)
        if problem and problem != self._route_problem:
            self._events.append(events.RoutesNotAnnounced(problem))
        self._route_problem = problem
        if self._place.certificate is not None:
            is_certified = self._own_verdict(now).is_certified and not problem
            self._carry.announced(local.networks, is_certified=is_certified, now=now)
        if meta != self._engine.me.meta:
            self._engine.update_meta(meta, now=now)
        self._roster.set_own_addresses(
            local.addresses,
            overlay_address=local.overlay_address,
            location=local.location,
            is_on_loopback=local.listening.advertise.is_loopback,
            now=now,
        )

    def _note_identity(self, former: IdentitySettings | None, settings: IdentitySettings | None) -> None:
        def said(settings: IdentitySettings | None) -> events.IdentityChanged:
            if settings is None:
                return events.IdentityChanged(None, bound=False)
            return events.IdentityChanged(settings.mode, bound=settings.bound)

        if said(settings) != said(former):
            self._events.append(said(settings))

    def _note_certificate(self, now: float) -> None:
        certificate = self._place.certificate
        if certificate is None or self._local.document.identity is None:
            self._own_certificate = None
            return
        refusal = self._own_verdict(now).refusal
        if (noted := (certificate.serial, refusal)) == self._own_certificate:
            return
        self._own_certificate = noted
        if refusal is None:
            expires = datetime.fromtimestamp(certificate.expires // 1000, UTC)
            self._events.append(events.CertificateValid(certificate.serial, expires))
        else:
            self._events.append(events.CertificateRefused(certificate.serial, refusal))

    @property
    def _place(self) -> Place:
        return self._local.place or Place()

    def _own_verdict(self, now: float) -> Verdict:
        return self._identity.verdict(self._local.name, self._local.node_meta, now=now)

    # This member's own work, one piece at a time.

    @property
    def _gossips(self) -> bool:
        """Whether the engine runs: without a socket it rests, but for a leave, which must come to its end."""
        return self._is_started and (not self._listening.problem or self.ending is Ending.LEAVE)

    def _work(self) -> Iterator[tuple[float, Callable[[float], None]]]:
        """Yield when each kind of work is due, the most urgent first."""
        if self.ending is not None:
            return
        yield self._listening.due, self._listen
        if self._gossips:
            yield self._seeker.due, self._seek
        yield self._tunnels_end, self._end_tunnels
        yield self._applying.due, self._apply
        yield self._saving.due, self._save
        if self._gossips:
            yield self._delivery.next_timer, self._deliver
        yield self._former_addresses.next_timer, self._forget_addresses
        yield self._carry.next_timer, self._begin_to_carry

    def _listen(self, now: float) -> None:
        with self._listening.beginning(now=now):
            self._bound = self._wanted_listen
            self._outputs.append(self._bound)

    def _seek(self, now: float) -> None:
        if gone := self._roster.forget(now=now):
            self._events.extend(events.FailedMemberForgotten(name) for name in gone)
            self._members_changed()
        self._outputs.extend(map(Resolve, self._seeker.work(now=now)))
        self._engine.set_expected(self._roster.expected_ips)
        self._note_roster()

    def _deliver(self, now: float) -> None:
        members = self._roster.members
        for message in self._delivery.to_send(self._local, members, now=now):
            self._engine.send_user_message(message.to, message.payload, now=now, reliable=message.reliable)
        if self._delivery.must_knock(self._local, members, now=now):
            known = self._roster.seeds_and_nodes()
            asked = self._rng.sample(known, min(MOST_KNOCKS, len(known)))
            for address in asked:
                self._engine.knock(address, key_hash(self._local.private_key.public), now=now)
            is_certified = self._place.certificate is not None
            self._events.append(events.NewsAskedFor(len(asked), is_certified=is_certified))

    def _forget_addresses(self, now: float) -> None:
        if self._former_addresses.forget(now=now):
            self._members_changed()

    def _begin_to_carry(self, now: float) -> None:
        self._carry.handle_timer(now=now)
        self._applying.want()
        self._saving.want()

    def _apply(self, now: float) -> None:
        self._applying.is_wanted = False
        self._follow_form(now)
        peer = self._local.peer(
            self._own_verdict(now), only_certified=self._identity.is_bound, known=self._carry.known
        )
        if peer is None:
            return
        former = self._problems
        with self._applying.beginning(now=now):
            self._desired = self._settle_address(peer, now)
        for problem in sorted(set(self._problems) - set(former)):
            if problem.reason == KEY_COPIED:
                self._events.append(events.KeyCopied(problem.other))
                continue
            self._events.append(events.ProblemFound(problem.member, problem.reason, problem.message))
        self._carry.applying(self._local.document.traffic, self._desired.device.carrying)
        self._outputs.append(Apply(self._desired, self._local.document))

    def _follow_form(self, now: float) -> None:
        """Outside Kubernetes, announce metadata in the form that the nodes of the mesh use."""
        document = self._local.document
        settings = document.identity
        if self._local.options.in_kubernetes or settings is None:
            return
        form = form_of_nodes(self._roster.members.values())
        if form is None or form == settings.form:
            return
        settings = replace(settings, form=form)
        self._local = replace(self._local, document=replace(document, identity=settings))
        self._identity.configure(settings)
        if self._is_started:
            self._announce(now)

    def _settle_address(self, peer: LocalPeer, now: float) -> Desired:
        """Return the desired state; where another member keeps our overlay address, with the next one."""
        members = self._expected(now)
        self._former_addresses.note(members, now=now)
        former = self._former_addresses.addresses
        wanted = desired(peer, members, former, self._proven)
        moved_to = wanted.device.address
        if moved_to == peer.address:
            return wanted
        self._events.append(events.OverlayAddressGivenUp(peer.address, moved_to))
        self._local = replace(self._local, overlay_address=moved_to)
        self._announce(now)
        self._saving.want()
        return desired(replace(peer, address=moved_to), members, former, self._proven)

    def _expected(self, now: float) -> list[RosterMember]:
        """Return the members; one that has just left counts as failed for a while."""
        members, self._tunnels_end = [], inf
        for member in self._roster.members.values():
            until = member.since + LEFT_SECONDS
            if member.state is MemberState.LEFT and now < until:
                self._tunnels_end = min(self._tunnels_end, until)
                members.append(replace(member, state=MemberState.FAILED))
            else:
                members.append(member)
        return members

    def _end_tunnels(self, now: float) -> None:  # noqa: ARG002 - as all work
        self._tunnels_end = inf
        self._applying.want()

    @property
    def _problems(self) -> tuple[Problem, ...]:
        return self._desired.problems if self._desired is not None else ()

    @property
    def _cover(self) -> Cover:
        return self._desired.cover if self._desired is not None else NO_COVER

    def _nobody_can_be_probed(self, members: Mapping[str, RosterMember]) -> bool:
        if self._desired is None or self._desired.device.peers:
            return False
        without = {problem.member for problem in self._desired.problems}
        return all(name in without for name, member in members.items() if member.state.is_alive)

    def _save(self, now: float) -> None:
        with self._saving.beginning(now=now):
            self._outputs.append(Save(self._state(now)))

    def _state(self, now: float) -> SavedState:
        local, place = self._local, self._place
        self._saving_key = self._next_key
        self._former_addresses.note(self._roster.members.values(), now=now)
        return SavedState(
            key_ring=local.ring,
            nodes=self._roster.saved(now=now),
            private_key=self._next_key or local.private_key,
            name=local.name,
            gossip_address=self._engine.me.address,
            overlay_address=local.overlay_address,
            advertise_address=place.advertise_address,
            location=place.location,
            routes=place.routes,
            certificate=place.certificate if self._next_key is None else None,
            trust=self._identity.saved(),
            incarnation=max(self._first_incarnation, self._engine.me.incarnation),
            tombstones=self._engine.tombstones(now=now),
            endpoints=self._proven,
            former_addresses=self._former_addresses.saved(now=now),
            carried=self._carry.known if self._next_key is None else frozenset(),
            mesh=local.document if local.options.in_kubernetes else None,
            joined=None if local.joined is None else replace(local.joined, ring=local.ring),
            unknown=self._saved.unknown,
        )

    # The end.

    def _end(self, how: Ending, now: float) -> None:
        is_first, self.ending = self.ending is None, how
        if is_first and not self._saving.is_running:
            self._save_last(now)

    def _save_last(self, now: float) -> None:
        """Save once more what is known at the end; then the end may come."""
        if not self._is_last_save:
            self._is_last_save = True
            self._save(now)
        else:
            self._is_last_saved = True
            self._finish()

    def _finish(self) -> None:
        """Say that the end is reached: everything is saved and, on leaving, said."""
        if not self._is_last_saved:
            return
        if self.ending is Ending.LEAVE and self._has_left:
            self._outputs.append(Left(forgets_state=self._forgets_state))
        elif self.ending is Ending.RESTART:
            is_rekeyed = self._next_key is not None
            self._outputs.append(Restart(self._local.document.wireguard, self._following, is_rekeyed))


def _roster(local: Local, saved: SavedState, identity: Identity, rng: Random, *, now: float) -> Roster:
    document, options = local.document, local.options
    roster = Roster(
        local.name,
        gossip_port=document.gossip.port,
        overlay=document.overlay,
        overlay_is_apart=options.in_kubernetes
        or not (is_wide(document.overlay) or any(address in document.overlay for address in local.underlay)),
        forget_after=options.forget_after,
        identity=identity,
        rng=rng,
    )
    roster.set_own_addresses(
        local.addresses,
        overlay_address=local.overlay_address,
        location=local.location,
        is_on_loopback=local.listening.advertise.is_loopback,
        now=now,
    )
    roster.set_removed(document.removed, now=now)
    roster.set_seeds(local.seeds, now=now)
    roster.restore(saved.nodes, now=now)
    return roster
