"""WesherPeer: a machine outside Kubernetes; spec by an administrator, status by the operator."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import ConfigDict, Field

from wesher_common.names import MAX_MESH_NAME
from wesher_operator.resources import rules
from wesher_operator.resources.node import MAX_CERTIFICATE_TEXT, MAX_IP_TEXT
from wesher_operator.resources.parts import Column, Conditions, Resource

_MAX_UID = 64
_MAX_KEY_TEXT = 44
"""32 bytes in base64."""
_IS_KEY = rules.or_empty(
    rules.cel(
        # The last character has two bits that no byte of the key has.
        "self.matches('^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$')",
        "must be 32 bytes in base64",
        shows="self",
    )
)


def _is_set(field: str) -> str:
    return f"(has(self.{field}) && self.{field} != '')"


class PeerMeshRef(Resource):
    """The mesh that a machine is admitted to."""

    name: str = Field(max_length=MAX_MESH_NAME, min_length=1)
    """Name of the WesherMesh."""
    uid: str = Field("", max_length=_MAX_UID)
    """If set, the machine is not admitted to another WesherMesh that is created later under this name."""


class WesherPeerSpec(Resource):
    """Who is admitted, written by an administrator."""

    model_config = ConfigDict(
        json_schema_extra=rules.all_of(
            rules.cel(
                f"{_is_set('publicKey')} != {_is_set('enrolKey')}",
                "exactly one of publicKey and enrolKey must be set",
            ),
            rules.cel(
                f"{_is_set('enrolKey')} == has(self.enrolUntil)",
                "enrolUntil must be set together with enrolKey, and only then",
                fieldPath=".enrolUntil",
            ),
        )
    )

    mesh_ref: PeerMeshRef
    """The mesh."""
    public_key: str = Field("", max_length=_MAX_KEY_TEXT, json_schema_extra=_IS_KEY)
    """WireGuard public key of the machine, as `wg` prints it; only this key is certified."""
    enrol_key: str = Field("", max_length=_MAX_KEY_TEXT, json_schema_extra=_IS_KEY)
    """Public half of an invite; the first machine that proves to have the invite is certified."""
    enrol_until: str = Field("", json_schema_extra={"format": "date-time"})
    """Until when the invite is valid: at most 7 days after this object was created."""
    overlay_ip: str = Field(
        "", alias="overlayIP", max_length=MAX_IP_TEXT, json_schema_extra=rules.or_empty(rules.IP)
    )
    """Overlay address; empty means that the operator allocates one."""


class WesherPeerStatus(Resource):
    """State of the machine as the operator sees it."""

    observed_generation: int = 0
    """Generation of the spec that this status describes."""
    conditions: Conditions = Field([])
    """Types: Certified."""
    public_key: str = Field("", max_length=_MAX_KEY_TEXT)
    """WireGuard public key that is certified."""
    overlay_ip: str = Field("", alias="overlayIP", max_length=MAX_IP_TEXT)
    """Overlay address; it stays the same while this object exists."""
    certificate: str = Field("", max_length=MAX_CERTIFICATE_TEXT)
    """The authority's signature on the machine's name, key and address, in base64."""
    serial: int = Field(0, ge=0)
    """When the certificate was issued, in milliseconds of Unix time; 0 while there is none."""
    certificate_days: int = 0
    """Days until the certificate expires."""
    ring: str = Field("", max_length=2)
    """First two digits of the id of the cluster key that the machine encrypts with, as last seen."""
    last_seen: str = Field("", json_schema_extra={"format": "date-time"})
    """When a node last saw the machine in the mesh; at most an hour behind while it is there."""


class WesherPeer(Resource):
    """An external machine that is admitted to a mesh."""

    plural: ClassVar[str] = "wesherpeers"
    short_name: ClassVar[str] = "wpeer"
    columns: ClassVar[list[Column]] = [
        Column(name="Mesh", path=".spec.meshRef.name"),
        Column(name="Certified", path='.status.conditions[?(@.type=="Certified")].status'),
        Column(name="Overlay-IP", path=".status.overlayIP"),
        Column(name="Cert", path=".status.certificateDays", type="integer"),
        Column(name="Last-Seen", path=".status.lastSeen", type="date"),
        Column(name="Key", path=".status.publicKey", wide=True),
        Column(name="Reason", path='.status.conditions[?(@.type=="Certified")].reason', wide=True),
        Column(name="Age", path=".metadata.creationTimestamp", type="date"),
    ]
    rules: ClassVar[dict[str, Any]] = rules.cel(
        "self.metadata.name.startsWith(self.spec.meshRef.name + '.')",
        "metadata.name must be <spec.meshRef.name>.<name of the machine>",
    )

    spec: WesherPeerSpec
    status: WesherPeerStatus = WesherPeerStatus()
