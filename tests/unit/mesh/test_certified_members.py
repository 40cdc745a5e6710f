"""A holder of the cluster key against members with certificates: what it can change, and what it cannot.

The thief says whatever it likes under the cluster key. It has no authority's signature.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from random import Random
from typing import Any

import pytest

from wesher_agent.mesh.desired import Desired, LocalPeer, desired
from wesher_agent.mesh.device import Endpoint
from wesher_agent.mesh.identity import Identity, Rank, SavedTrust
from wesher_agent.mesh.nodemeta import Flag, NodeMeta
from wesher_agent.mesh.roster import CLAIMANT_SECONDS, MOST_CLAIMANTS, MemberState, Roster
from wesher_agent.swim.address import Address
from wesher_agent.swim.events import (
    LeaveLearned,
    MemberDisplaced,
    MemberFailed,
    MemberForgotten,
    MemberJoined,
    MemberLeft,
    MemberUpdated,
    NameConflict,
)
from wesher_agent.wire.messages import State
from wesher_common.certificate import Authority, Refusal
from wesher_common.mesh_document import IdentitySettings, TrustedAuthority
from wesher_testing.virtual.members import OVERLAY, gossiped, local_peer, meta, private_key

AUTHORITY, FOREIGN, UNKNOWN = (Authority(bytes([number]) * 32) for number in (1, 2, 3))
SIGNED_AT = 1_790_000_000_000
WALL = SIGNED_AT / 1000
HOUR, DAY = 3600.0, 24 * 3600.0
SETTINGS = IdentitySettings(
    authorities=(AUTHORITY.key,),
    trusted=(TrustedAuthority(cluster_name="west", key=FOREIGN.key, cidrs=(ip_network("10.189.0.128/25"),)),),
)
BOUND = replace(SETTINGS, mode="Verified", bound=True)


def certified(name: str, *, by: Authority = AUTHORITY, serial: int = SIGNED_AT, **changes: Any) -> NodeMeta:
    announced = meta(name, **{"flags": Flag.IN_KUBERNETES, **changes})
    subject = announced.subject(name)
    assert subject is not None
    return replace(announced, certificate=by.issue(subject, serial=serial))


class Mesh:
    """What one member makes of its gossip."""

    def __init__(self, settings: IdentitySettings | None = SETTINGS, **local: Any) -> None:
        self.identity = Identity(settings, now=0.0, wall=WALL)
        self.roster = Roster(
            "me",
            gossip_port=7946,
            overlay=OVERLAY,
            overlay_is_apart=False,
            forget_after=DAY,
            identity=self.identity,
            rng=Random(1),
        )
        self.local = local_peer("me", only_certified=self.identity.is_bound, **local)

    def joins(self, name: str, announced: NodeMeta, *, ip: str = "192.0.2.2", now: float = 0.0) -> None:
        """Let the member join with this metadata."""
        self.roster.observe(MemberJoined(gossiped(name, ip, raw_meta=announced.encode())), now=now)

    def desired(self) -> Desired:
        """Return the local node's desired state."""
        return desired(self.local, self.roster.members.values())

    def tunnel(self, name: str) -> tuple[str, str] | None:
        """Return the key and the overlay address of a member's tunnel."""
        found = self.desired().tunnels.get(name)
        return None if found is None else (str(found[0]), str(found[1]))

    def problems(self) -> dict[str, str]:
        """Return the reason of each member's problem."""
        return {problem.member: problem.reason for problem in self.desired().problems}


def tunnel_of(name: str) -> tuple[str, str]:
    known = meta(name)
    return str(known.public_key), str(known.overlay_address)


@pytest.fixture
def mesh() -> Mesh:
    """Return one in which b is certified."""
    made = Mesh()
    made.joins("b", certified("b"))
    return made


