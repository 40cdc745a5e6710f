"""Keeps one mesh's authority, and has its nodes certified.

Reads and writes what `authority` decides about: the Secret with the authority's key, the ledger's
ConfigMap, the admission policy, and the condition of each WesherNode. The certificates themselves
are part of the WesherNodes' specs, which `places` writes: after the ledger, so that a crash in
between leaves a name in the ledger and no certificate that is not.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from wesher_common.certificate import Authority, AuthorityKey, Certificate
from wesher_common.conditions import Condition, carry_over
from wesher_common.errors import InvalidSpec
from wesher_common.event_logger import EventLogger
from wesher_common.keys import KEY_BYTES, WireGuardPublicKey
from wesher_common.mesh_document import IdentitySettings, MeshDocument
from wesher_common.names import authority_secret_name, issued_config_map_name
from wesher_common.printable import printable
from wesher_common.report import MAX_MESSAGE
from wesher_operator.kube import (
    ADMISSION_BINDING,
    ADMISSION_POLICY,
    SECRET,
    WESHER_NODE,
    Cluster,
    NotPermitted,
    Object,
)
from wesher_operator.reconcile import authority, manifests, node_restriction
from wesher_operator.reconcile.authority import Candidate, Issued, Ledger, Obstacle, Verdict
from wesher_operator.reconcile.facts import MemberFacts, MeshFacts
from wesher_operator.reconcile.places import WRITES_A_RUN
from wesher_operator.reconcile.world import World

LOOK_AGAIN = timedelta(seconds=30)
"""When what keeps certificates from being issued is looked at again: nothing tells when a policy is back."""
_log = EventLogger("wesher.mesh")


@dataclass(frozen=True, slots=True, kw_only=True)
class Certified:
    """What a run came to."""

    specs: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    """By node: the new certificate and its serial."""
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    """By member name, with the certificate that each node has after this run."""
    members: Sequence[tuple[MemberFacts, Verdict]] = ()
    obstacle: Obstacle | None = None
    """Why nothing is issued now."""
    again: datetime | None = None


class Certifier:
    """One mesh's certificates.

    Args:
        mesh: its name.
        world: what has been seen; what is written is taken in at once.
        cluster: where to read and write.
        service_account: of the agents.
        entropy: returns that many random bytes.

    """

    def __init__(
        self,
        mesh: str,
        world: World,
        cluster: Cluster,
        service_account: str,
        entropy: Callable[[int], bytes],
    ) -> None:
        self._mesh = mesh
        self._world = world
        self._cluster = cluster
        self._service_account = service_account
        self._entropy = entropy

    async def authority(
        self, mesh: MeshFacts, published: MeshDocument | None, members: Iterable[MemberFacts]
    ) -> tuple[Authority | None, IdentitySettings]:
        """Return the mesh's authority, made if it never had one, and what mesh.json says about it.

        There is no first one if the Secret is gone, or does not hold the authority that agents know.

        Args:
            mesh: whose.
            published: its mesh.json as agents have it.
            members: its WesherNodes.

        Raises:
            ClusterUnavailable: the API server does not answer.
            InvalidSpec: it refuses the Secret.

        """
        name = authority_secret_name(mesh.name)
        known = published.identity if published is not None else None
        keys = known.authorities if known is not None else ()
        if not keys:
            keys = _authority_of(mesh)
        if not keys and not any(member.spec.certificate for member in members):
            await self._make_secret(name)
        facts = self._world.keys.get(name)
        found = facts.authority if facts is not None else None
        if found is not None and (not keys or found.key in keys):
            return found, IdentitySettings(authorities=(found.key,), proof_key=found.proof_key.public)
        proof_key: WireGuardPublicKey | None = known.proof_key if known is not None else None
        return None, IdentitySettings(authorities=keys, proof_key=proof_key)

    async def issue(
        self,
        mesh: MeshFacts,
        found: Authority | None,
        candidates: Iterable[Candidate],
        write_ledger: Callable[[Object], Awaitable[None]],
        *,
        now: datetime,
        outside: Collection[str] = (),
    ) -> Certified:
        """Certify the nodes that are due, and put them into the ledger first.

        Args:
            mesh: whose they are.
            found: its authority, if there is one to sign with.
            candidates: its nodes.
            write_ledger: brings a ConfigMap to what it is to say.
            now: the time.
            outside: names of machines outside Kubernetes that are admitted.

        Raises:
            ClusterUnavailable: the API server does not answer.

        """
        if found is None:
            message = (
                f"Secret {authority_secret_name(mesh.name)} is gone, or holds another key than the one that "
                "agents trust. Everything keeps running, but no certificate is issued or renewed: put the "
                "Secret back from a backup"
            )
            return Certified(obstacle=Obstacle("AuthorityLost", message))
        candidates = sorted(candidates, key=lambda each: each.name)
        ledger = Ledger.of(self._world.config_maps.get(issued_config_map_name(mesh.name)))
        verdicts = authority.judge_all(candidates, ledger, found, now=now, others=outside)
        due = [each for each in candidates if verdicts[each.name].issue is not None]
        obstacle = await self._obstacle(now) if due else None
        entries: dict[str, Issued] = {
            name: verdict.proven for name, verdict in verdicts.items() if verdict.proven is not None
        }
        chosen = due[:WRITES_A_RUN] if obstacle is None else []
        for each in chosen:
            entry = verdicts[each.name].issue
            if entry is not None and ledger.entries.get(each.name) != entry:
                entries[each.name] = entry
        if entries:
            ledger = ledger.with_entries(entries, {*verdicts, *outside})
            try:
                await write_ledger(manifests.issued_config_map(mesh, ledger))
            except InvalidSpec as error:
                chosen, obstacle = [], Obstacle("RefusedByCluster", str(error))
        specs = self._sign(found, chosen, candidates, verdicts, now) if chosen else {}
        moments = [verdict.renewal for verdict in verdicts.values() if verdict.renewal is not None]
        again = min((moment for moment in moments if moment > now), default=None)
        if obstacle is not None:
            again = now + LOOK_AGAIN
        elif len(due) > len(chosen):
            again = now
        return Certified(
            specs=specs,
            verdicts=verdicts,
            members=[(each.member, verdicts[each.name]) for each in candidates],
            obstacle=obstacle,
            again=again,
        )

    async def report(self, certified: Certified, *, now: datetime) -> datetime | None:
        """Write the condition and the days left into each WesherNode; return when to go on.

        Raises:
            ClusterUnavailable: the API server does not answer.

        """
        written = 0
        for seen, verdict in certified.members:
            member = self._world.members.get(seen.name)
            # The report of one that has just been made comes with its first key.
            if member is None or member.uid != seen.uid or not member.status.public_key:
                continue
            condition = authority.node_condition(verdict, certified.obstacle, now)
            days = authority.days_left(verdict.certificate, now)
            observed = [each.model_dump(by_alias=True) for each in member.status.conditions]
            wanted = _told(condition, member)
            (entry,) = carry_over([wanted], observed, now=now)
            if entry in observed and days == member.status.certificate_days:
                continue
            if written == WRITES_A_RUN:
                return now
            written += 1
            body = {
                "metadata": {"name": member.name, "uid": member.uid},
                "status": {"conditions": [entry], "certificateDays": days},
            }
            self._world.observe(
                WESHER_NODE, await self._cluster.apply(WESHER_NODE, body, subresource="status")
            )
        return authority.next_midnight(now) if certified.members else None

    async def _make_secret(self, name: str) -> None:
        facts = self._world.keys.get(name)
        if facts is not None and facts.authority is None:
            return  # a Secret without a seed, which is not overwritten
        # Also where one was seen: it may be deleted by now, and the news of that still on the way.
        made = await self._cluster.create(
            SECRET, manifests.authority_secret(name, self._mesh, self._entropy(KEY_BYTES))
        )
        if made is not None:
            self._world.observe(SECRET, made)
            _log.info("authority generated", mesh=self._mesh, secret=name)
        elif facts is None and (made := await self._cluster.get(SECRET, name)) is not None:
            self._world.observe(SECRET, made)

    async def _obstacle(self, now: datetime) -> Obstacle | None:
        """Look why nothing may be issued now: at the policy first, whose reply has the API server's time."""
        name = node_restriction.policy_name(self._service_account)
        try:
            weakness = node_restriction.weakness(
                await self._cluster.get(ADMISSION_POLICY, name),
                await self._cluster.get(ADMISSION_BINDING, name),
                namespace=self._cluster.namespace,
                service_account=self._service_account,
            )
        except NotPermitted as error:
            weakness = str(error)
        if weakness:
            message = (
                f"{weakness}, so one agent's token may write every node's key: no certificate is issued. "
                "Install the chart with rbac.nodeRestriction=true"
            )
            return Obstacle("NodeRestrictionOff", message)
        return authority.clock_obstacle(now, self._cluster.server_time())

    def _sign(
        self,
        found: Authority,
        chosen: Iterable[Candidate],
        candidates: Iterable[Candidate],
        verdicts: dict[str, Verdict],
        now: datetime,
    ) -> dict[str, tuple[str, int]]:
        """Sign, and say so in the verdicts; return certificate and serial by node."""
        texts = [each.member.spec.certificate for each in candidates]
        texts += [peer.status.certificate for peer in self._world.peers_of(self._mesh)]
        known = [Certificate.from_base64(text) for text in texts]
        serial = authority.next_serial((each for each in known if each is not None), now)
        specs = {}
        for number, each in enumerate(chosen):
            entry = verdicts[each.name].issue
            if entry is None:
                continue
            subject = each.subject(WireGuardPublicKey.from_base64(entry.key))
            certificate = found.issue(subject, serial=serial + number)
            specs[each.node.name] = certificate.to_base64(), certificate.serial
            renewal = authority.renewal(certificate)
            verdicts[each.name] = replace(verdicts[each.name], certificate=certificate, renewal=renewal)
            _log.info("certificate issued", mesh=self._mesh, node=each.node.name, serial=certificate.serial)
        return specs


def _authority_of(mesh: MeshFacts) -> tuple[AuthorityKey, ...]:
    """Return the authority that the mesh's status names."""
    text = str((mesh.status.get("identity") or {}).get("authority") or "")
    try:
        return (AuthorityKey.from_base64(text, field_name="status.identity.authority"),) if text else ()
    except InvalidSpec:
        return ()


def _told(condition: Condition, member: MemberFacts) -> Condition:
    message = printable(condition.message)[:MAX_MESSAGE]
    return replace(condition, message=message, observed_generation=member.generation)
