"""The custom resources as models: what a WesherMesh and a WesherNode may say.

The CRDs are generated from these models (`wesher_operator.crd`), and the
operator reads objects through them, so what the API server admits and what
the operator understands are one text. Rules that a schema cannot state stand
beside their field as CEL, with the message a user reads.

Left to others: how the schemas become YAML (`crd`), what is done about a spec
(`reconcile`).
"""

from __future__ import annotations

import json
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from wesher_common.mesh_document import (
    MAX_KEEPALIVE,
    MAX_LABEL,
    MAX_MTU,
    MIN_MTU,
    EtcHosts,
    GossipProfile,
    GossipSettings,
    WireGuardMode,
    WireGuardSettings,
    parse_overlay_network,
)
from wesher_common.names import MAX_INTERFACE_NAME, MAX_MESH_NAME, check_interface_name, key_secret_name
from wesher_common.overlay import IPNetwork
from wesher_common.seeds import MAX_PORT, SeedAddress, parse_seed

MAX_DNS_NAME = 253
MAX_CIDR_TEXT = 43
"""The longest IPv6 network as text."""
MAX_IP_TEXT = 39
MAX_SEED_TEXT = MAX_DNS_NAME + 6


def cel(rule: str, message: str, *, shows: str = "", **more: str) -> dict[str, Any]:
    """Return the schema extension that makes the API server check ``rule``.

    Args:
        rule: CEL; true for a value that may stand.
        message: what the user reads otherwise.
        shows: CEL for the text to show before the message, since the API server names only its type.
            Of a number it would not know the length, and so refuse the rule.
        more: further keys of the rule, as ``fieldPath``.

    """
    entry = {"rule": rule, "message": message, **more}
    if shows:
        entry["messageExpression"] = f'"\'" + {shows} + "\': " + {json.dumps(message)}'
    return {"x-kubernetes-validations": [entry]}


def _all_of(*rules: dict[str, Any], **more: Any) -> dict[str, Any]:
    merged = [entry for rule in rules for entry in rule["x-kubernetes-validations"]]
    return {"x-kubernetes-validations": merged, **more}


class Resource(BaseModel):
    """Base of every part of a custom resource: camelCase outside, unknown fields ignored."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, frozen=True, use_attribute_docstrings=True
    )


_ANY_NETWORK = cel(
    "isCIDR(self) && cidr(self) == cidr(self).masked()",
    "must be a network such as 10.189.0.0/16, without host bits",
    shows="self",
)
_OVERLAY_PREFIX = cel(
    "!isCIDR(self) || (cidr(self).ip().family() == 4"
    " ? cidr(self).prefixLength() >= 8 && cidr(self).prefixLength() <= 30"
    " : cidr(self).prefixLength() >= 32 && cidr(self).prefixLength() <= 126)",
    "the prefix must be /8 to /30 for IPv4, /32 to /126 for IPv6",
    shows="self",
)
_IMMUTABLE = cel("self == oldSelf", "is immutable: every member derives its address from it")
_DNS_NAME = cel(
    "!format.dns1123Subdomain().validate(self).hasValue()",
    "must be a lower-case DNS name",
    shows="self",
)
_INTERFACE = cel(
    "self.matches('^[!-$&-.0-9;-~]+$') && self != '.' && self != '..'",
    f"must be 1 to {MAX_INTERFACE_NAME} ASCII characters without blank, '/', ':' or '%'",
    shows="self",
)
_MTU = cel(f"self == 0 || self >= {MIN_MTU}", f"must be 0 (from the underlay) or at least {MIN_MTU}")
_SEED_FORM = cel(
    # An address; [v6] with or without a port; v4 with a port; a name whose last label is not all digits.
    r"isIP(self)"
    r" || (self.matches('^\\[[0-9A-Fa-f:.]+\\](:[0-9]+)?$') && isIP(self.substring(1, self.indexOf(']'))))"
    r" || (self.matches('^[0-9.]+:[0-9]+$') && isIP(self.split(':')[0]))"
    r" || self.matches('^([A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\\.)*"
    r"([0-9]*[A-Za-z_]([A-Za-z0-9_-]*[A-Za-z0-9_])?|[0-9]+-[A-Za-z0-9_-]*[A-Za-z0-9_])\\.?(:[0-9]+)?$')",
    "must be a host name or IP address, with :port or without; IPv6 with a port is [address]:port",
    shows="self",
)
_SEED_PORT = cel(
    r"isIP(self) || !self.matches(':[0-9]+$')"
    r" || (self.matches(':[0-9]{1,5}$') && int(self.substring(self.lastIndexOf(':') + 1)) >= 1"
    rf" && int(self.substring(self.lastIndexOf(':') + 1)) <= {MAX_PORT})",
    f"the port must be a number from 1 to {MAX_PORT}",
    shows="self",
)
_NODE_SELECTOR = cel(
    "self.all(key, !format.qualifiedName().validate(key).hasValue()"
    " && !format.labelValue().validate(self[key]).hasValue())",
    "must be labels as a Node carries them",
)
_IP = cel("isIP(self)", "must be an IP address", shows="self")

Port = Annotated[int, Field(ge=1, le=MAX_PORT)]


class SecretRef(Resource):
    """A Secret in the operator's namespace."""

    name: str = Field("", max_length=MAX_DNS_NAME, json_schema_extra=_DNS_NAME)
    """Name of the Secret; empty means `<mesh>-key`, which is made with 32 random bytes when absent."""