@pytest.mark.parametrize("name", ["a", "z"])
def test_a_thief_does_not_take_a_certified_members_address(mesh: Mesh, name: str) -> None:
    """Not even by a smaller name, or as one that cannot move."""
    stolen = meta(name, overlay_address=meta("b").overlay_address, flags=Flag.IN_KUBERNETES)
    mesh.joins(name, stolen, ip="192.0.2.66")
    assert mesh.tunnel("b") == tunnel_of("b")
    assert mesh.problems() == {name: "AddressClash"}


@pytest.mark.parametrize("name", ["a", "z"])
def test_a_thief_does_not_cut_a_certified_member_off_by_its_public_key(mesh: Mesh, name: str) -> None:
    mesh.joins(name, meta(name, public_key=private_key("b").public), ip="192.0.2.66")
    assert mesh.tunnel("b") == tunnel_of("b")
    assert mesh.problems() == {name: "KeyClash"}


def test_a_thief_does_not_take_a_certified_members_name(mesh: Mesh) -> None:
    """After a restart or a long absence the engine does not know the member, but the roster does."""
    forged = meta("b", public_key=private_key("thief").public, overlay_address=ip_address("10.189.0.66"))
    for event in (MemberJoined, MemberLeft):
        mesh.roster.observe(
            event(gossiped("b", "192.0.2.66", raw_meta=forged.encode(), incarnation=9)), now=1.0
        )
        assert mesh.tunnel("b") == tunnel_of("b")
        assert mesh.roster.members["b"].address == Address("192.0.2.2", 7946)


def test_the_certified_member_takes_its_name_from_a_thief_that_was_first() -> None:
    mesh = Mesh()
    mesh.joins("b", meta("b", public_key=private_key("thief").public), ip="192.0.2.66")
    now = gossiped("b", "192.0.2.2", raw_meta=certified("b").encode())
    mesh.roster.observe(MemberUpdated(now, now), now=1.0)
    assert mesh.tunnel("b") == tunnel_of("b")


def test_an_old_certificate_of_the_member_itself_changes_nothing(mesh: Mesh) -> None:
    """A replay of what it announced before its key was exchanged."""
    old = certified("b", serial=SIGNED_AT - 1, public_key=private_key("former b").public)
    mesh.joins("b", old, ip="192.0.2.66", now=1.0)
    assert mesh.tunnel("b") == tunnel_of("b")
    renewed = certified("b", serial=SIGNED_AT + 1, public_key=private_key("new b").public)
    mesh.joins("b", renewed, now=2.0)
    assert mesh.tunnel("b") == (str(private_key("new b").public), tunnel_of("b")[1])


def test_a_forged_leave_changes_the_status_and_neither_tunnel_nor_hosts_entry(mesh: Mesh) -> None:
    mesh.roster.observe(MemberLeft(gossiped("b", "192.0.2.2", state=State.LEFT)), now=1.0)
    mesh.roster.observe(MemberForgotten(gossiped("b", "192.0.2.2", state=State.LEFT)), now=60.0)
    assert mesh.roster.members["b"].state is MemberState.LEFT
    assert mesh.tunnel("b") == tunnel_of("b")
    assert [entry.name for entry in mesh.desired().hosts] == ["b"]
    assert not mesh.roster.due(now=61.0), "one that left is not dialled"


def test_a_failed_member_that_is_said_to_have_left_keeps_its_tunnel(mesh: Mesh) -> None:
    mesh.roster.observe(MemberFailed(gossiped("b", "192.0.2.2", state=State.DEAD), "c", 0), now=1.0)
    assert mesh.roster.observe(LeaveLearned("b", 5), now=2.0)
    assert mesh.roster.members["b"].state is MemberState.LEFT
    assert mesh.tunnel("b") == tunnel_of("b")


