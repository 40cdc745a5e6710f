"""One authority after another, changed keys, wrong clocks and restored backups, on a pretended API server."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest

from wesher_common.certificate import Authority, AuthorityKey
from wesher_common.errors import WesherError
from wesher_common.names import ADMIT_KEY_ANNOTATION
from wesher_operator import kube
from wesher_operator.kube import SECRET, WESHER_NODE, Cluster
from wesher_operator.reconcile import certifier
from wesher_operator.reconcile.mesh import MeshReconciler
from wesher_testing.cluster.certified_mesh import START, Story
from wesher_testing.cluster.fake_api_server import Answer, Request, serving
from wesher_testing.cluster.operator_process import NAMESPACE

NEW_SEED = base64.b64encode(bytes(range(32))).decode()
NEW = Authority(bytes(range(32))).key
YEARS = timedelta(days=11 * 365)
NODE = WESHER_NODE.path("", "demo.n000")


@pytest.fixture(autouse=True)
def at_full_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube, "_WRITE_SPACING", 0)


@pytest.fixture
async def story() -> AsyncIterator[tuple[Story, Cluster, MeshReconciler]]:
    """Two nodes that are certified and announce it; the API server's clock is right all the while."""
    story = Story(nodes=2)
    async with serving(story.answer, clock=lambda: START) as cluster:
        runs = story.reconciler(cluster)
        await runs.reconcile()
        story.agents_report()
        await runs.reconcile()
        story.agents_report()
        await runs.reconcile()
        assert story.certified() == ("True", "AllCertified")
        assert story.identity().bound
        yield story, cluster, runs


def signers(story: Story) -> set[bytes]:
    return {each.authority for each in story.certificates().values()}


def old(story: Story) -> AuthorityKey:
    return story.identity().authorities[0]


Running = tuple[Story, Cluster, MeshReconciler]


async def test_certificates_of_two_authorities_are_valid_until_the_last_node_has_a_new_one(
    story: Running,
) -> None:
    mesh, _, runs = story
    former = old(mesh)
    mesh.write_secret(seed=NEW_SEED, former_seed=mesh.seed(), replaces=str(former))
    await runs.reconcile()
    assert mesh.identity().authorities == (NEW, former)
    assert signers(mesh) == {former.id}
    assert mesh.certified() == ("Unknown", "NewAuthority")
    status = mesh.world.meshes["demo"].status["identity"]
    assert (status["authority"], status["formerAuthority"]) == (str(NEW), str(former))

    mesh.agents_report()
    await runs.reconcile()
    # Each key was proven to the former authority, so no proof is waited for.
    assert signers(mesh) == {NEW.id}
    assert mesh.identity().authorities == (NEW, former)
    mesh.agents_report()
    await runs.reconcile()
    assert mesh.identity().authorities == (NEW,)
    mesh.agents_report()
    await runs.reconcile()
    assert mesh.certified() == ("True", "AllCertified")
    assert mesh.identity().bound
    assert mesh.world.meshes["demo"].status["identity"]["formerAuthority"] == ""


async def test_an_operator_killed_after_each_write_of_a_replacement_is_followed_by_one_that_ends_it(
    story: Running,
) -> None:
    """Each run ends at one more write than the one before; its successor knows nothing of it."""
    mesh, cluster, _ = story
    former = old(mesh)
    mesh.write_secret(seed=NEW_SEED, former_seed=mesh.seed(), replaces=str(former))
    left = [0]

    def until_killed(request: Request) -> Answer:
        if request.method != "GET":
            left[0] -= 1
            if left[0] < 0:
                return 503, {"kind": "Status", "code": 503, "message": "killed"}
        return mesh.answer(request)

    async with serving(until_killed, clock=lambda: START) as dying:
        for writes in range(12):
            left[0] = writes
            with suppress(WesherError):
                await mesh.reconciler(dying).reconcile()
            # No node is ever left with a certificate that agents do not know.
            trusted = {key.id for key in mesh.identity().authorities}
            assert signers(mesh) <= trusted
            mesh.agents_report()
    for _ in range(3):
        await mesh.reconciler(cluster).reconcile()
        mesh.agents_report()
    assert mesh.identity().authorities == (NEW,)
    assert signers(mesh) == {NEW.id}


async def test_an_authority_that_is_dropped_at_once_signs_nothing_that_counts(story: Running) -> None:
    mesh, _, runs = story
    mesh.write_secret(seed=NEW_SEED, drops=str(old(mesh)))
    await runs.reconcile()
    assert mesh.identity().authorities == (NEW,)
    assert signers(mesh) == {NEW.id}
    assert mesh.identity().bound


async def test_a_lost_authority_is_replaced_by_one_that_names_it(story: Running) -> None:
    mesh, _, runs = story
    former, seed = old(mesh), NEW_SEED
    mesh.write_secret(seed=seed)
    await runs.reconcile()
    assert mesh.certified() == ("False", "AuthorityLost")
    assert "kubectl wesher new-authority --mesh demo" in mesh.condition()["message"]
    assert signers(mesh) == {former.id}
    mesh.write_secret(seed=seed, replaces=str(former))
    await runs.reconcile()
    assert mesh.identity().authorities == (NEW, former)
    for _ in range(3):
        mesh.agents_report()
        await runs.reconcile()
    assert (mesh.identity().authorities, signers(mesh)) == ((NEW,), {NEW.id})


async def test_a_lost_ledger_does_not_make_a_replacement_look_like_changed_keys(story: Running) -> None:
    mesh, _, runs = story
    mesh.write_secret(seed=NEW_SEED, drops=str(old(mesh)))
    mesh.world.config_maps.pop("demo-issued")
    await runs.reconcile()
    mesh.agents_report()
    await runs.reconcile()
    assert signers(mesh) == {NEW.id}


