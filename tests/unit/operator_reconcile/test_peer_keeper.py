"""What is written for machines outside, at moments that a real API server cannot be brought to."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from wesher_common.certificate import Certificate, name_hash
from wesher_common.conditions import rfc3339
from wesher_common.errors import ClusterUnavailable
from wesher_common.keys import WireGuardPrivateKey
from wesher_common.news import NEWS_FILE, NewsKind, PeerCertificate, Statement, sign_statement, unpack_news
from wesher_operator import kube
from wesher_operator.kube import CONFIG_MAP, MESH, NODE, POD, WESHER_NODE, WESHER_PEER, Cluster
from wesher_operator.reconcile import news, peer_keeper
from wesher_operator.reconcile.manifests import AgentSettings
from wesher_operator.reconcile.membership import HELD_BACK_FOR
from wesher_operator.reconcile.mesh import MeshReconciler
from wesher_operator.reconcile.world import World
from wesher_testing.cluster.fake_api_server import Answer, Request, Storing, serving

START = datetime(2026, 11, 22, 12, tzinfo=UTC)
NAMESPACE = "wesher-system"
LEDGER = CONFIG_MAP.path(NAMESPACE, "demo-issued")


@pytest.fixture(autouse=True)
def at_full_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube, "_WRITE_SPACING", 0)


def key_of(name: str) -> str:
    return str(WireGuardPrivateKey.from_random(hashlib.sha256(name.encode()).digest()).public)


class Story:
    """A mesh with machines that an administrator admitted by key, at the time ``now``."""

    def __init__(self, *peers: str) -> None:
        self.now = START
        self.store = Storing()
        self.world = World()
        self._refused: tuple[int, tuple[str, ...]] = 0, ()
        metadata = {"name": "demo", "uid": "u", "generation": 1}
        spec = {"overlayCIDR": "10.189.0.0/16"}
        self.world.observe(MESH, self.store.put(MESH.path("", "demo"), {"metadata": metadata, "spec": spec}))
        about = {"name": "n", "uid": "n", "labels": {"kubernetes.io/os": "linux"}, "resourceVersion": "1"}
        self.world.observe(NODE, {"metadata": about})
        for name in peers:
            self.admit(name)

    def admit(self, name: str, **spec: Any) -> None:
        """Create a WesherPeer."""
        created = self.now.strftime("%Y-%m-%dT%H:%M:%SZ")
        metadata = {
            "name": f"demo.{name}",
            "uid": f"uid-{name}-{self.now}",
            "generation": 1,
            "creationTimestamp": created,
        }
        body = {
            "metadata": metadata,
            "spec": {"meshRef": {"name": "demo"}, "publicKey": key_of(name), **spec},
        }
        self.world.observe(WESHER_PEER, self.store.put(WESHER_PEER.path("", f"demo.{name}"), body))

    def delete(self, name: str) -> None:
        """Delete a WesherPeer."""
        path = WESHER_PEER.path("", f"demo.{name}")
        _, found = self.store(Request("GET", path, "", {}))
        self.store(Request("DELETE", path, "", {}))
        self.world.forget(WESHER_PEER, found)

    def edit(self, **spec: Any) -> None:
        """Change the spec of the mesh."""
        path = MESH.path("", "demo")
        _, found = self.store(Request("GET", path, "", {}))
        self.world.observe(MESH, self.store.put(path, {**found, "spec": {**found["spec"], **spec}}))

    def report(self, signed: Statement) -> None:
        """Have the agent report a statement that it has."""
        path = WESHER_NODE.path("", "demo.n")
        _, found = self.store(Request("GET", path, "", {}))
        news = base64.b64encode(signed.packed()).decode()
        status = {"newsNumber": signed.number, "news": news, "lastReportTime": rfc3339(self.now)}
        self.world.observe(WESHER_NODE, self.store.put(path, {**found, "status": status}))

    def see(self, name: str, serial: int) -> None:
        """Have the agent report a machine that announces a certificate; 0 for none."""
        path = WESHER_NODE.path("", "demo.n")
        _, found = self.store(Request("GET", path, "", {}))
        seen = {"name": name, "endpoint": "203.0.113.9:7946", "kind": "wesher", "publicKey": key_of(name)}
        status = {
            "configHash": "old",
            "lastReportTime": rfc3339(self.now),
            # It has every statement.
            "newsNumber": round(self.now.timestamp() * 1000),
            "outsiders": [{**seen, "certificateSerial": serial}],
        }
        self.world.observe(WESHER_NODE, self.store.put(path, {**found, "status": status}))

    def revoked(self) -> dict[bytes, int]:
        """Return whom the published statement revokes."""
        data = self.world.config_maps["demo-config"].body["binaryData"][NEWS_FILE]
        (found,) = [each for kind, each in unpack_news(base64.b64decode(data)) if kind is NewsKind.STATEMENT]
        return dict(Statement.unpacked(found).revoked)

    def answer(self, request: Request) -> Answer:
        """Answer a request."""
        status, names = self._refused
        if {*request.path.split("/")} & set(names):
            return status, {"kind": "Status", "code": status, "message": "denied"}
        return self.store(request)

    @contextmanager
    def refusing(self, status: int, *names: str) -> Iterator[None]:
        """Refuse the requests about these objects."""
        self._refused = status, names
        yield
        self._refused = 0, ()

    def reconciler(self, cluster: Cluster) -> MeshReconciler:
        """Return the mesh's reconciler."""
        settings = AgentSettings(image="wesher:test")
        return MeshReconciler("demo", self.world, cluster, settings, clock=lambda: self.now)

    def certificates(self) -> dict[str, Certificate]:
        """Return the certificates in the WesherPeers, by machine."""
        found = {
            peer.machine: Certificate.from_base64(peer.status.certificate)
            for peer in self.world.peers.values()
        }
        return {name: each for name, each in found.items() if each is not None}

    def published(self) -> dict[str, Certificate]:
        """Return the certificates in the news file, by machine."""
        data = self.world.config_maps["demo-config"].body["binaryData"][NEWS_FILE]
        items = unpack_news(base64.b64decode(data))
        found = [PeerCertificate.unpacked(each) for kind, each in items if kind is NewsKind.CERTIFICATE]
        return {each.subject.name: each.certificate for each in found}

    def reason(self, name: str) -> str:
        """Return the reason of a machine's condition."""
        (entry,) = self.world.peers[f"demo.{name}"].status.conditions
        return entry.reason

    def ledger(self) -> dict[str, dict[str, str]]:
        """Return the ledger."""
        _, found = self.store(Request("GET", LEDGER, "", {}))
        read: dict[str, dict[str, str]] = json.loads(found["data"]["issued.json"])
        return read


