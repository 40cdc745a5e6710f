"""The TCP port on which a mesh's agents answer their kubelet's probes.

Pure. It is the WireGuard port's number when the DaemonSet is made, which is TCP's to use and
differs between meshes. The DaemonSet keeps it: a port that followed an edit of the WireGuard port
would end every pod for it.
"""

from __future__ import annotations

from itertools import chain

from wesher_common.names import daemon_set_name
from wesher_common.seeds import MAX_PORT
from wesher_operator.reconcile.facts import MeshFacts
from wesher_operator.reconcile.refusal import refusal
from wesher_operator.reconcile.world import World
from wesher_operator.resources.mesh import WesherMeshSpec

HEALTH_FLAG = "--health-port="


def health_port(mesh: MeshFacts, spec: WesherMeshSpec, world: World) -> int:
    """Return the port of a mesh: the DaemonSet's, or a free one if it has none or a mesh gossips there."""
    pinned = _pinned(mesh.name, world)
    others = [other for name, other in world.meshes.items() if name != mesh.name and not other.deleting]
    gossip, wanted, taken = {spec.gossip.port}, set[int](), set[int]()
    for other in others:
        port = _pinned(other.name, world)
        if port and (port != pinned or other.age_order < mesh.age_order):
            taken.add(port)
        # A mesh that is refused has no agents, and must not move those of another.
        if other.spec is not None and refusal(other, world) is None:
            gossip.add(other.spec.gossip.port)
            wanted.add(other.spec.wireguard.port)
    if pinned and pinned not in gossip | taken:
        return pinned
    first = spec.wireguard.port
    ports = chain(range(first, MAX_PORT + 1), range(1, first))
    return next(port for port in ports if port not in gossip | taken | wanted)


def _pinned(mesh: str, world: World) -> int:
    """Return the port that a mesh's DaemonSet gives its agents; 0 if there is none."""
    facts = world.daemon_sets.get(daemon_set_name(mesh))
    if facts is None:
        return 0
    containers = facts.body["spec"]["template"]["spec"].get("containers") or []
    for argument in chain.from_iterable(each.get("args") or [] for each in containers):
        if argument.startswith(HEALTH_FLAG) and (text := argument.removeprefix(HEALTH_FLAG)).isdecimal():
            return int(text)
    return 0
