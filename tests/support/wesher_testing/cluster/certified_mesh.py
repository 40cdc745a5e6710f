"""One mesh whose nodes are certified against a pretended API server, with no agents and a clock in hand."""

from __future__ import annotations

import base64
import hashlib
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

import yaml

from wesher_common.certificate import Authority, Certificate
from wesher_common.key_proof import key_proof, proof_statement
from wesher_common.keys import WireGuardPrivateKey
from wesher_common.mesh_document import IdentitySettings, MeshDocument
from wesher_common.news import NewsKind, Statement, unpack_news
from wesher_operator.authority_entries import SEED
from wesher_operator.kube import (
    ADMISSION_BINDING,
    ADMISSION_POLICY,
    MESH,
    NODE,
    SECRET,
    WESHER_NODE,
    Cluster,
)
from wesher_operator.reconcile.manifests import AgentSettings
from wesher_operator.reconcile.mesh import MeshReconciler
from wesher_operator.reconcile.world import World
from wesher_testing.cluster.fake_api_server import Answer, Request, Storing
from wesher_testing.cluster.operator_process import MANIFESTS, NAMESPACE

START = datetime(2026, 11, 22, 12, tzinfo=UTC)
POLICY = "wesher-agent-own-node"


class Story:
    """A mesh whose API server refuses what it is to refuse, at the time ``now``."""

    def __init__(self, nodes: int = 1) -> None:
        self.now = START
        self.store = Storing()
        self.world = World()
        self._refused: tuple[int, tuple[str, ...]] = 0, ()
        metadata = {"name": "demo", "uid": "u", "generation": 1}
        spec = {"overlayCIDR": "10.189.0.0/16"}
        body = self.store.put(MESH.path("", "demo"), {"metadata": metadata, "spec": spec})
        self.world.observe(MESH, body)
        self._versions = itertools.count(1)
        for number in range(nodes):
            self.node(f"n{number:03}")
        for each in yaml.safe_load_all((MANIFESTS / "wesher.yaml").read_text()):
            for kind in (ADMISSION_POLICY, ADMISSION_BINDING):
                if each and each["kind"] == kind.kind:
                    self.store.put(kind.path("", POLICY), each)

    def node(self, name: str, *, uid: str = "", **labels: str) -> None:
        """Have a Node there, or change its labels."""
        about: dict[str, Any] = {"name": name, "uid": uid or name}
        about["resourceVersion"] = str(next(self._versions))
        about["labels"] = {"kubernetes.io/os": "linux", **labels}
        info = {"bootID": "boot", "machineID": name}
        ready = [{"type": "Ready", "status": "True"}]
        self.world.observe(NODE, {"metadata": about, "status": {"nodeInfo": info, "conditions": ready}})

    def remove_node(self, name: str) -> None:
        """Have a Node deleted."""
        metadata = {"name": name, "resourceVersion": str(next(self._versions))}
        self.world.forget(NODE, {"metadata": metadata})

    def see_deletions(self) -> None:
        """Have a new list tell of the WesherNodes that were deleted."""
        present = {
            name
            for name in self.world.members
            if self.store(Request("GET", WESHER_NODE.path("", name), "", {}))[0] == HTTPStatus.OK
        }
        self.world.retain(WESHER_NODE, present, 10**9)

    def answer(self, request: Request) -> Answer:
        """Answer a request."""
        status, names = self._refused
        about = {*request.path.split("/"), (request.body.get("metadata") or {}).get("name", "")}
        if about & set(names):
            return status, {"kind": "Status", "code": status, "message": "denied"}
        return self.store(request)

    @contextmanager
    def refusing(self, status: int, *names: str) -> Iterator[None]:
        """Refuse the requests about these objects or kinds."""
        self._refused = status, names
        yield
        self._refused = 0, ()

    def reconciler(self, cluster: Cluster) -> MeshReconciler:
        """Return the mesh's reconciler."""
        settings = AgentSettings(image="wesher:test")
        return MeshReconciler("demo", self.world, cluster, settings, clock=lambda: self.now)

    def agents_report(self, *, keys: str = "", **status: Any) -> None:
        """Have every agent report its key, the proof, what it has read and the certificate that it announces.

        Args:
            keys: of another text come other keys.
            status: what they report instead.

        """
        read: dict[str, Any] = {}
        proof_key = self.authority().proof_key.public
        if "demo-config" in self.world.config_maps:
            document = self.document()
            read["configHash"] = document.config_hash
            if document.identity is not None and document.identity.proof_key is not None:
                proof_key = document.identity.proof_key
        for name, member in self.world.members.items():
            node = member.spec.node_name
            key = WireGuardPrivateKey.from_random(hashlib.sha256((keys + node).encode()).digest())
            proof = key_proof(key, proof_key, proof_statement("u", node, key.public))
            said = {
                "publicKey": str(key.public),
                "keyProof": base64.b64encode(proof or b"").decode(),
                "machine": member.spec.machine,
                "certificateSerial": member.spec.serial,
                **read,
                **status,
            }
            self.change(WESHER_NODE.path("", name), status=said)

    def change(self, path: str, **parts: Any) -> None:
        """Change parts of a stored object as another client does, and have the operator see it."""
        _, found = self.store(Request("GET", path, "", {}))
        changed = {key: {**(found.get(key) or {}), **value} for key, value in parts.items()}
        kind = next(each for each in (SECRET, WESHER_NODE) if f"/{each.plural}/" in path)
        self.world.observe(kind, self.store.put(path, {**found, **changed}))

    def write_secret(self, **entries: str) -> None:
        """Write the whole Secret of the authority, from entries as ``wesher_operator.authority_entries``."""
        path = SECRET.path(NAMESPACE, "demo-authority")
        data = {
            name.replace("_", "-"): base64.b64encode(value.encode()).decode()
            for name, value in entries.items()
        }
        body = {"metadata": {"name": "demo-authority", "uid": "s"}, "data": data}
        self.world.observe(SECRET, self.store.put(path, body))

    def seed(self) -> str:
        """Return the seed of the authority, as its Secret's entry has it."""
        path = SECRET.path(NAMESPACE, "demo-authority")
        _, found = self.store(Request("GET", path, "", {}))
        return base64.b64decode(found["data"][SEED]).decode()

    def document(self) -> MeshDocument:
        """Return mesh.json."""
        return MeshDocument.from_json(self.world.config_maps["demo-config"].body["data"]["mesh.json"])

    def identity(self) -> IdentitySettings:
        """Return what mesh.json says about identity."""
        found = self.document().identity
        assert found is not None
        return found

    def authority(self) -> Authority:
        """Return the mesh's authority."""
        found = self.world.keys["demo-authority"].authority
        assert found is not None
        assert found.current is not None
        return found.current

    def certificates(self) -> dict[str, Certificate]:
        """Return the certificates that were issued, by WesherNode."""
        found = {name: Certificate.from_base64(m.spec.certificate) for name, m in self.world.members.items()}
        return {name: each for name, each in found.items() if each is not None}

    def statement(self) -> Statement:
        """Return the statement in the news file, whose signature is right."""
        found = self.world.config_maps["demo-config"].body["binaryData"]["news"]
        ((kind, data),) = unpack_news(base64.b64decode(found))
        assert kind is NewsKind.STATEMENT
        statement = Statement.unpacked(data)
        assert statement.is_signed_by(self.authority().key)
        return statement

    def condition(self) -> dict[str, Any]:
        """Return the mesh's condition Certified."""
        entries = self.world.meshes["demo"].status["conditions"]
        return next(entry for entry in entries if entry["type"] == "Certified")

    def certified(self) -> tuple[str, str]:
        """Return status and reason of that condition."""
        return self.condition()["status"], self.condition()["reason"]