async def test_names_are_in_the_ledger_before_their_certificates_and_runs_are_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peer_keeper, "WRITES_A_RUN", 4)
    story = Story(*(f"m{number}" for number in range(10)))
    async with serving(story.answer, clock=lambda: story.now) as cluster:
        runs, counts = story.reconciler(cluster), []
        for _ in range(5):
            await runs.reconcile()
            counts.append(len(story.certificates()))
    assert counts == [4, 8, 10, 10, 10]
    known: set[str] = set()
    for request in story.store.written:
        if request.path == LEDGER:
            known = set(json.loads(request.body["data"]["issued.json"]))
        elif "/wesherpeers/" in request.path and request.body["status"]["certificate"]:
            assert request.body["metadata"]["name"].removeprefix("demo.") in known
    serials = [each.serial for each in story.certificates().values()]
    assert len(set(serials)) == 10
    assert story.published() == story.certificates()


async def test_an_agent_is_nudged_for_a_certificate_until_its_machine_announces_it() -> None:
    story = Story("laptop")
    ready = [{"name": "agent", "ready": True, "started": True, "state": {"running": {}}}]
    pod = {
        "metadata": {"name": "agent-n", "labels": {"wesher.dev/mesh": "demo"}},
        "spec": {"nodeName": "n"},
        "status": {"phase": "Running", "containerStatuses": ready},
    }
    story.world.observe(POD, story.store.put(POD.path(NAMESPACE, "agent-n"), pod))
    async with serving(story.answer, clock=lambda: story.now) as cluster:
        runs = story.reconciler(cluster)
        await runs.reconcile()
        serial = story.certificates()["laptop"].serial
        nudged = {}
        for announced in (0, serial - 1, serial):
            story.see("laptop", announced)
            await runs.reconcile()
            nudged[announced] = story.world.pods["agent-n"].nudge.endswith(f".{serial}")
    assert nudged == {0: True, serial - 1: True, serial: False}


@pytest.mark.parametrize("status", [403, 500])
async def test_without_the_ledger_no_certificate_is_written(status: int) -> None:
    story = Story()
    async with serving(story.answer, clock=lambda: story.now) as cluster:
        runs = story.reconciler(cluster)
        await runs.reconcile()
        story.admit("laptop")
        with story.refusing(status, "demo-issued"):
            if status == 403:
                await runs.reconcile()
                assert story.reason("laptop") == "RefusedByCluster"
                assert story.published() == {}
            else:
                with pytest.raises(ClusterUnavailable):
                    await runs.reconcile()
        assert story.certificates() == {}
        await runs.reconcile()
    assert story.published() == story.certificates() != {}


