"""What an agent shows of itself and others, here and to Kubernetes."""

from __future__ import annotations

import base64
import shlex
from dataclasses import fields, replace
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network
from itertools import pairwise
from typing import Any

import pytest

from wesher_agent.kube.node_status import admission_part, node_status, own_part, view_part
from wesher_agent.mesh.carry_steps import TrafficView
from wesher_agent.mesh.cover import Cover
from wesher_agent.mesh.device import Carrying, Endpoint
from wesher_agent.mesh.identity import Rank, Verdict
from wesher_agent.mesh.local import Options
from wesher_agent.mesh.nodemeta import META_VERSION, Flag, NodeMeta
from wesher_agent.mesh.problem import Problem
from wesher_agent.mesh.roster import MemberState, RosterMember
from wesher_agent.mesh.view import MemberView
from wesher_agent.status.answers import join_answer, key_answer, members_answer, status_answer
from wesher_agent.status.greeting import greeting
from wesher_agent.status.snapshot import Snapshot
from wesher_agent.swim.address import Address
from wesher_agent.wireguard.carrying_plan import CarryProblem
from wesher_agent.wireguard.plan import ObservedPeer
from wesher_common.certificate import MAX_SERIAL, Authority, Certificate, Kind, Refusal, Subject
from wesher_common.errors import WesherError
from wesher_common.keys import ClusterKey, KeyRing, WireGuardPublicKey
from wesher_common.mesh_document import GossipSettings, IdentitySettings, TrustedAuthority
from wesher_common.report import MAX_OUTSIDERS
from wesher_common.seeds import SeedAddress
from wesher_common.traffic import TrafficSettings
from wesher_testing.agents.snapshots import snapshot
from wesher_testing.virtual.members import document, local_node, private_key

NOW = 1_000_000.0
AUTHORITY, SIGNED_AT = Authority(b"a" * 32), 1_790_000_000_000
TIME = datetime(2026, 1, 2, tzinfo=UTC)


def reported(now: Snapshot) -> dict[str, Any]:
    return node_status(now, (), time=TIME)


def key(number: int) -> WireGuardPublicKey:
    return WireGuardPublicKey(bytes([number]) * 32)


def member(
    number: int,
    name: str,
    *,
    state: MemberState = MemberState.ALIVE,
    inside: bool = True,
    version: int = META_VERSION,
) -> RosterMember:
    meta = NodeMeta(
        overlay_address=ip_address(f"10.9.0.{number}"),
        public_key=key(number),
        version=version,
        flags=Flag.IN_KUBERNETES if inside else Flag(0),
    )
    return RosterMember(
        name=name,
        address=Address(f"192.0.2.{number}", 7946),
        raw_meta=meta.encode(),
        meta=meta,
        problem="",
        state=state,
        since=0.0,
    )


def seen(*numbers: int, age: float) -> dict[WireGuardPublicKey, ObservedPeer]:
    return {
        key(number): ObservedPeer(
            key(number),
            endpoint=Endpoint(ip_address(f"192.0.2.{number}"), 51820),
            last_handshake=NOW - age,
        )
        for number in numbers
    }


B, C, FAILED = member(2, "b"), member(3, "c"), member(4, "d", state=MemberState.FAILED)


def test_a_tunnel_counts_when_it_answered_or_has_a_session_that_lives() -> None:
    def with_tunnel(**changes: Any) -> int:
        return snapshot(B, C, FAILED, **changes).with_tunnel

    assert with_tunnel() == 0
    assert with_tunnel(reachable=frozenset("b")) == 1
    assert with_tunnel(observed=seen(2, 3, age=179)) == 2
    assert with_tunnel(observed=seen(2, 3, age=181)) == 0
    assert with_tunnel(observed=seen(2, 3, age=5), unreachable=("c",)) == 1
    assert with_tunnel(observed=seen(4, age=5)) == 0


