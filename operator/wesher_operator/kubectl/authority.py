"""``kubectl wesher authority``: the public key with which others recognise a mesh's certificates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import ip_network

from wesher_common.errors import InvalidSpec
from wesher_common.overlay import IPNetwork
from wesher_operator.kubectl.meshes import name_of, status_of
from wesher_operator.kubectl.reach import ApiServer, Object


def authorities_of(mesh: Object) -> tuple[str, str]:
    """Return the mesh's authority, and the one that it replaces; the second is mostly empty.

    Raises:
        InvalidSpec: the mesh has none yet.

    """
    identity = status_of(mesh).get("identity") or {}
    current = str(identity.get("authority") or "")
    if not current:
        rule = "this mesh has no authority yet: an operator creates it with the mesh"
        raise InvalidSpec("--mesh", rule, value=name_of(mesh))
    return current, str(identity.get("formerAuthority") or "")


def trusted_entry(api: ApiServer, mesh: Object) -> str:
    """Return the entry of ``spec.trustedAuthorities`` with which another cluster trusts a mesh, as YAML.

    Raises:
        InvalidSpec: the mesh has no authority yet, or no clusterName.
        NotPermitted: the user may not list Nodes.
        ClusterUnavailable: there is no answer.

    """
    current, former = authorities_of(mesh)
    spec = mesh["spec"]
    cluster = str(spec.get("clusterName") or "")
    if not cluster:
        rule = "set spec.clusterName of this mesh first: it tells its members from those of other clusters"
        raise InvalidSpec("--entry", rule, value=name_of(mesh))
    lines = [f"- clusterName: {cluster}", f"  key: {current}"]
    lines += [f"  formerKey: {former}"] if former else []
    lines += ["  cidrs:", f"  - {spec.get('allocationCIDR') or spec['overlayCIDR']}"]
    pods = [*_covering(_pod_networks(api.items("/api/v1/nodes")))]
    if pods:
        lines.append(
            "  # The pod networks of the present nodes: use the whole network of the cluster's pods."
        )
    lines += [f"  - {network}" for network in pods]
    return "\n".join(lines)


def _pod_networks(nodes: Iterable[Object]) -> list[IPNetwork]:
    texts = (text for node in nodes for text in (node.get("spec") or {}).get("podCIDRs") or [])
    return [ip_network(text, strict=False) for text in texts]


def _covering(networks: Iterable[IPNetwork]) -> Iterator[IPNetwork]:
    """Yield the smallest network of each family that holds all of these."""
    networks = [*networks]
    for version in (4, 6):
        alike = [network for network in networks if network.version == version]
        if not alike:
            continue
        found = alike[0]
        while not all(network.subnet_of(found) for network in alike):  # type: ignore[arg-type]  # alike
            found = found.supernet()
        yield found