async def test_a_certificate_is_published_once_it_is_in_the_status() -> None:
    story = Story("laptop", "phone")
    async with serving(story.answer, clock=lambda: story.now) as cluster:
        runs = story.reconciler(cluster)
        with story.refusing(403, "demo.laptop"):
            again = await runs.reconcile()
        assert set(story.published()) == {"phone"}
        assert again is not None
        assert again <= story.now + timedelta(minutes=1)
        await runs.reconcile()
    assert set(story.published()) == {"laptop", "phone"}


async def test_a_crash_between_ledger_and_status_issues_to_the_same_key() -> None:
    story = Story("laptop")
    async with serving(story.answer, clock=lambda: story.now) as cluster:
        with story.refusing(500, "demo.laptop"), pytest.raises(ClusterUnavailable):
            await story.reconciler(cluster).reconcile()
        before = story.ledger()
        await story.reconciler(cluster).reconcile()
    assert story.ledger() == before
    assert before["laptop"]["key"] == key_of("laptop")
    assert set(story.certificates()) == {"laptop"}


async def test_nothing_is_issued_while_the_clock_is_wrong() -> None:
    story = Story("laptop")
    late = START + timedelta(minutes=2)
    async with serving(story.answer, clock=lambda: late) as cluster:
        await story.reconciler(cluster).reconcile()
        assert (story.reason("laptop"), story.certificates()) == ("ClockDiffers", {})
        story.now = late
        await story.reconciler(cluster).reconcile()
    assert set(story.certificates()) == {"laptop"}


async def test_a_certificate_is_renewed_and_its_days_are_told() -> None:
    story = Story("laptop")
    async with serving(story.answer, clock=lambda: story.now) as cluster:
        runs = story.reconciler(cluster)
        await runs.reconcile()
        first = story.certificates()["laptop"]
        story.now += timedelta(days=18)
        again = await runs.reconcile()
        assert story.certificates()["laptop"] == first
        assert story.world.peers["demo.laptop"].status.certificate_days == 12
        assert again is not None
        assert again <= story.now + timedelta(hours=12)
        story.now += timedelta(days=4)
        await runs.reconcile()
    second = story.certificates()["laptop"]
    assert second.serial > first.serial
    assert story.published() == {"laptop": second}
    assert story.world.peers["demo.laptop"].status.certificate_days == 30


async def test_a_mesh_at_rest_writes_nothing() -> None:
    story = Story("laptop")
    async with serving(story.answer, clock=lambda: story.now) as cluster:
        runs = story.reconciler(cluster)
        for _ in range(3):
            await runs.reconcile()
        before = len(story.store.written)
        story.now += timedelta(minutes=5)
        await runs.reconcile()
        await story.reconciler(cluster).reconcile()
    assert len(story.store.written) == before


async def test_a_lost_authority_leaves_certificates_published_and_issues_none() -> None:
    story = Story("laptop")
    async with serving(story.answer, clock=lambda: story.now) as cluster:
        runs = story.reconciler(cluster)
        await runs.reconcile()
        published = story.published()
        del story.world.keys["demo-authority"]
        story.admit("phone")
        await runs.reconcile()
    assert story.published() == published
    assert (story.reason("laptop"), story.reason("phone")) == ("Issued", "AuthorityLost")


async def test_the_address_of_a_deleted_machine_is_held_back_for_an_hour() -> None:
    story = Story("laptop")
    async with serving(story.answer, clock=lambda: story.now) as cluster:
        runs = story.reconciler(cluster)
        await runs.reconcile()
        address = story.world.peers["demo.laptop"].status.overlay_ip
        story.delete("laptop")
        await runs.reconcile()
        released = json.loads(story.world.config_maps["demo-released"].body["data"]["released.json"])
        assert released["holders"] == {address: "laptop"}
        assert story.published() == {}
        story.now += HELD_BACK_FOR
        await runs.reconcile()
        released = json.loads(story.world.config_maps["demo-released"].body["data"]["released.json"])
        assert released["holders"] == {}
    assert "laptop" in story.ledger()