def test_what_a_restart_restores_is_protected_before_the_member_is_heard_of(mesh: Mesh) -> None:
    mesh.roster.observe(MemberLeft(gossiped("b", "192.0.2.2", state=State.LEFT)), now=1.0)
    again = Mesh()
    again.roster.restore(mesh.roster.saved(now=2.0), now=0.0)
    assert again.roster.members["b"].state is MemberState.LEFT
    forged = meta("b", public_key=private_key("thief").public)
    again.joins("b", forged, ip="192.0.2.66", now=1.0)
    assert again.tunnel("b") == tunnel_of("b")


def test_the_members_of_a_bound_mesh_are_saved_in_the_form_that_an_older_release_reads(mesh: Mesh) -> None:
    """After a rollback its agent starts with their tunnels, before gossip has said anything."""
    announced = certified("b")
    compact = gossiped("b", "192.0.2.2", raw_meta=announced.encode(compact=True), incarnation=2)
    mesh.roster.observe(MemberUpdated(compact, previous=gossiped("b", "192.0.2.2")), now=0.0)
    assert mesh.roster.members["b"].raw_meta == compact.meta
    [saved] = mesh.roster.saved(now=1.0)
    assert saved.raw_meta == announced.encode()
    again = Mesh()
    again.roster.restore([saved], now=0.0)
    assert again.roster.members["b"].verdict.is_certified


def test_only_removal_or_time_removes_a_certified_member(mesh: Mesh) -> None:
    mesh.roster.observe(MemberLeft(gossiped("b", "192.0.2.2", state=State.LEFT)), now=1.0)
    assert mesh.roster.forget(now=DAY) == ()
    mesh.roster.heard_through_tunnels({private_key("b").public}, now=DAY)
    assert mesh.roster.forget(now=DAY + 2.0) == (), "its tunnel was used"
    assert mesh.roster.forget(now=2 * DAY + 1.0) == ("b",)

    mesh.joins("b", certified("b"), now=2 * DAY + 2.0)
    assert mesh.roster.set_removed(["b"], now=2 * DAY + 3.0)
    assert mesh.tunnel("b") is None


def test_members_without_a_certificate_leave_as_ever(mesh: Mesh) -> None:
    mesh.joins("go", meta("go", flags=Flag.NONE))
    mesh.roster.observe(MemberLeft(gossiped("go", "192.0.2.2", state=State.LEFT)), now=1.0)
    assert mesh.tunnel("go") is None
    mesh.roster.observe(MemberForgotten(gossiped("go", "192.0.2.2", state=State.LEFT)), now=60.0)
    assert "go" not in mesh.roster.members


def test_gossip_displaces_only_members_without_a_certificate(mesh: Mesh) -> None:
    mesh.joins("invented", meta("invented"))
    for name in ("invented", "b"):
        mesh.roster.observe(MemberDisplaced(gossiped(name, "192.0.2.2")), now=1.0)
    assert mesh.roster.members.keys() == {"b"}


def test_no_endpoint_makes_a_certified_members_address_one_of_the_underlay(mesh: Mesh) -> None:
    """An endpoint is an unsigned hint, and no hint may switch encryption off."""
    address = meta("b").overlay_address
    assert address is not None
    mesh.joins("thief", meta("thief", wireguard_endpoint=Endpoint(address, 51820)), ip=str(address))
    assert mesh.tunnel("b") == tunnel_of("b")


@pytest.mark.parametrize("in_kubernetes", [True, False])
def test_a_forged_endpoint_inside_the_overlay_takes_no_certified_members_tunnel(
    *, in_kubernetes: bool
) -> None:
    """WireGuard then keeps the endpoint that it knows."""
    mesh = Mesh(in_kubernetes=in_kubernetes)
    mesh.joins("c", certified("c"), ip="192.0.2.3")
    address = meta("c").overlay_address
    assert address is not None
    mesh.joins("b", certified("b", wireguard_endpoint=Endpoint(address, 51820)))
    assert mesh.tunnel("b") == tunnel_of("b")
    assert mesh.tunnel("c") == tunnel_of("c")
    [b] = [peer for peer in mesh.desired().device.peers if peer.public_key == private_key("b").public]
    assert b.endpoint is None
    assert mesh.problems() == {}


