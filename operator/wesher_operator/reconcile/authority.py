"""Which node gets which certificate, and why one gets none.

Pure: it is given the time and the authority's key. A certificate says that a name, a WireGuard
key and an overlay address belong together, so everything here guards the key: it must be proven,
no other node's, and the one that the node had before. A node may come with another key when its
WesherNode, Node, machine or boot is another one than when the former key was proven: an agent's
token alone, which a pod could steal, changes none of these.

Left to others: the Secret, the ledger's ConfigMap and the objects (`certifier`), who may be in the
mesh without a certificate (`modes`).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, time, timedelta
from functools import cached_property, lru_cache
from typing import Any

from wesher_common.certificate import EARLY_MS, Authority, AuthorityKey, Certificate, Subject
from wesher_common.conditions import Condition
from wesher_common.errors import InvalidSpec
from wesher_common.key_proof import key_proof, proof_statement
from wesher_common.keys import WireGuardPublicKey
from wesher_common.overlay import IPAddress, IPNetwork
from wesher_common.report import SHOWN_NAMES
from wesher_operator.reconcile.facts import MemberFacts, NodeFacts, ObjectFacts
from wesher_operator.reconcile.routes import held_networks

CONDITION = "Certified"
LEDGER_FILE = "issued.json"
MAX_LEDGER_BYTES = 900_000
"""Of the ledger's text: a ConfigMap takes 1 MiB. Names that are gone make room, the oldest first."""
MOST_CLOCK_ERROR = timedelta(seconds=60)
"""Between the operator's clock and the API server's."""
EXPIRES_SOON = 7
"""Days left at which a certificate should have been renewed long before."""
_JITTER = 0.05
"""Of the two thirds of its life after which a certificate is renewed: they were all issued in one hour."""


@dataclass(frozen=True, slots=True)
class Issued:
    """What a name was last certified for."""

    key: str
    """The WireGuard public key, in base64."""
    incarnation: str
    """Of the node, when that key was last proven; see `incarnation`."""


@dataclass(frozen=True)
class Ledger:
    """To which names certificates were issued, kept in ConfigMap ``<mesh>-issued``.

    A name stands here before its first certificate is written, so no certificate is forgotten.
    """

    entries: Mapping[str, Issued] = field(default_factory=dict)
    """By member name, the one that changed last at the end."""

    @cached_property
    def keys(self) -> frozenset[str]:
        """Every key that was certified."""
        return frozenset(entry.key for entry in self.entries.values())

    @classmethod
    def of(cls, config_map: ObjectFacts | None) -> Ledger:
        """Read the ConfigMap as it stands; an entry that is absent, or cannot be read, lists no name.

        Then the certificates in the WesherNodes still say which keys were certified.
        """
        data = (config_map.body.get("data") or {}) if config_map is not None else {}
        try:
            content: dict[str, Any] = json.loads(data.get(LEDGER_FILE, "{}"))
            entries = dict(content.items())
        except (ValueError, TypeError, AttributeError):
            return cls()
        return cls({name: read for name, entry in entries.items() if (read := _issued(entry)) is not None})

    def to_json(self) -> str:
        """Return the ConfigMap's text."""
        content = {
            name: {"key": entry.key, "incarnation": entry.incarnation} for name, entry in self.entries.items()
        }
        return json.dumps(content, separators=(",", ":")) + "\n"

    def with_entries(self, changed: Mapping[str, Issued], present: Iterable[str]) -> Ledger:
        """Return the ledger after issuing, cut to what a ConfigMap takes.

        Args:
            changed: entries by member name.
            present: names that must stay; of the others the oldest go first.

        """
        entries = {name: entry for name, entry in self.entries.items() if name not in changed}
        entries.update(changed)
        ledger, kept = Ledger(entries), set(present) | changed.keys()
        gone = iter([name for name in entries if name not in kept])
        excess = len(ledger.to_json()) - MAX_LEDGER_BYTES
        while excess > 0 and (name := next(gone, None)) is not None:
            # Its comma goes with it, the braces and the line break of its own text do not.
            excess -= len(Ledger({name: entries.pop(name)}).to_json()) - 2
        return Ledger(entries)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A node that may get a certificate."""

    member: MemberFacts
    """Its WesherNode."""
    node: NodeFacts
    name: str
    """Under which it gossips."""
    address: IPAddress
    """Its overlay address, as its WesherNode will say."""
    location: str
    """The same."""
    machine: str
    """The same."""
    networks: tuple[IPNetwork, ...] = ()
    """Its addresses and pod networks that the mesh carries."""
    after: int = 0
    """Unix time in milliseconds up to which its certificates are void: the next one has a later serial."""

    def subject(self, key: WireGuardPublicKey) -> Subject:
        """Return what a certificate of this node says."""
        return Subject(
            name=self.name,
            public_key=key,
            address=self.address,
            location=self.location,
            networks=self.networks,
        )


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why nothing is issued in a whole mesh now."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What is to be done for one node."""

    reason: str
    """CamelCase; empty where its key may be certified."""
    message: str = ""
    certificate: Certificate | None = None
    """That is valid for its key, name and address."""
    issue: Issued | None = None
    """What the ledger has to say before a certificate is issued; None where none is due."""
    proven: Issued | None = None
    """A new entry of the ledger for a key that stayed the same, after a reboot."""
    renewal: datetime | None = None
    """When the certificate is due for renewal."""


