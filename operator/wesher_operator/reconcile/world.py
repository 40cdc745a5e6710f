"""What the operator has seen of the cluster.

Order is kept by ``resourceVersion``, which grows: an event, a list or the answer
to a write that is older than what is known changes nothing, in whatever order
they arrive.

Left to others: what is kept of an object (`facts`), how objects come in
(`handlers`, `reconcile.control`), what follows from them (everything else here).
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Any

from wesher_common.names import MESH_LABEL
from wesher_operator.kube import (
    API_SERVER_ENDPOINTS,
    CONFIG_MAP,
    DAEMON_SET,
    MESH,
    NODE,
    POD,
    SECRET,
    SERVICE_CIDR,
    WESHER_NODE,
    WESHER_PEER,
    Kind,
)
from wesher_operator.reconcile.facts import (
    ApiServerAddresses,
    Facts,
    KeyFacts,
    MemberFacts,
    MeshFacts,
    NodeFacts,
    ObjectFacts,
    PeerFacts,
    PodFacts,
    ServiceNetworks,
    read_facts,
)


@dataclass(slots=True)
class World:
    """Everything seen, by kind and name."""

    meshes: dict[str, MeshFacts] = field(default_factory=dict)
    nodes: dict[str, NodeFacts] = field(default_factory=dict)
    members: dict[str, MemberFacts] = field(default_factory=dict)
    peers: dict[str, PeerFacts] = field(default_factory=dict)
    keys: dict[str, KeyFacts] = field(default_factory=dict)
    config_maps: dict[str, ObjectFacts] = field(default_factory=dict)
    daemon_sets: dict[str, ObjectFacts] = field(default_factory=dict)
    pods: dict[str, PodFacts] = field(default_factory=dict)
    service_cidrs: dict[str, ServiceNetworks] = field(default_factory=dict)
    api_server: dict[str, ApiServerAddresses] = field(default_factory=dict)
    _versions: dict[tuple[str, str], int] = field(default_factory=dict)
    """By kind and name, of deleted objects too until the next whole list."""

    def observe(self, kind: Kind, body: Mapping[str, Any]) -> set[str]:
        """Take in an object as it stands; return the meshes to which it means a change."""
        name, version = _identity(body)
        if version <= self._versions.get((kind.kind, name), 0):
            return set()
        self._versions[kind.kind, name] = version
        facts, before = read_facts(kind, body), self._of(kind).get(name)
        if facts is None:
            self._of(kind).pop(name, None)
        else:
            self._of(kind)[name] = facts
        return set() if facts == before else self._concerned(before) | self._concerned(facts)

    def forget(self, kind: Kind, body: Mapping[str, Any]) -> set[str]:
        """Take in that an object is gone; return the meshes to which that means a change."""
        name, version = _identity(body)
        if version < self._versions.get((kind.kind, name), 0):
            return set()  # one of the same name was made since
        self._versions[kind.kind, name] = version
        return self._concerned(self._of(kind).pop(name, None))

    def retain(self, kind: Kind, listed: Container[str], version: int) -> set[str]:
        """Take in that a whole list named these objects and no others; return whom that concerns.

        What changed after the list's ``version`` is left alone.
        """
        known = [name for known_kind, name in self._versions if known_kind == kind.kind]
        woken: set[str] = set()
        for name in known:
            if name not in listed and self._versions[kind.kind, name] <= version:
                del self._versions[kind.kind, name]
                woken |= self._concerned(self._of(kind).pop(name, None))
        return woken

    def members_of(self, mesh: str) -> list[MemberFacts]:
        """Return the WesherNodes of a mesh, by name."""
        return [member for _, member in sorted(self.members.items()) if member.spec.mesh_ref.name == mesh]

    def own_members(self, mesh: MeshFacts) -> list[MemberFacts]:
        """Return the same without those of an earlier mesh of this name."""
        return [member for member in self.members_of(mesh.name) if member.spec.mesh_ref.uid == mesh.uid]

    def peers_of(self, mesh: str) -> list[PeerFacts]:
        """Return the WesherPeers of a mesh, by name; those that are being deleted are left out."""
        return [
            peer
            for _, peer in sorted(self.peers.items())
            if peer.spec.mesh_ref.name == mesh and not peer.deleting
        ]

    def _of(self, kind: Kind) -> dict[str, Any]:
        stores: dict[Kind, dict[str, Any]] = {
            MESH: self.meshes,
            NODE: self.nodes,
            WESHER_NODE: self.members,
            WESHER_PEER: self.peers,
            SECRET: self.keys,
            CONFIG_MAP: self.config_maps,
            DAEMON_SET: self.daemon_sets,
            POD: self.pods,
            SERVICE_CIDR: self.service_cidrs,
            API_SERVER_ENDPOINTS: self.api_server,
        }
        return stores[kind]

    def _concerned(self, facts: Facts | None) -> set[str]:
        match facts:
            case None:
                return set()
            case MemberFacts() | PeerFacts():
                return {facts.spec.mesh_ref.name}
            case PodFacts():
                return {facts.mesh}
            case ObjectFacts():
                labels = facts.body["metadata"].get("labels") or {}
                return {labels[MESH_LABEL]} if MESH_LABEL in labels else set()
            case MeshFacts():
                # A mesh can be another's conflict.
                return {facts.name, *self.meshes}
            case _:
                return set(self.meshes)


def _identity(body: Mapping[str, Any]) -> tuple[str, int]:
    metadata = body["metadata"]
    return metadata["name"], int(metadata["resourceVersion"])
