"""What ``kubectl wesher status -o json`` prints; ``docs/reference/json-output.md`` is made from it."""

from __future__ import annotations

from typing import TypedDict

from wesher_common.conditions import ConditionEntry


class MemberOutput(TypedDict):
    """One member, as the mesh's status lists it and as its agent reports."""

    name: str
    """Member name."""
    kind: str
    """`Node`, or `Outsider` for an external machine."""
    state: str
    """`Ready`, `NotReady`, `Stale`, `Starting` or `Alive`."""
    reason: str
    """Why it is not ready: see [troubleshooting](../troubleshooting.md#a-node); empty if it is."""
    overlayIP: str
    """Overlay address."""
    endpoint: str
    """Address and port of its WireGuard device; empty for an external machine."""
    peers: str
    """Members with a tunnel and all members it knows, such as `3/3`; empty for an external machine."""
    lastReportTime: str
    """When its agent last reported, RFC 3339; empty if never."""


class PeerOutput(TypedDict):
    """One external machine that is admitted by a WesherPeer."""

    name: str
    """Name of the machine: that of the WesherPeer without the mesh."""
    certified: str
    """Status of the condition `Certified`; `Unknown` while there is none."""
    reason: str
    """Its reason: see [troubleshooting](../troubleshooting.md#an-external-machine)."""
    message: str
    """Its message; empty if it is certified."""
    overlayIP: str
    """Overlay address."""
    publicKey: str
    """WireGuard public key that is certified; empty if there is none."""
    daysLeft: int | None
    """Days until the certificate expires; null while there is none."""
    lastSeen: str
    """When a node last saw it in the mesh, RFC 3339, at most an hour behind; empty if never."""


class IdentityOutput(TypedDict):
    """Who gets a tunnel in a mesh, and who has a certificate."""

    mode: str
    """`Open` or `Verified`."""
    bound: bool
    """Whether members without a certificate get no tunnel."""
    authority: str
    """Public key of the mesh's authority."""
    formerAuthority: str
    """Public key of the authority that it is replacing; empty if there is none."""
    certified: str
    """`n/m`: of m agents on Ready Nodes, n announce their certificate."""
    waitingFor: list[str]
    """Members that a Verified mesh waits for before it is bound; at most 8."""
    revoked: list[str]
    """Nodes that were revoked and stay out of the mesh until they are readmitted; at most 8."""
    daysLeft: int | None
    """Days until the first certificate of a node expires; null while there is none."""


class NodeTrafficOutput(TypedDict):
    """What one node carries besides packets to overlay addresses."""

    name: str
    """Name of the Node."""
    carried: str
    """Status of the condition `TrafficCarried` of its WesherNode; `Unknown` while there is none."""
    reason: str
    """Its reason: see [troubleshooting](../troubleshooting.md#a-node); `NotReported` while there is none."""
    message: str
    """Its message."""
    accepts: bool
    """Whether the node accepts carried packets from other nodes."""
    routed: int
    """Number of networks of other members whose packets the node sends through its tunnels."""
    certified: list[str]
    """The node's addresses and pod networks in its certificate: what the mesh carries to this node."""


class TrafficOutput(TypedDict):
    """What a mesh carries besides packets to overlay addresses."""

    nodes: str
    """`spec.traffic.nodes`."""
    pods: str
    """`spec.traffic.pods`."""
    apiServer: str
    """`spec.traffic.apiServer`."""
    carried: str
    """Status of the mesh's condition `TrafficCarried`; `False` if the mesh is to carry nothing."""
    reason: str
    """Its reason: see [troubleshooting](../troubleshooting.md#a-mesh); empty while there is none."""
    message: str
    """Its message: which refusal, or what the mesh waits for."""
    summary: str
    """`n/m`: of m nodes, n carry traffic; empty if the mesh is to carry nothing."""
    nodeList: list[NodeTrafficOutput]
    """Each node, by name."""


class MeshOutput(TypedDict):
    """What ``kubectl wesher status`` prints of each mesh."""

    name: str
    """Name of the WesherMesh."""
    ready: bool
    """Whether the condition `Ready` is true and about the present spec."""
    degraded: bool
    """Whether the condition `Degraded` is true."""
    conditions: list[ConditionEntry]
    """The mesh's conditions: see [conditions](conditions.md#weshermesh)."""
    members: dict[str, int | str]
    """`status.members` of the [WesherMesh](custom-resources.md#weshermesh-status)."""
    memberList: list[MemberOutput]
    """Members, those not ready first; at most 100."""
    membersTruncated: bool
    """Whether `memberList` leaves some out."""
    peers: list[PeerOutput]
    """External machines that are admitted; empty if you may not list WesherPeers."""
    identity: IdentityOutput | None
    """Certificates; null if no operator that issues certificates has processed the mesh."""
    traffic: TrafficOutput
    """What the mesh carries besides packets to overlay addresses."""
    problems: list[str]
    """What is wrong, one line each."""
