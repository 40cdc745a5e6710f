"""One member as its shell sees it: what it asks for when; time is a number here."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from random import Random
from typing import Any, TypeVar

import pytest

from wesher_agent.mesh import events
from wesher_agent.mesh import member as member_module
from wesher_agent.mesh.desired import Desired, desired
from wesher_agent.mesh.device import Endpoint
from wesher_agent.mesh.dialling import MOST_DIALS, TRIES_A_SECOND
from wesher_agent.mesh.identity import MOST_UNCERTIFIED_BOUND
from wesher_agent.mesh.local import Local, Options
from wesher_agent.mesh.member import (
    APPLY_PAUSE,
    APPLY_RETRY,
    LEFT_SECONDS,
    LISTEN_RETRY,
    SAVE_RETRY,
    MeshMember,
)
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
from wesher_agent.mesh.roster import MemberState, SavedMember
from wesher_agent.mesh.saved_state import SavedState
from wesher_agent.mesh.view import Ending
from wesher_agent.swim.address import Address
from wesher_agent.swim.events import AddressChanged, SelfRefuted
from wesher_agent.swim.streams import OpenStream
from wesher_agent.wire.messages import Alive, Dead, Suspect
from wesher_agent.wire.packet import open_packet
from wesher_common.certificate import Authority, Refusal, Subject
from wesher_common.keys import ClusterKey, KeyRing, WireGuardPublicKey
from wesher_common.mesh_document import IdentitySettings, MeshDocument, WireGuardMode, WireGuardSettings
from wesher_common.seeds import SeedAddress
from wesher_testing.virtual.members import OVERLAY, document, host, local_node, meta, private_key

O = TypeVar("O", bound=Output)  # noqa: E741 - an output
E = TypeVar("E")
M = TypeVar("M")
IN_KUBERNETES = Options(in_kubernetes=True, leaves_on_exit=False)
B = Address("192.0.2.2", 7946)
SIGNED_AT = 1_800_000_000_000


class Shell:
    """Drives one member, and keeps what it said and asked for."""

    def __init__(self, local: Local | None = None, saved: SavedState | None = None) -> None:
        self.now = 0.0
        self.member = MeshMember(
            local or local_node("a"),
            saved or SavedState(),
            now=0.0,
            wall=1_800_000_000.0,
            rng=Random(1),
            nonce=Random(2).randbytes,
        )
        self.outputs: list[Output] = []
        self.events: list[events.Event] = []
        self.sent: list[tuple[bytes, Address]] = []
        self.dialled: list[OpenStream] = []
        self.last_state = SavedState()

    def tell(self, call: Callable[[MeshMember, float], None]) -> None:
        """Give an input now, and take all that follows at once."""
        call(self.member, self.now)
        self._take()

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while (timer := self.member.next_timer()) is not None and timer <= end:
            self.now = max(self.now, timer)
            self.tell(lambda member, now: member.handle_timer(now=now))
        self.now = end

    def settle(self) -> None:
        """Answer every apply and save well until no more come, and forget all outputs."""
        for _ in range(5):
            self.run(2.0)
            if self.take(Apply):
                self.tell(lambda member, now: member.applied(now=now))
            if self.take(Save):
                self.tell(lambda member, now: member.saved(now=now))
        self.outputs.clear()

    def hear(self, claim: Alive | Suspect | Dead) -> None:
        """Let gossip bring a claim."""
        self.member._engine.inject(claim, now=self.now)
        self.tell(lambda member, now: member.handle_timer(now=now))

    def met(self, name: str, ip: str, **changes: Any) -> None:
        """Let gossip bring a member."""
        address = Address(ip, 7946)
        raw, versions = meta(name, **changes).encode(), self.member._engine.me.versions
        self.hear(Alive(1, name, address.packed, address.port, raw, versions))

    def take(self, kind: type[O]) -> list[O]:
        """Return the outputs of one kind since last taken."""
        found = [output for output in self.outputs if isinstance(output, kind)]
        self.outputs = [output for output in self.outputs if not isinstance(output, kind)]
        return found

    def happened(self, kind: type[E]) -> list[E]:
        """Return the events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    def said(self, kind: type[M]) -> list[tuple[Address, M]]:
        """Return the messages of one kind that it sent, and to whom."""
        sealed = self.member._local.packet_format
        messages = [(to, m) for data, to in self.sent for m in open_packet(data, sealed).messages]
        return [(to, message) for to, message in messages if isinstance(message, kind)]

    def _take(self) -> None:
        self.sent += self.member.datagrams_to_send()
        self.dialled += [a for a in self.member.stream_actions() if isinstance(a, OpenStream)]
        while (event := self.member.next_event()) is not None:
            self.events.append(event)
        while (output := self.member.next_output()) is not None:
            self.outputs.append(output)
            if isinstance(output, Save):
                self.last_state = output.state


def started(local: Local | None = None, saved: SavedState | None = None) -> Shell:
    """Return a member that listens, whose first state is saved and whose device is as desired."""
    shell = Shell(local, saved)
    shell.tell(lambda member, now: member.start(now=now))
    shell.tell(lambda member, now: member.listening(now=now))
    shell.tell(lambda member, now: member.saved(now=now))
    shell.settle()
    shell.events.clear()
    return shell


def announced(shell: Shell) -> NodeMeta:
    """Return what it says of itself."""
    return NodeMeta.decode(shell.member._engine.me.meta)


def remembering(addresses: list[Address]) -> SavedState:
    """Return the state of one that met members at these addresses."""
    return SavedState(
        nodes=tuple(
            SavedMember(name=f"n{number}", address=address, raw_meta=b"")
            for number, address in enumerate(addresses)
        )
    )


# Listening.


def test_it_asks_to_listen_and_to_save_first_and_gossips_once_it_listens() -> None:
    shell = Shell(local_node("a", mesh=document(seed_nodes=(SeedAddress(B.ip),))))
    shell.tell(lambda member, now: member.start(now=now))
    assert [type(output) for output in shell.outputs] == [Listen, Save]
    shell.run(60.0)
    assert (shell.sent, shell.dialled) == ([], [])

    shell.tell(lambda member, now: member.listening(now=now))
    shell.run(1.0)
    assert [stream.address for stream in shell.dialled] == [B]