def test_the_status_counts_peers_by_state_and_shows_no_key() -> None:
    ring = KeyRing(ClusterKey(bytes(32)), (ClusterKey(b"2" * 32),))
    now = snapshot(B, C, FAILED, local=local_node("a", ring=ring), rejected={"truncated": 2})
    answer = status_answer(now)
    assert answer["peers"] == {"known": 3, "alive": 2, "suspect": 0, "failed": 1, "handshake": 0}
    assert answer["gossip"]["rejected"] == {"truncated": 2}
    assert len(answer["keyIDs"]) == 2
    text = repr(answer) + repr(now)
    assert ClusterKey(b"2" * 32).reveal_base64() not in text
    assert private_key("a").reveal_base64() not in text


def test_the_status_says_what_of_the_overlay_is_covered() -> None:
    answer = status_answer(snapshot(B, cover=Cover("Members", "why")))
    assert answer["unreachableRoute"] == {"covers": "Members", "reason": "why"}
    assert status_answer(snapshot(B))["unreachableRoute"] == {"covers": "Overlay", "reason": ""}


def test_members_are_listed_by_name_with_this_one_among_them_and_what_is_wrong() -> None:
    answer = members_answer(
        snapshot(
            C,
            B,
            FAILED,
            local=local_node("bb"),
            observed=seen(2, age=7.5),
            unreachable=("c",),
            problems=(Problem("d", "AddressClash", "claims 10.9.0.1, which bb has"),),
        )
    )
    assert [entry["name"] for entry in answer] == ["b", "bb", "c", "d"]
    assert [entry["note"] for entry in answer] == [
        "",
        "this node",
        "does not answer through the tunnel",
        "claims 10.9.0.1, which bb has",
    ]
    assert (answer[0]["endpoint"], answer[0]["handshakeSeconds"]) == ("192.0.2.2:51820", 7.5)
    assert [entry["isThisNode"] for entry in answer] == [False, True, False, False]


def test_who_is_certified_until_when_and_why_not_is_said_of_each_member() -> None:
    identity = IdentitySettings(mode="Verified", bound=True, authorities=(AUTHORITY.key,))
    certified, expired, uncertified = (
        _with_certificate(B, Verdict(Rank.OWN, SIGNED_AT, None)),
        _with_certificate(C, Verdict(refusal=Refusal.EXPIRED)),
        member(5, "e"),
    )
    now = snapshot(certified, expired, uncertified, local=local_node("a", mesh=document(identity=identity)))
    told = {
        entry["name"]: (entry["certificateExpires"], entry["uncertified"]) for entry in members_answer(now)
    }
    until = "2026-10-21T14:13:20Z"
    assert told == {
        "a": (None, "Uncertified"),
        "b": (until, ""),
        "c": (until, "CertificateExpired"),
        "e": (None, "Uncertified"),
    }
    assert status_answer(now)["identity"] == {
        "mode": "Verified",
        "bound": True,
        "authority": str(AUTHORITY.key),
        "certificateExpires": None,
        "uncertified": "Uncertified",
    }


def test_without_an_authority_nothing_is_said_of_certificates() -> None:
    now = snapshot(B)
    assert {(entry["certificateExpires"], entry["uncertified"]) for entry in members_answer(now)} == {
        (None, "")
    }
    assert status_answer(now)["identity"]["mode"] == ""


def test_a_certificate_that_counts_for_nothing_may_name_any_time() -> None:
    """Anyone with the cluster key can announce one."""
    assert B.meta is not None
    forged = Certificate(authority=bytes(4), serial=MAX_SERIAL, hours=1, kind=Kind.NODE, signature=bytes(64))
    thief = replace(B, meta=replace(B.meta, certificate=forged))
    told = {entry["name"]: entry["certificateExpires"] for entry in members_answer(snapshot(thief))}
    assert told["b"] == "9999-12-31T23:59:59Z"


def _with_certificate(known: RosterMember, verdict: Verdict) -> RosterMember:
    assert known.meta is not None
    subject = known.meta.subject(known.name)
    assert subject is not None
    certificate = AUTHORITY.issue(subject, serial=SIGNED_AT)
    return replace(known, meta=replace(known.meta, certificate=certificate), verdict=verdict)


