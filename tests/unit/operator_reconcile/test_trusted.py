"""Which authorities of other clusters are trusted, and that each refusal names both sides."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address, ip_network

import pytest

from wesher_common.certificate import Authority, AuthorityKey
from wesher_common.mesh_document import IdentitySettings, MeshDocument
from wesher_operator.reconcile import trusted
from wesher_operator.reconcile.facts import (
    ApiServerAddresses,
    MemberFacts,
    MeshFacts,
    NodeFacts,
    ServiceNetworks,
)
from wesher_operator.reconcile.trusted import Trusted, decide, is_nested, is_of_trusted_cluster
from wesher_operator.reconcile.world import World
from wesher_operator.resources.mesh import WesherMeshSpec
from wesher_operator.resources.node import WesherNodeSpec, WesherNodeStatus

OURS, WEST, NORTH = (Authority(bytes([number]) * 32).key for number in (1, 2, 3))
ALLOCATED_THERE, PODS_THERE = "10.189.128.0/17", "10.20.0.0/16"


def entry(name: str = "west", key: AuthorityKey = WEST, *cidrs: str, former: str = "") -> dict[str, object]:
    return {
        "clusterName": name,
        "key": str(key),
        "formerKey": former,
        "cidrs": list(cidrs or (ALLOCATED_THERE, PODS_THERE)),
    }


def mesh(*entries: dict[str, object], **spec: object) -> MeshFacts:
    fields = {
        "overlayCIDR": "10.189.0.0/16",
        "allocationCIDR": "10.189.0.0/17",
        "clusterName": "east",
        "trustedAuthorities": list(entries),
        **spec,
    }
    return MeshFacts(
        name="demo",
        uid="u",
        generation=1,
        created="2026-01-01T00:00:00Z",
        deleting=False,
        spec=WesherMeshSpec.model_validate(fields),
        problem="",
        status={},
    )


def decided(facts: MeshFacts, world: World | None = None, before: Trusted | None = None) -> Trusted:
    assert facts.spec is not None
    identity = IdentitySettings(trusted=before.authorities) if before is not None else None
    return decide(facts, facts.spec, world or World(), [OURS], identity)


def names(found: Trusted) -> list[str]:
    return [each.cluster_name for each in found.authorities]


def test_a_mesh_that_names_no_authority_says_nothing_of_them() -> None:
    assert decided(mesh()) == Trusted()
    assert decided(mesh()).condition is None


def test_an_authority_without_a_contradiction_is_trusted_for_its_names_and_networks() -> None:
    found = decided(mesh(entry(), entry("north", NORTH, "10.30.0.0/16")))
    assert not found.problems
    assert [(each.cluster_name, each.key) for each in found.authorities] == [("west", WEST), ("north", NORTH)]
    assert found.authorities[0].cidrs == (ip_network(ALLOCATED_THERE), ip_network(PODS_THERE))
    assert found.condition is not None
    assert found.condition.is_true
    assert found.condition.message.endswith("west, north")


def test_while_an_authority_is_replaced_there_both_keys_are_trusted() -> None:
    found = decided(mesh(entry(former=str(NORTH))))
    assert [(each.cluster_name, each.key) for each in found.authorities] == [("west", WEST), ("west", NORTH)]
    assert len({each.cidrs for each in found.authorities}) == 1


def test_agents_read_as_many_authorities_as_the_spec_may_name() -> None:
    """Each with a former key."""
    keys = [Authority(bytes([number]) * 32).key for number in range(10, 42)]
    entries = [
        entry(f"c{number}", keys[2 * number], f"10.{number}.0.0/16", former=str(keys[2 * number + 1]))
        for number in range(16)
    ]
    found = decided(mesh(*entries))
    assert not found.problems
    assert len(found.authorities) == 32
    document = MeshDocument(
        name="demo",
        uid="u",
        overlay=ip_network("10.189.0.0/16"),
        allocation=ip_network("10.189.0.0/17"),
        identity=IdentitySettings(authorities=(OURS,), trusted=found.authorities),
    )
    assert MeshDocument.from_json(document.to_json()) == document


def used() -> Iterator[tuple[str, World, str]]:
    """Yield a network there, a world that uses it, and how that is called."""
    yield "10.189.64.0/18", World(), "the addresses 10.189.0.0/17 that this mesh allocates from"
    yield "10.0.0.0/8", World(), "the addresses 10.189.0.0/17 that this mesh allocates from"
    services = ServiceNetworks((ip_network("10.96.0.0/12"),))
    yield "10.100.0.0/16", World(service_cidrs={"kubernetes": services}), "the Service network 10.96.0.0/12"
    api_server = ApiServerAddresses((ip_address("198.51.100.7"),))
    world = World(api_server={"kubernetes": api_server})
    yield "198.51.100.0/24", world, "the API server's address 198.51.100.7"
    node = NodeFacts(
        "vm-1",
        {},
        (("InternalIP", ip_address("172.31.0.4")), ("InternalIP", ip_address("10.189.128.9"))),
        (ip_network("10.244.1.0/24"), ip_network("fd00:244::/64")),
        (),
    )
    world = World(nodes={"vm-1": node})
    yield "172.31.0.0/16", world, "the InternalIP 172.31.0.4 of Node vm-1"
    yield "10.244.0.0/16", world, "the pod network 10.244.1.0/24 of Node vm-1"
    yield "fd00:244::/48", world, "the pod network fd00:244::/64 of Node vm-1"
    held = MemberFacts(
        name="demo.vm-1",
        uid="m",
        deleting=False,
        owner_uid="u",
        label="demo",
        spec=WesherNodeSpec.model_validate(
            {"meshRef": {"name": "demo", "uid": "u"}, "nodeName": "vm-1", "overlayIP": "10.189.200.1"}
        ),
        address=ip_address("10.189.200.1"),
        status=WesherNodeStatus(),
    )
    world = World(members={"demo.vm-1": held})
    yield ALLOCATED_THERE, world, "the overlay address 10.189.200.1 of vm-1"
    other = MeshFacts(
        name="other",
        uid="o",
        generation=1,
        created="",
        deleting=False,
        spec=WesherMeshSpec.model_validate({"overlayCIDR": "10.50.0.0/16"}),
        problem="",
        status={},
    )
    yield "10.50.1.0/24", World(meshes={"other": other}), "the overlay 10.50.0.0/16 of the mesh other"


USED = list(used())


@pytest.mark.parametrize(("network", "world", "what"), USED, ids=[each[0] for each in USED])
def test_a_network_that_this_cluster_uses_is_refused_and_other_entries_stay(
    network: str, world: World, what: str
) -> None:
    found = decided(mesh(entry("west", WEST, network), entry("north", NORTH, "10.30.0.0/16")), world)
    assert names(found) == ["north"]
    assert found.condition is not None
    assert (found.condition.status, found.condition.reason) == ("False", "TrustedNetworkOverlap")
    assert found.condition.message == (
        f"spec.trustedAuthorities[west].cidrs {network} overlaps {what}: it is not trusted"
    )


def test_the_networks_of_nodes_and_the_seeds_are_used_too() -> None:
    facts = mesh(
        entry("west", WEST, "10.1.0.0/16"),
        entry("north", NORTH, "203.0.113.0/24"),
        traffic={"nodes": "All", "nodeCIDRs": ["10.1.2.0/24"]},
        seedNodes=["203.0.113.10", "seed.example"],
    )
    found = decided(facts)
    assert names(found) == []
    assert [problem.message.partition(" overlaps ")[2] for problem in found.problems] == [
        "spec.traffic.nodeCIDRs 10.1.2.0/24: it is not trusted",
        "the seed node 203.0.113.10: it is not trusted",
    ]


def test_an_overlay_address_that_a_node_lists_is_not_used_twice() -> None:
    """Kubelets list every interface's address, also that of a device of another cluster's mesh."""
    node = NodeFacts("vm-1", {}, (("InternalIP", ip_address("10.189.128.9")),), (), ())
    assert names(decided(mesh(entry()), World(nodes={"vm-1": node}))) == ["west"]


def test_of_two_other_clusters_with_one_network_the_one_that_is_trusted_already_stays() -> None:
    west, north = entry(), entry("north", NORTH, "10.20.7.0/24")
    found = decided(mesh(west, north))
    assert names(found) == ["west"]
    assert found.problems[0].message == (
        "spec.trustedAuthorities[north].cidrs 10.20.7.0/24 overlaps 10.20.0.0/16 of west: it is not trusted"
    )
    assert names(decided(mesh(west, north), before=decided(mesh(north)))) == ["north"]


def test_a_network_that_is_used_later_cuts_nothing_that_runs() -> None:
    """Otherwise each kubelet could cut another cluster off, by an address of its Node."""
    before = decided(mesh(entry()))
    joined = NodeFacts("vm-9", {}, (("InternalIP", ip_address("10.20.0.4")),), (), ())
    world = World(nodes={"vm-9": joined})
    for facts in (mesh(entry()), mesh(entry(key=NORTH, former=str(WEST)))):
        found = decided(facts, world, before)
        assert set(names(found)) == {"west"}
        assert found.problems[0].reason == "TrustedNetworkOverlap"
        assert found.problems[0].message.endswith("it stays trusted, since it was before")
    wider = mesh(entry("west", WEST, ALLOCATED_THERE, "10.20.0.0/15"))
    assert names(decided(wider, world, before)) == []


@pytest.mark.parametrize("theirs", ["east", "a.east", "b.a.east"])
@pytest.mark.parametrize("is_ours_longer", [False, True])
def test_a_cluster_name_below_ours_or_above_it_is_refused(theirs: str, *, is_ours_longer: bool) -> None:
    """A member x.a of east and a member x of a.east have the same name."""
    ours, theirs = (theirs, "east") if is_ours_longer else ("east", theirs)
    before = decided(mesh(entry(theirs), clusterName="elsewhere"))
    assert names(before) == [theirs]
    found = decided(mesh(entry(theirs), clusterName=ours), before=before)
    assert names(found) == []
    assert found.problems[0].reason == "ClusterNameOverlap"
    assert theirs in found.problems[0].message
    assert ours in found.problems[0].message


def test_a_cluster_name_that_only_ends_in_the_same_letters_is_another() -> None:
    assert names(decided(mesh(entry("northeast")))) == ["northeast"]
    assert not is_nested("northeast", "east")


def test_other_clusters_names_may_not_be_nested_either() -> None:
    found = decided(mesh(entry("west"), entry("a.west", NORTH, "10.30.0.0/16")))
    assert names(found) == ["west"]
    assert found.problems[0].reason == "ClusterNameOverlap"
    assert "trustedAuthorities[west]" in found.problems[0].message


def test_without_a_cluster_name_no_other_cluster_is_trusted() -> None:
    found = decided(mesh(entry(), clusterName=""), before=decided(mesh(entry())))
    assert names(found) == []
    assert found.problems[0].reason == "NoClusterName"


def test_the_key_of_this_mesh_and_one_with_its_id_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for facts in (mesh(entry(key=OURS)), mesh(entry(former=str(OURS)))):
        found = decided(facts, before=decided(mesh(entry())))
        assert names(found) == []
        assert found.problems[0].reason == "AuthorityKeyInUse"
        assert "this mesh" in found.problems[0].message
    twins = mesh(entry(), entry("north", WEST, "10.30.0.0/16"))
    assert names(decided(twins)) == ["west"]
    # An id has 4 bytes, so a key with that of another one can be found.
    monkeypatch.setattr(AuthorityKey, "id", property(lambda _: b"same"))
    assert decided(mesh(entry(key=NORTH))).problems[0].reason == "AuthorityKeyInUse"


@pytest.mark.parametrize("wrong", [{"key": "A" * 44}, {"cidrs": ["0.0.0.0/0"]}, {"formerKey": "x"}])
def test_what_agents_could_not_read_is_never_written(wrong: dict[str, object]) -> None:
    """The API server refuses it, unless its definition is an older one."""
    found = decided(mesh({**entry(), **wrong}, entry("north", NORTH, "10.30.0.0/16")))
    assert names(found) == ["north"]
    assert found.problems[0].reason == "InvalidSpec"
    assert found.problems[0].message.startswith("spec.trustedAuthorities[west].")


def test_an_agent_cannot_name_a_cluster_that_is_not_trusted() -> None:
    spec = mesh(entry()).spec
    assert spec is not None
    assert is_of_trusted_cluster("vm-1.west", "west", spec)
    assert not is_of_trusted_cluster("vm-1.west", "", spec)
    assert not is_of_trusted_cluster("vm-1.north", "north", spec)
    assert not is_of_trusted_cluster("laptop", "west", spec)


def test_a_thousand_nodes_are_compared_in_a_moment() -> None:
    nodes = {
        f"n{number}": NodeFacts(
            f"n{number}",
            {},
            (("InternalIP", ip_address("172.20.0.0") + number),),
            (ip_network(f"10.{192 + number // 256}.{number % 256}.0/24"),),
            (),
        )
        for number in range(1000)
    }
    entries = [
        entry(
            f"c{number}",
            Authority(bytes([number + 50]) * 32).key,
            *(f"10.{number}.{k}.0/24" for k in range(16)),
        )
        for number in range(16)
    ]
    assert len(decided(mesh(*entries), World(nodes=nodes)).authorities) == 16
    assert trusted.CONDITION == "AuthoritiesTrusted"