@pytest.mark.parametrize(
    "invented",
    [
        meta("x", overlay_address=ip_address("192.0.2.9")),
        meta("x", public_key=None),
        meta("x", wireguard_endpoint=Endpoint(ip_address("10.189.0.9"), 51820)),
    ],
)
def test_a_bound_mesh_says_only_that_an_invented_member_has_no_certificate(invented: NodeMeta) -> None:
    """Other problems count as a fault of the mesh, and anyone with the cluster key can invent them."""
    mesh = Mesh(BOUND, in_kubernetes=True)
    mesh.joins("x", invented)
    assert mesh.problems() == {"x": Refusal.UNCERTIFIED}


def test_a_name_in_other_letters_takes_no_hosts_entry(mesh: Mesh) -> None:
    mesh.joins("B", meta("B"), ip="192.0.2.66")
    assert [entry.name for entry in mesh.desired().hosts] == ["b"]
    mesh.local = replace(mesh.local, weight=(Rank.OWN, SIGNED_AT))
    mesh.joins("ME", meta("ME"), ip="192.0.2.67")
    assert "ME" not in [entry.name for entry in mesh.desired().hosts]


def test_our_own_address_and_key_stay_ours() -> None:
    mesh = Mesh(weight=(Rank.OWN, SIGNED_AT))
    assert isinstance(mesh.local, LocalPeer)
    stolen = meta("a", overlay_address=mesh.local.address, flags=Flag.NONE)
    mesh.joins("a", stolen)
    mesh.joins("c", meta("c", public_key=private_key("me").public), ip="192.0.2.3")
    assert mesh.desired().device.address == mesh.local.address
    assert mesh.problems() == {"a": "AddressClash", "c": "KeyClash"}, "nothing is wrong with this machine"


def test_a_forged_certificate_is_worse_than_none() -> None:
    mesh = Mesh()
    stolen = replace(meta("thief"), certificate=certified("b").certificate)
    mesh.joins("thief", stolen)
    assert mesh.tunnel("thief") is None
    assert mesh.problems() == {"thief": Refusal.BAD_SIGNATURE}


def test_a_mesh_without_authorities_is_as_ever() -> None:
    mesh = Mesh(settings=None)
    mesh.joins("b", certified("b"))
    mesh.joins("c", meta("c"), ip="192.0.2.3")
    assert {*mesh.desired().tunnels} == {"b", "c"}


UNCERTIFIED = {
    "a Go member": (meta("x", version=0, flags=Flag.NONE), Refusal.UNCERTIFIED),
    "no certificate": (meta("x"), Refusal.UNCERTIFIED),
    "another authority": (certified("x", by=UNKNOWN), Refusal.UNKNOWN_AUTHORITY),
    "a trusted authority, under our own name": (
        certified("x", by=FOREIGN),
        Refusal.NAME_NOT_ALLOWED,
    ),
    "expired": (certified("x", serial=SIGNED_AT - 31 * 86_400_000), Refusal.EXPIRED),
    "of tomorrow": (certified("x", serial=SIGNED_AT + 25 * 3_600_000), Refusal.NOT_YET_VALID),
}


@pytest.mark.parametrize("case", UNCERTIFIED)
def test_a_bound_mesh_gives_no_tunnel_without_a_certificate(case: str) -> None:
    announced, reason = UNCERTIFIED[case]
    for settings, has_tunnel in ((SETTINGS, True), (BOUND, False), (replace(BOUND, bound=False), True)):
        mesh = Mesh(settings)
        mesh.joins("x", announced)
        assert ("x" in mesh.desired().tunnels) is has_tunnel
        assert mesh.problems().get("x") == (None if has_tunnel else reason)


