"""Gives each node of a mesh its WesherNode, with an overlay address and a certificate.

What is written first matters: who left is kept before a WesherNode is deleted, and a name is in the
ledger before its first certificate is written.

Left to others: every decision (`membership`, `allocation`, `authority`), and what a write of a WesherNode
takes (`places`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

from wesher_common.errors import InvalidSpec
from wesher_common.names import out_label, released_config_map_name
from wesher_common.overlay import IPAddress, IPNetwork
from wesher_operator.kube import CONFIG_MAP, Cluster
from wesher_operator.reconcile import allocation, manifests, membership
from wesher_operator.reconcile.authorities import Authorities
from wesher_operator.reconcile.authority import Candidate
from wesher_operator.reconcile.certifier import Certified, Certifier
from wesher_operator.reconcile.children import Children
from wesher_operator.reconcile.facts import MemberFacts, MeshFacts, NodeFacts
from wesher_operator.reconcile.membership import Released
from wesher_operator.reconcile.modes import Mode
from wesher_operator.reconcile.peer_keeper import Outside, PeerKeeper
from wesher_operator.reconcile.places import Places
from wesher_operator.reconcile.revoker import Known, Revoker
from wesher_operator.reconcile.world import World
from wesher_operator.resources.mesh import WesherMeshSpec
from wesher_operator.resources.node import WesherNodeSpec


@dataclass(frozen=True, slots=True)
class Placed:
    """What a run came to with a mesh's nodes."""

    released: Released
    addresses: set[IPAddress]
    """That nodes have."""
    without_address: frozenset[str]
    refused: InvalidSpec | None
    """Of the first WesherNode that the API server does not take: the others get theirs."""
    certified: Certified
    known: Known
    again: datetime | None
    """When there is more to do."""


class NodeKeeper:
    """One mesh's WesherNodes.

    Args:
        world: what has been seen; what is written is taken in at once.
        cluster: where to write.
        children: writes the ConfigMaps.
        certifier: certifies the nodes.
        revoker: knows what was revoked.
        peers: knows the machines outside, whose addresses no node gets.

    """

    def __init__(
        self,
        world: World,
        cluster: Cluster,
        *,
        children: Children,
        certifier: Certifier,
        revoker: Revoker,
        peers: PeerKeeper,
    ) -> None:
        self._world = world
        self._children = children
        self._certifier = certifier
        self._revoker = revoker
        self._peers = peers
        self._places = Places(world, cluster)
        self._unselected_since: dict[str, datetime] = {}

    async def keep(
        self,
        mesh: MeshFacts,
        spec: WesherMeshSpec,
        desired: list[NodeFacts],
        authorities: Authorities,
        outside: Outside,
        *,
        mode: Mode,
        networks: Mapping[str, tuple[IPNetwork, ...]],
        still_there: Callable[[], None],
        now: datetime,
    ) -> Placed:
        """Bring the WesherNodes nearer to what they should be.

        Args:
            mesh: whose they are.
            spec: its spec.
            desired: the nodes that belong to it.
            authorities: the mesh's.
            outside: its machines outside.
            mode: who gets a tunnel.
            networks: what the certificates are to list, by node.
            still_there: raises where the mesh is gone; asked before each write.
            now: the time.

        Raises:
            ClusterUnavailable: the API server does not answer.
            InvalidSpec: it refuses a ConfigMap.

        """
        own = self._world.own_members(mesh)
        foreign = [m for m in self._world.members_of(mesh.name) if m.spec.mesh_ref.uid != mesh.uid]
        mine = {member.spec.node_name: member for member in own}
        departures = membership.departures(
            mine,
            {node.name for node in desired},
            # One that is shut out leaves at once, as one that is gone.
            {name for name, node in self._world.nodes.items() if out_label(mesh.name) not in node.labels},
            {pod.node for pod in self._world.pods.values() if pod.mesh == mesh.name and pod.ending},
            self._unselected_since,
            now=now,
        )
        self._unselected_since = departures.waiting
        leaving = [mine[node] for node in departures.now]

        stored = Released.of(self._world.config_maps.get(released_config_map_name(mesh.name)))
        released = stored.after(
            [
                *((allocation.name_of(spec, member), member.address) for member in leaving),
                *outside.gone.items(),
            ],
            [*(allocation.name_of(spec, node) for node in desired), *outside.living],
            {
                *(allocation.name_of(spec, m) for node, m in mine.items() if node not in departures.now),
                *outside.addresses,
            },
            now=now,
        )
        if released != stored:
            # Before the deletions: a crash in between must not forget who left.
            await self._children.ensure(CONFIG_MAP, manifests.released_config_map(mesh, released))
        self._peers.remember(outside)
        known = await self._revoker.note(
            mesh,
            spec,
            authorities.trusted,
            own,
            partial(self._children.ensure, CONFIG_MAP),
            desired={node.name for node in desired},
            leaving=departures.now,
            outside=outside.living,
            now=now,
        )
        taken = {*outside.addresses.values(), *outside.claimed}
        placement = allocation.place(spec, desired, own, foreign, released, outside=taken)
        wanted = {
            node.name: allocation.node_spec(mesh, spec, node, placement.addresses[node.name])
            for node in desired
            if node.name in placement.addresses
        }
        may, barred = self._revoker.admissible(
            known,
            [
                Candidate(
                    member=mine[node.name],
                    node=node,
                    name=allocation.name_of(spec, node),
                    address=placement.addresses[node.name],
                    location=wanted[node.name].location,
                    machine=wanted[node.name].machine,
                    networks=networks.get(node.name, ()),
                )
                for node in desired
                if node.name in wanted and node.name in mine and not mine[node.name].deleting
            ],
        )
        certified = await self._certifier.issue(
            mesh,
            authorities,
            may,
            mode.mode,
            partial(self._children.ensure, CONFIG_MAP),
            outside=outside.living,
            now=now,
        )
        certified = replace(certified, members=[*certified.members, *barred])
        written = await self._places.write(
            mesh,
            [*leaving, *foreign],
            [_with_certificate(each, mine.get(node), certified) for node, each in wanted.items()],
            still_there=still_there,
            now=now,
        )
        again = first_of(written.again, departures.grace_ends, released.next_expiry, certified.again)
        addresses = {*placement.addresses.values(), *(member.address for member in (*own, *foreign))}
        return Placed(released, addresses, placement.left_over, written.refused, certified, known, again)


def _with_certificate(
    spec: WesherNodeSpec, member: MemberFacts | None, certified: Certified
) -> WesherNodeSpec:
    """Return a WesherNode's spec with its new certificate, or the one it has, and the routes in it."""
    before = {} if member is None else member.spec.model_dump(include={"certificate", "serial", "routes"})
    return spec.model_copy(update=certified.specs.get(spec.node_name, before))


def first_of(*moments: datetime | None) -> datetime | None:
    """Return the earliest of some moments; None if there is none."""
    return min((moment for moment in moments if moment is not None), default=None)
