"""What is read and written for certificates, at moments that a real API server cannot be brought to."""

from __future__ import annotations

import base64
import json
from datetime import timedelta

import pytest

from wesher_common.conditions import rfc3339
from wesher_operator import kube
from wesher_operator.kube import (
    ADMISSION_POLICY,
    CONFIG_MAP,
    MESH,
    SECRET,
    WESHER_NODE,
)
from wesher_operator.reconcile import certifier
from wesher_operator.reconcile.mesh import GOB_KEPT_FOR
from wesher_testing.cluster.certified_mesh import START, Story
from wesher_testing.cluster.fake_api_server import Answer, Request, serving
from wesher_testing.cluster.operator_process import NAMESPACE

LEDGER = CONFIG_MAP.path(NAMESPACE, "demo-issued")


@pytest.fixture(autouse=True)
def at_full_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube, "_WRITE_SPACING", 0)


async def test_names_are_in_the_ledger_before_their_certificates_and_runs_are_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(certifier, "WRITES_A_RUN", 10)
    story = Story(nodes=25)
    async with serving(story.answer, clock=lambda: story.now) as cluster:
        runs = story.reconciler(cluster)
        await runs.reconcile()
        story.agents_report()
        counts = []
        for _ in range(4):
            await runs.reconcile()
            counts.append(len(story.certificates()))
    assert counts == [10, 20, 25, 25]
    known: set[str] = set()
    for request in story.store.written:
        if request.path == LEDGER:
            known = set(json.loads(request.body["data"]["issued.json"]))
        elif request.path.startswith(WESHER_NODE.path("")) and request.body.get("spec", {}).get(
            "certificate"
        ):
            assert request.body["spec"]["nodeName"] in known
    serials = [each.serial for each in story.certificates().values()]
    assert len(set(serials)) == 25


async def test_a_certificate_is_renewed_after_two_thirds_of_its_life_and_not_before() -> None:
    story = Story()
    async with serving(story.answer, clock=lambda: story.now) as cluster:
        runs = story.reconciler(cluster)
        await runs.reconcile()
        story.agents_report()
        await runs.reconcile()
        (first,) = story.certificates().values()
        story.now = START + timedelta(days=18)
        await runs.reconcile()
        assert list(story.certificates().values()) == [first]
        assert story.world.members["demo.n000"].status.certificate_days == 12
        story.now = START + timedelta(days=22)
        await runs.reconcile()
    (second,) = story.certificates().values()
    assert second.serial == round(story.now.timestamp() * 1000)
    assert story.world.members["demo.n000"].status.certificate_days == 30


async def test_a_certificate_that_is_not_renewed_for_long_is_told_of_and_stays() -> None:
    story = Story()
    async with serving(story.answer, clock=lambda: story.now) as cluster:
        runs = story.reconciler(cluster)
        await runs.reconcile()
        story.agents_report()
        await runs.reconcile()
        (first,) = story.certificates().values()
        story.now = START + timedelta(days=25)
        with story.refusing(403, ADMISSION_POLICY.plural):
            again = await runs.reconcile()
    assert list(story.certificates().values()) == [first]
    assert again is not None
    assert again <= story.now + certifier.LOOK_AGAIN
    assert story.certified() == ("False", "NodeRestrictionOff")
    conditions = {c.type: c for c in story.world.members["demo.n000"].status.conditions}
    assert (conditions["Certified"].status, conditions["Certified"].reason) == ("True", "CertificateExpires")


async def test_a_ledger_that_the_api_server_refuses_means_no_certificate() -> None:
    story = Story()
    async with serving(story.answer, clock=lambda: story.now) as cluster:
        runs = story.reconciler(cluster)
        await runs.reconcile()
        story.agents_report()
        with story.refusing(403, "demo-issued"):
            await runs.reconcile()
        assert story.certificates() == {}
        assert story.certified() == ("False", "RefusedByCluster")
        await runs.reconcile()
    assert len(story.certificates()) == 1


async def test_a_node_whose_certificate_was_refused_is_not_said_to_have_one() -> None:
    story = Story()

    def answer(request: Request) -> Answer:
        if request.body.get("spec", {}).get("certificate"):
            return 403, {"kind": "Status", "code": 403, "message": "denied"}
        return story.answer(request)

    async with serving(answer, clock=lambda: story.now) as cluster:
        runs = story.reconciler(cluster)
        await runs.reconcile()
        story.agents_report()
        await runs.reconcile()
    (member,) = story.world.members.values()
    assert [(each.status, each.reason) for each in member.status.conditions] == [("Unknown", "Issuing")]
    assert member.status.certificate_days == 0


async def test_an_api_server_that_tells_no_time_and_one_that_tells_another_get_none_signed() -> None:
    story = Story()
    async with serving(story.answer) as cluster:
        runs = story.reconciler(cluster)
        await runs.reconcile()
        story.agents_report()
        await runs.reconcile()
    assert (story.certificates(), story.certified()) == ({}, ("False", "ClockDiffers"))
    server = START - timedelta(minutes=2)
    async with serving(story.answer, clock=lambda: server) as cluster:
        await story.reconciler(cluster).reconcile()
    assert (story.certificates(), story.certified()) == ({}, ("False", "ClockDiffers"))


