"""What the status of a WesherPeer says; pure."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

from wesher_common.conditions import Condition, carry_over, rfc3339
from wesher_common.printable import printable
from wesher_common.report import MAX_MESSAGE
from wesher_operator.reconcile.authority import CONDITION, EXPIRES_SOON, Obstacle, days_left
from wesher_operator.reconcile.facts import PeerFacts
from wesher_operator.reconcile.peer_situation import Situation, moment_of
from wesher_operator.reconcile.peers import Verdict
from wesher_operator.resources.peer import WesherPeerStatus

_SEEN_EVERY: Final = timedelta(hours=1)
"""How far ``lastSeen`` may be behind: agents report every few minutes, and each write costs etcd space."""


def status_of(
    peer: PeerFacts, verdict: Verdict, situation: Situation, obstacle: Obstacle | None
) -> dict[str, Any]:
    """Return the status of a WesherPeer.

    Args:
        peer: as it stands.
        verdict: on it, with its certificate after this run.
        situation: what it was judged by.
        obstacle: why nothing is issued in the mesh now.

    """
    now, certificate = situation.now, verdict.certificate
    condition = _condition(verdict, obstacle, now)
    said = Condition(
        condition.type,
        condition.status,
        condition.reason,
        printable(condition.message)[:MAX_MESSAGE],
        peer.generation,
    )
    observed = [each.model_dump(by_alias=True) for each in peer.status.conditions]
    ring, last_seen = _last_seen(peer, verdict, situation)
    status = WesherPeerStatus(
        observed_generation=peer.generation,
        public_key=str(verdict.key or ""),
        overlay_ip=str(verdict.address or ""),
        certificate=certificate.to_base64() if certificate is not None else "",
        serial=certificate.serial if certificate is not None else 0,
        certificate_days=days_left(certificate, now),
        ring=ring,
        last_seen=last_seen,
    )
    content = status.model_dump(by_alias=True, exclude={"conditions"})
    if not last_seen:
        del content["lastSeen"]  # an empty text is not a time
    return {**content, "conditions": carry_over([said], observed, now=now)}


def _condition(verdict: Verdict, obstacle: Obstacle | None, now: datetime) -> Condition:
    problem, certificate = verdict.problem, verdict.certificate
    if problem is not None:
        return Condition(CONDITION, problem.status, problem.reason, problem.message)
    if certificate is None:
        if obstacle is not None:
            return Condition(CONDITION, "False", obstacle.reason, obstacle.message)
        return Condition(CONDITION, "Unknown", "Issuing")
    days = days_left(certificate, now)
    if days <= EXPIRES_SOON:
        why = f": {obstacle.message}" if obstacle else ""
        message = f"the certificate expires in {days} days and was not renewed{why}"
        return Condition(CONDITION, "True", "CertificateExpires", message)
    return Condition(CONDITION, "True", "Issued")


def _last_seen(peer: PeerFacts, verdict: Verdict, situation: Situation) -> tuple[str, str]:
    """Return ring and time of the last sighting of the machine with its key."""
    before, known = peer.status, moment_of(peer.status.last_seen)
    seen = situation.sightings.get(verdict.name, ()) if verdict.key is not None else ()
    newest = next((each for each in seen if each.key == verdict.key), None)
    if newest is None:
        return before.ring, before.last_seen
    ring = newest.ring or before.ring
    if known is not None and ring == before.ring and newest.seen_at - known < _SEEN_EVERY:
        return ring, before.last_seen
    return ring, rfc3339(newest.seen_at)