async def test_a_deleted_machine_is_revoked_and_one_of_its_name_gets_a_later_certificate() -> None:
    story = Story("laptop")
    async with serving(story.answer, clock=lambda: story.now) as cluster:
        runs = story.reconciler(cluster)
        await runs.reconcile()
        first = story.certificates()["laptop"]
        story.delete("laptop")
        story.now += timedelta(milliseconds=100)
        await runs.reconcile()
        (revoked,) = story.revoked().items()
        assert revoked[0] == name_hash("laptop")
        assert revoked[1] * 1000 >= first.serial
        story.admit("laptop")
        await runs.reconcile()
    second = story.certificates()["laptop"]
    assert second.serial > revoked[1] * 1000
    assert story.published() == {"laptop": second}
    assert story.revoked() == dict([revoked])


async def test_a_configuration_that_grows_much_at_once_leaves_the_news_that_much_less_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An API server refuses a ConfigMap of more than 1 MiB, and each later run would write the same."""
    story = Story(*(f"m{number}" for number in range(20)))

    def size() -> int:
        body = story.world.config_maps["demo-config"].body
        return len(body["data"]["mesh.json"]) + len(base64.b64decode(body["binaryData"][NEWS_FILE]))

    async with serving(story.answer, clock=lambda: story.now) as cluster:
        runs = story.reconciler(cluster)
        await runs.reconcile()
        most, label = size() + 10_000, "n" * 60
        monkeypatch.setattr(news, "_MAX_CONFIG_MAP_BYTES", most)
        story.edit(seedNodes=[f"{label}.{label}.{label}.s{number}" for number in range(60)])
        await runs.reconcile()
    assert most - 300 < size() <= most


@pytest.mark.parametrize("operator", ["the same", "another"])
async def test_a_machine_that_was_deleted_and_admitted_again_between_two_looks_is_revoked_once(
    operator: str,
) -> None:
    story = Story("laptop")
    async with serving(story.answer, clock=lambda: story.now) as cluster:
        runs = story.reconciler(cluster)
        await runs.reconcile()
        first = story.certificates()["laptop"]
        story.now += timedelta(minutes=1)
        story.delete("laptop")
        story.admit("laptop", publicKey=key_of("another"))
        for _ in range(3):
            runs = story.reconciler(cluster) if operator == "another" else runs
            await runs.reconcile()
        revoked = story.revoked()
        assert revoked[name_hash("laptop")] * 1000 >= first.serial
        written = len(story.store.written)
        story.now += timedelta(minutes=1)
        await runs.reconcile()
        assert len(story.store.written) == written
    assert story.revoked() == revoked
    assert story.certificates()["laptop"].serial > revoked[name_hash("laptop")] * 1000


async def test_a_ledger_that_was_deleted_names_each_certified_machine_again_so_that_it_can_be_revoked() -> (
    None
):
    story = Story("laptop")
    async with serving(story.answer, clock=lambda: story.now) as cluster:
        runs = story.reconciler(cluster)
        await runs.reconcile()
        before = story.ledger()
        _, found = story.store(Request("GET", LEDGER, "", {}))
        story.store(Request("DELETE", LEDGER, "", {}))
        story.world.forget(CONFIG_MAP, found)
        await runs.reconcile()
        assert story.ledger() == before
        story.delete("laptop")
        await runs.reconcile()
    assert name_hash("laptop") in story.revoked()


async def test_another_cluster_name_revokes_no_machine_that_is_admitted() -> None:
    story = Story("laptop")
    async with serving(story.answer, clock=lambda: story.now) as cluster:
        runs = story.reconciler(cluster)
        await runs.reconcile()
        story.edit(clusterName="east")
        await runs.reconcile()
        await runs.reconcile()
    assert set(story.published()) == {"laptop.east"}
    assert story.revoked() == {}


async def test_a_machine_that_a_statement_of_another_names_stays_out_until_it_is_admitted_again() -> None:
    story = Story("laptop")
    async with serving(story.answer, clock=lambda: story.now) as cluster:
        runs = story.reconciler(cluster)
        await runs.reconcile()
        second = round(story.now.timestamp()) + 60
        authority = story.world.keys["demo-authority"].authority
        assert authority is not None
        assert authority.current is not None
        signed = sign_statement(
            authority.current, number=second * 1000, revoked={name_hash("laptop"): second}
        )
        story.report(signed)
        await runs.reconcile()
        assert (story.reason("laptop"), story.certificates()) == ("Revoked", {})
        assert story.published() == {}
        story.delete("laptop")
        await runs.reconcile()
        story.now += timedelta(minutes=2)
        story.admit("laptop")
        await runs.reconcile()
    assert story.reason("laptop") == "Issued"
    assert story.certificates()["laptop"].serial > second * 1000
