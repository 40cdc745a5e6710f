from __future__ import annotations

import base64
from typing import Any

from wesher_operator.kube import CONFIG_MAP, MESH, NODE, SECRET, WESHER_NODE
from wesher_operator.reconcile.world import World


def mesh(version: int = 1, **spec: Any) -> dict[str, Any]:
    metadata = {"name": "demo", "uid": "u", "generation": 1, "resourceVersion": str(version)}
    return {"metadata": metadata, "spec": {"overlayCIDR": "10.189.0.0/16", **spec}}


def node(version: int, *, address: str = "10.0.0.1", heartbeat: str = "") -> dict[str, Any]:
    return {
        "metadata": {"name": "a", "resourceVersion": str(version)},
        "status": {
            "addresses": [{"type": "Hostname", "address": "a"}, {"type": "InternalIP", "address": address}],
            "conditions": [{"type": "Ready", "lastHeartbeatTime": heartbeat}],
        },
    }


def test_an_annotation_that_cannot_be_used_is_ignored_and_named_with_its_rule() -> None:
    body = node(2)
    body["metadata"]["annotations"] = {
        "wesher.dev/advertise-address": "example.com",
        "wesher.dev/location": "rack 1",
    }
    world = World()
    world.observe(NODE, body)
    facts = world.nodes["a"]
    assert (facts.location, facts.advertise_address) == ("", None)
    location, address = facts.problems
    assert location.startswith("Node a annotation wesher.dev/location 'rack 1': must be a word such as")
    assert address.startswith(
        "Node a annotation wesher.dev/advertise-address 'example.com': must be an IP address"
    )


def place(version: int, ip: str = "10.189.0.1") -> dict[str, Any]:
    return {
        "metadata": {"name": "demo.a", "uid": "n", "resourceVersion": str(version)},
        "spec": {"meshRef": {"name": "demo", "uid": "u"}, "nodeName": "a", "overlayIP": ip},
    }


def test_a_kubelets_heartbeat_wakes_nobody_and_a_new_address_every_mesh() -> None:
    world = World()
    world.observe(MESH, mesh())
    assert world.observe(NODE, node(2)) == {"demo"}
    assert world.observe(NODE, node(3, heartbeat="later")) == set()
    assert world.observe(NODE, node(4, address="10.0.0.2")) == {"demo"}


def test_an_event_that_is_older_than_our_own_write_changes_nothing() -> None:
    world = World()
    world.observe(WESHER_NODE, place(7, ip="10.189.0.7"))
    assert world.observe(WESHER_NODE, place(5)) == set()
    assert world.members["demo.a"].spec.overlay_ip == "10.189.0.7"


def test_a_late_deletion_does_not_take_away_what_was_made_anew() -> None:
    world = World()
    world.observe(WESHER_NODE, place(9))
    assert world.forget(WESHER_NODE, place(8)) == set()
    assert "demo.a" in world.members
    assert world.forget(WESHER_NODE, place(10)) == {"demo"}
    assert world.members == {}


def test_what_is_missing_from_a_whole_list_is_gone() -> None:
    world = World()
    world.observe(WESHER_NODE, place(3))
    assert world.replace(WESHER_NODE, []) == {"demo"}
    assert world.members == {}


def test_a_spec_that_the_api_server_should_have_refused_is_kept_with_its_problem() -> None:
    world = World()
    world.observe(MESH, mesh(seedNodes=["a:b:c"]))
    assert world.meshes["demo"].spec is None
    assert world.meshes["demo"].problem.startswith("spec.seedNodes[0] 'a:b:c': ")
    world.observe(MESH, mesh(2, wireguard={"port": 0}))
    assert world.meshes["demo"].problem.startswith("spec.wireguard.port: ")


def secret(**data: str) -> dict[str, Any]:
    encoded = {name: base64.b64encode(text.encode()).decode() for name, text in data.items()}
    return {"metadata": {"name": "k", "resourceVersion": "1"}, "data": encoded}


def test_what_is_wrong_with_a_key_secret_is_told_by_entry_and_never_by_content() -> None:
    good = base64.b64encode(bytes(32)).decode()
    for data, says in (
        ({}, "has no entry cluster-key"),
        ({"cluster-key": "c2hvcnQ="}, "cluster-key: must decode to exactly 32 bytes, not 5"),
        ({"cluster-key": "%%%"}, "cluster-key: must be standard base64"),
        (
            {"cluster-key": good, "accepted-keys": "c2hvcnQ="},
            "accepted-keys line 1: must decode",
        ),
    ):
        world = World()
        world.observe(SECRET, secret(**data))
        assert world.keys["k"].ring is None
        assert world.keys["k"].problem.startswith(says)
    world = World()
    world.observe(SECRET, secret(**{"cluster-key": good}))
    assert world.keys["k"].problem == ""
    assert good not in repr(world)


def test_a_config_map_that_is_not_ours_is_not_kept() -> None:
    world = World()
    world.observe(CONFIG_MAP, {"metadata": {"name": "other", "resourceVersion": "1"}, "data": {"big": "x"}})
    assert world.config_maps == {}