async def test_another_key_in_the_authoritys_secret_signs_nothing() -> None:
    story = Story()
    async with serving(story.answer, clock=lambda: story.now) as cluster:
        runs = story.reconciler(cluster)
        await runs.reconcile()
        story.agents_report()
        former = story.authority().key
        path = SECRET.path(NAMESPACE, "demo-authority")
        _, secret = story.store(Request("GET", path, "", {}))
        seed = base64.b64encode(base64.b64encode(bytes(32))).decode()
        story.world.observe(SECRET, story.store.put(path, {**secret, "data": {"seed": seed}}))
        await runs.reconcile()
    assert (story.certificates(), story.certified()) == ({}, ("False", "AuthorityLost"))
    assert story.world.meshes["demo"].status["identity"]["authority"] == str(former)


@pytest.mark.parametrize("entry", ["", "bm90IGJhc2U2NA==", base64.b64encode(b"AAAA").decode()])
async def test_a_secret_without_a_usable_seed_is_neither_used_nor_overwritten(entry: str) -> None:
    story = Story()
    path = SECRET.path(NAMESPACE, "demo-authority")
    secret = {"metadata": {"name": "demo-authority", "uid": "s"}, "data": {"seed": entry}}
    story.world.observe(SECRET, story.store.put(path, secret))
    async with serving(story.answer, clock=lambda: story.now) as cluster:
        await story.reconciler(cluster).reconcile()
    assert story.certified() == ("False", "AuthorityLost")
    _, kept = story.store(Request("GET", path, "", {}))
    assert kept["data"] == {"seed": entry}
    assert "demo-agent" in story.world.daemon_sets  # the mesh works all the same


async def test_an_authority_whose_secret_goes_before_anybody_knew_it_is_made_again() -> None:
    story = Story()
    async with serving(story.answer, clock=lambda: story.now) as cluster:
        with story.refusing(500, "demo-config"), pytest.raises(Exception, match="500"):
            await story.reconciler(cluster).reconcile()
        former = story.authority().key
        path = SECRET.path(NAMESPACE, "demo-authority")
        story.store(Request("DELETE", path, "", {}))
        story.world.forget(SECRET, {"metadata": {"name": "demo-authority", "resourceVersion": "99999"}})
        story.store._version = 100000
        await story.reconciler(cluster).reconcile()
    assert story.authority().key != former
    assert story.certified()[1] == "WaitingForAgents"


async def test_a_mesh_whose_key_was_written_without_its_mode_by_a_cut_run_is_still_new() -> None:
    """Mode and key id are one write; otherwise a new mesh would count as an older one, which is Open."""
    story = Story()
    async with serving(story.answer, clock=lambda: story.now) as cluster:
        with story.refusing(422, "demo-authority"):
            await story.reconciler(cluster).reconcile()
        status = story.world.meshes["demo"].status
        assert status["key"]["id"]
        assert status["identity"]["mode"] == "Verified"
        await story.reconciler(cluster).reconcile()
    assert story.world.meshes["demo"].status["identity"]["mode"] == "Verified"


async def test_an_agent_whose_proof_comes_and_goes_changes_the_form_of_a_mesh_once_an_hour() -> None:
    """Each change of mesh.json is brought to all agents, and a stolen token can report anything."""
    story = Story(nodes=2)
    forms = []
    async with serving(story.answer, clock=lambda: story.now) as cluster:
        runs = story.reconciler(cluster)
        for proof in ({}, {}, {}, {"keyProof": ""}, {}, {"keyProof": ""}, {}):
            await runs.reconcile()
            forms.append(story.identity().form)
            story.now += timedelta(minutes=1)
            story.agents_report(lastReportTime=rfc3339(story.now), **proof)
        await runs.reconcile()
        forms.append(story.identity().form)
        assert forms == ["Gob", "Gob", "Compact", "Compact", "Gob", "Gob", "Gob", "Gob"]
        story.now += GOB_KEPT_FOR
        story.agents_report(lastReportTime=rfc3339(story.now))
        await runs.reconcile()
    assert story.identity().form == "Compact"


async def test_a_mesh_that_is_opened_is_told_of_once() -> None:
    """Its operator of before knew no certificates, or its spec says so: members need none now."""
    story = Story()
    story.world.observe(
        MESH,
        story.store.put(
            MESH.path("", "demo"),
            {
                "metadata": {"name": "demo", "uid": "u", "generation": 1},
                "spec": {"overlayCIDR": "10.189.0.0/16"},
                "status": {"key": {"id": "12345678", "acceptedIDs": []}},
            },
        ),
    )
    async with serving(story.answer, clock=lambda: story.now) as cluster:
        runs = story.reconciler(cluster)
        for _ in range(3):
            await runs.reconcile()
    told = [each.body["reason"] for each in story.store.written if "regarding" in each.body]
    assert told.count("IdentityOpen") == 1
