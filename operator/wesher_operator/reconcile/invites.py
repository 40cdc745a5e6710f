"""Which WireGuard key an invite admits, and why none; pure.

The first key that comes with the signature of an invite is admitted, and no other one after it: the ledger
says which. A machine that comes late, by another name or with another invite is not admitted.
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime, timedelta
from typing import Final

from wesher_common.certificate import AuthorityKey
from wesher_common.conditions import rfc3339
from wesher_common.enrolment import is_enrolled
from wesher_common.errors import InvalidSpec
from wesher_common.keys import WireGuardPublicKey
from wesher_operator.reconcile.authority import Ledger
from wesher_operator.reconcile.facts import PeerFacts
from wesher_operator.reconcile.peer_situation import PeerProblem, Sighting, Situation, key_of, moment_of

LONGEST_INVITE: Final = timedelta(days=7)
"""From the creation of a WesherPeer to its ``enrolUntil``."""


def admission(peer: PeerFacts) -> str:
    """Return a hash that changes when an administrator admits a machine once more.

    Of one admission by invite one key is certified.
    """
    parts = [peer.uid, peer.spec.enrol_key]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def admitted_key(
    peer: PeerFacts, name: str, situation: Situation
) -> tuple[WireGuardPublicKey | PeerProblem, datetime | None]:
    """Return the key that an invite admits, or why there is none, and when time alone changes that."""
    if (used := _used_by(peer, name, situation.ledger)) is not None:
        return used, None
    until = moment_of(peer.spec.enrol_until)
    again = f"delete this WesherPeer, then run {invite_command(peer)}"
    if _enrol_key(peer) is None:
        return PeerProblem("InvalidSpec", "spec.enrolKey must be 32 bytes in base64"), None
    if until is None:
        return PeerProblem("InvalidSpec", "spec.enrolUntil must be a time such as 2030-01-31T12:00:00Z"), None
    if until > (peer.created_at or situation.now) + LONGEST_INVITE:
        message = f"enrolUntil must be at most 7 days after this WesherPeer was created: {again}"
        return PeerProblem("InviteTooLong", message), None
    enrolled = [each for each in situation.sightings.get(name, ()) if has_invite(peer, each, situation)]
    key = enrolled[0].key if enrolled else None
    if situation.now > until:
        late = f"; the machine with the key {key} came too late" if key is not None else ""
        return PeerProblem(
            "InviteExpired", f"the invite ended at {rfc3339(until)} unused{late}: {again}"
        ), None
    return key or _not_enrolled(peer, name, until, situation), until


def _used_by(peer: PeerFacts, name: str, ledger: Ledger) -> WireGuardPublicKey | None:
    """Return the key that was certified for an invite; None while it is unused."""
    entry = ledger.entries.get(name)
    if entry is not None:
        return key_of(entry.key) if entry.incarnation == admission(peer) else None
    # The ledger was lost.
    return key_of(peer.status.public_key) if peer.status.certificate else None


def _not_enrolled(peer: PeerFacts, name: str, until: datetime, situation: Situation) -> PeerProblem:
    for other, seen in sorted(situation.sightings.items()):
        if other != name and any(has_invite(peer, each, situation, name=other) for each in seen):
            message = (
                f"a machine named {other} has this invite, which is good for the name {name} only: start its "
                "agent with the join file as it is"
            )
            return PeerProblem("InviteOtherName", message)
    if any(each.enrolment for each in situation.sightings.get(name, ())):
        message = (
            f"the machine named {name} has another invite than that of this WesherPeer: give it the join "
            "file that was written with it"
        )
        return PeerProblem("InviteDiffers", message)
    return PeerProblem("NotEnrolled", f"the invite is valid until {rfc3339(until)} and unused", "Unknown")


def has_invite(peer: PeerFacts, sighting: Sighting, situation: Situation, *, name: str = "") -> bool:
    """Tell whether a machine proves that it has the invite of a WesherPeer, for that name or another."""
    enrol_key = _enrol_key(peer)
    if sighting.key is None or not sighting.enrolment or enrol_key is None:
        return False
    return is_enrolled(
        enrol_key,
        sighting.enrolment,
        mesh_uid=situation.mesh.uid,
        name=name or situation.name_of(peer),
        key=sighting.key,
    )


def invite_command(peer: PeerFacts) -> str:
    """Return the command that invites the machine of a WesherPeer."""
    return (
        f"kubectl wesher invite {peer.machine} --mesh {peer.spec.mesh_ref.name} --output {peer.machine}.join"
    )


def _enrol_key(peer: PeerFacts) -> AuthorityKey | None:
    try:
        return AuthorityKey.from_base64(peer.spec.enrol_key, field_name="spec.enrolKey")
    except InvalidSpec:
        return None
