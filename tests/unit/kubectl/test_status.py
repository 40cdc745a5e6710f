"""What ``kubectl wesher status`` makes of a mesh's objects."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from wesher_common.conditions import Condition
from wesher_operator.kubectl.status import overview, overview_text, wrong

NOW = datetime(2030, 5, 1, 12, 0, 0, tzinfo=UTC)


def condition(kind: str, status: str, reason: str, message: str = "") -> dict[str, str]:
    return {"type": kind, "status": status, "reason": reason, "message": message}


def a_mesh(*, generation: int = 2, **status: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "demo", "generation": generation},
        "spec": {
            "overlayCIDR": "10.189.0.0/16",
            "wireguard": {"interface": "wgoverlay", "port": 51820},
            "gossip": {"port": 7946, "profile": "WAN", "label": "west"},
        },
        "status": {
            "observedGeneration": 2,
            "conditions": [
                condition("Ready", "True", "AllReady"),
                condition("Degraded", "False", "AsExpected"),
            ],
            "members": {"summary": "2/2", "outside": 0},
            "key": {"id": "5851b7ac"},
            **status,
        },
    }


def a_node(name: str, address: str, *conditions: dict[str, str]) -> dict[str, Any]:
    return {
        "metadata": {"name": f"demo.{name}"},
        "spec": {"nodeName": name, "overlayIP": address},
        "status": {
            "endpoint": f"192.0.2.{address[-1]}:51820",
            "peers": {"summary": "1/1"},
            "lastReportTime": "2030-05-01T11:58:00Z",
            "conditions": list(conditions),
        },
    }


def test_a_mesh_reads_as_a_few_lines_with_the_trouble_at_the_end() -> None:
    unready = "not ready: b (PortTaken)"
    mesh = a_mesh(
        conditions=[
            condition("Ready", "False", "MembersNotReady", unready),
            condition("MembersReady", "False", "MembersNotReady", unready),
            condition("Degraded", "True", "PairsUnreachable", "a cannot reach laptop"),
        ],
        members={"summary": "1/2", "outside": 1},
        memberList=[
            {
                "name": "b",
                "kind": "Node",
                "address": "10.189.0.2",
                "state": "NotReady",
                "reason": "PortTaken",
            },
            {"name": "a", "kind": "Node", "address": "10.189.0.1", "state": "Ready"},
            {"name": "laptop", "kind": "Outsider", "address": "10.189.0.9", "state": "Alive"},
        ],
        key={"id": "5851b7ac", "acceptedIDs": ["00aa11bb"]},
        membersTruncated=True,
    )
    nodes = [
        a_node("a", "10.189.0.1", condition("Ready", "True", "Ready")),
        a_node("b", "10.189.0.2", condition("Ready", "False", "PortTaken", "UDP port 51820 is taken")),
    ]
    assert overview_text(overview(mesh, nodes), now=NOW) == (
        "demo: not Ready, Degraded, 1/2 nodes ready, 1 outside\n"
        "  overlay: 10.189.0.0/16 on wgoverlay\n"
        "  ports:   WireGuard 51820/UDP, gossip 7946/TCP and UDP\n"
        "  gossip:  profile WAN, label west\n"
        "  key:     id 5851b7ac, also accepted: 00aa11bb\n"
        "  traffic: to overlay addresses only\n"
        "  MEMBER  STATE     OVERLAY-IP  ENDPOINT         PEERS  REPORTED  REASON\n"
        "  b       NotReady  10.189.0.2  192.0.2.2:51820  1/1    2m ago    PortTaken\n"
        "  a       Ready     10.189.0.1  192.0.2.1:51820  1/1    2m ago\n"
        "  laptop  Alive     10.189.0.9  -                -      -\n"
        "  and more: see kubectl get wnode\n"
        "! MembersReady is False, MembersNotReady: not ready: b (PortTaken)\n"
        "! Degraded is True, PairsUnreachable: a cannot reach laptop\n"
        "! b: Ready is False, PortTaken: UDP port 51820 is taken"
    )


def test_a_status_about_a_former_spec_is_not_taken_for_readiness() -> None:
    shown = overview(a_mesh(generation=3), [])
    assert not shown.is_ready
    assert shown.problems == ("the operator has not processed the current spec of this mesh yet",)
    assert overview(a_mesh(generation=2), []).is_ready


def test_a_mesh_that_no_operator_has_seen_is_shown_too() -> None:
    mesh = {key: value for key, value in a_mesh().items() if key != "status"}
    text = overview_text(overview(mesh, []), now=NOW)
    assert text.startswith("demo: not Ready, 0/0 nodes ready\n")
    assert overview(mesh, []).to_dict()["ready"] is False


def test_a_member_that_never_reported_says_so() -> None:
    entry = {"name": "a", "kind": "Node", "address": "", "state": "Starting", "reason": "NotReported"}
    text = overview_text(overview(a_mesh(memberList=[entry]), []), now=NOW)
    assert "a       Starting  -           -         -      never     NotReported" in text


def test_a_mesh_that_waits_for_a_new_nodes_certificate_has_nothing_wrong() -> None:
    waiting = Condition("Certified", "Unknown", "WaitingForAgents", "no certificate yet: b")
    refused = Condition("Certified", "False", "KeyChanged", "b: why")
    assert wrong([waiting]) == []
    assert wrong([waiting, refused]) == [refused]


def certified_node(name: str, days: int | None) -> dict[str, Any]:
    node = a_node(name, "10.189.0.1")
    node["spec"]["certificate"] = "of this node" if days is not None else ""
    return {**node, "status": {**node["status"], "certificateDays": days or 0}}


IDENTITY = {
    "mode": "Verified",
    "bound": False,
    "authority": "AUTHORITY=",
    "certified": "2/3",
    "waitingFor": ["c", "laptop"],
}


def test_identity_is_shown_with_what_it_waits_for_and_the_days_left() -> None:
    nodes = [certified_node("a", 30), certified_node("b", 21), certified_node("c", None)]
    shown = overview(a_mesh(identity=IDENTITY), nodes)
    lines = overview_text(shown, now=NOW).splitlines()
    said = "Verified, not bound, 2/3 certified, the first expires in 21 days, waiting for c, laptop"
    assert f"  identity:  {said}" in lines
    assert "  authority: AUTHORITY=" in lines
    assert shown.to_dict()["identity"] == {
        **IDENTITY,
        "formerAuthority": "",
        "revoked": [],
        "daysLeft": 21,
    }


def test_nodes_that_were_revoked_and_stay_out_are_named() -> None:
    assert "revoked" not in overview_text(overview(a_mesh(identity=IDENTITY), []), now=NOW)
    shown = overview(a_mesh(identity={**IDENTITY, "revoked": ["d", "e"]}), [])
    assert "  revoked:   d, e" in overview_text(shown, now=NOW).splitlines()
    out = shown.to_dict()["identity"]
    assert out is not None
    assert out["revoked"] == ["d", "e"]


def test_a_bound_mesh_with_two_authorities_says_which_is_being_replaced() -> None:
    status = {**IDENTITY, "bound": True, "waitingFor": [], "formerAuthority": "FORMER="}
    text = overview_text(overview(a_mesh(identity=status), []), now=NOW)
    assert "Verified, bound, 2/3 certified\n" in text
    assert "  authority: AUTHORITY=, replaces FORMER=" in text.splitlines()


def test_a_mesh_of_an_operator_without_certificates_shows_no_identity() -> None:
    shown = overview(a_mesh(), [a_node("a", "10.189.0.1")])
    assert "identity" not in overview_text(shown, now=NOW)
    assert shown.to_dict()["identity"] is None


def a_peer(name: str, *conditions: dict[str, str], **status: Any) -> dict[str, Any]:
    return {"metadata": {"name": f"demo.{name}"}, "status": {"conditions": list(conditions), **status}}


def test_machines_outside_stand_in_a_table_of_their_own_and_what_is_wrong_below() -> None:
    certified = {"overlayIP": "10.189.0.9", "publicKey": "key", "certificate": "c", "certificateDays": 29}
    peers = [
        a_peer(
            "laptop", condition("Certified", "True", "Issued"), **certified, lastSeen="2030-05-01T11:00:00Z"
        ),
        a_peer("phone", condition("Certified", "Unknown", "NotEnrolled", "valid until noon")),
        a_peer("tablet", condition("Certified", "False", "InviteUsed", "used twice")),
        a_peer("new"),
    ]
    shown = overview(a_mesh(), [], peers)
    lines = overview_text(shown, now=NOW).splitlines()
    at = next(number for number, line in enumerate(lines) if "EXTERNAL" in line)
    assert [line.split() for line in lines[at : at + 5]] == [
        ["EXTERNAL", "CERTIFIED", "OVERLAY-IP", "CERT", "SEEN", "REASON"],
        ["laptop", "True", "10.189.0.9", "29d", "1h", "ago"],
        ["phone", "Unknown", "-", "-", "never", "NotEnrolled"],
        ["tablet", "False", "-", "-", "never", "InviteUsed"],
        ["new", "Unknown", "-", "-", "never"],
    ]
    assert lines[at + 5 :] == ["! tablet: Certified is False, InviteUsed: used twice"]
    assert shown.is_ready
    first, *_ = shown.to_dict()["peers"]
    assert first == {
        "name": "laptop",
        "certified": "True",
        "reason": "Issued",
        "message": "",
        "overlayIP": "10.189.0.9",
        "publicKey": "key",
        "daysLeft": 29,
        "lastSeen": "2030-05-01T11:00:00Z",
    }


def test_a_certificate_outside_that_was_not_renewed_is_a_problem() -> None:
    expires = condition("Certified", "True", "CertificateExpires", "in 3 days")
    shown = overview(a_mesh(), [], [a_peer("laptop", expires)])
    assert shown.problems == ("laptop: Certified is True, CertificateExpires: in 3 days",)


def carrying_node(name: str, address: str, routed: int, *conditions: dict[str, str]) -> dict[str, Any]:
    node = a_node(name, address, *conditions)
    node["spec"]["routes"] = [f"192.168.7.{address[-1]}/32"]
    node["status"]["traffic"] = {"accepts": True, "routed": routed}
    return node


def carrying_mesh(*conditions: dict[str, str], **traffic: str) -> dict[str, Any]:
    entries = [
        {"name": name, "kind": "Node", "address": f"10.189.0.{number}", "state": "Ready"}
        for number, name in enumerate("abc", start=1)
    ]
    ready = condition("Ready", "True", "AllReady")
    mesh = a_mesh(conditions=[ready, *conditions], memberList=entries)
    mesh["spec"]["traffic"] = {"nodes": "All", "pods": "OtherLocations", "apiServer": "Direct", **traffic}
    return mesh


CARRIES = condition("TrafficCarried", "True", "Carried")


def test_what_is_carried_is_shown_with_who_carries_it_and_what_the_others_wait_for() -> None:
    waiting = condition("TrafficCarried", "Unknown", "WaitingForAgents", "waiting for b")
    nodes = [
        carrying_node("a", "10.189.0.1", 4, CARRIES),
        carrying_node("b", "10.189.0.2", 0, condition("TrafficCarried", "Unknown", "Accepting", "soon")),
        a_node("c", "10.189.0.3"),
    ]
    shown = overview(carrying_mesh(waiting, apiServer="Mesh"), nodes)
    lines = overview_text(shown, now=NOW).splitlines()
    said = "nodes All, pods OtherLocations, API server Mesh: carried by 1 of 3 nodes; waiting for b"
    assert f"  traffic: {said}" in lines
    at = next(number for number, line in enumerate(lines) if "MEMBER" in line)
    assert [line.split()[4:7] for line in lines[at : at + 4]] == [
        ["PEERS", "TRAFFIC", "REPORTED"],
        ["1/1", "4", "networks"],
        ["1/1", "accepts", "2m"],
        ["1/1", "-", "2m"],
    ]
    assert shown.problems == (), "a mesh that waits has nothing wrong"
    out = shown.to_dict()["traffic"]
    assert (out["carried"], out["reason"], out["summary"]) == ("Unknown", "WaitingForAgents", "1/3")
    assert [(node["name"], node["carried"], node["reason"]) for node in out["nodeList"]] == [
        ("a", "True", "Carried"),
        ("b", "Unknown", "Accepting"),
        ("c", "Unknown", "NotReported"),
    ]
    assert out["nodeList"][0]["certified"] == ["192.168.7.1/32"]
    assert [(node["accepts"], node["routed"]) for node in out["nodeList"]] == [
        (True, 4),
        (True, 0),
        (False, 0),
    ]


def test_each_refusal_to_carry_is_a_problem_with_its_reason() -> None:
    refused = condition("TrafficCarried", "False", "AddressNotCertified", "b: 10.9.0.1 is outside nodeCIDRs")
    nodes = [
        carrying_node("a", "10.189.0.1", 2, CARRIES),
        carrying_node(
            "b", "10.189.0.2", 0, condition("TrafficCarried", "False", "RuleConflict", "rule 1870")
        ),
    ]
    shown = overview(carrying_mesh(refused), nodes)
    text = overview_text(shown, now=NOW)
    assert (
        "  traffic: nodes All, pods OtherLocations: carried by 1 of 2 nodes, not by b (RuleConflict)\n"
        in text
    )
    assert shown.problems == (
        "TrafficCarried is False, AddressNotCertified: b: 10.9.0.1 is outside nodeCIDRs",
        "b: TrafficCarried is False, RuleConflict: rule 1870",
    )


def test_a_mesh_that_stops_carrying_names_the_nodes_that_have_not_stopped() -> None:
    nodes = [carrying_node("a", "10.189.0.1", 2), carrying_node("b", "10.189.0.2", 0)]
    shown = overview(carrying_mesh(nodes="None", pods="None"), nodes)
    assert "  traffic: to overlay addresses only, not yet on a\n" in overview_text(shown, now=NOW)
    out = shown.to_dict()["traffic"]
    assert (out["carried"], out["summary"], out["nodeList"][0]["routed"]) == ("False", "", 2)
