"""Brings a machine outside Kubernetes what its mesh's authority has signed for it.

The operator publishes certificates of such machines, and key rings that are sealed to one
machine each. Agents in Kubernetes have both from the mounted news. They send each to its
owner if it is alive, and answer at the door: a request on the gossip port that needs no
key, by which a machine comes back that has missed a change of the key ring. Everything is
signed, so it may come from any host. Pure; `mesh.member` sends and asks.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from heapq import nsmallest
from math import inf
from types import MappingProxyType
from typing import Final

from wesher_agent.mesh.identity import Identity, Rank
from wesher_agent.mesh.local import Local
from wesher_agent.mesh.news import MARK
from wesher_agent.mesh.nodemeta import COMPACT, NodeMeta
from wesher_agent.mesh.place import Place
from wesher_agent.mesh.roster import RosterMember
from wesher_agent.mesh.signature_budget import SignatureBudget
from wesher_agent.swim.address import Address
from wesher_agent.swim.source import Source, Way
from wesher_agent.wire.limits import KNOCK_ANSWER
from wesher_common.errors import PeerMisbehaved
from wesher_common.keys import ClusterKey, KeyRing
from wesher_common.mesh_document import MetadataForm
from wesher_common.news import NewsKind, PeerCertificate, RingItem, key_hash, pack_news, unpack_news

SENDERS: Final = 3
"""Agents that send one item: one of them may have failed without anybody knowing yet."""
SEND_SECONDS: Final = 10.0
"""Between two times that an agent sends a machine the same thing."""
RING_SENDS: Final = 3
"""How often a ring is sent to a machine whose announced key does not tell whether it has it."""
ANSWERS_A_SECOND: Final = 5.0
"""At the door, to all hosts together; one host gets one."""
MOST_ASKERS: Final = 256
"""Hosts remembered to that end."""
FAILED_CHECKS: Final[Mapping[Way, int]] = MappingProxyType({Way.DATAGRAM: 10, Way.REQUEST: 10, Way.ANSWER: 3})
"""Received items with a false signature that are checked in a second."""
FAILED_CHECKS_OF_ONE: Final = 3
"""Of them, those from one IP address."""
LACKING_SECONDS: Final = 60.0
"""How long a machine finds no node of its mesh, or gets no certificate, before it knocks at the door."""
KNOCK_SECONDS: Final = 30.0
"""Between two knocks."""
MOST_KNOCKS: Final = 3
"""Hosts asked at once."""


@dataclass(frozen=True, slots=True)
class Message:
    """A user message to send."""

    to: Address
    payload: bytes
    reliable: bool
    """Whether to send it over a stream. A datagram passes a NAT that its owner is behind. A flood of forged
    datagrams can use up what the owner checks of them. So each try goes another way."""


class Delivery:
    """What one member has to hand on, and what it takes for itself.

    Args:
        identity: judges what arrives.

    """

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._certificates: dict[str, PeerCertificate] = {}
        """By the name of their owner."""
        self._rings: dict[bytes, RingItem] = {}
        """By the hash of their owner's WireGuard key."""
        self._at_door: dict[bytes, list[tuple[NewsKind, bytes]]] = {}
        """What an owner gets at the door, by the hash of its key."""
        self._statement: tuple[NewsKind, bytes] | None = None
        self._sent_at: dict[tuple[NewsKind, bytes], float] = {}
        """By kind and hash of the owner's key."""
        self._ring_sends: Counter[tuple[bytes, int]] = Counter()
        """By hash of the owner's key and number of the ring."""
        self._answers = _Allowance(ANSWERS_A_SECOND)
        self._failed = SignatureBudget(FAILED_CHECKS, of_one=FAILED_CHECKS_OF_ONE)
        self._over_stream: set[tuple[NewsKind, bytes]] = set()
        """What was last sent as a datagram."""
        self._asked_at: dict[str, float] = {}
        """When a host was last answered at the door."""
        self._look_at = inf
        self._lacking_since: float | None = None
        self._knock_at = -inf

    @property
    def next_timer(self) -> float:
        """When `to_send` and `must_knock` want to be asked again; infinite while nothing is to be done."""
        return self._look_at

    def start(self, local: Local, *, now: float) -> None:
        """Begin; a machine with a certificate looks whether it finds its mesh."""
        if not local.options.in_kubernetes and self._identity.own_keys:
            self._look_at = now + SEND_SECONDS

    # In Kubernetes.

    def news_published(self, items: Iterable[tuple[NewsKind, bytes]], *, now: float) -> None:
        """Take the whole of the mounted news; what cannot be read is left out."""
        self._certificates, self._rings, self._at_door, self._statement = {}, {}, {}, None
        self._over_stream.clear()
        for kind, data in items:
            with suppress(PeerMisbehaved):
                match kind:
                    case NewsKind.CERTIFICATE:
                        certificate = PeerCertificate.unpacked(data)
                        self._certificates[certificate.subject.name] = certificate
                        self._at_door.setdefault(key_hash(certificate.subject.public_key), []).append(
                            (kind, data)
                        )
                    case NewsKind.RING:
                        ring = RingItem.unpacked(data)
                        self._rings[ring.key_hash] = ring
                        self._at_door.setdefault(ring.key_hash, []).append((kind, data))
                    case NewsKind.STATEMENT:
                        self._statement = kind, data
        self._ring_sends = Counter(
            {
                (owner, number): count
                for (owner, number), count in self._ring_sends.items()
                if owner in self._rings and self._rings[owner].number == number
            }
        )
        if self._at_door:
            self._look_at = now

    def to_send(self, local: Local, members: Mapping[str, RosterMember], *, now: float) -> list[Message]:
        """Return what living machines lack and this agent is to send them."""
        self._look_at = now + SEND_SECONDS if self._at_door else inf
        self._sent_at = {what: at for what, at in self._sent_at.items() if now < at + SEND_SECONDS}
        lacking = [*self._lacking_certificates(members), *self._lacking_rings(local, members)]
        if not lacking:
            return []
        agents = [local.name, *(name for name, member in members.items() if member.is_living_node)]
        messages = []
        for kind, member, owner, data in lacking:
            if (kind, owner) in self._sent_at or local.name not in _senders(agents, member.name):
                continue
            self._sent_at[kind, owner] = now
            if kind is NewsKind.RING:
                self._ring_sends[owner, self._rings[owner].number] += 1
            reliable = (kind, owner) in self._over_stream
            self._over_stream ^= {(kind, owner)}
            messages.append(Message(member.address, MARK + bytes([kind]) + data, reliable))
        return messages

    def _lacking_certificates(
        self, members: Mapping[str, RosterMember]
    ) -> Iterable[tuple[NewsKind, RosterMember, bytes, bytes]]:
        for name, item in self._certificates.items():
            member = members.get(name)
            if member is None or member.meta is None or not member.state.is_alive:
                continue
            announced = member.meta.certificate
            # Whatever key it is known by: after `wesher rekey`, gossip keeps the former key until the new
            # one is certified. Another machine that uses the name could not use the certificate.
            if announced is None or announced.serial < item.certificate.serial:
                yield NewsKind.CERTIFICATE, member, key_hash(item.subject.public_key), item.packed()

    def _lacking_rings(
        self, local: Local, members: Mapping[str, RosterMember]
    ) -> Iterable[tuple[NewsKind, RosterMember, bytes, bytes]]:
        if not self._rings:
            return
        for member in members.values():
            if member.meta is None or member.meta.public_key is None or not member.state.is_alive:
                continue
            owner = key_hash(member.meta.public_key)
            item = self._rings.get(owner)
            if item is None or not member.verdict.is_certified:
                continue
            has_other = member.meta.ring != local.ring.primary.hint
            if has_other or self._ring_sends[owner, item.number] < RING_SENDS:
                yield NewsKind.RING, member, owner, item.packed()

    def answer(self, token: bytes, sender: Address, now: float) -> bytes | None:
        """Answer at the door: what there is for a hash of a WireGuard key; None for nothing.

        The hash is not secret, and neither is what is given: a ring opens with the private key only.
        """
        items = self._at_door.get(token)
        if items is None:
            # Before the allowance, so that guesses cost no other machine its answer.
            return None
        if now < self._asked_at.get(sender.ip, -inf) + 1.0 or not self._answers.take(now):
            return None
        if len(self._asked_at) >= MOST_ASKERS:
            self._asked_at.clear()
        self._asked_at[sender.ip] = now
        answer = pack_news(items)
        whole = answer + pack_news([self._statement] if self._statement is not None else [])
        return next((each for each in (whole, answer) if len(each) <= KNOCK_ANSWER.most), None)

    # Outside Kubernetes.

    def must_knock(self, local: Local, members: Mapping[str, RosterMember], *, now: float) -> bool:
        """Tell whether to ask at the door now.

        For a minute no node of the mesh has been alive, or an invited machine has had no certificate: another
        machine may use its name, so that what is sent to it arrives there.
        """
        if local.options.in_kubernetes or not self._identity.own_keys:
            return False
        self._look_at = now + SEND_SECONDS
        is_certified = local.place is not None and local.place.certificate is not None
        is_waiting = local.joined is not None and not is_certified
        if not is_waiting and any(member.is_living_node for member in members.values()):
            self._lacking_since, self._knock_at = None, -inf
            return False
        if self._lacking_since is None:
            self._lacking_since = now
        may_knock = is_certified or is_waiting
        if not may_knock or now < max(self._lacking_since + LACKING_SECONDS, self._knock_at):
            return False
        self._knock_at = now + KNOCK_SECONDS
        return True

    def received(
        self, kind: NewsKind, data: bytes, source: Source, local: Local, *, now: float
    ) -> Place | KeyRing | None:
        """Return what an item brings this machine; None if it is for another one, or not news.

        Args:
            kind: of the item.
            data: the item.
            source: the host that has sent it.
            local: this machine.
            now: the time.

        Raises:
            PeerMisbehaved: it is not an item, or the mesh's authority has not signed it.

        """
        if local.options.in_kubernetes or not self._identity.own_keys:
            # In Kubernetes a node has both from the API server and the kubelet.
            return None
        match kind:
            case NewsKind.CERTIFICATE:
                return self._certified(PeerCertificate.unpacked(data), source, local, now)
            case NewsKind.RING:
                return self._opened(RingItem.unpacked(data), source, local, now)
            case NewsKind.STATEMENT:
                return None

    def _certified(self, item: PeerCertificate, source: Source, local: Local, now: float) -> Place | None:
        subject, certificate = item.subject, item.certificate
        present = local.place.certificate if local.place is not None else None
        if (subject.name, subject.public_key) != (local.name, local.private_key.public):
            return None
        if present is not None and certificate.serial <= present.serial:
            return None
        self._check_allowance(source, now)
        announced = NodeMeta(
            overlay_address=subject.address,
            public_key=subject.public_key,
            location=subject.location,
            networks=subject.networks,
            certificate=certificate,
        )
        verdict = self._identity.verdict(subject.name, announced, now=now)
        if verdict.rank is not Rank.OWN or subject.address not in local.document.overlay:
            self._failed.failed(source)
            raise PeerMisbehaved("certificate-refused", str(verdict.refusal))
        return Place(
            overlay_address=subject.address,
            location=subject.location,
            routes=subject.networks,
            certificate=certificate,
        )

    def _check_allowance(self, source: Source, now: float) -> None:
        has_tunnel = self._identity.has_tunnel_to(source.holder)
        if not self._failed.allows(source, has_tunnel=has_tunnel, now=now):
            raise PeerMisbehaved("item-unread")

    def _opened(self, item: RingItem, source: Source, local: Local, now: float) -> KeyRing | None:
        if item.key_hash != key_hash(local.private_key.public) or item.number <= local.ring.number:
            return None
        self._check_allowance(source, now)
        if not any(item.is_signed_by(key) for key in self._identity.own_keys):
            self._failed.failed(source)
            raise PeerMisbehaved("ring-refused")
        keys = item.opened(local.private_key)
        if keys is None:
            raise PeerMisbehaved("ring-unreadable")
        primary, *accepted = dict.fromkeys(map(ClusterKey, keys))
        return KeyRing(primary, tuple(accepted), item.number)


