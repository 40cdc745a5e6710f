from __future__ import annotations

import base64
from typing import Any

import pytest

from wesher_common.report import MAX_UNREACHABLE
from wesher_operator.kube import API_SERVER_ENDPOINTS, CONFIG_MAP, MESH, NODE, SECRET, WESHER_NODE
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
    assert location.startswith("Node a annotation wesher.dev/location 'rack 1': must be a valid label value")
    assert address.startswith(
        "Node a annotation wesher.dev/advertise-address 'example.com': must be an IP address"
    )


def test_an_address_that_means_something_on_its_own_link_alone_is_none_to_others() -> None:
    """As text it can be longer than a WesherNode takes, and would have failed its whole mesh."""
    body = node(2, address="fe80::1234:5678:9abc:def0%enx00e04c680001")
    body["status"]["addresses"].append({"type": "InternalIP", "address": "fd00::7"})
    world = World()
    world.observe(NODE, body)
    assert str(world.nodes["a"].address(["InternalIP"])) == "fd00::7"


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


def test_a_kubelet_of_another_boot_is_news_and_one_that_reports_nothing_names_no_machine() -> None:
    world = World()
    world.observe(NODE, node(2))
    assert world.nodes["a"].machine == ()
    body = node(3)
    body["status"]["nodeInfo"] = {"bootID": "b1", "machineID": "m", "kubeletVersion": "v1"}
    world.observe(NODE, body)
    assert world.nodes["a"].machine == ("b1", "m", "")


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


def test_a_late_answer_to_our_own_write_does_not_bring_back_what_was_deleted_since() -> None:
    world = World()
    world.observe(WESHER_NODE, place(3))
    world.forget(WESHER_NODE, place(5))
    assert world.observe(WESHER_NODE, place(4)) == set()
    assert world.members == {}


def test_what_is_missing_from_a_whole_list_is_gone() -> None:
    world = World()
    world.observe(WESHER_NODE, place(3))
    assert world.retain(WESHER_NODE, set(), 3) == {"demo"}
    assert world.members == {}


def test_what_was_made_while_a_list_was_on_its_way_is_not_taken_for_gone() -> None:
    """Its address would be given away, or a key that is there be called lost."""
    world = World()
    world.observe(WESHER_NODE, place(8))
    assert world.retain(WESHER_NODE, set(), 7) == set()
    assert "demo.a" in world.members


def test_what_was_deleted_is_remembered_until_the_next_whole_list_and_no_longer() -> None:
    world = World()
    for number in range(100):
        body = place(2 * number + 1)
        body["metadata"]["name"] = f"demo.{number}"
        world.observe(WESHER_NODE, body)
        world.forget(WESHER_NODE, {"metadata": {**body["metadata"], "resourceVersion": str(2 * number + 2)}})
    assert world.retain(WESHER_NODE, set(), 200) == set()
    assert world == World()


@pytest.mark.parametrize("time", ["2026-11-23T23:59:60Z", "9999-12-31T23:59:59-23:59", "soon", "2026-11-23"])
def test_a_report_that_cannot_be_read_is_none_and_its_node_keeps_its_place(time: str) -> None:
    """The API server takes a leap second; the agent of a node that was broken into could send one."""
    world = World()
    world.observe(WESHER_NODE, place(3) | {"status": {"lastReportTime": time, "viewHash": "v"}})
    assert str(world.members["demo.a"].address) == "10.189.0.1"
    reported_at = world.members["demo.a"].reported_at
    assert reported_at is None or reported_at.tzinfo is not None


def test_an_agents_report_of_another_release_is_none_and_its_node_keeps_its_place() -> None:
    world = World()
    peers = {"unreachable": ["x"] * (MAX_UNREACHABLE + 1)}
    world.observe(WESHER_NODE, place(3) | {"status": {"peers": peers}})
    assert world.members["demo.a"].status.peers.unreachable == []
    assert str(world.members["demo.a"].address) == "10.189.0.1"


def test_an_object_that_cannot_be_read_counts_as_absent_and_stops_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World()
    world.observe(WESHER_NODE, place(3))
    assert world.observe(WESHER_NODE, place(4, ip="300.1.1.1")) == {"demo"}
    assert world.members == {}
    assert "object not readable kind=WesherNode name=demo.a" in caplog.text
    assert world.observe(WESHER_NODE, place(5)) == {"demo"}


def test_a_pod_network_that_is_written_with_host_bits_is_read() -> None:
    world = World()
    world.observe(NODE, node(2) | {"spec": {"podCIDRs": ["10.244.1.7/24"]}})
    assert [str(network) for network in world.nodes["a"].pod_cidrs] == ["10.244.1.0/24"]


def test_the_addresses_of_a_moved_api_server_concern_every_mesh() -> None:
    world = World()
    world.observe(MESH, mesh())
    body = {
        "metadata": {"name": "kubernetes", "resourceVersion": "2"},
        "endpoints": [{"addresses": ["192.0.2.1"]}, {"addresses": ["192.0.2.2"]}],
    }
    assert world.observe(API_SERVER_ENDPOINTS, body) == {"demo"}
    assert [str(each) for each in world.api_server["kubernetes"].addresses] == ["192.0.2.1", "192.0.2.2"]
    away = {"metadata": {"name": "kubernetes", "resourceVersion": "3"}, "endpoints": None}
    assert world.observe(API_SERVER_ENDPOINTS, away) == {"demo"}
    assert world.api_server["kubernetes"].addresses == ()


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


def test_a_field_of_a_newer_release_is_ignored() -> None:
    """A rollback leaves the CustomResourceDefinitions as they are, so a mesh may still have one."""
    world = World()
    world.observe(MESH, mesh())
    plain = world.meshes["demo"]
    assert world.observe(MESH, mesh(2, later={"x": 1})) == set()
    assert world.meshes["demo"] == plain
