"""Which machine outside Kubernetes gets which certificate, and why one gets none.

Pure. An administrator admits a machine with a WesherPeer: by its WireGuard key, which the administrator
vouches for, or by an invite.

Left to others: which key an invite admits (`invites`), overlay addresses (`peer_addresses`), the status
(`peer_status`), ledger and objects (`peer_keeper`), how certificates and key rings reach the machines
(`peer_news`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from wesher_common.certificate import Certificate, Kind, Subject
from wesher_common.key_proof import key_proof
from wesher_common.keys import WireGuardPrivateKey, WireGuardPublicKey
from wesher_common.names import is_member_name, is_reserved_name
from wesher_common.overlay import IPAddress
from wesher_operator.reconcile.authority import Issued, renewal
from wesher_operator.reconcile.facts import PeerFacts
from wesher_operator.reconcile.invites import admission, admitted_key, has_invite, invite_command
from wesher_operator.reconcile.peer_situation import PeerProblem, Situation, key_of

_ANY_KEY: Final = WireGuardPrivateKey.from_random(bytes(32))


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What is to be done for one machine."""

    name: str
    """Of the member."""
    problem: PeerProblem | None = None
    key: WireGuardPublicKey | None = None
    """That is certified, or is to be."""
    address: IPAddress | None = None
    certificate: Certificate | None = None
    """That is valid for its name, key and address."""
    issue: Issued | None = None
    """What the ledger has to say before a certificate is issued; None where none is due."""
    again: datetime | None = None
    """When time alone changes this."""

    @property
    def subject(self) -> Subject | None:
        """What a certificate of this machine says; None before it has key and address."""
        if self.key is None or self.address is None:
            return None
        return Subject(name=self.name, public_key=self.key, address=self.address)


def name_problem(peer: PeerFacts, situation: Situation) -> PeerProblem | None:
    """Return why there can be no member for a WesherPeer, or None."""
    name, uid = situation.name_of(peer), peer.spec.mesh_ref.uid
    if uid and uid != situation.mesh.uid:
        message = (
            f"meshRef.uid is that of an earlier WesherMesh {situation.mesh.name}: delete this WesherPeer, "
            "and create another one if the machine belongs in the current mesh"
        )
        return PeerProblem("MeshReplaced", message)
    if not is_member_name(name) or is_reserved_name(name):
        message = (
            f"{name} cannot be the name of a machine: use a DNS name of at most 253 characters with "
            "clusterName, which is not an address or localhost"
        )
        return PeerProblem("NameNotAllowed", message)
    if name in situation.nodes:
        message = f"a Node has the name {name}: delete this WesherPeer, and admit the machine by another name"
        return PeerProblem("NameInUse", message)
    return None


def living(peers: Iterable[PeerFacts], situation: Situation) -> dict[str, PeerFacts]:
    """Return the WesherPeers that stand for a member, by the member's name, the older first."""
    return {
        situation.name_of(peer): peer
        for peer in sorted(peers, key=lambda each: each.age_order)
        if name_problem(peer, situation) is None
    }


def judge_all(
    peers: Iterable[PeerFacts],
    situation: Situation,
    addresses: Mapping[str, IPAddress],
    address_problems: Mapping[str, PeerProblem],
) -> dict[str, Verdict]:
    """Decide about every machine's certificate, by the name of its WesherPeer.

    Args:
        peers: the mesh's.
        situation: what they are judged by.
        addresses: by the name of the WesherPeer.
        address_problems: why one has none.

    """
    peers = sorted(peers, key=lambda each: each.age_order)
    present = {*situation.nodes, *living(peers, situation)}
    holders = {entry.key: name for name, entry in situation.ledger.entries.items() if name in present}
    verdicts = {}
    for peer in peers:
        problem = name_problem(peer, situation) or address_problems.get(peer.name)
        if problem is not None or peer.name not in addresses:
            verdicts[peer.name] = Verdict(name=situation.name_of(peer), problem=problem)
            continue
        verdict = _judge(peer, situation, addresses[peer.name], holders)
        verdicts[peer.name] = verdict
        if verdict.issue is not None:
            holders.setdefault(verdict.issue.key, verdict.name)
    return verdicts


