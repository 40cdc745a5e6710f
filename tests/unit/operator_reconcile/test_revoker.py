"""What is written when nodes are revoked, at moments that a real API server cannot be brought to."""

from __future__ import annotations

import base64
import json
from datetime import datetime, timedelta
from typing import Any

import pytest

from wesher_common.certificate import Authority, name_hash
from wesher_common.conditions import rfc3339
from wesher_common.errors import WesherError
from wesher_common.names import ADMIT_KEY_ANNOTATION, out_label
from wesher_common.news import Statement, sign_statement, unpack_news
from wesher_operator import kube
from wesher_operator.kube import CONFIG_MAP, WESHER_NODE, Cluster
from wesher_operator.reconcile.mesh import MeshReconciler
from wesher_testing.cluster.certified_mesh import START, Story
from wesher_testing.cluster.fake_api_server import Request, serving

NAMESPACE = "wesher-system"
N0, N1 = "n000", "n001"
OUT: dict[str, Any] = {out_label("demo"): "stolen"}


@pytest.fixture(autouse=True)
def at_full_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube, "_WRITE_SPACING", 0)


async def certify(story: Story, cluster: Cluster) -> MeshReconciler:
    """Have each node certified."""
    runs = story.reconciler(cluster)
    await runs.reconcile()
    story.agents_report()
    await runs.reconcile()
    assert len(story.certificates()) == len(story.world.nodes)
    return runs


def pass_seconds(story: Story, seconds: float) -> None:
    story.now += timedelta(seconds=seconds)


def milliseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def reason_of(story: Story, node: str) -> str:
    entries = story.world.members[f"demo.{node}"].status.conditions
    return next((entry.reason for entry in entries if entry.type == "Certified"), "")


def revokes(story: Story, node: str) -> bool:
    """Tell whether the published statement makes the node's last certificate void."""
    return story.statement().revoked.get(name_hash(node), 0) * 1000 >= milliseconds(START)


async def test_a_mesh_publishes_a_statement_and_signs_it_again_after_a_day() -> None:
    story = Story()
    async with serving(story.answer, clock=lambda: story.now) as cluster:
        runs = story.reconciler(cluster)
        again = await runs.reconcile()
        first = story.statement()
        assert (first.number, dict(first.revoked)) == (milliseconds(START), {})
        assert again is not None
        assert again <= START + timedelta(days=1)
        written = len(story.store.written)
        await runs.reconcile()
        assert len(story.store.written) == written, "nothing is written at rest"
        story.now += timedelta(days=1)
        await runs.reconcile()
    assert story.statement().number == first.number + 86_400_000


