from __future__ import annotations

import time
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wesher_operator.leader import RENEW_DEADLINE
from wesher_operator.reconcile.facts import ApiServerAddresses, MeshFacts
from wesher_operator.reconcile.refusal import free_network, refusal
from wesher_operator.reconcile.world import World
from wesher_operator.resources.mesh import WesherMeshSpec


def mesh(name: str, created: str, *, deleting: bool = False, **spec: object) -> MeshFacts:
    spec = {"overlayCIDR": "10.189.0.0/16", **spec}
    return MeshFacts(
        name=name,
        uid=name,
        generation=1,
        created=created,
        deleting=deleting,
        spec=WesherMeshSpec.model_validate(spec),
        problem="",
        status={},
    )


def refused(one: MeshFacts, *others: MeshFacts) -> str:
    found = refusal(one, World(meshes={each.name: each for each in (one, *others)}))
    return found.message if found else ""


def test_of_two_meshes_that_clash_only_the_newer_is_refused() -> None:
    old, new = mesh("z-old", "2026-01-01T00:00:00Z"), mesh("a-new", "2026-01-02T00:00:00Z")
    assert refused(old, new) == ""
    assert "meshes a-new and z-old both want" in refused(new, old)


def test_of_two_meshes_of_one_second_the_smaller_name_runs() -> None:
    one, two = mesh("a", "2026-01-01T00:00:00Z"), mesh("b", "2026-01-01T00:00:00Z")
    assert refused(one, two) == ""
    assert refused(two, one)


def test_a_mesh_that_is_being_deleted_is_in_nobodys_way() -> None:
    gone = mesh("old", "2026-01-01T00:00:00Z", deleting=True)
    assert refused(mesh("new", "2026-01-02T00:00:00Z"), gone) == ""


def test_a_free_interface_and_port_are_free_of_every_older_mesh() -> None:
    first = mesh("one", "2026-01-01T00:00:00Z")
    second = mesh("two", "2026-01-02T00:00:00Z", wireguard={"interface": "wgoverlay1", "port": 51821})
    said = refused(mesh("new", "2026-01-03T00:00:00Z"), first, second)
    assert said.endswith("wireguard.interface wgoverlay2 is free")
    other = mesh("new", "2026-01-03T00:00:00Z", wireguard={"interface": "x"})
    assert refused(other, first, second).endswith("wireguard.port 51822 is free")


@pytest.mark.parametrize("overlay", ["10.189.0.0/16", "fd00:bd::/64"])
def test_an_overlay_that_holds_an_address_of_the_api_server_is_refused_and_one_that_does_not_is_free(
    overlay: str,
) -> None:
    """A managed control plane is no Node, and by the overlay's routes every node would lose it."""
    first = ip_network(overlay)[1]
    world = World(api_server={"kubernetes": ApiServerAddresses((ip_address("192.0.2.1"), first))})
    found = refusal(mesh("demo", "2026-01-01T00:00:00Z", overlayCIDR=overlay), world)
    assert found is not None
    assert found.reason == "OverlappingNetwork"
    assert f"spec.overlayCIDR {overlay} overlaps the API server's address {first}; " in found.message
    free = found.message.removesuffix(" is free").rpartition(" ")[2]
    assert first not in ip_network(free)
    assert refusal(mesh("demo", "2026-01-01T00:00:00Z", overlayCIDR=free), world) is None


@given(
    prefix=st.integers(8, 30),
    occupied=st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(8, 32)), max_size=8),
)
def test_a_network_called_free_is_private_of_the_size_asked_and_overlaps_nothing(
    prefix: int, occupied: list[tuple[int, int]]
) -> None:
    networks = [ip_network((number, bits), strict=False) for number, bits in occupied]
    said = free_network(ip_network((0, prefix), strict=False), networks)
    if said.startswith("no private"):
        return
    network = ip_network(said)
    assert network.is_private
    assert network.prefixlen == prefix
    assert not any(network.overlaps(each) for each in networks)


@pytest.mark.parametrize("like", ["10.0.0.0/16", "fd12::/64"])
def test_in_an_empty_world_some_network_of_each_kind_is_free(like: str) -> None:
    assert ip_network(free_network(ip_network(like), [])).prefixlen == ip_network(like).prefixlen


def test_a_free_network_is_found_among_thousands_of_nodes_before_the_lease_runs_out() -> None:
    """It is looked for on the event loop, in each run of a mesh that is refused."""
    pods, nodes = int(ip_network("10.176.0.0/12")[0]), int(ip_network("10.0.0.0/20")[0])
    occupied = [ip_network((pods + (number << 8), 24)) for number in range(4096)]
    occupied += [ip_network((nodes + number, 32)) for number in range(4096)]
    began = time.process_time()
    assert free_network(ip_network("10.189.0.0/24"), occupied) == "10.192.0.0/24"
    assert time.process_time() - began < RENEW_DEADLINE / 4