def test_a_member_of_a_trusted_cluster_has_a_tunnel_inside_its_networks() -> None:
    mesh = Mesh(BOUND)
    mesh.joins("b.west", certified("b.west", by=FOREIGN, overlay_address=ip_address("10.189.0.200")))
    mesh.joins("c.west", certified("c.west", by=FOREIGN, overlay_address=ip_address("10.189.0.2")))
    assert {*mesh.desired().tunnels} == {"b.west"}
    assert mesh.problems() == {"c.west": Refusal.NETWORK_NOT_ALLOWED}


def test_our_authority_wins_a_clash_with_a_trusted_one() -> None:
    mesh = Mesh()
    address = ip_address("10.189.0.200")
    mesh.joins("a.west", certified("a.west", by=FOREIGN, serial=SIGNED_AT + 9, overlay_address=address))
    mesh.joins("b", certified("b", overlay_address=address), ip="192.0.2.3")
    assert {*mesh.desired().tunnels} == {"b"}


def test_a_certificate_that_expires_keeps_the_tunnel_it_has() -> None:
    mesh = Mesh(BOUND)
    mesh.joins("b", certified("b"))
    mesh.joins(
        "c", certified("c", serial=SIGNED_AT + 31 * 86_400_000 - 1), ip="192.0.2.3", now=31 * DAY - 1.0
    )
    assert mesh.roster.judge(now=31 * DAY + HOUR)
    assert mesh.roster.members["b"].verdict.refusal is Refusal.EXPIRED
    assert {*mesh.desired().tunnels} == {"b", "c"}


def test_a_wrong_clock_makes_nothing_expire() -> None:
    mesh = Mesh(BOUND)
    mesh.joins("b", certified("b"))
    for wall in (0.0, WALL + 4000 * DAY):
        mesh.identity.wall_clock(wall, now=1.0)
        assert not mesh.roster.judge(now=1.0)


def test_on_the_first_start_our_own_certificate_tells_the_time_better_than_a_clock_that_is_years_ahead() -> (
    None
):
    identity = Identity(BOUND, now=0.0, wall=WALL + 4000 * DAY)
    assert identity.verdict("b", certified("b"), now=0.0).refusal is Refusal.EXPIRED
    identity.take_own("me", certified("me", by=UNKNOWN), now=0.0)
    identity.take_own("me", certified("someone"), now=0.0)
    assert identity.verdict("b", certified("b"), now=0.0).refusal is Refusal.EXPIRED
    identity.take_own("me", certified("me"), now=0.0)
    assert identity.verdict("b", certified("b"), now=0.0).is_certified
    old = certified("b", serial=SIGNED_AT - 31 * 86_400_000)
    assert identity.verdict("b", old, now=0.0).refusal is Refusal.EXPIRED


def test_an_expired_certificate_of_our_own_revives_nothing_once_the_time_is_known() -> None:
    identity = Identity(BOUND, [SavedTrust(AUTHORITY.key, SIGNED_AT)], now=0.0, wall=WALL)
    old = certified("me", serial=SIGNED_AT - 31 * 86_400_000)
    identity.take_own("me", old, now=0.0)
    assert identity.verdict("me", old, now=0.0).refusal is Refusal.EXPIRED


def test_a_clock_that_was_never_set_refuses_no_certificate_as_of_the_future() -> None:
    """A machine without a clock of its own starts in 1970, and has verified nothing on its first start."""
    identity = Identity(BOUND, now=0.0, wall=0.0)
    assert identity.verdict("b", certified("b"), now=0.0).is_certified


def test_what_was_signed_is_known_after_a_restart() -> None:
    """An old certificate is not valid again because the clock went back to 1970."""
    mesh = Mesh()
    mesh.joins("b", certified("b"))
    [saved] = mesh.identity.saved()
    assert saved == SavedTrust(AUTHORITY.key, SIGNED_AT)
    again = Identity(BOUND, [saved], now=0.0, wall=0.0)
    old = certified("b", serial=SIGNED_AT - 31 * 86_400_000)
    assert again.verdict("b", old, now=0.0).refusal is Refusal.EXPIRED


