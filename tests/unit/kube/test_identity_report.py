"""What an agent reports of its key and its certificate."""

from __future__ import annotations

import base64
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from wesher_agent.kube.node_status import node_status, own_part, view_part
from wesher_agent.mesh.place import Place
from wesher_common.certificate import Authority, Subject
from wesher_common.key_proof import key_proof, proof_statement
from wesher_common.mesh_document import IdentitySettings
from wesher_common.news import MAX_REVOKED, Statement, sign_statement
from wesher_common.report import MAX_NEWS
from wesher_operator.resources.node import WesherNodeStatus
from wesher_testing.agents.snapshots import snapshot
from wesher_testing.virtual.members import document, local_node

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
OURS = Authority(bytes(range(32)))
IDENTITY = IdentitySettings(authorities=(OURS.key,), proof_key=OURS.proof_key.public)
SERIAL = 1_790_000_000_000


def reported(name: str = "a", *, issued_by: Authority | None = None, **changes: Any) -> dict[str, Any]:
    """Return the status of a node that has a certificate, if one is to be ``issued_by`` an authority."""
    mesh = replace(document(), **{"identity": IDENTITY, **changes})
    local = local_node(name, mesh=mesh)
    if issued_by is not None:
        assert local.overlay_address is not None
        subject = Subject(name=name, public_key=local.private_key.public, address=local.overlay_address)
        certificate = issued_by.issue(replace(subject, location=local.location), serial=SERIAL)
        place = Place(overlay_address=local.overlay_address, certificate=certificate)
        local = replace(local, place=place)
    return node_status(snapshot(local=local), (), time=NOW)


@pytest.mark.parametrize(("name", "cluster"), [("a", ""), ("a.east", "east")])
def test_the_proof_is_of_the_mesh_the_node_and_its_key(name: str, cluster: str) -> None:
    """Of the Node's name, which is the WesherNode's: a member's may be longer."""
    status = reported(name, cluster_name=cluster)
    key = local_node(name).private_key.public
    wanted = key_proof(OURS.proof_key, key, proof_statement(document().uid, "a", key))
    assert base64.b64decode(status["keyProof"]) == wanted


def test_without_a_key_for_proofs_nothing_is_proven() -> None:
    assert node_status(snapshot(), (), time=NOW)["keyProof"] == ""
    older = replace(document(), identity=replace(IDENTITY, proof_key=None))
    assert node_status(snapshot(local=local_node("a", mesh=older)), (), time=NOW)["keyProof"] == ""


def test_the_serial_is_that_of_a_certificate_that_is_announced() -> None:
    assert reported(issued_by=OURS)["certificateSerial"] == SERIAL
    assert reported()["certificateSerial"] == 0
    # Not announced: it is not of what this node announces, or not the mesh's.
    assert reported(issued_by=Authority(bytes(32)))["certificateSerial"] == 0
    assert reported(issued_by=OURS, identity=None)["certificateSerial"] == 0


def test_a_new_certificate_is_reported_at_once() -> None:
    mesh = replace(document(), identity=IDENTITY)
    local = local_node("a", mesh=mesh)
    assert local.overlay_address is not None
    subject = Subject(name="a", public_key=local.private_key.public, address=local.overlay_address)
    place = Place(overlay_address=local.overlay_address, certificate=OURS.issue(subject, serial=SERIAL))
    assert own_part(snapshot(local=local)) != own_part(snapshot(local=replace(local, place=place)))


def statement(names: int) -> Statement:
    revoked = {number.to_bytes(8): SERIAL // 1000 for number in range(names)}
    return sign_statement(OURS, number=SERIAL, revoked=revoked)


@pytest.mark.parametrize("names", [1, 4000, 4200, MAX_REVOKED])
def test_a_statement_that_the_operator_does_not_have_is_reported_if_it_fits(names: int) -> None:
    packed = statement(names).packed()
    status = node_status(snapshot(news_number=SERIAL, unpublished_news=packed), (), time=NOW)
    assert status["newsNumber"] == SERIAL
    assert base64.b64decode(status["news"]) == (packed if names <= 4000 else b"")
    assert len(status["news"]) <= MAX_NEWS
    assert WesherNodeStatus.model_validate(status | {"conditions": []}).news == status["news"]


def test_all_nodes_that_get_a_statement_do_not_report_it_in_the_same_second() -> None:
    before, after = snapshot(), snapshot(news_number=SERIAL, unpublished_news=statement(1).packed())
    assert own_part(before) == own_part(after)
    assert view_part(before) != view_part(after)