class Toleration(Resource):
    """A taint that agents tolerate (core/v1 Toleration)."""

    key: str = Field("", max_length=316)
    """Taint key; empty with operator Exists matches every taint."""
    operator: Literal["Equal", "Exists"] = "Equal"
    """How the value is compared."""
    value: str = Field("", max_length=63)
    """Taint value, for operator Equal."""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""
    """Taint effect; empty matches every effect."""
    toleration_seconds: int | None = None
    """How long a NoExecute taint is tolerated; for ever when absent."""


class WireGuard(Resource):
    """The device that carries the overlay."""

    model_config = ConfigDict(json_schema_extra={"default": {}})

    interface: str = Field(
        "wgoverlay", min_length=1, max_length=MAX_INTERFACE_NAME, json_schema_extra=_INTERFACE
    )
    """Name of the device on every node."""
    port: Port = 51820
    """UDP port; open it between all members."""
    mtu: int = Field(0, ge=0, le=MAX_MTU, json_schema_extra=_MTU)
    """MTU of the device; 0 takes it from the underlay."""
    persistent_keepalive: int = Field(0, ge=0, le=MAX_KEEPALIVE)
    """Seconds between keepalives to every peer; 0 is off."""
    mode: WireGuardMode = "Auto"
    """`Auto` prefers the kernel, else wireguard-go; a living device keeps what it has."""


class Gossip(Resource):
    """How members find each other."""

    model_config = ConfigDict(json_schema_extra={"default": {}})

    port: Port = 7946
    """UDP and TCP port; open it between all members."""
    profile: GossipProfile = "WAN"
    """memberlist's constants for a LAN or a WAN; the same on all members."""
    label: str = Field(
        "",
        max_length=MAX_LABEL,
        json_schema_extra=cel(
            f"bytes(self).size() <= {MAX_LABEL}", f"must be at most {MAX_LABEL} bytes of UTF-8"
        ),
    )
    """memberlist's label, which keeps meshes with the same key apart; the same on all members."""


class Addresses(Resource):
    """Which address of a node others dial."""

    model_config = ConfigDict(json_schema_extra={"default": {}})

    prefer: list[Literal["InternalIP", "ExternalIP"]] = Field(
        ["InternalIP"], min_length=1, max_length=2, json_schema_extra={"x-kubernetes-list-type": "set"}
    )
    """Node address types that members of other locations dial, in order."""


