"""Machines outside Kubernetes as agents report them, and what a real API server then has for them."""

from __future__ import annotations

import base64
from typing import Any

from wesher_common.certificate import Refusal, Trust, refusal
from wesher_common.enrolment import enrol
from wesher_common.join_file import JoinFile
from wesher_common.keys import WireGuardPrivateKey
from wesher_common.news import NEWS_FILE, NewsKind, PeerCertificate, RingItem, unpack_news
from wesher_testing.cluster.api_server import ApiServer
from wesher_testing.cluster.certified_agents import identity
from wesher_testing.cluster.operator_process import NAMESPACE


def machine(
    name: str, key: WireGuardPrivateKey, *, invite: JoinFile | None = None, **reported: Any
) -> dict[str, Any]:
    """Return what an agent reports of an external member.

    Args:
        name: under which it gossips.
        key: its WireGuard key.
        invite: the join file that it was started with, if it announces an enrolment.
        reported: further fields.

    """
    entry = {"name": name, "endpoint": "203.0.113.9:7946", "kind": "wesher", "publicKey": str(key.public)}
    if invite is not None:
        proof = enrol(invite.enrol_seed, mesh_uid=invite.mesh_uid, name=name, key=key.public)
        entry["enrolment"] = base64.b64encode(proof).decode()
    return {**entry, **reported}


def peer_status(api: ApiServer, name: str) -> dict[str, Any]:
    """Return the status of a WesherPeer; empty if there is none."""
    found: dict[str, Any] = (api.get("wpeer", name) or {}).get("status") or {}
    return found


def peer_condition(api: ApiServer, name: str) -> dict[str, Any]:
    """Return the condition Certified of a WesherPeer; empty while there is none."""
    entries = peer_status(api, name).get("conditions") or []
    return next((entry for entry in entries if entry["type"] == "Certified"), {})


def published_news(api: ApiServer, mesh: str = "demo") -> list[tuple[NewsKind, bytes]]:
    """Return the items of the news file."""
    found = api.get("configmap", f"{mesh}-config", "-n", NAMESPACE) or {}
    return unpack_news(base64.b64decode((found.get("binaryData") or {}).get(NEWS_FILE, "")))


def published_certificates(api: ApiServer, mesh: str = "demo") -> dict[str, PeerCertificate]:
    """Return the certificates in the news file, by member name."""
    items = published_news(api, mesh)
    found = [PeerCertificate.unpacked(data) for kind, data in items if kind is NewsKind.CERTIFICATE]
    return {each.subject.name: each for each in found}


def published_rings(api: ApiServer, mesh: str = "demo") -> list[RingItem]:
    """Return the sealed key rings in the news file."""
    return [RingItem.unpacked(data) for kind, data in published_news(api, mesh) if kind is NewsKind.RING]


def counts(api: ApiServer, found: PeerCertificate) -> Refusal | None:
    """Return why a published certificate does not count, or None if agents take it."""
    (authority,) = identity(api).authorities
    trusted = {authority.id: Trust(key=authority)}
    return refusal(found.certificate, found.subject, trusted, clock=found.certificate.serial)