def test_a_member_has_its_traffic_its_location_its_program_and_how_long_it_is_in_its_state() -> None:
    assert B.meta is not None
    session = replace(seen(2, age=7.5)[key(2)], rx_bytes=4096, tx_bytes=512)
    there = replace(B, meta=replace(B.meta, location="fra"), since=940.0)
    unread = replace(C, meta=None, problem="its metadata cannot be read")
    go = member(5, "go", inside=False, version=0)
    answer = members_answer(
        snapshot(
            there,
            unread,
            go,
            local=local_node("a", mesh=document(cluster_name="east")),
            observed={key(2): session},
            now=1000.0,
            uptime=61.04,
        )
    )
    told = ("location", "stateSeconds", "receivedBytes", "sentBytes", "kind")
    assert {entry["name"]: [entry[name] for name in told] for entry in answer} == {
        "a": ["east", 61.0, None, None, "wesher"],
        "b": ["fra", 60.0, 4096, 512, "wesher"],
        "c": ["", 1000.0, None, None, ""],
        "go": ["", 1000.0, None, None, "Go"],
    }


def test_another_machine_joins_through_this_node_first_and_gets_the_flags_but_no_key() -> None:
    left = member(6, "e", state=MemberState.LEFT)
    mesh = document(gossip=GossipSettings(port=7000, profile="LAN", label="our mesh"))
    outside = Problem("bad", "OutsideOverlay", "claims 10.1.0.2 outside 10.9.0.0/24")
    others = (C, B, FAILED, left, member(5, "z"), member(7, "bad"))
    now = snapshot(*others, local=local_node("a", mesh=mesh), problems=(outside,))
    command = join_answer(now)["command"]
    words = shlex.split(command)
    flags = dict(zip(words[1::2], words[2::2], strict=True))
    assert flags["--join"] == "192.0.2.100,192.0.2.2,192.0.2.3"
    assert flags["--cluster-key-file"] == "/etc/wesher/key"
    assert flags["--overlay-net"] == str(mesh.overlay)
    assert (flags["--cluster-port"], flags["--gossip-profile"]) == ("7000", "LAN")
    assert flags["--label"] == "our mesh"
    assert "--mtu" not in flags
    key_of_mesh = key_answer(now)["clusterKey"]
    assert key_of_mesh == now.local.ring.primary.reveal_base64()
    assert key_of_mesh not in command + greeting(now, reach=[])


def test_another_machine_joins_a_mesh_with_an_authority_by_that_authority() -> None:
    for mode, given in (("Verified", [str(AUTHORITY.key)]), ("Open", [])):
        mesh = document(identity=IdentitySettings(mode=mode, authorities=(AUTHORITY.key,)))
        words = shlex.split(join_answer(snapshot(local=local_node("a", mesh=mesh)))["command"])
        assert [value for flag, value in pairwise(words) if flag == "--authority"] == given


def test_in_kubernetes_the_agent_gives_neither_the_key_nor_a_command_away() -> None:
    now = snapshot(local=local_node("a", options=Options(in_kubernetes=True)))
    for answer in (join_answer, key_answer):
        with pytest.raises(WesherError, match="use `kubectl wesher join-command"):
            answer(now)


def test_the_greeting_has_name_address_and_both_commands_and_leaves_usual_values_out() -> None:
    now = snapshot(B, local=local_node("a"))
    lines = greeting(now, reach=["--interface=wg0"]).splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "name",
        "overlay address",
        "add a machine",
        "see the mesh",
    ]
    assert lines[0].split() == ["name:", "a"]
    assert str(now.local.overlay_address) in lines[1]
    assert "wesher --cluster-key-file /etc/wesher/key --join 192.0.2.100,192.0.2.2" in lines[2]
    assert "--cluster-port" not in lines[2]
    assert lines[2].endswith("(wesher join-command --interface=wg0 shows how)")
    assert lines[3].endswith("wesher members --interface=wg0")


def floats(value: Any) -> list[float]:
    """Return every float in a JSON value."""
    match value:
        case float():
            return [value]
        case dict():
            return [found for entry in value.values() for found in floats(entry)]
        case list():
            return [found for entry in value for found in floats(entry)]
        case _:
            return []


