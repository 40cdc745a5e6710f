"""What agents report of their keys and certificates, written to a real API server without agents."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from functools import partial
from typing import Any

from wesher_common.certificate import Certificate, Refusal, Subject, Trust, name_hash, refusal
from wesher_common.key_proof import key_proof, proof_statement
from wesher_common.keys import WireGuardPrivateKey
from wesher_common.mesh_document import IdentitySettings, MeshDocument
from wesher_common.news import NEWS_FILE, NewsKind, Statement, unpack_news
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


def place(api: ApiServer, node: str) -> dict[str, Any]:
    """Return the spec of a node's WesherNode, once there is one."""
    found = eventually(lambda: api.get("wnode", f"demo.{node}"), within=SOON)
    spec: dict[str, Any] = found["spec"]
    return spec


def certify(api: ApiServer, report: Report, **keys: WireGuardPrivateKey) -> None:
    """Have agents report their keys, and wait for their certificates."""
    for node, key in keys.items():
        place(api, node)
        report(node, **proven(api, node, key))
    for node in keys:
        eventually(partial(certificate, api, node), within=SOON)


def until_node(api: ApiServer, node: str, reason: str) -> dict[str, Any]:
    """Wait until the condition Certified of a node has a reason, and return the condition."""
    return eventually(
        lambda: node_condition(api, node), within=SOON, until=lambda found: found.get("reason") == reason
    )


def statement(api: ApiServer) -> Statement | None:
    """Return the statement that a mesh's agents read, whose signature is right; None while there is none."""
    found = api.get("configmap", "demo-config", "-n", NAMESPACE)
    text = (found or {}).get("binaryData", {}).get(NEWS_FILE, "")
    items = unpack_news(base64.b64decode(text))
    if not items:
        return None
    (data,) = (data for kind, data in items if kind is NewsKind.STATEMENT)
    read = Statement.unpacked(data)
    assert read.is_signed_by(identity(api).authorities[0])
    return read


def void_until(api: ApiServer, node: str) -> int:
    """Return the millisecond up to which a node's certificates are void by the statement; 0 if none is."""
    read = statement(api)
    return read.revoked_ms.get(name_hash(node), 0) if read is not None else 0


def until_void(api: ApiServer, node: str, serial: int) -> int:
    """Wait until a node's certificate is void, and return up to which millisecond."""
    return eventually(lambda: void_until(api, node), within=SOON, until=lambda moment: moment >= serial)
