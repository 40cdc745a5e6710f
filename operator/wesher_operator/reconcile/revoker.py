"""Revokes certificates of one mesh: remembers, signs and assembles the news file.

Reads and writes what `revocations` and `news` decide about: ConfigMap ``<mesh>-revoked`` before
WesherNodes are deleted or certified, and the statement for the news file after it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from types import MappingProxyType

from wesher_common.certificate import EARLY_MS, Authority, AuthorityKey, name_hash
from wesher_common.event_logger import EventLogger
from wesher_common.names import (
    config_map_name,
    issued_config_map_name,
    member_name,
    out_label,
    revoked_config_map_name,
)
from wesher_common.news import NEWS_FILE, NewsKind, Statement, revocation_second
from wesher_operator.kube import CONFIG_MAP, Cluster, Object
from wesher_operator.reconcile import manifests, news
from wesher_operator.reconcile.allocation import name_of
from wesher_operator.reconcile.authority import (
    Candidate,
    Issued,
    Ledger,
    Verdict,
    clock_obstacle,
    incarnation_of,
)
from wesher_operator.reconcile.facts import MemberFacts, MeshFacts, PeerFacts
from wesher_operator.reconcile.invites import admission
from wesher_operator.reconcile.news import Item, NewsFile
from wesher_operator.reconcile.revocations import Present, Revocations, Revoked, added, void_items
from wesher_operator.reconcile.status import fresh
from wesher_operator.reconcile.world import World
from wesher_operator.resources.mesh import WesherMeshSpec

REPORTS_AWAITED = timedelta(minutes=15)
"""How long the first statement waits for a report, which comes within 7.5 minutes: after a restore from a
backup, agents may have a newer statement."""
LOOK_AGAIN = timedelta(seconds=30)
REVOKED = "Revoked"
"""Reason of the condition of a node that stays out."""
_log = EventLogger("wesher.mesh")


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known of a mesh's revocations in a run."""

    revocations: Revocations = field(default_factory=Revocations)
    published: Mapping[AuthorityKey, Statement] = field(default_factory=dict)
    """The statements in the news file."""
    newest: Mapping[AuthorityKey, Statement] = field(default_factory=dict)
    """The same, or those that agents report and that are newer."""
    can_sign: bool = False
    """Whether a statement may be signed in this run."""
    newly_barred: Sequence[str] = ()
    """Nodes that stay out from this run on."""

    @property
    def void(self) -> dict[bytes, int]:
        """Items of the newest statements, by name hash."""
        return void_items(*(statement.revoked for statement in self.newest.values()))

    def void_until(self, name: str, node: str) -> int:
        """Return the millisecond up to which a member's certificates are void; 0 if none is.

        Args:
            name: of the member.
            node: the same without ``clusterName``.

        """
        return self.revocations.void(self.void, name, node) * 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """What a run came to."""

    file: NewsFile
    number: int = 0
    """Of the statement of the mesh's own authority; 0 if there is none."""
    again: datetime | None = None
    """When to look again."""


