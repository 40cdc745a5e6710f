"""WesherNode: spec by the operator, status by the node's agent."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from wesher_common.keys import MAX_KEYS
from wesher_common.names import MAX_MESH_NAME
from wesher_common.report import MAX_OUTSIDERS, MAX_UNREACHABLE
from wesher_operator.resources import rules
from wesher_operator.resources.parts import MAX_DNS_NAME, Column, Conditions, Resource

_MAX_IP_TEXT = 39
_MAX_ENDPOINT_TEXT = 64
_MAX_WORD = 64
_MAX_CERTIFICATE_TEXT = 104
"""77 bytes in base64."""
# An agent's token writes these, and a node may be broken into: nothing is without a limit.
MemberName = Annotated[str, Field(max_length=MAX_DNS_NAME, json_schema_extra=rules.MEMBER_NAME)]
KeyIDs = Annotated[list[Annotated[str, Field(max_length=_MAX_WORD)]], Field(max_length=MAX_KEYS)]


class MeshRef(Resource):
    """The mesh a WesherNode belongs to."""

    name: str = Field(max_length=MAX_MESH_NAME, min_length=1)
    """Name of the WesherMesh."""
    uid: str = Field(max_length=64, min_length=1)
    """Its uid: another uid under the same name is another mesh."""


class WesherNodeSpec(Resource):
    """What the operator gives a node; made by machines only."""

    mesh_ref: MeshRef
    """The mesh."""
    node_name: str = Field(
        max_length=MAX_DNS_NAME,
        min_length=1,
        json_schema_extra=rules.cel("self == oldSelf", "is immutable: a WesherNode stands for one Node"),
    )
    """The Node; its agent's token may write this object's status and no other's."""
    overlay_ip: str = Field(alias="overlayIP", max_length=_MAX_IP_TEXT, json_schema_extra=rules.IP)
    """The node's address in the overlay, for as long as this object lives."""
    advertise_address: str = Field(
        "",
        max_length=_MAX_IP_TEXT,
        json_schema_extra=rules.or_empty(rules.IP),
    )
    """The address that members of other locations dial."""
    location: str = Field(
        "",
        max_length=63,
        json_schema_extra=rules.cel(
            "!format.labelValue().validate(self).hasValue()", "must be a word such as a label's value"
        ),
    )
    """Where the node is; members of one location dial each other's local address."""

    machine: str = Field("", max_length=_MAX_WORD)
    """A hash that changes when the Node's machine is rebooted, is replaced or gets another address."""
    certificate: str = Field(
        "",
        max_length=_MAX_CERTIFICATE_TEXT,
        json_schema_extra=rules.or_empty(
            rules.cel("self.matches('^[A-Za-z0-9+/]{103}=$')", "must be a certificate: 77 bytes in base64")
        ),
    )
    """The authority's signature on the node's name, key and address, in base64; the agent announces it."""
    serial: int = Field(0, ge=0)
    """When the certificate was issued, in milliseconds of Unix time; 0 while there is none."""


class Peers(Resource):
    """What an agent sees of the others."""

    known: int = 0
    """Members other than itself."""
    alive: int = 0
    """Of those, alive in gossip."""
    suspect: int = 0
    """Of those, suspected."""
    failed: int = 0
    """Of those, failed and expected back."""
    handshake: int = 0
    """Of those, that answer through the tunnel or have a fresh WireGuard handshake."""
    summary: str = Field("", max_length=_MAX_WORD)
    """`handshake/known`."""
    unreachable: list[MemberName] = Field([], max_length=MAX_UNREACHABLE)
    """Members that failed, cannot be given a tunnel, or did not answer the last probe through it."""


class OutsiderReport(Resource):
    """A member that is no node of this cluster, as gossip shows it."""

    name: MemberName
    """Member name."""
    address: str = Field("", max_length=_MAX_IP_TEXT)
    """Overlay address."""
    endpoint: str = Field("", max_length=_MAX_ENDPOINT_TEXT)
    """Where it gossips."""
    kind: str = Field("", max_length=_MAX_WORD)
    """The program: `wesher`, or `Go` for one that announces no release of wesher."""
    public_key: str = Field("", max_length=_MAX_WORD)
    """WireGuard public key."""


class WesherNodeStatus(Resource):
    """What that node's agent reports."""

    observed_generation: int = 0
    """The generation of the spec the agent last applied."""
    machine: str = Field("", max_length=_MAX_WORD)
    """`spec.machine` as the agent last saw it; a report of another machine says nothing of this one."""
    conditions: Conditions = Field([])
    """Ready, WireGuardReady, GossipJoined, KeyCurrent, StateSaved; Certified is the operator's."""
    public_key: str = Field("", max_length=64)
    """WireGuard public key."""
    key_proof: str = Field("", max_length=64)
    """Proof that the agent has the private half of publicKey, in base64."""
    certificate_serial: int = 0
    """`spec.serial` of the certificate that the agent announces; 0 while it announces none."""
    certificate_days: int = 0
    """Days until the certificate expires; written by the operator."""
    endpoint: str = Field("", max_length=64)
    """Address and port of its WireGuard device."""
    key_ids: KeyIDs = Field([], alias="keyIDs")
    """Ids of the cluster keys it accepts."""
    primary_key_id: str = Field("", alias="primaryKeyID", max_length=64)
    """Id of the cluster key it encrypts with."""
    config_hash: str = Field("", max_length=64)
    """Hash of the mesh.json it applied."""
    agent_version: str = Field("", max_length=64)
    """Release of the agent."""
    wireguard_mode: str = Field("", max_length=32)
    """`Kernel` or `Userspace`."""
    mtu: int = 0
    """MTU of the device."""
    peers: Peers = Peers()
    """What it sees of the others."""
    view_hash: str = Field("", max_length=64)
    """Hash over name, overlay address and key of each living member: equal where views agree."""
    outsiders: list[OutsiderReport] = Field([], max_length=MAX_OUTSIDERS)
    """Members outside the cluster, reported by three nodes only."""
    last_report_time: str = Field("", json_schema_extra={"format": "date-time"})
    """When the agent last wrote this."""


class WesherNode(Resource):
    """One node's place in a mesh: spec from the operator, status from the node's agent."""

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
        Column(name="Reason", path='.status.conditions[?(@.type=="Ready")].reason', wide=True),
        Column(name="Age", path=".metadata.creationTimestamp", type="date"),
    ]
    rules: ClassVar[dict[str, Any]] = rules.cel(
        "self.metadata.name == self.spec.meshRef.name + '.' + self.spec.nodeName",
        "metadata.name must be <spec.meshRef.name>.<spec.nodeName>",
    )

    spec: WesherNodeSpec
    status: WesherNodeStatus = WesherNodeStatus()