def incarnation(candidate: Candidate) -> str:
    """Return a hash that changes with a node's WesherNode, Node, machine or boot."""
    return incarnation_of(candidate.member, candidate.node)


def incarnation_of(member: MemberFacts, node: NodeFacts) -> str:
    """Return the same for a WesherNode and its Node."""
    boot, machine = (*node.machine, "", "")[:2]
    parts = [member.uid, node.uid, machine, boot]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def clock_obstacle(now: datetime, server: datetime | None) -> Obstacle | None:
    """Return why the operator's clock is not good enough to sign with, or None.

    Args:
        now: the operator's.
        server: the API server's; None if its replies do not have it.

    """
    if server is None:
        return Obstacle("ClockDiffers", "the API server's replies have no Date to compare the clock with")
    error = now - server
    if abs(error) <= MOST_CLOCK_ERROR:
        return None
    seconds = round(abs(error).total_seconds())
    side = "ahead of" if error > timedelta(0) else "behind"
    message = (
        f"the operator's clock is {seconds} s {side} the API server's, so no certificate is issued: "
        "set the clocks of their nodes"
    )
    return Obstacle("ClockDiffers", message)


def judge_all(
    candidates: Sequence[Candidate],
    ledger: Ledger,
    authority: Authority,
    *,
    known: Sequence[AuthorityKey] = (),
    others: Collection[str] = (),
    now: datetime,
) -> dict[str, Verdict]:
    """Decide about every node's certificate, by member name.

    Args:
        candidates: the nodes of the mesh that have a WesherNode.
        ledger: as it stands.
        authority: the one that signs.
        known: others whose certificates the nodes may have.
        others: names of further members, whose keys no node may have.
        now: the time.

    """
    keys = (authority.key, *known)
    names = {*others, *(each.name for each in candidates)}
    holders = {entry.key: name for name, entry in ledger.entries.items() if name in names}
    for each in candidates:
        # The ledger was lost, or is from a backup.
        if _is_certified(each, keys):
            holders.setdefault(each.member.status.public_key, each.name)
    verdicts = {}
    for each in sorted(candidates, key=lambda c: (c.member.created_at is None, c.member.created_at, c.name)):
        verdict = verdicts[each.name] = _judge(each, ledger, authority, keys, holders, now=now)
        if verdict.issue is not None:
            holders.setdefault(verdict.issue.key, each.name)
    return verdicts