def test_no_number_is_shown_with_more_digits_than_it_has_a_meaning_for() -> None:
    """Of all that is JSON: both answers to commands, and the status in Kubernetes."""
    now = snapshot(B, C, FAILED, observed=seen(2, 3, 4, age=1 / 3), uptime=200 / 3, now=100 / 3)
    shown = floats([status_answer(now), members_answer(now), reported(now)])
    assert sorted(set(shown)) == [0.3, 33.3, 66.7]


def test_kubernetes_is_told_what_this_node_sees() -> None:
    now = snapshot(B, C, FAILED, unreachable=("c",), reachable=frozenset("b"), generation=4)
    status = reported(now)
    assert status["peers"]["summary"] == "1/3"
    assert status["peers"]["unreachable"] == ["c", "d"]
    assert status["endpoint"] == "192.0.2.100:51820"
    assert status["observedGeneration"] == 4
    assert status["primaryKeyID"] == status["keyIDs"][0]


def test_a_member_that_claims_what_another_has_is_reported_as_unreachable() -> None:
    """So that the mesh is Degraded, and names it, until a user renames it."""
    clash = Problem("b", "AddressClash", "claims 10.9.0.3, which c has")

    assert reported(snapshot(B, C, problems=(clash,), reachable=frozenset("c")))["peers"]["unreachable"] == [
        "b"
    ]


def test_a_member_of_another_overlay_network_is_reported_as_unreachable() -> None:
    outside = Problem("b", "OutsideOverlay", "claims 10.1.0.2 outside 10.9.0.0/24")
    told = reported(snapshot(B, C, problems=(outside,), reachable=frozenset("c")))
    assert told["peers"]["unreachable"] == ["b"]


def test_ages_alone_are_no_news_for_kubernetes() -> None:
    earlier = snapshot(B, C, observed=seen(2, 3, age=5))
    later = snapshot(B, C, observed=seen(2, 3, age=90), uptime=500.0)
    assert (own_part(earlier), view_part(earlier)) == (own_part(later), view_part(later))


def test_external_members_are_reported_by_the_three_nodes_with_the_smallest_names() -> None:
    external = (member(20, "laptop", inside=False), member(21, "go", inside=False, version=0))
    others = (member(2, "b"), member(3, "c"), member(4, "d"))
    for name, reports in (("a", True), ("bb", True), ("cc", True), ("dd", False), ("z", False)):
        told = reported(snapshot(*others, *external, local=local_node(name)))["outsiders"]
        assert [entry["name"] for entry in told] == (["go", "laptop"] if reports else [])
    told = reported(snapshot(*external))["outsiders"]
    assert [(e["kind"], e["address"]) for e in told] == [("Go", "10.9.0.21"), ("wesher", "10.9.0.20")]


def test_invented_nodes_keep_no_node_from_reporting_external_members() -> None:
    """Otherwise the operator would see no invited machine while anyone has the cluster key."""
    certifying = document(identity=IdentitySettings(authorities=(AUTHORITY.key,)))
    invented = [member(number, f"0{number}") for number in range(30, 34)]
    others = [
        _with_certificate(member(number, name), Verdict(Rank.OWN, SIGNED_AT, None))
        for number, name in ((2, "b"), (3, "c"), (4, "d"))
    ]
    laptop = member(20, "laptop", inside=False)
    for name, reports in (("a", True), ("z", False)):
        now = snapshot(*invented, *others, laptop, local=local_node(name, mesh=certifying))
        assert [each["name"] for each in reported(now)["outsiders"]] == (["laptop"] if reports else [])


@pytest.mark.parametrize("crowd_is_certified", [True, False])
def test_neither_certified_nor_invented_members_fill_the_report_of_external_ones(
    *, crowd_is_certified: bool
) -> None:
    def as_certified(known: RosterMember, *, really: bool) -> RosterMember:
        return _with_certificate(known, Verdict(Rank.OWN, SIGNED_AT, None)) if really else known

    crowd = [
        as_certified(member(number, f"a{number}", inside=False), really=crowd_is_certified)
        for number in range(10, 110)
    ]
    one = as_certified(member(200, "z", inside=False), really=not crowd_is_certified)
    told = reported(snapshot(*crowd, one))["outsiders"]
    assert len(told) == MAX_OUTSIDERS
    assert "z" in [entry["name"] for entry in told]


