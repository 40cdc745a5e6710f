"""What an agent shows of itself and others, here and to Kubernetes."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

from wesher_agent.mesh.desired import OwnNode, Problem, desired
from wesher_agent.mesh.device import Endpoint
from wesher_agent.mesh.nodemeta import META_VERSION, Flag, NodeMeta
from wesher_agent.mesh.roster import MemberState, RosterMember
from wesher_agent.runtime.views import Snapshot, members_answer, node_status, status_answer, tunnel_peers
from wesher_agent.swim.address import Address
from wesher_agent.wireguard.plan import ObservedPeer
from wesher_common.conditions import Condition
from wesher_common.keys import ClusterKey, KeyRing, WireGuardPrivateKey, WireGuardPublicKey
from wesher_common.mesh_document import MeshDocument

OVERLAY = ip_network("10.9.0.0/16")
NOW = 1_000_000.0
OWN_KEY = WireGuardPrivateKey.from_random(bytes(range(32)))


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


def snapshot(*members: RosterMember, name: str = "a") -> Snapshot:
    return Snapshot(
        document=MeshDocument(name="m", uid="u", overlay=OVERLAY, allocation=OVERLAY),
        ring=KeyRing(ClusterKey(bytes(32)), (ClusterKey(b"2" * 32),)),
        own=OwnNode(
            name=name,
            interface="wg0",
            private_key=OWN_KEY,
            listen_port=51820,
            address=ip_address("10.9.0.1"),
            movable=False,
            overlay=OVERLAY,
            mtu=1420,
        ),
        name=name,
        public_key=OWN_KEY.public,
        address="192.0.2.1:7946",
        members={entry.name: entry for entry in members},
        problems=(),
        observed={},
        reachable=frozenset(),
        unreachable=frozenset(),
        conditions=(Condition("Ready", "True", "Ready"),),
        mode="Kernel",
        mtu=1420,
        hosts="written",
        rejected={"truncated": 2},
        joined=True,
        uptime=61.04,
        version="1.0",
        wall_clock=NOW,
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
    now = snapshot(B, C, FAILED)
    assert now.with_tunnel == 0
    assert replace(now, reachable=frozenset("b")).with_tunnel == 1
    assert replace(now, observed=seen(2, 3, age=179)).with_tunnel == 2
    assert replace(now, observed=seen(2, 3, age=181)).with_tunnel == 0
    assert replace(now, observed=seen(2, 3, age=5), unreachable=frozenset({"c"})).with_tunnel == 1
    assert replace(now, observed=seen(4, age=5)).with_tunnel == 0


def test_the_status_counts_peers_by_state_and_shows_no_key() -> None:
    answer = status_answer(snapshot(B, C, FAILED))
    assert answer["peers"] == {"known": 3, "alive": 2, "suspect": 0, "failed": 1, "handshake": 0}
    assert answer["gossip"]["rejected"] == {"truncated": 2}
    assert len(answer["keyIDs"]) == 2
    text = repr(answer) + repr(snapshot())
    assert ClusterKey(b"2" * 32).reveal_base64() not in text
    assert OWN_KEY.reveal_base64() not in text


def test_members_are_listed_by_name_with_ourselves_among_them_and_what_is_wrong() -> None:
    now = replace(
        snapshot(C, B, FAILED, name="bb"),
        observed=seen(2, age=7.5),
        unreachable=frozenset({"c"}),
        problems=(Problem("d", "AddressClash", "claims 10.9.0.1, which bb has"),),
    )
    answer = members_answer(now)
    assert [entry["name"] for entry in answer] == ["b", "bb", "c", "d"]
    assert [entry["note"] for entry in answer] == [
        "",
        "this node",
        "does not answer through the tunnel",
        "claims 10.9.0.1, which bb has",
    ]
    assert (answer[0]["endpoint"], answer[0]["handshakeSeconds"]) == ("192.0.2.2:51820", 7.5)


def test_kubernetes_is_told_what_this_node_sees() -> None:
    now = replace(snapshot(B, C, FAILED), unreachable=frozenset({"c"}), reachable=frozenset("b"))
    status = node_status(now, generation=4)
    body = status.peers.to_dict()
    assert body["summary"] == "1/3"
    assert body["unreachable"] == ["c", "d"]
    assert status.endpoint == "192.0.2.1:51820"
    assert status.observed_generation == 4
    assert status.primary_key_id == status.key_ids[0]


def test_who_claims_what_is_anothers_is_reported_as_unreachable() -> None:
    """So that the mesh is Degraded, and names it, until somebody renames it."""
    clash = Problem("b", "AddressClash", "claims 10.9.0.3, which c has")

    now = replace(snapshot(B, C), problems=(clash,), reachable=frozenset("c"))

    assert node_status(now, generation=1).peers.unreachable == ("b",)


def test_ages_alone_are_no_news_for_kubernetes() -> None:
    now = snapshot(B, C)
    earlier = node_status(replace(now, observed=seen(2, 3, age=5)), generation=1)
    later = node_status(replace(now, observed=seen(2, 3, age=90), uptime=500.0), generation=1)
    assert (earlier.own, earlier.view) == (later.own, later.view)


def test_outsiders_are_reported_by_the_three_of_us_with_the_smallest_names() -> None:
    outsiders = (member(20, "laptop", inside=False), member(21, "go", inside=False, version=0))
    others = (member(2, "b"), member(3, "c"), member(4, "d"))
    for name, reports in (("a", True), ("bb", True), ("cc", True), ("dd", False), ("z", False)):
        told = node_status(snapshot(*others, *outsiders, name=name), generation=1).outsiders
        assert [entry.name for entry in told] == (["go", "laptop"] if reports else [])
    told = node_status(snapshot(*outsiders), generation=1).outsiders
    assert [(entry.kind, entry.address) for entry in told] == [("Go", "10.9.0.21"), ("wesher", "10.9.0.20")]


def test_nodes_of_another_cluster_are_outsiders_where_clusters_have_names() -> None:
    now = snapshot(member(2, "b.east"), member(3, "c.west"), name="a.east")
    named = replace(now, document=replace(now.document, cluster_name="east"))
    assert [entry.name for entry in node_status(named, generation=1).outsiders] == ["c.west"]


def test_only_members_that_the_device_has_are_asked_through_the_tunnel() -> None:
    now = snapshot(B, C, FAILED)
    assert now.own is not None
    outside = replace(C, meta=NodeMeta(overlay_address=ip_address("10.8.0.3"), public_key=key(3)))
    wish = desired(now.own, [B, outside])
    assert tunnel_peers(wish.device, [B, outside]) == {"b": (key(2), ip_address("10.9.0.2"))}