async def test_the_name_of_a_deleted_node_is_remembered_before_its_wesher_node_goes_and_then_published() -> (
    None
):
    story = Story(nodes=2)
    async with serving(story.answer, clock=lambda: story.now) as cluster:
        runs = await certify(story, cluster)
        pass_seconds(story, 60.5)
        story.remove_node(N1)
        story.store.written.clear()
        await runs.reconcile()
    assert dict(story.statement().revoked) == {name_hash(N1): milliseconds(START) // 1000 + 61}
    paths = [request.path for request in story.store.written]
    memory = paths.index(CONFIG_MAP.path(NAMESPACE, "demo-revoked"))
    assert memory < paths.index(WESHER_NODE.path("", f"demo.{N1}"))
    assert memory < paths.index(CONFIG_MAP.path(NAMESPACE, "demo-config"))


@pytest.mark.parametrize("refused", ["demo-revoked", f"demo.{N1}", "demo-config", "demo"])
async def test_an_operator_that_is_killed_at_any_write_is_followed_by_one_that_revokes(refused: str) -> None:
    story = Story(nodes=2)
    async with serving(story.answer, clock=lambda: story.now) as cluster:
        await certify(story, cluster)
        pass_seconds(story, 60)
        story.remove_node(N1)
        with story.refusing(500, refused), pytest.raises(WesherError):
            await story.reconciler(cluster).reconcile()
        story.see_deletions()
        pass_seconds(story, 5)
        await story.reconciler(cluster).reconcile()
        assert revokes(story, N1)
        assert not revokes(story, N0)
        last = story.statement()
        story.see_deletions()
        pass_seconds(story, 5)
        await story.reconciler(cluster).reconcile()
    assert story.statement() == last, "once"


async def test_a_node_that_went_while_no_operator_ran_is_revoked_by_the_next_one() -> None:
    story = Story(nodes=2)
    async with serving(story.answer, clock=lambda: story.now) as cluster:
        await certify(story, cluster)
        pass_seconds(story, 60)
        story.remove_node(N1)
        story.store(Request("DELETE", WESHER_NODE.path("", f"demo.{N1}"), "", {}))
        story.see_deletions()
        await story.reconciler(cluster).reconcile()
    assert revokes(story, N1)


async def test_a_node_that_comes_back_gets_a_certificate_that_is_later_than_its_revocation() -> None:
    story = Story(nodes=2)
    async with serving(story.answer, clock=lambda: story.now) as cluster:
        runs = await certify(story, cluster)
        pass_seconds(story, 60.2)
        story.remove_node(N1)
        await runs.reconcile()
        story.see_deletions()
        story.node(N1, uid="made again")
        await runs.reconcile()
        story.agents_report()
        await runs.reconcile()
        void = story.statement().revoked_ms[name_hash(N1)]
        assert void > milliseconds(story.now), "its second is rounded up"
        assert story.certificates()[f"demo.{N1}"].serial == void + 1
        # And once more, in the same second.
        story.remove_node(N1)
        await runs.reconcile()
    assert story.statement().revoked_ms[name_hash(N1)] > void


async def test_a_wesher_node_that_is_deleted_by_hand_costs_no_tunnel() -> None:
    """As when its CustomResourceDefinition was deleted: the nodes still belong to the mesh."""
    story = Story(nodes=2)
    async with serving(story.answer, clock=lambda: story.now) as cluster:
        runs = await certify(story, cluster)
        for node in (N0, N1):
            story.store(Request("DELETE", WESHER_NODE.path("", f"demo.{node}"), "", {}))
        story.see_deletions()
        pass_seconds(story, 60)
        await runs.reconcile()
        await runs.reconcile()
    assert len(story.world.members) == 2
    assert dict(story.statement().revoked) == {}


async def test_a_labelled_node_leaves_at_once_and_comes_back_when_the_label_is_gone() -> None:
    story = Story(nodes=2)
    async with serving(story.answer, clock=lambda: story.now) as cluster:
        runs = await certify(story, cluster)
        pass_seconds(story, 60)
        story.node(N1, **OUT)
        await runs.reconcile()
        story.see_deletions()
        assert set(story.world.members) == {f"demo.{N0}"}
        assert revokes(story, N1)
        assert story.world.meshes["demo"].status["identity"]["revoked"] == [N1]
        (void,) = story.statement().revoked_ms.values()

        pass_seconds(story, 60)
        story.node(N1)
        await runs.reconcile()
        story.agents_report()
        await runs.reconcile()
        assert story.certificates()[f"demo.{N1}"].serial > void
        assert story.world.meshes["demo"].status["identity"]["revoked"] == []


async def test_a_label_that_is_removed_before_the_wesher_node_was_deleted_still_means_a_new_certificate() -> (
    None
):
    story = Story(nodes=2)
    async with serving(story.answer, clock=lambda: story.now) as cluster:
        runs = await certify(story, cluster)
        had = story.certificates()[f"demo.{N1}"]
        pass_seconds(story, 60)
        story.node(N1, **OUT)
        with story.refusing(403, f"demo.{N1}"):
            await runs.reconcile()
        assert revokes(story, N1)
        story.node(N1)
        await runs.reconcile()
        assert story.certificates()[f"demo.{N1}"].serial > had.serial
        # The label once more.
        pass_seconds(story, 60)
        story.node(N1, **OUT)
        await runs.reconcile()
        void = story.statement().revoked_ms[name_hash(N1)]
    assert void >= milliseconds(story.now)


async def report_statement(story: Story, statement: Statement) -> None:
    text = base64.b64encode(statement.packed()).decode()
    story.agents_report(news=text, newsNumber=statement.number, lastReportTime=rfc3339(story.now))


def signed_elsewhere(story: Story, node: str) -> Statement:
    moment = milliseconds(story.now)
    return sign_statement(story.authority(), number=moment, revoked={name_hash(node): moment // 1000 + 1})


async def test_an_operator_that_meets_a_newer_statement_takes_it_over_and_lets_nobody_in_that_it_names() -> (
    None
):
    """As after a restore from a backup, where the Node stands without its label and with its WesherNode."""
    story = Story(nodes=2)
    async with serving(story.answer, clock=lambda: story.now) as cluster:
        await certify(story, cluster)
        pass_seconds(story, 3600)
        newer = signed_elsewhere(story, N1)
        await report_statement(story, newer)
        had = story.certificates()
        runs = story.reconciler(cluster)
        await runs.reconcile()
        assert story.statement() == newer, "nothing is missing in it, so nothing is signed"
        assert reason_of(story, N1) == "Revoked"
        assert reason_of(story, N0) == "Issued"
        assert story.certified() == ("True", "AllCertified") or story.certified()[1] == "WaitingForAgents"

        # Also after the time of its renewal, by another operator, and though its ConfigMap is lost.
        story.now += timedelta(days=22)
        story.world.config_maps.pop("demo-config")
        story.agents_report(news="", newsNumber=0, lastReportTime=rfc3339(story.now))
        runs = story.reconciler(cluster)
        await runs.reconcile()
        assert story.certificates()[f"demo.{N1}"] == had[f"demo.{N1}"]
        assert story.certificates()[f"demo.{N0}"] != had[f"demo.{N0}"]
        assert story.statement().number > newer.number
        assert revokes(story, N1)
        assert "kubectl wesher admit n001 --key" in message_of(story, N1)

        admit(story, N1)
        await runs.reconcile()
        assert story.certificates()[f"demo.{N1}"].serial > newer.revoked_ms[name_hash(N1)]


def message_of(story: Story, node: str) -> str:
    entries = story.world.members[f"demo.{node}"].status.conditions
    return next(entry.message for entry in entries if entry.type == "Certified")


def admit(story: Story, node: str) -> None:
    """Annotate a WesherNode as an administrator does."""
    path = WESHER_NODE.path("", f"demo.{node}")
    _, found = story.store(Request("GET", path, "", {}))
    key = found["status"]["publicKey"]
    annotations = {ADMIT_KEY_ANNOTATION: key}
    body = story.store.put(path, {**found, "metadata": {**found["metadata"], "annotations": annotations}})
    story.world.observe(WESHER_NODE, body)


async def test_what_is_revoked_here_and_elsewhere_is_in_one_later_statement() -> None:
    story = Story(nodes=3)
    async with serving(story.answer, clock=lambda: story.now) as cluster:
        runs = await certify(story, cluster)
        pass_seconds(story, 3600)
        newer = signed_elsewhere(story, N1)
        await report_statement(story, newer)
        story.remove_node("n002")
        await runs.reconcile()
    assert story.statement().number > newer.number
    assert set(story.statement().revoked) == {name_hash(N1), name_hash("n002")}


async def test_a_lie_about_news_in_a_status_changes_nothing() -> None:
    story = Story(nodes=2)
    async with serving(story.answer, clock=lambda: story.now) as cluster:
        runs = await certify(story, cluster)
        before = story.statement()
        forged = Statement(
            authority=story.authority().key.id, number=before.number + 9, revoked={b"x" * 8: 1}
        )
        await report_statement(story, Statement.unpacked(forged.packed() + bytes(64)))
        await runs.reconcile()
        assert story.statement() == before
    assert {reason_of(story, node) for node in (N0, N1)} == {"Issued"}


async def test_the_first_statement_after_a_start_waits_for_a_report_where_agents_have_reported_before() -> (
    None
):
    """The API server may have been restored: an agent may have a newer statement."""
    story = Story(nodes=2)
    async with serving(story.answer, clock=lambda: story.now) as cluster:
        await certify(story, cluster)
        story.agents_report(lastReportTime=rfc3339(story.now))
        before = story.statement()
        story.now += timedelta(days=2)
        runs = story.reconciler(cluster)
        again = await runs.reconcile()
        assert story.statement() == before
        assert again is not None
        assert again <= story.now + timedelta(seconds=30)
        newer = signed_elsewhere(story, N1)
        await report_statement(story, newer)
        await runs.reconcile()
        assert revokes(story, N1)
        assert story.statement().number >= newer.number


async def test_a_revocation_waits_no_longer_than_a_quarter_of_an_hour_for_agents_that_cannot_report() -> None:
    story = Story(nodes=2)
    async with serving(story.answer, clock=lambda: story.now) as cluster:
        await certify(story, cluster)
        story.agents_report(lastReportTime=rfc3339(story.now))
        story.now += timedelta(days=2)
        runs = story.reconciler(cluster)
        story.remove_node(N1)
        await runs.reconcile()
        assert not revokes(story, N1)
        story.now += timedelta(minutes=15)
        await runs.reconcile()
    assert revokes(story, N1)


async def test_nothing_is_revoked_or_signed_while_the_clock_is_wrong_and_all_of_it_afterwards() -> None:
    story, error = Story(nodes=2), timedelta()
    async with serving(story.answer, clock=lambda: story.now + error) as cluster:
        runs = await certify(story, cluster)
        before = story.statement()
        story.remove_node(N1)
        error = timedelta(minutes=2)
        story.now += timedelta(days=2)
        await runs.reconcile()
        await runs.reconcile()
        story.see_deletions()
        assert story.statement() == before
        error = timedelta()
        await runs.reconcile()
        await runs.reconcile()
    assert revokes(story, N1)


async def test_without_its_authority_a_mesh_keeps_the_statement_that_it_has() -> None:
    story = Story(nodes=2)
    async with serving(story.answer, clock=lambda: story.now) as cluster:
        runs = await certify(story, cluster)
        before, authority = story.statement(), story.authority()
        facts = story.world.keys.pop("demo-authority")
        story.remove_node(N1)
        pass_seconds(story, 60)
        await runs.reconcile()
        story.see_deletions()
        story.world.keys["demo-authority"] = facts
        assert story.statement() == before
        assert story.authority() == authority
        await runs.reconcile()
    assert revokes(story, N1)


async def test_an_operator_that_leads_too_long_takes_no_revocation_back() -> None:
    """What it publishes is older; agents keep what was revoked, and the next operator publishes it again."""
    story = Story(nodes=3)
    async with serving(story.answer, clock=lambda: story.now) as cluster:
        runs = await certify(story, cluster)
        older = dict(story.world.config_maps)
        story.remove_node(N1)
        pass_seconds(story, 60)
        await runs.reconcile()
        story.see_deletions()
        newest = story.statement()
        # The former leader published by what it knew.
        story.world.config_maps["demo-config"] = older["demo-config"]
        await report_statement(story, newest)
        story.remove_node("n002")
        await story.reconciler(cluster).reconcile()
    assert story.statement().number > newest.number
    assert set(story.statement().revoked) == {name_hash(N1), name_hash("n002")}
    memory = json.loads(story.world.config_maps["demo-revoked"].body["data"]["revoked.json"])
    assert memory["barred"] == {}


async def test_while_an_authority_is_replaced_both_revoke_and_the_former_one_names_its_successor() -> None:
    story = Story(nodes=2)
    async with serving(story.answer, clock=lambda: story.now) as cluster:
        runs = await certify(story, cluster)
        former, successor = story.authority(), Authority(bytes(range(32)))
        seed = base64.b64encode(successor.seed).decode()
        story.write_secret(seed=seed, former_seed=story.seed(), replaces=str(former.key))
        pass_seconds(story, 60)
        story.remove_node(N1)
        await runs.reconcile()
        text = story.world.config_maps["demo-config"].body["binaryData"]["news"]
        items = [Statement.unpacked(data) for _, data in unpack_news(base64.b64decode(text))]
    by_key = {key: each for each in items for key in (former.key, successor.key) if each.is_signed_by(key)}
    assert [set(each.revoked) for each in items] == [{name_hash(N1)}] * 2
    assert by_key[former.key].successor == successor.key
    assert by_key[successor.key].successor is None


async def test_the_next_run_is_not_sooner_where_a_former_authority_can_sign_nothing_more() -> None:
    story = Story()
    async with serving(story.answer, clock=lambda: story.now) as cluster:
        runs = await certify(story, cluster)
        former = story.authority()
        seed = base64.b64encode(bytes(range(32))).decode()
        story.write_secret(seed=seed, former_seed="", replaces=str(former.key))
        story.now += timedelta(days=3)
        again = await runs.reconcile()
    assert again is not None
    assert again >= story.now + timedelta(seconds=5)
