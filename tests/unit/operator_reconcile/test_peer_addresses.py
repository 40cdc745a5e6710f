"""Which overlay address a machine outside Kubernetes gets."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from wesher_common.overlay import candidate_address
from wesher_operator.reconcile.allocation import place
from wesher_operator.reconcile.facts import MemberFacts, NodeFacts, PeerFacts
from wesher_operator.reconcile.membership import HeldBack, Released
from wesher_operator.reconcile.peer_addresses import PeerAddresses, place_peers, taken_outside
from wesher_operator.resources.mesh import WesherMeshSpec
from wesher_operator.resources.node import OutsiderReport, WesherNodeSpec, WesherNodeStatus
from wesher_operator.resources.peer import WesherPeerSpec, WesherPeerStatus

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
SPEC = WesherMeshSpec.model_validate({"overlayCIDR": "10.189.0.0/16", "allocationCIDR": "10.189.7.0/24"})
TINY = WesherMeshSpec.model_validate({"overlayCIDR": "10.189.0.0/16", "allocationCIDR": "10.189.7.0/30"})
CANDIDATE = candidate_address("laptop", ip_network("10.189.7.0/24"))


def peer(name: str = "laptop", *, wanted: str = "", has: str = "") -> PeerFacts:
    spec = {"meshRef": {"name": "demo"}, "publicKey": "x", "overlayIP": wanted}
    status = WesherPeerStatus.model_validate({"overlayIP": has})
    return PeerFacts(
        f"demo.{name}", name, deleting=False, spec=WesherPeerSpec.model_validate(spec), status=status
    )


def placed(*peers: PeerFacts, spec: WesherMeshSpec = SPEC, **more: Any) -> PeerAddresses:
    content = {"nodes": (), "outside": (), "released": Released(), **more}
    return place_peers(spec, {each.machine: each for each in peers}, **content)


def addresses(found: PeerAddresses) -> dict[str, str]:
    return {name: str(address) for name, address in found.addresses.items()}


def reasons(found: PeerAddresses) -> dict[str, str]:
    return {name: problem.reason for name, problem in found.problems.items()}


def test_a_new_machine_gets_the_address_that_its_name_hashes_to() -> None:
    assert addresses(placed(peer())) == {"demo.laptop": str(CANDIDATE)}


@pytest.mark.parametrize("who", ["nodes", "outside", "released"])
def test_a_new_machine_gets_no_address_that_another_member_has(who: str) -> None:
    held = {CANDIDATE: HeldBack(NOW + timedelta(hours=1), "another")}
    taken: dict[str, Any] = {who: Released(held) if who == "released" else {CANDIDATE}}
    assert addresses(placed(peer(), **taken)) == {"demo.laptop": str(CANDIDATE + 1)}


def test_the_address_that_is_held_back_for_a_machine_is_its_own_again() -> None:
    address = ip_address("10.189.7.200")
    held = Released({address: HeldBack(NOW + timedelta(hours=1), "laptop")})
    assert addresses(placed(peer(), released=held)) == {"demo.laptop": "10.189.7.200"}
    assert addresses(placed(peer(), released=held, outside={address})) == {"demo.laptop": str(CANDIDATE)}


def test_the_address_that_a_machine_has_stays_whatever_others_claim() -> None:
    has = peer(has="10.189.99.1")
    assert addresses(placed(has, outside={ip_address("10.189.99.1")})) == {"demo.laptop": "10.189.99.1"}
    assert addresses(placed(has, nodes={ip_address("10.189.99.1")})) == {"demo.laptop": str(CANDIDATE)}


@pytest.mark.parametrize("has", ["10.190.0.1", "10.189.0.0", "10.189.255.255", "fd00::1", "x"])
def test_an_address_that_is_not_one_of_the_overlay_is_replaced(has: str) -> None:
    assert addresses(placed(peer(has=has))) == {"demo.laptop": str(CANDIDATE)}


@pytest.mark.parametrize("wanted", ["10.190.0.1", "10.189.0.0", "10.189.255.255", "fd00::1", "x"])
def test_a_wish_outside_the_overlay_is_refused(wanted: str) -> None:
    found = placed(peer(wanted=wanted, has=str(CANDIDATE)))
    assert (addresses(found), reasons(found)) == ({}, {"demo.laptop": "AddressNotAllowed"})


def test_a_wish_counts_more_than_the_present_address_and_less_than_that_of_another_member() -> None:
    one, other = peer("one", has="10.189.99.1"), peer("other", wanted="10.189.99.2", has="10.189.99.3")
    assert addresses(placed(one, other)) == {"demo.one": "10.189.99.1", "demo.other": "10.189.99.2"}
    found = placed(one, peer("other", wanted="10.189.99.1"))
    assert (addresses(found), reasons(found)) == ({"demo.one": "10.189.99.1"}, {"demo.other": "AddressInUse"})


def test_of_two_machines_with_one_address_the_older_keeps_it() -> None:
    found = addresses(placed(peer("a", has="10.189.99.1"), peer("b", has="10.189.99.1")))
    assert found["demo.a"] == "10.189.99.1"
    assert found["demo.b"] != "10.189.99.1"


def test_a_full_network_is_named() -> None:
    found = placed(peer("a"), peer("b"), peer("c"), spec=TINY)
    assert len(found.addresses) == 2
    assert set(reasons(found).values()) == {"NoFreeAddress"}


def member(*outsiders: dict[str, str]) -> MemberFacts:
    spec = {"meshRef": {"name": "demo", "uid": "uid"}, "nodeName": "n", "overlayIP": "10.189.0.1"}
    return MemberFacts(
        name="demo.n",
        uid="w",
        deleting=False,
        owner_uid="uid",
        label="demo",
        spec=WesherNodeSpec.model_validate(spec),
        address=ip_address("10.189.0.1"),
        status=WesherNodeStatus(outsiders=[OutsiderReport.model_validate(each) for each in outsiders]),
    )


def test_claims_of_external_members_count_but_for_those_of_known_ones() -> None:
    claims = [
        {"name": "stranger", "address": "10.189.7.1"},
        {"name": "laptop", "address": "10.189.7.2"},
        {"name": "broken", "address": "x"},
        {"name": "new"},
    ]
    assert taken_outside([member(*claims)], {"laptop"}) == {ip_address("10.189.7.1")}


def test_no_node_gets_the_address_of_a_member_outside() -> None:
    node = NodeFacts("laptop", {}, (), (), ())
    given = place(SPEC, [node], [], [], Released(), outside={CANDIDATE})
    assert given.addresses == {"laptop": CANDIDATE + 1}
    held = Released({CANDIDATE: HeldBack(NOW + timedelta(hours=1), "laptop")})
    assert place(SPEC, [node], [], [], held, outside={CANDIDATE}).addresses == {"laptop": CANDIDATE + 1}