class Routes(Resource):
    """Networks behind nodes."""

    model_config = ConfigDict(json_schema_extra={"default": {}})

    advertise_pod_cidrs: bool = Field(False, alias="advertisePodCIDRs")  # noqa: FBT003 - a default
    """Offer each node's pod CIDRs to other clusters."""


class WesherMeshSpec(Resource):
    """What the user declares."""

    model_config = ConfigDict(
        json_schema_extra=_all_of(
            cel(
                "!has(self.allocationCIDR) || !isCIDR(self.allocationCIDR) || !isCIDR(self.overlayCIDR)"
                " || cidr(self.overlayCIDR).containsCIDR(cidr(self.allocationCIDR))",
                "must lie inside overlayCIDR",
                shows="self.allocationCIDR",
                fieldPath=".allocationCIDR",
            ),
            cel(
                "self.gossip.port != self.wireguard.port",
                "must differ from wireguard.port: both are UDP",
                fieldPath=".gossip.port",
            ),
        )
    )

    overlay_cidr: str = Field(
        alias="overlayCIDR",
        max_length=MAX_CIDR_TEXT,
        json_schema_extra=_all_of(_ANY_NETWORK, _OVERLAY_PREFIX, _IMMUTABLE),
    )
    """Network of the overlay, IPv4 (/8 to /30) or IPv6 (/32 to /126); the same on all members."""
    allocation_cidr: str = Field(
        "",
        alias="allocationCIDR",
        max_length=MAX_CIDR_TEXT,
        json_schema_extra=_all_of(_ANY_NETWORK, _OVERLAY_PREFIX),
    )
    """The part of overlayCIDR this cluster allocates from; empty means all of it."""
    cluster_name: str = Field("", max_length=63, json_schema_extra=_DNS_NAME)
    """When set, members are named `<node>.<clusterName>`; needed where node names repeat across clusters."""
    cluster_key_secret_ref: SecretRef = Field(SecretRef(), json_schema_extra={"default": {}})
    """The Secret with the cluster key."""
    seed_nodes: list[
        Annotated[
            str,
            Field(min_length=1, max_length=MAX_SEED_TEXT, json_schema_extra=_all_of(_SEED_FORM, _SEED_PORT)),
        ]
    ] = Field([], max_length=64)
    """Members outside this cluster to join through: host, ip, host:port or [v6]:port. Tried for ever."""
    node_selector: dict[str, Annotated[str, Field(max_length=63)]] = Field(
        {}, max_length=32, json_schema_extra=_NODE_SELECTOR
    )
    """Labels of the nodes on which agents run; empty means all."""
    tolerations: list[Toleration] = Field(
        [Toleration(operator="Exists")],
        max_length=32,
        json_schema_extra={"default": [{"operator": "Exists"}]},
    )
    """Taints that agents tolerate; all of them unless set."""
    wireguard: WireGuard = WireGuard()
    """The WireGuard device."""
    gossip: Gossip = Gossip()
    """Gossip between members."""
    addresses: Addresses = Addresses()
    """Which address of a node others dial."""
    etc_hosts: EtcHosts = "Qualified"
    """`Qualified` writes `<member>.<mesh>.wesher.internal` into each host's /etc/hosts, `Names` bare names, `Off` none."""  # noqa: E501
    routes: Routes = Routes()
    """Networks behind nodes."""

    @property
    def overlay(self) -> IPNetwork:
        """``overlayCIDR`` as a network.

        Raises:
            InvalidSpec: it is none; the API server admits no such object.

        """
        return parse_overlay_network(self.overlay_cidr, field="spec.overlayCIDR")

    @property
    def allocation(self) -> IPNetwork:
        """The network addresses are taken from; inside `overlay`.

        Raises:
            InvalidSpec: it is none.

        """
        return parse_overlay_network(self.allocation_cidr or self.overlay_cidr, field="spec.allocationCIDR")

    @property
    def seeds(self) -> tuple[SeedAddress, ...]:
        """``seedNodes``, parsed.

        Raises:
            InvalidSpec: one cannot be read.

        """
        return tuple(
            parse_seed(text, field=f"spec.seedNodes[{index}]") for index, text in enumerate(self.seed_nodes)
        )

    @property
    def wireguard_settings(self) -> WireGuardSettings:
        """``wireguard`` as the mesh document holds it."""
        return WireGuardSettings(
            interface=check_interface_name(self.wireguard.interface, field="spec.wireguard.interface"),
            port=self.wireguard.port,
            mtu=self.wireguard.mtu,
            persistent_keepalive=self.wireguard.persistent_keepalive,
            mode=self.wireguard.mode,
        )

    @property
    def gossip_settings(self) -> GossipSettings:
        """``gossip`` as the mesh document holds it."""
        return GossipSettings(port=self.gossip.port, profile=self.gossip.profile, label=self.gossip.label)

    def key_secret(self, mesh: str) -> str:
        """Return the name of the Secret that holds the cluster key of ``mesh``."""
        return self.cluster_key_secret_ref.name or key_secret_name(mesh)


