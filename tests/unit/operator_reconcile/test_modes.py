"""Who gets a tunnel in a mesh, and when members without a certificate are cut off."""

from __future__ import annotations

from datetime import UTC, datetime
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from wesher_common.certificate import Authority
from wesher_common.mesh_document import IdentityMode, IdentitySettings, MeshDocument
from wesher_operator.reconcile.facts import MemberFacts, MeshFacts, NodeFacts, ObjectFacts
from wesher_operator.reconcile.modes import Mode, decide, kept_mode, mode_of, settings
from wesher_operator.resources.node import WesherNodeSpec, WesherNodeStatus

OURS = Authority(bytes(range(32)))
KEYS = IdentitySettings(authorities=(OURS.key,), proof_key=OURS.proof_key.public)
Agent = tuple[str, NodeFacts, MemberFacts | None]


def document(identity: IdentitySettings | None = KEYS) -> MeshDocument:
    network = ip_network("10.189.0.0/16")
    return MeshDocument(name="demo", uid="uid", overlay=network, allocation=network, identity=identity)


def agent(name: str, *, ready: bool = True, serial: int = 7, **status: Any) -> Agent:
    """Return a node whose agent has announced its certificate and applied mesh.json, by default."""
    spec = {"meshRef": {"name": "demo", "uid": "uid"}, "nodeName": name, "overlayIP": "10.189.0.1"}
    said = {"certificateSerial": 7, "configHash": document().config_hash, "keyProof": "proof", **status}
    member = MemberFacts(
        name=f"demo.{name}",
        uid="w",
        deleting=False,
        owner_uid="uid",
        label="demo",
        spec=WesherNodeSpec.model_validate({**spec, "serial": serial}),
        address=ip_address("10.189.0.1"),
        status=WesherNodeStatus.model_validate(said),
        reported_at=datetime(2026, 11, 22, 12, tzinfo=UTC),
    )
    return name, NodeFacts(name, {}, (), (), (), ready=ready), member


def decided(
    *agents: Agent,
    wanted: IdentityMode | None = None,
    published: MeshDocument | None = None,
    status: dict[str, Any] | None = None,
    outsiders: tuple[str, ...] = (),
) -> Mode:
    return decide(wanted, status or {}, published or document(), agents, outsiders)


@pytest.mark.parametrize(
    ("wanted", "status", "mode"),
    [
        (None, {}, "Verified"),
        (None, {"key": {"id": ""}}, "Verified"),
        (None, {"key": {"id": "0123abcd"}}, "Open"),
        (None, {"key": {"id": "0123abcd"}, "identity": {"mode": "Verified"}}, "Verified"),
        (None, {"identity": {"mode": "Open"}}, "Open"),
        (None, {"identity": {"mode": "nonsense"}}, "Verified"),
        ("Open", {"identity": {"mode": "Verified"}}, "Open"),
        ("Verified", {"key": {"id": "0123abcd"}}, "Verified"),
    ],
)
def test_an_unset_mode_follows_the_status(wanted: Any, status: dict[str, Any], mode: str) -> None:
    assert mode_of(wanted, status) == mode


def test_a_mesh_is_bound_when_every_agent_on_a_ready_node_has_announced_its_certificate() -> None:
    found = decided(agent("a"), agent("b"))
    assert (found.mode, found.bound, found.form) == ("Verified", True, "Compact")
    assert (found.certified, found.of, found.waiting_for, found.cut_off) == (2, 2, (), ())


@pytest.mark.parametrize(
    "missing",
    [
        {"certificateSerial": 0},
        {"certificateSerial": 6},
        {"serial": 0, "certificateSerial": 0},
        {"configHash": "another"},
    ],
)
def test_a_mesh_waits_for_an_agent_that_has_not(missing: dict[str, Any]) -> None:
    found = decided(agent("a"), agent("b", **missing))
    assert (found.bound, found.form, found.waiting_for) == (False, "Gob", ("b",))


def test_a_mesh_waits_for_a_node_without_a_wesher_node_and_for_its_first_ready_node() -> None:
    name, node, _ = agent("b")
    assert decided(agent("a"), (name, node, None)).waiting_for == ("b",)
    assert not decided().bound
    assert not decided(agent("a", ready=False)).bound


def test_a_node_that_is_not_ready_holds_up_nothing_and_is_named_when_it_is_cut_off() -> None:
    found = decided(agent("a"), agent("b", ready=False, certificateSerial=0))
    assert (found.bound, found.of, found.cut_off) == (True, 1, ("b",))


def test_a_mesh_whose_agents_do_not_know_the_authority_yet_is_not_bound() -> None:
    assert not decided(agent("a"), published=document(None)).bound


