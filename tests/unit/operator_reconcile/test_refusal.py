from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wesher_common.overlay import candidate_address
from wesher_operator.leader import RENEW_DEADLINE
from wesher_operator.reconcile.facts import (
    ApiServerAddresses,
    MemberFacts,
    MeshFacts,
    NodeFacts,
    ObjectFacts,
    ServiceNetworks,
)
from wesher_operator.reconcile.membership import HeldBack, Released
from wesher_operator.reconcile.refusal import free_network, nodes_on_overlay, overlaps, refusal
from wesher_operator.reconcile.world import World
from wesher_operator.resources.mesh import WesherMeshSpec
from wesher_operator.resources.node import WesherNodeSpec, WesherNodeStatus


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


OLD = "2026-01-01T00:00:00Z"


def world_with(
    *, lists: str, holds: str = "", of: str = "demo", released: Released | None = None, published: bool = True
) -> World:
    """Return a world whose Node lists a further address, and whose WesherNode holds one."""
    addresses = tuple(("InternalIP", ip_address(text)) for text in ("192.0.2.77", lists))
    world = World(nodes={"vm-1": NodeFacts("vm-1", {}, addresses, (), ())})
    if holds:
        spec = {"meshRef": {"name": of, "uid": of}, "nodeName": "vm-1", "overlayIP": holds}
        world.members[f"{of}.vm-1"] = MemberFacts(
            name=f"{of}.vm-1",
            uid="m",
            deleting=False,
            owner_uid=of,
            label=of,
            spec=WesherNodeSpec.model_validate(spec),
            address=ip_address(holds),
            status=WesherNodeStatus(),
        )
    if published:
        owner = {"metadata": {"ownerReferences": [{"uid": "demo"}]}}
        world.config_maps["demo-config"] = ObjectFacts("demo-config", owner)
    if released is not None:
        body = {"metadata": {}, "data": {"released.json": released.to_json()}}
        world.config_maps["demo-released"] = ObjectFacts("demo-released", body)
    return world


@pytest.mark.parametrize(
    ("overlay", "held"), [("10.189.0.0/16", "10.189.4.7"), ("fd00:bd::/64", "fd00:bd::7")]
)
def test_an_overlay_address_that_a_member_holds_is_no_overlap_wherever_it_is_listed(
    overlay: str, held: str
) -> None:
    """Kubelets and cloud controllers list every interface's address (kubernetes#44075)."""
    demo = mesh("demo", OLD, overlayCIDR=overlay)
    world = world_with(lists=held, holds=held)
    assert overlaps(demo, world) == []
    world.api_server["kubernetes"] = ApiServerAddresses((ip_address(held),))
    assert overlaps(demo, world) == []
    del world.config_maps["demo-config"], world.members["demo.vm-1"]
    assert refusal(demo, world) is not None


def test_the_address_of_a_member_that_left_or_of_an_earlier_mesh_is_no_overlap() -> None:
    demo = mesh("demo", OLD)
    left = ip_address("10.189.4.7")
    released = Released({left: HeldBack(datetime(2030, 1, 1, tzinfo=UTC), "vm-1")})
    assert overlaps(demo, world_with(lists=str(left), released=released)) == []
    candidate = str(candidate_address("vm-1", ip_network("10.189.0.0/16")))
    world = world_with(lists=candidate, published=False)
    assert refusal(demo, world) is None
    # Without an address elsewhere it is the only way to that Node.
    world.nodes["vm-1"] = replace(world.nodes["vm-1"], addresses=(("InternalIP", ip_address(candidate)),))
    assert refusal(demo, world) is not None


def test_an_overlap_keeps_a_mesh_from_being_published_and_does_not_stop_one_that_is() -> None:
    demo = mesh("demo", OLD)
    found = refusal(demo, world_with(lists="10.189.9.9", published=False))
    assert found is not None
    assert "overlaps the InternalIP 10.189.9.9 of Node vm-1; " in found.message
    assert refusal(demo, world_with(lists="10.189.9.9")) is None
    # A ConfigMap that a hand deleted stops nothing; that of an earlier mesh of this name starts nothing.
    assert refusal(demo, world_with(lists="10.189.9.9", holds="10.189.4.7", published=False)) is None
    assert refusal(replace(demo, uid="another"), world_with(lists="10.189.9.9")) is not None


def test_each_overlap_of_a_mesh_that_runs_is_told_with_the_node_and_its_address_or_network() -> None:
    demo, world = mesh("demo", OLD), world_with(lists="10.189.9.9", holds="10.189.4.7")
    world.nodes["p"] = NodeFacts("p", {}, (), (ip_network("10.189.128.0/24"),), ())
    world.service_cidrs["kubernetes"] = ServiceNetworks((ip_network("10.189.0.0/20"),))
    said = overlaps(demo, world)
    assert len(said) == 3
    for what in (
        "the Service network 10.189.0.0/20",
        "the pod network 10.189.128.0/24 of Node p",
        "the InternalIP 10.189.9.9 of Node vm-1",
    ):
        assert any(f"spec.overlayCIDR 10.189.0.0/16 overlaps {what}; " in each for each in said)