def test_a_port_that_is_taken_is_asked_for_until_it_is_free_and_meanwhile_the_device_is_made() -> None:
    shell = Shell()
    shell.tell(lambda member, now: member.start(now=now))
    for _ in range(3):
        assert len(shell.take(Listen)) == 1
        shell.tell(lambda member, now: member.listening("UDP port 7946 is taken", now=now))
        assert shell.member.view(now=shell.now).listen_problem == "UDP port 7946 is taken"
        shell.run(LISTEN_RETRY - 0.01)
        assert not shell.take(Listen)
        shell.run(0.01)
    assert len(shell.happened(events.ListenFailed)) == 1, "said once"
    assert shell.take(Apply)

    shell.tell(lambda member, now: member.listening(now=now))
    assert shell.happened(events.ListeningChanged)
    assert shell.member.view(now=shell.now).listen_problem == ""


def test_a_move_to_another_address_is_announced_only_once_it_listens_there() -> None:
    shell = started(local_node("a", options=Options(bind_iface="eth0")))
    shell.met("b", B.ip)
    there = Address("192.0.2.77", 7946)

    shell.tell(lambda member, now: member.host_changed(host(there.ip), now=now))
    shell.run(1.0)
    assert shell.take(Listen) == [Listen((ip_address(there.ip),), 7946)]
    assert not shell.said(Dead), "it has not left where it was"

    shell.tell(lambda member, now: member.listening(now=now))
    shell.settle()
    shell.settle()
    assert shell.member._engine.me.address == there
    assert shell.happened(AddressChanged)
    assert shell.last_state.gossip_address == there, "a restart begins where the others look"


@pytest.mark.parametrize("outcome", ["taken", "in flight"])
def test_nothing_else_that_changes_announces_a_move_before_it_listens_there(outcome: str) -> None:
    shell = started(local_node("a", options=Options(bind_iface="eth0")))
    shell.met("b", B.ip)
    shell.settle()
    shell.sent.clear()
    shell.tell(lambda member, now: member.host_changed(host("192.0.2.77"), now=now))
    shell.run(0.0)
    if outcome == "taken":
        shell.tell(lambda member, now: member.listening("UDP port 7946 is taken", now=now))
    shell.tell(lambda member, now: member.host_changed(host("192.0.2.77", "172.17.0.1"), now=now))
    shell.tell(lambda member, now: member.node_given(Place(location="east"), now=now))
    shell.run(1.0)
    assert not shell.said(Dead)


def test_a_second_move_before_it_listens_at_the_first_announces_the_second_only() -> None:
    shell = started(local_node("a", options=Options(bind_iface="eth0")))
    shell.met("b", B.ip)
    shell.settle()
    for ip in ("192.0.2.77", "192.0.2.78"):
        shell.tell(lambda member, now, ip=ip: member.host_changed(host(ip), now=now))
        shell.run(0.0)
    assert [listen.addresses for listen in shell.take(Listen)] == [(ip_address("192.0.2.77"),)]
    shell.tell(lambda member, now: member.listening(now=now))
    shell.run(0.0)
    assert [listen.addresses for listen in shell.take(Listen)] == [(ip_address("192.0.2.78"),)]
    shell.tell(lambda member, now: member.listening(now=now))
    shell.settle()
    shell.settle()
    assert [event.member.address.ip for event in shell.happened(AddressChanged)] == ["192.0.2.78"]


def test_one_that_is_back_before_its_move_was_said_ends_where_it_is() -> None:
    shell = started()
    shell.met("b", B.ip)
    shell.settle()
    home = shell.member._engine.me.address
    for ip in ("192.0.2.77", home.ip):
        shell.tell(lambda member, now, ip=ip: member.host_changed(host(ip), now=now))
        shell.run(0.05)
    shell.run(60.0)
    assert shell.member._engine.me.address == home
    assert not shell.member._engine.me.is_gone


def test_one_that_listens_everywhere_announces_another_address_at_once() -> None:
    shell = started()
    shell.met("b", B.ip)
    shell.tell(lambda member, now: member.host_changed(host("192.0.2.77"), now=now))
    shell.run(15.0)
    assert not shell.take(Listen)
    assert shell.happened(AddressChanged)


def test_an_address_that_is_gone_from_the_host_is_reported_once_and_not_left() -> None:
    shell = started(local_node("a", options=Options(bind_addr=ip_address("192.0.2.100"))))
    for addresses in (["192.0.2.7"], ["192.0.2.7", "192.0.2.8"]):
        shell.tell(lambda member, now, ips=addresses: member.host_changed(host(*ips), now=now))
    shell.run(5.0)
    assert shell.happened(events.AddressLost) == [events.AddressLost(ip_address("192.0.2.100"))]
    assert not shell.take(Listen)
    assert shell.member._engine.me.address.ip == "192.0.2.100"


# The device.


def test_a_burst_of_news_is_applied_once_more_after_the_apply_under_way() -> None:
    shell = started()
    shell.met("b", B.ip)
    shell.run(0.0)
    (first,) = shell.take(Apply)
    assert {*first.desired.tunnels} == {"b"}
    for number in range(3, 9):
        shell.met(f"m{number}", f"192.0.2.{number}")
    shell.run(60.0)
    assert not shell.take(Apply), "one at a time"

    shell.tell(lambda member, now: member.applied(now=now))
    shell.run(APPLY_PAUSE - 0.01)
    assert not shell.take(Apply)
    shell.run(0.01)
    (second,) = shell.take(Apply)
    assert len(second.desired.tunnels) == 7


def test_a_device_that_cannot_be_changed_is_tried_again_in_a_while() -> None:
    shell = Shell()
    shell.tell(lambda member, now: member.start(now=now))
    shell.tell(lambda member, now: member.listening(now=now))
    shell.run(0.0)
    for _ in range(2):
        assert len(shell.take(Apply)) == 1
        shell.tell(lambda member, now: member.applied("no WireGuard here", now=now))
        shell.run(APPLY_RETRY - 0.1)
        assert not shell.take(Apply)
        shell.run(0.1)