def _judge(
    candidate: Candidate,
    ledger: Ledger,
    authority: Authority,
    known: Sequence[AuthorityKey],
    holders: Mapping[str, str],
    *,
    now: datetime,
) -> Verdict:
    """Decide about one node's certificate; ``holders`` are names by the key they are certified for."""
    member, name = candidate.member, candidate.name
    current = Certificate.from_base64(member.spec.certificate)
    key = _reported_key(member)
    if key is None:
        return Verdict(reason="NotReported", message="its agent has not reported a WireGuard key yet")
    valid = current if current is not None and _is_valid(current, candidate, key, authority.key) else None
    due = renewal(valid) if valid is not None else None
    entry = Issued(str(key), incarnation(candidate))
    former = ledger.entries.get(name)
    if _is_certified(candidate, known):
        # A ledger from a backup may have the key before it.
        is_changed = False
    elif former is None:
        # This is the first certificate, or the ledger was lost, or the node has another name than before.
        is_changed = current is not None and entry.key not in ledger.keys
    else:
        is_changed = former.key != entry.key and former.incarnation == entry.incarnation
    # It has proven this key to the former authority, whose seed the proof was made for.
    was_proven = former == entry and current is not None and current.authority != authority.key.id
    reason, message = _objection(
        candidate,
        key,
        holders.get(entry.key, name),
        is_proven=was_proven or _is_proven(member, key, authority),
        is_changed=is_changed and member.admitted_key != entry.key,
    )
    if reason:
        return Verdict(reason=reason, message=message, certificate=valid, renewal=due)
    # An etcd that was restored from a backup has an older one than the agent.
    is_older = current is not None and current.serial < announced(member, now)
    if valid is None or due is None or now >= due or is_older:
        return Verdict(reason="", certificate=valid, issue=entry, renewal=due)
    # Otherwise each reboot would allow one change of the key at any time after it.
    is_news = former != entry and member.status.machine == candidate.machine
    return Verdict(reason="", certificate=valid, proven=entry if is_news else None, renewal=due)


def _objection(
    candidate: Candidate, key: WireGuardPublicKey, holder: str, *, is_proven: bool, is_changed: bool
) -> tuple[str, str]:
    """Return reason and message of why a node's key must not be certified; empty if it may."""
    member = candidate.member
    if not member.status.key_proof:
        return "NotReported", "its agent has not proven its key yet: an agent of an older release cannot"
    if not is_proven:
        message = (
            f"its agent has not proven that it has the private half of {key}: its token may be stolen, "
            "or it has not read the current mesh.json yet"
        )
        return "KeyProof", message
    if holder != candidate.name:
        return "KeyInUse", f"its key {key} is certified for {holder}: give one of the two another key"
    if is_changed:
        node, mesh = member.spec.node_name, member.spec.mesh_ref.name
        message = (
            f"its agent now has the key {key}, without a reboot: if you replaced the key on purpose, "
            f"run kubectl wesher admit {node} --key {key} --mesh {mesh}"
        )
        return "KeyChanged", message
    return "", ""


def next_serial(certificates: Iterable[Certificate], now: datetime) -> int:
    """Return the next serial: the time in milliseconds, and later than every one that was issued.

    One that is more than a day ahead of the clock does not count: agents refuse it.
    """
    moment = round(now.timestamp() * 1000)
    known = (each.serial for each in certificates)
    return max([moment, *(serial + 1 for serial in known if serial <= moment + EARLY_MS)])


def renewal(certificate: Certificate) -> datetime:
    """Return when a certificate is due: after two thirds of its life, or up to 5 % of them earlier.

    Never later, so that each certificate has `GRACE_DAYS` left when another one is signed.

    The signature decides: it is as good as random, and the same for each process that asks.
    """
    share = int.from_bytes(certificate.signature[:2]) / 0xFFFF
    life = timedelta(hours=certificate.hours) * 2 / 3
    return datetime.fromtimestamp(certificate.serial / 1000, UTC) + life * (1 - _JITTER * share)


def days_left(certificate: Certificate | None, now: datetime) -> int:
    """Return in how many days a certificate expires; it changes at midnight UTC, for all at once."""
    if certificate is None:
        return 0
    expires = datetime.fromtimestamp(certificate.expires / 1000, UTC)
    return max(0, (expires.date() - now.astimezone(UTC).date()).days)


def next_midnight(now: datetime) -> datetime:
    """Return when `days_left` changes next."""
    return datetime.combine(now.astimezone(UTC).date() + timedelta(days=1), time(), UTC)


def node_condition(verdict: Verdict, obstacle: Obstacle | None, now: datetime) -> Condition:
    """Return the condition of a node's WesherNode.

    Args:
        verdict: on the node, with its certificate as it stands after this run.
        obstacle: why nothing is issued in the mesh now.
        now: the time.

    """
    if verdict.reason == "NotReported":
        return Condition(CONDITION, "Unknown", "NotReported", verdict.message)
    if verdict.reason:
        return Condition(CONDITION, "False", verdict.reason, verdict.message)
    if verdict.certificate is None:
        reason, message = (obstacle.reason, obstacle.message) if obstacle else ("Issuing", "")
        return Condition(CONDITION, "False" if obstacle else "Unknown", reason, message)
    days = days_left(verdict.certificate, now)
    if days <= EXPIRES_SOON:
        why = f": {obstacle.message}" if obstacle else ""
        message = f"the certificate expires in {days} days and was not renewed{why}"
        return Condition(CONDITION, "True", "CertificateExpires", message)
    return Condition(CONDITION, "True", "Issued", "")


