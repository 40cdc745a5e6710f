"""What a mesh's mesh.json says, and what it said when it was last written.

Pure. Left to others: writing it (`children`), the identity section (`modes`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from wesher_common.errors import InvalidSpec
from wesher_common.mesh_document import FILE_NAME, IdentitySettings, MeshDocument
from wesher_common.names import config_map_name
from wesher_common.traffic import NO_TRAFFIC, TrafficSettings
from wesher_operator.reconcile import allocation
from wesher_operator.reconcile.facts import MeshFacts, NodeFacts
from wesher_operator.reconcile.membership import Released
from wesher_operator.reconcile.world import World
from wesher_operator.resources.mesh import WesherMeshSpec


def whole_document(
    mesh: MeshFacts,
    spec: WesherMeshSpec,
    world: World,
    *,
    desired: Iterable[NodeFacts],
    released: Released,
    identity: IdentitySettings,
    traffic: TrafficSettings,
) -> MeshDocument:
    """Return what mesh.json is to say."""
    before = published(mesh.name, world)
    seeds = () if before is None else before.cluster_seeds
    return replace(
        _document(mesh, spec, released),
        identity=identity,
        traffic=traffic,
        cluster_seeds=allocation.cluster_seeds(spec, desired, seeds),
    )


def is_published(mesh: MeshFacts, spec: WesherMeshSpec, world: World) -> bool:
    """Tell whether mesh.json has this spec, whatever it says of seeds, nodes that left, identity and traffic.

    If it has another traffic than the spec, the condition TrafficCarried says why.
    """
    found = published(mesh.name, world)
    if found is None:
        return False
    found = replace(found, cluster_seeds=(), removed=(), identity=None, traffic=NO_TRAFFIC)
    return found == _document(mesh, spec, Released())


def published_of(mesh: MeshFacts, world: World) -> MeshDocument | None:
    """Return mesh.json, if it is not an earlier mesh's of this name."""
    found = published(mesh.name, world)
    return found if found is not None and found.uid == mesh.uid else None


def published(mesh: str, world: World) -> MeshDocument | None:
    """Return mesh.json as it was last written; None if there is none, or it cannot be read."""
    facts = world.config_maps.get(config_map_name(mesh))
    try:
        text = (facts.body.get("data") or {})[FILE_NAME] if facts else ""
        return MeshDocument.from_json(text)
    except (InvalidSpec, KeyError):
        return None


def _document(mesh: MeshFacts, spec: WesherMeshSpec, released: Released) -> MeshDocument:
    """Return what mesh.json says, but for the seeds in this cluster, identity and traffic."""
    return MeshDocument(
        name=mesh.name,
        uid=mesh.uid,
        overlay=spec.overlay,
        allocation=spec.allocation,
        cluster_name=spec.cluster_name,
        wireguard=spec.wireguard_settings,
        gossip=spec.gossip_settings,
        etc_hosts=spec.etc_hosts,
        seed_nodes=spec.seeds,
        removed=tuple(sorted(released.names)),
    )