def test_invented_members_that_get_no_tunnel_are_not_blamed_and_hide_no_fault() -> None:
    bound = IdentitySettings(mode="Verified", bound=True, authorities=(AUTHORITY.key,))
    nodes = [_with_certificate(each, Verdict(Rank.OWN, SIGNED_AT, None)) for each in (B, C)]
    invented = [member(number, f"x{number}") for number in range(30, 40)]
    now = snapshot(
        *nodes,
        *invented,
        replace(invented[0], name="y", state=MemberState.FAILED),
        local=local_node("a", mesh=document(identity=bound)),
        unreachable=("b", "c"),
    )
    assert now.unreachable_members == ("b", "c")
    assert now.mostly_without_tunnel


def test_a_machine_whose_name_another_one_uses_is_reported_too() -> None:
    """The operator takes the one whose invite is true."""
    squatter, machine = (member(number, "laptop", inside=False) for number in (20, 21))
    told = reported(snapshot(squatter, claimants=(machine,)))["outsiders"]
    assert [each["publicKey"] for each in told] == [str(key(20)), str(key(21))]


def test_nodes_of_another_cluster_are_external_members_where_clusters_have_names() -> None:
    named = local_node("a.east", mesh=document(cluster_name="east"))
    now = snapshot(member(2, "b.east"), member(3, "c.west"), local=named)
    assert [entry["name"] for entry in reported(now)["outsiders"]] == ["c.west"]


def test_a_member_of_a_trusted_cluster_is_reported_with_the_name_of_that_cluster() -> None:
    """By its certificate: a name alone can be invented."""
    authority = Authority(bytes(32))
    west = TrustedAuthority(cluster_name="west", key=authority.key, cidrs=(ip_network("10.9.0.0/24"),))
    identity = IdentitySettings(mode="Verified", bound=True, trusted=(west,))
    named = local_node("a.east", mesh=document(cluster_name="east", identity=identity))
    subject = Subject(name="c.west", public_key=key(20), address=ip_address("10.9.0.20"))
    certified = member(20, "c.west")
    assert certified.meta is not None
    certified = replace(
        certified,
        meta=replace(certified.meta, certificate=authority.issue(subject, serial=5)),
        verdict=Verdict(Rank.TRUSTED, 5, None),
    )
    told = reported(snapshot(certified, member(3, "d.west"), local=named))["outsiders"]
    assert {entry["name"]: entry["cluster"] for entry in told} == {"c.west": "west", "d.west": ""}


def test_an_external_member_is_reported_with_what_it_is_admitted_by() -> None:
    certificate = Authority(bytes(32)).issue(
        Subject(name="p", public_key=key(20), address=ip_address("10.9.0.20")), serial=5
    )
    outside = [member(20, "b", inside=False), member(21, "c", inside=False)]
    invited, certified = (member(number, name, inside=False) for number, name in ((22, "z"), (20, "p")))
    assert invited.meta is not None
    assert certified.meta is not None
    invited = replace(invited, meta=replace(invited.meta, enrolment=b"e" * 64, ring=0xAB))
    certified = replace(certified, meta=replace(certified.meta, certificate=certificate))
    told = {entry["name"]: entry for entry in reported(snapshot(*outside, invited, certified))["outsiders"]}
    assert next(iter(told)) == "z", "of many, the invited ones are reported first"
    assert told["z"]["enrolment"] == base64.b64encode(b"e" * 64).decode()
    assert (told["z"]["certificateSerial"], told["z"]["ringID"]) == (0, "ab")
    assert (told["p"]["certificateSerial"], told["p"]["enrolment"]) == (5, "")
    before, after = snapshot(*outside), snapshot(*outside, invited)
    assert admission_part(before) != admission_part(after)
    assert admission_part(before) == admission_part(replace(before, mtu=1))


