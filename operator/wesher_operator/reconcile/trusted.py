"""Which authorities of other clusters a mesh trusts, and why it refuses one.

Pure. The agents accept from such an authority only names below its cluster name and addresses inside
its cidrs. So both must be free here: otherwise it could certify a member with the name of a node, or
with an address that this cluster uses. A refused entry is left out of mesh.json, and the others stay.

A network that overlaps is a reason not to trust an authority, never to stop trusting one: a Node that
joins must not cut off another cluster. Agents prefer the certificates of their own authority anyway.

Left to others: what agents accept (`wesher_common.certificate`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import collapse_addresses, ip_network

from wesher_common.certificate import AuthorityKey
from wesher_common.conditions import Condition
from wesher_common.errors import InvalidSpec
from wesher_common.mesh_document import IdentitySettings, TrustedAuthority, parse_overlay_network
from wesher_common.overlay import IPNetwork, host_network
from wesher_operator.reconcile.facts import MeshFacts
from wesher_operator.reconcile.peer_addresses import address_of
from wesher_operator.reconcile.world import World
from wesher_operator.resources.mesh import TrustedAuthority as Entry
from wesher_operator.resources.mesh import WesherMeshSpec

CONDITION = "AuthoritiesTrusted"


@dataclass(frozen=True, slots=True)
class TrustProblem:
    """What is wrong with an entry of ``spec.trustedAuthorities``."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Trusted:
    """What was decided for a mesh."""

    authorities: tuple[TrustedAuthority, ...] = ()
    """What mesh.json lists: one for each key, in the order of the spec."""
    problems: tuple[TrustProblem, ...] = ()

    @property
    def condition(self) -> Condition | None:
        """What the mesh's status says; None while the spec names no authority."""
        if self.problems:
            message = "; ".join(problem.message for problem in self.problems)
            return Condition(CONDITION, "False", self.problems[0].reason, message)
        if self.authorities:
            names = ", ".join(dict.fromkeys(each.cluster_name for each in self.authorities))
            return Condition(CONDITION, "True", "AllTrusted", f"members of these clusters may join: {names}")
        return None


def decide(
    mesh: MeshFacts,
    spec: WesherMeshSpec,
    world: World,
    own: Sequence[AuthorityKey],
    before: IdentitySettings | None,
) -> Trusted:
    """Decide which authorities of other clusters agents trust.

    Args:
        mesh: whose.
        spec: of the mesh.
        world: for the networks that this cluster uses.
        own: the mesh's own authorities.
        before: the identity section of mesh.json as agents have it.

    """
    if not spec.trusted_authorities:
        return Trusted()
    published = before.trusted if before is not None else ()
    entries = _Entries(spec, own, _Used(mesh, spec, world), published)
    # Of two that contradict each other, the one that is trusted already stays.
    known = {each.cluster_name for each in published}
    for entry in sorted(spec.trusted_authorities, key=lambda each: each.cluster_name not in known):
        entries.take(entry)
    order = [entry.cluster_name for entry in spec.trusted_authorities]
    accepted = sorted(entries.accepted, key=lambda each: order.index(each.cluster_name))
    return Trusted(authorities=tuple(accepted), problems=tuple(entries.problems))


class _Entries:
    """The entries that were judged so far."""

    def __init__(
        self,
        spec: WesherMeshSpec,
        own: Sequence[AuthorityKey],
        used: _Used,
        published: Sequence[TrustedAuthority],
    ) -> None:
        self._spec = spec
        self._used = used
        self._published = published
        self._names = {spec.cluster_name: "this mesh"}
        self._keys = {key.id: "this mesh" for key in own}
        self.accepted: list[TrustedAuthority] = []
        self.problems: list[TrustProblem] = []

    def take(self, entry: Entry) -> None:
        """Accept an entry, or note why not."""
        field = f"spec.trustedAuthorities[{entry.cluster_name}]"
        try:
            texts = [entry.key, *([entry.former_key] if entry.former_key else [])]
            keys = [AuthorityKey.from_base64(text, field_name=f"{field}.key") for text in texts]
            cidrs = tuple(parse_overlay_network(text, field=f"{field}.cidrs") for text in entry.cidrs)
        except InvalidSpec as error:
            self.problems.append(TrustProblem("InvalidSpec", str(error)))
            return
        found = [
            TrustedAuthority(cluster_name=entry.cluster_name, key=key, cidrs=cidrs)
            for key in dict.fromkeys(keys)
        ]
        if (problem := self._contradiction(field, entry.cluster_name, found)) is not None:
            self.problems.append(problem)
            return
        overlap = next(self._overlaps(field, entry.cluster_name, cidrs), "")
        if overlap:
            is_kept = any(
                (each.cluster_name, each.cidrs) == (entry.cluster_name, cidrs) for each in self._published
            )
            rest = "it stays trusted, since it was before" if is_kept else "it is not trusted"
            self.problems.append(TrustProblem("TrustedNetworkOverlap", f"{overlap}: {rest}"))
            if not is_kept:
                return
        self._names[entry.cluster_name] = f"trustedAuthorities[{entry.cluster_name}]"
        self._keys |= {each.key.id: f"trustedAuthorities[{entry.cluster_name}]" for each in found}
        self.accepted += found

    def _contradiction(self, field: str, name: str, found: Sequence[TrustedAuthority]) -> TrustProblem | None:
        """Return why an entry could certify what is not its own, whatever its cidrs are."""
        if not self._spec.cluster_name:
            message = (
                f"{field} is not trusted: set spec.clusterName first, so that the names of this cluster's "
                "members cannot be those of another cluster's"
            )
            return TrustProblem("NoClusterName", message)
        for other, whose in self._names.items():
            if is_nested(name, other):
                message = (
                    f"{field} is not trusted: members of {name} could have names of members of {other}, "
                    f"the clusterName of {whose}"
                )
                return TrustProblem("ClusterNameOverlap", message)
        for each in found:
            if (holder := self._keys.get(each.key.id)) is not None:
                message = (
                    f"{field} is not trusted: its key {each.key} is that of {holder}, or has the same id"
                )
                return TrustProblem("AuthorityKeyInUse", message)
        return None

    def _overlaps(self, field: str, name: str, cidrs: Iterable[IPNetwork]) -> Iterator[str]:
        for network in cidrs:
            if what := self._used.by(network):
                yield f"{field}.cidrs {network} overlaps {what}"
            for other in self.accepted:
                for taken in other.cidrs if other.cluster_name != name else ():
                    if network.overlaps(taken):
                        yield f"{field}.cidrs {network} overlaps {taken} of {other.cluster_name}"


