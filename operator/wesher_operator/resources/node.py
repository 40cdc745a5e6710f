"""WesherNode: spec by the operator, status by the node's agent."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from wesher_common.keys import MAX_KEYS
from wesher_common.names import MAX_MESH_NAME
from wesher_common.report import MAX_NEWS, MAX_OUTSIDERS, MAX_UNREACHABLE
from wesher_operator.resources import rules
from wesher_operator.resources.parts import MAX_CIDR_TEXT, MAX_DNS_NAME, Column, Conditions, Resource

MAX_IP_TEXT = 39
_MAX_ENDPOINT_TEXT = 64
_MAX_WORD = 64
_MAX_NEWS_NUMBER = 2**48 - 1
_MAX_ENROLMENT_TEXT = 88
"""64 bytes in base64."""
MAX_CERTIFICATE_TEXT = 104
"""77 bytes in base64."""
MAX_ROUTES = 16
"""A node's address and pod network of each family are four."""
# An agent's token writes these, and a node may be broken into: nothing is without a limit.
MemberName = Annotated[str, Field(max_length=MAX_DNS_NAME, json_schema_extra=rules.MEMBER_NAME)]
KeyIDs = Annotated[list[Annotated[str, Field(max_length=_MAX_WORD)]], Field(max_length=MAX_KEYS)]


class MeshRef(Resource):
    """The mesh a WesherNode belongs to."""

    name: str = Field(max_length=MAX_MESH_NAME, min_length=1)
    """Name of the WesherMesh."""
    uid: str = Field(max_length=64, min_length=1)
    """UID of the WesherMesh; a mesh created again under the same name has a different UID."""


class WesherNodeSpec(Resource):
    """Settings of one node, written by the operator."""

    mesh_ref: MeshRef
    """The mesh."""
    node_name: str = Field(
        max_length=MAX_DNS_NAME,
        min_length=1,
        json_schema_extra=rules.cel("self == oldSelf", "is immutable: a WesherNode belongs to one Node"),
    )
    """Name of the Node; only its agent may write this object's status."""
    overlay_ip: str = Field(alias="overlayIP", max_length=MAX_IP_TEXT, json_schema_extra=rules.IP)
    """The node's overlay address; it stays the same while this object exists."""
    advertise_address: str = Field(
        "",
        max_length=MAX_IP_TEXT,
        json_schema_extra=rules.or_empty(rules.IP),
    )
    """The address that members of other locations dial."""
    location: str = Field(
        "",
        max_length=63,
        json_schema_extra=rules.cel(
            "!format.labelValue().validate(self).hasValue()", "must be a valid label value"
        ),
    )
    """Location of the node; members of one location dial each other's internal addresses."""

    routes: list[Annotated[str, Field(max_length=MAX_CIDR_TEXT, json_schema_extra=rules.ANY_NETWORK)]] = (
        Field([], max_length=MAX_ROUTES)
    )
    """The node's addresses and pod networks in its certificate: what the mesh carries to this node."""
    machine: str = Field("", max_length=_MAX_WORD)
    """A hash that changes when the Node's machine is rebooted, is replaced or gets another address."""
    certificate: str = Field(
        "",
        max_length=MAX_CERTIFICATE_TEXT,
        json_schema_extra=rules.or_empty(
            rules.cel("self.matches('^[A-Za-z0-9+/]{103}=$')", "must be a certificate: 77 bytes in base64")
        ),
    )
    """The authority's signature on the node's name, key and address, in base64; the agent announces it."""
    serial: int = Field(0, ge=0)
    """When the certificate was issued, in milliseconds of Unix time; 0 while there is none."""


class Peers(Resource):
    """The other members as this agent sees them."""

    known: int = 0
    """Number of other members."""
    alive: int = 0
    """Number of other members that are alive in gossip."""
    suspect: int = 0
    """Number of other members that are suspected of having failed."""
    failed: int = 0
    """Number of other members that failed but are expected to return."""
    handshake: int = 0
    """Number of other members that answer through the tunnel or have a fresh handshake."""
    summary: str = Field("", max_length=_MAX_WORD)
    """`handshake/known`."""
    unreachable: list[MemberName] = Field([], max_length=MAX_UNREACHABLE)
    """Members that failed, cannot be given a tunnel, or did not answer the last probe through it."""


class TrafficReport(Resource):
    """What the node's agent carries besides packets to overlay addresses."""

    accepts: bool = False
    """Whether the agent accepts carried packets from other nodes; certificates list routes only then."""
    routed: int = 0
    """Number of networks of other members whose packets this node sends through its tunnels."""


