"""What agents report of their keys and certificates, written to a real API server without agents."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from typing import Any

from wesher_common.certificate import Certificate, Refusal, Subject, Trust, refusal
from wesher_common.key_proof import key_proof, proof_statement
from wesher_common.keys import WireGuardPrivateKey
from wesher_common.mesh_document import IdentitySettings, MeshDocument
from wesher_common.overlay import IPAddress
from wesher_testing.cluster.api_server import ApiServer
from wesher_testing.cluster.operator_process import NAMESPACE, SOON, eventually

Report = Callable[..., None]


def private_key(seed: str) -> WireGuardPrivateKey:
    """Return the key of a machine."""
    return WireGuardPrivateKey.from_random(hashlib.sha256(seed.encode()).digest())


def document(api: ApiServer, mesh: str = "demo") -> MeshDocument | None:
    """Return what a mesh's agents read, once there is identity in it."""
    found = api.get("configmap", f"{mesh}-config", "-n", NAMESPACE)
    known = api.get("wmesh", mesh)
    if found is None or known is None:
        return None
    read = MeshDocument.from_json(found["data"]["mesh.json"])
    is_whole = read.identity is not None and read.uid == known["metadata"]["uid"]
    return read if is_whole else None


def identity(api: ApiServer, mesh: str = "demo") -> IdentitySettings:
    """Return what mesh.json says about identity."""
    read = eventually(lambda: document(api, mesh), within=SOON)
    assert read is not None
    assert read.identity is not None
    return read.identity


def proven(api: ApiServer, node: str, key: WireGuardPrivateKey) -> dict[str, str]:
    """Return the part of an agent's report that says which key it has, with the proof."""
    read = eventually(lambda: document(api), within=SOON)
    assert read is not None
    settings = identity(api)
    assert settings.proof_key is not None
    proof = key_proof(key, settings.proof_key, proof_statement(read.uid, node, key.public))
    assert proof is not None
    return {"publicKey": str(key.public), "keyProof": base64.b64encode(proof).decode()}


def announced(api: ApiServer, node: str, key: WireGuardPrivateKey) -> dict[str, Any]:
    """Return the report of an agent that announces its certificate and has applied mesh.json."""
    read = document(api)
    assert read is not None
    serial = api.get("wnode", f"demo.{node}")["spec"]["serial"]
    return {
        **proven(api, node, key),
        "certificateSerial": serial,
        "configHash": read.config_hash,
    }


def certificate(api: ApiServer, node: str) -> Certificate | None:
    """Return the certificate that a node has been given."""
    found = api.get("wnode", f"demo.{node}")
    return Certificate.from_base64(found["spec"].get("certificate", "")) if found is not None else None


def counts_for(api: ApiServer, node: str, key: WireGuardPrivateKey, address: IPAddress) -> Refusal | None:
    """Return why a node's certificate does not count for a key, or None if agents take it."""
    trusted = {authority.id: Trust(key=authority) for authority in identity(api).authorities}
    subject = Subject(name=node, public_key=key.public, address=address)
    issued = certificate(api, node)
    clock = issued.serial if issued is not None else 0
    return refusal(issued, subject, trusted, clock=clock)


def node_condition(api: ApiServer, node: str) -> dict[str, Any]:
    """Return the condition Certified of a node; empty while there is none."""
    found = api.get("wnode", f"demo.{node}") or {}
    entries = (found.get("status") or {}).get("conditions") or []
    return next((entry for entry in entries if entry["type"] == "Certified"), {})


def issued_names(api: ApiServer) -> dict[str, dict[str, str]]:
    """Return the ledger."""
    found = api.get("configmap", "demo-issued", "-n", NAMESPACE)
    read: dict[str, dict[str, str]] = json.loads(found["data"]["issued.json"]) if found is not None else {}
    return read


def boot(api: ApiServer, node: str, boot_id: str) -> None:
    """Say of a Node what its kubelet says after a boot of its machine."""
    body = {"status": {"nodeInfo": {"bootID": boot_id, "machineID": f"machine-{node}"}}}
    api.kubectl(*("patch", "node", node, "--subresource=status", "--type=merge"), *("-p", json.dumps(body)))
