"""Logs what a member reports beside its engine's events."""

from __future__ import annotations

from wesher_agent.mesh import events
from wesher_agent.mesh.events import MeshEvent
from wesher_common.certificate import Refusal
from wesher_common.event_logger import EventLogger

CAUSED_BY_PEERS = (
    events.MemberReturned,
    events.FailedMemberLeft,
    events.FailedMemberForgotten,
    events.SeedSkipped,
    events.ProblemFound,
    events.OverlayAddressGivenUp,
    events.OverlayNotCovered,
    events.DialledAtFormerAddress,
    events.KeyCopied,
)
"""Events that a holder of the cluster key can cause at will; the others must not share their allowance."""


def log_member_event(log: EventLogger, event: MeshEvent) -> None:  # noqa: C901, PLR0912, PLR0915 - one arm per event is the plainest table
    """Log one event at the level it deserves."""
    match event:
        case events.MemberReturned(node=node):
            log.debug("failed member returned", node=node)
        case events.FailedMemberLeft(node=node):
            log.info("failed member left", node=node)
        case events.FailedMemberForgotten(node=node):
            log.warning("failed member forgotten", node=node)
        case events.SeedSkipped(seed=seed, address=address, reason=reason):
            log.warning("seed not dialled", seed=seed, address=address, reason=reason)
        case events.SeedNotResolved(seed=seed, error=error, is_first=True):
            log.warning("seed not resolved", seed=seed, error=error)
        case events.SeedNotResolved(seed=seed, error=error):
            log.debug("seed not resolved", seed=seed, error=error)
        case events.ProblemFound(node=node, reason=Refusal.UNCERTIFIED as reason, message=message):
            # Each node of a bound mesh joins without a certificate, and has one seconds later.
            log.info("member has a problem", node=node, reason=reason, problem=message)
        case events.ProblemFound(node=node, reason=reason, message=message):
            log.warning("member has a problem", node=node, reason=reason, problem=message)
        case events.OverlayAddressGiven(address=address):
            log.info("overlay address assigned", address=address)
        case events.OverlayAddressGivenUp(former=former, address=address):
            log.warning(
                "overlay address changed: another member has the previous one", former=former, address=address
            )
        case events.OverlayNotCovered(overlay=overlay, covered=covered, reason=reason):
            # Off was asked for.
            (log.info if covered == "Nothing" else log.warning)(
                "overlay not fully covered: packets to unused addresses may leave unencrypted",
                overlay=overlay,
                covered=covered,
                reason=reason,
            )
        case events.AddressLost(address=address):
            log.error("gossip address removed from this host", address=address)
        case events.NoAddressToAnnounce(error=error):
            log.warning("no address to announce: keeping the previous one", error=error)
        case events.RoutesNotAnnounced(error=error):
            log.warning("routes not announced", error=error)
        case events.DialledAtFormerAddress(former=former):
            log.info("members dial the previous address: announcing the new one again", former=former)
        case events.ListenFailed(error=error):
            log.error("gossip not listening: trying again", error=error)
        case events.ListeningChanged(addresses=addresses, port=port):
            log.warning("gossip listening", addresses=addresses, port=port)
        case events.KeyRingChanged(primary=primary, keys=keys):
            log.warning("key ring changed", primary=primary, keys=keys)
        case events.CertificateReceived(address=address, serial=serial):
            log.info("certificate received", overlay=address, serial=serial)
        case events.NewsAskedFor(asked=asked, is_certified=True):
            log.warning("no node answers: asking seeds for a newer key ring", asked=asked)
        case events.NewsAskedFor(asked=asked):
            log.info("no certificate yet: asking seeds for it", asked=asked)
        case events.KeyCopied(other=other):
            log.error(
                "another machine has this machine's wireguard key: run `wesher rekey` on one", other=other
            )
        case events.KeyReplaced(former=old, key=key):
            log.warning("wireguard key replaced: restarting", former=old, key=key)
        case events.IdentityChanged(mode=None):
            log.warning("mesh.json says nothing about identity: members without a certificate get a tunnel")
        case events.IdentityChanged(mode=mode, bound=bound):
            log.info("identity changed", mode=mode, bound=bound)
        case events.CertificateValid(serial=serial, expires=expires):
            log.info("own certificate valid", serial=serial, expires=expires.isoformat())
        case events.CertificateRefused(serial=serial, reason=reason):
            log.warning("own certificate does not count", serial=serial, reason=reason)
        case events.TrafficCarried(networks=networks):
            log.info("traffic carried", networks=networks)
        case events.TrafficNotCarried():
            log.warning("traffic no longer carried")
        case events.RestartNeeded():
            log.info("mesh.json changed: restarting to apply it")
        case events.StateNotSaved(error=error, is_first=True):
            log.warning("state not saved: trying again", error=error)
        case events.StateNotSaved(error=error):
            log.debug("state not saved: trying again", error=error)
        case events.StateSavedAgain():
            log.info("state saved again")
        case events.StateFileLost():
            log.warning("state file removed by another program: saving it again")
        case events.StatementTaken(authority=authority, number=number, names=names, source=source):
            log.info(
                "revocations received", authority=str(authority), number=number, names=names, source=source
            )
        case events.StatementRejected(reason=reason):
            log.error("published revocations rejected: keeping the previous ones", reason=reason)