class OutsiderReport(Resource):
    """A member that is not a node of this cluster, as seen in gossip."""

    name: MemberName
    """Member name."""
    address: str = Field("", max_length=MAX_IP_TEXT)
    """Overlay address."""
    endpoint: str = Field("", max_length=_MAX_ENDPOINT_TEXT)
    """Gossip address."""
    kind: str = Field("", max_length=_MAX_WORD)
    """`wesher`, or `Go` if the member does not announce a release of wesher."""
    public_key: str = Field("", max_length=_MAX_WORD)
    """WireGuard public key."""
    enrolment: str = Field("", max_length=_MAX_ENROLMENT_TEXT)
    """Proof that the member was invited, in base64; empty if it announces none."""
    certificate_serial: int = 0
    """Serial of the certificate that the member announces; 0 while it announces none."""
    cluster: str = Field("", max_length=63)
    """clusterName of the trusted authority that certified the member; empty if none did."""
    ring_id: str = Field("", alias="ringID", max_length=2)
    """First two digits of the id of the cluster key that the member encrypts with."""


class WesherNodeStatus(Resource):
    """Status reported by the node's agent."""

    observed_generation: int = 0
    """The generation of the spec the agent last applied."""
    machine: str = Field("", max_length=_MAX_WORD)
    """`spec.machine` as the agent last saw it; if they differ, the report describes a replaced machine."""
    conditions: Conditions = Field([])
    """Types: Ready, WireGuardReady, GossipJoined, KeyCurrent, TrafficCarried, StateSaved; the operator writes
    Certified."""
    public_key: str = Field("", max_length=64)
    """WireGuard public key."""
    key_proof: str = Field("", max_length=64)
    """Proof that the agent has the private half of publicKey, in base64."""
    certificate_serial: int = 0
    """`spec.serial` of the certificate that the agent announces; 0 while it announces none."""
    certificate_days: int = 0
    """Days until the certificate expires; written by the operator."""
    news_number: int = Field(0, ge=0, le=_MAX_NEWS_NUMBER)
    """Number of the newest statement of revocations that the agent has; 0 for none."""
    news: str = Field(
        "",
        max_length=MAX_NEWS,
        json_schema_extra={"pattern": "^[A-Za-z0-9+/]*={0,2}$"},
    )
    """That statement in base64, while it is newer than the one that the operator published."""
    endpoint: str = Field("", max_length=64)
    """Address and port of the node's WireGuard device."""
    key_ids: KeyIDs = Field([], alias="keyIDs")
    """Ids of the cluster keys that the agent accepts."""
    primary_key_id: str = Field("", alias="primaryKeyID", max_length=64)
    """Id of the cluster key that the agent encrypts with."""
    config_hash: str = Field("", max_length=64)
    """Hash of the mesh.json that the agent applied."""
    agent_version: str = Field("", max_length=64)
    """Release of the agent."""
    wireguard_mode: str = Field("", max_length=32)
    """`Kernel` or `Userspace`."""
    mtu: int = 0
    """MTU of the device."""
    traffic: TrafficReport | None = None
    """What the agent carries; absent while the mesh carries nothing of the cluster."""
    peers: Peers = Peers()
    """The other members as the agent sees them."""
    view_hash: str = Field("", max_length=64)
    """Hash of the name, overlay address and key of each alive member; equal views have equal hashes."""
    outsiders: list[OutsiderReport] = Field([], max_length=MAX_OUTSIDERS)
    """Members outside the cluster; only three nodes report them."""
    last_report_time: str = Field("", json_schema_extra={"format": "date-time"})
    """Time of the agent's last report."""


class WesherNode(Resource):
    """One node of a mesh: spec written by the operator, status by the node's agent."""

    plural: ClassVar[str] = "weshernodes"
    short_name: ClassVar[str] = "wnode"
    columns: ClassVar[list[Column]] = [
        Column(name="Mesh", path=".spec.meshRef.name"),
        Column(name="Ready", path='.status.conditions[?(@.type=="Ready")].status'),
        Column(name="Overlay-IP", path=".spec.overlayIP"),
        Column(name="Endpoint", path=".status.endpoint"),
        Column(name="Peers", path=".status.peers.summary"),
        Column(name="Cert", path=".status.certificateDays", type="integer"),
        Column(name="Key", path=".status.primaryKeyID", wide=True),
        Column(name="Mode", path=".status.wireguardMode", wide=True),
        Column(name="Version", path=".status.agentVersion", wide=True),
        Column(name="Traffic", path='.status.conditions[?(@.type=="TrafficCarried")].reason', wide=True),
        Column(name="Reason", path='.status.conditions[?(@.type=="Ready")].reason', wide=True),
        Column(name="Age", path=".metadata.creationTimestamp", type="date"),
    ]
    rules: ClassVar[dict[str, Any]] = rules.cel(
        "self.metadata.name == self.spec.meshRef.name + '.' + self.spec.nodeName",
        "metadata.name must be <spec.meshRef.name>.<spec.nodeName>",
    )

    spec: WesherNodeSpec
    status: WesherNodeStatus = WesherNodeStatus()
