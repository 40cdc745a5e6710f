from __future__ import annotations

from ipaddress import ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st

from wesher_common.overlay import candidate_address, is_reserved
from wesher_common.seeds import SeedAddress
from wesher_operator.reconcile.allocation import allocate, cluster_seeds
from wesher_operator.reconcile.facts import NodeFacts

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


def test_a_name_gets_its_candidate_where_that_is_free() -> None:
    network = ip_network("10.189.0.0/16")
    given_, _ = allocate(["a"], network, [])
    assert given_ == {"a": candidate_address("a", network)}


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
    seeds = cluster_seeds(nodes, chosen)
    assert len(seeds) == 16
    assert seeds[0] == SeedAddress("10.0.0.29")
    assert SeedAddress("10.0.0.99") not in seeds
    assert cluster_seeds(nodes, seeds) == seeds
    assert cluster_seeds(list(reversed(nodes)), seeds) == seeds


def test_members_of_one_cluster_join_through_internal_addresses() -> None:
    seeds = cluster_seeds(
        [node("a", ("ExternalIP", "203.0.113.1"), ("InternalIP", "10.0.0.1")), node("b")], ()
    )
    assert seeds == (SeedAddress("10.0.0.1"),)
