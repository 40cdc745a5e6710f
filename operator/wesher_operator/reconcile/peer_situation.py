"""What machines outside Kubernetes are judged by: the mesh, and what agents report of external members.

Pure. Left to others: what follows from it (`peers`, `invites`).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from wesher_common.certificate import Authority, AuthorityKey
from wesher_common.conditions import ConditionStatus
from wesher_common.errors import InvalidSpec
from wesher_common.keys import WireGuardPublicKey
from wesher_common.names import member_name
from wesher_operator.reconcile.authority import Ledger
from wesher_operator.reconcile.facts import MemberFacts, MeshFacts, PeerFacts

_RING: Final = re.compile(r"[0-9a-f]{2}\Z")


@dataclass(frozen=True, slots=True)
class PeerProblem:
    """Why a machine gets no certificate now."""

    reason: str
    message: str
    status: ConditionStatus = "False"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """What one node reports of one external member."""

    name: str
    key: WireGuardPublicKey | None
    enrolment: bytes
    serial: int
    """Of the certificate that it announces; 0 for none."""
    ring: str
    """Two hex digits, the first of the id of the cluster key that it encrypts with; empty if unknown."""
    seen_at: datetime
    cluster: str = ""
    """The trusted cluster whose authority has certified it; empty for none."""


Sightings = Mapping[str, Sequence[Sighting]]
"""By member name, the newest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What a mesh's machines outside are judged by."""

    mesh: MeshFacts
    cluster_name: str
    nodes: Collection[str]
    """Member names of the cluster's Nodes."""
    ledger: Ledger
    signer: Authority | None
    """None where nothing can be issued."""
    authorities: Sequence[AuthorityKey]
    """Whose certificates members accept."""
    sightings: Sightings
    now: datetime
    void_until: Mapping[str, int] = field(default_factory=dict)
    """By member name: certificates signed up to this Unix time in milliseconds are void."""
    barred: Collection[str] = ()
    """Names of machines, without the mesh's clusterName, that stay out until they are admitted again."""

    def name_of(self, peer: PeerFacts) -> str:
        """Return the name under which a machine gossips."""
        return member_name(peer.machine, self.cluster_name)


def sightings(members: Iterable[MemberFacts], *, now: datetime) -> Sightings:
    """Return what agents report of external members.

    Args:
        members: WesherNodes whose reports are young enough to believe.
        now: the time. A report that says it is later was written now: any agent could be the newest.

    """
    found: dict[str, list[Sighting]] = {}
    for member in members:
        for each in member.status.outsiders:
            if member.reported_at is not None:
                sighting = Sighting(
                    name=each.name,
                    key=key_of(each.public_key),
                    enrolment=_bytes(each.enrolment),
                    serial=each.certificate_serial,
                    cluster=each.cluster,
                    ring=each.ring_id if _RING.match(each.ring_id) else "",
                    seen_at=min(member.reported_at, now),
                )
                found.setdefault(each.name, []).append(sighting)
    return {
        name: sorted(seen, key=lambda each: (each.seen_at, str(each.key)), reverse=True)
        for name, seen in found.items()
    }


def is_certified_member(sighting: Sighting, peer: PeerFacts | None) -> bool:
    """Tell whether an external member is a machine that announces a certificate of this mesh."""
    return (
        peer is not None
        and sighting.serial > 0
        and peer.status.serial > 0
        and str(sighting.key) == peer.status.public_key
    )


def key_of(text: str) -> WireGuardPublicKey | None:
    """Return the key that a text says, or None."""
    try:
        return WireGuardPublicKey.from_base64(text)
    except InvalidSpec:
        return None


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return b""


def moment_of(text: str) -> datetime | None:
    """Return the time that a text says, or None; one without a zone is UTC."""
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