def test_a_change_of_what_is_trusted_judges_every_member_again(mesh: Mesh) -> None:
    assert mesh.identity.configure(replace(SETTINGS, authorities=(UNKNOWN.key,)))
    assert mesh.roster.judge(now=1.0)
    assert mesh.roster.members["b"].verdict.refusal is Refusal.UNKNOWN_AUTHORITY
    assert not mesh.identity.configure(replace(SETTINGS, authorities=(UNKNOWN.key,)))
    assert not mesh.roster.judge(now=2.0)


NEW = replace(BOUND, authorities=(UNKNOWN.key,))
BOTH = replace(BOUND, authorities=(UNKNOWN.key, AUTHORITY.key))


def test_one_authority_replaces_another_without_a_tunnel_less() -> None:
    mesh = Mesh(BOUND)
    mesh.joins("b", certified("b"))
    mesh.identity.configure(BOTH)
    assert not mesh.roster.judge(now=1.0)
    renewed = gossiped("b", "192.0.2.2", raw_meta=certified("b", by=UNKNOWN, serial=SIGNED_AT + 1).encode())
    mesh.roster.observe(MemberUpdated(renewed, renewed), now=2.0)
    assert mesh.tunnel("b") == tunnel_of("b")
    mesh.identity.configure(NEW)
    mesh.roster.judge(now=3.0)
    assert mesh.tunnel("b") == tunnel_of("b")


def test_what_a_dropped_authority_signed_gives_no_tunnel() -> None:
    """After a theft, agents stop trusting it at once."""
    mesh = Mesh(BOUND)
    mesh.joins("b", certified("b"))
    mesh.identity.configure(NEW)
    assert mesh.roster.judge(now=1.0)
    assert mesh.tunnel("b") is None
    mesh.joins("thief", certified("thief", serial=SIGNED_AT + 9), now=2.0)
    assert mesh.tunnel("thief") is None


@pytest.mark.parametrize("wall", [0.0, WALL + 4000 * DAY])
@pytest.mark.parametrize("settings", [BOTH, NEW])
def test_a_new_authority_is_believed_though_the_clock_is_years_off(
    settings: IdentitySettings, wall: float
) -> None:
    identity = Identity(BOUND, [SavedTrust(AUTHORITY.key, SIGNED_AT)], now=0.0, wall=wall)
    identity.configure(settings)
    renewed = certified("b", by=UNKNOWN, serial=SIGNED_AT + 60_000)
    assert identity.verdict("b", renewed, now=0.0).is_certified
    old = certified("b", by=UNKNOWN, serial=SIGNED_AT - 31 * 86_400_000)
    assert identity.verdict("b", old, now=0.0).refusal is Refusal.EXPIRED


def test_the_standing_of_an_alive_is_its_certificate_and_where_the_tunnel_ends(mesh: Mesh) -> None:
    here, there = Address("192.0.2.2", 7946), Address("192.0.2.66", 7946)
    raw = certified("b").encode()
    only_certified = mesh.identity.standing("b", raw, here, 0.0)
    assert only_certified > 0
    mesh.identity.tunnels_end({private_key("b").public: ip_address(here.ip)})
    assert mesh.identity.standing("b", raw, here, 0.0) > only_certified
    assert mesh.identity.standing("b", raw, there, 0.0) == only_certified
    assert mesh.identity.standing("c", raw, here, 0.0) == 0
    assert mesh.identity.standing("b", meta("b").encode(), here, 0.0) == 0
    assert mesh.identity.standing("b", b"\0", here, 0.0) == 0


