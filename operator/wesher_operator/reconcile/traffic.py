"""Whether a mesh carries the cluster's traffic, and when each node's certificate lists its networks.

Pure. Switching on takes two steps. Agents first accept carried packets and report it; only then
certificates list networks, which is what makes other agents route to them. Switching off reverses the
order: agents stop routing first, and certificates list the networks until every agent has. An agent that is
late, or an operator that is killed between the steps, loses no packet.

Left to others: which networks a node may have at all (`routes`), and the certificates (`certifier`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from wesher_common.byte_reader import ascending
from wesher_common.conditions import Condition, find_condition
from wesher_common.mesh_document import MeshDocument
from wesher_common.overlay import IPNetwork
from wesher_common.report import SHOWN_NAMES
from wesher_common.seeds import SeedAddress
from wesher_common.traffic import MAX_API_SERVERS, NO_TRAFFIC, TrafficSettings
from wesher_operator.reconcile.allocation import location_of
from wesher_operator.reconcile.documents import published_of
from wesher_operator.reconcile.facts import MemberFacts, MeshFacts, NodeFacts
from wesher_operator.reconcile.refusal import refusal
from wesher_operator.reconcile.routes import (
    Refused,
    Routes,
    Surroundings,
    allowed_routes,
    held_networks,
    is_node_address,
)
from wesher_operator.reconcile.world import World
from wesher_operator.resources.mesh import WesherMeshSpec

CONDITION = "TrafficCarried"
_CONFLICT = "Conflict"
_MAX_NAMED = 3
_API_SERVER_UNKNOWN = "ApiServerUnknown"
_UNSEEN = "the operator cannot see where the API server listens"
_RIGHT = "give it the right to list endpointslices in namespace default"


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why a mesh does not carry what its spec says."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run decided about a mesh's traffic."""

    settings: TrafficSettings = NO_TRAFFIC
    """For mesh.json."""
    networks: Mapping[str, tuple[IPNetwork, ...]] = field(default_factory=dict)
    """By node: what its certificate is to list now."""
    allowed: Mapping[str, tuple[IPNetwork, ...]] = field(default_factory=dict)
    """By node: what it is to list in the end."""
    obstacle: Obstacle | None = None
    refused: Sequence[Refused] = ()
    not_accepting: tuple[str, ...] = ()
    """Nodes whose agents hold up the first step."""
    not_stopped: tuple[str, ...] = ()
    """Nodes whose agents may still route what is no longer to be carried."""


def make_plan(
    mesh: MeshFacts,
    spec: WesherMeshSpec,
    world: World,
    *,
    desired: Sequence[NodeFacts],
    pods: Obstacle | None = None,
) -> Plan:
    """Decide what a mesh carries, and which networks each node's certificate lists now.

    Args:
        mesh: whose traffic it is.
        spec: its spec.
        world: what has been seen.
        desired: its nodes, without addresses in the overlay.
        pods: why pod networks must not be certified.

    """
    published = published_of(mesh, world)
    members = {member.spec.node_name: member for member in world.own_members(mesh)}
    held = {name: held_networks(member) for name, member in members.items()}
    settings, obstacle = _settings(mesh, spec, world, published)
    has_pods = any(not is_node_address(each) for networks in held.values() for each in networks)
    # Pods that appear later with other addresses must not end the encryption of those that are carried.
    checked = settings if pods is None or has_pods else replace(settings, pods="None")
    routes = (
        _routes(spec, desired, world, members, settings=checked, published=published)
        if checked.is_on
        else Routes({}, ())
    )
    ready = [node.name for node in desired if node.ready]
    not_accepting = tuple(name for name in ready if not _accepts(members.get(name)))
    not_stopped = tuple(
        name for name in ready if not _has_stopped(members.get(name), published, settings=settings)
    )
    is_open = any(held.values()) or (bool(ready) and not not_accepting)
    networks = {}
    for node in desired:
        has = held.get(node.name, ())
        kept = [each for each in has if not_stopped and not _is_wanted(each, settings)]
        may = has or (is_open and _accepts(members.get(node.name)))
        allowed = routes.networks.get(node.name, ()) if may else ()
        if settings.is_on and obstacle is not None:
            allowed = tuple(each for each in allowed if each in has)
        networks[node.name] = ascending([*kept, *allowed])
    return Plan(
        settings=settings,
        networks=networks,
        allowed=routes.networks,
        obstacle=obstacle or (pods if settings.pods != "None" else None),
        refused=routes.refused,
        not_accepting=() if is_open else not_accepting,
        not_stopped=not_stopped,
    )