def mesh_condition(
    verdicts: Mapping[str, Verdict],
    obstacle: Obstacle | None,
    waiting: Sequence[str],
    now: datetime,
    change: str = "",
) -> Condition:
    """Return the condition of the mesh.

    Args:
        verdicts: by member name.
        obstacle: why nothing is issued now.
        waiting: names of nodes that have not announced a certificate.
        now: the time.
        change: how far the replacement of the authority has come; empty while there is none.

    """
    if obstacle is not None:
        return Condition(CONDITION, "False", obstacle.reason, obstacle.message)
    for name, verdict in sorted(verdicts.items()):
        condition = node_condition(verdict, None, now)
        if condition.status == "False" or condition.reason == "CertificateExpires":
            return Condition(CONDITION, "False", condition.reason, f"{name}: {condition.message}")
    if change:
        return Condition(CONDITION, "Unknown", "NewAuthority", change)
    if waiting:
        more = f" and {len(waiting) - SHOWN_NAMES} more" if len(waiting) > SHOWN_NAMES else ""
        message = f"no certificate yet: {', '.join(waiting[:SHOWN_NAMES])}{more}"
        return Condition(CONDITION, "Unknown", "WaitingForAgents", message)
    return Condition(CONDITION, "True", "AllCertified", "every agent announces its certificate")


def announced(member: MemberFacts, now: datetime) -> int:
    """Return the serial that a node's agent announces; 0 for one that is too far ahead of the clock.

    The next certificates of all nodes get later serials, so a lie must leave room: members whose clocks
    are behind accept them too.
    """
    serial = member.status.certificate_serial
    return serial if serial <= round(now.timestamp() * 1000) + EARLY_MS // 2 else 0


def _reported_key(member: MemberFacts) -> WireGuardPublicKey | None:
    try:
        return WireGuardPublicKey.from_base64(member.status.public_key)
    except InvalidSpec:
        return None


# A mesh of a thousand nodes judges each of them after each report.
@lru_cache(maxsize=16384)
def _proof(authority: Authority, key: WireGuardPublicKey, statement: bytes) -> bytes | None:
    return key_proof(authority.proof_key, key, statement)


def _is_proven(member: MemberFacts, key: WireGuardPublicKey, authority: Authority) -> bool:
    statement = proof_statement(member.spec.mesh_ref.uid, member.spec.node_name, key)
    wanted = _proof(authority, key, statement)
    try:
        given = base64.b64decode(member.status.key_proof, validate=True)
    except ValueError:
        return False
    return wanted is not None and hmac.compare_digest(given, wanted)


def _is_valid(
    certificate: Certificate, candidate: Candidate, key: WireGuardPublicKey, authority: AuthorityKey
) -> bool:
    """Tell whether a certificate is the authority's, for a node as it is to be."""
    signed = certificate.signed_text(candidate.subject(key))
    return certificate.authority == authority.id and authority.has_signed(signed, certificate.signature)


def _is_certified(candidate: Candidate, known: Iterable[AuthorityKey]) -> bool:
    """Tell whether a node has a certificate for the key that it reports, as its WesherNode says now."""
    certificate, key = (
        Certificate.from_base64(candidate.member.spec.certificate),
        _reported_key(candidate.member),
    )
    return (
        certificate is not None
        and key is not None
        and any(_was_valid(certificate, candidate, key, each) for each in known)
    )


def _issued(entry: object) -> Issued | None:
    match entry:
        case {"key": str(key), "incarnation": str(incarnation)}:
            return Issued(key, incarnation)
    return None


def _was_valid(
    certificate: Certificate, candidate: Candidate, key: WireGuardPublicKey, authority: AuthorityKey
) -> bool:
    """Tell the same for what the WesherNode says, where address, location or routes are about to change."""
    member = candidate.member
    before = replace(
        candidate,
        address=member.address,
        location=member.spec.location,
        networks=held_networks(member),
    )
    return _is_valid(certificate, before, key, authority)