def is_nested(one: str, other: str) -> bool:
    """Tell whether a member's name can end in a dot and each of two cluster names."""
    return one == other or one.endswith(f".{other}") or other.endswith(f".{one}")


def is_of_trusted_cluster(member: str, cluster: str, spec: WesherMeshSpec) -> bool:
    """Tell whether an external member is one that a trusted authority has certified.

    Args:
        member: its name.
        cluster: as an agent reports it.
        spec: of the mesh.

    """
    return member.endswith(f".{cluster}") and cluster in {
        entry.cluster_name for entry in spec.trusted_authorities
    }


class _Used:
    """The networks that this cluster uses; thousands of them are mostly neighbours, and make a few."""

    def __init__(self, mesh: MeshFacts, spec: WesherMeshSpec, world: World) -> None:
        self._each = dict(_used(mesh, spec, world))
        self._collapsed: Mapping[int, Sequence[IPNetwork]] = {
            version: list(
                collapse_addresses(
                    network  # type: ignore[type-var]  # they are of one version
                    for network in self._each
                    if network.version == version
                )
            )
            for version in (4, 6)
        }

    def by(self, network: IPNetwork) -> str:
        """Return what uses addresses of a network; empty if nothing does."""
        if not any(network.overlaps(each) for each in self._collapsed[network.version]):
            return ""
        return next(what for each, what in self._each.items() if network.overlaps(each))


def _used(mesh: MeshFacts, spec: WesherMeshSpec, world: World) -> Iterator[tuple[IPNetwork, str]]:
    yield from _used_by_meshes(mesh, spec, world)
    yield from _used_by_nodes(spec.overlay, world)
    for services in world.service_cidrs.values():
        for network in services.networks:
            yield network, f"the Service network {network}"
    for endpoints in world.api_server.values():
        for address in endpoints.addresses:
            if address not in spec.overlay:
                yield host_network(address), f"the API server's address {address}"


def _used_by_meshes(mesh: MeshFacts, spec: WesherMeshSpec, world: World) -> Iterator[tuple[IPNetwork, str]]:
    yield spec.allocation, f"the addresses {spec.allocation} that this mesh allocates from"
    for member in world.own_members(mesh):
        yield host_network(member.address), f"the overlay address {member.address} of {member.spec.node_name}"
    for peer in world.peers_of(mesh.name):
        if (address := address_of(peer.status.overlay_ip)) is not None:
            yield host_network(address), f"the overlay address {address} of WesherPeer {peer.name}"
    for text in spec.traffic.node_cidrs:
        yield ip_network(text), f"spec.traffic.nodeCIDRs {text}"
    for seed in spec.seeds:
        if seed.address is not None:
            yield host_network(seed.address), f"the seed node {seed.address}"
    for other in world.meshes.values():
        if other.name != mesh.name and other.spec is not None and not other.deleting:
            yield other.spec.overlay, f"the overlay {other.spec.overlay} of the mesh {other.name}"


def _used_by_nodes(overlay: IPNetwork, world: World) -> Iterator[tuple[IPNetwork, str]]:
    for node in world.nodes.values():
        for network in node.pod_cidrs:
            yield network, f"the pod network {network} of Node {node.name}"
        for kind, address in node.addresses:
            # Kubelets and cloud controllers list overlay addresses too.
            if address not in overlay:
                yield host_network(address), f"the {kind} {address} of Node {node.name}"
