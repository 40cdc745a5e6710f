"""Which answers of an API server mean what."""

from __future__ import annotations

import json
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from wesher_agent.kube.node_spec import NodeSpec, ObjectGone
from wesher_agent.kube.own_objects import read_answer
from wesher_common.errors import ClusterUnavailable, InvalidSpec

GONE: dict[str, Any] = {
    "kind": "Status",
    "apiVersion": "v1",
    "status": "Failure",
    "message": 'weshernodes.wesher.dev "m.a" not found',
    "reason": "NotFound",
    "details": {"name": "m.a", "group": "wesher.dev", "kind": "weshernodes"},
    "code": 404,
}


def read(status: int, content: object) -> object:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return read_answer(status, text, plural="weshernodes", name="m.a")


def test_an_object_is_returned_as_it_is() -> None:
    node = {"metadata": {"name": "m.a"}, "spec": {}}
    assert read(200, node) == node


def test_not_found_that_names_our_object_means_gone() -> None:
    with pytest.raises(ObjectGone):
        read(404, GONE)


@pytest.mark.parametrize(
    ("status", "content"),
    [
        (404, b"404 page not found"),
        (404, {}),
        (404, GONE | {"details": {}}),
        (404, GONE | {"details": None}),
        (404, GONE | {"details": ["m.a"]}),
        (404, GONE | {"details": GONE["details"] | {"name": "m.b"}}),
        (404, GONE | {"details": GONE["details"] | {"kind": "weshermeshes"}}),
        (404, GONE | {"details": GONE["details"] | {"group": "example.org"}}),
        (404, GONE | {"reason": "Unknown"}),
        (401, {"kind": "Status", "reason": "Unauthorized", "message": "no"}),
        (403, {"kind": "Status", "reason": "Forbidden", "message": "no"}),
        (429, b""),
        (500, GONE),
        (502, b"<html>bad gateway</html>"),
        (200, b"<html>log in</html>"),
        (200, []),
        (200, {}),
        (200, {"metadata": None}),
        (200, {"metadata": ["m.a"]}),
        (200, {"metadata": {"name": "m.b", "uid": "u"}}),
        (200, {"kind": "Status", "status": "Success", "metadata": {}}),
    ],
)
def test_any_other_refusal_only_means_that_nobody_could_say(status: int, content: object) -> None:
    with pytest.raises(ClusterUnavailable) as error:
        read(status, content)
    assert str(status) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_wesher_node_is_read_with_what_the_operator_gave() -> None:
    node = NodeSpec.from_object(
        {
            "metadata": {"uid": "u1", "generation": 3},
            "spec": {
                "overlayIP": "10.9.0.5",
                "routes": ["10.244.1.0/24"],
                "advertiseAddress": "192.0.2.5",
                "location": "east",
            },
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        }
    )
    assert node.place.overlay_address == ip_address("10.9.0.5")
    assert node.place.routes == (ip_network("10.244.1.0/24"),)
    assert node.place.advertise_address == ip_address("192.0.2.5")
    assert (node.place.location, node.uid, node.generation, node.deleting) == ("east", "u1", 3, False)
    assert [entry["type"] for entry in node.conditions] == ["Ready"]


@pytest.mark.parametrize(
    ("endpoint", "address"),
    [
        ("192.0.2.7:51820", "192.0.2.7"),
        ("[2001:db8::7]:51820", "2001:db8::7"),
        ("", None),
        (None, None),
        (7, None),
        ("host:51820", None),
        ("192.0.2.7", None),
    ],
)
def test_where_the_node_last_reported_from_is_read_and_what_cannot_be_read_counts_as_nothing(
    endpoint: object, address: str | None
) -> None:
    node = NodeSpec.from_object({"spec": {"machine": "m1"}, "status": {"endpoint": endpoint}})
    assert node.reported_from == (ip_address(address) if address else None)
    assert node.machine == "m1"


def test_a_wesher_node_without_an_address_yet_is_read_as_such() -> None:
    node = NodeSpec.from_object({"metadata": {"deletionTimestamp": "now"}, "spec": {}})
    assert node.place.overlay_address is None
    assert node.place.advertise_address is None
    assert node.deleting


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        ({"overlayIP": "10.9"}, "WesherNode spec.overlayIP '10.9': must be an IP address"),
        ({"advertiseAddress": "x"}, "WesherNode spec.advertiseAddress 'x': must be an IP address"),
        ({"routes": ["10.0.0.0/8", "x"]}, "WesherNode spec.routes[1] 'x': must be a network"),
        ({"routes": [7]}, "WesherNode spec.routes[0] '7': must be a network"),
        ({"routes": "10.0.0.0/8"}, "WesherNode spec.routes: must be a list"),
        ({"overlayIP": 7}, "WesherNode spec.overlayIP: must be a string"),
        ([], "WesherNode spec: must be an object"),
    ],
)
def test_a_wesher_node_that_makes_no_sense_names_its_field(spec: object, line: str) -> None:
    with pytest.raises(InvalidSpec) as error:
        NodeSpec.from_object({"spec": spec})
    assert str(error.value) == line


@pytest.mark.parametrize("conditions", [{}, ["Ready"], [{"type": []}]])
def test_conditions_that_are_none_are_refused(conditions: object) -> None:
    with pytest.raises(InvalidSpec, match=r"status\.conditions: must be"):
        NodeSpec.from_object({"status": {"conditions": conditions}})