class ConditionStatus(Resource):
    """metav1.Condition."""

    type: str = Field(max_length=316)
    """Which condition."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: str = Field(max_length=1024)
    """CamelCase, from a fixed set."""
    message: str = Field("", max_length=32768)
    """For people."""
    last_transition_time: Annotated[str, Field(json_schema_extra={"format": "date-time"})]
    """When status last changed."""
    observed_generation: int = 0
    """The generation this was said about."""


Conditions = Annotated[
    list[ConditionStatus],
    Field(json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}),
]


class MemberCounts(Resource):
    """How many members there are."""

    desired: int = 0
    """Nodes on which an agent should run."""
    ready: int = 0
    """Of those, how many are in the mesh and well."""
    not_ready: int = 0
    """Of those, how many report, or are reported, unwell."""
    stale: int = 0
    """Of those, how many have not reported for longer than they should."""
    outside: int = 0
    """Members that are not nodes of this cluster."""
    summary: str = ""
    """`ready/desired`."""


MemberState = Literal["Ready", "NotReady", "Stale", "Starting", "Alive"]


class MemberStatus(Resource):
    """One member."""

    name: str
    """Member name."""
    kind: Literal["Node", "Outsider"]
    """A node of this cluster, or a machine that only gossips."""
    address: str = ""
    """Overlay address."""
    state: MemberState
    """What is known about it."""
    reason: str = ""
    """Why it is not ready."""


class KeyStatus(Resource):
    """Which key is in use; never the key."""

    id: str = ""
    """Eight hex digits of a hash over the primary key."""
    accepted_ids: list[str] = Field([], alias="acceptedIDs")
    """The same for further keys that are still accepted."""


class WesherMeshStatus(Resource):
    """What the operator knows."""

    observed_generation: int = 0
    """The generation of the spec this status is about."""
    conditions: Conditions = []
    """Ready, KeyReady, ConfigPublished, MembersReady, Converged, Degraded."""
    members: MemberCounts = MemberCounts()
    """Members, counted."""
    member_list: list[MemberStatus] = Field([], max_length=100)
    """Members, those not ready first; at most 100."""
    members_truncated: bool = False
    """Whether memberList leaves some out."""
    key: KeyStatus = KeyStatus()
    """The cluster key's id."""


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
        json_schema_extra=cel("self == oldSelf", "is immutable: a WesherNode stands for one Node"),
    )
    """The Node; its agent's token may write this object's status and no other's."""
    overlay_ip: str = Field(alias="overlayIP", max_length=MAX_IP_TEXT, json_schema_extra=_IP)
    """The node's address in the overlay, for as long as this object lives."""
    routes: list[Annotated[str, Field(max_length=MAX_CIDR_TEXT, json_schema_extra=_ANY_NETWORK)]] = Field(
        [], max_length=16
    )
    """Networks behind this node that other clusters may reach through it."""
    advertise_address: str = Field(
        "",
        max_length=MAX_IP_TEXT,
        json_schema_extra=cel("self == '' || isIP(self)", "must be an IP address", shows="self"),
    )
    """The address that members of other locations dial."""
    location: str = Field(
        "",
        max_length=63,
        json_schema_extra=cel(
            "!format.labelValue().validate(self).hasValue()", "must be a word such as a label's value"
        ),
    )
    """Where the node is; members of one location dial each other's local address."""


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
    """Of those, with a fresh WireGuard handshake."""
    summary: str = ""
    """`handshake/known`, or `alive/known` where nothing was sent yet."""
    unreachable: list[str] = Field([], max_length=8)
    """Members that failed, or whose last probe through the tunnel did."""