def test_news_does_not_wait_for_the_retry_of_an_apply_that_failed() -> None:
    """Another port in mesh.json may be the very cure."""
    shell = started()
    shell.met("b", B.ip)
    shell.run(0.0)
    assert shell.take(Apply)
    shell.tell(lambda member, now: member.applied("UDP port 51820 is taken", now=now))
    other = replace(shell.member._local.document, wireguard=WireGuardSettings(port=51999))
    shell.tell(lambda member, now: member.mesh_changed(other, member._local.ring, now=now))
    shell.run(1.0)
    assert [apply.desired.device.listen_port for apply in shell.take(Apply)] == [51999]


def test_a_fault_in_making_the_desired_state_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    shell = started()
    faults = [KeyError("a fault of ours")]

    def faulty(*of: Any) -> Desired:
        if faults:
            raise faults.pop()
        return desired(*of)

    monkeypatch.setattr(member_module, "desired", faulty)
    shell.met("b", B.ip)
    with pytest.raises(KeyError):
        shell.run(1.0)
    shell.run(APPLY_RETRY)
    assert [{*apply.desired.tunnels} for apply in shell.take(Apply)] == [{"b"}]


def test_of_two_claimants_of_an_address_the_one_that_must_move_announces_and_applies_the_next() -> None:
    mine = local_node("b")
    shell = started(mine)
    shell.met("a", "192.0.2.1", overlay_address=mine.overlay_address)
    shell.run(2.0)

    (given_up,) = shell.happened(events.OverlayAddressGivenUp)
    assert given_up.former == mine.overlay_address
    assert announced(shell).overlay_address == given_up.address != mine.overlay_address
    assert [apply.desired.device.address for apply in shell.take(Apply)] == [given_up.address]
    assert [save.state.overlay_address for save in shell.take(Save)][-1:] == [given_up.address]


def test_in_kubernetes_an_address_is_kept_for_the_operator_gave_it() -> None:
    place = Place(overlay_address=ip_address("10.189.0.9"))
    shell = started(local_node("b", options=IN_KUBERNETES, place=place))
    shell.met("a", "192.0.2.1", overlay_address=place.overlay_address)
    shell.run(2.0)
    assert not shell.happened(events.OverlayAddressGivenUp)
    assert announced(shell).overlay_address == place.overlay_address
    assert [(p.node, p.reason) for p in shell.happened(events.ProblemFound)] == [("a", "AddressClash")]


def test_without_an_address_from_the_operator_there_is_no_device_and_with_one_it_follows() -> None:
    shell = started(local_node("a", options=IN_KUBERNETES))
    shell.met("b", B.ip)
    shell.run(5.0)
    assert not shell.take(Apply)

    address = ip_address("10.189.0.9")
    shell.tell(lambda member, now: member.node_given(Place(overlay_address=address), now=now))
    shell.run(0.1)
    assert shell.happened(events.OverlayAddressGiven) == [events.OverlayAddressGiven(address)]
    assert [apply.desired.device.address for apply in shell.take(Apply)] == [address]
    assert announced(shell).overlay_address == address


def test_members_of_one_location_are_reached_at_their_internal_address_by_packet_and_by_stream() -> None:
    shell = started(local_node("a", mesh=document(cluster_name="east"), options=IN_KUBERNETES))
    inside = Address("10.0.0.2", 7946)
    shell.met("b", "203.0.113.10", location="east", internal_address=ip_address(inside.ip))
    shell.run(60.0)
    assert {address for _, address in shell.sent} == {inside}
    assert inside in {stream.address for stream in shell.dialled}
    assert "203.0.113.10" not in {stream.address.ip for stream in shell.dialled}


# The state.


def test_a_state_that_cannot_be_written_is_said_once_counted_each_time_and_written_once_it_can_be() -> None:
    shell = started()
    ring = KeyRing(ClusterKey(b"n" * 32))
    shell.tell(lambda member, now: member.mesh_changed(member._local.document, ring, now=now))
    shell.run(0.0)
    for _ in range(3):
        assert len(shell.take(Save)) == 1
        shell.tell(lambda member, now: member.saved("no space left on device", now=now))
        assert shell.member.view(now=shell.now).save_problem == "no space left on device"
        shell.run(SAVE_RETRY - 0.1)
        assert not shell.take(Save)
        shell.run(0.1)
    assert [event.is_first for event in shell.happened(events.StateNotSaved)] == [True, False, False]

    assert len(shell.take(Save)) == 1
    shell.tell(lambda member, now: member.saved(now=now))
    assert shell.happened(events.StateSavedAgain)
    assert shell.member.view(now=shell.now).save_problem == ""
    shell.run(60.0)
    assert not shell.take(Save), "nothing new"


def test_a_state_that_another_program_removed_is_saved_again_though_nothing_changed() -> None:
    shell = started()
    shell.run(60.0)
    shell.take(Save)
    shell.tell(lambda member, now: member.state_lost(now=now))
    shell.run(0.0)
    (save,) = shell.take(Save)
    assert save.state.private_key == shell.member._local.private_key
    shell.tell(lambda member, now: member.state_lost(now=now))
    assert len(shell.happened(events.StateFileLost)) == 1, "it is being written"
    shell.tell(lambda member, now: member.saved("read-only file system", now=now))
    shell.tell(lambda member, now: member.state_lost(now=now))
    assert len(shell.happened(events.StateFileLost)) == 1, "why it is missing is known"


def test_an_incarnation_that_was_forced_up_is_saved_so_that_a_restart_begins_above_it() -> None:
    shell = started()
    me = shell.member._engine.me
    shell.hear(Suspect(me.incarnation + 5, me.name, "b"))
    shell.run(5.0)
    (refuted,) = shell.happened(SelfRefuted)
    assert [save.state.incarnation for save in shell.take(Save)] == [refuted.incarnation]