def _judge(peer: PeerFacts, situation: Situation, address: IPAddress, holders: Mapping[str, str]) -> Verdict:
    name = situation.name_of(peer)
    if peer.machine in situation.barred:
        return Verdict(name=name, problem=_barred(peer), address=address)
    found, again = _admitted_key(peer, name, situation)
    if isinstance(found, PeerProblem):
        return Verdict(name=name, problem=found, address=address, again=again)
    verdict = Verdict(name=name, key=found, address=address)
    current = _valid_certificate(peer, verdict, situation)
    verdict = replace(verdict, certificate=current, again=renewal(current) if current is not None else None)
    if problem := _key_problem(found, name, holders):
        return replace(verdict, problem=problem, again=None)
    is_former = (
        current is not None and situation.signer is not None and current.authority != situation.signer.key.id
    )
    is_due = verdict.again is None or situation.now >= verdict.again or is_former
    return replace(
        verdict,
        problem=_another_key(peer, found, name, situation),
        issue=Issued(str(found), admission(peer)) if is_due else None,
    )


def _admitted_key(
    peer: PeerFacts, name: str, situation: Situation
) -> tuple[WireGuardPublicKey | PeerProblem, datetime | None]:
    if not peer.spec.public_key:
        return admitted_key(peer, name, situation)
    rule = "spec.publicKey must be a WireGuard key: 32 bytes in base64"
    return key_of(peer.spec.public_key) or PeerProblem("InvalidSpec", rule), None


def _barred(peer: PeerFacts) -> PeerProblem:
    message = (
        "it was revoked by a statement that this operator did not sign: to let it in "
        f"again, run kubectl delete wpeer {peer.name}, then admit or invite it again"
    )
    return PeerProblem("Revoked", message)


def _key_problem(key: WireGuardPublicKey, name: str, holders: Mapping[str, str]) -> PeerProblem | None:
    if key_proof(_ANY_KEY, key, b"") is None:
        return PeerProblem(
            "InvalidSpec",
            f"{key} is a weak key: anyone could decrypt its traffic. Give the machine another key",
        )
    holder = holders.get(str(key), name)
    if holder != name:
        return PeerProblem(
            "KeyInUse", f"the key {key} is certified for {holder}: give one of the two another key"
        )
    return None


def _another_key(
    peer: PeerFacts, key: WireGuardPublicKey, name: str, situation: Situation
) -> PeerProblem | None:
    """Return what to say of a machine that has this one's name now and another key.

    The certificate stays, and is renewed: otherwise each holder of the cluster key could let it expire.
    """
    newest = next((each for each in situation.sightings.get(name, ()) if each.key is not None), None)
    if newest is None or newest.key == key:
        return None
    if peer.spec.enrol_key and has_invite(peer, newest, situation):
        message = (
            f"the invite was used with the key {key}, and now also with the key {newest.key}, which gets no "
            "certificate: if the machine was set up again, delete this WesherPeer, then run "
            f"{invite_command(peer)}"
        )
        return PeerProblem("InviteUsed", message)
    message = (
        f"a machine named {name} has the key {newest.key}, which gets no certificate: if you replaced the "
        f"key on purpose, run kubectl wesher admit {peer.machine} --key {newest.key} "
        f"--mesh {situation.mesh.name}"
    )
    return PeerProblem("KeyChanged", message)


def _valid_certificate(peer: PeerFacts, verdict: Verdict, situation: Situation) -> Certificate | None:
    certificate, subject = Certificate.from_base64(peer.status.certificate), verdict.subject
    if certificate is None or subject is None or certificate.kind is not Kind.PEER:
        return None
    if certificate.serial <= situation.void_until.get(verdict.name, 0):
        return None
    signed = certificate.signed_text(subject)
    is_valid = any(
        key.id == certificate.authority and key.has_signed(signed, certificate.signature)
        for key in situation.authorities
    )
    return certificate if is_valid else None