def mesh_condition(
    plan: Plan | None, mesh: MeshFacts, desired: Sequence[NodeFacts], members: Iterable[MemberFacts]
) -> Condition | None:
    """Return the condition of a mesh; None while it carries nothing and is to carry nothing.

    Args:
        plan: what this run decided; None if it did not come to that.
        mesh: whose condition it is.
        desired: its nodes.
        members: its WesherNodes as they stand after this run.

    """
    if plan is None or mesh.spec is None:
        return find_condition(mesh.status.get("conditions") or [], CONDITION)
    by_node = {member.spec.node_name: member for member in members}
    if not plan.settings.is_on and plan.obstacle is None:
        holders = [name for name, member in by_node.items() if held_networks(member)]
        if not holders:
            return None
        message = (
            f"switching off: agents that may still route carried traffic: {_named(plan.not_stopped)}"
            if plan.not_stopped
            else f"switching off: certificates that still list networks: {_named(holders)}"
        )
        return Condition(CONDITION, "Unknown", "WaitingForAgents", message)
    problem = _problem(plan, mesh.spec, desired, by_node)
    if problem is not None:
        return Condition(CONDITION, "False", problem.reason, problem.message)
    return _progress(plan, [node.name for node in desired if node.ready], by_node)


def _problem(
    plan: Plan, spec: WesherMeshSpec, desired: Sequence[NodeFacts], members: Mapping[str, MemberFacts]
) -> Obstacle | None:
    """Return what must be changed so that everything is carried; None if it takes time alone."""
    if plan.obstacle is not None:
        return plan.obstacle
    if is_in_one_location(plan.settings, spec, desired):
        message = (
            "OtherLocations carries nothing, because the nodes have fewer than two locations: set "
            "spec.addresses.locationLabel, or annotate the Nodes with wesher.dev/location"
        )
        return Obstacle("OneLocation", message)
    if plan.refused:
        more = len(plan.refused) - _MAX_NAMED
        message = "; ".join(each.message for each in plan.refused[:_MAX_NAMED])
        return Obstacle(plan.refused[0].reason, message + (f"; and {more} more" if more > 0 else ""))
    for node in desired:
        said = _said(members.get(node.name))
        if node.ready and said is not None and said.status == "False":
            return Obstacle(said.reason, f"{node.name}: {said.message}")
    return None


def _progress(plan: Plan, ready: Sequence[str], members: Mapping[str, MemberFacts]) -> Condition:
    """Return how many nodes carry traffic, and what the others wait for."""
    if plan.not_accepting:
        message = f"agents that do not accept carried traffic yet: {_named(plan.not_accepting)}"
        return Condition(CONDITION, "Unknown", "WaitingForAgents", message)
    waiting = [name for name in ready if not _carries(members.get(name), plan.allowed.get(name, ()))]
    if waiting or not ready:
        done = len(ready) - len(waiting)
        message = f"{done} of {len(ready)} nodes carry traffic"
        message += f"; not yet: {_named(waiting)}" if waiting else ""
        return Condition(CONDITION, "Unknown", "WaitingForAgents", message)
    return Condition(CONDITION, "True", "Carried", f"{len(ready)} nodes carry traffic")


def is_in_one_location(settings: TrafficSettings, spec: WesherMeshSpec, desired: Iterable[NodeFacts]) -> bool:
    """Tell whether traffic to other locations is to be carried and there are none."""
    has_clusters = bool(spec.trusted_authorities)
    to_others = settings.nodes == "OtherLocations" or (settings.pods == "OtherLocations" and not has_clusters)
    return to_others and len({location_of(spec, node) for node in desired} - {""}) < 2  # noqa: PLR2004 - other