def test_a_fault_in_making_the_state_is_tried_again_and_keeps_nothing_from_ending(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shell = started(local_node("a", options=IN_KUBERNETES))
    saved, faults = shell.member._roster.saved, [KeyError("a fault of ours")]

    def faulty(**when: float) -> tuple[SavedMember, ...]:
        if faults:
            raise faults.pop()
        return saved(**when)

    monkeypatch.setattr(shell.member._roster, "saved", faulty)
    ring = KeyRing(ClusterKey(b"n" * 32))
    shell.tell(lambda member, now: member.mesh_changed(member._local.document, ring, now=now))
    with pytest.raises(KeyError):
        shell.run(1.0)
    shell.run(SAVE_RETRY)
    assert [save.state.key_ring for save in shell.take(Save)] == [ring]


def test_what_another_release_kept_in_the_state_is_written_back() -> None:
    shell = Shell(saved=SavedState(unknown={"Later": 1}))
    shell.tell(lambda member, now: member.start(now=now))
    assert [save.state.unknown for save in shell.take(Save)] == [{"Later": 1}]


@pytest.mark.parametrize(
    ("saved_name", "saved_address", "kept"),
    [("a", "10.189.0.9", True), ("other", "10.189.0.9", False), ("a", "10.77.0.9", False)],
)
def test_in_kubernetes_a_saved_address_counts_for_its_own_name_and_overlay(
    saved_name: str, saved_address: str, *, kept: bool
) -> None:
    """A cloned disk must not claim the address of the original while the API server is away."""
    saved = SavedState(name=saved_name, overlay_address=ip_address(saved_address), mesh=document())
    shell = Shell(local_node("a", options=IN_KUBERNETES, place=Place()), saved)
    assert shell.member._local.overlay_address == (ip_address(saved_address) if kept else None)


# Looking for members.


def test_saved_members_are_dialled_one_a_call_as_many_as_there_is_room_for_and_the_rest_stay_due(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A dial too many would be refused by this very side, and count as a try."""
    monkeypatch.setattr("wesher_agent.mesh.dialling.TRIES_A_SECOND", 1000)
    there = [Address(f"198.51.100.{number}", 7946) for number in range(1, 101)]
    saved = SavedState(
        nodes=tuple(SavedMember(name=f"n{n}", address=a, raw_meta=b"") for n, a in enumerate(there))
    )
    shell = Shell(saved=saved)
    shell.tell(lambda member, now: member.start(now=now))
    shell.tell(lambda member, now: member.listening(now=now))
    counts = []
    while (timer := shell.member.next_timer()) is not None and timer <= 0.04:
        before = len(shell.dialled)
        shell.tell(lambda member, now: member.handle_timer(now=now))
        counts.append(len(shell.dialled) - before)
    assert max(counts) == 1
    shell.run(20.0)
    assert len(shell.dialled) == MOST_DIALS

    for _ in range(2):
        for stream in shell.dialled[:]:
            shell.tell(lambda member, now, s=stream: member.stream_closed(s.id, now=now, error="timed out"))
        shell.run(20.0)
    assert {stream.address for stream in shell.dialled} == {*there}


def test_no_more_are_dialled_in_a_second_than_the_mesh_can_bear() -> None:
    there = [Address(f"198.51.100.{number}", 7946) for number in range(1, 31)]
    saved = SavedState(
        nodes=tuple(SavedMember(name=f"n{n}", address=a, raw_meta=b"") for n, a in enumerate(there))
    )
    shell = Shell(saved=saved)
    shell.tell(lambda member, now: member.start(now=now))
    shell.tell(lambda member, now: member.listening(now=now))
    shell.run(0.99)
    assert len(shell.dialled) == TRIES_A_SECOND


def test_a_seed_that_turns_out_to_be_this_member_is_reported_at_once() -> None:
    seed = SeedAddress("me.example")
    shell = Shell(local_node("a", mesh=document(seed_nodes=(seed,))))
    shell.tell(lambda member, now: member.start(now=now))
    shell.tell(lambda member, now: member.listening(now=now))
    shell.run(1.0)
    shell.take(Report)
    assert shell.member.view(now=shell.now).has_seeds_elsewhere
    shell.tell(lambda member, now: member.resolved(seed, [ip_address("127.0.1.1")], now=now))
    assert not shell.member.view(now=shell.now).has_seeds_elsewhere
    assert shell.take(Report) == [Report()]


def test_a_name_is_looked_up_once_at_a_time_and_one_without_an_answer_is_said_once() -> None:
    seed = SeedAddress("seed.example")
    shell = Shell(local_node("a", mesh=document(seed_nodes=(seed,))))
    shell.tell(lambda member, now: member.start(now=now))
    shell.tell(lambda member, now: member.listening(now=now))
    shell.run(120.0)
    assert shell.take(Resolve) == [Resolve(seed)], "the first is not answered yet"
    for _ in range(2):
        shell.tell(lambda member, now: member.resolved(seed, (), "no answer in time", now=now))
        shell.run(120.0)
        assert shell.take(Resolve) == [Resolve(seed)]
    assert [(e.error, e.is_first) for e in shell.happened(events.SeedNotResolved)] == [
        ("no answer in time", True),
        ("no answer in time", False),
    ]
    shell.tell(lambda member, now: member.resolved(seed, [ip_address(B.ip)], now=now))
    shell.run(1.0)
    assert [stream.address for stream in shell.dialled] == [B]


def test_a_seed_inside_the_overlay_is_reported_once_and_not_dialled() -> None:
    inside = SeedAddress("10.189.0.7")
    shell = Shell(local_node("a", mesh=document(seed_nodes=(inside,)), options=IN_KUBERNETES))
    shell.tell(lambda member, now: member.start(now=now))
    shell.tell(lambda member, now: member.listening(now=now))
    shell.run(300.0)
    (skipped,) = shell.happened(events.SeedSkipped)
    assert (skipped.seed, skipped.reason) == (inside, f"inside the overlay {OVERLAY}")
    assert shell.dialled == []


def test_a_member_that_is_away_for_too_long_is_forgotten_and_loses_its_tunnel() -> None:
    saved = SavedState(nodes=(SavedMember(name="b", address=B, raw_meta=meta("b").encode()),))
    shell = started(local_node("a", options=Options(forget_after=100.0)), saved)
    assert shell.member.view(now=shell.now).members["b"].state is MemberState.FAILED
    shell.run(100.0)
    assert shell.happened(events.FailedMemberForgotten) == [events.FailedMemberForgotten("b")]
    assert [{*apply.desired.tunnels} for apply in shell.take(Apply)] == [set()]


# What must not leave in clear.

HOUR, DAY = 3600.0, 24 * 3600.0
LAN_IN_THE_OVERLAY = host("192.0.2.100", "10.189.0.250")


def covered(shell: Shell) -> set[str]:
    """Return what the last apply covers, and answer it."""
    wanted = shell.take(Apply)[-1].desired
    shell.tell(lambda member, now: member.applied(now=now))
    return {str(network) for network in wanted.device.unreachable}


def test_a_member_that_left_is_covered_for_a_day_over_restarts_too() -> None:
    local = local_node("a", on=LAN_IN_THE_OVERLAY)
    shell = started(local)
    shell.met("b", B.ip)
    shell.settle()
    shell.hear(Dead(1, "b", "b"))
    shell.run(2.0)
    address = f"{meta('b').overlay_address}/32"
    assert covered(shell) == {address}
    shell.settle()
    shell.run(HOUR)
    shell.settle()
    assert "b" not in shell.member.view(now=shell.now).members
    shell.tell(lambda member, now: member.restart(now=now))

    again = Shell(local, shell.last_state)
    again.tell(lambda member, now: member.start(now=now))
    again.tell(lambda member, now: member.listening(now=now))
    again.run(1.0)
    assert covered(again) == {address}
    again.settle()
    again.run(DAY - HOUR - 60.0)
    assert not again.take(Apply), "nothing changed"
    again.run(120.0)
    assert covered(again) == set()


def test_it_says_once_that_only_members_are_covered_as_soon_as_they_are() -> None:
    shell = Shell(local_node("a", on=LAN_IN_THE_OVERLAY))
    shell.tell(lambda member, now: member.start(now=now))
    shell.tell(lambda member, now: member.listening(now=now))
    shell.run(1.0)
    shell.tell(lambda member, now: member.applied("no wireguard", now=now))
    assert not shell.happened(events.OverlayNotCovered)
    shell.run(APPLY_RETRY)
    for name, ip in (("b", B.ip), ("c", "192.0.2.3")):
        shell.settle()
        shell.met(name, ip)
    shell.settle()
    (said,) = shell.happened(events.OverlayNotCovered)
    assert (said.overlay, said.covered) == (OVERLAY, "Members")
    assert "10.189.0.250" in said.reason
    assert shell.member.view(now=shell.now).cover.reason == said.reason


def test_it_says_nothing_when_all_of_the_overlay_is_covered() -> None:
    shell = started()
    assert shell.member.view(now=shell.now).cover.extent == "Overlay"
    assert not shell.happened(events.OverlayNotCovered)


def test_under_a_wide_overlay_a_seeds_name_may_lead_into_it() -> None:
    """As to a site behind the router; but not to a member's overlay address, found in the hosts file."""
    wide = ip_network("10.0.0.0/8")
    seed = SeedAddress("office.example")
    shell = started(local_node("a", mesh=document(overlay=wide, allocation=wide, seed_nodes=(seed,))))
    inside = [ip_address("10.20.0.5"), meta("b").overlay_address or ip_address("::")]
    shell.met("b", B.ip)
    shell.tell(lambda member, now: member.resolved(seed, inside, now=now))
    shell.run(1.0)
    assert [str(skipped.address) for skipped in shell.happened(events.SeedSkipped)] == [str(inside[1])]
    assert Address("10.20.0.5", 7946) in [stream.address for stream in shell.dialled]


# Changes of the mesh.


def test_another_key_ring_seals_from_now_on_and_is_saved() -> None:
    shell = started()
    shell.met("b", B.ip)
    shell.settle()
    shell.sent.clear()
    ring = KeyRing(ClusterKey(b"n" * 32), (shell.member._local.ring.primary,))

    shell.tell(lambda member, now: member.mesh_changed(member._local.document, ring, now=now))
    shell.run(5.0)

    assert shell.happened(events.KeyRingChanged) == [events.KeyRingChanged(ring.primary.id, 2)]
    only_new = replace(shell.member._local, ring=KeyRing(ring.primary)).packet_format
    assert all(open_packet(data, only_new).messages for data, _ in shell.sent)
    assert [save.state.key_ring for save in shell.take(Save)] == [ring]


def test_a_node_named_as_removed_asks_whether_it_has_a_place_still() -> None:
    shell = started(local_node("a", options=IN_KUBERNETES))
    removed = replace(shell.member._local.document, removed=("a",))
    shell.tell(lambda member, now: member.mesh_changed(removed, member._local.ring, now=now))
    assert shell.take(AskForPlace)
    assert shell.member.ending is None


AUTHORITY = Authority(b"a" * 32)
VERIFIED = IdentitySettings(mode="Verified", bound=True, form="Compact", authorities=(AUTHORITY.key,))


def certified(name: str) -> NodeMeta:
    """Return what a member with a certificate announces."""
    subject = meta(name).subject(name)
    assert subject is not None
    return meta(name, certificate=AUTHORITY.issue(subject, serial=1_800_000_000_000))


def test_an_operator_without_certificates_opens_the_mesh_with_one_warning() -> None:
    """It was replaced by an older release, whose mesh.json has no identity."""
    local = local_node("a", options=IN_KUBERNETES)
    place = Place(overlay_address=meta("a").overlay_address)
    document = replace(local.document, identity=VERIFIED)
    shell = started(replace(local, document=document, place=place))
    shell.met("b", B.ip)
    shell.met("c", "192.0.2.3", certificate=certified("c").certificate)
    shell.settle()
    assert shell.member._desired is not None
    assert {*shell.member._desired.tunnels} == {"c"}
    assert shell.member._engine.me.meta.startswith(b"\0")

    older = replace(shell.member._local.document, identity=None)
    for _ in range(2):
        shell.tell(lambda member, now: member.mesh_changed(older, member._local.ring, now=now))
        shell.settle()
    assert {*shell.member._desired.tunnels} == {"b", "c"}
    assert not shell.member._engine.me.meta.startswith(b"\0"), "the gob form, which older agents read"
    opened = events.IdentityChanged(None, bound=False)
    assert shell.happened(events.IdentityChanged) == [opened]


def test_a_bound_mesh_remembers_few_uncertified_members_from_the_start() -> None:
    local = local_node("a", options=IN_KUBERNETES)
    shell = started(replace(local, document=replace(local.document, identity=VERIFIED)))
    for number in range(2 * MOST_UNCERTIFIED_BOUND):
        shell.met(f"invented-{number}", "192.0.2.66")
    assert len(shell.member._engine.members) == MOST_UNCERTIFIED_BOUND + 1


@pytest.mark.parametrize("knew", [True, False])
def test_a_restart_under_an_operator_without_certificates_warns_if_there_was_one_with_them(
    knew: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    local = local_node("a", options=IN_KUBERNETES)
    before = replace(local.document, identity=VERIFIED if knew else None)
    shell = Shell(local, SavedState(mesh=before))
    shell.tell(lambda member, now: member.start(now=now))
    opened = events.IdentityChanged(None, bound=False)
    assert shell.happened(events.IdentityChanged) == [opened] * knew
    (save,) = shell.take(Save)
    again = Shell(local, save.state)
    again.tell(lambda member, now: member.start(now=now))
    assert again.happened(events.IdentityChanged) == []


DOCUMENT = {"version": 1, "name": "m", "uid": "u", "overlayCIDR": "10.189.0.0/24"}


@pytest.mark.parametrize(
    ("changes", "restarts"),
    [
        ({"name": "other"}, True),
        ({"uid": "v"}, True),
        ({"clusterName": "east"}, True),
        ({"gossip": {"port": 7947}}, False),
        ({"gossip": {"profile": "LAN"}}, True),
        ({"gossip": {"label": "other"}}, True),
        ({"wireguard": {"interface": "wgother"}}, True),
        ({"wireguard": {"mode": "Kernel"}}, True),
        ({"wireguard": {"port": 51821}}, False),
        ({"wireguard": {"mtu": 1300, "persistentKeepalive": 25}}, False),
        ({"allocationCIDR": "10.189.0.0/25", "removed": ["b"], "clusterSeeds": ["192.0.2.1"]}, False),
        ({"seedNodes": ["192.0.2.1"], "etcHosts": "Off"}, False),
    ],
)
def test_what_takes_a_restart(changes: dict[str, object], *, restarts: bool) -> None:
    old, new = (MeshDocument.from_json(json.dumps(DOCUMENT | more)) for more in ({}, changes))
    shell = started(local_node("a", mesh=old, options=IN_KUBERNETES))
    shell.tell(lambda member, now: member.mesh_changed(new, member._local.ring, now=now))
    assert bool(shell.happened(events.RestartNeeded)) == restarts
    if restarts:
        shell.tell(lambda member, now: member.saved(now=now))
        assert shell.take(Restart) == [Restart(old.wireguard, new.wireguard)]
    else:
        assert shell.member.ending is None
        assert shell.member._local.document == new


def test_one_that_leaves_keeps_its_tunnel_for_as_long_as_a_move_takes() -> None:
    """Two ends that both take their peer away begin two handshakes at once, which can cost 15 s."""
    place = Place(overlay_address=ip_address("10.189.0.9"))
    shell = started(local_node("a", options=IN_KUBERNETES, place=place))
    shell.met("b", B.ip)
    shell.settle()
    left_at = shell.now
    shell.hear(Dead(1, "b", "b"))
    shell.run(LEFT_SECONDS - 0.5)
    assert all("b" in apply.desired.tunnels for apply in shell.take(Apply))
    shell.tell(lambda member, now: member.applied(now=now))
    shell.run(5.0)
    (apply,) = shell.take(Apply)
    assert apply.desired.tunnels == {}
    assert shell.now - left_at > LEFT_SECONDS
    shell.tell(lambda member, now: member.applied(now=now))
    shell.run(10.0)
    assert not shell.take(Apply), "that was all"


def test_another_gossip_port_is_announced_once_it_listens_there() -> None:
    old, new = (
        MeshDocument.from_json(json.dumps(DOCUMENT | more)) for more in ({}, {"gossip": {"port": 7999}})
    )
    shell = started(local_node("a", mesh=old, options=IN_KUBERNETES))
    shell.met("b", B.ip)
    shell.settle()
    former, bound = shell.member._engine.me.address, shell.member._bound
    assert bound is not None
    there = Address(former.ip, 7999)
    shell.tell(lambda member, now: member.mesh_changed(new, member._local.ring, now=now))
    shell.run(0.0)
    assert shell.take(Listen) == [Listen(bound.addresses, 7999)]
    assert shell.member._engine.me.address == former
    shell.tell(lambda member, now: member.listening(now=now))
    shell.run(20.0)
    assert shell.member._engine.me.address == there
    said = [(to, message.port) for to, message in shell.said(Alive) if message.node == "a"]
    assert said[-1] == (B, 7999)
    assert not shell.said(Dead), "every member follows it without a leave"
    assert shell.member.ending is None


@pytest.mark.parametrize(
    ("mode", "kind", "stays"),
    [
        ("Auto", "Kernel", True),
        ("Kernel", "Kernel", True),
        ("Kernel", "Userspace", False),
        ("Userspace", "Kernel", False),
        ("Userspace", "", False),
    ],
)
def test_which_device_the_next_start_can_adopt(mode: WireGuardMode, kind: str, *, stays: bool) -> None:
    present = WireGuardSettings()
    following = WireGuardSettings(mode=mode)
    if following != present:
        assert Restart(present, following).keeps_device(kind) == stays
    another_name = Restart(present, WireGuardSettings(interface="wgother", mode=mode))
    assert another_name.keeps_device(kind), "the next agent takes it away once it has its own name"
    assert Restart(following, following).keeps_device(kind), "nothing changed"


def test_a_change_that_needs_no_restart_leaves_the_device_to_the_next_process() -> None:
    kernel = WireGuardSettings(mode="Kernel")
    shell = started(local_node("a", options=IN_KUBERNETES, mesh=document(wireguard=kernel)))
    other = replace(shell.member._local.document, wireguard=replace(kernel, mtu=1380))
    shell.tell(lambda member, now: member.mesh_changed(other, member._local.ring, now=now))
    shell.settle()
    shell.tell(lambda member, now: member.stop(gone=False, now=now))
    last = ended(shell)
    assert isinstance(last, Restart)
    assert last.keeps_device("")


# The end.


def ended(shell: Shell) -> Left | Restart:
    """Answer the last save, let the leave go out, and return the last output."""
    assert len(shell.take(Save)) == 1
    shell.tell(lambda member, now: member.saved(now=now))
    shell.run(15.0)
    shell.take(Report)
    (last,) = shell.outputs
    assert isinstance(last, Left | Restart)
    return last


@pytest.mark.parametrize("in_kubernetes", [False, True])
def test_one_that_leaves_tells_all_saves_once_more_and_touches_the_device_no_more(
    *, in_kubernetes: bool
) -> None:
    """In Kubernetes its keys go too; outside, the next start finds the mesh."""
    place = Place(overlay_address=ip_address("10.189.0.9"))
    options = IN_KUBERNETES if in_kubernetes else Options()
    shell = started(local_node("a", options=options, place=place if in_kubernetes else None))
    shell.met("b", B.ip)
    shell.settle()

    shell.tell(lambda member, now: member.leave(now=now))

    assert shell.member.ending is Ending.LEAVE
    assert ended(shell) == Left(forgets_state=in_kubernetes)
    assert (B, "a") in {(to, message.from_node) for to, message in shell.said(Dead)}


def test_one_that_is_to_forget_its_state_does_so_also_if_its_leave_has_begun() -> None:
    shell = started()
    shell.tell(lambda member, now: member.leave(now=now))
    shell.tell(lambda member, now: member.leave(now=now, forget=True))
    shell.tell(lambda member, now: member.leave(now=now))
    assert ended(shell) == Left(forgets_state=True)


def test_one_that_leaves_has_not_left_before_its_last_save() -> None:
    shell = started()
    shell.tell(lambda member, now: member.leave(now=now))
    shell.run(15.0)
    assert not shell.take(Left)
    shell.tell(lambda member, now: member.saved(now=now))
    assert len(shell.take(Left)) == 1


def test_one_that_leaves_while_its_port_is_taken_comes_to_its_end_all_the_same() -> None:
    shell = started(local_node("a", options=Options(bind_iface="eth0")))
    shell.met("b", B.ip)
    shell.settle()
    shell.tell(lambda member, now: member.host_changed(host("192.0.2.77"), now=now))
    shell.run(0.0)
    shell.tell(lambda member, now: member.listening("UDP port 7946 is taken", now=now))
    shell.settle()
    shell.tell(lambda member, now: member.leave(now=now))
    assert isinstance(ended(shell), Left)


def test_a_termination_signal_means_leaving_outside_kubernetes_and_a_restart_inside() -> None:
    outside = started()
    outside.tell(lambda member, now: member.stop(gone=False, now=now))
    assert isinstance(ended(outside), Left)

    inside = started(local_node("a", options=IN_KUBERNETES))
    inside.met("b", B.ip)
    inside.settle()
    inside.tell(lambda member, now: member.stop(gone=False, now=now))
    last = ended(inside)
    assert isinstance(last, Restart)
    assert last.keeps_device("Userspace")
    assert not inside.member._engine.me.is_gone, "the others are not told"


def test_in_kubernetes_a_termination_signal_means_leaving_once_the_place_is_gone() -> None:
    shell = started(local_node("a", options=IN_KUBERNETES))
    shell.tell(lambda member, now: member.stop(gone=True, now=now))
    assert ended(shell) == Left(forgets_state=True)


def test_the_last_save_waits_for_one_under_way_and_holds_what_is_known_at_the_end() -> None:
    shell = started(local_node("a", options=IN_KUBERNETES))
    shell.met("b", B.ip)
    shell.run(5.0)
    assert len(shell.take(Save)) == 1
    shell.met("c", "192.0.2.3")
    shell.tell(lambda member, now: member.restart(now=now))
    assert not shell.take(Save)

    shell.tell(lambda member, now: member.saved(now=now))
    (last,) = shell.take(Save)
    assert {node.name for node in last.state.nodes} == {"b", "c"}
    assert not shell.take(Restart)
    shell.tell(lambda member, now: member.saved("no space left on device", now=now))
    assert len(shell.take(Restart)) == 1, "a full disk does not keep the process"


def test_one_that_restarts_seeks_applies_and_reports_no_more() -> None:
    place = Place(overlay_address=ip_address("10.189.0.9"))
    away = Address("198.51.100.1", 7946)
    saved = SavedState(nodes=(SavedMember(name="c", address=away, raw_meta=b""),))
    shell = started(local_node("a", options=IN_KUBERNETES, place=place), saved)
    assert away in {stream.address for stream in shell.dialled}
    shell.dialled.clear()
    shell.tell(lambda member, now: member.restart(now=now))
    shell.take(Save)
    shell.met("b", B.ip)
    shell.run(200.0)
    assert shell.outputs == []
    assert away not in {stream.address for stream in shell.dialled}


def test_where_a_handshake_proved_a_peer_to_be_is_saved_and_the_device_begins_there() -> None:
    shell = started()
    shell.met("b", "192.0.2.2")
    shell.settle()
    key, there = meta("b").public_key, Endpoint(ip_address("198.51.100.9"), 40000)
    assert key is not None
    shell.tell(lambda member, now: member.tunnels_seen({key: there}, now=now))
    shell.run(2.0)
    (apply,) = shell.take(Apply)
    assert [(str(peer.endpoint), peer.proven) for peer in apply.desired.device.peers] == [
        ("192.0.2.2:51820", there)
    ]
    (save,) = shell.take(Save)
    assert save.state.endpoints == {key: there}

    again = Shell(saved=save.state)
    again.tell(lambda member, now: member.start(now=now))
    again.run(2.0)
    assert [peer.first_endpoint for peer in again.take(Apply)[0].desired.device.peers] == [there]


def test_an_endpoint_that_is_proven_again_is_neither_applied_nor_saved_again() -> None:
    shell = started()
    shell.met("b", "192.0.2.2")
    key, there = meta("b").public_key, Endpoint(ip_address("192.0.2.2"), 51820)
    assert key is not None
    shell.tell(lambda member, now: member.tunnels_seen({key: there}, now=now))
    shell.settle()
    shell.tell(lambda member, now: member.tunnels_seen({key: there}, now=now))
    # One whose handshake is old stays known.
    shell.tell(lambda member, now: member.tunnels_seen({}, now=now))
    shell.run(1.5)
    assert (shell.take(Apply), shell.take(Save)) == ([], [])


def test_of_members_that_are_not_expected_no_endpoint_is_kept() -> None:
    """Otherwise invented members would fill the state file."""
    shell = started()
    strangers = {
        WireGuardPublicKey(bytes([number]) * 32): Endpoint(ip_address("192.0.2.2"), 51820)
        for number in range(1, 9)
    }
    shell.tell(lambda member, now: member.tunnels_seen(strangers, now=now))
    shell.met("b", "192.0.2.2")
    shell.settle()
    assert shell.last_state.endpoints == {}


def test_a_new_certificate_and_one_that_does_not_count_are_reported_once() -> None:
    authority, other = Authority(b"a" * 32), Authority(b"b" * 32)
    settings = IdentitySettings(mode="Verified", authorities=(authority.key,))
    place = Place(overlay_address=ip_address("10.9.0.7"))
    local = local_node("a", mesh=document(identity=settings), options=IN_KUBERNETES, place=place)
    shell = started(local)
    subject = shell.member.view(now=0.0).local.node_meta.subject("a")
    assert subject is not None

    def given(by: Authority, serial: int) -> list[events.Event]:
        certified = replace(place, certificate=by.issue(subject, serial=serial))
        shell.tell(lambda member, now: member.node_given(certified, now=now))
        shell.tell(lambda member, now: member.clock_read(SIGNED_AT / 1000, now=now))
        kinds = (events.CertificateValid, events.CertificateRefused)
        told: list[events.Event] = [event for kind in kinds for event in shell.happened(kind)]
        shell.events.clear()
        return told

    expires = datetime.fromtimestamp(SIGNED_AT // 1000, UTC) + timedelta(days=30)
    assert given(authority, SIGNED_AT) == [events.CertificateValid(SIGNED_AT, expires)]
    assert given(authority, SIGNED_AT) == []
    assert given(other, SIGNED_AT + 1) == [
        events.CertificateRefused(SIGNED_AT + 1, Refusal.UNKNOWN_AUTHORITY)
    ]


def test_a_change_of_who_gets_a_tunnel_is_reported() -> None:
    verified = IdentitySettings(mode="Verified", authorities=(Authority(b"a" * 32).key,))
    shell = started(local_node("a", mesh=document(identity=verified), options=IN_KUBERNETES))
    for settings in (replace(verified, bound=True, form="Compact"), None):
        mesh = document(identity=settings)
        ring = shell.member.view(now=0.0).local.ring
        shell.tell(lambda member, now, mesh=mesh, ring=ring: member.mesh_changed(mesh, ring, now=now))
    told = shell.happened(events.IdentityChanged)
    assert told == [events.IdentityChanged("Verified", bound=True), events.IdentityChanged(None, bound=False)]


# Its WireGuard key.


def test_another_wireguard_key_is_saved_before_the_device_changes() -> None:
    place = Place(
        overlay_address=ip_address("10.189.0.77"),
        certificate=Authority(bytes(32)).issue(
            Subject(name="a", public_key=private_key("a").public, address=ip_address("10.189.0.77")), serial=1
        ),
    )
    shell, key = started(local_node("a", place=place)), private_key("another")
    shell.tell(lambda member, now: member.rekey(key, now=now))
    shell.run(SAVE_RETRY)
    assert (shell.last_state.private_key, shell.last_state.certificate) == (key, None)
    assert not shell.take(Rekeyed)
    assert announced(shell).public_key == private_key("a").public

    shell.tell(lambda member, now: member.saved(now=now))
    assert shell.take(Rekeyed) == [Rekeyed(key.public, "")]
    assert shell.happened(events.KeyReplaced) == [events.KeyReplaced(private_key("a").public, key.public)]
    assert not shell.take(Restart)
    shell.tell(lambda member, now: member.saved(now=now))
    (restart,) = shell.take(Restart)
    assert not restart.keeps_device("Kernel")
    assert shell.last_state.private_key == key


def test_a_key_that_cannot_be_saved_is_not_taken() -> None:
    """Otherwise the next start would go back to the former one."""
    shell, key = started(), private_key("another")
    shell.tell(lambda member, now: member.rekey(key, now=now))
    shell.run(SAVE_RETRY)
    shell.tell(lambda member, now: member.saved("no space left on device", now=now))
    assert shell.take(Rekeyed) == [Rekeyed(key.public, "no space left on device")]
    shell.run(SAVE_RETRY)
    shell.tell(lambda member, now: member.saved(now=now))
    assert shell.last_state.private_key == private_key("a")
    assert (shell.take(Rekeyed), shell.take(Restart), shell.member.ending) == ([], [], None)


def test_a_save_that_was_under_way_does_not_count_for_the_new_key() -> None:
    shell, key = started(), private_key("another")
    shell.tell(lambda member, now: member.state_lost(now=now))
    shell.run(SAVE_RETRY)
    assert shell.take(Save)
    shell.tell(lambda member, now: member.rekey(key, now=now))
    shell.tell(lambda member, now: member.saved(now=now))
    assert not shell.take(Rekeyed)
    shell.run(SAVE_RETRY)
    assert [save.state.private_key for save in shell.take(Save)] == [key]


def test_a_copy_of_this_machine_under_another_name_is_reported() -> None:
    shell = started()
    shell.met("clone", B.ip, public_key=private_key("a").public)
    shell.settle()
    assert shell.happened(events.KeyCopied) == [events.KeyCopied("clone")]
    problems = {(p.member, p.reason) for p in shell.member.view(now=shell.now).problems}
    assert problems == {("a", "KeyCopied"), ("clone", "KeyClash")}


@pytest.mark.parametrize("key", ["a", "other"])
def test_a_copy_of_this_machine_under_its_name_is_told_from_another_machine(key: str) -> None:
    shell = started()
    raw, versions = meta("a", public_key=private_key(key).public).encode(), shell.member._engine.me.versions
    claim = Alive(1, "a", ip_address(B.ip).packed, B.port, raw, versions)
    shell.member._engine._local._judge_alive(claim, asked_for=True, now=shell.now)
    shell.tell(lambda member, now: member.handle_timer(now=now))
    view = shell.member.view(now=shell.now)
    assert view.rival == str(B)
    assert view.copy == (str(B) if key == "a" else "")
    assert shell.happened(events.KeyCopied) == ([events.KeyCopied(str(B))] if key == "a" else [])
