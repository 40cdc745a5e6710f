"""Keeps one mesh's authority, and has its nodes certified.

Reads and writes what `authority` decides about: the Secret with the authority's key, the ledger's
ConfigMap, the admission policy, and the condition of each WesherNode. The certificates themselves
are part of the WesherNodes' specs, which `places` writes: after the ledger, so that a crash in
between leaves a name in the ledger and no certificate that is not.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from wesher_common.certificate import Authority, AuthorityKey, Certificate
from wesher_common.conditions import Condition, carry_over
from wesher_common.errors import InvalidSpec
from wesher_common.event_logger import EventLogger
from wesher_common.keys import KEY_BYTES, WireGuardPublicKey
from wesher_common.mesh_document import IdentityMode, MeshDocument
from wesher_common.names import ADMIT_KEY_ANNOTATION, authority_secret_name, issued_config_map_name
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
from wesher_operator.reconcile.authorities import Agent, Authorities, AuthoritySecret, decide
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

    specs: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    """By node: the fields of its WesherNode's spec that change with a new certificate."""
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    """By member name, with the certificate that each node has after this run."""
    members: Sequence[tuple[MemberFacts, Verdict]] = ()
    obstacle: Obstacle | None = None
    """Why nothing is issued now."""
    again: datetime | None = None
    time: datetime | None = None
    """The API server's, if the operator's clock is wrong."""


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

    async def authorities(
        self, mesh: MeshFacts, published: MeshDocument | None, agents: Sequence[Agent], *, now: datetime
    ) -> Authorities:
        """Return the mesh's authorities; the first one is made if it never had one.

        Args:
            mesh: whose.
            published: its mesh.json as agents have it.
            agents: of its WesherNodes.
            now: the time.

        Raises:
            ClusterUnavailable: the API server does not answer.
            InvalidSpec: it refuses the Secret.

        """
        name = authority_secret_name(mesh.name)
        known = published.identity if published is not None else None
        keys = known.authorities if known is not None else ()
        if not keys:
            keys = _authorities_of(mesh)
        if not keys and not any(agent.spec.certificate for agent in agents):
            await self._make_secret(name)
        facts = self._world.keys.get(name)
        decided = decide(
            facts.authority or AuthoritySecret(problem="has an entry cluster-key")
            if facts is not None
            else None,
            keys,
            agents,
            published,
            secret_name=name,
            now=self._better_time(now) or now,
        )
        self._log_changes(keys, decided)
        return decided

    def _log_changes(self, before: Sequence[AuthorityKey], decided: Authorities) -> None:
        if not before or decided.problem:
            return
        for key in decided.trusted:
            if key not in before:
                _log.info("new authority published", mesh=self._mesh, authority=key)
        for key in before:
            if key not in decided.trusted:
                _log.info("former authority dropped", mesh=self._mesh, authority=key)

    async def issue(
        self,
        mesh: MeshFacts,
        authorities: Authorities,
        candidates: Iterable[Candidate],
        mode: IdentityMode,
        write_ledger: Callable[[Object], Awaitable[None]],
        *,
        now: datetime,
        outside: Collection[str] = (),
    ) -> Certified:
        """Certify the nodes that are due, and put them into the ledger first.

        Args:
            mesh: whose they are.
            authorities: the mesh's.
            candidates: its nodes.
            mode: of the mesh, which is kept beside the ledger.
            write_ledger: brings a ConfigMap to what it is to say.
            now: the time.
            outside: names of machines outside Kubernetes that are admitted.

        Raises:
            ClusterUnavailable: the API server does not answer.

        """
        found = authorities.signer
        if authorities.problem:
            message = (
                f"{authorities.problem}. Everything keeps running, but no certificate is issued or renewed: "
                f"restore the Secret from a backup, or run kubectl wesher new-authority --mesh {mesh.name}"
            )
            return Certified(obstacle=Obstacle("AuthorityLost", message))
        if found is None:
            return Certified()
        candidates = sorted(candidates, key=lambda each: each.name)
        ledger = Ledger.of(self._world.config_maps.get(issued_config_map_name(mesh.name)))
        verdicts = authority.judge_all(
            candidates, ledger, found, known=authorities.known, others=outside, now=now
        )
        due = [each for each in candidates if verdicts[each.name].issue is not None]
        # The API server's time is as of its last reply, and this machine may have slept since.
        obstacle = await self._obstacle(now) if due or self._better_time(now) is not None else None
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
                await write_ledger(manifests.issued_config_map(mesh, ledger, mode))
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
            time=self._better_time(now),
        )

    async def report(self, certified: Certified, *, now: datetime) -> datetime | None:
        """Write the condition and the days left into each WesherNode; return when to go on.

        Raises:
            ClusterUnavailable: the API server does not answer.

        """
        written = 0
        time = certified.time or now
        for seen, verdict in certified.members:
            member = self._world.members.get(seen.name)
            # The report of one that has just been made comes with its first key.
            if member is None or member.uid != seen.uid or not member.status.public_key:
                continue
            if written == WRITES_A_RUN:
                return now
            if not member.spec.certificate:
                # It was signed, and its write was refused or left for the next run.
                verdict = replace(verdict, certificate=None)  # noqa: PLW2901
            written += await self._forget_admission(member, verdict)
            condition = authority.node_condition(verdict, certified.obstacle, time)
            days = authority.days_left(verdict.certificate, time)
            observed = [each.model_dump(by_alias=True) for each in member.status.conditions]
            wanted = _told(condition, member)
            (entry,) = carry_over([wanted], observed, now=now)
            if entry in observed and days == member.status.certificate_days:
                continue
            written += 1
            body = {
                "metadata": {"name": member.name, "uid": member.uid},
                "status": {"conditions": [entry], "certificateDays": days},
            }
            self._world.observe(
                WESHER_NODE, await self._cluster.apply(WESHER_NODE, body, subresource="status")
            )
        return authority.next_midnight(now) if certified.members and certified.time is None else None

    async def _forget_admission(self, member: MemberFacts, verdict: Verdict) -> int:
        """Remove the admission of a changed key that was certified; return the number of writes.

        It was for one change: the key may be stolen when the node has yet another one.
        """
        key = member.admitted_key
        if not key or key != member.status.public_key or verdict.reason or verdict.certificate is None:
            return 0
        body = await self._cluster.annotate(WESHER_NODE, member.name, {ADMIT_KEY_ANNOTATION: None})
        if body is not None:
            self._world.observe(WESHER_NODE, body)
        _log.info("changed key admitted", mesh=self._mesh, node=member.spec.node_name, key=key)
        return 1

    async def _make_secret(self, name: str) -> None:
        facts = self._world.keys.get(name)
        if facts is not None and (facts.authority is None or facts.authority.current is None):
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
                f"{weakness}, so the token of one agent may change the key of every node: "
                "no certificate is issued. Install the chart with rbac.nodeRestriction=true"
            )
            return Obstacle("NodeRestrictionOff", message)
        return authority.clock_obstacle(now, self._cluster.server_time())

    def _better_time(self, now: datetime) -> datetime | None:
        """Return the API server's time, if the operator's clock differs from it too much."""
        server = self._cluster.server_time()
        return server if server is not None and authority.clock_obstacle(now, server) is not None else None

    def _sign(
        self,
        found: Authority,
        chosen: Iterable[Candidate],
        candidates: Iterable[Candidate],
        verdicts: dict[str, Verdict],
        now: datetime,
    ) -> dict[str, dict[str, Any]]:
        """Sign, and say so in the verdicts; return what each node's spec says of it."""
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
            # Otherwise members would take it for an older one.
            own = max(serial + number, authority.announced(each.member, now) + 1, each.after + 1)
            certificate = found.issue(subject, serial=own)
            specs[each.node.name] = {
                "certificate": certificate.to_base64(),
                "serial": certificate.serial,
                "routes": [str(network) for network in each.networks],
            }
            renewal = authority.renewal(certificate)
            verdicts[each.name] = replace(verdicts[each.name], certificate=certificate, renewal=renewal)
            _log.info("certificate issued", mesh=self._mesh, node=each.node.name, serial=certificate.serial)
        return specs


def _authorities_of(mesh: MeshFacts) -> tuple[AuthorityKey, ...]:
    """Return the authorities that the mesh's status names, the newest first."""
    identity = mesh.status.get("identity") or {}
    found = []
    for field_name in ("authority", "formerAuthority"):
        with suppress(InvalidSpec):
            if text := str(identity.get(field_name) or ""):
                found.append(AuthorityKey.from_base64(text, field_name=field_name))
    return tuple(found)


def _told(condition: Condition, member: MemberFacts) -> Condition:
    message = printable(condition.message)[:MAX_MESSAGE]
    return replace(condition, message=message, observed_generation=member.generation)