def _settings(
    mesh: MeshFacts, spec: WesherMeshSpec, world: World, published: MeshDocument | None
) -> tuple[TrafficSettings, Obstacle | None]:
    """Return what mesh.json says, and why that is not what the spec says."""
    settings = spec.traffic_settings
    if not settings.is_on:
        return NO_TRAFFIC, None
    other = _other_mesh(mesh, world)
    if other is not None:
        message = (
            f"meshes {mesh.name} and {other.name} both want to carry traffic, and only one mesh of a "
            f"cluster can: {other.name} carries it; set spec.traffic of one of them to None"
        )
        return NO_TRAFFIC, Obstacle(_CONFLICT, message)
    found = {
        SeedAddress(str(address), port)
        for endpoints in world.api_server.values()
        for address in endpoints.addresses
        for port in endpoints.ports
    }
    if spec.traffic.api_server == "Mesh":
        message = f"{_UNSEEN}, so no further network is certified, which could have its address: {_RIGHT}"
        return settings, None if found else Obstacle(_API_SERVER_UNKNOWN, message)
    api_servers = tuple(sorted(found, key=str)[:MAX_API_SERVERS])
    if not api_servers and published is not None:
        # The list may be empty for a moment, and what is carried must not change for it.
        api_servers = published.traffic.api_servers
    if not api_servers:
        return NO_TRAFFIC, Obstacle(_API_SERVER_UNKNOWN, f"{_UNSEEN}, so nothing is carried: {_RIGHT}")
    return replace(settings, api_servers=api_servers), None


def _other_mesh(mesh: MeshFacts, world: World) -> MeshFacts | None:
    """Return a mesh that carries traffic before this one; a host has one set of routing rules."""

    def order(each: MeshFacts) -> tuple[bool, tuple[str, str]]:
        return not _claims_traffic(each), each.age_order

    others = [
        other
        for other in world.meshes.values()
        if other.name != mesh.name
        and not other.deleting
        and other.spec is not None
        and (other.spec.traffic_settings.is_on or _claims_traffic(other))
        and order(other) < order(mesh)
        and refusal(other, world) is None
    ]
    return min(others, key=order, default=None)


def _claims_traffic(mesh: MeshFacts) -> bool:
    said = find_condition(mesh.status.get("conditions") or [], CONDITION)
    return said is not None and said.reason != _CONFLICT


def _routes(
    spec: WesherMeshSpec,
    desired: Sequence[NodeFacts],
    world: World,
    members: Mapping[str, MemberFacts],
    *,
    settings: TrafficSettings,
    published: MeshDocument | None,
) -> Routes:
    names = {node.name for node in desired}
    identity = published.identity if published is not None else None
    trusted = identity.trusted if identity is not None else ()
    api_servers = {address for each in world.api_server.values() for address in each.addresses}
    surroundings = Surroundings(
        overlay=spec.overlay,
        services=[network for _, each in sorted(world.service_cidrs.items()) for network in each.networks],
        # Those that were published count where none can be seen now.
        api_servers=api_servers | {each.address for each in settings.api_servers if each.address is not None},
        # One that is refused because its networks overlap ours takes nothing from this cluster.
        clusters={each.cluster_name: each.cidrs for each in trusted},
        seeds={seed.address for seed in spec.seeds if seed.address is not None},
    )
    others = [node for name, node in world.nodes.items() if name not in names]
    return allowed_routes(settings, desired, others, members, surroundings)


def _is_wanted(network: IPNetwork, settings: TrafficSettings) -> bool:
    return (settings.nodes if is_node_address(network) else settings.pods) != "None"


def _accepts(member: MemberFacts | None) -> bool:
    return member is not None and member.status.traffic is not None and member.status.traffic.accepts


def _has_stopped(
    member: MemberFacts | None, published: MeshDocument | None, *, settings: TrafficSettings
) -> bool:
    """Tell whether an agent routes no more than the settings say."""
    if member is None:
        return True
    report = member.status.traffic
    if settings.is_on and report is None:
        # It is of a release that routes nothing, and whose hash of the same mesh.json is another one.
        return True
    return (
        published is not None
        and published.traffic == settings
        and member.status.config_hash == published.config_hash
        and (settings.is_on or report is None or report.routed == 0)
    )


def _said(member: MemberFacts | None) -> Condition | None:
    """Return what a node's agent says of its traffic."""
    entries = member.status.conditions if member is not None else []
    return find_condition([each.model_dump(by_alias=True) for each in entries], CONDITION)


def _carries(member: MemberFacts | None, networks: tuple[IPNetwork, ...]) -> bool:
    """Tell whether a node's agent announces its networks and carries traffic."""
    said = _said(member)
    return (
        member is not None
        and held_networks(member) == networks
        and member.status.certificate_serial == member.spec.serial
        and said is not None
        and said.is_true
    )


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(names[:SHOWN_NAMES]) + more