def read_message(payload: bytes) -> list[tuple[NewsKind, bytes]]:
    """Return the item in a user message, its kind and its bytes; none if it is not wesher's."""
    mark, kind = payload[:1], payload[1:2]
    if mark != MARK or not kind or kind[0] not in {*NewsKind}:
        return []
    return [(NewsKind(kind[0]), payload[2:])]


def read_answer(answer: bytes) -> list[tuple[NewsKind, bytes]]:
    """Return the items of an answer at the door.

    Raises:
        PeerMisbehaved: they are cut short.

    """
    return unpack_news(answer)


def form_of_nodes(members: Iterable[RosterMember]) -> MetadataForm | None:
    """Return in which form the living nodes of the mesh announce their metadata; None if there are none.

    They change to the compact form together, once all members read it. A machine outside Kubernetes does
    not learn of that, so it follows them. It does not follow others like itself, which would wait for it.
    """
    forms = {member.raw_meta.startswith(COMPACT) for member in members if member.is_living_node}
    if not forms:
        return None
    return "Compact" if all(forms) else "Gob"


def _senders(agents: Iterable[str], owner: str) -> list[str]:
    """Return which agents send to a machine: all agents agree on them, and each machine has others."""
    return nsmallest(SENDERS, agents, key=lambda agent: hashlib.sha256(f"{agent}\0{owner}".encode()).digest())


class _Allowance:
    """A number of times a second, and as many at once."""

    def __init__(self, a_second: float) -> None:
        self._a_second = self._left = a_second
        self._counted_at = -inf

    def take(self, now: float) -> bool:
        """Take one, if there is one."""
        elapsed = now - self._counted_at
        self._left = min(self._a_second, self._left + elapsed * self._a_second)
        self._counted_at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
