"""The agents' health port: kept by their DaemonSet, and used by no other mesh."""

from __future__ import annotations

from typing import Any

import pytest

from wesher_operator.reconcile.agent_ports import health_port
from wesher_operator.reconcile.facts import MeshFacts, ObjectFacts
from wesher_operator.reconcile.world import World
from wesher_operator.resources.mesh import WesherMeshSpec


def mesh(
    name: str, *, age: int = 0, overlay: int = 1, wireguard: int = 51820, gossip: int = 7946
) -> MeshFacts:
    """Return a mesh; with a higher ``age`` it is newer."""
    spec = {
        "overlayCIDR": f"10.{overlay}.0.0/16",
        "wireguard": {"port": wireguard, "interface": name},
        "gossip": {"port": gossip},
    }
    return MeshFacts(
        name=name,
        uid=name,
        generation=1,
        created=f"2026-01-01T00:00:0{age}Z",
        deleting=False,
        spec=WesherMeshSpec.model_validate(spec),
        problem="",
        status={},
    )


def agents(of: str, *arguments: str) -> ObjectFacts:
    body: dict[str, Any] = {"spec": {"template": {"spec": {"containers": [{"args": [*arguments]}]}}}}
    return ObjectFacts(f"{of}-agent", body)


def port(one: MeshFacts, *others: MeshFacts, pinned: dict[str, int] | None = None) -> int:
    daemon_sets = {
        f"{name}-agent": agents(name, "--log-level=info", f"--health-port={number}")
        for name, number in (pinned or {}).items()
    }
    world = World(meshes={each.name: each for each in (one, *others)}, daemon_sets=daemon_sets)
    assert one.spec is not None
    return health_port(one, one.spec, world)


def test_a_new_mesh_takes_the_number_of_its_wireguard_port() -> None:
    assert port(mesh("a", wireguard=51900)) == 51900


def test_an_edit_of_the_wireguard_port_leaves_the_probes_where_they_are() -> None:
    assert port(mesh("a", wireguard=51900), pinned={"a": 51820}) == 51820


def test_agents_of_a_release_without_the_flag_get_it() -> None:
    one = mesh("a")
    world = World(meshes={"a": one}, daemon_sets={"a-agent": agents("a", "--log-level=info")})
    assert one.spec is not None
    assert health_port(one, one.spec, world) == 51820


def test_a_new_mesh_takes_no_port_that_another_kept_from_before_an_edit() -> None:
    old, new = mesh("a", wireguard=51821), mesh("b", age=1, overlay=2, gossip=7947)
    assert port(new, old, pinned={"a": 51820}) == 51822


@pytest.mark.parametrize("other_gossips", [True, False])
def test_a_port_on_which_a_mesh_gossips_by_now_is_left_to_it(*, other_gossips: bool) -> None:
    """TCP has room for one of the two."""
    if other_gossips:
        one, others = mesh("a", wireguard=51821), [mesh("b", age=1, overlay=2, wireguard=5, gossip=51820)]
    else:
        one, others = mesh("a", wireguard=51821, gossip=51820), []
    assert port(one, *others, pinned={"a": 51820}) == 51821


def test_a_mesh_that_is_refused_moves_no_other() -> None:
    old, refused = mesh("a"), mesh("b", age=1, overlay=2, wireguard=5, gossip=51820)
    assert port(old, refused, pinned={"a": 51820}) == 51820


def test_of_two_meshes_on_one_port_the_newer_moves() -> None:
    old, new = mesh("a"), mesh("b", age=1, overlay=2, wireguard=51900, gossip=7947)
    pinned = {"a": 51820, "b": 51820}
    assert port(old, new, pinned=pinned) == 51820
    assert port(new, old, pinned=pinned) == 51900


def test_the_search_for_a_free_port_goes_round() -> None:
    assert (
        port(
            mesh("a", wireguard=65535),
            mesh("b", age=1, overlay=2, wireguard=5, gossip=7947),
            pinned={"b": 65535},
        )
        == 1
    )