class OutsiderReport(Resource):
    """A member that is no node of this cluster, as gossip shows it."""

    name: str = Field(max_length=MAX_DNS_NAME)
    """Member name."""
    address: str = ""
    """Overlay address."""
    endpoint: str = ""
    """Where it gossips."""
    kind: str = ""
    """The program, where known: `Go` or `wesher`."""
    public_key: str = ""
    """WireGuard public key."""
    key_ids: list[str] = Field([], alias="keyIDs")
    """Ids of the cluster keys it holds, where it says so."""


class WesherNodeStatus(Resource):
    """What that node's agent reports."""

    observed_generation: int = 0
    """The generation of the spec the agent last applied."""
    conditions: Conditions = []
    """Ready, WireGuardReady, GossipJoined, KeyCurrent."""
    public_key: str = Field("", max_length=64)
    """WireGuard public key."""
    endpoint: str = Field("", max_length=64)
    """Address and port of its WireGuard device."""
    key_ids: list[str] = Field([], alias="keyIDs", max_length=16)
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
    """Hash over sorted (name, address, key, alive or not): equal where views agree."""
    outsiders: list[OutsiderReport] = Field([], max_length=64)
    """Members outside the cluster, reported by three nodes only."""
    last_report_time: str = Field("", json_schema_extra={"format": "date-time"})
    """When the agent last wrote this."""


class Column(BaseModel):
    """One printer column."""

    name: str
    path: str
    type: Literal["string", "date"] = "string"
    wide: bool = False


class WesherMesh(Resource):
    """An encrypted overlay network over this cluster's nodes and machines outside it."""

    plural: ClassVar[str] = "weshermeshes"
    short_name: ClassVar[str] = "wmesh"
    columns: ClassVar[list[Column]] = [
        Column(name="Ready", path='.status.conditions[?(@.type=="Ready")].status'),
        Column(name="Members", path=".status.members.summary"),
        Column(name="CIDR", path=".spec.overlayCIDR"),
        Column(name="Key", path=".status.key.id"),
        Column(name="Converged", path='.status.conditions[?(@.type=="Converged")].status', wide=True),
        Column(name="Interface", path=".spec.wireguard.interface", wide=True),
        Column(name="Message", path='.status.conditions[?(@.type=="Ready")].message', wide=True),
        Column(name="Age", path=".metadata.creationTimestamp", type="date"),
    ]
    rules: ClassVar[dict[str, Any]] = cel(
        f"self.metadata.name.size() <= {MAX_MESH_NAME} && !self.metadata.name.contains('.')",
        f"metadata.name must be at most {MAX_MESH_NAME} characters without '.'",
    )

    spec: WesherMeshSpec
    status: WesherMeshStatus = WesherMeshStatus()


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
        Column(name="Key", path=".status.primaryKeyID", wide=True),
        Column(name="Mode", path=".status.wireguardMode", wide=True),
        Column(name="Version", path=".status.agentVersion", wide=True),
        Column(name="Reason", path='.status.conditions[?(@.type=="Ready")].reason', wide=True),
        Column(name="Age", path=".metadata.creationTimestamp", type="date"),
    ]
    rules: ClassVar[dict[str, Any]] = cel(
        "self.metadata.name == self.spec.meshRef.name + '.' + self.spec.nodeName",
        "metadata.name must be <spec.meshRef.name>.<spec.nodeName>",
    )

    spec: WesherNodeSpec
    status: WesherNodeStatus = WesherNodeStatus()