def on_top(network: str, *others: tuple[str, str], names: tuple[str, ...] = ("a", "b", "c")) -> World:
    """Return a world whose Nodes have the overlay addresses of their machines, and others."""
    addresses = {name: str(candidate_address(name, ip_network(network))) for name in names} | dict(others)
    external = ("ExternalIP", ip_address("203.0.113.9"))
    return World(
        nodes={
            name: NodeFacts(name, {}, (("InternalIP", ip_address(address)), external), (), ())
            for name, address in addresses.items()
        }
    )


ANOTHER: dict[str, Any] = {
    "overlayCIDR": "172.24.0.0/16",
    "wireguard": {"interface": "wgpods", "port": 51999},
    "gossip": {"port": 7999},
}
"""A mesh with nothing in common with the machines' one."""


@pytest.mark.parametrize("network", ["10.0.0.0/8", "10.189.0.0/16", "fd00:bd::/64"])
def test_a_mesh_on_top_of_the_machines_own_is_refused_with_values_that_do_not_conflict(network: str) -> None:
    """A cluster whose kubelets have overlay addresses is encrypted already."""
    world = on_top(network)
    found = refusal(mesh("demo", OLD), world)
    assert found is not None
    assert found.reason == "NodesUseOverlay"
    assert "Nodes a, b, c are overlay addresses of wesher on the machines" in found.message
    assert "delete this mesh" in found.message
    free = dict(pair.split(" ") for pair in found.message.rpartition(": ")[2].split(", "))
    assert free.keys() - {"overlayCIDR"} == {"wireguard.interface", "wireguard.port", "gossip.port"}
    assert ("overlayCIDR" in free) == ip_network(network).overlaps(ip_network("10.189.0.0/16"))
    spec: dict[str, Any] = {
        "overlayCIDR": free.get("overlayCIDR", "10.189.0.0/16"),
        "wireguard": {"interface": free["wireguard.interface"], "port": int(free["wireguard.port"])},
        "gossip": {"port": int(free["gossip.port"])},
    }
    assert refusal(mesh("demo", OLD, **spec), world) is None


def test_only_what_a_mesh_has_in_common_with_the_machines_own_is_to_be_changed() -> None:
    world = on_top("10.0.0.0/8", names=("a", "b", "c", "d", "e"))
    found = refusal(mesh("demo", OLD, **{**ANOTHER, "gossip": {"port": 51820}}), world)
    assert found is not None
    assert "Nodes a, b, c and 2 more are" in found.message
    assert found.message.endswith("the machines do not use: gossip.port 51821")
    assert refusal(mesh("demo", OLD, **ANOTHER), world) is None


def test_a_cluster_is_on_top_of_a_mesh_if_half_of_its_nodes_are() -> None:
    """A name may differ between Kubernetes and the mesh, and an address moves when two names hash to it."""
    elsewhere = [("x", "192.168.7.1"), ("y", "192.168.7.2"), ("z", "192.168.7.3")]
    demo = mesh("demo", OLD)
    assert refusal(demo, on_top("10.0.0.0/8", *elsewhere)) is not None
    assert refusal(demo, on_top("10.0.0.0/8", *elsewhere, names=("a", "b"))) is None
    assert refusal(demo, World()) is None
    # The kubelet uses the full name, the machine's wesher the first part of it.
    short = str(candidate_address("vm-1", ip_network("10.0.0.0/8")))
    assert refusal(demo, on_top("10.0.0.0/8", ("vm-1.example.org", short), names=())) is not None


def test_a_mesh_that_runs_is_not_stopped_because_its_nodes_use_overlay_addresses() -> None:
    world = on_top("10.189.0.0/16")
    world.config_maps["demo-config"] = ObjectFacts(
        "demo-config", {"metadata": {"ownerReferences": [{"uid": "demo"}]}}
    )
    assert refusal(mesh("demo", OLD), world) is None


def test_a_node_with_no_address_outside_the_mesh_on_it_is_told() -> None:
    """Its kubelet has an address that only a pod of that kubelet sets."""
    demo, world = mesh("demo", OLD), world_with(lists="10.189.4.7", holds="10.189.4.7")
    assert nodes_on_overlay(demo, world) == []
    node = world.nodes["vm-1"]
    world.nodes["vm-1"] = replace(node, addresses=(("InternalIP", ip_address("10.189.4.7")),))
    (said,) = nodes_on_overlay(demo, world)
    assert said.startswith("Node vm-1 has no InternalIP outside spec.overlayCIDR 10.189.0.0/16")
    assert "remove --node-ip from its kubelet" in said
    assert overlaps(demo, world) == []


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