def test_an_unset_mode_waits_for_machines_outside_and_an_explicit_one_cuts_them_off() -> None:
    waiting = decided(agent("a"), outsiders=("laptop",))
    assert (waiting.bound, waiting.waiting_for, waiting.cut_off) == (False, ("laptop",), ())
    cutting = decided(agent("a"), outsiders=("laptop",), wanted="Verified")
    assert (cutting.bound, cutting.waiting_for, cutting.cut_off) == (True, (), ("laptop",))


def test_at_most_eight_are_named() -> None:
    found = decided(*(agent(f"n{number:02}", certificateSerial=0) for number in range(20)))
    assert found.waiting_for == tuple(f"n{number:02}" for number in range(8))


@pytest.mark.parametrize("told_by", ["status", "mesh.json"])
def test_a_bound_mesh_stays_bound_until_the_spec_says_open(told_by: str) -> None:
    """Also where the operator was killed after mesh.json and before the status."""
    bound = IdentitySettings(mode="Verified", bound=True, authorities=(OURS.key,))
    is_status = told_by == "status"
    known: dict[str, Any] = {
        "status": {"identity": {"mode": "Verified", "bound": is_status}},
        "published": document(KEYS if is_status else bound),
        "outsiders": ("laptop",),
    }
    new = agent("new", serial=0, certificateSerial=0)
    for wanted in (None, "Verified"):
        found = decided(agent("a"), new, wanted=wanted, **known)  # type: ignore[arg-type]
        assert found.bound
    assert found.cut_off == (() if is_status else ("laptop",))
    opened = decided(agent("a"), new, wanted="Open", **known)
    assert (opened.mode, opened.bound, opened.form, opened.waiting_for) == ("Open", False, "Gob", ())


def test_an_open_mesh_is_never_bound() -> None:
    found = decided(agent("a"), wanted="Open", status={"identity": {"mode": "Open"}})
    assert (found.bound, found.certified, found.waiting_for) == (False, 1, ())


def test_an_agent_of_an_older_release_keeps_the_form_that_it_reads() -> None:
    found = decided(
        agent("a"),
        agent("old", keyProof="", certificateSerial=0),
        status={"identity": {"mode": "Verified", "bound": True}},
    )
    assert (found.bound, found.form) == (True, "Gob")


def test_mesh_json_gets_the_decision_and_the_keys() -> None:
    told = settings(decided(agent("a")), KEYS)
    assert (told.mode, told.bound, told.form) == ("Verified", True, "Compact")
    assert (told.authorities, told.proof_key, told.trusted) == (KEYS.authorities, KEYS.proof_key, ())


@pytest.mark.parametrize(
    ("status", "kept", "mode"),
    [
        ({"key": {"id": "0123abcd"}}, "Verified", "Verified"),
        ({"key": {"id": "0123abcd"}}, "Open", "Open"),
        ({"key": {"id": "0123abcd"}, "identity": {"mode": "Open"}}, "Verified", "Open"),
        ({"key": {"id": "0123abcd"}}, None, "Open"),
    ],
)
def test_where_the_status_says_no_mode_the_kept_one_counts(
    status: dict[str, Any], kept: Any, mode: str
) -> None:
    """An operator of a release without certificates removes it from the status."""
    assert mode_of(None, status, kept) == mode


@pytest.mark.parametrize(
    ("owner", "data", "kept"),
    [
        ("uid", {"mode": "Verified"}, "Verified"),
        ("uid", {"mode": "Open"}, "Open"),
        ("of a former mesh", {"mode": "Verified"}, None),
        ("uid", {"mode": "verified"}, None),
        ("uid", {"mode": ""}, None),
        ("uid", {}, None),
        ("uid", None, None),
    ],
)
def test_the_kept_mode_is_of_this_mesh_and_a_mode(owner: str, data: Any, kept: str | None) -> None:
    body = {"metadata": {"name": "demo-issued", "ownerReferences": [{"uid": owner}]}, "data": data}
    mesh = MeshFacts(
        name="demo", uid="uid", generation=1, created="", deleting=False, spec=None, problem="", status={}
    )
    assert kept_mode(mesh, ObjectFacts("demo-issued", body)) == kept
    assert kept_mode(mesh, None) is None


def test_a_bound_mesh_that_an_older_operator_ran_is_bound_again_when_all_are_certified() -> None:
    """Otherwise it would cut off each node, since none has a certificate now."""
    bound = {"identity": {"mode": "Verified", "bound": True}}
    lost = agent("a", serial=0, certificateSerial=0)
    assert not decided(lost, status=bound, published=document(None)).bound
    assert decided(agent("a"), status=bound, published=document()).bound