@pytest.mark.parametrize("data", [{"seed": "AAAA"}, {"seed": NEW_SEED, "replaces": "no key"}])
async def test_a_secret_that_cannot_be_read_is_named_with_its_entry(
    story: Running, data: dict[str, str]
) -> None:
    mesh, _, runs = story
    before = mesh.certificates()
    mesh.write_secret(**data)
    await runs.reconcile()
    assert mesh.certified() == ("False", "AuthorityLost")
    assert f"Secret demo-authority: {list(data)[-1]}" in mesh.condition()["message"]
    assert mesh.certificates() == before


async def test_the_replaced_authority_is_not_taken_from_a_backup_again(story: Running) -> None:
    mesh, _, runs = story
    former_seed = mesh.seed()
    mesh.write_secret(seed=NEW_SEED, former_seed=former_seed, replaces=str(old(mesh)))
    for _ in range(4):
        await runs.reconcile()
        mesh.agents_report()
    assert mesh.identity().authorities == (NEW,)
    mesh.write_secret(seed=former_seed)
    await runs.reconcile()
    assert mesh.certified() == ("False", "AuthorityLost")
    assert mesh.identity().authorities == (NEW,)
    assert signers(mesh) == {NEW.id}


async def test_a_changed_key_is_certified_when_it_is_admitted_and_the_admission_ends_with_it(
    story: Running,
) -> None:
    mesh, _, runs = story
    before = mesh.certificates()["demo.n000"]
    mesh.agents_report(keys="reinstalled")
    await runs.reconcile()
    key = mesh.world.members["demo.n000"].status.public_key
    other = mesh.world.members["demo.n001"].status.public_key
    assert mesh.certificates()["demo.n000"] == before
    mesh.change(NODE, metadata={"annotations": {ADMIT_KEY_ANNOTATION: other}})
    await runs.reconcile()
    assert mesh.certificates()["demo.n000"] == before  # another key was admitted
    mesh.change(NODE, metadata={"annotations": {ADMIT_KEY_ANNOTATION: key}})
    await runs.reconcile()
    assert mesh.certificates()["demo.n000"] != before
    assert mesh.certificates()["demo.n001"].serial < mesh.certificates()["demo.n000"].serial
    _, found = mesh.store(Request("GET", NODE, "", {}))
    assert found["metadata"]["annotations"][ADMIT_KEY_ANNOTATION] is None


@pytest.mark.parametrize("moment", [datetime(1970, 1, 1, tzinfo=UTC), START + YEARS])
async def test_a_clock_that_is_years_off_is_named_and_changes_nothing(
    story: Running, moment: datetime
) -> None:
    mesh, cluster, _ = story
    before, bound = mesh.certificates(), mesh.identity()
    mesh.now = moment
    again = await mesh.reconciler(cluster).reconcile()
    assert again is not None
    assert again <= moment + certifier.LOOK_AGAIN
    assert again > moment
    assert mesh.certified() == ("False", "ClockDiffers")
    assert (mesh.certificates(), mesh.identity()) == (before, bound)
    assert mesh.world.members["demo.n000"].status.certificate_days == 30
    entries = mesh.world.members["demo.n000"].status.conditions
    assert [each.reason for each in entries if each.type == "Certified"] == ["Issued"]


@pytest.mark.parametrize("moment", [datetime(1970, 1, 1, tzinfo=UTC), START + YEARS])
async def test_a_clock_that_is_years_off_drops_no_authority(story: Running, moment: datetime) -> None:
    """By it, all certificates of the former one may have expired."""
    mesh, cluster, _ = story
    former = old(mesh)
    mesh.write_secret(seed=NEW_SEED, former_seed=mesh.seed(), replaces=str(former))
    mesh.now = moment
    for _ in range(3):
        await mesh.reconciler(cluster).reconcile()
        mesh.agents_report()
    assert mesh.identity().authorities == (NEW, former)
    assert signers(mesh) == {former.id}


async def test_an_etcd_that_was_restored_makes_no_serial_fall(story: Running) -> None:
    """Its WesherNode has the certificate from before the one that the agent announces."""
    mesh, _, runs = story
    ahead = round((START + timedelta(hours=3)).timestamp() * 1000)
    (before,) = {each.serial for name, each in mesh.certificates().items() if name == "demo.n000"}
    mesh.change(NODE, status={"certificateSerial": ahead})
    await runs.reconcile()
    after = mesh.certificates()
    assert after["demo.n000"].serial == ahead + 1 > before
    assert after["demo.n001"].serial < ahead
    mesh.change(NODE, status={"certificateSerial": ahead + 1})
    await runs.reconcile()
    assert mesh.certificates() == after


async def test_a_serial_that_agents_with_slow_clocks_refuse_is_not_followed(story: Running) -> None:
    """A stolen token can report any, and the next certificate of each node gets a later one."""
    mesh, _, runs = story
    before = mesh.certificates()
    for serial in (round((START + timedelta(hours=13)).timestamp() * 1000), 2**62, -1):
        mesh.change(NODE, status={"certificateSerial": serial})
        await runs.reconcile()
    assert mesh.certificates() == before


async def test_the_secret_keeps_a_seed_that_the_operator_cannot_read_out_of_logs(
    story: Running, caplog: pytest.LogCaptureFixture
) -> None:
    mesh, _, runs = story
    mesh.write_secret(seed=NEW_SEED + "AA")
    await runs.reconcile()
    assert NEW_SEED not in caplog.text
    assert NEW_SEED not in str(mesh.world.meshes["demo"].status)
    assert mesh.store(Request("GET", SECRET.path(NAMESPACE, "demo-authority"), "", {}))[0] == 200