def test_a_newer_certificate_has_more_standing_than_an_old_one_whose_tunnel_is_up(mesh: Mesh) -> None:
    """A thief of a machine's former key can have a tunnel, and come before the machine with its new key."""
    here, there = Address("192.0.2.2", 7946), Address("192.0.2.66", 7946)
    stolen = certified("b", public_key=private_key("former").public)
    mesh.identity.tunnels_end({private_key("former").public: ip_address(there.ip)})
    renewed = certified("b", serial=SIGNED_AT + 1)
    former, present = (
        mesh.identity.standing("b", announced.encode(), address, 0.0)
        for announced, address in ((stolen, there), (renewed, here))
    )
    assert present > former > 0


def test_a_trusted_authority_with_the_id_of_our_own_replaces_it_nowhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An id has 4 bytes: another key with the same one takes a day to find."""
    monkeypatch.setitem(FOREIGN.key.__dict__, "id", AUTHORITY.key.id)
    mesh = Mesh(BOUND)
    mesh.joins("b", certified("b"))
    assert mesh.tunnel("b") == tunnel_of("b")
    mesh.joins("x.west", certified("x.west", by=FOREIGN), ip="192.0.2.3")
    assert mesh.problems() == {"x.west": Refusal.BAD_SIGNATURE}


def test_machines_that_show_an_invite_for_a_name_in_use_are_remembered_up_to_a_limit() -> None:
    """Until one of them has the name by its certificate."""
    mesh = Mesh(BOUND)
    mesh.joins("laptop", meta("laptop"))
    used = gossiped("laptop", "192.0.2.2")
    for number in range(2 * MOST_CLAIMANTS):
        shown = meta("laptop", public_key=private_key(str(number)).public, enrolment=bytes(64))
        where = Address("192.0.2.66", 7946 + number)
        mesh.roster.observe(NameConflict(used, where, asked_for=False, meta=shown.encode()), now=1.0)
    bare = meta("laptop", public_key=private_key("bare").public).encode()
    for announced in (bare, b"unreadable"):
        conflict = NameConflict(used, Address("192.0.2.67", 7946), asked_for=False, meta=announced)
        assert not mesh.roster.observe(conflict, now=1.0)
    claimants = mesh.roster.claimants(now=2.0)
    assert len(claimants) == MOST_CLAIMANTS
    assert all(claimant.meta is not None and claimant.meta.enrolment for claimant in claimants)
    assert mesh.roster.claimants(now=1.0 + CLAIMANT_SECONDS) == ()
    mesh.joins("laptop", certified("laptop"), now=3.0)
    assert mesh.roster.claimants(now=3.0) == ()


def test_a_bound_mesh_searches_for_no_member_that_would_get_no_tunnel() -> None:
    """Invented names that are said to have failed would delay the search for others, for a day."""
    mesh = Mesh(BOUND)
    mesh.joins("b", certified("b"))
    mesh.joins("invented", meta("invented"), ip="192.0.2.66")
    for name, announced in (("b", certified("b")), ("invented", meta("invented"))):
        failed = gossiped(name, "192.0.2.66", state=State.DEAD, raw_meta=announced.encode())
        mesh.roster.observe(MemberFailed(failed, "thief", 0), now=1.0)
        mesh.roster.observe(MemberForgotten(failed), now=40.0)
    assert mesh.roster.members.keys() == {"b"}


def test_no_endpoint_of_an_uncertified_member_uncovers_anything_in_a_bound_mesh() -> None:
    """Packets to the address of a member that is gone would leave in clear."""
    mesh = Mesh(BOUND)
    mesh.joins("b", certified("b"))
    before = mesh.desired()
    inside = ip_address("10.189.0.9")
    mesh.joins("thief", meta("thief", wireguard_endpoint=Endpoint(inside, 51820)), ip="10.189.0.9")
    assert mesh.desired().cover == before.cover
    assert mesh.desired().endpoints == before.endpoints
    assert before.cover.extent == "Overlay"