class Revoker:
    """One mesh's revocations.

    Args:
        mesh: its name.
        world: what has been seen; what is written is taken in at once.
        cluster: where to read and write.

    """

    def __init__(self, mesh: str, world: World, cluster: Cluster) -> None:
        self._mesh = mesh
        self._world = world
        self._cluster = cluster
        self._began: datetime | None = None

    async def note(
        self,
        mesh: MeshFacts,
        spec: WesherMeshSpec,
        authorities: Sequence[AuthorityKey],
        members: Sequence[MemberFacts],
        write: Callable[[Object], Awaitable[None]],
        *,
        desired: Collection[str],
        leaving: Collection[str],
        outside: Mapping[str, PeerFacts] = MappingProxyType({}),
        now: datetime,
    ) -> Known:
        """Take in who left the mesh, is kept out of it or was revoked elsewhere, and remember it.

        Nothing is taken in while the clock is wrong: the next run does it.

        Args:
            mesh: whose.
            spec: of it.
            authorities: those that agents trust.
            members: its WesherNodes.
            write: brings a ConfigMap to what it is to say.
            desired: names of the nodes that belong to the mesh.
            leaving: names of the nodes that leave it now.
            outside: admitted machines outside Kubernetes, by member name.
            now: the time.

        Raises:
            ClusterUnavailable: the API server does not answer.
            InvalidSpec: it refuses the ConfigMap.

        """
        self._began = self._began or now
        moment = _milliseconds(now)
        known = self._known(mesh, authorities, members, moment)
        if not await self._is_clock_right(mesh, now):
            return known
        known = replace(known, can_sign=self._has_heard(members, now))
        before = known.revocations
        present = self._present(spec, members, desired, leaving, outside=outside, before=before)
        after = before.after(
            present,
            void_items(*(each.revoked for each in known.published.values())),
            second=_second(known, members, outside.values(), moment),
            taken=_taken(known, {*present.names, *present.issued}, spec.cluster_name),
        )
        if after == before:
            return known
        await write(manifests.revoked_config_map(mesh, after))
        names, nodes = added(before, after)
        for name in names:
            _log.info("certificate revoked", mesh=self._mesh, member=name)
        for node in nodes:
            _log.warning("node kept out of the mesh", mesh=self._mesh, node=node)
        return replace(known, revocations=after, newly_barred=nodes)

    def memory(self, mesh: MeshFacts) -> Revocations:
        """Return what was remembered of a mesh by the last run."""
        found = self._world.config_maps.get(revoked_config_map_name(mesh.name))
        return Revocations.of(found)

    def admissible(
        self, known: Known, candidates: Sequence[Candidate]
    ) -> tuple[list[Candidate], list[tuple[MemberFacts, Verdict]]]:
        """Return the nodes that may be certified, and the others with the reason.

        A certificate that is void counts as none.
        """
        may, barred = [], []
        for each in candidates:
            bar = known.revocations.barred.get(each.node.name)
            last = known.void_until(each.name, each.node.name)
            if bar is not None:
                barred.append((each.member, Verdict(reason=REVOKED, message=_barred_message(each, bar.node))))
                continue
            member = each.member
            if 0 < member.spec.serial <= last:
                spec = member.spec.model_copy(update={"certificate": "", "serial": 0})
                member = replace(member, spec=spec)
            may.append(replace(each, member=member, after=last))
        return may, barred

    def news(
        self,
        known: Known,
        spec: WesherMeshSpec,
        signers: Sequence[Authority],
        *,
        authorities: Sequence[AuthorityKey],
        more: Sequence[Item] = (),
        beside: int,
        now: datetime,
    ) -> Signed:
        """Return the news file, with a newly signed statement of each authority where one is due.

        Args:
            known: what `note` returned.
            spec: of the mesh.
            signers: the authorities that can sign now.
            authorities: those that agents trust, the mesh's own one first.
            more: the items of others.
            beside: bytes that mesh.json takes of the same ConfigMap.
            now: the time.

        """
        moment, again = _milliseconds(now), None
        items = known.revocations.items(lambda node: member_name(node, spec.cluster_name))
        statements = dict(known.newest)
        for authority in signers:
            before = statements.get(authority.key)
            # External machines that know only the former authority learn from it which one they may trust.
            successor = authorities[0] if authority.key != authorities[0] else None
            wanted = news.next_statement(authority, before, items, now=moment, successor=successor)
            if wanted == before:
                continue
            if known.can_sign:
                statements[authority.key] = wanted
                _log.info(
                    "revocations signed", mesh=self._mesh, number=wanted.number, names=len(wanted.revoked)
                )
            else:
                again = now + LOOK_AGAIN
        own = [statements[key] for key in authorities if key in statements]
        numbers = [statements[each.key].number for each in signers if each.key in statements]
        if again is None and numbers:
            again = now + timedelta(milliseconds=min(numbers) + news.SIGNED_AGAIN_MS - moment)
        parts = [(NewsKind.STATEMENT, each.packed()) for each in own]
        return Signed(
            file=news.news_file([*parts, *more], beside=beside),
            number=own[0].number if own else 0,
            again=again,
        )

    async def _is_clock_right(self, mesh: MeshFacts, now: datetime) -> bool:
        """Compare the clock with the API server's; ask for its time where the last answer differs.

        This machine may have slept since that answer.
        """
        if clock_obstacle(now, self._cluster.server_time()) is None:
            return True
        await self._cluster.get(CONFIG_MAP, revoked_config_map_name(mesh.name))
        return clock_obstacle(now, self._cluster.server_time()) is None

    def _known(
        self,
        mesh: MeshFacts,
        authorities: Sequence[AuthorityKey],
        members: Sequence[MemberFacts],
        moment: int,
    ) -> Known:
        config = self._world.config_maps.get(config_map_name(mesh.name))
        binary_data = (config.body.get("binaryData") or {}) if config is not None else {}
        items = news.published_items(binary_data, NEWS_FILE)
        published, newest = {}, {}
        for key in authorities:
            found = news.statement_of(key, items)
            if found is not None:
                published[key] = newest[key] = found
            above = found.number if found is not None else 0
            reported = news.reported_statement(key, members, above=above, now=moment)
            if reported is not None:
                newest[key] = reported
        return Known(revocations=self.memory(mesh), published=published, newest=newest)

    def _present(
        self,
        spec: WesherMeshSpec,
        members: Sequence[MemberFacts],
        desired: Collection[str],
        leaving: Collection[str],
        *,
        outside: Mapping[str, PeerFacts],
        before: Revocations,
    ) -> Present:
        nodes, label = self._world.nodes, out_label(self._mesh)
        staying = [member for member in members if member.spec.node_name not in leaving]
        ledger = Ledger.of(self._world.config_maps.get(issued_config_map_name(self._mesh)))
        names = {name_of(spec, nodes[node]) for node in desired}
        admitted = {
            name
            for name, peer in outside.items()
            if not _is_made_again(peer, ledger.entries.get(name), before.names.get(name))
        }
        return Present(
            names={*names, *admitted, *(name_of(spec, member) for member in staying)},
            incarnations={
                incarnation_of(member, nodes[member.spec.node_name])
                for member in staying
                if member.spec.node_name in nodes
            }
            | {admission(peer) for peer in outside.values()},
            issued={name: entry.incarnation for name, entry in ledger.entries.items()},
            nodes={name: (node.uid, label in node.labels) for name, node in nodes.items()},
            admitted={
                member.spec.node_name
                for member in staying
                if member.admitted_key and member.admitted_key == member.status.public_key
            }
            | {peer.machine for peer in outside.values() if _is_readmitted(peer, before)},
        )

    def _has_heard(self, members: Sequence[MemberFacts], now: datetime) -> bool:
        """Tell whether an agent would have reported a newer statement than the published one by now."""
        waited = self._began is not None and now - self._began >= REPORTS_AWAITED
        return waited or bool(fresh(members, now=now)) or not any(each.reported_at for each in members)