ON = TrafficSettings(nodes="All", pods="All", node_cidrs=(ip_network("192.0.2.0/24"),))
IN_MESH_WITH_TRAFFIC = local_node("a", mesh=document(traffic=ON))
CHANGES: dict[str, Any] = {
    "now": 2000.0,
    "local": local_node("a2"),
    "members": {"b": B},
    "problems": (Problem("b", "KeyClash", "has the same key as c"),),
    "cover": Cover("Members", "this host uses the address 10.0.0.5 in it"),
    "can_probe": False,
    "claimants": (member(50, "laptop", inside=False),),
    "rival": "192.0.2.9:7946",
    "copy": "192.0.2.9:7946",
    "other_key_at": "192.0.2.9:7946",
    "listen_problem": "UDP port 7946 is taken",
    "save_problem": "no space left on device",
    "news_number": 1_790_000_000_000,
    "unpublished_news": b"statement",
    "has_seeds_elsewhere": True,
    "uptime": 1.0,
    "verdict": Verdict(Rank.OWN, SIGNED_AT, None),
    "traffic": TrafficView(ON, Carrying(mark=0x80, table=1870, priority=1870)),
    "device_ready": False,
    "device_reason": "Failed",
    "device_problem": "broken",
    "mode": "Userspace",
    "mtu": 1380,
    "hosts": "off",
    "observed": seen(2, 3, age=5),
    "reachable": frozenset("b"),
    "unreachable": ("c",),
    "mostly_unreachable": True,
    "probes_settled": False,
    "rejected": {"truncated": 1},
    "counts": {"membersFailed": 1},
    "source_problem": "mesh.json: is missing",
    "health_problem": "TCP port 51820 of 127.0.0.1 is taken by another program",
    "carry_problems": (CarryProblem("RuleConflict", "another program has the rules of priority 1870"),),
    "removed": True,
    "generation": 7,
    "machine": "0123456789ab",
    "version": "2.0",
    "wall_clock": NOW + 100.0,
    "changed_at": {"Ready": "2026-01-02T00:00:00Z"},
}
SEEKING = local_node("a", mesh=document(seed_nodes=(SeedAddress("192.0.2.9"),)))
BESIDE: dict[str, dict[str, Any]] = {
    "verdict": {"local": local_node("a", mesh=document(identity=IdentitySettings()))},
    "can_probe": {"probes_settled": False},
    "traffic": {"local": IN_MESH_WITH_TRAFFIC},
    "carry_problems": {"local": IN_MESH_WITH_TRAFFIC},
    "device_reason": {"device_ready": False},
    "device_problem": {"device_ready": False, "device_reason": "Failed"},
    "wall_clock": {"observed": seen(2, age=5)},
    "has_seeds_elsewhere": {"members": {}},
    "uptime": {"members": {}, "local": SEEKING},
    "other_key_at": {"members": {}, "local": SEEKING},
}
"""What must be so for a field to matter."""


@pytest.mark.parametrize(
    "field", [*(f.name for f in fields(MemberView)), *(f.name for f in fields(Snapshot))]
)
def test_every_field_of_a_snapshot_shows_in_what_the_agent_says(field: str) -> None:
    """A snapshot is filled once; a field that no renderer reads would do nothing."""
    if field == "member":
        return
    before = snapshot(B, C, **BESIDE.get(field, {}))
    after = snapshot(B, C, **{**BESIDE.get(field, {}), field: CHANGES[field]})
    assert (status_answer(before), members_answer(before), reported(before)) != (
        status_answer(after),
        members_answer(after),
        reported(after),
    )


def test_both_renderers_say_the_same_of_the_same_moment() -> None:
    """What ``wesher status`` shows and what Kubernetes is told come from one snapshot."""
    now = snapshot(B, C, FAILED, reachable=frozenset("b"), observed=seen(2, age=5))
    here, there = status_answer(now), reported(now)
    assert here["peers"] == {key: there["peers"][key] for key in here["peers"]}
    assert (here["publicKey"], here["keyIDs"], here["version"]) == (
        there["publicKey"],
        there["keyIDs"],
        there["agentVersion"],
    )
    assert (here["wireguard"]["mode"], here["wireguard"]["mtu"]) == (there["wireguardMode"], there["mtu"])
    assert [entry["type"] for entry in here["conditions"]] == [entry["type"] for entry in there["conditions"]]
