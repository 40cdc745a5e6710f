from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wesher_common.overlay import candidate_address, is_reserved
from wesher_common.seeds import SeedAddress
from wesher_operator.reconcile.allocation import (
    Placement,
    advertise_address,
    allocate,
    cluster_seeds,
    machine,
    place,
    usable,
)
from wesher_operator.reconcile.facts import MemberFacts, NodeFacts
from wesher_operator.reconcile.membership import HeldBack, Released
from wesher_operator.resources.mesh import WesherMeshSpec
from wesher_operator.resources.node import WesherNodeSpec, WesherNodeStatus

NAMES = st.sets(st.from_regex(r"[a-z][a-z0-9]{0,6}", fullmatch=True), max_size=40)


@given(names=NAMES, taken=st.sets(st.integers(0, 31), max_size=20))
def test_every_address_is_free_inside_and_given_once_and_who_has_none_is_named(
    names: set[str], taken: set[int]
) -> None:
    network = ip_network("10.189.0.32/27")
    used = {network[number] for number in taken}
    given_, without = allocate(names, network, used)
    assert set(given_) | set(without) == names
    assert len(set(given_.values())) == len(given_)
    assert not set(given_.values()) & used
    assert all(address in network and not is_reserved(address, network) for address in given_.values())
    if without:
        free = set(network.hosts()) - used - set(given_.values())
        assert not free


@pytest.mark.parametrize("overlay", ["10.189.0.0/16", "fd00:5::/64"])
def test_a_name_gets_its_candidate_where_that_is_free_else_the_next(overlay: str) -> None:
    network = ip_network(overlay)
    candidate = candidate_address("a", network)
    assert allocate(["a"], network, []) == ({"a": candidate}, [])
    assert allocate(["a"], network, [candidate]) == ({"a": candidate + 1}, [])


SPEC = WesherMeshSpec.model_validate({"overlayCIDR": "10.189.0.0/16"})


def node(name: str, *addresses: tuple[str, str]) -> NodeFacts:
    return NodeFacts(
        name=name,
        labels={},
        addresses=tuple((kind, ip_address(text)) for kind, text in addresses),
        pod_cidrs=(),
        taints=(),
    )


def test_a_seed_once_chosen_stays_until_its_node_goes() -> None:
    nodes = [node(f"n{number}", ("InternalIP", f"10.0.0.{number}")) for number in range(1, 30)]
    chosen = (SeedAddress("10.0.0.29"), SeedAddress("10.0.0.99"))
    seeds = cluster_seeds(SPEC, nodes, chosen)
    assert len(seeds) == 16
    assert seeds[0] == SeedAddress("10.0.0.29")
    assert SeedAddress("10.0.0.99") not in seeds
    assert cluster_seeds(SPEC, nodes, seeds) == seeds
    assert cluster_seeds(SPEC, list(reversed(nodes)), seeds) == seeds


def test_members_of_one_cluster_join_through_internal_addresses() -> None:
    seeds = cluster_seeds(
        SPEC, [node("a", ("ExternalIP", "203.0.113.1"), ("InternalIP", "10.0.0.1")), node("b")], ()
    )
    assert seeds == (SeedAddress("10.0.0.1"),)


def test_members_of_several_locations_join_through_what_each_of_them_can_dial() -> None:
    """Inside a location its internal addresses, and from elsewhere the advertised ones, in equal parts."""
    spec = WesherMeshSpec.model_validate(
        {"overlayCIDR": "10.189.0.0/16", "addresses": {"prefer": ["ExternalIP", "InternalIP"]}}
    )
    east = [
        replace(
            node(f"e{n}", ("InternalIP", f"10.1.0.{n}"), ("ExternalIP", f"198.51.100.{n}")), location="east"
        )
        for n in range(1, 30)
    ]
    west = replace(node("w", ("InternalIP", "10.2.0.1"), ("ExternalIP", "203.0.113.1")), location="west")
    seeds = cluster_seeds(spec, [*east, west], ())
    inside, outside = ([f"{start}.{n}" for n in range(1, 5)] for start in ("10.1.0", "198.51.100"))
    assert [seed.host for seed in seeds] == [*inside, *outside, "10.2.0.1", "203.0.113.1"]
    assert cluster_seeds(spec, [west, *east], seeds) == seeds
    # Where internal addresses are all there is, they are listed once.
    assert cluster_seeds(SPEC, [*east[:1], west], ()) == (SeedAddress("10.1.0.1"), SeedAddress("10.2.0.1"))


