"""Looks whether pods have addresses in their Node's ``podCIDRs``, which is what certificates can list.

Some CNIs (Calico's IPAM, Cilium's cluster-pool, cloud networks) take pods' addresses from elsewhere. The
operator watches only its agents' pods, so it asks for the addresses of others while a mesh is to carry
pods' traffic: a bounded number of pods, as the table that ``kubectl get`` prints, at once and every few
minutes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from ipaddress import ip_address

from wesher_common.printable import printable
from wesher_operator.kube import EVERY_POD, Cluster, NotPermitted
from wesher_operator.reconcile.facts import NodeFacts
from wesher_operator.reconcile.traffic import Obstacle

LOOK_EVERY = timedelta(minutes=5)
MOST_PODS = 500
_FIELDS = "status.phase=Running,spec.hostNetwork=false"


class PodAddresses:
    """What is known of the addresses of pods.

    Args:
        cluster: asked for them.

    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._looked_at: datetime | None = None
        self._problem: Obstacle | None = None

    async def look(
        self, nodes: Iterable[NodeFacts], *, is_wanted: bool, now: datetime
    ) -> tuple[Obstacle | None, datetime | None]:
        """Return why pod networks must not be certified, and when to look again.

        Args:
            nodes: of the mesh.
            is_wanted: whether it is to carry pods' traffic.
            now: the time.

        Raises:
            ClusterUnavailable: the API server does not answer.

        """
        if not is_wanted:
            self._looked_at = self._problem = None
            return None, None
        if self._looked_at is None or now - self._looked_at >= LOOK_EVERY:
            try:
                rows = await self._cluster.rows(EVERY_POD, fields=_FIELDS, limit=MOST_PODS)
                self._problem = outside(rows, nodes)
            except NotPermitted as error:
                rule = "the operator cannot compare pods' addresses with spec.podCIDRs of their Nodes"
                self._problem = Obstacle("PodsNotChecked", f"{rule}: {error}")
            self._looked_at = now
        return self._problem, self._looked_at + LOOK_EVERY


def outside(rows: Iterable[Mapping[str, str]], nodes: Iterable[NodeFacts]) -> Obstacle | None:
    """Return that a pod has an address outside its Node's networks, or None.

    Args:
        rows: of pods, by the names of the columns that ``kubectl get pods -o wide`` prints.
        nodes: of the mesh; pods elsewhere do not count.

    """
    by_name = {node.name: node for node in nodes}
    for row in rows:
        node = by_name.get(row.get("Node", ""))
        try:
            address = ip_address(row.get("IP", ""))
        except ValueError:  # it has none yet
            continue
        if node is None or any(address in network for network in node.pod_cidrs):
            continue
        networks = ", ".join(map(str, node.pod_cidrs)) or "none"
        message = (
            f"pod {row.get('Name', '')} on Node {node.name} has the address {address}, outside the Node's "
            f"spec.podCIDRs ({networks}), so pods' traffic is not carried: let the CNI use the Nodes' "
            "podCIDRs, or set spec.traffic.pods to None"
        )
        return Obstacle("PodsOutsidePodCIDR", printable(message))
    return None