def _milliseconds(now: datetime) -> int:
    return round(now.timestamp() * 1000)


def _is_made_again(peer: PeerFacts, issued: Issued | None, revoked: Revoked | None) -> bool:
    """Tell whether a WesherPeer was deleted and created again, and the former one is not revoked yet.

    The operator sees only the new one if it was away, or if both happen between two runs.
    """
    if issued is None or peer.status.certificate or issued.incarnation == admission(peer):
        return False
    return revoked is None or peer.created_at is None or revoked.second < peer.created_at.timestamp()


def _is_readmitted(peer: PeerFacts, before: Revocations) -> bool:
    """Tell whether a WesherPeer was created after its machine was barred."""
    bar = before.barred.get(peer.machine)
    return bar is not None and peer.created_at is not None and peer.created_at.timestamp() > bar.second


def _second(known: Known, members: Iterable[MemberFacts], outside: Iterable[PeerFacts], moment: int) -> int:
    """Return the second up to which certificates are void that are revoked now: no earlier one is later."""
    issued = [*(each.spec.serial for each in members), *(peer.status.serial for peer in outside)]
    serials = (serial for serial in issued if serial <= moment + EARLY_MS)
    numbers = (each.number for each in known.newest.values())
    return revocation_second(max([moment, *serials, *numbers]))


def _taken(known: Known, names: Collection[str], cluster_name: str) -> dict[str, int]:
    """Return the nodes that a statement names which this operator did not sign, with their seconds."""
    suffix = f".{cluster_name}" if cluster_name else ""
    taken = {}
    for key, statement in known.newest.items():
        published = known.published.get(key)
        if statement is published:
            continue
        before = published.revoked if published is not None else {}
        for name in names:
            hashed, node = name_hash(name), name.removesuffix(suffix)
            second = statement.revoked.get(hashed, 0)
            if second > known.revocations.void(before, name, node):
                taken[node] = second
    return taken


def _barred_message(candidate: Candidate, node: str) -> str:
    name, mesh = candidate.node.name, candidate.member.spec.mesh_ref.name
    why = (
        "it was revoked, and its Node was deleted and registered again since"
        if node
        else "it was revoked by a statement that this operator did not sign"
    )
    key = candidate.member.status.public_key or "KEY"
    return f"{why}: to let it in again, run kubectl wesher admit {name} --key {key} --mesh {mesh}"