@pytest.mark.parametrize("kind", ["InternalIP", "ExternalIP"])
@pytest.mark.parametrize("overlay_address", ["10.189.4.7", "10.190.1.1", "fd00:bd::7"])
def test_an_address_that_leads_into_an_overlay_is_neither_dialled_nor_a_seed(
    kind: str, overlay_address: str
) -> None:
    """Of this mesh any address in its network; of another mesh, or one in IPv6, what its members hold."""
    spec = WesherMeshSpec.model_validate(
        {"overlayCIDR": "10.189.0.0/16", "addresses": {"prefer": ["InternalIP", "ExternalIP"]}}
    )
    held = {ip_address("10.190.1.1"), ip_address("fd00:bd::7")}
    seen = usable(spec, node("a", (kind, overlay_address), (kind, "192.0.2.77")), held)
    assert advertise_address(spec, seen) == "192.0.2.77"
    assert cluster_seeds(spec, [seen], ()) == (SeedAddress("192.0.2.77"),)
    alone = usable(spec, node("a", (kind, overlay_address)), held)
    assert advertise_address(spec, alone) == ""
    assert cluster_seeds(spec, [alone], ()) == ()


def test_a_nodes_machine_is_another_after_a_reboot_a_replacement_or_a_new_address() -> None:
    """Cloned machines share their machine-id, and some have no system UUID."""
    first = replace(node("a", ("InternalIP", "10.0.0.1")), machine=("boot", "id", ""))
    others = [
        replace(first, machine=("boot-2", "id", "")),
        replace(first, machine=("boot", "id-2", "")),
        replace(first, machine=("boot", "id", "uuid")),
        replace(first, addresses=node("a", ("InternalIP", "10.0.0.2")).addresses),
    ]
    assert len({machine(first), *map(machine, others)}) == 5
    listed_again = (*first.addresses, ("Hostname", ip_address("10.0.0.9")))
    assert machine(replace(first, labels={"a": "b"}, addresses=listed_again)) == machine(first)
    assert machine(replace(first, machine=())) == ""


def test_seeds_that_a_hand_repeated_or_gave_a_port_are_put_right() -> None:
    """They are read back from the ConfigMap, which others can edit."""
    nodes = [node(f"n{number}", ("InternalIP", f"10.0.0.{number}")) for number in range(1, 4)]
    one = SeedAddress("10.0.0.2")
    assert cluster_seeds(SPEC, nodes, (one, one, SeedAddress("10.0.0.3", 99))) == (
        one,
        SeedAddress("10.0.0.3"),
        SeedAddress("10.0.0.1"),
    )


NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def member(name: str, address: str, *, uid: str = "uid", age: float = 0) -> MemberFacts:
    spec = {"meshRef": {"name": "demo", "uid": uid}, "nodeName": name, "overlayIP": address}
    return MemberFacts(
        name=f"demo.{name}",
        uid=f"uid-{name}",
        deleting=False,
        owner_uid=uid,
        label="demo",
        spec=WesherNodeSpec.model_validate(spec),
        address=ip_address(address),
        status=WesherNodeStatus(),
        created_at=NOW - timedelta(seconds=age),
    )


def placed(
    *nodes: str,
    own: list[MemberFacts] | None = None,
    foreign: list[MemberFacts] | None = None,
    released: Released | None = None,
    overlay: str = "10.189.0.0/29",
) -> Placement:
    spec = WesherMeshSpec.model_validate({"overlayCIDR": overlay})
    return place(spec, [node(name) for name in nodes], own or [], foreign or [], released or Released())


def test_a_node_keeps_its_address_though_its_candidate_is_free_by_now() -> None:
    candidate = candidate_address("a", ip_network("10.189.0.0/29"))
    other = "10.189.0.5" if str(candidate) != "10.189.0.5" else "10.189.0.4"
    assert placed("a", own=[member("a", other)]).addresses == {"a": ip_address(other)}


def test_of_two_owners_of_one_address_the_older_keeps_it_and_the_other_gets_a_free_one() -> None:
    """Only a hand or a restored backup brings that about; their peers would drop one of them."""
    twins = [member("a", "10.189.0.3", age=1), member("b", "10.189.0.3", age=2)]
    addresses = placed("a", "b", own=twins).addresses
    assert addresses["b"] == ip_address("10.189.0.3")
    assert addresses["a"] != addresses["b"]
    assert addresses["a"] in ip_network("10.189.0.0/29")


def test_an_address_that_a_hand_put_outside_the_overlay_or_on_a_reserved_one_is_given_anew() -> None:
    for wrong in ("10.190.0.1", "10.189.0.0", "10.189.0.7"):
        address = placed("a", own=[member("a", wrong)]).addresses["a"]
        assert address in ip_network("10.189.0.0/29")
        assert not is_reserved(address, ip_network("10.189.0.0/29"))


def test_what_is_held_back_for_a_node_is_its_again_and_nobody_elses() -> None:
    released = Released({ip_address("10.189.0.1"): HeldBack(NOW + timedelta(hours=1), "b")})
    found = placed("a", "b", "c", released=released, overlay="10.189.0.0/30")
    assert found.addresses["b"] == ip_address("10.189.0.1")
    assert len(found.addresses) == 2
    assert len(found.left_over) == 1
    assert found.left_over < {"a", "c"}


def test_a_node_waits_while_an_earlier_mesh_of_the_name_has_a_place_for_it() -> None:
    old = member("a", "10.189.0.3", uid="old")
    found = placed("a", "b", foreign=[old])
    assert set(found.addresses) == {"b"}
    assert found.addresses["b"] != old.address
    assert found.left_over == frozenset()
